/* Data from users: dataset check beside create-run, uclaml's data and recipe, the report. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "common/base/buf.h"
#include "common/base/fs.h"
#include "common/base/json.h"
#include "common/base/mem.h"
#include "tests/e2e/harness.h"
#include "tests/e2e/program.h"
#include "tests/unit/check_main.h"

#define SECONDS 90
#if defined(__SANITIZE_ADDRESS__)
#define SANITIZED 1
#elif defined(__has_feature)
#define SANITIZED (__has_feature(address_sanitizer) || __has_feature(thread_sanitizer))
#else
#define SANITIZED 0
#endif

static char *read_text(struct cluster *cluster, const char *name)
{
    char *path = sp_path_join(cluster->dir, name), *text = NULL;
    size_t length;
    struct sp_error err;
    ck_assert_int_eq(sp_read_file(path, 64 << 20, &text, &length, &err), SP_OK);
    free(path);
    return text;
}

/* ---- dataset check ---- */

static json_t *check(struct cluster *cluster, const char *arguments)
{
    struct said *said = malloc(sizeof(*said));
    char *all = sp_xprintf("--json dataset check %s", arguments);
    int code = program_run(cluster->dir, said, 60, SPINCTL, all);
    ck_assert_msg(code == 0, "%s: %d: %s", all, code, said->err);
    json_t *report = json_loads(said->out, 0, NULL);
    ck_assert_ptr_nonnull(report);
    free(all);
    free(said);
    return report;
}

/* The check says what create-run says: counts, lengths, warnings, all but the files' digests. */
START_TEST(test_check_is_create_run)
{
    struct cluster cluster;
    cluster_open(&cluster);
    cluster_write_rows(&cluster, "train.jsonl", 0, 60);
    cluster_create_run(&cluster, "r", 7, "");
    json_t *reply = cluster_ctl_ok(&cluster, "create-run", "r.ini", "--set",
                                   "data.max_prompt_tokens=12", "--set", "run.name=s", NULL);
    json_t *report = check(&cluster, "--config r.ini --set data.max_prompt_tokens=12");
    ck_assert_uint_eq(json_array_size(json_object_get(report, "examples")), 3);
    const json_t *example = json_array_get(json_object_get(report, "examples"), 0);
    const json_t *tokens = json_object_get(example, "tokens");
    int64_t prompt = json_integer_value(json_object_get(example, "prompt_tokens"));
    int64_t response = json_integer_value(json_object_get(example, "response_tokens"));
    ck_assert_int_eq((int64_t)json_array_size(tokens), prompt + response);
    for (size_t i = 0; i < json_array_size(tokens); i++) {
        const json_t *loss = json_object_get(json_array_get(tokens, i), "loss");
        ck_assert_int_eq(json_is_true(loss), (int64_t)i >= prompt);
    }
    json_object_del(report, "examples");
    json_object_del(report, "file");
    json_object_del(reply, "files");
    json_object_del(reply, "existing");
    ck_assert_msg(json_equal(report, reply), "%s", json_dumps(report, JSON_INDENT(1)));
    json_decref(report);
    json_decref(reply);
    cluster_close(&cluster);
}
END_TEST

/* Wrong data ends with a message that names file, line, field and remedy. */
START_TEST(test_check_refuses)
{
    struct cluster cluster;
    cluster_open(&cluster);
    cluster_write_rows(&cluster, "good.jsonl", 0, 60);
    cluster_write(&cluster, "bad.jsonl",
                  "{\"prompt\": \"a\", \"response\": \"b\"}\n{\"prompt\": 1}\n");
    cluster_write(&cluster, "bad.csv", "Question,Best Answer\na,b\n");
    cluster_write(&cluster, "x.parquet", "PAR1....");
    char *pipe = sp_path_join(cluster.dir, "pipe");
    ck_assert_int_eq(mkfifo(pipe, 0600), 0);
    free(pipe);
    const struct expectation list[] = {
        {"dataset check", 2, {"which FILE"}},
        {"dataset check good.jsonl", 2, {"--model DIR"}},
        {"dataset chek good.jsonl", 2, {"\"chek\""}},
        {"dataset check none.jsonl --model base", 4, {"none.jsonl"}},
        {"dataset check good.jsonl --model nowhere", 4, {"[model] base: nowhere", "config.json"}},
        {"dataset check bad.jsonl --model base", 3, {"bad.jsonl:2", "\"prompt\"", "a string"}},
        {"dataset check bad.csv --model base",
         3,
         {"bad.csv:2", "\"Best Answer\"", "[data] prompt"}},
        {"dataset check x.parquet --model base", 18, {"x.parquet", "Parquet", "read_parquet"}},
        {"dataset check pipe --model base",
         18,
         {"[data] train: pipe", "a pipe", "to a file first"}},
        {"dataset check good.jsonl --model base --set data.prompt=q", 3, {"\"q\"", "\"response\""}},
        {"dataset check good.jsonl --model base --set data.max_sequence_tokens=8 --set "
         "data.max_prompt_tokens=4",
         3,
         {"no row is left to train on", "the prompt is longer than max_prompt_tokens"}},
        /* an answer that is still to be sampled counts, too */
        {"dataset check good.jsonl --model base --set generate.max_new_tokens=5000",
         3,
         {"no row is left to train on", "no room behind the prompt for max_new_tokens"}},
        {"dataset check bad.csv --model base --set data.prompt=Question --set "
         "'data.response=Best Answer' --set data.holdout_share=0 --set generate.max_new_tokens=8",
         0,
         {"     | a", "loss | b"}},
    };
    program_expect(cluster.dir, SPINCTL, list, SP_COUNT(list));
    cluster_close(&cluster);
}
END_TEST

/* Memory does not grow with the file: 60 MB pass where 40 MB more than the program needs are all
 * that there is. */
START_TEST(test_check_streams)
{
    if (SANITIZED) {
        fprintf(stderr, "skipped: a sanitizer needs more memory than the limit\n");
        return;
    }
    struct cluster cluster;
    struct said *said = malloc(sizeof(*said));
    cluster_open(&cluster);
    char *path = sp_path_join(cluster.dir, "big.jsonl");
    FILE *file = fopen(path, "w");
    char words[1024];
    memset(words, 'w', sizeof(words) - 1);
    words[sizeof(words) - 1] = '\0';
    for (int i = 0; i < 60000; i++)
        fprintf(file, "{\"prompt\": \"%d\", \"response\": \"%d\", \"more\": \"%s\"}\n", i, i,
                words);
    ck_assert_int_eq(fclose(file), 0);
    free(path);
    const char *arguments = "-c 'ulimit -v 100000; exec " SPIN_BUILD_ROOT
                            "/coordinator/spinctl/spinctl --json dataset check big.jsonl --model "
                            "base --set data.max_sequence_tokens=64 --set "
                            "data.max_prompt_tokens=32 --set generate.max_new_tokens=8'";
    int code = program_run(cluster.dir, said, 100, "/bin/sh", arguments);
    ck_assert_msg(code == 0, "%d: %s", code, said->err);
    ck_assert_ptr_nonnull(strstr(said->out, "\"rows\":59000"));
    /* The limit is one: a program that keeps the rows can't live in it. */
    code = program_run(cluster.dir, said, 100, "/bin/sh",
                       "-c 'ulimit -v 100000; exec python3 -c \"open(chr(98)+chr(105)+chr(103)+"
                       "chr(46)+chr(106)+chr(115)+chr(111)+chr(110)+chr(108)).read()+chr(120)\"'");
    ck_assert_int_ne(code, 0);
    free(said);
    cluster_close(&cluster);
}
END_TEST

/* ---- uclaml ---- */

/* n rows as their spin/generate.py writes them; `tag` tells the iteration's answers apart. */
static void write_uclaml(struct cluster *cluster, const char *name, int n, const char *tag)
{
    struct sp_buf text = SP_BUF_INIT;
    for (int i = 0; i < n; i++) {
        char answer[32] = "";
        if (tag[0])
            snprintf(answer, sizeof(answer), "%s%d", tag, i);
        sp_buf_printf(&text,
                      "{\"real\": [{\"role\": \"user\", \"content\": \"p %d\"}, {\"role\": "
                      "\"assistant\", \"content\": \"yes %d\"}], \"generated\": [{\"role\": "
                      "\"user\", \"content\": \"p %d\"}, {\"role\": \"assistant\", \"content\": "
                      "\"%s\"}]}\n",
                      i, i, i, answer);
    }
    cluster_write(cluster, name, "%s", text.data);
    sp_buf_deinit(&text);
}

#define UCLAML                                                                                     \
    "run.compat=uclaml data.template=zephyr data.max_prompt_tokens=120 "                           \
    "data.max_sequence_tokens=200 generate.max_new_tokens=12 train.batch_pairs=8 "                 \
    "train.micro_batch_tokens=512 data.holdout_share=0 verdict.trained_sample=0 "                  \
    "run.score_by=trainer train.epochs=1 train.learning_rate=1e-3"

static json_t *pairs_of(struct cluster *cluster, const char *run, int iteration)
{
    char number[16];
    snprintf(number, sizeof(number), "%d", iteration);
    json_t *reply = cluster_ctl_ok(cluster, "pairs", run, "--iteration", number, NULL);
    json_t *pairs = json_incref(json_object_get(reply, "pairs"));
    json_decref(reply);
    return pairs;
}

static void check_starts(struct cluster *cluster, const char *run, int iteration, int pairs)
{
    json_t *row = cluster_iteration(cluster, run, iteration);
    ck_assert_double_eq_tol(cluster_number(row, "loss_first_step"), log(2), 1e-3);
    ck_assert(cluster_number(row, "margin_abs_max_first_step") < 1e-3);
    ck_assert_int_eq((int)cluster_number(row, "pairs"), pairs);
    json_decref(row);
}

/* All answers are given: D0 in train, D1 beside it. No generator runs. */
START_TEST(test_uclaml_without_generators)
{
    struct cluster cluster;
    cluster_open(&cluster);
    cluster_start_trainer(&cluster, 0);
    write_uclaml(&cluster, "train.jsonl", 24, "no ");
    write_uclaml(&cluster, "iter1.jsonl", 24, "on ");
    cluster_create_run(&cluster, "u", 7, UCLAML " data.generated_1=iter1.jsonl");
    cluster_iterate(&cluster, "u", SECONDS);
    check_starts(&cluster, "u", 0, 24); /* D0 */
    cluster_iterate(&cluster, "u", SECONDS);
    check_starts(&cluster, "u", 1, 48); /* D1 + D0 */
    json_t *pairs = pairs_of(&cluster, "u", 1);
    ck_assert_uint_eq(json_array_size(pairs), 48);
    for (size_t i = 0; i < 48; i++) {
        const json_t *pair = json_array_get(pairs, i);
        char want[32];
        int prompt = (int)cluster_number(pair, "prompt");
        snprintf(want, sizeof(want), "%s%d\n", i < 24 ? "on " : "no ", prompt);
        ck_assert_str_eq(cluster_text(pair, "generated_text"), want);
        /* The text that is trained on: Zephyr's with an empty system message, the end twice. */
        snprintf(want, sizeof(want), "yes %d\n", prompt);
        ck_assert_str_eq(cluster_text(pair, "real_text"), want);
        ck_assert_ptr_nonnull(strstr(cluster_text(pair, "prompt_text"), "<|system|>\n"));
        const json_t *ids = json_object_get(pair, "real_ids");
        size_t n = json_array_size(ids);
        ck_assert(json_equal(json_array_get(ids, n - 1), json_array_get(ids, n - 3)));
        ck_assert(isfinite(cluster_number(pair, "ref_generated")));
    }
    json_decref(pairs);
    cluster_close(&cluster);
}
END_TEST

/* Nothing is given: generators sample behind the other prompt, and what they sampled is trained on
 * with their end tokens, whether it was cut or not. A restart and --fresh lose nothing of it. */
START_TEST(test_uclaml_samples)
{
    struct cluster cluster;
    cluster_open(&cluster);
    cluster_start_trainer(&cluster, 0);
    cluster_start_generator(&cluster, 0);
    write_uclaml(&cluster, "train.jsonl", 20, "");
    cluster_create_run(&cluster, "s", 7, UCLAML);
    for (int k = 0; k < 2; k++) {
        cluster_iterate(&cluster, "s", SECONDS);
        check_starts(&cluster, "s", k, 20 * (k + 1));
        json_t *pairs = pairs_of(&cluster, "s", k);
        for (size_t i = 0; i < json_array_size(pairs); i++) {
            const json_t *pair = json_array_get(pairs, i);
            const json_t *ids = json_object_get(pair, "generated_ids");
            const json_t *real = json_object_get(pair, "real_ids");
            size_t n = json_array_size(ids), end = json_array_size(real) - 1;
            ck_assert_uint_ge(n, 3);
            ck_assert(json_equal(json_array_get(ids, n - 1), json_array_get(real, end)));
            ck_assert(json_equal(json_array_get(ids, n - 3), json_array_get(real, end)));
        }
        json_decref(pairs);
    }
    cluster_close(&cluster);
}
END_TEST

/* ---- report ---- */

START_TEST(test_report)
{
    struct cluster cluster;
    struct said *said = malloc(sizeof(*said));
    cluster_open(&cluster);
    cluster_start_trainer(&cluster, 0);
    cluster_start_generator(&cluster, 0);
    /* What data and workers say is text, whatever it looks like. */
    cluster_write_rows(&cluster, "train.jsonl", 0, 40);
    cluster_write(&cluster, "eval.jsonl", "{\"prompt\": \"<b>1</b>\", \"response\": \"<i>\"}\n");
    cluster_create_run(&cluster, "r", 7, "data.eval=eval.jsonl");
    cluster_iterate(&cluster, "r", SECONDS);
    cluster_iterate(&cluster, "r", SECONDS);
    ck_assert_int_eq(program_run(cluster.dir, said, 30, SPINCTL,
                                 "--state-dir state report r -o r.html --csv csv --beside r"),
                     0);
    char *page = read_text(&cluster, "r.html");
    static const char *const parts[] = {"<!doctype html>",
                                        "prefers-color-scheme:dark",
                                        "<h2>Training, by step</h2>",
                                        "Rewards of both sides",
                                        "Exact match, greedy",
                                        "Shortcuts: one feature alone",
                                        "Who worked when",
                                        "generator-0",
                                        "trainer-0",
                                        "What the verdicts stand on",
                                        "Provenance",
                                        "train.learning_rate",
                                        "Record of iteration 1",
                                        "</html>"};
    for (size_t i = 0; i < SP_COUNT(parts); i++)
        ck_assert_msg(strstr(page, parts[i]) != NULL, "no \"%s\" in the page", parts[i]);
    /* Nothing is fetched from anywhere, nothing runs, nothing is open. */
    static const char *const foreign[] = {"http://", "https://", "<script", "<link", "<img", "url(",
                                          "@import", "<iframe",  "Mnan",    "Lnan",  "\"nan"};
    for (size_t i = 0; i < SP_COUNT(foreign); i++)
        ck_assert_msg(strstr(page, foreign[i]) == NULL, "\"%s\" in the page", foreign[i]);
    char *steps = read_text(&cluster, "csv/steps.csv");
    ck_assert_int_eq(strncmp(steps, "iteration,", 10), 0);
    size_t lines = 0;
    for (const char *at = steps; (at = strstr(at, "\r\n")) != NULL; at += 2)
        lines++;
    json_t *zero = cluster_iteration(&cluster, "r", 0), *one = cluster_iteration(&cluster, "r", 1);
    ck_assert_uint_eq(lines,
                      1 + (size_t)(cluster_number(zero, "steps") + cluster_number(one, "steps")));
    /* --json is the same data; no page is written. */
    json_t *report = cluster_ctl_ok(&cluster, "report", "r", NULL);
    const json_t *rows = json_object_get(report, "iterations");
    ck_assert_uint_eq(json_array_size(rows), 2);
    for (size_t i = 0; i < 2; i++) {
        const json_t *row = json_array_get(rows, i);
        ck_assert_uint_eq(json_array_size(json_object_get(row, "sampled_pairs")), 5);
        ck_assert_uint_eq(json_array_size(json_object_get(row, "step_metrics")),
                          (size_t)cluster_number(row, "steps"));
        const json_t *slices = json_object_get(json_object_get(row, "timeline"), "slices");
        double results = 0;
        for (size_t k = 0; k < json_array_size(slices); k++)
            if (strcmp(cluster_text(json_array_get(slices, k), "kind"), "train") == 0)
                results += cluster_number(json_array_get(slices, k), "results");
        ck_assert_double_eq(results, cluster_number(row, "pairs"));
    }
    json_decref(report);
    json_decref(zero);
    json_decref(one);
    free(steps);
    free(page);
    static const struct expectation list[] = {
        {"--state-dir state report none", 4, {"none"}},
        {"--state-dir state report r --beside none", 4, {"none"}},
        {"--state-dir state report r -o no/such/r.html", 4, {"no/such"}},
        {"report", 2, {"missing argument"}},
    };
    program_expect(cluster.dir, SPINCTL, list, SP_COUNT(list));
    free(said);
    cluster_close(&cluster);
}
END_TEST

/* A run without an iteration has a page, too. */
START_TEST(test_report_before_the_first_iteration)
{
    struct cluster cluster;
    struct said *said = malloc(sizeof(*said));
    cluster_open(&cluster);
    cluster_write_rows(&cluster, "train.jsonl", 0, 40);
    cluster_create_run(&cluster, "r", 7, "");
    ck_assert_int_eq(program_run(cluster.dir, said, 30, SPINCTL, "--state-dir state report r"), 0);
    char *page = read_text(&cluster, "r.html");
    ck_assert_ptr_nonnull(strstr(page, "</html>"));
    free(page);
    free(said);
    cluster_close(&cluster);
}
END_TEST

static Suite *suite(void)
{
    Suite *s = suite_create("e2e/data");
    TCase *c = tcase_create("data");
    tcase_set_timeout(c, 200);
    tcase_add_test(c, test_check_is_create_run);
    tcase_add_test(c, test_check_refuses);
    tcase_add_test(c, test_check_streams);
    tcase_add_test(c, test_uclaml_without_generators);
    tcase_add_test(c, test_uclaml_samples);
    tcase_add_test(c, test_report);
    tcase_add_test(c, test_report_before_the_first_iteration);
    suite_add_tcase(s, c);
    return s;
}

SPIN_CHECK_MAIN(suite())
