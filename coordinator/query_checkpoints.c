/* checkpoints: which there are, and what one was made from. */
#include <string.h>

#include "common/base/mem.h"
#include "coordinator/evaluation.h"
#include "coordinator/query_internal.h"

/* The row of the iteration that made it; *ret_have: whether there is one (not for the base). */
static enum sp_err made_by(struct store_run *run, const struct store_checkpoint *checkpoint,
                           struct sp_arena *arena, struct store_iteration *ret, bool *ret_have,
                           struct sp_error *err)
{
    *ret_have = false;
    if (checkpoint->iteration < 0)
        return SP_OK;
    enum sp_err rc = store_iteration_get(run, (uint32_t)checkpoint->iteration, arena, ret, err);
    if (rc == SP_ENOTFOUND)
        return SP_OK;
    /* A later attempt may have made another one. */
    *ret_have = rc == SP_OK && sp_digest_equal(&ret->checkpoint, &checkpoint->digest);
    return rc;
}

static json_t *checkpoint_json(struct store_run *run, const struct store_checkpoint *checkpoint,
                               const struct store_iteration *it)
{
    return json_pack(
        "{s:o, s:o, s:s, s:i, s:I, s:I, s:b, s:o, s:o, s:o}", "digest",
        query_hex(&checkpoint->digest), "manifest", query_hex(&checkpoint->manifest), "run",
        store_run_name(run), "iteration", (int)checkpoint->iteration, "bytes",
        (json_int_t)checkpoint->bytes, "created_ms", (json_int_t)checkpoint->created_ms, "pinned",
        checkpoint->pinned, "dropped_ms", query_time(checkpoint->dropped_ms), "verdict",
        it && it->verdict[0] ? query_text(it->verdict, strlen(it->verdict)) : json_null(),
        "accepted", it ? json_boolean(it->accepted) : json_null());
}

static enum sp_err add_run(struct coord_query *all, struct store_run *run, json_t *rows,
                           struct sp_error *err)
{
    struct store_checkpoint *list = NULL;
    size_t count = 0;
    enum sp_err rc = store_checkpoints_list(run, all->arena, &list, &count, err);
    for (size_t i = 0; i < count && rc == SP_OK; i++) {
        struct store_iteration it;
        bool have = false;
        rc = made_by(run, &list[i], all->arena, &it, &have, err);
        if (rc == SP_OK)
            json_array_append_new(rows, checkpoint_json(run, &list[i], have ? &it : NULL));
    }
    return rc;
}

enum sp_err query_checkpoints(struct query *q, json_t **ret, struct sp_error *err)
{
    const char **names = NULL;
    size_t count = 0;
    json_t *rows = json_array();
    enum sp_err rc = SP_OK;
    if (q->run) {
        rc = add_run(q->all, q->run, rows, err);
    } else {
        rc = store_runs_list(q->all->store, q->all->arena, &names, &count, err);
        for (size_t i = 0; i < count && rc == SP_OK; i++) {
            struct store_run *run = NULL;
            if (coord_is_evaluation(names[i]))
                continue;
            rc = store_run_open(q->all->store, names[i], &run, err);
            if (rc == SP_OK)
                rc = add_run(q->all, run, rows, err);
        }
    }
    if (rc == SP_OK)
        *ret = json_pack("{s:o}", "checkpoints", rows);
    else
        json_decref(rows);
    return rc;
}

/* ---- one ---- */

struct wanted {
    const char *prefix; /* of the digest in hex; "": any */
    int64_t iteration;  /* INT64_MIN: any */
    bool best;          /* what the next iteration would start from */
};

struct found {
    struct store_run *run;
    struct store_checkpoint checkpoint;
    size_t others; /* different digests that fit, too */
};

static bool fits(const struct wanted *wanted, const struct store_checkpoint *checkpoint)
{
    char hex[SP_DIGEST_HEX];
    sp_digest_hex(&checkpoint->digest, hex);
    if (wanted->iteration != INT64_MIN && checkpoint->iteration != wanted->iteration)
        return false;
    return strncmp(hex, wanted->prefix, strlen(wanted->prefix)) == 0;
}

/* The last one that fits: lists are in the order of making. */
static enum sp_err search_run(struct coord_query *all, struct store_run *run,
                              const struct wanted *wanted, struct found *found,
                              struct sp_error *err)
{
    struct store_checkpoint *list = NULL;
    size_t count = 0;
    enum sp_err rc = store_checkpoints_list(run, all->arena, &list, &count, err);
    for (size_t i = 0; i < count && rc == SP_OK; i++) {
        if (!fits(wanted, &list[i]))
            continue;
        found->others += found->run && !sp_digest_equal(&found->checkpoint.digest, &list[i].digest);
        found->run = run;
        found->checkpoint = list[i];
    }
    return rc;
}

static bool has_published(const struct store_iteration *it)
{
    static const struct sp_digest none;
    return !sp_digest_equal(&it->checkpoint, &none);
}

/* What an iteration has published is in its own row: weights that are the same as others before
 * them, bit for bit, are listed once, as those that came first. */
static enum sp_err search_iteration(const struct query *q, uint32_t iteration, struct found *ret,
                                    struct sp_error *err)
{
    struct store_iteration it;
    enum sp_err rc = store_iteration_get(q->run, iteration, q->all->arena, &it, err);
    if (rc == SP_ENOTFOUND || (rc == SP_OK && !has_published(&it)))
        return SP_OK;
    if (rc == SP_OK)
        rc = store_checkpoint_get(q->run, &it.checkpoint, q->all->arena, &ret->checkpoint, err);
    if (rc != SP_OK)
        return rc;
    ret->run = q->run;
    ret->checkpoint.iteration = (int32_t)iteration;
    return SP_OK;
}

/* The newest iteration with a checkpoint, best: with one that was accepted; −1, the base: none. */
static enum sp_err find_newest(const struct query *q, bool best, int64_t *ret, struct sp_error *err)
{
    struct store_iteration *rows = NULL;
    size_t count = 0;
    *ret = -1;
    enum sp_err rc = store_iterations_list(q->run, q->all->arena, &rows, &count, err);
    for (size_t i = 0; rc == SP_OK && i < count; i++) {
        bool accepted = rows[i].state == STORE_STATE_CLOSED && rows[i].accepted;
        if (best ? accepted : has_published(&rows[i]))
            *ret = rows[i].iteration;
    }
    return rc;
}

static enum sp_err search(const struct query *q, struct wanted *wanted, struct found *ret,
                          struct sp_error *err)
{
    const char **names = NULL;
    size_t count = 0;
    enum sp_err rc = SP_OK;
    if (q->run && !wanted->prefix[0] && wanted->iteration == INT64_MIN)
        rc = find_newest(q, wanted->best, &wanted->iteration, err);
    if (rc == SP_OK && q->run && wanted->iteration >= 0)
        rc = search_iteration(q, (uint32_t)wanted->iteration, ret, err);
    if (rc != SP_OK || ret->run)
        return rc;
    if (q->run) {
        rc = search_run(q->all, q->run, wanted, ret, err);
    } else {
        rc = store_runs_list(q->all->store, q->all->arena, &names, &count, err);
        for (size_t i = 0; i < count && rc == SP_OK; i++) {
            struct store_run *run = NULL;
            if (coord_is_evaluation(names[i]))
                continue;
            rc = store_run_open(q->all->store, names[i], &run, err);
            if (rc == SP_OK)
                rc = search_run(q->all, run, wanted, ret, err);
        }
    }
    if (rc == SP_OK && ret->run == NULL)
        rc = sp_fail(err, SP_ENOTFOUND, "no such checkpoint: `spinctl checkpoints` lists them");
    if (rc == SP_OK && ret->others && wanted->prefix[0])
        rc = sp_fail(err, SP_EINVAL, "\"%.64s\" fits %zu checkpoints: give more characters",
                     wanted->prefix, ret->others + 1);
    return rc;
}

static enum sp_err parse_wanted(const struct query *q, struct wanted *ret, struct sp_error *err)
{
    const json_t *digest = json_object_get(q->args, "digest");
    *ret = (struct wanted){.prefix = "", .iteration = INT64_MIN};
    if (digest && !json_is_null(digest)) {
        const char *hex = json_string_value(digest);
        size_t length = hex ? strspn(hex, "0123456789abcdef") : 0;
        if (hex == NULL || length < 8 || length > 64 || hex[length] != '\0')
            return sp_fail(err, SP_EINVAL, "digest: give 8 to 64 lower-case hex characters");
        ret->prefix = hex;
        return SP_OK;
    }
    if (q->run == NULL)
        return sp_fail(err, SP_EINVAL, "checkpoint: give a digest, or a run");
    ret->best = json_is_true(json_object_get(q->args, "best"));
    return query_arg_i64(q, "iteration", -1, UINT32_MAX, &ret->iteration, err);
}

/* Everything that decided the checkpoint, with the digests of the files, and who made it. */
static json_t *provenance(struct store_run *run, const struct store_run_info *info,
                          const struct store_checkpoint *checkpoint,
                          const struct store_iteration *it, const struct store_share *shares,
                          size_t share_count)
{
    json_t *record = json_pack(
        "{s:s, s:i, s:o, s:o, s:o, s:o, s:o, s:o, s:o}", "run", store_run_name(run), "iteration",
        (int)checkpoint->iteration, "checkpoint", query_hex(&checkpoint->digest), "base",
        query_hex(&info->base), "base_manifest", query_hex(&info->base_manifest), "settings",
        query_parsed(info->settings), "data", query_parsed(info->data), "data_sha256",
        query_hex(&info->data_digest), "trainer", query_parsed(checkpoint->provenance));
    if (it == NULL)
        return record;
    json_t *workers = json_object();
    for (size_t i = 0; i < share_count; i++)
        json_object_set_new(workers, shares[i].worker[0] ? shares[i].worker : "trainer",
                            json_integer((json_int_t)shares[i].results));
    json_object_set_new(record, "opponent", query_hex(&it->opponent));
    json_object_set_new(record, "plan", query_hex(&it->plan));
    json_object_set_new(record, "pairs_sha256", query_hex(&it->pairs_sha256));
    json_object_set_new(record, "pairs_chain", query_hex(&it->pairs_chain));
    json_object_set_new(record, "results_by_worker", workers);
    json_object_set_new(record, "started_ms", query_time(it->started_ms));
    json_object_set_new(record, "trained_ms", query_time(it->trained_ms));
    json_object_set_new(record, "closed_ms", query_time(it->closed_ms));
    return record;
}

enum sp_err query_checkpoint(struct query *q, json_t **ret, struct sp_error *err)
{
    struct sp_arena *arena = q->all->arena;
    struct wanted wanted;
    struct found found = {0};
    struct store_iteration it;
    struct store_run_info info;
    struct store_share *shares = NULL;
    size_t share_count = 0;
    bool have = false;
    const char *numerics = "";
    enum sp_err rc = parse_wanted(q, &wanted, err);
    if (rc == SP_OK)
        rc = search(q, &wanted, &found, err);
    if (rc == SP_OK)
        rc = store_run_info(found.run, arena, &info, err);
    if (rc == SP_OK)
        rc = store_meta_get(found.run, "numerics_class", arena, &numerics, err);
    if (rc == SP_OK)
        rc = made_by(found.run, &found.checkpoint, arena, &it, &have, err);
    if (rc == SP_OK && have)
        rc = store_shares(found.run, it.iteration, PROTO_SET_TRAIN, false, arena, &shares,
                          &share_count, err);
    if (rc != SP_OK)
        return rc;
    json_t *reply = checkpoint_json(found.run, &found.checkpoint, have ? &it : NULL);
    json_t *record =
        provenance(found.run, &info, &found.checkpoint, have ? &it : NULL, shares, share_count);
    json_object_set_new(record, "numerics_class", query_text(numerics, strlen(numerics)));
    json_object_set_new(reply, "provenance", record);
    *ret = reply;
    return SP_OK;
}
