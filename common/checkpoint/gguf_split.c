/* A model in several GGUF files, as llama-gguf-split writes them: the metadata stand in the first
 * file, each holds some of the tensors, and split.no, split.count say which part it is. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/mem.h"
#include "common/checkpoint/gguf_internal.h"

#define MAX_PARTS 9999

/* NAME-00002-of-00007.gguf, of any part's path; NULL where that does not end so. */
static char *path_of_part(const char *path, int64_t part, int64_t count)
{
    static const char pattern[] = "-00000-of-00000.gguf";
    size_t length = strlen(path), tail = sizeof(pattern) - 1;
    if (length <= tail)
        return NULL;
    for (size_t i = 0; i < tail; i++) {
        char c = path[length - tail + i];
        if (pattern[i] == '0' ? c < '0' || c > '9' : c != pattern[i])
            return NULL;
    }
    return sp_xprintf("%.*s-%05" PRId64 "-of-%05" PRId64 ".gguf", (int)(length - tail), path,
                      part + 1, count);
}

static enum sp_err check_part(const struct ckpt_gguf *part, int64_t want, int64_t want_count,
                              struct sp_error *err)
{
    int64_t no = 0, count = 0;
    enum sp_err rc = ckpt_gguf_i64(part, "split.no", 0, MAX_PARTS, &no, err);
    if (rc == SP_OK)
        rc = ckpt_gguf_i64(part, "split.count", 1, MAX_PARTS, &count, err);
    if (rc == SP_OK && (no != want || count != want_count))
        rc = sp_fail(err, SP_EFORMAT,
                     "%s: metadata \"split.no\" and \"split.count\": %" PRId64 " of %" PRId64
                     ", expected %" PRId64 " of %" PRId64,
                     part->what, no, count, want, want_count);
    return gguf_missing(rc, err);
}

/* The part's tensors become the whole's; the part keeps their bytes. */
static void take_tensors(struct ckpt_gguf *g, struct ckpt_gguf *part)
{
    size_t count = g->count + part->count;
    g->tensors = sp_xgrow(g->tensors, SP_MAX(count, 1), sizeof(*g->tensors));
    if (part->count > 0)
        memcpy(g->tensors + g->count, part->tensors, part->count * sizeof(*part->tensors));
    g->count = count;
    part->count = 0;
    g->parts[g->part_count++] = part;
}

enum sp_err gguf_join(struct ckpt_gguf *g, struct sp_error *err)
{
    int64_t count = 1, no = 0, tensors = -1;
    enum sp_err rc;
    if ((rc = ckpt_gguf_opt_i64(g, "split.count", 0, MAX_PARTS, &count, err)) ||
        (rc = ckpt_gguf_opt_i64(g, "split.no", 0, MAX_PARTS, &no, err)) ||
        (rc = ckpt_gguf_opt_i64(g, "split.tensors.count", 0, SP_MAX_TENSORS, &tensors, err)))
        return rc;
    if (count <= 1)
        return SP_OK;
    char *first = path_of_part(g->what, 0, count);
    if (first == NULL)
        rc = sp_fail(err, SP_EFORMAT,
                     "%s: metadata \"split.count\": one of %" PRId64 " parts, but the file's name "
                     "does not end in -00001-of-%05" PRId64 ".gguf",
                     g->what, count, count);
    else if (no != 0)
        rc = sp_fail(err, SP_EINVAL,
                     "%s: metadata \"split.no\": part %" PRId64 " of %" PRId64
                     "; give the first one, %s",
                     g->what, no + 1, count, first);
    free(first);
    g->parts = sp_xarray((size_t)count, sizeof(struct ckpt_gguf *));
    for (int64_t i = 1; rc == SP_OK && i < count; i++) {
        struct ckpt_gguf *part = NULL;
        char *path = path_of_part(g->what, i, count);
        rc = gguf_open_file(path, &part, err);
        if (rc == SP_OK)
            rc = check_part(part, i, count, err);
        if (rc == SP_OK)
            take_tensors(g, part);
        else
            ckpt_gguf_close(part);
        free(path);
    }
    if (rc == SP_OK && tensors >= 0 && (uint64_t)tensors != g->count)
        rc = sp_fail(err, SP_EFORMAT,
                     "%s: metadata \"split.tensors.count\": %" PRId64 ", the parts hold %zu",
                     g->what, tensors, g->count);
    if (rc == SP_OK && (rc = gguf_sort_tensors(g, err)) != SP_OK)
        rc = sp_wrap(err, rc, "%s", g->what);
    return rc;
}
