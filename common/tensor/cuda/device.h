/* device: one NVIDIA device with its memory, one stream of work and the products of cublasLt: all
 * that this folder asks of CUDA. tests/gpu/emulate.c is another implementation, on the host.
 *
 * Calls return at once and are done in order; device_get and device_wait wait. A failure of the
 * device after it was opened (a fault of memory, a kernel that was stopped) can't be mended by the
 * process: it is written to standard error and the process aborts, and its daemon starts again.
 * One thread. */
#ifndef SPIN_TENSOR_CUDA_DEVICE_H
#define SPIN_TENSOR_CUDA_DEVICE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/base/err.h"

struct device;

struct device_info {
    char name[96];    /* "NVIDIA H100 80GB HBM3" */
    int arch;         /* 90 for sm_90 */
    char library[64]; /* what products depend on: "cublasLt 13.0.2" */
    size_t memory_bytes, free_bytes;
};

/* The first device that CUDA_VISIBLE_DEVICES leaves. SP_EUNSUPPORTED: no driver, an old one, no
 * device, one that the kernels were not built for; SP_ENOMEM: its memory is taken. */
enum sp_err device_open(struct device **ret, struct sp_error *err) SP_MUST_USE;
void device_close(struct device *device); /* NULL is fine */
/* What the device is, without taking its memory. */
enum sp_err device_describe(struct device_info *ret, struct sp_error *err) SP_MUST_USE;

/* How full the device is, and how busy (as the driver's tools say it; NaN where they are missing).
 * Any thread. */
struct device_usage {
    uint64_t memory_free, memory_total;
    uint64_t own, own_peak; /* bytes of device_alloc, now and at most since device_open */
    double busy;
};
void device_usage(struct device *device, struct device_usage *ret);
/* The peak is what it was before memory that was had for a moment. */
void device_set_peak(struct device *device, uint64_t own_peak);

void *device_alloc(struct device *device, size_t bytes); /* zeroed; NULL: no memory */
void device_free(struct device *device, void *memory);   /* NULL is fine; forgets graphs */
/* Pinned memory of the host, zeroed, which kernels read and write where it lies, at the same
 * address; the copies below take it for the device's. NULL: no memory. */
void *device_host_alloc(struct device *device, size_t bytes);
void device_host_free(struct device *device, void *memory);           /* NULL is fine */
bool device_is_host(const struct device *device, const void *memory); /* it is of the above */
/* The host's memory may be used again when these return. */
void device_put(struct device *device, void *to, const void *from_host, size_t bytes);
void device_get(struct device *device, void *to_host, const void *from, size_t bytes);
void device_copy(struct device *device, void *to, const void *from, size_t bytes);
void device_zero(struct device *device, void *memory, size_t bytes);
void device_wait(struct device *device);

/* One of the handles of kernels.h; `args` is its struct, copied. Nothing is done for a grid of 0.
 */
struct device_grid {
    size_t x, y;
};
void device_launch(struct device *device, const void *kernel, struct device_grid blocks,
                   struct device_grid threads, const void *args);
/* The same with so much shared memory for each block beside what the kernel declares, at most
 * DEVICE_SHARED_BYTES (what every device that we build for has, sm_86 and sm_89 the least). */
#define DEVICE_SHARED_BYTES (99 * 1024)
void device_launch_shared(struct device *device, const void *kernel, struct device_grid blocks,
                          struct device_grid threads, size_t shared_bytes, const void *args);

/* C(M,N) = A·B, or what is `added` to it + A·B, by cublasLt; bf16 factors, fp32 sums, C and what is
 * added in fp32 or bf16 (which is widened, and the sum rounded once). A is (M,K), or (K,M) when
 * transposed; B is (K,N), or (N,K); never both transposed. Row-major, without gaps between rows.
 *
 * Unless A is transposed the bits of a row of C depend on that row, on what is added to it, on B
 * and on whether C itself is added to, not on M: no algorithm splits k, and those for other numbers
 * of rows were seen to give the same bits on this device (device_trials.c). Products with A
 * transposed (weights' gradients, sums over rows) have the same bits for the same M, N and K. The
 * first product of a shape of weights chooses algorithms, in memory that it takes for a while, and
 * waits for the device. false: cublasLt has no algorithm for the shape, or an address lies at no
 * multiple of what its rows do (16 bytes at most). */
struct device_product {
    void *c;
    const void *a, *b;
    const void *added; /* NULL: nothing; C, to add to it; or as large as C, and nowhere in it */
    int32_t M, N, K;
    bool a_transposed, b_transposed, c_bf16;
};
bool device_product(struct device *device, const struct device_product *product);
/* Whether a row's bits may depend on the number of rows: splitting k is allowed then. For shapes
 * that were not multiplied yet; false at first. */
void device_row_variant(struct device *device, bool allowed);

/* --- work that is recorded once and done again and again ---
 *
 * Between device_record and device_recorded launches, copies on the device, zeroing and products
 * are not done but kept, with their arguments, under a key. Nothing else may be asked of the device
 * then: no memory, no copies from or to the host, no wait, and no product of a shape that was not
 * multiplied before. Work that a graph holds reads and writes the addresses that it was recorded
 * with; so every graph is forgotten when memory is freed. At most DEVICE_GRAPHS are kept; the one
 * that was not used for longest goes first. */
#define DEVICE_GRAPHS 64
bool device_record(struct device *device, uint64_t key); /* false: do the work without it */
bool device_recorded(struct device *device);             /* false: nothing was kept */
/* false: there is none of this key, or no memory for it, and then it is forgotten */
bool device_replay(struct device *device, uint64_t key);
void device_forget_graph(struct device *device, uint64_t key);
void device_forget_graphs(struct device *device);

/* --- passes: see device_pass.h --- */

void device_pass_begin(struct device *device, uint64_t key);
void device_pass_end(struct device *device);
void device_hold_passes(struct device *device,
                        bool held); /* false: work of passes is not held back */
/* How passes were done so far: by a graph, call by call, in part before their end. */
struct device_pass_counts {
    uint64_t repeated, issued, broken;
};
struct device_pass_counts device_pass_counts(struct device *device);

#endif
