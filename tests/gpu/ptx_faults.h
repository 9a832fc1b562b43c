/* ptx_faults: what the kernels of ptx_faults.cu take. */
#ifndef SPIN_TESTS_GPU_PTX_FAULTS_H
#define SPIN_TESTS_GPU_PTX_FAULTS_H

struct fault {
    unsigned *to;                     /* n */
    const unsigned *from, *unwritten; /* n */
    unsigned n, wrong;
};

#endif
