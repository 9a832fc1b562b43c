/* What a dataset can lie in: CSV, gzip, zstd; fields by the user's names; and how each goes wrong.
 */
#include "common/base/buf.h"
#include "common/base/limits.h"
#include "common/base/mem.h"
#include "common/text/dataset.h"
#include "tests/unit/check_main.h"

#include <string.h>
#include <unistd.h>
#include <zlib.h>
#include <zstd.h>

#define GOOD "{\"prompt\": \"p\", \"response\": \"r\"}\n"

/* All rows of a text, one a line: "prompt>response" or "prompt>response|rejected"; on failure what
 * went wrong is in *err. */
static enum sp_err read_all(struct tok_dataset *d, struct sp_buf *out, struct sp_error *err)
{
    enum sp_err rc = SP_OK;
    for (bool more = true; rc == SP_OK && more;) {
        struct tok_row row;
        rc = tok_dataset_next(d, &row, &more, err);
        if (rc != SP_OK || !more)
            break;
        for (size_t i = 0; i < row.turn_count; i++)
            sp_buf_printf(out, "%s%s", i > 0 ? "/" : "", row.turns[i].content);
        sp_buf_printf(out, ">%s", row.response);
        if (row.rejected != NULL)
            sp_buf_printf(out, "|%s", row.rejected);
        sp_buf_printf(out, "@%llu\n", (unsigned long long)row.line);
    }
    tok_dataset_close(d);
    return rc;
}

static enum sp_err read_bytes(const void *data, size_t length, const char *what, struct sp_buf *out,
                              struct sp_error *err)
{
    struct tok_dataset *d = NULL;
    enum sp_err rc = tok_dataset_open_memory(data, length, what, TOK_FORMAT_AUTO, &d, err);
    return rc == SP_OK ? read_all(d, out, err) : rc;
}

static void expect_rows(const void *data, size_t length, const char *what, const char *rows)
{
    struct sp_buf out = SP_BUF_INIT;
    struct sp_error err = {0};
    ck_assert_msg(read_bytes(data, length, what, &out, &err) == SP_OK, "%s", err.text);
    ck_assert_str_eq(out.data, rows);
    sp_buf_deinit(&out);
}

static void expect_failure(const void *data, size_t length, const char *what, enum sp_err code,
                           const char *message)
{
    struct sp_buf out = SP_BUF_INIT;
    struct sp_error err = {0};
    enum sp_err rc = read_bytes(data, length, what, &out, &err);
    ck_assert_msg(rc == code, "%s instead of %s: %s", sp_err_name(rc), sp_err_name(code), err.text);
    ck_assert_msg(strstr(err.text, message) != NULL, "\"%s\" is not in \"%s\"", message, err.text);
    sp_buf_deinit(&out);
}

/* ---- CSV ---- */

static const struct {
    const char *text, *rows;
} csv[] = {
    {"prompt,response\na,b\n", "a>b@2\n"},
    {"prompt,response\r\na,b\r\nc,d\r\n", "a>b@2\nc>d@3\n"},
    {"prompt,response\ra,b\rc,d", "a>b@2\nc>d@3\n"}, /* lone CRs, no last line break */
    {"\xef\xbb\xbfprompt,response\na,b", "a>b@2\n"},
    {"id,response,prompt\n1,b,a\n", "a>b@2\n"},
    {"\"prompt\",\"response\"\n\"a, \"\"x\"\"\",\"l1\nl2\"\n\nc,d\n", "a, \"x\">l1\nl2@2\nc>d@5\n"},
    {"prompt,response\n a , b \n", " a > b @2\n"}, /* spaces belong to a field */
    {"instruction,input,output\ni,,o\ni,n,o\n", "i>o@2\ni\n\nn>o@3\n"},
    {"question,answer\n\xc3\xa9,\xe2\x82\xac\n", "\xc3\xa9>\xe2\x82\xac@2\n"},
};

START_TEST(test_csv)
{
    expect_rows(csv[_i].text, strlen(csv[_i].text), "t.csv", csv[_i].rows);
}
END_TEST

static const struct {
    const char *text, *message;
} bad_csv[] = {
    {"prompt,response\n", "t.csv: there are no rows"},
    {"", "t.csv: "},
    {"prompt,response\na\n", "t.csv:2: row 1 has 1 fields, the header 2"},
    {"prompt,response\na,b\n\nc,d,e\n", "t.csv:4: row 2 has 3 fields, the header 2: put fields"},
    {"prompt,response\na,b\"c\n", "t.csv:2: row 1: a quotation mark where none may be"},
    {"prompt,response\na,\"b\"c\n", "t.csv:2: row 1: a quotation mark where none may be"},
    {"prompt,response\na,b\nc,\"d\n\n",
     "t.csv:3: row 2: the file ends within a field in quotation"},
    {"prompt,response\n\xff,b\n", "t.csv:2: field 1 is not UTF-8"},
    {"prompt,prompt\na,b\n", "t.csv:1: columns 1 and 2 are both named \"prompt\""},
    {"prompt,\na,b\n", "t.csv:1: column 2 of the header has no name"},
    {"prompt,response\na,\n", "t.csv:2: field \"response\": empty"},
    {"text,label\na,b\n", "t.csv:2: the fields \"text\", \"label\" are of no known"},
    {"text,label\na,b\n", "named by [data] prompt = FIELD"},
    {"messages,x\nhello,b\n", "t.csv:2: field \"messages\": expected a list"},
};

START_TEST(test_bad_csv)
{
    expect_failure(bad_csv[_i].text, strlen(bad_csv[_i].text), "t.csv", SP_EFORMAT,
                   bad_csv[_i].message);
}
END_TEST

START_TEST(test_csv_limits)
{
    size_t length = SP_MAX_DATASET_LINE + 64;
    char *text = malloc(length);
    memset(text, 'x', length);
    memcpy(text, "prompt,response\na,", 18);
    expect_failure(text, length, "t.csv", SP_ELIMIT, "t.csv:2: the row is longer than");
    /* A row of many short lines within quotation marks is one row all the same. */
    memset(text + 18, '\n', length - 18);
    text[18] = '"';
    expect_failure(text, length, "t.csv", SP_ELIMIT, "t.csv:2: the row is longer than");
    memset(text, ',', length);
    expect_failure(text, SP_MAX_DATASET_COLUMNS + 8, "t.csv", SP_ELIMIT, "columns");
    free(text);
}
END_TEST

/* CSV is known by its name, or by a comma in a first line that is no JSON. */
START_TEST(test_which_is_csv)
{
    static const char rows[] = "prompt,response\na,b\n";
    expect_rows(rows, sizeof(rows) - 1, "data", "a>b@2\n");
    expect_rows(rows, sizeof(rows) - 1, "DATA.CSV", "a>b@2\n");
    static const char array[] = "[{\"prompt\": \"p\", \"response\": \"r\"}]";
    expect_rows(array, sizeof(array) - 1, "data", "p>r@1\n");
    static const char spaces[] = " \n\t{\"prompt\": \"p\", \"response\": \"r\"}\n";
    expect_rows(spaces, sizeof(spaces) - 1, "data", "p>r@2\n");
    static const char blank[] = "\n  [\n{\"prompt\": \"p\", \"response\": \"r\"}]";
    expect_rows(blank, sizeof(blank) - 1, "data", "p>r@3\n");
    static const char later[] = "\r\n\nprompt,response\na,b\n";
    expect_rows(later, sizeof(later) - 1, "data", "a>b@4\n");
    expect_failure("hello\nworld\n", 12, "data", SP_EFORMAT, "data:1: ");
}
END_TEST

/* ---- compression ---- */

static size_t gzip(const void *data, size_t length, uint8_t *to, size_t capacity)
{
    z_stream z = {0};
    ck_assert_int_eq(deflateInit2(&z, 6, Z_DEFLATED, 15 + 16, 8, Z_DEFAULT_STRATEGY), Z_OK);
    z.next_in = (Bytef *)data;
    z.avail_in = (uInt)length;
    z.next_out = to;
    z.avail_out = (uInt)capacity;
    ck_assert_int_eq(deflate(&z, Z_FINISH), Z_STREAM_END);
    size_t made = capacity - z.avail_out;
    deflateEnd(&z);
    return made;
}

/* With the checksum that the program zstd writes. */
static size_t zstd(const void *data, size_t length, uint8_t *to, size_t capacity)
{
    ZSTD_CCtx *context = ZSTD_createCCtx();
    ZSTD_CCtx_setParameter(context, ZSTD_c_checksumFlag, 1);
    size_t made = ZSTD_compress2(context, to, capacity, data, length);
    ck_assert(!ZSTD_isError(made));
    ZSTD_freeCCtx(context);
    return made;
}

/* Without it, as libraries write: the last block is the end. */
static size_t zstd_bare(const void *data, size_t length, uint8_t *to, size_t capacity)
{
    size_t made = ZSTD_compress(to, capacity, data, length, 3);
    ck_assert(!ZSTD_isError(made));
    return made;
}

/* Enough rows for many buffers, each different from the others. */
static char *many_rows(int n, size_t *ret_length)
{
    struct sp_buf text = SP_BUF_INIT;
    for (int i = 0; i < n; i++)
        sp_buf_printf(&text, "{\"prompt\": \"%08x\", \"response\": \"%d\"}\n",
                      (unsigned)i * 2654435761u, i);
    *ret_length = text.length;
    return sp_buf_detach(&text);
}

START_TEST(test_compressed)
{
    static const char csv_rows[] = "prompt,response\na,b\n";
    size_t length, capacity = 4 << 20;
    char *rows = many_rows(20000, &length);
    uint8_t *packed = malloc(capacity);
    size_t (*const pack[])(const void *, size_t, uint8_t *, size_t) = {gzip, zstd, zstd_bare};
    for (int i = 0; i < 3; i++) {
        size_t made = pack[i](rows, length, packed, capacity);
        struct tok_dataset *d = NULL;
        struct sp_error err = {0};
        ck_assert_int_eq(tok_dataset_open_memory(packed, made, "d", TOK_FORMAT_AUTO, &d, &err), 0);
        uint64_t count = 0;
        for (bool more = true; more; count += more) {
            struct tok_row row;
            ck_assert_msg(tok_dataset_next(d, &row, &more, &err) == SP_OK, "%s", err.text);
            if (more)
                ck_assert_uint_eq(strtoull(row.response, NULL, 10), row.index);
        }
        ck_assert_uint_eq(count, 20000);
        ck_assert_uint_eq(tok_dataset_bytes_read(d), made);
        ck_assert_uint_eq(tok_dataset_bytes_total(d), made);
        tok_dataset_close(d);
        /* Nothing is left behind in a decompressor, whatever the lengths of frames. */
        size_t cut = 100001;
        for (made = 0, count = 0; count < length; count += cut)
            made +=
                pack[i](rows + count, SP_MIN(cut, length - count), packed + made, capacity - made);
        struct sp_buf all = SP_BUF_INIT;
        ck_assert_msg(read_bytes(packed, made, "d", &all, &err) == SP_OK, "%s", err.text);
        ck_assert_ptr_nonnull(strstr(all.data, ">19999@20000\n"));
        sp_buf_deinit(&all);
        /* Members and frames one after the other are one text. */
        made = pack[i](GOOD, strlen(GOOD), packed, capacity);
        made += pack[i](GOOD, strlen(GOOD), packed + made, capacity - made);
        expect_rows(packed, made, "d", "p>r@1\np>r@2\n");
        made = pack[i](csv_rows, strlen(csv_rows), packed, capacity);
        expect_rows(packed, made, i == 0 ? "d.csv.gz" : "d.csv.zst", "a>b@2\n");
        made = pack[i]("", 0, packed, capacity);
        expect_failure(packed, made, "d", SP_EFORMAT, "d: there are no rows");
        /* What the file is does not hang on how it is cut. */
        static const char marked[] = "\xef\xbb\xbfprompt,response\na,b\n";
        made = 0;
        for (size_t at = 0; at < sizeof(marked) - 1; at++)
            made += pack[i](marked + at, 1, packed + made, capacity - made);
        expect_rows(packed, made, "d", "a>b@2\n");
    }
    free(packed);
    free(rows);
}
END_TEST

/* Cut or changed at any place, compressed data never gives rows as if nothing had happened. */
START_TEST(test_damaged)
{
    size_t length, capacity = 1 << 20;
    char *rows = many_rows(300, &length);
    uint8_t *packed = malloc(capacity), *copy = malloc(capacity);
    size_t made = gzip(rows, length, packed, capacity);
    for (size_t cut = 3; cut < made; cut += 41)
        expect_failure(packed, cut, "d.gz", SP_EFORMAT, "d.gz: the gzip data is damaged near byte");
    memcpy(copy, packed, made);
    copy[made - 6] ^= 1; /* the checksum */
    expect_failure(copy, made, "d.gz", SP_EFORMAT, "the gzip data is damaged near byte");
    memcpy(copy, packed, made);
    memset(copy + made, 0, 5000); /* zeros are how some media fill up a block */
    struct sp_buf all = SP_BUF_INIT;
    struct sp_error err = {0};
    ck_assert_msg(read_bytes(copy, made + 5000, "d.gz", &all, &err) == SP_OK, "%s", err.text);
    sp_buf_deinit(&all);
    memcpy(copy + made, "junk", 4);
    expect_failure(copy, made + 4, "d.gz", SP_EFORMAT, "the gzip data is damaged near byte");
    made = zstd(rows, length, packed, capacity);
    for (size_t cut = 4; cut < made; cut += 41)
        expect_failure(packed, cut, "d.zst", SP_EFORMAT, "d.zst: the zstd data is damaged near");
    memcpy(copy, packed, made);
    memset(copy + made / 2, 0xff, 16);
    expect_failure(copy, made, "d.zst", SP_EFORMAT, "the zstd data is damaged near byte");
    free(rows);
    free(packed);
    free(copy);
}
END_TEST

START_TEST(test_zstd_window)
{
    size_t length = (size_t)300 << 10, capacity = 1 << 20;
    char *text = malloc(length);
    uint8_t *packed = malloc(capacity);
    memset(text, ' ', length);
    ZSTD_CCtx *context = ZSTD_createCCtx();
    ZSTD_CCtx_setParameter(context, ZSTD_c_windowLog, 28);
    ZSTD_CCtx_setParameter(context, ZSTD_c_contentSizeFlag, 0);
    ZSTD_outBuffer out = {.dst = packed, .size = capacity};
    ZSTD_inBuffer in = {.src = text, .size = length};
    /* Size unknown at the start, so that the frame asks for the whole window. */
    ck_assert(!ZSTD_isError(ZSTD_compressStream2(context, &out, &in, ZSTD_e_flush)));
    ck_assert_uint_eq(ZSTD_compressStream2(context, &out, &in, ZSTD_e_end), 0);
    expect_failure(packed, out.pos, "d.zst", SP_ELIMIT, "d.zst: it needs a zstd window above 128");
    ZSTD_freeCCtx(context);
    free(text);
    free(packed);
}
END_TEST

static const struct {
    const char *bytes, *message;
} foreign[] = {
    {"PAR1....", "t: this is a Parquet file, which is not read: make JSON Lines"},
    {"ARROW1..", "an Arrow file"},
    {"PK\x03\x04...", "a zip archive"},
    {"BZh91AY", "a bzip2 file"},
    {"\xfd"
     "7zXZ..",
     "an xz file"},
    {"SQLite format 3.", "an SQLite database"},
    {"\xff\xfe{", "in UTF-16"},
};

START_TEST(test_foreign_files)
{
    expect_failure(foreign[_i].bytes, strlen(foreign[_i].bytes), "t", SP_EUNSUPPORTED,
                   foreign[_i].message);
}
END_TEST

/* ---- fields by name ---- */

static enum sp_err read_fields(const char *text, const struct tok_fields *fields,
                               struct sp_buf *out, struct sp_error *err)
{
    char path[] = "/tmp/spin-fields-XXXXXX";
    int fd = mkstemp(path);
    ck_assert_int_ge(fd, 0);
    ck_assert_int_eq(write(fd, text, strlen(text)), (ssize_t)strlen(text));
    close(fd);
    struct tok_dataset *d = NULL;
    enum sp_err rc = tok_dataset_open_fields(path, "data", TOK_FORMAT_AUTO, fields, &d, err);
    unlink(path);
    if (rc == SP_OK) {
        ck_assert_int_eq(tok_dataset_format(d), TOK_FORMAT_MAPPED);
        rc = read_all(d, out, err);
    }
    return rc;
}

static const struct {
    const char *text;
    struct tok_fields fields;
    const char *rows, *message; /* one of them NULL */
} mapped[] = {
    {"{\"q\": \"a\", \"r\": \"b\"}", {.prompt = "q", .response = "r"}, "a>b@1\n", NULL},
    {"{\"q\": \"a\", \"response\": \"b\"}", {.prompt = "q"}, "a>b@1\n", NULL},
    {"Question,Best Answer\na,b\n", {"Question", "Best Answer", "", ""}, "a>b@2\n", NULL},
    {"{\"x\": {\"y\": [{\"q\": \"a\"}, \"b\"]}}",
     {.prompt = "x.y.0.q", .response = "x.y.1"},
     "a>b@1\n",
     NULL},
    /* The very name goes before the path. */
    {"{\"x.y\": \"a\", \"x\": {\"y\": \"no\"}, \"r\": \"b\"}",
     {.prompt = "x.y", .response = "r"},
     "a>b@1\n",
     NULL},
    {"{\"p\": \"a\", \"c\": \"b\", \"j\": \"\", \"s\": \"sys\"}",
     {"p", "c", "j", "s"},
     "sys/a>b|@1\n",
     NULL},
    {"{\"p\": \"a\", \"c\": \"b\", \"s\": null}",
     {.prompt = "p", .response = "c", .system = "s"},
     "a>b@1\n",
     NULL},
    {"{\"t\": [{\"role\": \"user\", \"content\": \"u\"}, {\"role\": \"assistant\", \"content\": "
     "\"v\"}, {\"role\": \"user\", \"content\": \"w\"}], \"r\": \"b\"}",
     {.prompt = "t", .response = "r"},
     "u/v/w>b@1\n",
     NULL},
    {"{\"q\": \"a\"}",
     {.prompt = "question", .response = "q"},
     NULL,
     "data:1: field \"question\", which [data] prompt names: missing; the row has \"q\""},
    {"{\"q\": \"a\"}", {.prompt = "q", .response = "x.0"}, NULL, "\"x.0\", which [data] response"},
    {"{\"q\": \"a\", \"x\": [1]}", {.prompt = "q", .response = "x.5"}, NULL, "missing"},
    {"{\"q\": \"a\", \"x\": [1]}", {.prompt = "q", .response = "x.0"}, NULL, "expected a string"},
    {"{\"q\": \"\", \"r\": \"b\"}", {.prompt = "q", .response = "r"}, NULL, "\"q\": empty"},
    {"{\"q\": \"a\", \"r\": \"b\"}", {"q", "r", "j", ""}, NULL, "which [data] rejected names"},
    {"{\"q\": \"a\", \"r\": \"b\", \"j\": 1}",
     {"q", "r", "j", ""},
     NULL,
     "\"j\": expected a string"},
    {"{\"q\": \"a\", \"r\": \"b\"}", {"q", "r", "", "s"}, NULL, "which [data] system names"},
    {"{\"q\": \"a\", \"r\": \"b\", \"s\": 2}", {"q", "r", "", "s"}, NULL, "expected a string"},
    {"{\"q\": [], \"r\": \"b\"}", {.prompt = "q", .response = "r"}, NULL, "is not the user's"},
    {"{\"q\": [{\"role\": \"system\", \"content\": \"x\"}], \"r\": \"b\", \"s\": \"y\"}",
     {"q", "r", "", "s"},
     NULL,
     "so has [data] system"},
};

START_TEST(test_fields)
{
    struct sp_buf out = SP_BUF_INIT;
    struct sp_error err = {0};
    enum sp_err rc = read_fields(mapped[_i].text, &mapped[_i].fields, &out, &err);
    if (mapped[_i].rows != NULL) {
        ck_assert_msg(rc == SP_OK, "%s", err.text);
        ck_assert_str_eq(out.data, mapped[_i].rows);
    } else {
        ck_assert_int_eq(rc, SP_EFORMAT);
        ck_assert_msg(strstr(err.text, mapped[_i].message) != NULL, "%s", err.text);
    }
    sp_buf_deinit(&out);
}
END_TEST

START_TEST(test_mapped_without_names)
{
    struct tok_dataset *d = NULL;
    struct sp_error err = {0};
    ck_assert_int_eq(tok_dataset_open_memory(GOOD, strlen(GOOD), "d", TOK_FORMAT_MAPPED, &d, &err),
                     SP_EINVAL);
    ck_assert_ptr_nonnull(strstr(err.text, "format mapped needs the names"));
}
END_TEST

static Suite *suite(void)
{
    Suite *s = suite_create("dataset_files");
    TCase *c = tcase_create("files");
    tcase_add_loop_test(c, test_csv, 0, SP_COUNT(csv));
    tcase_add_loop_test(c, test_bad_csv, 0, SP_COUNT(bad_csv));
    tcase_add_test(c, test_csv_limits);
    tcase_add_test(c, test_which_is_csv);
    tcase_add_test(c, test_compressed);
    tcase_add_test(c, test_damaged);
    tcase_add_test(c, test_zstd_window);
    tcase_add_loop_test(c, test_foreign_files, 0, SP_COUNT(foreign));
    tcase_add_loop_test(c, test_fields, 0, SP_COUNT(mapped));
    tcase_add_test(c, test_mapped_without_names);
    suite_add_tcase(s, c);
    return s;
}

SPIN_CHECK_MAIN(suite())
