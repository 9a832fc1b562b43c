/* create-run on data of every kind: which rows are held out, what is left out, fields by name,
 * compressed files, uclaml's given answers. */
#include <math.h>

#include "common/base/rng.h"
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

/* ---- the split: a plain reference ---- */

struct lot {
    uint64_t key;
    uint32_t row;
};

static int compare(const void *a, const void *b)
{
    const struct lot *x = a, *y = b;
    return x->key != y->key ? (x->key < y->key ? -1 : 1) : (x->row > y->row) - (x->row < y->row);
}

static bool same_text(const struct proto_ids *ids, const char *text)
{
    if (ids->count != strlen(text))
        return false;
    for (uint32_t i = 0; i < ids->count; i++)
        if (ids->ids[i] != CF_ID(text[i]))
            return false;
    return true;
}

/* All lots drawn and sorted: the lowest are held out, in the order of the file. */
START_TEST(test_lots)
{
    static const struct {
        int rows;
        const char *share;
        uint32_t held;
    } cases[] = {
        {40, "0.05", 2}, {40, "0.5", 20}, {7, "0.9", 6}, {33, "0.03", 1}, {100, "0.3", 30}};
    for (size_t c = 0; c < SP_COUNT(cases); c++) {
        struct cf cf = cf_new();
        char *rows = cf_rows("row", cases[c].rows);
        cf_data(&cf, "train", rows);
        free(rows);
        cf_set(&cf, "run.seed=7");
        char *share = sp_xprintf("data.holdout_share=%s", cases[c].share);
        cf_set(&cf, share);
        free(share);
        cf_make(&cf);
        struct fx fx = cf.fx;
        struct lot lots[100];
        for (int i = 0; i < cases[c].rows; i++) {
            uint32_t draw[4];
            sp_rng_draw(7, SP_STREAM_SPLIT, 0, (uint32_t)i, 0, 0, draw);
            lots[i] = (struct lot){(uint64_t)draw[0] << 32 | draw[1], (uint32_t)i};
        }
        qsort(lots, (size_t)cases[c].rows, sizeof(*lots), compare);
        bool held[100] = {false};
        for (uint32_t i = 0; i < cases[c].held; i++)
            held[lots[i].row] = true;
        uint32_t at[2] = {0, 0};
        for (int i = 0; i < cases[c].rows; i++) {
            char text[32];
            struct store_prompt prompt;
            int split = held[i] ? STORE_SPLIT_HOLDOUT : STORE_SPLIT_TRAIN;
            snprintf(text, sizeof(text), "row %d", i);
            OK(store_prompts_get(fx.run, (enum store_split)split, at[split]++, 1, fx.arena, &prompt,
                                 &fx.err));
            ck_assert_msg(same_text(&prompt.prompt_ids, text), "case %zu: row %d", c, i);
        }
        ck_assert_uint_eq(at[STORE_SPLIT_HOLDOUT], cases[c].held);
        cf.fx = fx;
        cf_free(&cf);
    }
}
END_TEST

/* ---- what is left out, lengths, duplicates ---- */

START_TEST(test_reasons_and_lengths)
{
    struct cf cf = cf_new();
    struct fx fx = cf.fx;
    cf_set(&cf, "data.holdout_share=0");
    cf_data(&cf, "train",
            "{\"prompt\":\"a\",\"response\":\"b\"}\n"
            "{\"prompt\":\"0123456789012345678901234567890123456789012345678901234567890\","
            "\"response\":\"over 60\"}\n"
            "{\"prompt\":\"a\",\"response\":\"0123456789012345678901234567890123456789\"}\n");
    json_t *report = NULL;
    OK(cf_create(&cf, &report, &fx.err));
    const json_t *train = split_of(report, 0);
    const json_t *out = json_object_get(train, "left_out");
    ck_assert_uint_eq(json_array_size(out), 1);
    ck_assert_str_eq(json_string_value(json_object_get(json_array_get(out, 0), "reason")),
                     "prompt");
    ck_assert_int_eq(number(json_array_get(out, 0), "rows"), 1);
    ck_assert_int_eq(number(json_array_get(out, 0), "first_line"), 2);
    /* Buckets: 1 – 16, 17 – 32, 33 – 64; answers of 2 and 41 tokens, prompts of 1. */
    const json_t *histogram = json_object_get(train, "histogram");
    ck_assert_uint_eq(json_array_size(histogram), 3);
    static const int64_t want[3][4] = {{1, 16, 2, 1}, {17, 32, 0, 0}, {33, 64, 0, 1}};
    static const char *const keys[] = {"from", "to", "prompts", "responses"};
    for (int i = 0; i < 3; i++)
        for (int k = 0; k < 4; k++)
            ck_assert_int_eq(number(json_array_get(histogram, (size_t)i), keys[k]), want[i][k]);
    ck_assert_int_eq(number(json_object_get(report, "duplicates"), "train"), 1);
    json_decref(report);
    cf_free(&cf);
}
END_TEST

/* Many prompts, some of them twice: the sort in place finds what a count by hand finds. */
START_TEST(test_duplicates_are_counted)
{
    struct cf cf = cf_new();
    struct fx fx = cf.fx;
    struct sp_buf train = SP_BUF_INIT, held = SP_BUF_INIT;
    for (int i = 0; i < 600; i++)
        sp_buf_printf(&train, "{\"prompt\":\"%d\",\"response\":\"x\"}\n", i % 250);
    for (int i = 200; i < 300; i++)
        sp_buf_printf(&held, "{\"prompt\":\"%d\",\"response\":\"x\"}\n", i - i % 2);
    cf_data(&cf, "train", train.data);
    cf_data(&cf, "holdout", held.data);
    sp_buf_deinit(&train);
    sp_buf_deinit(&held);
    json_t *report = NULL;
    OK(cf_create(&cf, &report, &fx.err));
    const json_t *same = json_object_get(report, "duplicates");
    ck_assert_int_eq(number(same, "train"), 350);
    ck_assert_int_eq(number(same, "holdout"), 50);
    ck_assert_int_eq(number(same, "holdout_in_train"), 50);
    json_decref(report);
    cf_free(&cf);
}
END_TEST

/* ---- files and fields ---- */

START_TEST(test_named_fields)
{
    struct cf cf = cf_new();
    struct fx fx = cf.fx;
    cf_data(&cf, "train", "Question,Best Answer\nwhat?,this\n");
    cf_set(&cf, "data.holdout_share=0");
    json_t *report = NULL;
    FAILS(SP_EFORMAT, cf_create(&cf, &report, &fx.err));
    ck_assert_ptr_nonnull(strstr(fx.err.text, "[data] train: train.jsonl:2"));
    cf_set(&cf, "data.prompt=Question");
    cf_set(&cf, "data.response=Best Answer");
    OK(cf_create(&cf, &report, &fx.err));
    ck_assert_str_eq(json_string_value(json_object_get(report, "format")), "mapped");
    ck_assert_int_eq(number(split_of(report, 0), "used"), 1);
    json_decref(report);
    cf_free(&cf);
}
END_TEST

/* ---- uclaml ---- */

/* Rows with this answer of the model; with none where it is NULL. */
static char *uclaml_rows(const char *answer, int first, int step, int n)
{
    struct sp_buf out = SP_BUF_INIT;
    for (int i = 0; i < n; i++)
        sp_buf_printf(&out,
                      "{\"real\":[{\"role\":\"user\",\"content\":\"p%d\"},{\"role\":\"assistant\","
                      "\"content\":\"human\"}],\"generated\":[{\"role\":\"user\",\"content\":"
                      "\"p%d\"},{\"role\":\"assistant\",\"content\":\"%s\"}]}\n",
                      first + step * i, first + step * i, answer);
    return sp_buf_detach(&out);
}

static void cf_uclaml(struct cf *cf)
{
    static const char *const settings[] = {
        "run.compat=uclaml",    "run.score_by=trainer",      "data.template=zephyr",
        "data.holdout_share=0", "data.max_prompt_tokens=90", "data.max_sequence_tokens=180"};
    for (size_t i = 0; i < SP_COUNT(settings); i++)
        cf_set(cf, settings[i]);
}

static bool is_given(struct fx *fx, uint32_t iteration, uint32_t position)
{
    uint8_t bits[8] = {0};
    ck_assert_int_eq(store_given_bitmap(fx->run, iteration, 64, bits, &fx->err), SP_OK);
    return bits[position / 8] >> position % 8 & 1;
}

START_TEST(test_uclaml_given)
{
    struct cf cf = cf_new();
    cf_uclaml(&cf);
    char *d0 = uclaml_rows("first", 0, 1, 10), *d1 = uclaml_rows("second", 9, -1, 12);
    cf_data(&cf, "train", d0);
    cf_data(&cf, "generated_1", d1); /* the other way round, two of them unknown */
    free(d0);
    free(d1);
    struct fx fx = cf.fx;
    json_t *report = NULL;
    OK(cf_create(&cf, &report, &fx.err));
    const json_t *given = json_object_get(report, "given");
    ck_assert_int_eq(json_integer_value(json_array_get(given, 0)), 10);
    ck_assert_int_eq(json_integer_value(json_array_get(given, 1)), 10);
    char *warnings = json_dumps(json_object_get(report, "warnings"), 0);
    ck_assert_ptr_nonnull(strstr(warnings, "generated_1: 2 rows"));
    free(warnings);
    json_decref(report);
    store_begin(fx.store);
    OK(store_run_adopt(fx.store, "demo", &fx.err));
    OK(store_commit(fx.store, &fx.err));
    OK(store_run_open(fx.store, "demo", &fx.run, &fx.err));
    static const char *const answers[] = {"first", "second"};
    for (uint32_t t = 0; t < 2; t++) {
        for (uint64_t p = 0; p < 10; p++) {
            struct store_result row;
            OK(store_results_get(fx.run, t, PROTO_SET_TRAIN, &p, 1, fx.arena, &row, &fx.err));
            ck_assert_uint_eq(row.prompt, p);
            /* The answer, and the doubled end: </s>, line break, </s>. */
            ck_assert_uint_eq(row.ids.count, strlen(answers[t]) + 3);
            struct proto_ids answer = {.ids = row.ids.ids, .count = row.ids.count - 3};
            ck_assert(same_text(&answer, answers[t]));
            ck_assert_int_eq(row.ids.ids[row.ids.count - 3], 1);
            ck_assert_int_eq(row.ids.ids[row.ids.count - 2], CF_ID('\n'));
            ck_assert_int_eq(row.ids.ids[row.ids.count - 1], 1);
            ck_assert(is_given(&fx, t, (uint32_t)p));
        }
        ck_assert(!is_given(&fx, t, 10));
    }
    struct store_prompt prompt;
    OK(store_prompts_get(fx.run, STORE_SPLIT_TRAIN, 3, 1, fx.arena, &prompt, &fx.err));
    ck_assert(same_text(&prompt.sample_ids, "### Instruction: p3\n\n### Response: "));
    ck_assert_uint_eq(prompt.rejected_ids.count, 0);
    /* The next iteration replays them; clearing drops what workers made, and that alone: also the
     * trainer's references of what is given. */
    store_begin(fx.store);
    OK(store_replays_copy(fx.run, 1, 10, 5, &fx.err));
    struct store_result made = {.iteration = 1, .set = PROTO_SET_HOLDOUT, .worker = "gen"};
    enum store_put put;
    OK(store_result_put(fx.run, &made, &put, &fx.err));
    OK(store_refs_put(fx.run, 1, PROTO_SET_TRAIN, 13, 3, 0, -1, -2, &fx.err));
    OK(store_iteration_clear(fx.run, 1, &fx.err));
    OK(store_commit(fx.store, &fx.err));
    uint64_t replayed = 13, held = 0;
    struct store_result row;
    OK(store_results_get(fx.run, 1, PROTO_SET_TRAIN, &replayed, 1, fx.arena, &row, &fx.err));
    ck_assert_uint_eq(row.prompt, 3);
    ck_assert_uint_eq(row.source_iteration, 0);
    ck_assert(isnan(row.ref_real) && isnan(row.ref_generated));
    ck_assert_uint_eq(row.ids.count, strlen("first") + 3);
    FAILS(SP_ENOTFOUND,
          store_results_get(fx.run, 1, PROTO_SET_HOLDOUT, &held, 1, fx.arena, &row, &fx.err));
    cf.fx = fx;
    cf_free(&cf);
}
END_TEST

/* Answers that are empty, as spin/reformat.py writes them, are not given. */
START_TEST(test_uclaml_empty)
{
    struct cf cf = cf_new();
    cf_uclaml(&cf);
    char *rows = uclaml_rows("", 0, 1, 5);
    cf_data(&cf, "train", rows);
    free(rows);
    cf_make(&cf);
    struct fx fx = cf.fx;
    for (uint32_t p = 0; p < 5; p++)
        ck_assert(!is_given(&fx, 0, p));
    cf.fx = fx;
    cf_free(&cf);
}
END_TEST

static Suite *suite(void)
{
    Suite *s = suite_create("create_run_data");
    TCase *t = tcase_create("data");
    tcase_add_test(t, test_lots);
    tcase_add_test(t, test_reasons_and_lengths);
    tcase_add_test(t, test_duplicates_are_counted);
    tcase_add_test(t, test_named_fields);
    tcase_add_test(t, test_uclaml_given);
    tcase_add_test(t, test_uclaml_empty);
    suite_add_tcase(s, t);
    return s;
}

SPIN_CHECK_MAIN(suite())
