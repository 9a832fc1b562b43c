/* Writing a GGUF file. The metadata and the tensors' descriptions are made in memory, the numbers
 * are streamed. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/base/fs.h"
#include "common/base/mem.h"
#include "common/checkpoint/array_internal.h"
#include "common/checkpoint/gguf_internal.h"

/* Elements converted and written at once; a multiple of every block. */
#define CHUNK_ELEMENTS ((size_t)1 << 18)

/* ---- metadata ---- */

void ckpt_gguf_meta_deinit(struct ckpt_gguf_meta *meta)
{
    sp_buf_deinit(&meta->bytes);
    meta->count = 0;
}

static void put_string(struct sp_buf *to, const char *text, size_t length)
{
    sp_buf_put_u64(to, length);
    sp_buf_append(to, text, length);
}

static struct sp_buf *begin(struct ckpt_gguf_meta *meta, const char *key, enum gguf_value type)
{
    meta->count++;
    put_string(&meta->bytes, key, strlen(key));
    sp_buf_put_u32(&meta->bytes, type);
    return &meta->bytes;
}

static struct sp_buf *begin_array(struct ckpt_gguf_meta *meta, const char *key,
                                  enum gguf_value type, size_t count)
{
    struct sp_buf *to = begin(meta, key, GGUF_ARRAY);
    sp_buf_put_u32(to, type);
    sp_buf_put_u64(to, count);
    return to;
}

static void put_f32(struct sp_buf *to, float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof(bits));
    sp_buf_put_u32(to, bits);
}

void ckpt_gguf_put_u32(struct ckpt_gguf_meta *meta, const char *key, uint32_t value)
{
    sp_buf_put_u32(begin(meta, key, GGUF_U32), value);
}

void ckpt_gguf_put_f32(struct ckpt_gguf_meta *meta, const char *key, float value)
{
    put_f32(begin(meta, key, GGUF_F32), value);
}

void ckpt_gguf_put_bool(struct ckpt_gguf_meta *meta, const char *key, bool value)
{
    sp_buf_putc(begin(meta, key, GGUF_BOOL), value ? 1 : 0);
}

void ckpt_gguf_put_text(struct ckpt_gguf_meta *meta, const char *key, const char *value)
{
    put_string(begin(meta, key, GGUF_STRING), value, strlen(value));
}

void ckpt_gguf_put_texts(struct ckpt_gguf_meta *meta, const char *key,
                         const struct ckpt_gguf_text *values, size_t count)
{
    struct sp_buf *to = begin_array(meta, key, GGUF_STRING, count);
    for (size_t i = 0; i < count; i++)
        put_string(to, values[i].data, values[i].length);
}

void ckpt_gguf_put_i32s(struct ckpt_gguf_meta *meta, const char *key, const int32_t *values,
                        size_t count)
{
    struct sp_buf *to = begin_array(meta, key, GGUF_I32, count);
    for (size_t i = 0; i < count; i++)
        sp_buf_put_u32(to, (uint32_t)values[i]);
}

void ckpt_gguf_put_f32s(struct ckpt_gguf_meta *meta, const char *key, const float *values,
                        size_t count)
{
    struct sp_buf *to = begin_array(meta, key, GGUF_F32, count);
    for (size_t i = 0; i < count; i++)
        put_f32(to, values[i]);
}

/* ---- tensors ---- */

static void pad(struct sp_buf *to)
{
    while (to->length % GGUF_DEFAULT_ALIGNMENT != 0)
        sp_buf_putc(to, 0);
}

/* Adds one description and moves *place behind the tensor's bytes, padded. */
static enum sp_err describe(const struct ckpt_array *array, enum ckpt_gguf_type type,
                            uint64_t *place, struct sp_buf *to, struct sp_error *err)
{
    size_t count = 0, bytes = 0, end = 0, elements = ckpt_gguf_block_elements(type);
    enum sp_err rc = ckpt_array_count(array, &count, err);
    if (rc != SP_OK)
        return rc;
    if (array->dims < 1 || array->dims > 4 || count == 0)
        return sp_fail(err, SP_EUNSUPPORTED,
                       "tensor %s: %d dimensions and %zu elements; GGUF has "
                       "1 to 4 dimensions and no empty tensors",
                       array->name, array->dims, count);
    if (array->shape[array->dims - 1] % (int64_t)elements != 0)
        return sp_fail(err, SP_EINVAL, "tensor %s: rows of %lld elements, %s has blocks of %zu",
                       array->name, (long long)array->shape[array->dims - 1],
                       ckpt_gguf_type_name(type), elements);
    if (!sp_mul_size(count / elements, ckpt_gguf_block_bytes(type), &bytes) ||
        !sp_add_size(bytes, (size_t)*place + GGUF_DEFAULT_ALIGNMENT, &end))
        return sp_fail(err, SP_EINVAL, "tensor %s: the tensors' total size overflows", array->name);
    put_string(to, array->name, strlen(array->name));
    sp_buf_put_u32(to, (uint32_t)array->dims);
    for (int32_t i = array->dims - 1; i >= 0; i--)
        sp_buf_put_u64(to, (uint64_t)array->shape[i]);
    sp_buf_put_u32(to, type);
    sp_buf_put_u64(to, *place);
    *place += bytes;
    *place += (GGUF_DEFAULT_ALIGNMENT - *place % GGUF_DEFAULT_ALIGNMENT) % GGUF_DEFAULT_ALIGNMENT;
    return SP_OK;
}

static enum sp_err write_numbers(int fd, const char *path, const struct ckpt_array *array,
                                 enum ckpt_gguf_type type, struct ckpt_scratch *scratch,
                                 struct sp_buf *block, struct sp_error *err)
{
    size_t count = 0, elements = ckpt_gguf_block_elements(type), written = 0;
    const float *numbers = NULL;
    enum sp_err rc = ckpt_array_count(array, &count, err);
    if (rc == SP_OK)
        rc = ckpt_array_numbers(array, count, scratch, &numbers, err);
    for (size_t i = 0; rc == SP_OK && i < count;) {
        size_t n = SP_MIN(count - i, CHUNK_ELEMENTS);
        sp_buf_clear(block);
        sp_buf_reserve(block, n / elements * ckpt_gguf_block_bytes(type) + GGUF_DEFAULT_ALIGNMENT);
        ckpt_gguf_from_f32(type, numbers + i, n / elements, (uint8_t *)block->data);
        block->length = n / elements * ckpt_gguf_block_bytes(type);
        i += n;
        written += block->length;
        if (i == count)
            for (; written % GGUF_DEFAULT_ALIGNMENT != 0; written++)
                sp_buf_putc(block, 0);
        rc = sp_write_all(fd, path, block->data, block->length, err);
    }
    return rc;
}

static enum sp_err write_file(int fd, const char *path, const struct ckpt_gguf_meta *meta,
                              const struct ckpt_array *arrays, const enum ckpt_gguf_type *types,
                              size_t count, struct sp_error *err)
{
    struct sp_buf head = SP_BUF_INIT, block = SP_BUF_INIT;
    struct ckpt_scratch scratch = {0};
    uint64_t place = 0;
    sp_buf_puts(&head, "GGUF");
    sp_buf_put_u32(&head, GGUF_VERSION);
    sp_buf_put_u64(&head, count);
    sp_buf_put_u64(&head, meta->count);
    sp_buf_append(&head, meta->bytes.data, meta->bytes.length);
    enum sp_err rc = SP_OK;
    for (size_t i = 0; rc == SP_OK && i < count; i++)
        rc = describe(&arrays[i], types[i], &place, &head, err);
    pad(&head);
    if (rc == SP_OK)
        rc = sp_write_all(fd, path, head.data, head.length, err);
    for (size_t i = 0; rc == SP_OK && i < count; i++)
        rc = write_numbers(fd, path, &arrays[i], types[i], &scratch, &block, err);
    if (rc == SP_OK && fsync(fd) != 0)
        rc = sp_fail_errno(err, errno, "%s: fsync", path);
    ckpt_scratch_deinit(&scratch);
    sp_buf_deinit(&head);
    sp_buf_deinit(&block);
    return rc;
}

enum sp_err ckpt_gguf_write(const char *path, const struct ckpt_gguf_meta *meta,
                            const struct ckpt_array *arrays, const enum ckpt_gguf_type *types,
                            size_t count, struct sp_error *err)
{
    if (sp_path_exists(path))
        return sp_fail(err, SP_EEXIST, "%s: it exists already; choose another name or remove it",
                       path);
    char *temporary;
    int fd;
    enum sp_err rc = sp_create_temporary(path, 0666, &temporary, &fd, err);
    if (rc != SP_OK)
        return rc;
    rc = write_file(fd, path, meta, arrays, types, count, err);
    if (close(fd) != 0 && rc == SP_OK)
        rc = sp_fail_errno(err, errno, "%s: close", path);
    if (rc == SP_OK)
        rc = sp_rename_durable(temporary, path, err);
    if (rc != SP_OK)
        unlink(temporary);
    free(temporary);
    return rc;
}
