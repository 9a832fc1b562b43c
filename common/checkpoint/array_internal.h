/* array_internal: what the writers of weight files share. Not for other folders. */
#ifndef SPIN_CHECKPOINT_ARRAY_INTERNAL_H
#define SPIN_CHECKPOINT_ARRAY_INTERNAL_H

#include "common/checkpoint/safetensors.h"

/* Memory for one array at a time; grows to the largest. */
struct ckpt_scratch {
    float *data;
    size_t count;
};
void ckpt_scratch_deinit(struct ckpt_scratch *scratch);

/* Elements of an array; SP_EINVAL for a shape that is none. */
enum sp_err ckpt_array_count(const struct ckpt_array *array, size_t *ret,
                             struct sp_error *err) SP_MUST_USE;
/* Its numbers: its own, or the scratch's, filled; borrowed until the next call. */
enum sp_err ckpt_array_numbers(const struct ckpt_array *array, size_t count,
                               struct ckpt_scratch *scratch, const float **ret,
                               struct sp_error *err) SP_MUST_USE;

#endif
