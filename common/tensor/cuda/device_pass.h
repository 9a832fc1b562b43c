/* device_pass: the work that a pass asks for is written down instead of done, and done at its end:
 * as one launch of a graph, when it is the same as the last time with this key but for what the
 * host puts there; else call by call. So who repeats a pass need not know what a graph is, and
 * nobody has to say what changes: it is seen. What the host puts to the device goes through pinned
 * memory at places that depend on the calls alone, where the graph finds it.
 *
 * Everything that must not wait (memory that is freed, results that are read) ends the holding back
 * for the rest of the pass. The calls of device.h that do work are defined here, over those below,
 * which each kind of device has. */
#ifndef SPIN_TENSOR_CUDA_DEVICE_PASS_H
#define SPIN_TENSOR_CUDA_DEVICE_PASS_H

#include "common/tensor/cuda/device.h"

#define DEVICE_PASS_PUT_BYTES ((size_t)4 << 20) /* that the host puts in a pass */
#define DEVICE_PASSES DEVICE_GRAPHS             /* that are remembered */

struct device_passes; /* one device's */

struct device_passes *device_passes_new(void);
void device_passes_free(struct device *d); /* before memory is looked at for the last time */

/* --- what a device has --- */

struct device_passes *device_passes_of(struct device *d);
void device_do_launch(struct device *d, const void *kernel, struct device_grid blocks,
                      struct device_grid threads, size_t shared_bytes, const void *args);
void device_do_copy(struct device *d, void *to, const void *from, size_t bytes);
void device_do_zero(struct device *d, void *memory, size_t bytes);
void device_do_put(struct device *d, void *to, const void *from_host, size_t bytes);
void device_do_get(struct device *d, void *to_host, const void *from, size_t bytes);
void device_do_wait(struct device *d);
void *device_do_alloc(struct device *d, size_t bytes);
void device_do_free(struct device *d, void *memory);
bool device_do_product(struct device *d, const struct device_product *product);
/* Whether there is an algorithm; it is chosen now if it wasn't. */
bool device_can_product(struct device *d, const struct device_product *product);
/* Pinned memory of the host. NULL: none. */
void *device_pinned_alloc(struct device *d, size_t bytes);
void device_pinned_free(struct device *d, void *memory); /* NULL is fine */
/* From pinned memory; may be recorded: it is read when the work is done. */
void device_do_put_pinned(struct device *d, void *to, const void *from_pinned, size_t bytes);

#endif
