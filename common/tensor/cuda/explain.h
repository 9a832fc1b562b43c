/* explain: what keeps a device from being opened, in words with a remedy. Knows no CUDA, so that
 * every case is tested on any machine. */
#ifndef SPIN_TENSOR_CUDA_EXPLAIN_H
#define SPIN_TENSOR_CUDA_EXPLAIN_H

#include "common/base/err.h"

enum cuda_trouble_code {
    CUDA_NO_MEMORY,
    CUDA_NO_DEVICE,
    CUDA_OLD_DRIVER, /* or none */
    CUDA_NO_KERNELS,
    CUDA_OTHER,
};

struct cuda_trouble {
    enum cuda_trouble_code code;
    int driver, runtime; /* versions as CUDA has them, 13000; driver 0: none is installed */
    const char *device;  /* its name; NULL: not known */
    const char *text;    /* CUDA's own words */
};

enum sp_err cuda_explain(const struct cuda_trouble *trouble, struct sp_error *err);

#endif
