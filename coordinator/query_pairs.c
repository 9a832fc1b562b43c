/* pairs: rows of a work set in position order, as ids and as text. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/limits.h"
#include "common/base/mem.h"
#include "coordinator/query_internal.h"
#include "proto/pairs_digest.h"

/* Rows of a page end before its JSON grows past this; one row always fits a message. */
#define PAGE_BYTES (2u << 20)
#define DEFAULT_ROWS 20

static const struct {
    const char *name;
    enum store_split split;
} sets[] = {
    [PROTO_SET_TRAIN] = {"train", STORE_SPLIT_TRAIN},
    [PROTO_SET_HOLDOUT] = {"holdout", STORE_SPLIT_HOLDOUT},
    [PROTO_SET_HOLDOUT_PLAYER] = {"holdout_player", STORE_SPLIT_HOLDOUT},
    [PROTO_SET_EVAL_GREEDY] = {"eval_greedy", STORE_SPLIT_EVAL},
    [PROTO_SET_EVAL_SAMPLED] = {"eval_sampled", STORE_SPLIT_EVAL},
    [PROTO_SET_BASE_GREEDY] = {"base_greedy", STORE_SPLIT_EVAL},
    [PROTO_SET_BASE_SAMPLED] = {"base_sampled", STORE_SPLIT_EVAL},
    [PROTO_SET_TRAINED] = {"trained", STORE_SPLIT_TRAIN},
};

static enum sp_err parse_set(const struct query *q, uint32_t *ret, struct sp_error *err)
{
    const json_t *value = json_object_get(q->args, "set");
    const char *name = value ? json_string_value(value) : "train";
    for (uint32_t i = 0; i < SP_COUNT(sets); i++) {
        if (name && strcmp(name, sets[i].name) == 0) {
            *ret = i;
            return SP_OK;
        }
    }
    return sp_fail(err, SP_EINVAL,
                   "set \"%.40s\": give train, holdout, holdout_player, eval_greedy, eval_sampled, "
                   "base_greedy, base_sampled or trained",
                   name ? name : "?");
}

static bool by_plan(uint32_t set)
{
    return set == PROTO_SET_TRAIN || set == PROTO_SET_TRAINED;
}

static void key_at(const struct store_iteration *it, uint32_t set, uint64_t position,
                   struct store_pair_key *ret)
{
    *ret = (struct store_pair_key){
        .position = position, .source_iteration = it->iteration, .prompt = (uint32_t)position};
    if (!by_plan(set))
        return;
    struct plan plan = {
        .iteration = it->iteration,
        .prompts = it->prompts,
        .samples_per_prompt = it->samples_per_prompt ? it->samples_per_prompt : 1,
        .new_pairs = it->new_pairs,
        .replay_pairs = it->replay_pairs,
    };
    struct plan_key key;
    plan_key_at(&plan, (uint32_t)position, &key);
    ret->source_iteration = key.source_iteration;
    ret->prompt = key.prompt;
    ret->sample = key.sample;
}

static json_t *ids_json(const struct proto_ids *ids)
{
    json_t *array = json_array();
    for (uint32_t i = 0; i < ids->count; i++)
        json_array_append_new(array, json_integer(ids->ids[i]));
    return array;
}

static void set_reference(json_t *row, const char *name, float value)
{
    char key[32], bits[16];
    snprintf(key, sizeof(key), "%s_bits", name);
    snprintf(bits, sizeof(bits), "%08x", pairs_digest_bits(value));
    json_object_set_new(row, name, query_real((double)value));
    json_object_set_new(row, key, json_string(bits));
}

static const char *finish_name(uint32_t finish)
{
    return finish == PROTO_FINISH_STOP ? "stop" : finish == PROTO_FINISH_LENGTH ? "length" : "none";
}

static json_t *pair_json(const struct tok_tokenizer *tokenizer, const struct proto_train_pair *pair,
                         bool stored, size_t *bytes)
{
    json_t *row = json_pack(
        "{s:I, s:I, s:I, s:I, s:o, s:o, s:o, s:s, s:I, s:b, s:b}", "position",
        (json_int_t)pair->position, "source_iteration", (json_int_t)pair->source_iteration,
        "prompt", (json_int_t)pair->prompt, "sample", (json_int_t)pair->sample, "prompt_ids",
        ids_json(&pair->prompt_ids), "real_ids", ids_json(&pair->real_ids), "generated_ids",
        ids_json(&pair->generated_ids), "finish", finish_name(pair->finish), "finish_code",
        (json_int_t)pair->finish, "skipped", pair->skipped, "stored", stored);
    set_reference(row, "ref_real", pair->ref_real);
    set_reference(row, "ref_generated", pair->ref_generated);
    json_t *prompt = query_decoded(tokenizer, &pair->prompt_ids, 0);
    json_t *real = query_decoded(tokenizer, &pair->real_ids, TOK_SKIP_SPECIAL);
    json_t *generated = query_decoded(tokenizer, &pair->generated_ids, TOK_SKIP_SPECIAL);
    *bytes += 512 + 8 * ((size_t)pair->prompt_ids.count + pair->real_ids.count +
                         pair->generated_ids.count);
    /* Six bytes for a character in JSON at most: \u001b. */
    *bytes +=
        6 * (json_string_length(prompt) + json_string_length(real) + json_string_length(generated));
    json_object_set_new(row, "prompt_text", prompt);
    json_object_set_new(row, "real_text", real);
    json_object_set_new(row, "generated_text", generated);
    return row;
}

/* Rows of eval sets have a reference text, which is what counts as correct. */
static enum sp_err add_reference(const struct query *q, const struct store_pair_key *key,
                                 json_t *row, struct sp_error *err)
{
    struct store_prompt prompt;
    enum sp_err rc =
        store_prompts_get(q->run, STORE_SPLIT_EVAL, key->prompt, 1, q->all->arena, &prompt, err);
    if (rc == SP_OK)
        json_object_set_new(row, "reference", query_text(prompt.response, strlen(prompt.response)));
    return rc;
}

/* How many positions the set can have. */
static uint64_t positions_of(const struct query *q, const struct store_iteration *it, uint32_t set)
{
    if (by_plan(set))
        return (uint64_t)it->new_pairs + it->replay_pairs;
    return q->info.prompts[sets[set].split];
}

static enum sp_err page_of(const struct query *q, const struct store_iteration *it, uint32_t set,
                           uint64_t first, uint64_t end, json_t *rows, struct sp_error *err)
{
    const struct tok_tokenizer *tokenizer = NULL;
    enum sp_err rc = query_tokenizer(q->all, &q->info.base_manifest, &tokenizer, err);
    size_t bytes = 0;
    for (uint64_t position = first; position < end && bytes < PAGE_BYTES && rc == SP_OK;
         position++) {
        struct store_pair_key key;
        struct proto_train_pair pair;
        bool stored = false;
        key_at(it, set, position, &key);
        rc = store_pairs_read(q->run, it->iteration, set, sets[set].split, &key, 1, q->all->arena,
                              &pair, &stored, err);
        if (rc != SP_OK)
            break;
        if (!by_plan(set))
            pair.skipped = false; /* marks are for training prompts */
        json_t *row = pair_json(tokenizer, &pair, stored, &bytes);
        if (sets[set].split == STORE_SPLIT_EVAL)
            rc = add_reference(q, &key, row, err);
        json_array_append_new(rows, row);
    }
    return rc;
}

enum sp_err query_pairs(struct query *q, json_t **ret, struct sp_error *err)
{
    struct store_iteration it;
    uint32_t set = 0;
    int64_t offset = 0, limit = DEFAULT_ROWS;
    enum sp_err rc = query_iteration(q, &it, err);
    if (rc == SP_OK)
        rc = parse_set(q, &set, err);
    if (rc == SP_OK)
        rc = query_arg_i64(q, "offset", 0, INT64_MAX, &offset, err);
    if (rc == SP_OK)
        rc = query_arg_i64(q, "limit", 1, SP_MAX_LIST_ROWS, &limit, err);
    if (rc != SP_OK)
        return rc;
    uint64_t total = positions_of(q, &it, set);
    uint64_t first = SP_MIN((uint64_t)offset, total);
    uint64_t end = SP_MIN(first + (uint64_t)limit, total);
    json_t *rows = json_array();
    rc = page_of(q, &it, set, first, end, rows, err);
    if (rc == SP_OK)
        *ret = json_pack("{s:s, s:I, s:s, s:I, s:I, s:o}", "run", q->run_name, "iteration",
                         (json_int_t)it.iteration, "set", sets[set].name, "offset",
                         (json_int_t)first, "total", (json_int_t)total, "pairs", rows);
    else
        json_decref(rows);
    return rc;
}
