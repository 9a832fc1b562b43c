/* create-run: from blobs and settings to a run's file. */
#include <sqlite3.h>

#include "tests/unit/coordinator/create_fixture.h"

static const json_t *split_of(const json_t *report, int i)
{
    return json_array_get(json_object_get(report, "splits"), (size_t)i);
}

static int64_t number(const json_t *object, const char *key)
{
    const json_t *value = json_object_get(object, key);
    ck_assert_msg(json_is_integer(value), "no number \"%s\"", key);
    return json_integer_value(value);
}

static bool warns(const json_t *report, const char *words)
{
    const json_t *list = json_object_get(report, "warnings");
    for (size_t i = 0; i < json_array_size(list); i++) {
        if (strstr(json_string_value(json_array_get(list, i)), words))
            return true;
    }
    return false;
}

START_TEST(test_small_run)
{
    struct cf cf = cf_new();
    struct fx fx = cf.fx;
    cf_data(&cf, "eval", "{\"prompt\":\"2+2=\",\"response\":\" 4\"}\n");
    json_t *report = NULL;
    OK(cf_create(&cf, &report, &fx.err));
    ck_assert_int_eq(number(split_of(report, 0), "rows"), 38);
    ck_assert_int_eq(number(split_of(report, 0), "used"), 38);
    ck_assert_int_eq(number(split_of(report, 1), "used"), 2); /* 5 % of 40 */
    ck_assert_int_eq(number(split_of(report, 2), "used"), 1);
    ck_assert_int_eq(number(split_of(report, 0), "response_tokens_max"), 10);
    ck_assert_str_eq(json_string_value(json_object_get(report, "format")), "prompt_response");
    ck_assert_str_eq(json_string_value(json_object_get(report, "template")), "none");
    ck_assert(warns(report, "min_pairs"));
    json_decref(report);
    store_begin(fx.store);
    OK(store_run_adopt(fx.store, "demo", &fx.err));
    OK(store_commit(fx.store, &fx.err));
    OK(store_run_open(fx.store, "demo", &fx.run, &fx.err));
    struct store_prompt prompt;
    OK(store_prompts_get(fx.run, STORE_SPLIT_EVAL, 0, 1, fx.arena, &prompt, &fx.err));
    ck_assert_uint_eq(prompt.prompt_ids.count, 4);
    ck_assert_int_eq(prompt.prompt_ids.ids[0], CF_ID('2'));
    ck_assert_uint_eq(prompt.real_ids.count, 3); /* " 4" and the end token */
    ck_assert_int_eq(prompt.real_ids.ids[2], 1);
    ck_assert_str_eq(prompt.response, " 4");
    struct store_run_info info;
    OK(store_run_info(fx.run, fx.arena, &info, &fx.err));
    ck_assert_int_eq(info.created_ms, 1234);
    int32_t vocab = 0, *stop = NULL;
    uint32_t stops = 0;
    OK(coord_run_model(info.data, &vocab, &stop, &stops, &fx.err));
    ck_assert_int_eq(vocab, CF_VOCAB);
    ck_assert_uint_eq(stops, 1);
    ck_assert_int_eq(stop[0], 1);
    free(stop);
    char *tmp = sp_path_join(fx.dir, "tmp/demo");
    ck_assert(!sp_path_exists(tmp));
    free(tmp);
    cf.fx = fx;
    cf_free(&cf);
}
END_TEST

static void data_digest(struct cf *cf, struct sp_digest *ret)
{
    struct fx fx = cf->fx;
    struct store_run_info info;
    cf_make(cf);
    OK(store_run_info(cf->fx.run, fx.arena, &info, &fx.err));
    *ret = info.data_digest;
}

/* The same data and seed give the same prompts; another seed holds out others. */
START_TEST(test_deterministic_split)
{
    struct sp_digest digests[3];
    for (int i = 0; i < 3; i++) {
        struct cf cf = cf_new();
        cf_set(&cf, i == 2 ? "run.seed=8" : "run.seed=7");
        data_digest(&cf, &digests[i]);
        cf_free(&cf);
    }
    ck_assert(sp_digest_equal(&digests[0], &digests[1]));
    ck_assert(!sp_digest_equal(&digests[0], &digests[2]));
}
END_TEST

START_TEST(test_limits)
{
    struct cf cf = cf_new();
    struct fx fx = cf.fx;
    char *rows = cf_rows("held", 30);
    cf_data(&cf, "holdout", rows);
    free(rows);
    cf_set(&cf, "data.train_limit=11");
    cf_set(&cf, "data.holdout_limit=7");
    json_t *report = NULL;
    OK(cf_create(&cf, &report, &fx.err));
    ck_assert_int_eq(number(split_of(report, 0), "used"), 11);
    ck_assert_int_eq(number(split_of(report, 0), "limited"), 29);
    ck_assert_int_eq(number(split_of(report, 1), "used"), 7);
    ck_assert_int_eq(number(split_of(report, 1), "limited"), 23);
    json_decref(report);
    cf_free(&cf);
}
END_TEST

/* train_limit without a holdout file: as many training rows, the held-out ones beside them. */
START_TEST(test_limit_with_share)
{
    struct cf cf = cf_new();
    struct fx fx = cf.fx;
    cf_set(&cf, "data.train_limit=20");
    cf_set(&cf, "data.holdout_share=0.2");
    json_t *report = NULL;
    OK(cf_create(&cf, &report, &fx.err));
    ck_assert_int_eq(number(split_of(report, 0), "used"), 20);
    ck_assert_int_eq(number(split_of(report, 1), "used"), 5);
    json_decref(report);
    cf_free(&cf);
}
END_TEST

/* Long rows are counted and left out, or refused; duplicates and long answers are warned of. */
START_TEST(test_long_and_double)
{
    struct cf cf = cf_new();
    struct fx fx = cf.fx;
    struct sp_buf rows = SP_BUF_INIT;
    for (int i = 0; i < 20; i++)
        sp_buf_printf(&rows, "{\"prompt\":\"p%d\",\"response\":\"%.*s\"}\n", i % 19, i < 3 ? 30 : 5,
                      "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa");
    for (int i = 0; i < 2; i++)
        sp_buf_printf(&rows, "{\"prompt\":\"%070d\",\"response\":\"x\"}\n", i);
    sp_buf_printf(&rows, "{\"prompt\":\"%050d\",\"response\":\"%090d\"}\n", 1, 1);
    cf_data(&cf, "train", rows.data);
    sp_buf_deinit(&rows);
    cf_data(&cf, "holdout",
            "{\"prompt\":\"p4\",\"response\":\"x\"}\n"
            "{\"prompt\":\"new\",\"response\":\"x\"}\n");
    json_t *report = NULL;
    OK(cf_create(&cf, &report, &fx.err));
    ck_assert_int_eq(number(split_of(report, 0), "rows"), 23);
    ck_assert_int_eq(number(split_of(report, 0), "used"), 20);
    ck_assert_int_eq(number(split_of(report, 0), "overlong"), 3);
    const json_t *same = json_object_get(report, "duplicates");
    ck_assert_int_eq(number(same, "train"), 1);
    ck_assert_int_eq(number(same, "holdout_in_train"), 1);
    ck_assert(warns(report, "1 of 2 held-out prompts"));
    ck_assert(warns(report, "15.0 % of the human answers"));
    ck_assert(warns(report, "3 of 23 training rows are left out"));
    json_decref(report);
    cf_free(&cf);

    cf = cf_new();
    fx = cf.fx;
    cf_set(&cf, "data.overlong=error");
    cf_set(&cf, "data.max_prompt_tokens=7");
    FAILS(SP_ELIMIT, cf_create(&cf, &report, &fx.err));
    ck_assert_ptr_nonnull(strstr(fx.err.text, "train.jsonl:11"));
    ck_assert_ptr_nonnull(strstr(fx.err.text, "max_prompt_tokens"));
    cf_free(&cf);
}
END_TEST

START_TEST(test_model_positions)
{
    struct cf cf = cf_new();
    struct fx fx = cf.fx;
    cf_set(&cf, "data.max_sequence_tokens=2048");
    json_t *report = NULL;
    OK(cf_create(&cf, &report, &fx.err));
    ck_assert(warns(report, "the model has 200 positions"));
    json_decref(report);
    cf_free(&cf);
}
END_TEST

START_TEST(test_dpo_needs_both_answers)
{
    struct cf cf = cf_new();
    struct fx fx = cf.fx;
    json_t *report = NULL;
    cf_set(&cf, "run.mode=dpo");
    FAILS(SP_EFORMAT, cf_create(&cf, &report, &fx.err));
    ck_assert_ptr_nonnull(strstr(fx.err.text, "rejected"));
    cf_data(&cf, "train", "{\"prompt\":\"p\",\"chosen\":\"good\",\"rejected\":\"bad\"}\n");
    cf_set(&cf, "data.holdout_share=0");
    cf_make(&cf);
    fx = cf.fx;
    struct store_prompt prompt;
    OK(store_prompts_get(fx.run, STORE_SPLIT_TRAIN, 0, 1, fx.arena, &prompt, &fx.err));
    ck_assert_uint_eq(prompt.real_ids.count, 5);
    ck_assert_uint_eq(prompt.rejected_ids.count, 4);
    ck_assert_int_eq(prompt.rejected_ids.ids[0], CF_ID('b'));
    cf_free(&cf);
}
END_TEST

/* Given answers are only used where they are trained on: a run of mode spin samples its own. */
START_TEST(test_spin_ignores_given_answers)
{
    struct cf cf = cf_new();
    cf_data(&cf, "train", "{\"prompt\":\"p\",\"chosen\":\"good\",\"rejected\":\"bad\"}\n");
    cf_set(&cf, "data.holdout_share=0");
    cf_make(&cf);
    struct fx fx = cf.fx;
    struct store_prompt prompt;
    OK(store_prompts_get(fx.run, STORE_SPLIT_TRAIN, 0, 1, fx.arena, &prompt, &fx.err));
    ck_assert_uint_eq(prompt.rejected_ids.count, 0);
    cf_free(&cf);
}
END_TEST

START_TEST(test_again)
{
    struct cf cf = cf_new();
    cf_make(&cf);
    struct fx fx = cf.fx;
    json_t *report = NULL;
    FAILS(SP_EEXIST, cf_create(&cf, &report, &fx.err));
    cf_set(&cf, "model.base=elsewhere"); /* the same bytes from another place */
    char *args = sp_json_canonical(cf.args), *text = NULL;
    OK(coord_create_run_same(fx.run, args, &text, &fx.err));
    ck_assert_ptr_nonnull(strstr(text, "\"existing\":true"));
    free(args);
    free(text);
    cf_set(&cf, "run.seed=99");
    args = sp_json_canonical(cf.args);
    FAILS(SP_EEXIST, coord_create_run_same(fx.run, args, &text, &fx.err));
    free(args);
    cf_set(&cf, "run.seed=1");
    cf_data(&cf, "train", "{\"prompt\":\"other\",\"response\":\"data\"}\n");
    args = sp_json_canonical(cf.args);
    FAILS(SP_EEXIST, coord_create_run_same(fx.run, args, &text, &fx.err));
    free(args);
    cf_free(&cf);
}
END_TEST

/* Made by a version that knew fewer settings: the same file still makes the same run. */
START_TEST(test_again_after_an_upgrade)
{
    struct cf cf = cf_new();
    cf_make(&cf);
    struct fx fx = cf.fx;
    char *path = sp_xprintf("%s/runs/%s.db", fx.dir, store_run_name(fx.run));
    sqlite3 *db = NULL;
    ck_assert_int_eq(sqlite3_open_v2(path, &db, SQLITE_OPEN_READWRITE, NULL), SQLITE_OK);
    ck_assert_int_eq(
        sqlite3_exec(db, "UPDATE info SET settings = json_remove(settings, '$.\"data.turns\"')",
                     NULL, NULL, NULL),
        SQLITE_OK);
    ck_assert_int_eq(sqlite3_changes(db), 1);
    ck_assert_int_eq(sqlite3_close(db), SQLITE_OK);
    free(path);
    char *args = sp_json_canonical(cf.args), *text = NULL;
    OK(coord_create_run_same(fx.run, args, &text, &fx.err));
    free(args);
    free(text);
    cf_set(&cf, "data.turns=all"); /* other than the default that the stored ones get */
    args = sp_json_canonical(cf.args);
    FAILS(SP_EEXIST, coord_create_run_same(fx.run, args, &text, &fx.err));
    free(args);
    cf_free(&cf);
}
END_TEST

static bool always(void *context)
{
    return true;
}

/* A conversation is one pair, its last or its first, or a pair for each answer; an answer that is
 * empty is none. */
START_TEST(test_turns)
{
    static const struct {
        const char *setting;
        int used, empty, prompt_max;
    } cases[] = {{"data.turns=last", 2, 0, 53},
                 {"data.turns=first", 2, 0, 16},
                 {"data.turns=all", 4, 1, 53}};
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct cf cf = cf_new();
        struct fx fx = cf.fx;
        cf_data(&cf, "train",
                "{\"messages\":[{\"role\":\"user\",\"content\":\"a\"},"
                "{\"role\":\"assistant\",\"content\":\"b\"},{\"role\":\"user\",\"content\":\"c\"},"
                "{\"role\":\"assistant\",\"content\":\"\"},{\"role\":\"user\",\"content\":\"e\"},"
                "{\"role\":\"assistant\",\"content\":\"f\"}]}\n"
                "{\"messages\":[{\"role\":\"user\",\"content\":\"a\"},"
                "{\"role\":\"assistant\",\"content\":\"b\"},{\"role\":\"user\",\"content\":\"c\"},"
                "{\"role\":\"assistant\",\"content\":\"d\"}]}\n");
        cf_set(&cf, "data.holdout_share=0");
        cf_set(&cf, "data.template=mistral-v1");
        cf_set(&cf, cases[i].setting);
        json_t *report = NULL;
        OK(cf_create(&cf, &report, &fx.err));
        ck_assert_int_eq(number(split_of(report, 0), "used"), cases[i].used);
        ck_assert_int_eq(number(split_of(report, 0), "empty"), cases[i].empty);
        ck_assert_int_eq(number(split_of(report, 0), "prompt_tokens_max"), cases[i].prompt_max);
        json_decref(report);
        cf_free(&cf);
    }
}
END_TEST

START_TEST(test_cancelled)
{
    struct cf cf = cf_new();
    struct fx fx = cf.fx;
    char *args = sp_json_canonical(cf.args), *name = NULL, *report = NULL;
    struct coord_create_run request = {
        .state_dir = fx.dir, .blobs = cf.blobs, .args = args, .cancelled = always};
    /* Asked every 256 rows, so the first time is at row 0 of the second reading. */
    FAILS(SP_ECANCELED, coord_create_run(&request, &name, &report, &fx.err));
    char *left = sp_xprintf("%s/runs/demo.db.new", fx.dir);
    ck_assert(!sp_path_exists(left));
    free(left);
    free(args);
    json_t *json = NULL;
    OK(cf_create(&cf, &json, &fx.err)); /* nothing of the first try is in the way */
    json_decref(json);
    cf_free(&cf);
}
END_TEST

/* ---- hostile and wrong input ---- */

static void expect_refused(struct cf *cf, enum sp_err code, const char *words)
{
    struct sp_error err = {0};
    json_t *report = NULL;
    enum sp_err rc = cf_create(cf, &report, &err);
    ck_assert_msg(rc == code && strstr(err.text, words), "%s \"%s\", expected %s with \"%s\"",
                  sp_err_name(rc), err.text, sp_err_name(code), words);
}

START_TEST(test_bad_arguments)
{
    struct fx fx = {0};
    static const char *const bad[] = {"",
                                      "[]",
                                      "{",
                                      "{}",
                                      "{\"settings\":{}}",
                                      "{\"settings\":3}",
                                      "{\"settings\":{\"run.name\":\"x\"}}",
                                      "null"};
    for (size_t i = 0; i < SP_COUNT(bad); i++) {
        char *name = NULL;
        ck_assert_msg(coord_create_run_name(bad[i], &name, &fx.err) != SP_OK, "case %zu", i);
        ck_assert(fx.err.text[0] != '\0');
    }
    struct cf cf = cf_new();
    json_object_set_new(cf.args, "base", json_string("xyz"));
    expect_refused(&cf, SP_EFORMAT, "\"base\"");
    json_object_set_new(cf.args, "base", json_integer(4));
    expect_refused(&cf, SP_EFORMAT, "base");
    cf_put_base(&cf);
    json_object_set_new(cf.args, "data", json_object());
    expect_refused(&cf, SP_EFORMAT, "no \"train\"");
    json_object_del(cf.args, "data");
    expect_refused(&cf, SP_EFORMAT, "\"data\"");
    cf_free(&cf);
}
END_TEST

START_TEST(test_missing_blobs)
{
    struct cf cf = cf_new();
    json_t *base = json_incref(json_object_get(cf.args, "base"));
    char hex[SP_DIGEST_HEX];
    struct sp_digest digest;
    fx_digest(&digest, "nothing");
    sp_digest_hex(&digest, hex);
    json_object_set_new(cf.args, "base", json_string(hex));
    expect_refused(&cf, SP_ENOTFOUND, "[model] base");
    json_object_set_new(cf.args, "base", base);
    json_object_set_new(json_object_get(cf.args, "data"), "eval", json_string(hex));
    expect_refused(&cf, SP_ENOTFOUND, "[data] eval");
    json_object_del(json_object_get(cf.args, "data"), "eval");
    struct fx fx = cf.fx;
    struct ckpt_manifest manifest = CKPT_MANIFEST_INIT;
    OK(ckpt_manifest_build(cf.base, NULL, NULL, &manifest, &fx.err));
    OK(ckpt_blobs_delete(cf.blobs, &manifest.files[0].chunks[0], &fx.err));
    expect_refused(&cf, SP_ENOTFOUND, "1 of 4 chunks");
    ckpt_manifest_deinit(&manifest);
    /* bytes that are a blob, but no manifest */
    OK(ckpt_blobs_put_new(cf.blobs, "hello", 5, &digest, &fx.err));
    sp_digest_hex(&digest, hex);
    json_object_set_new(cf.args, "base", json_string(hex));
    expect_refused(&cf, SP_EFORMAT, "[model] base");
    cf_free(&cf);
}
END_TEST

static void rewritten_base(const char *file, const char *text, enum sp_err code, const char *words)
{
    struct cf cf = cf_new();
    cf_write(cf.base, file, text);
    cf_put_base(&cf);
    expect_refused(&cf, code, words);
    cf_free(&cf);
}

START_TEST(test_bad_base)
{
    rewritten_base("config.json", "{", SP_EFORMAT, "config.json");
    rewritten_base("config.json", "{\"a\":1}", SP_ENOTFOUND, "vocab_size");
    rewritten_base("config.json", "{\"vocab_size\":0}", SP_EFORMAT, "vocab_size");
    rewritten_base("config.json", "{\"vocab_size\":50}", SP_EFORMAT, "vocabulary");
    rewritten_base("generation_config.json", "{\"eos_token_id\":98}", SP_EFORMAT, "eos_token_id");
    rewritten_base("generation_config.json", "{\"eos_token_id\":\"x\"}", SP_EFORMAT,
                   "eos_token_id");
    rewritten_base("generation_config.json", "{\"eos_token_id\":[1,\"x\"]}", SP_EFORMAT, "eos");
    rewritten_base("generation_config.json", "{}", SP_EFORMAT, "no end token");
    rewritten_base("tokenizer.json", "{}", SP_EFORMAT, "tokenizer.json");
    rewritten_base("tokenizer.json", "", SP_EFORMAT, "tokenizer.json");
}
END_TEST

static void rewritten_data(const char *text, enum sp_err code, const char *words)
{
    struct cf cf = cf_new();
    cf_data(&cf, "train", text);
    expect_refused(&cf, code, words);
    cf_free(&cf);
}

START_TEST(test_bad_data)
{
    static const char good[] = "{\"prompt\":\"p\",\"response\":\"r\"}\n";
    rewritten_data("", SP_EFORMAT, "train");
    rewritten_data("\n\n", SP_EFORMAT, "train");
    rewritten_data("{\"prompt\":\"p\"}\n", SP_EFORMAT, "train.jsonl:1");
    rewritten_data("{\"prompt\":\"p\",\"response\":3}\n", SP_EFORMAT, "train.jsonl:1");
    char *text = sp_xprintf("%s%s{\"prompt\":\"p\",\n", good, good);
    rewritten_data(text, SP_EFORMAT, "train.jsonl:3");
    free(text);
    text = sp_xprintf("%s{\"question\":\"p\",\"answer\":\"r\"}\n", good);
    rewritten_data(text, SP_EFORMAT, "train.jsonl:2");
    free(text);
    text = sp_xprintf("%s{\"prompt\":\"\xff\",\"response\":\"r\"}\n", good);
    rewritten_data(text, SP_EFORMAT, "train.jsonl:2");
    free(text);
    text = sp_xprintf("{\"prompt\":\"%0500d\",\"response\":\"r\"}\n", 1);
    rewritten_data(text, SP_EFORMAT, "no row is left");
    free(text);
    struct cf cf = cf_new();
    cf_set(&cf, "data.format=nonsense");
    expect_refused(&cf, SP_EINVAL, "[data] format");
    cf_set(&cf, "data.format=messages");
    expect_refused(&cf, SP_EFORMAT, "train.jsonl:1");
    cf_set(&cf, "data.format=auto");
    cf_set(&cf, "data.template=nonsense");
    expect_refused(&cf, SP_EINVAL, "[data] template");
    cf_free(&cf);
}
END_TEST

/* Where a model's positions end for good, a run that would go on is refused with the numbers; one
 * that is told to stay below leaves the long rows out. */
START_TEST(test_positions_that_end)
{
    static const struct {
        const char *config, *part;
    } rows[] = {
        {"\"model_type\":\"gpt2\",\"n_positions\":100", "ends at 100 (n_positions): its positions"},
        {"\"model_type\":\"llama\",\"max_position_embeddings\":100,"
         "\"rope_scaling\":{\"type\":\"dynamic\",\"factor\":2.0}",
         "ends at 100 (max_position_embeddings): the frequencies of its rotation change there"},
        {"\"model_type\":\"phi3\",\"max_position_embeddings\":1000,\"rope_parameters\":{"
         "\"rope_type\":\"longrope\",\"original_max_position_embeddings\":100}",
         "ends at 100 (original_max_position_embeddings): the frequencies"},
    };
    for (size_t i = 0; i < SP_COUNT(rows); i++) {
        struct cf cf = cf_new();
        struct fx fx = cf.fx;
        json_t *report = NULL;
        char *config = sp_xprintf("{%s,\"vocab_size\":98}", rows[i].config);
        cf_write(cf.base, "config.json", config);
        cf_put_base(&cf);
        free(config);
        cf_data(&cf, "train",
                "{\"prompt\":\"short\",\"response\":\"x\"}\n"
                "{\"prompt\":\"a prompt of more than forty characters, as it is\","
                "\"response\":\"x\"}\n");
        cf_set(&cf, "data.max_sequence_tokens=300");
        cf_set(&cf, "generate.max_new_tokens=60");
        FAILS(SP_ELIMIT, cf_create(&cf, &report, &fx.err));
        ck_assert_msg(strstr(fx.err.text, rows[i].part) && strstr(fx.err.text, "train.jsonl:2") &&
                          strstr(fx.err.text, "max_new_tokens 60"),
                      "%s", fx.err.text);
        cf_set(&cf, "data.max_sequence_tokens=100");
        OK(cf_create(&cf, &report, &fx.err));
        ck_assert_int_eq(number(split_of(report, 0), "used"), 1);
        ck_assert_int_eq(number(split_of(report, 0), "overlong"), 1);
        json_decref(report);
        cf_free(&cf);
    }
}
END_TEST

static Suite *suite(void)
{
    Suite *s = suite_create("create_run");
    TCase *t = tcase_create("create_run");
    tcase_add_test(t, test_small_run);
    tcase_add_test(t, test_deterministic_split);
    tcase_add_test(t, test_limits);
    tcase_add_test(t, test_limit_with_share);
    tcase_add_test(t, test_long_and_double);
    tcase_add_test(t, test_model_positions);
    tcase_add_test(t, test_positions_that_end);
    tcase_add_test(t, test_dpo_needs_both_answers);
    tcase_add_test(t, test_spin_ignores_given_answers);
    tcase_add_test(t, test_again);
    tcase_add_test(t, test_again_after_an_upgrade);
    tcase_add_test(t, test_turns);
    tcase_add_test(t, test_cancelled);
    tcase_add_test(t, test_bad_arguments);
    tcase_add_test(t, test_missing_blobs);
    tcase_add_test(t, test_bad_base);
    tcase_add_test(t, test_bad_data);
    suite_add_tcase(s, t);
    return s;
}

SPIN_CHECK_MAIN(suite())
