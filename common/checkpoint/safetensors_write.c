#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/base/fs.h"
#include "common/base/buf.h"
#include "common/base/half.h"
#include "common/base/json.h"
#include "common/base/mem.h"
#include "common/checkpoint/array_internal.h"
#include "common/checkpoint/safetensors.h"

#define DATA_ALIGN 64
/* Elements converted and written at once. */
#define BLOCK_ELEMENTS ((size_t)1 << 18)

static int by_name(const void *a, const void *b)
{
    const struct ckpt_array *const *x = a, *const *y = b;
    return strcmp((*x)->name, (*y)->name);
}

static enum sp_err array_bytes(const struct ckpt_array *array, enum ckpt_dtype dtype,
                               size_t *ret_count, size_t *ret_bytes, struct sp_error *err)
{
    size_t count = 0, bytes;
    enum sp_err rc = ckpt_array_count(array, &count, err);
    if (rc != SP_OK)
        return rc;
    if (!sp_mul_size(count, ckpt_dtype_bytes(dtype), &bytes))
        return sp_fail(err, SP_EINVAL, "tensor %s: its size overflows", array->name);
    *ret_count = count;
    *ret_bytes = bytes;
    return SP_OK;
}

static json_t *tensor_entry(const struct ckpt_array *array, enum ckpt_dtype dtype, size_t begin,
                            size_t end)
{
    json_t *shape = json_array();
    for (int32_t i = 0; i < array->dims; i++)
        json_array_append_new(shape, json_integer(array->shape[i]));
    return json_pack("{s:s, s:o, s:[I, I]}", "dtype", ckpt_dtype_name(dtype), "shape", shape,
                     "data_offsets", (json_int_t)begin, (json_int_t)end);
}

/* Length prefix and JSON, padded with spaces (the format allows them) up to the data's alignment.
 */
static enum sp_err make_header(const struct ckpt_array **sorted, size_t count,
                               enum ckpt_dtype dtype, const struct ckpt_meta *meta,
                               size_t meta_count, struct sp_buf *out, struct sp_error *err)
{
    enum sp_err rc = SP_OK;
    json_t *root = json_object();
    char *text = NULL;
    if (meta_count > 0) {
        json_t *object = json_object();
        json_object_set_new(root, "__metadata__", object);
        for (size_t i = 0; i < meta_count; i++)
            if (json_object_set_new(object, meta[i].key, json_string(meta[i].value)) != 0)
                rc = sp_fail(err, SP_EINVAL, "metadata %s: not valid UTF-8", meta[i].key);
    }
    size_t place = 0;
    for (size_t i = 0; rc == SP_OK && i < count; i++) {
        size_t elements = 0, bytes = 0, end;
        rc = array_bytes(sorted[i], dtype, &elements, &bytes, err);
        if (rc != SP_OK)
            break;
        if (i > 0 && strcmp(sorted[i]->name, sorted[i - 1]->name) == 0)
            rc = sp_fail(err, SP_EINVAL, "tensor %s: given twice", sorted[i]->name);
        else if (!sp_add_size(place, bytes, &end) || end > INT64_MAX)
            rc = sp_fail(err, SP_EINVAL, "the tensors' total size overflows");
        else if (json_object_set_new(root, sorted[i]->name,
                                     tensor_entry(sorted[i], dtype, place, end)) != 0)
            rc = sp_fail(err, SP_EINVAL, "tensor name is not valid UTF-8");
        else
            place = end;
    }
    if (rc != SP_OK)
        goto out;
    text = sp_json_canonical(root);
    size_t length = strlen(text);
    size_t padded = (8 + length + DATA_ALIGN - 1) / DATA_ALIGN * DATA_ALIGN - 8;
    sp_buf_put_u64(out, padded);
    sp_buf_append(out, text, length);
    while (length++ < padded)
        sp_buf_putc(out, ' ');
out:
    free(text);
    json_decref(root);
    return rc;
}

static enum sp_err write_data(int fd, const char *path, const float *data, size_t count,
                              enum ckpt_dtype dtype, uint16_t *block, struct sp_error *err)
{
    if (dtype == CKPT_F32)
        return sp_write_all(fd, path, data, count * sizeof(*data), err);
    for (size_t i = 0; i < count;) {
        size_t n = SP_MIN(count - i, BLOCK_ELEMENTS);
        if (dtype == CKPT_BF16)
            sp_f32_row_to_bf16(block, data + i, n);
        else
            sp_f32_row_to_f16(block, data + i, n);
        enum sp_err rc = sp_write_all(fd, path, block, n * sizeof(*block), err);
        if (rc != SP_OK)
            return rc;
        i += n;
    }
    return SP_OK;
}

enum sp_err ckpt_st_write(const char *path, const struct ckpt_array *arrays, size_t count,
                          enum ckpt_dtype dtype, const struct ckpt_meta *meta, size_t meta_count,
                          struct sp_error *err)
{
    if (dtype != CKPT_F32 && dtype != CKPT_F16 && dtype != CKPT_BF16)
        return sp_fail(err, SP_EINVAL, "%s: cannot store %s (F32, F16 or BF16)", path,
                       ckpt_dtype_name(dtype));
    struct sp_buf header = SP_BUF_INIT;
    struct ckpt_scratch scratch = {0};
    uint16_t *block = sp_xarray(BLOCK_ELEMENTS, sizeof(*block));
    const struct ckpt_array **sorted = sp_xarray(count, sizeof(*sorted));
    int fd = -1;
    for (size_t i = 0; i < count; i++)
        sorted[i] = &arrays[i];
    if (count > 0)
        qsort(sorted, count, sizeof(*sorted), by_name);
    enum sp_err rc = make_header(sorted, count, dtype, meta, meta_count, &header, err);
    if (rc != SP_OK) {
        rc = sp_wrap(err, rc, "%s", path);
        goto out;
    }
    fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    if (fd < 0) {
        rc = sp_fail_errno(err, errno, "%s", path);
        goto out;
    }
    rc = sp_write_all(fd, path, header.data, header.length, err);
    for (size_t i = 0; rc == SP_OK && i < count; i++) {
        size_t elements = 0, bytes = 0;
        const float *numbers = NULL;
        rc = array_bytes(sorted[i], dtype, &elements, &bytes, err);
        if (rc == SP_OK)
            rc = ckpt_array_numbers(sorted[i], elements, &scratch, &numbers, err);
        if (rc == SP_OK)
            rc = write_data(fd, path, numbers, elements, dtype, block, err);
    }
    if (rc == SP_OK && fsync(fd) != 0)
        rc = sp_fail_errno(err, errno, "%s: fsync", path);
    if (close(fd) != 0 && rc == SP_OK)
        rc = sp_fail_errno(err, errno, "%s: close", path);
    if (rc != SP_OK)
        unlink(path);
out:
    ckpt_scratch_deinit(&scratch);
    free(sorted);
    free(block);
    sp_buf_deinit(&header);
    return rc;
}
