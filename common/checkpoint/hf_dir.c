#include "common/checkpoint/hf_dir.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/buf.h"
#include "common/base/fs.h"
#include "common/base/half.h"
#include "common/base/mem.h"
#include "common/checkpoint/hf_internal.h"

struct alias {
    const char *name;
    const struct ckpt_tensor *tensor;
};

struct ckpt {
    char *dir;
    struct ckpt_st **shards;
    size_t shard_count;
    const struct ckpt_tensor **tensors; /* of all shards, sorted by name */
    size_t count;
    struct alias *aliases;
    size_t alias_count;
};

static int by_name(const void *a, const void *b)
{
    const struct ckpt_tensor *const *x = a, *const *y = b;
    return strcmp((*x)->name, (*y)->name);
}

static const struct ckpt_tensor *find_stored(const struct ckpt *ckpt, const char *name)
{
    struct ckpt_tensor key = {.name = name};
    const struct ckpt_tensor *pointer = &key;
    const struct ckpt_tensor **found =
        bsearch(&pointer, ckpt->tensors, ckpt->count, sizeof(pointer), by_name);
    return found != NULL ? *found : NULL;
}

static enum sp_err merge_shards(struct ckpt *ckpt, struct sp_error *err)
{
    size_t total = 0;
    for (size_t i = 0; i < ckpt->shard_count; i++)
        total += ckpt_st_count(ckpt->shards[i]);
    if (total > SP_MAX_TENSORS)
        return sp_fail(err, SP_ELIMIT, "%zu tensors, the limit is %d", total, SP_MAX_TENSORS);
    ckpt->tensors = sp_xarray(total, sizeof(*ckpt->tensors));
    for (size_t i = 0; i < ckpt->shard_count; i++)
        for (size_t k = 0; k < ckpt_st_count(ckpt->shards[i]); k++)
            ckpt->tensors[ckpt->count++] = ckpt_st_at(ckpt->shards[i], k);
    if (total > 0)
        qsort(ckpt->tensors, ckpt->count, sizeof(*ckpt->tensors), by_name);
    for (size_t i = 1; i < ckpt->count; i++)
        if (strcmp(ckpt->tensors[i - 1]->name, ckpt->tensors[i]->name) == 0)
            return sp_fail(err, SP_EFORMAT, "tensor %.200s: stored in two shards",
                           ckpt->tensors[i]->name);
    return SP_OK;
}

/* An entry "a": "b" of the metadata counts where exactly one of both is stored. */
static void collect_aliases(struct ckpt *ckpt)
{
    size_t total = 0;
    for (size_t i = 0; i < ckpt->shard_count; i++)
        total += ckpt_st_meta_count(ckpt->shards[i]);
    ckpt->aliases = sp_xarray(total, sizeof(*ckpt->aliases));
    for (size_t i = 0; i < ckpt->shard_count; i++) {
        for (size_t k = 0; k < ckpt_st_meta_count(ckpt->shards[i]); k++) {
            struct ckpt_meta meta = ckpt_st_meta_at(ckpt->shards[i], k);
            const struct ckpt_tensor *a = find_stored(ckpt, meta.key);
            const struct ckpt_tensor *b = find_stored(ckpt, meta.value);
            if (a == NULL && b != NULL)
                ckpt->aliases[ckpt->alias_count++] = (struct alias){meta.key, b};
            else if (a != NULL && b == NULL)
                ckpt->aliases[ckpt->alias_count++] = (struct alias){meta.value, a};
        }
    }
}

/* What the index promises must be there, or a missing shard would show up as a missing tensor. */
static enum sp_err check_index(const struct ckpt *ckpt, const json_t *map, struct sp_error *err)
{
    const char *tensor;
    json_t *file;
    json_object_foreach((json_t *)(uintptr_t)map, tensor, file)
    {
        if (find_stored(ckpt, tensor) == NULL)
            return sp_fail(err, SP_EFORMAT,
                           CKPT_INDEX_FILE ": tensor %.200s is not in any shard (%.200s)", tensor,
                           json_string_value(file));
    }
    return SP_OK;
}

enum sp_err ckpt_open(const char *dir, struct ckpt **ret, struct sp_error *err)
{
    struct ckpt *ckpt = sp_xalloc(sizeof(*ckpt));
    ckpt->dir = sp_xstrdup(dir);
    char **files = NULL;
    json_t *map = NULL;
    enum sp_err rc = ckpt_weight_files(dir, &files, &map, err);
    if (rc != SP_OK)
        goto out;
    size_t count = 0;
    while (files[count] != NULL)
        count++;
    ckpt->shards = sp_xarray(count, sizeof(struct ckpt_st *));
    for (size_t i = 0; i < count; i++) {
        char *path = sp_path_join(dir, files[i]);
        rc = ckpt_st_open(path, &ckpt->shards[i], err);
        if (rc == SP_ENOTFOUND && map != NULL)
            rc = sp_fail(err, rc, "%s: not there, and " CKPT_INDEX_FILE " names it; fetch it again",
                         files[i]);
        free(path);
        if (rc != SP_OK)
            goto out;
        ckpt->shard_count++;
    }
    rc = merge_shards(ckpt, err);
    if (rc == SP_OK && map != NULL)
        rc = check_index(ckpt, map, err);
    if (rc == SP_OK)
        collect_aliases(ckpt);
out:
    json_decref(map);
    ckpt_file_list_free(files);
    if (rc != SP_OK) {
        ckpt_close(ckpt);
        return sp_wrap(err, rc, "checkpoint %s", dir);
    }
    *ret = ckpt;
    return SP_OK;
}

void ckpt_close(struct ckpt *ckpt)
{
    if (ckpt == NULL)
        return;
    for (size_t i = 0; i < ckpt->shard_count; i++)
        ckpt_st_close(ckpt->shards[i]);
    free(ckpt->shards);
    free(ckpt->tensors);
    free(ckpt->aliases);
    free(ckpt->dir);
    free(ckpt);
}

const char *ckpt_dir(const struct ckpt *ckpt)
{
    return ckpt->dir;
}

size_t ckpt_count(const struct ckpt *ckpt)
{
    return ckpt->count;
}

const struct ckpt_tensor *ckpt_at(const struct ckpt *ckpt, size_t i)
{
    SP_ASSERT(i < ckpt->count);
    return ckpt->tensors[i];
}

const struct ckpt_tensor *ckpt_find(const struct ckpt *ckpt, const char *name)
{
    const struct ckpt_tensor *tensor = find_stored(ckpt, name);
    for (size_t i = 0; tensor == NULL && i < ckpt->alias_count; i++)
        if (strcmp(ckpt->aliases[i].name, name) == 0)
            tensor = ckpt->aliases[i].tensor;
    return tensor;
}

size_t ckpt_shards(const struct ckpt *ckpt)
{
    return ckpt->shard_count;
}

uint64_t ckpt_weight_bytes(const struct ckpt *ckpt)
{
    uint64_t sum = 0;
    for (size_t i = 0; i < ckpt->count; i++)
        sum += ckpt->tensors[i]->bytes;
    return sum;
}

uint64_t ckpt_parameters(const struct ckpt *ckpt)
{
    uint64_t sum = 0;
    for (size_t i = 0; i < ckpt->count; i++)
        sum += ckpt->tensors[i]->count;
    return sum;
}

enum sp_err ckpt_tensor_to_f32(const struct ckpt_tensor *tensor, float *to, struct sp_error *err)
{
    /* Through a small aligned block: nothing in the format aligns a tensor's bytes. */
    uint16_t block[1024];
    const uint8_t *from = tensor->data;
    switch (tensor->dtype) {
    case CKPT_F32:
        if (tensor->bytes > 0)
            memcpy(to, from, tensor->bytes);
        return SP_OK;
    case CKPT_F64:
        for (size_t i = 0; i < tensor->count; i++) {
            double value;
            memcpy(&value, from + i * sizeof(value), sizeof(value));
            to[i] = (float)value;
        }
        return SP_OK;
    case CKPT_F16:
    case CKPT_BF16:
        for (size_t i = 0; i < tensor->count;) {
            size_t n = SP_MIN(tensor->count - i, SP_COUNT(block));
            memcpy(block, from + i * sizeof(*block), n * sizeof(*block));
            if (tensor->dtype == CKPT_F16)
                sp_f16_row_to_f32(to + i, block, n);
            else
                sp_bf16_row_to_f32(to + i, block, n);
            i += n;
        }
        return SP_OK;
    default:
        return sp_fail(err, SP_EUNSUPPORTED,
                       "tensor %.200s: data type %s (F32, F16, BF16 and F64 can be read)",
                       tensor->name, ckpt_dtype_name(tensor->dtype));
    }
}

static void shape_text(struct sp_buf *out, int32_t dims, const int64_t *shape)
{
    sp_buf_putc(out, '[');
    for (int32_t i = 0; i < dims; i++)
        sp_buf_printf(out, "%s%" PRId64, i > 0 ? ", " : "", shape[i]);
    sp_buf_putc(out, ']');
}

enum sp_err ckpt_check_shape(const struct ckpt *ckpt, const char *name, int32_t dims,
                             const int64_t *shape, struct sp_error *err)
{
    const struct ckpt_tensor *tensor = ckpt_find(ckpt, name);
    if (tensor == NULL)
        return sp_fail(err, SP_ENOTFOUND, "checkpoint %s: tensor %s: not there", ckpt->dir, name);
    bool same = tensor->dims == dims;
    for (int32_t i = 0; same && i < dims; i++)
        same = tensor->shape[i] == shape[i];
    if (same)
        return SP_OK;
    struct sp_buf have = SP_BUF_INIT, want = SP_BUF_INIT;
    shape_text(&have, tensor->dims, tensor->shape);
    shape_text(&want, dims, shape);
    enum sp_err rc = sp_fail(err, SP_EFORMAT, "checkpoint %s: tensor %s: shape %s, expected %s",
                             ckpt->dir, name, have.data, want.data);
    sp_buf_deinit(&have);
    sp_buf_deinit(&want);
    return rc;
}

enum sp_err ckpt_read_f32(const struct ckpt *ckpt, const char *name, int32_t dims,
                          const int64_t *shape, float *to, struct sp_error *err)
{
    enum sp_err rc = ckpt_check_shape(ckpt, name, dims, shape, err);
    if (rc != SP_OK)
        return rc;
    rc = ckpt_tensor_to_f32(ckpt_find(ckpt, name), to, err);
    return rc == SP_OK ? rc : sp_wrap(err, rc, "checkpoint %s", ckpt->dir);
}
