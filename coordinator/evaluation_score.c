/* From stored results to scores. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/json.h"
#include "common/base/mem.h"
#include "coordinator/evaluation.h"
#include "coordinator/query_internal.h"
#include "coordinator/try.h"

#define PAGE 256
#define ARENA_BYTES ((size_t)256 << 20)

/* A pass over the positions of an evaluation. */
struct scorer {
    struct store_run *run;
    struct task *task;
    const struct tok_tokenizer *tokenizer;
    enum store_split split;
    enum proto_set set;
    uint32_t count; /* positions */
    struct sp_arena *arena;
    uint32_t first, have; /* page in the arena */
    struct store_prompt prompts[PAGE];
    struct store_result results[PAGE];
};

static enum sp_err open_scorer(struct store_run *run, struct coord_query *query,
                               struct scorer **ret, struct sp_error *err)
{
    struct scorer *s = sp_xalloc(sizeof(*s));
    struct store_run_info info;
    json_t *data = NULL;
    s->run = run;
    s->arena = sp_arena_new(1 << 20, ARENA_BYTES);
    *ret = s;
    SP_TRY(store_run_info(run, s->arena, &info, err));
    bool generated = info.prompts[STORE_SPLIT_EVAL] > 0;
    s->split = generated ? STORE_SPLIT_EVAL : STORE_SPLIT_HOLDOUT;
    s->set = generated ? PROTO_SET_EVAL_GREEDY : PROTO_SET_HOLDOUT_PLAYER;
    s->count = info.prompts[s->split];
    SP_TRY(query_tokenizer(query, &info.base_manifest, &s->tokenizer, err));
    SP_TRY(sp_json_parse(info.data, strlen(info.data), "data", &data, err));
    const json_t *evaluation = json_object_get(data, "evaluation");
    const char *text = json_string_value(json_object_get(evaluation, "task"));
    enum sp_err rc = task_new(text ? text : "", text ? strlen(text) : 0, "task", &s->task, err);
    json_decref(data);
    return rc;
}

static void close_scorer(struct scorer *s)
{
    task_free(s->task);
    sp_arena_free(s->arena);
    free(s);
}

/* Makes position `at` one of the page's. What was read before is gone. */
static enum sp_err turn_to(struct scorer *s, uint32_t at, struct sp_error *err)
{
    if (at >= s->first && at < s->first + s->have)
        return SP_OK;
    uint64_t positions[PAGE];
    uint32_t n = SP_MIN(s->count - at, (uint32_t)PAGE);
    for (uint32_t i = 0; i < n; i++)
        positions[i] = at + i;
    sp_arena_reset(s->arena);
    s->have = 0;
    SP_TRY(store_prompts_get(s->run, s->split, at, n, s->arena, s->prompts, err));
    SP_TRY(store_results_get(s->run, 0, s->set, positions, n, s->arena, s->results, err));
    s->first = at;
    s->have = n;
    return SP_OK;
}

static enum sp_err meta_of(const struct scorer *s, uint32_t at, json_t **ret, struct sp_error *err)
{
    const char *text = s->prompts[at - s->first].response;
    return sp_json_parse(text, strlen(text), "a prompt's record", ret, err);
}

static enum sp_err answer_of(const struct scorer *s, const struct store_result *result,
                             struct sp_buf *out, struct sp_error *err)
{
    if (s->tokenizer == NULL)
        return sp_fail(err, SP_ESTATE, "an evaluation needs the blobs");
    sp_buf_reserve(out, 1);
    return tok_decode(s->tokenizer, result->ids.ids, result->ids.count, TOK_SKIP_SPECIAL, out, err);
}

static void add_detail(json_t *item, const json_t *doc, const struct store_result *result)
{
    static const char *const kept[] = {"choices", "gold", "target", "turns", "before"};
    for (size_t i = 0; i < SP_COUNT(kept); i++) {
        json_t *value = json_object_get(doc, kept[i]);
        if (value != NULL)
            json_object_set(item, kept[i], value);
    }
    if (result->ids.count > 0) {
        json_object_set_new(item, "tokens", json_integer(result->ids.count));
        json_object_set_new(item, "finish",
                            json_string(result->finish == PROTO_FINISH_STOP ? "stop" : "length"));
    }
}

/* The problem that begins at *at; *at moves behind it. */
static enum sp_err score_one(struct scorer *s, uint32_t *at, bool detail, json_t **ret,
                             struct sp_error *err)
{
    double lls[TASK_MAX_CHOICES + 2];
    size_t n = 0;
    json_t *meta = NULL, *doc = NULL, *item = NULL;
    struct sp_buf answer = SP_BUF_INIT;
    SP_TRY(turn_to(s, *at, err));
    enum sp_err rc = meta_of(s, *at, &meta, err);
    doc = json_incref(json_object_get(meta, "doc"));
    if (rc == SP_OK && !json_is_object(doc))
        rc = sp_fail(err, SP_ECORRUPT, "position %u: no problem begins here", *at);
    struct store_result first = {0};
    if (rc == SP_OK) {
        first = s->results[*at - s->first];
        if (s->split == STORE_SPLIT_EVAL)
            rc = answer_of(s, &first, &answer, err);
    }
    uint32_t position = *at;
    do {
        const struct store_result *result = &s->results[position - s->first];
        int64_t covers = json_integer_value(json_object_get(meta, "covers"));
        if (rc == SP_OK && s->split == STORE_SPLIT_HOLDOUT && n < TASK_MAX_CHOICES) {
            lls[n++] = (double)result->ref_real;
            if (covers == 2)
                lls[n++] = (double)result->ref_generated;
        }
        json_decref(meta);
        meta = NULL;
        position++;
        if (rc == SP_OK && position < s->count)
            rc = turn_to(s, position, err);
        if (rc == SP_OK && position < s->count)
            rc = meta_of(s, position, &meta, err);
    } while (rc == SP_OK && position < s->count && !json_object_get(meta, "doc"));
    json_decref(meta);
    if (rc == SP_OK)
        rc = task_score(s->task, doc, lls, n, answer.data ? answer.data : "", &item, err);
    if (rc == SP_OK) {
        static const char *const names[] = {"item", "id", "category"};
        for (size_t i = 0; i < SP_COUNT(names); i++) {
            json_t *value = json_object_get(doc, names[i]);
            if (value != NULL)
                json_object_set(item, names[i], value);
        }
        if (detail)
            add_detail(item, doc, &first);
        *ret = item;
        *at = position;
    }
    json_decref(doc);
    sp_buf_deinit(&answer);
    return rc;
}

enum sp_err coord_evaluation_items(struct store_run *run, struct coord_query *query, uint32_t from,
                                   uint32_t limit, bool detail, coord_item_fn *each, void *context,
                                   uint32_t *next, struct sp_error *err)
{
    struct scorer *s = NULL;
    enum sp_err rc = open_scorer(run, query, &s, err);
    uint32_t at = from;
    for (uint32_t i = 0; rc == SP_OK && i < limit && at < s->count; i++) {
        json_t *item = NULL;
        rc = score_one(s, &at, detail, &item, err);
        if (rc == SP_OK)
            each(context, item);
    }
    if (rc == SP_OK)
        *next = at < s->count ? at : UINT32_MAX;
    close_scorer(s);
    return rc;
}

static void collect(void *context, json_t *item)
{
    json_array_append_new(context, item);
}

enum sp_err coord_evaluation_score(struct store *store, struct coord_query *query,
                                   const struct coord_run_info *info, struct coord_judgement *ret,
                                   struct sp_error *err)
{
    struct store_run *run = NULL;
    struct scorer *s = NULL;
    json_t *items = json_array();
    uint32_t next = 0;
    enum sp_err rc = store_run_open(store, info->name, &run, err);
    if (rc == SP_OK)
        rc = coord_evaluation_items(run, query, 0, UINT32_MAX, false, collect, items, &next, err);
    if (rc == SP_OK) {
        rc = open_scorer(run, query, &s, err);
        if (rc == SP_OK) {
            json_t *summary = task_summary(s->task, items);
            char *text = sp_json_canonical(items);
            *ret = (struct coord_judgement){.verdict = sp_xstrdup("evaluated"),
                                            .text = sp_json_canonical(summary)};
            sp_sha256_of(text, strlen(text), &ret->pairs_sha256);
            json_decref(summary);
            free(text);
        }
        close_scorer(s);
    }
    json_decref(items);
    return rc;
}
