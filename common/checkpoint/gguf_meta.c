/* Typed access to the metadata of an open GGUF file. */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/mem.h"
#include "common/base/utf8.h"
#include "common/checkpoint/gguf_internal.h"

static int by_key(const void *key, const void *entry)
{
    return strcmp(key, ((const struct gguf_entry *)entry)->key);
}

const struct gguf_entry *gguf_find(const struct ckpt_gguf *g, const char *key)
{
    if (g->entry_count == 0)
        return NULL;
    return bsearch(key, g->entries, g->entry_count, sizeof(*g->entries), by_key);
}

static enum sp_err need(const struct ckpt_gguf *g, const char *key, bool array,
                        const struct gguf_entry **ret, struct sp_error *err)
{
    *ret = gguf_find(g, key);
    if (*ret == NULL)
        return sp_fail(err, SP_ENOTFOUND, "%s: metadata \"%s\": not there", g->what, key);
    if ((*ret)->array != array)
        return sp_fail(err, SP_EFORMAT, "%s: metadata \"%s\": %s", g->what, key,
                       array ? "not an array" : "an array, expected one value");
    return SP_OK;
}

static enum sp_err wrong(const struct ckpt_gguf *g, const struct gguf_entry *entry,
                         const char *expected, struct sp_error *err)
{
    return sp_fail(err, SP_EFORMAT, "%s: metadata \"%s\": of type %s, expected %s", g->what,
                   entry->key, gguf_value_name(entry->type), expected);
}

size_t ckpt_gguf_key_count(const struct ckpt_gguf *gguf)
{
    return gguf->entry_count;
}

const char *ckpt_gguf_key(const struct ckpt_gguf *gguf, size_t i)
{
    SP_ASSERT(i < gguf->entry_count);
    return gguf->entries[i].key;
}

bool ckpt_gguf_has(const struct ckpt_gguf *gguf, const char *key)
{
    return gguf_find(gguf, key) != NULL;
}

/* ---- one element ---- */

bool gguf_load_i64(enum gguf_value type, const uint8_t *p, int64_t *ret)
{
    switch (type) {
    case GGUF_U8:
        *ret = *p;
        return true;
    case GGUF_I8:
        *ret = (int8_t)*p;
        return true;
    case GGUF_U16:
        *ret = (uint16_t)(p[0] | p[1] << 8);
        return true;
    case GGUF_I16:
        *ret = (int16_t)(uint16_t)(p[0] | p[1] << 8);
        return true;
    case GGUF_U32:
        *ret = gguf_load_u32(p);
        return true;
    case GGUF_I32:
        *ret = (int32_t)gguf_load_u32(p);
        return true;
    case GGUF_U64:
        *ret = (int64_t)gguf_load_u64(p);
        return *ret >= 0;
    case GGUF_I64:
        *ret = (int64_t)gguf_load_u64(p);
        return true;
    default:
        return false;
    }
}

static bool load_f64(enum gguf_value type, const uint8_t *p, double *ret)
{
    int64_t whole;
    if (type == GGUF_F32) {
        float value;
        memcpy(&value, p, sizeof(value));
        *ret = value;
        return true;
    }
    if (type == GGUF_F64) {
        memcpy(ret, p, sizeof(*ret));
        return true;
    }
    if (!gguf_load_i64(type, p, &whole))
        return false;
    *ret = (double)whole;
    return true;
}

/* ---- single values ---- */

enum sp_err ckpt_gguf_i64(const struct ckpt_gguf *gguf, const char *key, int64_t min, int64_t max,
                          int64_t *ret, struct sp_error *err)
{
    const struct gguf_entry *entry = NULL;
    int64_t value;
    enum sp_err rc = need(gguf, key, false, &entry, err);
    if (rc != SP_OK)
        return rc;
    if (!gguf_load_i64(entry->type, entry->data, &value))
        return wrong(gguf, entry, "a whole number", err);
    if (value < min || value > max)
        return sp_fail(err, SP_EFORMAT,
                       "%s: metadata \"%s\": %" PRId64 " is not between %" PRId64 " and %" PRId64,
                       gguf->what, key, value, min, max);
    *ret = value;
    return SP_OK;
}

enum sp_err ckpt_gguf_f64(const struct ckpt_gguf *gguf, const char *key, double *ret,
                          struct sp_error *err)
{
    const struct gguf_entry *entry = NULL;
    double value;
    enum sp_err rc = need(gguf, key, false, &entry, err);
    if (rc != SP_OK)
        return rc;
    if (!load_f64(entry->type, entry->data, &value))
        return wrong(gguf, entry, "a number", err);
    if (!__builtin_isfinite(value))
        return sp_fail(err, SP_EFORMAT, "%s: metadata \"%s\": not a finite number", gguf->what,
                       key);
    *ret = value;
    return SP_OK;
}

enum sp_err ckpt_gguf_bool(const struct ckpt_gguf *gguf, const char *key, bool *ret,
                           struct sp_error *err)
{
    const struct gguf_entry *entry = NULL;
    enum sp_err rc = need(gguf, key, false, &entry, err);
    if (rc != SP_OK)
        return rc;
    if (entry->type != GGUF_BOOL)
        return wrong(gguf, entry, "true or false", err);
    if (*entry->data > 1)
        return sp_fail(err, SP_EFORMAT, "%s: metadata \"%s\": %d is neither true nor false",
                       gguf->what, key, *entry->data);
    *ret = *entry->data == 1;
    return SP_OK;
}

static bool text_is_good(struct ckpt_gguf_text text)
{
    return sp_is_utf8(text.data, text.length) && memchr(text.data, 0, text.length) == NULL;
}

enum sp_err ckpt_gguf_text(const struct ckpt_gguf *gguf, const char *key,
                           struct ckpt_gguf_text *ret, struct sp_error *err)
{
    const struct gguf_entry *entry = NULL;
    enum sp_err rc = need(gguf, key, false, &entry, err);
    if (rc != SP_OK)
        return rc;
    if (entry->type != GGUF_STRING)
        return wrong(gguf, entry, "a string", err);
    struct ckpt_gguf_text text = {(const char *)entry->data + 8,
                                  (size_t)gguf_load_u64(entry->data)};
    if (!text_is_good(text))
        return sp_fail(err, SP_EFORMAT, "%s: metadata \"%s\": not UTF-8, or with a NUL", gguf->what,
                       key);
    *ret = text;
    return SP_OK;
}

enum sp_err ckpt_gguf_opt_i64(const struct ckpt_gguf *gguf, const char *key, int64_t min,
                              int64_t max, int64_t *ret, struct sp_error *err)
{
    return ckpt_gguf_has(gguf, key) ? ckpt_gguf_i64(gguf, key, min, max, ret, err) : SP_OK;
}

enum sp_err ckpt_gguf_opt_f64(const struct ckpt_gguf *gguf, const char *key, double *ret,
                              struct sp_error *err)
{
    return ckpt_gguf_has(gguf, key) ? ckpt_gguf_f64(gguf, key, ret, err) : SP_OK;
}

enum sp_err ckpt_gguf_opt_bool(const struct ckpt_gguf *gguf, const char *key, bool *ret,
                               struct sp_error *err)
{
    return ckpt_gguf_has(gguf, key) ? ckpt_gguf_bool(gguf, key, ret, err) : SP_OK;
}

enum sp_err ckpt_gguf_opt_text(const struct ckpt_gguf *gguf, const char *key,
                               struct ckpt_gguf_text *ret, struct sp_error *err)
{
    return ckpt_gguf_has(gguf, key) ? ckpt_gguf_text(gguf, key, ret, err) : SP_OK;
}

/* ---- arrays ---- */

enum sp_err ckpt_gguf_texts(const struct ckpt_gguf *gguf, const char *key,
                            struct ckpt_gguf_text **ret, size_t *ret_count, struct sp_error *err)
{
    const struct gguf_entry *entry = NULL;
    enum sp_err rc = need(gguf, key, true, &entry, err);
    if (rc != SP_OK)
        return rc;
    if (entry->type != GGUF_STRING)
        return wrong(gguf, entry, "strings", err);
    struct ckpt_gguf_text *texts = sp_xarray((size_t)entry->count, sizeof(*texts));
    const uint8_t *p = entry->data;
    for (size_t i = 0; i < entry->count; i++) {
        texts[i] = (struct ckpt_gguf_text){(const char *)p + 8, (size_t)gguf_load_u64(p)};
        p += 8 + texts[i].length;
        if (!text_is_good(texts[i])) {
            free(texts);
            return sp_fail(err, SP_EFORMAT,
                           "%s: metadata \"%s\": element %zu is not UTF-8, or has a NUL",
                           gguf->what, key, i);
        }
    }
    *ret = texts;
    *ret_count = (size_t)entry->count;
    return SP_OK;
}

enum sp_err ckpt_gguf_ints(const struct ckpt_gguf *gguf, const char *key, int64_t **ret,
                           size_t *ret_count, struct sp_error *err)
{
    const struct gguf_entry *entry = NULL;
    enum sp_err rc = need(gguf, key, true, &entry, err);
    if (rc != SP_OK)
        return rc;
    int64_t *ints = sp_xarray((size_t)entry->count, sizeof(*ints));
    for (size_t i = 0; i < entry->count; i++)
        if (!gguf_load_i64(entry->type, entry->data + i * gguf_value_bytes(entry->type),
                           &ints[i])) {
            free(ints);
            return wrong(gguf, entry, "whole numbers", err);
        }
    *ret = ints;
    *ret_count = (size_t)entry->count;
    return SP_OK;
}

enum sp_err ckpt_gguf_reals(const struct ckpt_gguf *gguf, const char *key, double **ret,
                            size_t *ret_count, struct sp_error *err)
{
    const struct gguf_entry *entry = NULL;
    enum sp_err rc = need(gguf, key, true, &entry, err);
    if (rc != SP_OK)
        return rc;
    double *reals = sp_xarray((size_t)entry->count, sizeof(*reals));
    for (size_t i = 0; i < entry->count; i++)
        if (!load_f64(entry->type, entry->data + i * gguf_value_bytes(entry->type), &reals[i])) {
            free(reals);
            return wrong(gguf, entry, "numbers", err);
        }
    *ret = reals;
    *ret_count = (size_t)entry->count;
    return SP_OK;
}
