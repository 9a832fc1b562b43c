/* Formats of rows, where a row starts and ends, and every way in which a file can be bad. */
#include "common/base/limits.h"
#include "common/text/dataset.h"
#include "tests/unit/check_main.h"

#include <string.h>

static struct tok_dataset *open_text(const char *text, enum tok_format format)
{
    struct tok_dataset *d = NULL;
    struct sp_error err = {0};
    ck_assert_msg(tok_dataset_open_memory(text, strlen(text), "data", format, &d, &err) == SP_OK,
                  "%s", err.text);
    return d;
}

static struct tok_row next(struct tok_dataset *d)
{
    struct tok_row row = {0};
    bool more = false;
    struct sp_error err = {0};
    ck_assert_msg(tok_dataset_next(d, &row, &more, &err) == SP_OK, "%s", err.text);
    ck_assert(more);
    return row;
}

static void expect_end(struct tok_dataset *d)
{
    struct tok_row row;
    bool more = true;
    struct sp_error err = {0};
    ck_assert_msg(tok_dataset_next(d, &row, &more, &err) == SP_OK, "%s", err.text);
    ck_assert(!more);
    tok_dataset_close(d);
}

/* One row of this text is of this format, with this prompt (of one turn) and these answers. */
static void expect_row(const char *text, enum tok_format format, const char *prompt,
                       const char *response, const char *rejected)
{
    enum tok_format ask[] = {TOK_FORMAT_AUTO, format};
    for (int i = 0; i < 2; i++) {
        struct tok_dataset *d = open_text(text, ask[i]);
        ck_assert_int_eq(tok_dataset_format(d), format);
        struct tok_row row = next(d);
        ck_assert_uint_eq(row.turn_count, 1);
        ck_assert_str_eq(row.turns[0].role, "user");
        ck_assert_str_eq(row.turns[0].content, prompt);
        ck_assert_str_eq(row.response, response);
        if (rejected == NULL)
            ck_assert_ptr_null(row.rejected);
        else
            ck_assert_str_eq(row.rejected, rejected);
        expect_end(d);
    }
}

START_TEST(formats)
{
    expect_row("{\"prompt\": \"p\", \"response\": \"r\", \"extra\": 1}", TOK_FORMAT_PROMPT_RESPONSE,
               "p", "r", NULL);
    expect_row("{\"question\": \"q\", \"answer\": \"a\"}", TOK_FORMAT_QUESTION_ANSWER, "q", "a",
               NULL);
    expect_row("{\"instruction\": \"i\", \"output\": \"o\"}", TOK_FORMAT_INSTRUCTION, "i", "o",
               NULL);
    expect_row("{\"instruction\": \"i\", \"input\": \"\", \"output\": \"o\"}",
               TOK_FORMAT_INSTRUCTION, "i", "o", NULL);
    expect_row("{\"instruction\": \"i\", \"input\": \"n\", \"output\": \"o\"}",
               TOK_FORMAT_INSTRUCTION, "i\n\nn", "o", NULL);
    expect_row("{\"messages\": [{\"role\": \"user\", \"content\": \"u\"},"
               "{\"role\": \"assistant\", \"content\": \"a\"}]}",
               TOK_FORMAT_MESSAGES, "u", "a", NULL);
    expect_row("{\"real\": [{\"role\": \"user\", \"content\": \"u\"},"
               "{\"role\": \"assistant\", \"content\": \"a\"}],"
               "\"generated\": [{\"role\": \"user\", \"content\": \"u\"},"
               "{\"role\": \"assistant\", \"content\": \"\"}]}",
               TOK_FORMAT_UCLAML, "u", "a", "");
    expect_row("{\"prompt\": \"p\", \"chosen\": \"c\", \"rejected\": \"r\"}", TOK_FORMAT_PREFERENCE,
               "p", "c", "r");
    expect_row("{\"instruction\": \"i\", \"input\": \"n\", \"output\": \"o\", \"chosen\": \"c\","
               "\"rejected\": \"r\"}",
               TOK_FORMAT_PREFERENCE, "i\n\nn", "c", "r");
    expect_row("{\"question\": \"q\", \"chosen\": \"c\", \"rejected\": \"r\"}",
               TOK_FORMAT_PREFERENCE, "q", "c", "r");
    expect_row("{\"prompt\": \"u\", \"chosen\": [{\"role\": \"user\", \"content\": \"u\"},"
               "{\"role\": \"assistant\", \"content\": \"a\"}],"
               "\"rejected\": [{\"role\": \"user\", \"content\": \"u\"},"
               "{\"role\": \"assistant\", \"content\": \"b\"}]}",
               TOK_FORMAT_PREFERENCE, "u", "a", "b");
}
END_TEST

START_TEST(conversation)
{
    struct tok_dataset *d = open_text("{\"messages\": [{\"role\": \"system\", \"content\": \"s\"},"
                                      "{\"role\": \"user\", \"content\": \"u1\"},"
                                      "{\"role\": \"assistant\", \"content\": \"a1\"},"
                                      "{\"role\": \"user\", \"content\": \"u2\"},"
                                      "{\"role\": \"assistant\", \"content\": \"a2\"},"
                                      "{\"role\": \"user\", \"content\": \"unanswered\"}]}",
                                      TOK_FORMAT_AUTO);
    struct tok_row row = next(d);
    ck_assert_uint_eq(row.turn_count, 4);
    ck_assert_str_eq(row.turns[0].role, "system");
    ck_assert_str_eq(row.turns[2].content, "a1");
    ck_assert_str_eq(row.turns[3].content, "u2");
    ck_assert_str_eq(row.response, "a2");
    expect_end(d);
}
END_TEST

START_TEST(lines)
{
    struct tok_dataset *d = open_text("\xef\xbb\xbf\n\n{\"prompt\": \"1\", \"response\": \"a\"}\r\n"
                                      "  \n{\"prompt\": \"2\\n\", \"response\": \"\\u00e9\"}",
                                      TOK_FORMAT_AUTO);
    struct tok_row row = next(d);
    ck_assert_uint_eq(row.line, 3);
    ck_assert_uint_eq(row.index, 0);
    row = next(d);
    ck_assert_uint_eq(row.line, 5);
    ck_assert_uint_eq(row.index, 1);
    ck_assert_str_eq(row.turns[0].content, "2\n");
    ck_assert_str_eq(row.response, "\xc3\xa9");
    expect_end(d);
}
END_TEST

START_TEST(array)
{
    struct tok_dataset *d =
        open_text(" [\n {\"prompt\": \"]}\\\"\", \"response\": \"a\", \"x\": [{}]},\n"
                  " {\"prompt\": \"2\",\n  \"response\": \"b\"}\n]\n",
                  TOK_FORMAT_AUTO);
    struct tok_row row = next(d);
    ck_assert_uint_eq(row.line, 2);
    ck_assert_str_eq(row.turns[0].content, "]}\"");
    row = next(d);
    ck_assert_uint_eq(row.line, 3);
    ck_assert_str_eq(row.response, "b");
    expect_end(d);
}
END_TEST

/* Reading the text to its end fails, with a message that has `message` in it. */
static void expect_error(const char *text, enum tok_format format, enum sp_err code,
                         const char *message)
{
    struct tok_dataset *d = NULL;
    struct sp_error err = {0};
    enum sp_err rc = tok_dataset_open_memory(text, strlen(text), "data", format, &d, &err);
    bool more = true;
    while (rc == SP_OK && more) {
        struct tok_row row;
        rc = tok_dataset_next(d, &row, &more, &err);
    }
    ck_assert_msg(rc == code, "%s: %s instead of %s: %s", text, sp_err_name(rc), sp_err_name(code),
                  err.text);
    ck_assert_msg(strstr(err.text, message) != NULL, "\"%s\" is not in \"%s\"", message, err.text);
    tok_dataset_close(d);
}

#define GOOD "{\"prompt\": \"p\", \"response\": \"r\"}\n"
#define USER "{\"role\": \"user\", \"content\": \"u\"}"
#define REPLY "{\"role\": \"assistant\", \"content\": \"a\"}"

static const struct {
    const char *text;
    enum tok_format format;
    const char *message;
} malformed[] = {
    {"", TOK_FORMAT_AUTO, "data: there are no rows"},
    {"\n \n", TOK_FORMAT_AUTO, "data: there are no rows"},
    {"[]", TOK_FORMAT_AUTO, "data: there are no rows"},
    {GOOD "\n{\"prompt\": \"p\", \"response\": \"r\"", TOK_FORMAT_AUTO, "data:3: line 1, column"},
    {GOOD "not json\n", TOK_FORMAT_AUTO, "data:2: "},
    {GOOD GOOD "{\"prompt\": \"p\", \"prompt\": \"q\", \"response\": \"r\"}", TOK_FORMAT_AUTO,
     "data:3: "},
    {GOOD "{\"prompt\": \"\xff\", \"response\": \"r\"}", TOK_FORMAT_AUTO, "data:2: "},
    {GOOD "{\"prompt\": \"a\\u0000b\", \"response\": \"r\"}", TOK_FORMAT_AUTO,
     "data:2: line 1, column 21: a text with the character NUL (\\u0000), which is not read: take "
     "it"},
    {GOOD "{\"prompt\": \"p\"}", TOK_FORMAT_AUTO,
     "data:2: field \"response\": missing: give the row one"},
    {GOOD "{\"prompt\": null, \"response\": \"r\"}", TOK_FORMAT_AUTO,
     "data:2: field \"prompt\": missing"},
    {GOOD "{\"prompt\": 5, \"response\": \"r\"}", TOK_FORMAT_AUTO,
     "data:2: field \"prompt\": expected a string: put it in quotation marks"},
    {GOOD "{\"prompt\": [\"p\"], \"response\": \"r\"}", TOK_FORMAT_AUTO,
     "expected a string, this holds several values: name one by a path"},
    {GOOD "{\"prompt\": \"\", \"response\": \"r\"}", TOK_FORMAT_AUTO,
     "data:2: field \"prompt\": empty: give the row one, or take the row out"},
    {GOOD "{\"prompt\": \"p\", \"response\": \"\"}", TOK_FORMAT_AUTO,
     "data:2: field \"response\": empty"},
    {GOOD "[1]", TOK_FORMAT_AUTO, "data:2: a row must be a JSON object"},
    {GOOD "{\"prompt\": \"p\", \"response\": \"r\"} {}", TOK_FORMAT_AUTO, "data:2: "},
    {"{\"text\": \"x\", \"n\": 1}", TOK_FORMAT_AUTO, "the fields \"text\", \"n\" are of no known"},
    {"{}", TOK_FORMAT_AUTO, "the fields (none)"},
    {GOOD, TOK_FORMAT_MESSAGES, "data:1: field \"messages\": expected a list"},
    {"{\"messages\": []}", TOK_FORMAT_AUTO, "\"messages\": an empty list"},
    {"{\"messages\": [1]}", TOK_FORMAT_AUTO, "\"messages[0]\": expected an object"},
    {"{\"messages\": [{\"content\": \"u\"}]}", TOK_FORMAT_AUTO, "\"messages[0]\": \"role\""},
    {"{\"messages\": [{\"role\": \"user\"}]}", TOK_FORMAT_AUTO, "\"messages[0]\": \"content\""},
    {"{\"messages\": [{\"role\": \"tool\", \"content\": \"x\"}]}", TOK_FORMAT_AUTO,
     "is not system, user or assistant"},
    {"{\"messages\": [" USER "]}", TOK_FORMAT_AUTO, "there is no assistant message"},
    {"{\"messages\": [" REPLY "]}", TOK_FORMAT_AUTO, "\"messages[0]\": an assistant message that"},
    {"{\"messages\": [" USER "," USER "," REPLY "]}", TOK_FORMAT_AUTO, "two user messages"},
    {"{\"messages\": [" USER "," REPLY "," REPLY "]}", TOK_FORMAT_AUTO, "\"messages[2]\": an"},
    {"{\"messages\": [" USER ", {\"role\": \"system\", \"content\": \"s\"}," REPLY "]}",
     TOK_FORMAT_AUTO, "a system message that is not the first"},
    {"{\"messages\": [" USER ", {\"role\": \"assistant\", \"content\": \"\"}]}", TOK_FORMAT_AUTO,
     "the answer is empty"},
    {"{\"real\": [" USER "," REPLY
     "], \"generated\": [{\"role\": \"user\", \"content\": \"v\"}," REPLY "]}",
     TOK_FORMAT_AUTO, "\"generated\": its prompt is not that of \"real\""},
    {"{\"real\": \"x\", \"generated\": \"y\"}", TOK_FORMAT_AUTO, "\"generated\": expected a list"},
    {"{\"chosen\": \"a\", \"rejected\": \"b\"}", TOK_FORMAT_AUTO, "\"prompt\": missing"},
    {"{\"prompt\": \"p\", \"chosen\": \"a\", \"rejected\": [1]}", TOK_FORMAT_AUTO,
     "\"rejected\": expected a string"},
    {"{\"prompt\": \"p\", \"chosen\": {}, \"rejected\": \"b\"}", TOK_FORMAT_AUTO,
     "\"chosen\": expected a string"},
    {"{\"instruction\": \"i\", \"input\": 3, \"output\": \"o\"}", TOK_FORMAT_AUTO,
     "\"input\": expected a string"},
    {"[" GOOD, TOK_FORMAT_AUTO, "data:2: the file ends where ',' or ']'"},
    {"[" GOOD GOOD "]", TOK_FORMAT_AUTO, "data:2: ',' or ']' after a row is expected, not '{'"},
    {"[" GOOD ",]", TOK_FORMAT_AUTO, "data:2: an object is expected, not ']'"},
    {"[" GOOD "] x", TOK_FORMAT_AUTO, "nothing behind the array is expected, not 'x'"},
    {"[\n{\"prompt\": \"p\n", TOK_FORMAT_AUTO, "data:2: the file ends within the row"},
    {"[1, 2]", TOK_FORMAT_AUTO, "data:1: an object is expected, not '1'"},
};

START_TEST(malformed_rows)
{
    expect_error(malformed[_i].text, malformed[_i].format, SP_EFORMAT, malformed[_i].message);
}
END_TEST

START_TEST(deep_row)
{
    char text[400] = "{\"prompt\": ";
    for (int i = 0; i < 150; i++)
        strcat(text, "[");
    expect_error(text, TOK_FORMAT_AUTO, SP_ELIMIT, "data:1: ");
}
END_TEST

START_TEST(long_row)
{
    size_t length = SP_MAX_DATASET_LINE + 100;
    char *text = malloc(length + 1);
    memset(text, 'x', length);
    text[length] = '\0';
    memcpy(text, "\n{\"prompt\": \"", 13);
    expect_error(text, TOK_FORMAT_AUTO, SP_ELIMIT, "data:2: the row is longer than");
    memcpy(text, "[{\"prompt\":\"", 12);
    expect_error(text, TOK_FORMAT_AUTO, SP_ELIMIT, "data:1: the row is longer than");
    free(text);
}
END_TEST

START_TEST(names)
{
    enum tok_format format;
    struct sp_error err = {0};
    for (int i = 0; i < TOK_FORMAT_COUNT; i++) {
        ck_assert_int_eq(tok_format_parse(tok_format_name((enum tok_format)i), &format, &err),
                         SP_OK);
        ck_assert_int_eq(format, i);
    }
    ck_assert_int_eq(tok_format_parse("alpaca", &format, &err), SP_EINVAL);
    ck_assert_ptr_nonnull(strstr(err.text, "prompt_response (prompt, response); messages"));
    struct tok_dataset *d;
    ck_assert_int_eq(tok_dataset_open("/no/such/file", "train.jsonl", TOK_FORMAT_AUTO, &d, &err),
                     SP_ENOTFOUND);
    ck_assert_ptr_nonnull(strstr(err.text, "train.jsonl: "));
    ck_assert_int_ne(tok_dataset_open("/", NULL, TOK_FORMAT_AUTO, &d, &err), SP_OK);
}
END_TEST

static void count_rows(const char *file, enum tok_format format, uint64_t expected)
{
    const char *path = shared_data(file);
    if (path == NULL)
        return;
    struct tok_dataset *d = NULL;
    struct sp_error err = {0};
    ck_assert_msg(tok_dataset_open(path, NULL, TOK_FORMAT_AUTO, &d, &err) == SP_OK, "%s", err.text);
    ck_assert_int_eq(tok_dataset_format(d), format);
    uint64_t rows = 0;
    for (bool more = true; more; rows += more) {
        struct tok_row row;
        ck_assert_msg(tok_dataset_next(d, &row, &more, &err) == SP_OK, "%s", err.text);
    }
    ck_assert_uint_eq(rows, expected);
    tok_dataset_close(d);
}

START_TEST(shared_files)
{
    count_rows("datasets/gsm8k/train.jsonl", TOK_FORMAT_QUESTION_ANSWER, 7473);
    count_rows("datasets/tinystories/tinystories_sft.jsonl", TOK_FORMAT_PROMPT_RESPONSE, 8138);
    count_rows("datasets/rasbt-instruct/instruction-data.json", TOK_FORMAT_INSTRUCTION, 1100);
    count_rows("datasets/rasbt-instruct/instruction-data-with-preference.json",
               TOK_FORMAT_PREFERENCE, 1100);
}
END_TEST

static Suite *suite(void)
{
    Suite *s = suite_create("dataset");
    TCase *c = tcase_create("rows");
    tcase_add_test(c, formats);
    tcase_add_test(c, conversation);
    tcase_add_test(c, lines);
    tcase_add_test(c, array);
    tcase_add_loop_test(c, malformed_rows, 0, sizeof(malformed) / sizeof(malformed[0]));
    tcase_add_test(c, deep_row);
    tcase_add_test(c, long_row);
    tcase_add_test(c, names);
    tcase_add_test(c, shared_files);
    suite_add_tcase(s, c);
    return s;
}

SPIN_CHECK_MAIN(suite())
