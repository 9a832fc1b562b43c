#include "coordinator/uclaml.h"

#include <stdlib.h>
#include <string.h>

#include "common/base/mem.h"
#include "common/text/chat_uclaml.h"
#include "coordinator/create_run.h"
#include "coordinator/query_internal.h"

/* What is known of the run that came last: its settings don't change. */
struct coord_uclaml {
    struct coord_query *query; /* for its tokenizers */
    char *run;
    bool wanted;
    int64_t max_new_tokens;
    int32_t eos_id;
    struct sp_digest base_manifest;
};

struct coord_uclaml *coord_uclaml_new(struct ckpt_blobs *blobs)
{
    struct coord_uclaml *uclaml = sp_xalloc(sizeof(*uclaml));
    uclaml->query = coord_query_new(NULL, blobs);
    return uclaml;
}

void coord_uclaml_free(struct coord_uclaml *uclaml)
{
    if (uclaml == NULL)
        return;
    coord_query_free(uclaml->query);
    free(uclaml->run);
    free(uclaml);
}

static enum sp_err learn(struct coord_uclaml *u, struct store_run *run, struct sp_error *err)
{
    if (u->run && strcmp(u->run, store_run_name(run)) == 0)
        return SP_OK;
    struct sp_arena *arena = sp_arena_new(1 << 16, 64 << 20);
    struct store_run_info info;
    struct run_settings settings;
    int32_t vocab, *stops = NULL;
    uint32_t stop_count = 0;
    free(u->run);
    u->run = NULL;
    enum sp_err rc = store_run_info(run, arena, &info, err);
    if (rc == SP_OK) {
        rc = query_settings(&info, &settings, err);
        u->wanted = rc == SP_OK && settings.compat == RUN_COMPAT_UCLAML;
        u->max_new_tokens = rc == SP_OK ? settings.max_new_tokens : 0;
        sp_config_deinit(&run_settings_spec, &settings);
    }
    if (rc == SP_OK && u->wanted) {
        rc = coord_run_model(info.data, &vocab, &stops, &stop_count, err);
        u->eos_id = rc == SP_OK ? stops[0] : -1;
        u->base_manifest = info.base_manifest;
    }
    if (rc == SP_OK)
        u->run = sp_xstrdup(store_run_name(run));
    free(stops);
    sp_arena_free(arena);
    return rc;
}

enum sp_err coord_uclaml_rewrite(void *context, struct store_run *run, struct store_result *row,
                                 struct sp_arena *arena, struct sp_error *err)
{
    struct coord_uclaml *u = context;
    enum sp_err rc = learn(u, run, err);
    if (rc != SP_OK || !u->wanted)
        return rc;
    struct tok_uclaml renderer = {.eos_id = u->eos_id};
    struct tok_ids ids = {0};
    rc = query_tokenizer(u->query, &u->base_manifest, &renderer.tokenizer, err);
    if (rc == SP_OK)
        rc = tok_uclaml_generated(&renderer, row->ids.ids, row->ids.count,
                                  (size_t)u->max_new_tokens, &ids, err);
    int32_t *copy = rc == SP_OK ? sp_arena_alloc(arena, ids.count, sizeof(*copy)) : NULL;
    if (rc == SP_OK && copy == NULL)
        rc = sp_fail(err, SP_ELIMIT, "an answer of %zu tokens", ids.count);
    if (rc == SP_OK) {
        memcpy(copy, ids.ids, ids.count * sizeof(*copy));
        row->ids = (struct proto_ids){.ids = copy, .count = (uint32_t)ids.count};
    }
    tok_ids_deinit(&ids);
    return rc;
}
