#include "common/base/mem.h"
#include "common/checkpoint/array_internal.h"

void ckpt_scratch_deinit(struct ckpt_scratch *scratch)
{
    sp_free_block(scratch->data);
    *scratch = (struct ckpt_scratch){0};
}

enum sp_err ckpt_array_count(const struct ckpt_array *array, size_t *ret, struct sp_error *err)
{
    size_t count = 1;
    if (array->dims < 0 || array->dims > SP_MAX_TENSOR_DIMS)
        return sp_fail(err, SP_EINVAL, "tensor %s: %d dimensions", array->name, array->dims);
    for (int32_t i = 0; i < array->dims; i++)
        if (array->shape[i] < 0 || !sp_mul_size(count, (size_t)array->shape[i], &count))
            return sp_fail(err, SP_EINVAL, "tensor %s: bad shape", array->name);
    *ret = count;
    return SP_OK;
}

enum sp_err ckpt_array_numbers(const struct ckpt_array *array, size_t count,
                               struct ckpt_scratch *scratch, const float **ret,
                               struct sp_error *err)
{
    if (array->fill == NULL) {
        *ret = array->data;
        return SP_OK;
    }
    if (count > scratch->count) {
        ckpt_scratch_deinit(scratch);
        scratch->data = sp_alloc_block(count, sizeof(*scratch->data));
        if (scratch->data == NULL)
            return sp_fail(err, SP_ENOMEM, "tensor %s: no memory for %zu elements", array->name,
                           count);
        scratch->count = count;
    }
    enum sp_err rc = array->fill(array->fill_context, array, scratch->data, err);
    if (rc != SP_OK)
        return sp_wrap(err, rc, "tensor %s", array->name);
    *ret = scratch->data;
    return SP_OK;
}
