/* Task files, layouts of data, faults of both, means. */
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <zlib.h>

#include "common/base/limits.h"
#include "common/base/mem.h"
#include "common/task/task.h"
#include "tests/unit/check_main.h"

#define CHOICE                                                                                     \
    "[task]\nname = t\nkind = choice\n[prompt]\ntext = \"Q: {question}\\nA:\"\n[choice]\n"         \
    "choices = choices.text\nlabels = choices.label\nanswer = answerKey\n"

static struct task *task_of(const char *text)
{
    struct task *task = NULL;
    struct sp_error err = {0};
    ck_assert_msg(task_new(text, strlen(text), "t.conf", &task, &err) == SP_OK, "%s", err.text);
    return task;
}

static json_t *rows_of(const char *text, const char *name, const json_t *columns)
{
    json_t *rows = NULL;
    struct sp_error err = {0};
    ck_assert_msg(task_rows_read(text, strlen(text), name, columns, 0, &rows, &err) == SP_OK, "%s",
                  err.text);
    return rows;
}

static void expect_fault(const char *text, const char *name, const char *mention)
{
    json_t *rows = NULL;
    struct sp_error err = {0};
    ck_assert(task_rows_read(text, strlen(text), name, NULL, 0, &rows, &err) != SP_OK);
    ck_assert_msg(strstr(err.text, mention) != NULL, "%s", err.text);
}

static void expect_no_task(const char *text, const char *mention)
{
    struct task *task = NULL;
    struct sp_error err = {0};
    ck_assert(task_new(text, strlen(text), "t.conf", &task, &err) != SP_OK);
    ck_assert_msg(strstr(err.text, mention) != NULL, "%s", err.text);
}

static const char *text_at(const json_t *rows, size_t i, const char *key)
{
    const char *text = json_string_value(json_object_get(json_array_get(rows, i), key));
    ck_assert_msg(text != NULL, "%s", key);
    return text;
}

START_TEST(test_rows_of_every_format)
{
    json_t *rows = rows_of("{\"a\":\"1\"}\n\n{\"a\":\"2\"}\n", "x.jsonl", NULL);
    ck_assert_uint_eq(json_array_size(rows), 2);
    ck_assert_str_eq(text_at(rows, 1, "a"), "2");
    json_decref(rows);
    rows = rows_of(" [{\"a\":\"1\"}]", "x.json", NULL);
    ck_assert_uint_eq(json_array_size(rows), 1);
    json_decref(rows);
    rows = rows_of("\xef\xbb\xbfname,text\r\nx,\"a \"\"b\"\",\nc\"\r\n\r\ny,\n", "x.CSV", NULL);
    ck_assert_uint_eq(json_array_size(rows), 2);
    ck_assert_str_eq(text_at(rows, 0, "text"), "a \"b\",\nc");
    ck_assert_str_eq(text_at(rows, 1, "text"), "");
    json_decref(rows);
    json_t *columns = json_pack("[s,s]", "q", "a");
    rows = rows_of("one,A\ntwo,B", "x.csv", columns);
    ck_assert_str_eq(text_at(rows, 1, "a"), "B");
    json_decref(rows);
    struct sp_error err = {0};
    ck_assert(task_rows_read("one", 3, "x.csv", columns, 0, &rows, &err) == SP_EFORMAT);
    ck_assert_msg(strstr(err.text, "x.csv:1: row 1 has 1 fields, the columns are 2") != NULL, "%s",
                  err.text);
    json_decref(columns);
}
END_TEST

START_TEST(test_faults_of_rows_name_file_and_line)
{
    expect_fault("", "x.jsonl", "x.jsonl: no rows");
    expect_fault("{\"a\":1}\n{", "x.jsonl", "x.jsonl:2");
    expect_fault("[1]", "x.json", "an object is expected");
    expect_fault("a,b\n1\n", "x.csv", "x.csv:2: row 1 has 1 fields, the header 2");
    expect_fault("a,b\n\"1,2\n", "x.csv", "the closing one is missing");
    expect_fault("{\"a\":1}\n[]\n", "x.jsonl", "x.jsonl:2: not an object");
    expect_fault("a\n\xff\n", "x.csv", "not UTF-8");
}
END_TEST

/* A gzip member: in one go, or of `repeats` times the same text. */
static size_t gzip(const char *text, size_t repeats, uint8_t *to, size_t capacity)
{
    z_stream stream = {.next_out = to, .avail_out = (unsigned)capacity};
    ck_assert_int_eq(deflateInit2(&stream, 1, Z_DEFLATED, 15 + 16, 8, Z_DEFAULT_STRATEGY), Z_OK);
    for (size_t i = 0; i < repeats; i++) {
        stream.next_in = (uint8_t *)text;
        stream.avail_in = (unsigned)strlen(text);
        int rc = deflate(&stream, i + 1 < repeats ? Z_NO_FLUSH : Z_FINISH);
        ck_assert_int_eq(rc, i + 1 < repeats ? Z_OK : Z_STREAM_END);
    }
    deflateEnd(&stream);
    return capacity - stream.avail_out;
}

START_TEST(test_compressed_rows)
{
    uint8_t packed[256];
    struct sp_error err = {0};
    json_t *rows = NULL;
    size_t length = gzip("q,a\none,\"A,\nB\"\n", 1, packed, sizeof(packed));
    ck_assert_msg(task_rows_read((char *)packed, length, "x.csv.gz", NULL, 0, &rows, &err) == SP_OK,
                  "%s", err.text);
    ck_assert_str_eq(text_at(rows, 0, "a"), "A,\nB");
    json_decref(rows);
}
END_TEST

/* What is small as it comes may not become large. */
START_TEST(test_compressed_rows_have_a_limit)
{
    enum { ROW = 1 << 20, CAPACITY = 8 << 20 };
    char *row = sp_xalloc(ROW + 1);
    uint8_t *packed = sp_xalloc(CAPACITY);
    struct sp_error err = {0};
    json_t *rows = NULL;
    memset(row, ' ', ROW);
    memcpy(row, "{}", 2);
    row[ROW - 1] = '\n';
    row[ROW] = '\0';
    size_t length = gzip(row, SP_MAX_TASK_DATA / ROW + 1, packed, CAPACITY);
    ck_assert_int_eq(task_rows_read((char *)packed, length, "x.gz", NULL, 0, &rows, &err),
                     SP_ELIMIT);
    ck_assert_msg(strstr(err.text, "x.gz:257: more than") != NULL, "%s", err.text);
    free(row);
    free(packed);
}
END_TEST

START_TEST(test_other_layouts_become_the_published_one)
{
    json_t *rows = rows_of(
        "{\"instruction\":\"Please choose the correct answer to the question: Why: so?\\n\\n"
        "Answer1: a b. Answer2: c Answer3: d\\n\\nAnswer format: answer1/answer2/answer3\","
        "\"input\":\"\",\"output\":\"\",\"answer\":\"answer3\"}\n"
        "{\"instruction\":\"Please choose the correct answer to fill in the blank to complete the "
        "given sentence: A _ b.\\n\\nOption1: x y Option2: z Answer format: option1/option2\","
        "\"answer\":\"option2\"}\n"
        "{\"question\":{\"stem\":\"S\",\"choices\":[{\"text\":\"t\",\"label\":\"A\"}]},"
        "\"answerKey\":\"A\"}\n",
        "x.jsonl", NULL);
    ck_assert_str_eq(text_at(rows, 0, "question"), "Why: so?");
    ck_assert_str_eq(text_at(rows, 0, "option1"), "a b.");
    ck_assert_str_eq(text_at(rows, 0, "option3"), "d");
    ck_assert_str_eq(text_at(rows, 0, "answerKey"), "3");
    ck_assert_str_eq(text_at(rows, 1, "sentence"), "A _ b.");
    ck_assert_str_eq(text_at(rows, 1, "option1"), "x y");
    ck_assert_str_eq(text_at(rows, 1, "option2"), "z");
    ck_assert_str_eq(text_at(rows, 1, "answer"), "2");
    ck_assert_str_eq(text_at(rows, 2, "question"), "S");
    struct task *task = task_of(CHOICE);
    for (size_t i = 0; i < 3; i += 2) {
        struct task_question question;
        struct sp_error err = {0};
        ck_assert_msg(task_render(task, json_array_get(rows, i), i, &question, &err) == SP_OK, "%s",
                      err.text);
        ck_assert_int_eq(json_integer_value(json_object_get(question.meta, "gold")), i ? 0 : 2);
        task_question_deinit(&question);
    }
    task_free(task);
    json_decref(rows);
}
END_TEST

START_TEST(test_faults_of_task_files)
{
    expect_no_task("[task]\nname = t\n", "[prompt] text");
    expect_no_task("[task]\nkind = choice\n", "[task] name");
    expect_no_task("[task]\nname = t\n[prompt]\ntext = \"a\n", "JSON string");
    expect_no_task(CHOICE "partial = perhaps\n", "partial");
    expect_no_task("[task]\nname = t\nkind = generate\n[prompt]\ntext = x\n", "target");
    expect_no_task("[task]\nname = t\nkind = generate\n[prompt]\ntext = x\n[generate]\ntarget = y\n"
                   "strict = (\n",
                   "expression");
    expect_no_task("[task]\nname = t\nkind = generate\n[prompt]\ntext = x\n[generate]\ntarget = y\n"
                   "stop = [1]\n",
                   "no string");
    expect_no_task("[task]\nname = t\nkind = generate\n[data]\nfewshot = 2\n[prompt]\ntext = x\n"
                   "[generate]\ntarget = y\n",
                   "fewshot_file");
}
END_TEST

START_TEST(test_faults_of_problems)
{
    struct task *task = task_of(CHOICE);
    static const char *const rows[][2] = {
        {"{\"choices\":{\"text\":[\"a\"],\"label\":[\"A\"]},\"answerKey\":\"A\"}", "question"},
        {"{\"question\":\"q\",\"answerKey\":\"A\"}", "choices.text"},
        {"{\"question\":\"q\",\"choices\":{\"text\":[\"a\"],\"label\":[\"A\"]},\"answerKey\":"
         "\"B\"}",
         "none of the 1 choices"},
        {"{\"question\":\"q\",\"choices\":{\"text\":[],\"label\":[]},\"answerKey\":\"B\"}",
         "an empty one"},
    };
    for (size_t i = 0; i < SP_COUNT(rows); i++) {
        json_t *row = json_loads(rows[i][0], 0, NULL);
        struct task_question question;
        struct sp_error err = {0};
        ck_assert(task_render(task, row, 6, &question, &err) != SP_OK);
        ck_assert_msg(strstr(err.text, rows[i][1]) && strstr(err.text, "problem 7"), "%s",
                      err.text);
        json_decref(row);
    }
    task_free(task);
}
END_TEST

/* ddof = 1, as lm-evaluation-harness's mean_stderr. */
START_TEST(test_means)
{
    double a[] = {1, 0, 0, 1, 1}, b[] = {1, 1, 0, 1, 1};
    struct task_mean mean = task_mean(a, 5);
    ck_assert_double_eq_tol(mean.value, 0.6, 1e-15);
    ck_assert_double_eq_tol(mean.stderror, 0.24494897427831783, 1e-15);
    ck_assert(isnan(task_mean(a, 1).stderror));
    ck_assert(isnan(task_mean(a, 0).value));
    mean = task_paired(a, b, 5);
    ck_assert_double_eq_tol(mean.value, 0.2, 1e-15);
    ck_assert_double_eq_tol(mean.stderror, 0.2, 1e-15);
}
END_TEST

START_TEST(test_ties_go_to_the_first)
{
    struct task *task = task_of(CHOICE);
    json_t *meta =
        json_pack("{s:i,s:[s,s,s]}", "gold", 1, "choices", "a", "bb", "\xc3\xa4\xc3\xa4");
    double lls[] = {-2, -2, -2};
    json_t *scored = NULL;
    struct sp_error err = {0};
    ck_assert(task_score(task, meta, lls, 3, "", &scored, &err) == SP_OK);
    const json_t *metrics = json_object_get(scored, "metrics");
    /* By characters the second and the third tie, by bytes the third is longer. */
    ck_assert_double_eq(json_number_value(json_object_get(metrics, "acc")), 0);
    ck_assert_double_eq(json_number_value(json_object_get(metrics, "acc_norm")), 1);
    ck_assert_double_eq(json_number_value(json_object_get(metrics, "acc_bytes")), 0);
    ck_assert(task_score(task, meta, lls, 2, "", &scored, &err) == SP_ECORRUPT);
    json_decref(scored);
    json_decref(meta);
    task_free(task);
}
END_TEST

START_TEST(test_stop_texts_end_an_answer)
{
    struct task *task =
        task_of("[task]\nname = t\nkind = generate\n[prompt]\ntext = x\n[generate]\n"
                "target = y\nstop = [\"Q:\", \"\\n\\n\"]\nignore_punctuation = true\n");
    json_t *meta = json_pack("{s:s}", "target", "Yes"), *scored = NULL;
    struct sp_error err = {0};
    ck_assert(task_score(task, meta, NULL, 0, "yes!\n\nQ: next", &scored, &err) == SP_OK);
    ck_assert_str_eq(json_string_value(json_object_get(scored, "answer")), "yes!");
    const json_t *metrics = json_object_get(scored, "metrics");
    ck_assert_double_eq(json_number_value(json_object_get(metrics, "exact_match")), 1);
    json_decref(scored);
    json_decref(meta);
    task_free(task);
}
END_TEST

static Suite *suite(void)
{
    Suite *s = suite_create("task");
    TCase *t = tcase_create("task");
    tcase_add_test(t, test_rows_of_every_format);
    tcase_add_test(t, test_faults_of_rows_name_file_and_line);
    tcase_add_test(t, test_compressed_rows);
    tcase_add_test(t, test_compressed_rows_have_a_limit);
    tcase_add_test(t, test_other_layouts_become_the_published_one);
    tcase_add_test(t, test_faults_of_task_files);
    tcase_add_test(t, test_faults_of_problems);
    tcase_add_test(t, test_means);
    tcase_add_test(t, test_ties_go_to_the_first);
    tcase_add_test(t, test_stop_texts_end_an_answer);
    suite_add_tcase(s, t);
    return s;
}
SPIN_CHECK_MAIN(suite())
