#include "coordinator/collect.h"

#include <stdlib.h>
#include <string.h>

#include "common/base/mem.h"
#include "coordinator/try.h"

#define LIST_ARENA ((size_t)256 << 20)

bool coord_retention(const struct store_checkpoint *list, size_t count, size_t i,
                     uint32_t keep_last, const struct sp_digest *roots, uint32_t root_count)
{
    const struct store_checkpoint *one = &list[i];
    if (keep_last == 0 || one->iteration < 0 || one->pinned || one->dropped_ms != 0)
        return false;
    size_t newer = 0;
    for (size_t k = i + 1; k < count; k++)
        newer += list[k].dropped_ms == 0;
    if (newer < keep_last)
        return false;
    for (uint32_t r = 0; r < root_count; r++) {
        if (sp_digest_equal(&roots[r], &one->manifest))
            return false;
    }
    return true;
}

static enum sp_err retain_run(struct store_run *run, uint32_t keep_last,
                              const struct sp_digest *roots, uint32_t root_count, int64_t now_ms,
                              bool dry_run, struct sp_arena *arena, uint32_t *dropped,
                              struct sp_error *err)
{
    struct store_checkpoint *list;
    size_t count;
    SP_TRY(store_checkpoints_list(run, arena, &list, &count, err));
    for (size_t i = 0; i < count; i++) {
        if (!coord_retention(list, count, i, keep_last, roots, root_count))
            continue;
        ++*dropped;
        if (!dry_run)
            SP_TRY(store_checkpoint_drop(run, &list[i].digest, now_ms, err));
    }
    return SP_OK;
}

enum sp_err coord_retain(struct store *store, uint32_t keep_last, const struct sp_digest *roots,
                         uint32_t root_count, int64_t now_ms, bool dry_run, uint32_t *ret_dropped,
                         struct sp_error *err)
{
    struct sp_arena *arena = sp_arena_new(1 << 16, LIST_ARENA);
    const char **names;
    size_t count = 0;
    uint32_t dropped = 0;
    enum sp_err rc = store_runs_list(store, arena, &names, &count, err);
    for (size_t i = 0; rc == SP_OK && i < count; i++) {
        struct store_run *run;
        rc = store_run_open(store, names[i], &run, err);
        if (rc == SP_OK)
            rc = retain_run(run, keep_last, roots, root_count, now_ms, dry_run, arena, &dropped,
                            err);
    }
    sp_arena_free(arena);
    if (rc == SP_OK)
        *ret_dropped = dropped;
    return rc;
}

/* ---- references ---- */

static bool add(void *context, const struct sp_digest *digest)
{
    struct coord_refs *refs = context;
    if (refs->count == refs->capacity) {
        refs->capacity = refs->capacity ? 2 * refs->capacity : 1024;
        refs->list = sp_xgrow(refs->list, refs->capacity, sizeof(*refs->list));
    }
    refs->list[refs->count++] = *digest;
    return true;
}

static int compare(const void *a, const void *b)
{
    return memcmp(a, b, SP_DIGEST_BYTES);
}

void coord_refs_free(struct coord_refs *refs)
{
    if (!refs)
        return;
    free(refs->list);
    free(refs);
}

enum sp_err coord_refs_load(struct store *store, struct coord_refs **ret, struct sp_error *err)
{
    struct sp_arena *arena = sp_arena_new(1 << 16, LIST_ARENA);
    struct coord_refs *refs = sp_xalloc(sizeof(*refs));
    const char **names;
    size_t count = 0;
    enum sp_err rc = store_runs_list(store, arena, &names, &count, err);
    for (size_t i = 0; rc == SP_OK && i < count; i++) {
        struct store_run *run;
        rc = store_run_open(store, names[i], &run, err);
        if (rc == SP_OK)
            rc = store_blob_refs_each(run, add, refs, err);
    }
    sp_arena_free(arena);
    if (rc == SP_OK)
        *ret = refs;
    else
        coord_refs_free(refs);
    return rc;
}

/* A root and every chunk that its manifest names. */
static enum sp_err add_root(struct ckpt_blobs *blobs, struct coord_refs *refs,
                            const struct sp_digest *root, struct sp_error *err)
{
    struct ckpt_manifest manifest = CKPT_MANIFEST_INIT;
    uint8_t *text = NULL;
    size_t length = 0;
    add(refs, root);
    enum sp_err rc = ckpt_blobs_get(blobs, root, &text, &length, err);
    if (rc == SP_ENOTFOUND)
        return SP_OK;
    if (rc == SP_OK)
        rc = ckpt_manifest_parse((const char *)text, length, &manifest, err);
    for (size_t f = 0; rc == SP_OK && f < manifest.count; f++) {
        for (uint32_t c = 0; c < manifest.files[f].chunk_count; c++)
            add(refs, &manifest.files[f].chunks[c]);
    }
    ckpt_manifest_deinit(&manifest);
    free(text);
    return rc;
}

static bool referenced(void *context, const struct sp_digest *digest)
{
    const struct coord_refs *refs = context;
    return bsearch(digest, refs->list, refs->count, sizeof(*refs->list), compare) != NULL;
}

enum sp_err coord_collect(struct ckpt_blobs *blobs, struct coord_refs *refs,
                          const struct sp_digest *roots, uint32_t root_count, int64_t now_ms,
                          int64_t grace_ms, bool dry_run, struct ckpt_collected *ret,
                          struct sp_error *err)
{
    for (uint32_t i = 0; i < root_count; i++) {
        bool known = false; /* roots repeat: a manifest is read once */
        for (uint32_t k = 0; k < i && !known; k++)
            known = sp_digest_equal(&roots[i], &roots[k]);
        if (!known)
            SP_TRY(add_root(blobs, refs, &roots[i], err));
    }
    if (refs->count > 0)
        qsort(refs->list, refs->count, sizeof(*refs->list), compare);
    struct ckpt_collect ask = {.referenced = referenced,
                               .context = refs,
                               .now_ms = now_ms,
                               .grace_ms = grace_ms,
                               .dry_run = dry_run};
    return ckpt_blobs_collect(blobs, &ask, ret, err);
}
