/* The decoder's results: the same bits whatever else it works on, those of the training pass, and
 * those of transformers. */
#include "tests/unit/model/decoder_cases.h"

#define N_REQUESTS 24

/* A copied result. */
struct outcome {
    int32_t ids[64], n_ids;
    enum model_finish finish;
    float logprob, answers[2], tokens[64], answer_tokens[2][64];
};

static void take_all(struct model_decoder *d, struct outcome *outcomes, int32_t *ret_taken)
{
    struct model_decoder_result r;
    while (model_decoder_take_result(d, &r)) {
        struct outcome *o = &outcomes[(uintptr_t)r.user - 1];
        ck_assert_int_eq(o->n_ids, -1); /* each comes once */
        o->n_ids = r.n_ids;
        o->finish = r.finish;
        o->logprob = r.response.logprob;
        memcpy(o->ids, r.ids, (size_t)r.n_ids * sizeof(int32_t));
        if (r.n_ids)
            memcpy(o->tokens, r.response.token_logprobs, (size_t)r.n_ids * sizeof(float));
        for (int a = 0; a < 2; a++) {
            o->answers[a] = r.answers[a].logprob;
            if (r.answers[a].n)
                memcpy(o->answer_tokens[a], r.answers[a].token_logprobs,
                       (size_t)r.answers[a].n * sizeof(float));
        }
        ++*ret_taken;
    }
}

/* Runs requests order[0 … n) through a decoder of this shape. */
static void run(struct model *m, struct model_decoder_options options, const uint32_t *order,
                int32_t n, struct outcome *outcomes)
{
    struct model_decoder *d = NULL;
    struct ids ids;
    int32_t submitted = 0, taken = 0;
    bool idle = false;
    memset(outcomes, 0, sizeof(*outcomes) * N_REQUESTS);
    for (int32_t i = 0; i < N_REQUESTS; i++)
        outcomes[i].n_ids = -1;
    ck_ok(model_decoder_new(m, &options, &d, err));
    while (taken < n) {
        while (submitted < n && model_decoder_room(d) > 0) {
            struct model_decoder_request r = request(order[submitted++], &ids);
            ck_ok(model_decoder_submit(d, &r, err));
        }
        ck_ok(model_decoder_step(d, &idle, err));
        ck_assert(!idle);
        take_all(d, outcomes, &taken);
    }
    ck_ok(model_decoder_step(d, &idle, err));
    ck_assert(idle);
    struct model_decoder_stats stats;
    model_decoder_get_stats(d, &stats);
    ck_assert_int_eq(stats.active + stats.waiting + stats.finished, 0);
    model_decoder_free(d);
}

static void in_order(uint32_t *order)
{
    for (uint32_t i = 0; i < N_REQUESTS; i++)
        order[i] = i;
}

/* What a decoder may be narrow in: weights, cache, activations. */
static const struct {
    enum tn_dtype weights, cache, activations;
} widths[] = {{TN_F32, TN_F32, TN_F32},   {TN_BF16, TN_F32, TN_F32},  {TN_F32, TN_BF16, TN_F32},
              {TN_BF16, TN_BF16, TN_F32}, {TN_BF16, TN_F32, TN_BF16}, {TN_BF16, TN_BF16, TN_BF16}};

static struct model_decoder_options of_width(int i, int32_t slots)
{
    return (struct model_decoder_options){.slots = slots,
                                          .weights = widths[i].weights,
                                          .cache = widths[i].cache,
                                          .activations = widths[i].activations};
}

START_TEST(bits_do_not_depend_on_the_batch)
{
    static struct outcome alone[N_REQUESTS], together[N_REQUESTS];
    uint32_t order[N_REQUESTS];
    struct model *m = new_model(false);
    struct model_decoder_options one = of_width(_i, 1);
    in_order(order);
    one.rows_per_step = 1;
    run(m, one, order, N_REQUESTS, alone);
    int32_t stops = 0, cuts = 0;
    for (int32_t i = 0; i < N_REQUESTS; i++) {
        stops += alone[i].finish == MODEL_FINISH_STOP;
        cuts += alone[i].finish == MODEL_FINISH_LENGTH;
    }
    ck_assert_int_gt(stops, 2);
    ck_assert_int_gt(cuts, 2);
    for (int32_t slots = 1; slots <= 16; slots++) {
        struct model_decoder_options o = of_width(_i, slots);
        o.queue = slots % 4;
        o.rows_per_step = slots + (int32_t)random_below(50, (uint32_t)slots, 60);
        sp_rng_permutation(5, 0, (uint32_t)slots, N_REQUESTS, order);
        run(m, o, order, N_REQUESTS, together);
        for (int32_t i = 0; i < N_REQUESTS; i++)
            ck_assert_msg(memcmp(&alone[i], &together[i], sizeof(alone[i])) == 0,
                          "request %d differs with %d slots, %d rows a step", i, slots,
                          o.rows_per_step);
    }
    /* A part of the requests alone, the rest absent. */
    for (uint32_t i = 0; i < N_REQUESTS; i += 5) {
        run(m, of_width(_i, 3), &i, 1, together);
        ck_assert(memcmp(&alone[i], &together[i], sizeof(alone[i])) == 0);
    }
    model_free(m);
}
END_TEST

static void check_equal(const char *what, int32_t i, const float *a, const float *b, int32_t n)
{
    for (int32_t k = 0; k < n; k++)
        ck_assert_msg(memcmp(&a[k], &b[k], sizeof(float)) == 0,
                      "request %d, %s, token %d: decoder %.9g, training pass %.9g", i, what, k,
                      (double)a[k], (double)b[k]);
}

static void check_against_forward(struct model *m)
{
    static struct outcome outcomes[N_REQUESTS];
    uint32_t order[N_REQUESTS];
    in_order(order);
    run(m, (struct model_decoder_options){.slots = 5, .queue = 3}, order, N_REQUESTS, outcomes);
    for (int32_t i = 0; i < N_REQUESTS; i++) {
        struct ids ids;
        struct model_decoder_request r = request((uint32_t)i, &ids);
        float expected[64], sum;
        const struct outcome *o = &outcomes[i];
        ck_assert_int_eq(o->n_ids > 0, r.generate);
        if (r.generate) {
            forward_logprobs(m, r.prompt, r.n_prompt, o->ids, o->n_ids, expected);
            check_equal("response", i, o->tokens, expected, o->n_ids);
            sum = model_sum_logprobs(expected, o->n_ids);
            check_equal("response's sum", i, &o->logprob, &sum, 1);
        }
        for (int a = 0; a < 2; a++) {
            if (!r.answers[a])
                continue;
            forward_logprobs(m, r.prompt, r.n_prompt, r.answers[a], r.n_answers[a], expected);
            check_equal("answer", i, o->answer_tokens[a], expected, r.n_answers[a]);
            sum = model_sum_logprobs(expected, r.n_answers[a]);
            check_equal("answer's sum", i, &o->answers[a], &sum, 1);
        }
    }
}

START_TEST(logprobs_have_the_bits_of_the_training_pass)
{
    for (int tied = 0; tied < 2; tied++) {
        struct model *m = new_model(tied);
        check_against_forward(m);
        model_free(m);
    }
    struct model_config config = odd_config(true);
    struct model *m = NULL;
    config.window = 4;
    ck_ok(model_new(cpu, &config, 22, &m, err));
    check_against_forward(m);
    model_free(m);
    struct tn_backend *other = open_backend("openblas", 2);
    ck_ok(model_new(other, &config, 22, &m, err));
    check_against_forward(m);
    model_free(m);
    tn_close(other);
}
END_TEST

/* Request i of a family whose prompts begin with the same `common` tokens. */
static struct model_decoder_request relative(uint32_t i, int32_t common, struct ids *ids)
{
    struct model_decoder_request r = request(i, ids);
    r.n_prompt = common + 1 + (int32_t)(i % 7);
    r.max_new_tokens = SP_MIN(r.max_new_tokens, 20);
    random_ids(300 + i, 53, r.n_prompt, ids->prompt);
    random_ids(299, 53, common, ids->prompt);
    return r;
}

/* Runs a family; returns how many rows were not run because another slot had them. */
static uint64_t run_family(struct model *m, struct model_decoder_options options, int32_t common)
{
    static struct outcome outcomes[N_REQUESTS];
    struct model_decoder *d = NULL;
    struct model_decoder_stats stats;
    struct ids ids;
    int32_t submitted = 0, taken = 0;
    bool idle;
    uint64_t given = 0;
    for (int32_t i = 0; i < N_REQUESTS; i++)
        outcomes[i].n_ids = -1;
    ck_ok(model_decoder_new(m, &options, &d, err));
    while (taken < N_REQUESTS) {
        while (submitted < N_REQUESTS && model_decoder_room(d) > 0) {
            struct model_decoder_request r = relative((uint32_t)submitted++, common, &ids);
            given += (uint64_t)r.n_prompt;
            for (int a = 0; a < 2; a++)
                given += (uint64_t)SP_MAX(0, r.n_answers[a] - 1);
            ck_ok(model_decoder_submit(d, &r, err));
        }
        ck_ok(model_decoder_step(d, &idle, err));
        ck_assert(!idle);
        take_all(d, outcomes, &taken);
    }
    model_decoder_get_stats(d, &stats);
    ck_assert_uint_eq(stats.prefill_rows + stats.shared_rows, given);
    model_decoder_free(d);
    for (uint32_t i = 0; i < N_REQUESTS; i++) { /* the training pass shares nothing */
        struct model_decoder_request r = relative(i, common, &ids);
        float expected[64];
        if (r.generate) {
            forward_logprobs(m, r.prompt, r.n_prompt, outcomes[i].ids, outcomes[i].n_ids, expected);
            check_equal("response", (int32_t)i, outcomes[i].tokens, expected, outcomes[i].n_ids);
        }
        for (int a = 0; a < 2; a++) {
            if (!r.answers[a])
                continue;
            forward_logprobs(m, r.prompt, r.n_prompt, r.answers[a], r.n_answers[a], expected);
            check_equal("answer", (int32_t)i, outcomes[i].answer_tokens[a], expected,
                        r.n_answers[a]);
        }
    }
    return stats.shared_rows;
}

START_TEST(common_beginnings_are_run_once)
{
    struct model *m = new_model(false);
    /* all but the first request find the beginning in some slot, or more of it */
    for (int32_t slots = 1; slots <= 7; slots += 2) {
        struct model_decoder_options o = {.slots = slots,
                                          .rows_per_step = slots + 11 * (slots % 3)};
        ck_assert_uint_ge(run_family(m, o, 24), (N_REQUESTS - 1) * 24);
    }
    ck_assert_uint_ge(run_family(m, (struct model_decoder_options){.slots = 24, .queue = 9}, 24),
                      (N_REQUESTS - 1) * 24);
    /* too short to be worth it */
    ck_assert_uint_eq(run_family(m, (struct model_decoder_options){.slots = 4}, 3), 0);
    model_free(m);
}
END_TEST

/* A cache that holds `most` positions in all and looks at who keeps to what he reserved. */
static struct {
    const struct tn_ops *ops;
    int32_t reserved[24], most, refused;
} limited;

static bool limited_reserve(struct tn_backend *b, struct tn_kv_cache *cache, int32_t slot,
                            int32_t kept, int32_t positions)
{
    int32_t sum = positions;
    ck_assert_int_le(kept, limited.reserved[slot]);
    limited.reserved[slot] = kept;
    for (int32_t s = 0; s < (int32_t)SP_COUNT(limited.reserved); s++)
        sum += s == slot ? 0 : limited.reserved[s];
    if (sum > limited.most) {
        limited.refused++;
        return false;
    }
    limited.reserved[slot] = positions;
    return true;
}

static void limited_put(struct tn_backend *b, struct tn_kv_cache *cache, int32_t layer,
                        const void *qkv, const struct tn_cache_row *rows, int32_t T, int32_t H)
{
    for (int32_t t = 0; t < T; t++)
        ck_assert_int_lt(rows[t].position, limited.reserved[rows[t].slot]);
    limited.ops->cache_put(b, cache, layer, qkv, rows, T, H);
}

static void limited_copy(struct tn_backend *b, struct tn_kv_cache *cache, int32_t from, int32_t to,
                         int32_t n)
{
    ck_assert_int_le(n, limited.reserved[from]);
    ck_assert_int_le(n, limited.reserved[to]);
    limited.ops->cache_copy(b, cache, from, to, n);
}

START_TEST(requests_wait_for_room_in_the_cache)
{
    struct model *m = new_model(false);
    struct tn_ops ops = *cpu->ops;
    limited.ops = cpu->ops;
    ops.cache_reserve = limited_reserve;
    ops.cache_put = limited_put;
    ops.cache_copy = limited_copy;
    cpu->ops = &ops;
    for (limited.most = 96; limited.most <= 300; limited.most += 100) { /* 96: the longest alone */
        memset(limited.reserved, 0, sizeof(limited.reserved));
        limited.refused = 0;
        uint64_t shared = run_family(
            m, (struct model_decoder_options){.slots = 12, .queue = 9, .max_positions = 96}, 24);
        ck_assert_int_gt(limited.refused, 0);
        ck_assert_uint_ge(shared, limited.most > 96 ? (N_REQUESTS - 1) * 24 : 0);
    }
    cpu->ops = limited.ops;
    model_free(m);
}
END_TEST

/* New prompts, all the time, beside a slot that samples: it gets a token in every step, and the
 * steps stay short; every slot gets its turn. */
START_TEST(prompts_do_not_hold_up_what_runs)
{
    enum { SLOTS = 24, STEPS = 60 };
    struct model *m = new_model(false);
    struct model_decoder *d = NULL;
    struct model_decoder_options o = {.slots = SLOTS, .queue = SLOTS};
    struct model_decoder_result result;
    struct model_decoder_stats before, after;
    int32_t prompt[90], done = 0, largest = 0;
    bool idle;
    ck_ok(model_decoder_new(m, &o, &d, err));
    struct model_decoder_request r = {.prompt = prompt,
                                      .n_prompt = 4,
                                      .generate = true,
                                      .max_new_tokens = STEPS + 10,
                                      .params = {1, 0, 1}};
    random_ids(1, 53, 90, prompt);
    ck_ok(model_decoder_submit(d, &r, err));
    ck_ok(model_decoder_step(d, &idle, err));
    r.max_new_tokens = 3;
    r.n_prompt = 90;
    for (uint32_t step = 0, k = 0; step < STEPS; step++) {
        for (; model_decoder_room(d) > 0; k++) {
            random_ids(2 + k, 53, 90, prompt);
            r.user = &prompt[k % 90];
            ck_ok(model_decoder_submit(d, &r, err));
        }
        model_decoder_get_stats(d, &before);
        ck_ok(model_decoder_step(d, &idle, err));
        model_decoder_get_stats(d, &after);
        int32_t given = (int32_t)(after.prefill_rows - before.prefill_rows);
        largest = SP_MAX(largest, given);
        ck_assert_uint_gt(after.sampled_tokens, before.sampled_tokens);
        ck_assert_int_le(given, SP_MAX(32, 2 * after.active));
        while (model_decoder_take_result(d, &result))
            done++;
    }
    ck_assert_int_eq(largest, 32);
    ck_assert_int_ge(done, STEPS * 32 / 90 - SLOTS / 2);
    model_decoder_free(d);
    model_free(m);
}
END_TEST

START_TEST(end_tokens_and_cuts)
{
    static struct outcome outcomes[N_REQUESTS];
    uint32_t order[N_REQUESTS];
    struct model *m = new_model(false);
    in_order(order);
    run(m, (struct model_decoder_options){.slots = 4}, order, N_REQUESTS, outcomes);
    for (int32_t i = 0; i < N_REQUESTS; i++) {
        struct ids ids;
        struct model_decoder_request r = request((uint32_t)i, &ids);
        const struct outcome *o = &outcomes[i];
        int32_t ends = 0;
        for (int32_t k = 0; k < o->n_ids; k++)
            ends += o->ids[k] == 2 || o->ids[k] == 7;
        if (!r.generate) {
            ck_assert_int_eq(o->finish, MODEL_FINISH_NONE);
        } else if (o->finish == MODEL_FINISH_STOP) {
            ck_assert_int_eq(ends, 1);
            ck_assert(o->ids[o->n_ids - 1] == 2 || o->ids[o->n_ids - 1] == 7);
        } else {
            ck_assert_int_eq(o->finish, MODEL_FINISH_LENGTH);
            ck_assert_int_eq(ends, 0);
            ck_assert_int_eq(o->n_ids, r.max_new_tokens);
        }
    }
    model_free(m);
}
END_TEST

START_TEST(seeds_and_keys_change_the_draws)
{
    struct model *m = new_model(false);
    struct model_decoder *d = NULL;
    struct model_decoder_options o = {.slots = 5};
    struct model_decoder_result result;
    struct ids ids;
    int32_t first[40], same = 0, taken = 0;
    bool idle;
    ck_ok(model_decoder_new(m, &o, &d, err));
    for (uintptr_t k = 0; k < 5; k++) {
        struct model_decoder_request r = request(0, &ids);
        r.max_new_tokens = 30;
        r.n_eos = 0;
        r.user = (void *)k;
        r.seed += k == 1;
        r.iteration += k == 2;
        r.prompt_key += k == 3;
        r.sample_key += k == 4;
        ck_ok(model_decoder_submit(d, &r, err));
    }
    for (idle = false; !idle;)
        ck_ok(model_decoder_step(d, &idle, err));
    while (model_decoder_take_result(d, &result)) {
        ck_assert_int_eq(result.n_ids, 30);
        if (taken++ == 0)
            memcpy(first, result.ids, sizeof(int32_t) * 30);
        same += memcmp(first, result.ids, sizeof(int32_t) * 30) == 0;
    }
    ck_assert_int_eq(taken, 5);
    ck_assert_int_eq(same, 1);
    model_decoder_free(d);
    model_free(m);
}
END_TEST

START_TEST(narrow_weights_and_cache_stay_close)
{
    struct model *m = new_model(false);
    float exact = 0;
    for (int k = 0; k < (int)SP_COUNT(widths); k++) {
        struct model_decoder_options o = of_width(k, 2);
        struct model_decoder *d = NULL;
        struct model_decoder_result result;
        struct ids ids;
        bool idle = false;
        struct model_decoder_request r = request(4, &ids);
        ck_ok(model_decoder_new(m, &o, &d, err));
        ck_ok(model_decoder_submit(d, &r, err));
        while (!idle)
            ck_ok(model_decoder_step(d, &idle, err));
        ck_assert(model_decoder_take_result(d, &result));
        float logprob = result.answers[0].logprob;
        if (k == 0)
            exact = logprob;
        else
            ck_assert(fabsf(logprob - exact) < 0.1f * (float)result.answers[0].n);
        if (k > 0 && cpu->activations == TN_F32) /* else all are narrow */
            ck_assert(logprob != exact);
        model_decoder_free(d);
    }
    model_free(m);
}
END_TEST

START_TEST(greedy_agrees_with_transformers)
{
    const char *dir = shared_data(STORIES);
    if (!dir)
        return;
    struct model *m = NULL;
    struct model_decoder *d = NULL;
    struct model_decoder_options o = {.slots = 3, .queue = 8};
    struct model_decoder_result result;
    json_t *golden = load_golden("stories.json"), *row, *rows = json_object_get(golden, "greedy");
    size_t i, seen = 0;
    bool idle = false;
    ck_ok(model_open(cpu, dir, &m, err));
    const struct model_config *c = model_get_config(m);
    ck_ok(model_decoder_new(m, &o, &d, err));
    json_array_foreach(rows, i, row)
    {
        struct model_decoder_request r = {.user = row,
                                          .generate = true,
                                          .max_new_tokens = 60,
                                          .params = {.temperature = 0, .top_p = 1},
                                          .n_eos = c->n_eos};
        int32_t *prompt = json_ids(json_object_get(row, "prompt"), &r.n_prompt);
        memcpy(r.eos_ids, c->eos_ids, sizeof(r.eos_ids));
        r.prompt = prompt;
        ck_ok(model_decoder_submit(d, &r, err));
        free(prompt);
    }
    while (!idle)
        ck_ok(model_decoder_step(d, &idle, err));
    while (model_decoder_take_result(d, &result)) {
        int32_t n;
        int32_t *ids = json_ids(json_object_get(result.user, "ids"), &n);
        ck_assert_int_eq(result.n_ids, n);
        ck_assert(memcmp(ids, result.ids, (size_t)n * sizeof(int32_t)) == 0);
        free(ids);
        seen++;
    }
    ck_assert_uint_eq(seen, json_array_size(rows));
    ck_assert_uint_ge(seen, 6);
    json_decref(golden);
    model_decoder_free(d);
    model_free(m);
}
END_TEST

static Suite *suite(void)
{
    Suite *s = suite_create("decoder");
    TCase *t = tcase_create("decoder");
    tcase_add_checked_fixture(t, setup, teardown);
    tcase_set_timeout(t, 30);
    tcase_add_loop_test(t, bits_do_not_depend_on_the_batch, 0, SP_COUNT(widths));
    tcase_add_test(t, logprobs_have_the_bits_of_the_training_pass);
    tcase_add_test(t, common_beginnings_are_run_once);
    tcase_add_test(t, requests_wait_for_room_in_the_cache);
    tcase_add_test(t, prompts_do_not_hold_up_what_runs);
    tcase_add_test(t, end_tokens_and_cuts);
    tcase_add_test(t, seeds_and_keys_change_the_draws);
    tcase_add_test(t, narrow_weights_and_cache_stay_close);
    tcase_add_test(t, greedy_agrees_with_transformers);
    suite_add_tcase(s, t);
    return s;
}

SPIN_CHECK_MAIN(suite())
