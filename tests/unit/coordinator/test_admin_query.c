/* Read-only admin verbs, on a run that create-run made and whose iterations are put in by hand. */
#include "coordinator/admin_query.h"
#include "proto/pairs_digest.h"
#include "tests/unit/coordinator/create_fixture.h"

struct aq {
    struct cf cf;
    struct store *reader;
    struct coord_query *query;
};

#define AQ_PAIRS 38 /* cf_new's 40 rows less 2 held out */

/* An answer spelled out, with its end token. */
static struct store_result answer(uint32_t set, uint64_t position, const char *text, int32_t *ids)
{
    uint32_t n = 0;
    for (; text[n]; n++)
        ids[n] = CF_ID(text[n]);
    ids[n++] = 1;
    return (struct store_result){.set = set,
                                 .position = position,
                                 .prompt = (uint32_t)position,
                                 .ids = {ids, n},
                                 .finish = PROTO_FINISH_STOP,
                                 .ref_real = -1,
                                 .ref_generated = -2,
                                 .worker = position % 2 ? "gen-1" : "gen-2"};
}

static void put_results(struct fx fx)
{
    int32_t ids[32];
    enum store_put put;
    struct store_result r;
    for (uint64_t p = 0; p < AQ_PAIRS; p++) {
        r = answer(PROTO_SET_TRAIN, p, "no", ids);
        r.at_ms = 1000 + 100 * (int64_t)p;
        OK(store_result_put(fx.run, &r, &put, &fx.err));
    }
    static const float player[2][2] = {{-0.5f, -2.5f}, {-1, -2}}; /* m > 0, and a tie */
    for (uint64_t p = 0; p < 2; p++) {
        r = answer(PROTO_SET_HOLDOUT, p, "no", ids);
        OK(store_result_put(fx.run, &r, &put, &fx.err));
        r = answer(PROTO_SET_HOLDOUT_PLAYER, p, "", ids);
        r.ids.count = 0;
        r.finish = PROTO_FINISH_NONE;
        r.ref_real = player[p][0];
        r.ref_generated = player[p][1];
        OK(store_result_put(fx.run, &r, &put, &fx.err));
    }
    static const char *const evals[][4] = {
        [0] = {"4", " 9 ", "5", "x"}, /* greedy: the reference is " 4", "9", "16", "x y" */
        [1] = {"4", "9", "16", "x y"},
        [2] = {"0", "0", "0", "0"},
        [3] = {"0", "9", "0", "0"},
    };
    for (uint32_t k = 0; k < 4; k++) {
        for (uint64_t p = 0; p < 4; p++) {
            r = answer(PROTO_SET_EVAL_GREEDY + k, p, evals[k][p], ids);
            OK(store_result_put(fx.run, &r, &put, &fx.err));
        }
    }
}

static void put_iteration(struct fx fx)
{
    struct store_iteration it = {.state = STORE_STATE_CLOSED,
                                 .return_state = STORE_STATE_CLOSED,
                                 .seed = 1,
                                 .prompts = AQ_PAIRS,
                                 .samples_per_prompt = 1,
                                 .new_pairs = AQ_PAIRS,
                                 .steps_total = 3,
                                 .started_ms = 1000,
                                 .generated_ms = 2000,
                                 .closed_ms = 5500,
                                 .verdict = "improved",
                                 .accepted = true,
                                 .summary = "{\"n\":2}"};
    fx_digest(&it.checkpoint, "c0");
    fx_digest(&it.checkpoint_manifest, "m0");
    fx_digest(&it.pairs_sha256, "p0");
    OK(store_iteration_put(fx.run, &it, &fx.err));
    struct store_checkpoint checkpoint = {.digest = it.checkpoint,
                                          .manifest = it.checkpoint_manifest,
                                          .provenance = "{\"who\":\"t\"}"};
    OK(store_checkpoint_put(fx.run, &checkpoint, &fx.err));
    for (uint64_t i = 1; i <= 3; i++) {
        struct proto_step_metrics step = {.step = i,
                                          .loss = i == 1 ? 0.6931 : 0.5,
                                          .margin = (double)i,
                                          .margin_abs_max = i == 1 ? 1e-4 : 3,
                                          .grad_norm = (double)NAN,
                                          .pairs = 20,
                                          .identical = 5,
                                          .tokens = 1000,
                                          .milliseconds = 250};
        OK(store_step_put(fx.run, 0, &step, &fx.err));
    }
    struct store_event event = {
        .at_ms = 7, .iteration = 0, .actor = "a\xff", .kind = "state", .text = "t", .detail = "{}"};
    OK(store_event_append(fx.store, fx.run, &event, &fx.err));
}

static struct aq aq_new(void)
{
    struct aq aq = {.cf = cf_new()};
    cf_data(&aq.cf, "eval",
            "{\"prompt\":\"2+2=\",\"response\":\" 4\"}\n"
            "{\"prompt\":\"3*3=\",\"response\":\"9\"}\n"
            "{\"prompt\":\"4*4=\",\"response\":\"16\"}\n"
            "{\"prompt\":\"?\",\"response\":\"x y\"}\n");
    cf_make(&aq.cf);
    struct fx fx = aq.cf.fx;
    store_begin(fx.store);
    put_results(fx);
    put_iteration(fx);
    OK(store_commit(fx.store, &fx.err));
    OK(store_open_reader(fx.dir, NULL, &aq.reader, &fx.err));
    aq.query = coord_query_new(aq.reader, aq.cf.blobs);
    return aq;
}

static void aq_free(struct aq *aq)
{
    coord_query_free(aq->query);
    store_close(aq->reader);
    cf_free(&aq->cf);
}

static json_t *ask(struct aq *aq, const char *verb, const char *run, const char *args)
{
    struct fx fx = {0};
    json_t *reply = NULL;
    OK(coord_query_run(aq->query, verb, run, args, &reply, &fx.err));
    return reply;
}

/* "a.b.0.c" */
static const json_t *at(const json_t *value, const char *path)
{
    char part[64];
    while (value && *path) {
        size_t n = strcspn(path, ".");
        memcpy(part, path, n);
        part[n] = '\0';
        value = json_is_array(value) ? json_array_get(value, (size_t)atoi(part))
                                     : json_object_get(value, part);
        path += n + (path[n] == '.');
    }
    return value;
}
#define NUMBER(reply, path, want)                                                                  \
    ck_assert_double_eq_tol(json_number_value(at(reply, path)), want, 1e-9)
#define TEXT(reply, path, want) ck_assert_str_eq(json_string_value(at(reply, path)), want)
#define NOTHING(reply, path) ck_assert(json_is_null(at(reply, path)))

START_TEST(test_iterations)
{
    struct aq aq = aq_new();
    for (int again = 0; again < 2; again++) { /* the second time from memory */
        json_t *reply = ask(&aq, "iterations", "demo", "");
        NUMBER(reply, "iterations.0.iteration", 0);
        TEXT(reply, "iterations.0.state", "closed");
        TEXT(reply, "iterations.0.verdict", "improved");
        NUMBER(reply, "iterations.0.loss_first_step", 0.6931);
        NUMBER(reply, "iterations.0.margin_abs_max_first_step", 1e-4);
        NUMBER(reply, "iterations.0.loss_last_step", 0.5);
        NUMBER(reply, "iterations.0.margin_last", 3);
        NUMBER(reply, "iterations.0.holdout_accuracy", 0.75);
        NUMBER(reply, "iterations.0.identical_share", 0.25);
        NUMBER(reply, "iterations.0.eval_n", 4);
        NUMBER(reply, "iterations.0.exact_match", 0.5);
        NUMBER(reply, "iterations.0.sampled_exact_match", 1);
        /* Wilson's interval of 2 in 4. */
        ck_assert_double_eq_tol(json_number_value(at(reply, "iterations.0.exact_match_interval.0")),
                                0.1500, 1e-3);
        ck_assert_double_eq_tol(json_number_value(at(reply, "iterations.0.exact_match_interval.1")),
                                0.8500, 1e-3);
        NUMBER(reply, "iterations.0.generated_ms", 2000);
        NUMBER(reply, "iterations.0.base.exact_match", 0);
        NUMBER(reply, "iterations.0.base.sampled_exact_match", 0.25);
        NUMBER(reply, "iterations.0.pairs", AQ_PAIRS);
        NUMBER(reply, "iterations.0.train_tokens", 3000);
        NUMBER(reply, "iterations.0.generated_tokens", 3 * AQ_PAIRS);
        NUMBER(reply, "iterations.0.seconds", 4.5);
        NUMBER(reply, "iterations.0.generation_seconds", 1);
        NUMBER(reply, "iterations.0.pairs_by_generator.gen-1", 19);
        NUMBER(reply, "iterations.0.pairs_by_generator.gen-2", 19);
        NUMBER(reply, "iterations.0.statistics.n", 2);
        struct sp_digest digest;
        char hex[SP_DIGEST_HEX];
        fx_digest(&digest, "c0");
        sp_digest_hex(&digest, hex);
        TEXT(reply, "iterations.0.checkpoint_sha256", hex);
        fx_digest(&digest, "p0");
        sp_digest_hex(&digest, hex);
        TEXT(reply, "iterations.0.pairs_sha256", hex);
        NOTHING(reply, "iterations.0.pairs_chain");
        json_decref(reply);
    }
    aq_free(&aq);
}
END_TEST

/* Results by worker, kind and slice of 38 ms; what has an earlier time than the start counts as of
 * the first slice. */
START_TEST(test_timeline)
{
    struct aq aq = aq_new();
    json_t *reply = ask(&aq, "timeline", "demo", "{\"iteration\":0}"), *slice;
    NUMBER(reply, "start_ms", 1000);
    NUMBER(reply, "slice_ms", 38);
    double train = 0, verdict = 0, eval = 0, last = 0;
    size_t i;
    json_array_foreach(json_object_get(reply, "slices"), i, slice)
    {
        const char *kind = json_string_value(at(slice, "kind"));
        double results = json_number_value(at(slice, "results"));
        double number = json_number_value(at(slice, "slice"));
        if (strcmp(kind, "train") == 0) {
            train += results;
            last = number > last ? number : last;
        } else {
            *(strcmp(kind, "eval") == 0 ? &eval : &verdict) += results;
            ck_assert_double_eq(number, 0);
        }
    }
    ck_assert_double_eq(train, AQ_PAIRS);
    ck_assert_double_eq(verdict, 4);
    ck_assert_double_eq(eval, 16);
    ck_assert_double_eq(last, 100 * (AQ_PAIRS - 1) / 38);
    json_decref(reply);
    aq_free(&aq);
}
END_TEST

static struct proto_ids ids_of(const json_t *array, int32_t *to)
{
    for (size_t i = 0; i < json_array_size(array); i++)
        to[i] = (int32_t)json_integer_value(json_array_get(array, i));
    return (struct proto_ids){to, (uint32_t)json_array_size(array)};
}

/* The listing is enough to compute pairs_sha256 from outside. */
START_TEST(test_pairs_digest_from_listing)
{
    struct aq aq = aq_new();
    struct fx fx = aq.cf.fx;
    struct pairs_digest *listed = pairs_digest_new(), *stored = pairs_digest_new();
    for (uint64_t offset = 0; offset < AQ_PAIRS;) {
        char *args = sp_xprintf("{\"offset\":%d,\"limit\":10}", (int)offset);
        json_t *reply = ask(&aq, "pairs", "demo", args);
        free(args);
        const json_t *rows = json_object_get(reply, "pairs");
        for (size_t i = 0; i < json_array_size(rows); i++) {
            const json_t *row = json_array_get(rows, i);
            int32_t a[64], b[64], c[64];
            uint32_t bits[2];
            struct proto_train_pair pair = {
                .position = offset,
                .source_iteration = (uint32_t)json_integer_value(at(row, "source_iteration")),
                .prompt = (uint32_t)json_integer_value(at(row, "prompt")),
                .sample = (uint32_t)json_integer_value(at(row, "sample")),
                .prompt_ids = ids_of(at(row, "prompt_ids"), a),
                .real_ids = ids_of(at(row, "real_ids"), b),
                .generated_ids = ids_of(at(row, "generated_ids"), c),
                .finish = (uint32_t)json_integer_value(at(row, "finish_code"))};
            bits[0] = (uint32_t)strtoul(json_string_value(at(row, "ref_real_bits")), NULL, 16);
            bits[1] = (uint32_t)strtoul(json_string_value(at(row, "ref_generated_bits")), NULL, 16);
            memcpy(&pair.ref_real, &bits[0], 4);
            memcpy(&pair.ref_generated, &bits[1], 4);
            pairs_digest_add(listed, &pair);
            struct store_pair_key key = {offset, 0, (uint32_t)offset, 0};
            OK(store_pairs_read(fx.run, 0, PROTO_SET_TRAIN, STORE_SPLIT_TRAIN, &key, 1, fx.arena,
                                &pair, NULL, &fx.err));
            pairs_digest_add(stored, &pair);
            offset++;
        }
        json_decref(reply);
    }
    struct sp_digest x, y;
    pairs_digest_final(listed, &x);
    pairs_digest_final(stored, &y);
    ck_assert(sp_digest_equal(&x, &y));
    pairs_digest_free(listed);
    pairs_digest_free(stored);
    aq_free(&aq);
}
END_TEST

START_TEST(test_pairs_text)
{
    struct aq aq = aq_new();
    json_t *reply = ask(&aq, "pairs", "demo", "{\"iteration\":0,\"offset\":37,\"limit\":5}");
    ck_assert_uint_eq(json_array_size(at(reply, "pairs")), 1);
    NUMBER(reply, "total", AQ_PAIRS);
    TEXT(reply, "pairs.0.generated_text", "no");
    ck_assert(strncmp(json_string_value(at(reply, "pairs.0.prompt_text")), "train ", 6) == 0);
    ck_assert(strncmp(json_string_value(at(reply, "pairs.0.real_text")), "answer ", 7) == 0);
    TEXT(reply, "pairs.0.finish", "stop");
    TEXT(reply, "pairs.0.ref_real_bits", "bf800000");
    NUMBER(reply, "pairs.0.ref_generated", -2);
    json_decref(reply);
    reply = ask(&aq, "pairs", "demo", "{\"offset\":38}");
    ck_assert_uint_eq(json_array_size(at(reply, "pairs")), 0);
    json_decref(reply);
    reply = ask(&aq, "pairs", "demo", "{\"set\":\"eval_greedy\",\"limit\":2}");
    TEXT(reply, "pairs.1.generated_text", " 9 ");
    TEXT(reply, "pairs.0.reference", " 4");
    json_decref(reply);
    reply = ask(&aq, "pairs", "demo", "{\"set\":\"trained\"}"); /* nothing is stored there */
    ck_assert(json_is_false(at(reply, "pairs.0.stored")));
    NOTHING(reply, "pairs.0.ref_real");
    TEXT(reply, "pairs.0.ref_real_bits", "7fc00000");
    json_decref(reply);
    aq_free(&aq);
}
END_TEST

START_TEST(test_listings)
{
    struct aq aq = aq_new();
    json_t *reply = ask(&aq, "runs", "", "");
    TEXT(reply, "runs.0.name", "demo");
    TEXT(reply, "runs.0.mode", "spin");
    NUMBER(reply, "runs.0.prompts.train", AQ_PAIRS);
    NUMBER(reply, "runs.0.iteration.number", 0);
    json_decref(reply);
    reply = ask(&aq, "settings", "demo", "");
    const json_t *template = json_object_get(at(reply, "settings"), "data.template");
    ck_assert_str_eq(json_string_value(template), "none");
    json_decref(reply);
    reply = ask(&aq, "data", "demo", "");
    NUMBER(reply, "data.vocab", CF_VOCAB);
    json_decref(reply);
    reply = ask(&aq, "steps", "demo", "{\"after\":1,\"limit\":1}");
    ck_assert_uint_eq(json_array_size(at(reply, "steps")), 1);
    NUMBER(reply, "steps.0.step", 2);
    NOTHING(reply, "steps.0.grad_norm");
    json_decref(reply);
    reply = ask(&aq, "events", "demo", "{}");
    TEXT(reply, "events.0.kind", "audit"); /* of its making */
    NUMBER(reply, "events.1.at_ms", 7);
    TEXT(reply, "events.1.actor", "a?"); /* bytes that are not UTF-8 */
    json_decref(reply);
    reply = ask(&aq, "events", "", "{\"after\":5}");
    ck_assert_uint_eq(json_array_size(at(reply, "events")), 0);
    json_decref(reply);
    reply = ask(&aq, "token-list", "", "");
    ck_assert_uint_eq(json_array_size(at(reply, "tokens")), 0);
    json_decref(reply);
    reply = ask(&aq, "workers", "", "");
    ck_assert_uint_eq(json_array_size(at(reply, "workers")), 0);
    json_decref(reply);
    aq_free(&aq);
}
END_TEST

START_TEST(test_checkpoints)
{
    struct aq aq = aq_new();
    struct sp_digest digest;
    char hex[SP_DIGEST_HEX];
    fx_digest(&digest, "c0");
    sp_digest_hex(&digest, hex);
    json_t *reply = ask(&aq, "checkpoints", "", "");
    ck_assert_uint_eq(json_array_size(at(reply, "checkpoints")), 2);
    NUMBER(reply, "checkpoints.0.iteration", -1);
    TEXT(reply, "checkpoints.1.digest", hex);
    TEXT(reply, "checkpoints.1.verdict", "improved");
    ck_assert(json_number_value(at(reply, "checkpoints.0.bytes")) > 100);
    json_decref(reply);
    char *prefix = sp_xprintf("{\"digest\":\"%.9s\"}", hex);
    const char *const asked[][2] = {{"", prefix}, {"demo", ""}, {"demo", "{\"iteration\":0}"}};
    for (size_t i = 0; i < SP_COUNT(asked); i++) {
        reply = ask(&aq, "checkpoint", asked[i][0], asked[i][1]);
        TEXT(reply, "digest", hex);
        TEXT(reply, "provenance.trainer.who", "t");
        NUMBER(reply, "provenance.results_by_worker.gen-1", 19);
        ck_assert(json_is_string(at(reply, "provenance.base")));
        ck_assert(json_is_object(at(reply, "provenance.settings")));
        json_decref(reply);
    }
    free(prefix);
    reply = ask(&aq, "checkpoint", "demo", "{\"iteration\":-1}");
    NUMBER(reply, "iteration", -1);
    json_decref(reply);
    aq_free(&aq);
}
END_TEST

/* Iterations 1 and 3 have changed nothing, so that their checkpoint is iteration 0's; 2 made it
 * worse. */
static void put_more_iterations(struct aq *aq)
{
    struct fx fx = aq->cf.fx;
    struct store_iteration it = {.iteration = 1,
                                 .state = STORE_STATE_CLOSED,
                                 .return_state = STORE_STATE_CLOSED,
                                 .verdict = "plateau",
                                 .accepted = true,
                                 .summary = ""};
    store_begin(fx.store);
    for (; it.iteration <= 3; it.iteration++) {
        bool worse = it.iteration == 2;
        fx_digest(&it.checkpoint, worse ? "c2" : "c0");
        fx_digest(&it.checkpoint_manifest, worse ? "m2" : "m0");
        it.verdict = worse ? "degraded" : "plateau";
        it.accepted = it.iteration == 1;
        struct store_checkpoint checkpoint = {.iteration = (int32_t)it.iteration,
                                              .digest = it.checkpoint,
                                              .manifest = it.checkpoint_manifest,
                                              .provenance = "{}"};
        OK(store_iteration_put(fx.run, &it, &fx.err));
        OK(store_checkpoint_put(fx.run, &checkpoint, &fx.err));
    }
    OK(store_commit(fx.store, &fx.err));
}

START_TEST(test_checkpoints_by_what_their_iterations_say)
{
    static const struct {
        const char *args, *digest;
        int iteration;
        const char *verdict;
    } cases[] = {
        {"{\"iteration\":0}", "c0", 0, "improved"}, {"{\"iteration\":1}", "c0", 1, "plateau"},
        {"{\"iteration\":2}", "c2", 2, "degraded"}, {"{}", "c0", 3, "plateau"},
        {"{\"best\":true}", "c0", 1, "plateau"},
    };
    struct aq aq = aq_new();
    put_more_iterations(&aq);
    for (size_t i = 0; i < SP_COUNT(cases); i++) {
        struct sp_digest digest;
        char hex[SP_DIGEST_HEX];
        fx_digest(&digest, cases[i].digest);
        sp_digest_hex(&digest, hex);
        json_t *reply = ask(&aq, "checkpoint", "demo", cases[i].args);
        TEXT(reply, "digest", hex);
        NUMBER(reply, "iteration", cases[i].iteration);
        TEXT(reply, "verdict", cases[i].verdict);
        NUMBER(reply, "provenance.iteration", cases[i].iteration);
        json_decref(reply);
    }
    aq_free(&aq);
}
END_TEST

START_TEST(test_refused)
{
    struct aq aq = aq_new();
    struct fx fx = {0};
    static const struct {
        const char *verb, *run, *args;
        enum sp_err code;
    } bad[] = {
        {"nonsense", "", "", SP_EUNSUPPORTED},
        {"iterations", "", "", SP_EINVAL},
        {"iterations", "other", "", SP_ENOTFOUND},
        {"iterations", "../demo", "", SP_ENOTFOUND},
        {"steps", "demo", "{", SP_EFORMAT},
        {"steps", "demo", "[]", SP_EINVAL},
        {"steps", "demo", "{\"iteration\":7}", SP_ENOTFOUND},
        {"steps", "demo", "{\"iteration\":-7}", SP_EINVAL},
        {"steps", "demo", "{\"iteration\":\"0\"}", SP_EINVAL},
        {"steps", "demo", "{\"limit\":0}", SP_EINVAL},
        {"events", "demo", "{\"limit\":100000}", SP_EINVAL},
        {"events", "demo", "{\"after\":-1}", SP_EINVAL},
        {"pairs", "demo", "{\"set\":\"x\"}", SP_EINVAL},
        {"pairs", "demo", "{\"set\":3}", SP_EINVAL},
        {"pairs", "demo", "{\"offset\":1.5}", SP_EINVAL},
        {"checkpoint", "", "", SP_EINVAL},
        {"checkpoint", "", "{\"digest\":\"00000000\"}", SP_ENOTFOUND},
        {"checkpoint", "", "{\"digest\":\"zz\"}", SP_EINVAL},
        {"checkpoint", "", "{\"digest\":5}", SP_EINVAL},
        {"checkpoint", "demo", "{\"iteration\":4}", SP_ENOTFOUND},
    };
    for (size_t i = 0; i < SP_COUNT(bad); i++) {
        json_t *reply = NULL;
        enum sp_err rc =
            coord_query_run(aq.query, bad[i].verb, bad[i].run, bad[i].args, &reply, &fx.err);
        ck_assert_msg(rc == bad[i].code, "case %zu: %s: %s", i, sp_err_name(rc), fx.err.text);
        ck_assert(fx.err.text[0] != '\0');
    }
    ck_assert(coord_query_knows("pairs"));
    ck_assert(!coord_query_knows("status"));
    aq_free(&aq);
}
END_TEST

static Suite *suite(void)
{
    Suite *s = suite_create("admin_query");
    TCase *t = tcase_create("admin_query");
    tcase_add_test(t, test_iterations);
    tcase_add_test(t, test_timeline);
    tcase_add_test(t, test_pairs_digest_from_listing);
    tcase_add_test(t, test_pairs_text);
    tcase_add_test(t, test_listings);
    tcase_add_test(t, test_checkpoints);
    tcase_add_test(t, test_checkpoints_by_what_their_iterations_say);
    tcase_add_test(t, test_refused);
    suite_add_tcase(s, t);
    return s;
}

SPIN_CHECK_MAIN(suite())
