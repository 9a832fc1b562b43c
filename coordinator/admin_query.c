/* The table of verbs, arguments, and the plain listings. */
#include "coordinator/admin_query.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/json.h"
#include "common/base/limits.h"
#include "common/base/mem.h"
#include "coordinator/evaluation.h"
#include "coordinator/query_internal.h"
#include "coordinator/tokens.h"

#define ARENA_BYTES (256u << 20)

/* ---- arguments and small JSON ---- */

enum sp_err query_arg_i64(const struct query *q, const char *key, int64_t min, int64_t max,
                          int64_t *ret, struct sp_error *err)
{
    enum sp_err rc = sp_json_opt_i64(q->args, key, min, max, "arguments", ret, err);
    if (rc != SP_OK && err)
        err->code = SP_EINVAL;
    return rc == SP_OK ? SP_OK : SP_EINVAL;
}

enum sp_err query_iteration(const struct query *q, struct store_iteration *ret,
                            struct sp_error *err)
{
    int64_t number = -1;
    enum sp_err rc = query_arg_i64(q, "iteration", 0, UINT32_MAX, &number, err);
    if (rc != SP_OK)
        return rc;
    if (number >= 0)
        return store_iteration_get(q->run, (uint32_t)number, q->all->arena, ret, err);
    struct store_iteration *list = NULL;
    size_t count = 0;
    rc = store_iterations_list(q->run, q->all->arena, &list, &count, err);
    if (rc != SP_OK)
        return rc;
    if (count == 0)
        return sp_fail(err, SP_ENOTFOUND,
                       "run %s has no iteration yet: `spinctl start-iteration %s`", q->run_name,
                       q->run_name);
    *ret = list[count - 1];
    return SP_OK;
}

json_t *query_real(double value)
{
    return isfinite(value) ? json_real(value) : json_null();
}

json_t *query_hex(const struct sp_digest *digest)
{
    char hex[SP_DIGEST_HEX];
    if (sp_digest_is_zero(digest))
        return json_null();
    sp_digest_hex(digest, hex);
    return json_string(hex);
}

json_t *query_time(int64_t wall_ms)
{
    return wall_ms ? json_integer(wall_ms) : json_null();
}

/* A NUL would end the string for most readers; what is not UTF-8 becomes question marks. */
json_t *query_text(const char *text, size_t length)
{
    json_t *value = memchr(text, 0, length) ? NULL : json_stringn(text, length);
    if (value)
        return value;
    char *copy = sp_xalloc(length + 1);
    for (size_t i = 0; i < length; i++)
        copy[i] = text[i] == 0 || (text[i] & 0x80) ? '?' : text[i];
    value = json_stringn(copy, length);
    free(copy);
    return value;
}

static json_t *text_of(const char *text)
{
    return query_text(text, strlen(text));
}

json_t *query_parsed(const char *text)
{
    json_t *value = NULL;
    if (text[0] == '\0' || sp_json_parse(text, strlen(text), "stored", &value, NULL) != SP_OK)
        return json_null();
    return value;
}

enum sp_err query_settings(const struct store_run_info *info, struct run_settings *ret,
                           struct sp_error *err)
{
    json_t *json = NULL;
    sp_config_init(&run_settings_spec, ret);
    enum sp_err rc = sp_json_parse(info->settings, strlen(info->settings), "settings", &json, err);
    if (rc == SP_OK)
        rc = run_settings_from_json(json, ret, err);
    json_decref(json);
    return rc == SP_OK ? SP_OK : sp_wrap(err, rc, "run %s", info->name);
}

/* ---- runs, settings, data ---- */

static enum sp_err run_row(struct coord_query *query, const char *name, json_t **ret,
                           struct sp_error *err)
{
    struct store_run *run = NULL;
    struct store_run_info info;
    struct store_iteration *list = NULL;
    struct run_settings settings;
    size_t count = 0;
    enum sp_err rc = store_run_open(query->store, name, &run, err);
    if (rc == SP_OK)
        rc = store_run_info(run, query->arena, &info, err);
    if (rc == SP_OK)
        rc = store_iterations_list(run, query->arena, &list, &count, err);
    if (rc != SP_OK)
        return rc;
    rc = query_settings(&info, &settings, err);
    if (rc == SP_OK) {
        json_t *newest = json_null();
        if (count)
            newest = json_pack("{s:I, s:s, s:o}", "number", (json_int_t)list[count - 1].iteration,
                               "state", store_state_name(list[count - 1].state), "verdict",
                               text_of(list[count - 1].verdict));
        *ret =
            json_pack("{s:s, s:I, s:s, s:I, s:{s:I, s:I, s:I}, s:o, s:o}", "name", name,
                      "created_ms", (json_int_t)info.created_ms, "mode",
                      run_mode_names[settings.mode], "iterations", (json_int_t)settings.iterations,
                      "prompts", "train", (json_int_t)info.prompts[STORE_SPLIT_TRAIN], "holdout",
                      (json_int_t)info.prompts[STORE_SPLIT_HOLDOUT], "eval",
                      (json_int_t)info.prompts[STORE_SPLIT_EVAL], "base", query_hex(&info.base),
                      "iteration", newest);
    }
    sp_config_deinit(&run_settings_spec, &settings);
    return rc;
}

static enum sp_err query_runs(struct query *q, json_t **ret, struct sp_error *err)
{
    const char **names = NULL;
    size_t count = 0;
    enum sp_err rc = store_runs_list(q->all->store, q->all->arena, &names, &count, err);
    json_t *rows = json_array();
    for (size_t i = 0; i < count && rc == SP_OK; i++) {
        json_t *row = NULL;
        if (coord_is_evaluation(names[i]))
            continue;
        rc = run_row(q->all, names[i], &row, err);
        json_array_append_new(rows, row);
    }
    if (rc == SP_OK)
        *ret = json_pack("{s:o}", "runs", rows);
    else
        json_decref(rows);
    return rc;
}

static enum sp_err query_settings_verb(struct query *q, json_t **ret, struct sp_error *err)
{
    *ret = json_pack("{s:s, s:o}", "run", q->run_name, "settings", query_parsed(q->info.settings));
    return SP_OK;
}

static enum sp_err query_data(struct query *q, json_t **ret, struct sp_error *err)
{
    *ret = json_pack("{s:s, s:o, s:o}", "run", q->run_name, "data_sha256",
                     query_hex(&q->info.data_digest), "data", query_parsed(q->info.data));
    return SP_OK;
}

/* ---- events, steps ---- */

static enum sp_err page(const struct query *q, int64_t *ret_after, int64_t *ret_limit,
                        struct sp_error *err)
{
    enum sp_err rc = query_arg_i64(q, "after", 0, INT64_MAX, ret_after, err);
    if (rc == SP_OK)
        rc = query_arg_i64(q, "limit", 1, SP_MAX_LIST_ROWS, ret_limit, err);
    return rc;
}

static enum sp_err query_events(struct query *q, json_t **ret, struct sp_error *err)
{
    int64_t after = 0, limit = 100;
    bool last = false; /* the newest ones, whatever `after` says */
    struct store_event *events = NULL;
    size_t count = 0;
    enum sp_err rc = page(q, &after, &limit, err);
    if (rc == SP_OK)
        rc = sp_json_opt_bool(q->args, "last", "events", &last, err);
    if (rc == SP_OK && last)
        rc = store_events_last(q->all->store, q->run, (uint32_t)limit, q->all->arena, &events,
                               &count, err);
    else if (rc == SP_OK)
        rc = store_events_list(q->all->store, q->run, (uint64_t)after, (uint32_t)limit,
                               q->all->arena, &events, &count, err);
    if (rc != SP_OK)
        return rc;
    json_t *rows = json_array();
    for (size_t i = 0; i < count; i++) {
        const struct store_event *event = &events[i];
        json_t *row = json_pack("{s:I, s:I, s:o, s:o, s:o, s:o}", "id", (json_int_t)event->id,
                                "at_ms", (json_int_t)event->at_ms, "iteration",
                                event->iteration < 0 ? json_null() : json_integer(event->iteration),
                                "actor", text_of(event->actor), "kind", text_of(event->kind),
                                "text", text_of(event->text));
        if (event->detail[0])
            json_object_set_new(row, "detail", query_parsed(event->detail));
        json_array_append_new(rows, row);
    }
    *ret = json_pack("{s:o}", "events", rows);
    return SP_OK;
}

#define STEP_REALS(X)                                                                              \
    X(learning_rate)                                                                               \
    X(loss)                                                                                        \
    X(sft_loss) X(margin) X(margin_abs_max) X(accuracy) X(reward_real) X(reward_generated)         \
        X(logp_real) X(logp_generated) X(logp_real_change) X(grad_norm) X(first_sight_correct)
#define STEP_INTEGERS(X)                                                                           \
    X(step) X(train_epoch) X(pairs) X(identical) X(tokens) X(milliseconds) X(first_sight_pairs)

static json_t *step_row(const struct proto_step_metrics *step)
{
    json_t *row = json_object();
#define SET_REAL(name) json_object_set_new(row, #name, query_real(step->name));
#define SET_INTEGER(name) json_object_set_new(row, #name, json_integer((json_int_t)step->name));
    STEP_INTEGERS(SET_INTEGER)
    STEP_REALS(SET_REAL)
#undef SET_REAL
#undef SET_INTEGER
    json_object_set_new(row, "skipped", json_boolean(step->skipped));
    return row;
}

static enum sp_err query_steps(struct query *q, json_t **ret, struct sp_error *err)
{
    int64_t after = 0, limit = SP_MAX_LIST_ROWS;
    struct store_iteration it;
    struct proto_step_metrics *steps = NULL;
    size_t count = 0;
    enum sp_err rc = page(q, &after, &limit, err);
    if (rc == SP_OK)
        rc = query_iteration(q, &it, err);
    if (rc == SP_OK)
        rc = store_steps_list(q->run, it.iteration, (uint64_t)after, (uint32_t)limit, q->all->arena,
                              &steps, &count, err);
    if (rc != SP_OK)
        return rc;
    json_t *rows = json_array();
    for (size_t i = 0; i < count; i++)
        json_array_append_new(rows, step_row(&steps[i]));
    *ret = json_pack("{s:I, s:o}", "iteration", (json_int_t)it.iteration, "steps", rows);
    return SP_OK;
}

/* ---- tokens, workers ---- */

static enum sp_err query_tokens(struct query *q, json_t **ret, struct sp_error *err)
{
    struct store_token *tokens = NULL;
    size_t count = 0;
    enum sp_err rc = store_tokens_list(q->all->store, q->all->arena, &tokens, &count, err);
    if (rc != SP_OK)
        return rc;
    json_t *rows = json_array();
    for (size_t i = 0; i < count; i++) {
        const struct store_token *token = &tokens[i];
        json_array_append_new(
            rows,
            json_pack("{s:o, s:s, s:o, s:o, s:I, s:o, s:b, s:o}", "id", text_of(token->id), "role",
                      coord_role_name(token->role), "name", text_of(token->name), "runs",
                      text_of(token->runs), "created_ms", (json_int_t)token->created_ms,
                      "expires_ms", query_time(token->expires_ms), "revoked",
                      token->revoked_ms != 0, "revoked_ms", query_time(token->revoked_ms)));
    }
    *ret = json_pack("{s:o}", "tokens", rows);
    return SP_OK;
}

static enum sp_err query_workers(struct query *q, json_t **ret, struct sp_error *err)
{
    struct store_worker *workers = NULL;
    size_t count = 0;
    enum sp_err rc = store_workers_list(q->all->store, q->all->arena, &workers, &count, err);
    if (rc != SP_OK)
        return rc;
    json_t *rows = json_array();
    for (size_t i = 0; i < count; i++) {
        const struct store_worker *w = &workers[i];
        json_array_append_new(rows, json_pack("{s:o, s:s, s:o, s:o, s:o, s:o, s:I, s:I}", "name",
                                              text_of(w->name), "role", coord_role_name(w->role),
                                              "host", text_of(w->host), "device",
                                              text_of(w->device), "version", text_of(w->version),
                                              "numerics_class", text_of(w->numerics_class),
                                              "first_seen_ms", (json_int_t)w->first_seen_ms,
                                              "last_seen_ms", (json_int_t)w->last_seen_ms));
    }
    *ret = json_pack("{s:o}", "workers", rows);
    return SP_OK;
}

/* ---- the table ---- */

enum needs { NO_RUN, MAY_RUN, ONE_RUN };
static const struct {
    const char *verb;
    enum needs needs;
    query_verb *run;
} verbs[] = {
    {"runs", NO_RUN, query_runs},
    {"settings", ONE_RUN, query_settings_verb},
    {"data", ONE_RUN, query_data},
    {"iterations", ONE_RUN, query_iterations},
    {"steps", ONE_RUN, query_steps},
    {"pairs", ONE_RUN, query_pairs},
    {"timeline", ONE_RUN, query_timeline},
    {"events", MAY_RUN, query_events},
    {"checkpoints", MAY_RUN, query_checkpoints},
    {"checkpoint", MAY_RUN, query_checkpoint},
    {"evaluations", ONE_RUN, query_evaluations},
    {"evaluation", ONE_RUN, query_evaluation},
    {"evaluation-items", ONE_RUN, query_evaluation_items},
    {"evaluation-compare", ONE_RUN, query_evaluation_compare},
    {"token-list", NO_RUN, query_tokens},
    {"workers", NO_RUN, query_workers},
};

static int find_verb(const char *verb)
{
    for (size_t i = 0; i < SP_COUNT(verbs); i++) {
        if (strcmp(verbs[i].verb, verb) == 0)
            return (int)i;
    }
    return -1;
}

bool coord_query_knows(const char *verb)
{
    return find_verb(verb) >= 0;
}

struct coord_query *coord_query_new(struct store *store, struct ckpt_blobs *blobs)
{
    struct coord_query *query = sp_xalloc(sizeof(*query));
    query->store = store;
    query->blobs = blobs;
    query->arena = sp_arena_new(1 << 16, ARENA_BYTES);
    query->matches = sp_xarray(QUERY_MATCHES, sizeof(*query->matches));
    return query;
}

void coord_query_free(struct coord_query *query)
{
    if (query == NULL)
        return;
    for (size_t i = 0; i < query->tokenizer_count; i++)
        tok_free(query->tokenizers[i].tokenizer);
    sp_arena_free(query->arena);
    free(query->matches);
    free(query);
}

enum sp_err coord_query_run(struct coord_query *query, const char *verb, const char *run,
                            const char *args, json_t **ret, struct sp_error *err)
{
    int index = find_verb(verb);
    if (index < 0)
        return sp_fail(err, SP_EUNSUPPORTED, "no verb \"%.40s\"", verb);
    run = run ? run : "";
    struct query q = {.all = query, .run_name = run};
    json_t *parsed = NULL, *made = NULL;
    const char *text = args && args[0] ? args : "{}";
    sp_arena_reset(query->arena);
    enum sp_err rc = sp_json_parse(text, strlen(text), "arguments", &parsed, err);
    if (rc == SP_OK && !json_is_object(parsed))
        rc = sp_fail(err, SP_EINVAL, "%s: arguments: not an object", verb);
    q.args = parsed;
    if (rc == SP_OK && verbs[index].needs == ONE_RUN && run[0] == '\0')
        rc = sp_fail(err, SP_EINVAL, "%s: which run?", verb);
    if (rc == SP_OK && verbs[index].needs != NO_RUN && run[0])
        rc = store_run_open(query->store, run, &q.run, err);
    if (rc == SP_OK && q.run)
        rc = store_run_info(q.run, query->arena, &q.info, err);
    if (rc == SP_OK)
        rc = verbs[index].run(&q, &made, err);
    if (rc == SP_OK && made == NULL)
        rc = sp_fail(err, SP_EINTERNAL, "%s: the answer could not be written as JSON", verb);
    if (rc == SP_OK)
        *ret = made;
    json_decref(parsed);
    return rc;
}
