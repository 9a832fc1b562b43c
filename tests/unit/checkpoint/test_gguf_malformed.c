/* gguf: each kind of malformed file is refused with a message that names the file and the field. */
#include "common/base/buf.h"
#include "common/checkpoint/gguf.h"
#include "tests/unit/checkpoint/scratch.h"

static struct sp_error error;
static struct sp_buf file;

static void setup(void)
{
    file = (struct sp_buf)SP_BUF_INIT;
}

static void teardown(void)
{
    sp_buf_deinit(&file);
}

/* ---- a file, piece by piece ---- */

static void header(uint32_t version, uint64_t tensors, uint64_t entries)
{
    sp_buf_puts(&file, "GGUF");
    sp_buf_put_u32(&file, version);
    sp_buf_put_u64(&file, tensors);
    sp_buf_put_u64(&file, entries);
}

static void text(const char *value)
{
    sp_buf_put_u64(&file, strlen(value));
    sp_buf_puts(&file, value);
}

static void entry_u32(const char *key, uint32_t value)
{
    text(key);
    sp_buf_put_u32(&file, 4);
    sp_buf_put_u32(&file, value);
}

static void tensor(const char *name, uint64_t rows, uint64_t columns, uint32_t type,
                   uint64_t offset)
{
    text(name);
    sp_buf_put_u32(&file, 2);
    sp_buf_put_u64(&file, columns);
    sp_buf_put_u64(&file, rows);
    sp_buf_put_u32(&file, type);
    sp_buf_put_u64(&file, offset);
}

static void data(size_t bytes)
{
    while (file.length % 32 != 0)
        sp_buf_putc(&file, 0);
    for (size_t i = 0; i < bytes; i++)
        sp_buf_putc(&file, 0);
}

/* The bytes are copied to memory of exactly their size, so that the sanitizer sees a step too far.
 */
static void refused(enum sp_err code, const char *part)
{
    struct ckpt_gguf *gguf = NULL;
    uint8_t *exact = sp_xmemdup(file.data, file.length);
    ck_fails(ckpt_gguf_open_memory(exact, file.length, "m.gguf", &gguf, &error), code, part);
    ck_assert_msg(strncmp(error.text, "m.gguf: ", 8) == 0, "%s", error.text);
    ck_assert_ptr_null(gguf);
    free(exact);
}

START_TEST(test_a_good_one)
{
    header(3, 2, 1);
    entry_u32("general.alignment", 32);
    tensor("a", 2, 32, 8, 0);
    tensor("b", 1, 4, 0, 96);
    data(96 + 16);
    struct ckpt_gguf *gguf;
    ck_ok(ckpt_gguf_open_memory((uint8_t *)file.data, file.length, "m.gguf", &gguf, &error));
    ck_assert_uint_eq(ckpt_gguf_count(gguf), 2);
    ckpt_gguf_close(gguf);
}
END_TEST

START_TEST(test_header)
{
    refused(SP_EFORMAT, "not a GGUF file");
    sp_buf_puts(&file, "GGML and some more bytes of it");
    refused(SP_EFORMAT, "not a GGUF file");
    static const struct {
        uint32_t version;
        uint64_t tensors, entries;
        enum sp_err code;
        const char *part;
    } rows[] = {
        {1, 0, 0, SP_EVERSION, "GGUF version 1"},
        {4, 0, 0, SP_EVERSION, "GGUF version 4"},
        {0x03000000, 0, 0, SP_EVERSION, "big-endian"},
        {3, 0, 1ull << 40, SP_ELIMIT, "1099511627776 metadata entries, the limit"},
        {3, 0, 60000, SP_EFORMAT, "60000 metadata entries do not fit"},
        {3, UINT64_MAX, 0, SP_ELIMIT, "18446744073709551615 tensors, the limit"},
        {3, 60000, 0, SP_EFORMAT, "60000 tensors do not fit"},
    };
    for (size_t i = 0; i < SP_COUNT(rows); i++) {
        sp_buf_clear(&file);
        header(rows[i].version, rows[i].tensors, rows[i].entries);
        data(64);
        refused(rows[i].code, rows[i].part);
    }
}
END_TEST

START_TEST(test_metadata)
{
    /* A key longer than the file. */
    header(3, 0, 1);
    sp_buf_put_u64(&file, UINT64_MAX - 3);
    data(64);
    refused(SP_EFORMAT, "metadata entry 0: key: a length of 18446744073709551612");
    sp_buf_clear(&file);
    header(3, 0, 1);
    text("");
    data(64);
    refused(SP_EFORMAT, "key: 0 bytes");
    sp_buf_clear(&file);
    header(3, 0, 1);
    text("a\xff");
    data(64);
    refused(SP_EFORMAT, "key: not printable UTF-8");
    sp_buf_clear(&file);
    header(3, 0, 1);
    text("a\nb");
    data(64);
    refused(SP_EFORMAT, "key: not printable UTF-8");
    sp_buf_clear(&file);
    header(3, 0, 1);
    text("k");
    sp_buf_put_u32(&file, 13);
    data(64);
    refused(SP_EFORMAT, "metadata \"k\": unknown type 13");
    sp_buf_clear(&file);
    header(3, 0, 2);
    entry_u32("twice", 1);
    entry_u32("twice", 2);
    data(64);
    refused(SP_EFORMAT, "metadata \"twice\": is there twice");
}
END_TEST

START_TEST(test_arrays)
{
    static const struct {
        uint32_t type;
        uint64_t count;
        enum sp_err code;
        const char *part;
    } rows[] = {
        {9, 1, SP_EUNSUPPORTED, "metadata \"k\": an array of arrays"},
        {77, 1, SP_EFORMAT, "metadata \"k\": unknown type 77"},
        {4, UINT64_MAX, SP_EFORMAT, "18446744073709551615 elements of type u32"},
        {12, 1ull << 61, SP_EFORMAT, "metadata \"k\": 2305843009213693952 elements"},
        {8, 1ull << 61, SP_EFORMAT, "elements of type string"},
        {4, 17, SP_EFORMAT, "17 elements of type u32, the file has 64 more bytes"},
    };
    for (size_t i = 0; i < SP_COUNT(rows); i++) {
        sp_buf_clear(&file);
        header(3, 0, 1);
        text("k");
        sp_buf_put_u32(&file, 9);
        sp_buf_put_u32(&file, rows[i].type);
        sp_buf_put_u64(&file, rows[i].count);
        for (int n = 0; n < 64; n++)
            sp_buf_putc(&file, 0);
        refused(rows[i].code, rows[i].part);
    }
    /* A string inside an array that runs past the end. */
    sp_buf_clear(&file);
    header(3, 0, 1);
    text("k");
    sp_buf_put_u32(&file, 9);
    sp_buf_put_u32(&file, 8);
    sp_buf_put_u64(&file, 2);
    text("fine");
    sp_buf_put_u64(&file, 1000);
    data(64);
    refused(SP_EFORMAT, "metadata \"k\": element 1: string: a length of 1000");
}
END_TEST

START_TEST(test_alignment)
{
    static const uint32_t values[] = {0, 3, 48, 1u << 21, UINT32_MAX};
    for (size_t i = 0; i < SP_COUNT(values); i++) {
        sp_buf_clear(&file);
        header(3, 0, 1);
        entry_u32("general.alignment", values[i]);
        data(64);
        refused(SP_EFORMAT, "metadata \"general.alignment\": not a power of two");
    }
    sp_buf_clear(&file);
    header(3, 0, 1);
    text("general.alignment");
    sp_buf_put_u32(&file, 8);
    text("32");
    data(64);
    refused(SP_EFORMAT, "general.alignment");
}
END_TEST

START_TEST(test_tensors)
{
    static const struct {
        uint64_t rows, columns;
        uint32_t type;
        uint64_t offset;
        enum sp_err code;
        const char *part;
    } rows[] = {
        {1, 4, 99, 0, SP_EUNSUPPORTED, "tensor t: type 99 (unknown) is not supported"},
        {1, 4, 39, 0, SP_EUNSUPPORTED, "tensor t: type 39 (MXFP4) is not supported"},
        {0, 4, 0, 0, SP_EFORMAT, "tensor t: dimension 1 of its shape is 0"},
        {4, UINT64_MAX, 0, 0, SP_EFORMAT, "tensor t: dimension 0 of its shape is 18446744073"},
        {1ull << 40, 1ull << 40, 0, 0, SP_EFORMAT, "tensor t: the product of its shape overflows"},
        {1ull << 31, 1ull << 32, 0, 0, SP_EFORMAT, "tensor t: its size in bytes overflows"},
        {2, 48, 8, 0, SP_EFORMAT, "tensor t: rows of 48 elements, Q8_0 has blocks of 32"},
        {2, 128, 12, 0, SP_EFORMAT, "tensor t: rows of 128 elements, Q4_K has blocks of 256"},
        {1, 4, 0, 8, SP_EFORMAT, "tensor t: offset 8 is not a multiple of the alignment, 32"},
        {1, 4, 0, 4096, SP_EFORMAT, "tensor t: 16 bytes at offset 4096 lie outside"},
        {1, 4, 0, UINT64_MAX - 31, SP_EFORMAT, "at offset 18446744073709551584 lie outside"},
        {1, 1024, 0, 0, SP_EFORMAT, "tensor t: 4096 bytes at offset 0 lie outside"},
    };
    for (size_t i = 0; i < SP_COUNT(rows); i++) {
        sp_buf_clear(&file);
        header(3, 1, 0);
        tensor("t", rows[i].rows, rows[i].columns, rows[i].type, rows[i].offset);
        data(128);
        refused(rows[i].code, rows[i].part);
    }
}
END_TEST

START_TEST(test_dimensions)
{
    static const uint32_t dims[] = {0, 5, UINT32_MAX};
    for (size_t i = 0; i < SP_COUNT(dims); i++) {
        sp_buf_clear(&file);
        header(3, 1, 0);
        text("t");
        sp_buf_put_u32(&file, dims[i]);
        data(128);
        refused(SP_EFORMAT, "dimensions, there must be 1 to 4");
    }
}
END_TEST

START_TEST(test_tensors_together)
{
    header(3, 2, 0);
    tensor("same", 1, 4, 0, 0);
    tensor("same", 1, 4, 0, 32);
    data(64);
    refused(SP_EFORMAT, "tensor same: is there twice");
    sp_buf_clear(&file);
    header(3, 2, 0);
    tensor("first", 2, 8, 0, 0);
    tensor("second", 1, 4, 0, 32);
    data(64);
    refused(SP_EFORMAT, "tensor second: overlaps tensor first");
    sp_buf_clear(&file);
    header(3, 2, 0);
    tensor("x", 1, 4, 0, 0);
    tensor("y", 1, 4, 0, 0);
    data(64);
    refused(SP_EFORMAT, "overlaps tensor");
}
END_TEST

static Suite *suite(void)
{
    Suite *s = suite_create("gguf_malformed");
    TCase *c = tcase_create("malformed");
    tcase_add_checked_fixture(c, setup, teardown);
    tcase_add_test(c, test_a_good_one);
    tcase_add_test(c, test_header);
    tcase_add_test(c, test_metadata);
    tcase_add_test(c, test_arrays);
    tcase_add_test(c, test_alignment);
    tcase_add_test(c, test_tensors);
    tcase_add_test(c, test_dimensions);
    tcase_add_test(c, test_tensors_together);
    suite_add_tcase(s, c);
    return s;
}

SPIN_CHECK_MAIN(suite())
