#include "common/base/mem.h"

#include <string.h>

#include "common/base/arena.h"
#include "common/base/buf.h"
#include "tests/unit/check_main.h"

START_TEST(sizes_are_checked)
{
    size_t n = 7;
    ck_assert(!sp_mul_size(SIZE_MAX, 2, &n));
    ck_assert(!sp_add_size(SIZE_MAX, 1, &n));
    ck_assert_uint_eq(n, 7);
    ck_assert(sp_mul_size(SIZE_MAX / 2, 2, &n) && n == SIZE_MAX - 1);
    ck_assert(sp_mul_size(0, SIZE_MAX, &n) && n == 0);
    ck_assert(sp_add_size(SIZE_MAX - 1, 1, &n) && n == SIZE_MAX);
}
END_TEST

START_TEST(small_allocations)
{
    char *zeros = sp_xarray(100, 3);
    for (int i = 0; i < 300; i++)
        ck_assert_int_eq(zeros[i], 0);
    free(zeros);
    void *empty = sp_xalloc(0);
    ck_assert_ptr_nonnull(empty);
    free(empty);
    int *grown = sp_xgrow(NULL, 4, sizeof(int));
    grown[3] = 9;
    grown = sp_xgrow(grown, 4000, sizeof(int));
    ck_assert_int_eq(grown[3], 9);
    free(grown);
    char *text = sp_xstrdup("abc"), *part = sp_xstrndup("abcdef", 4), *more = sp_xstrndup("x", 9);
    char *made = sp_xprintf("%s-%d", part, 5);
    ck_assert_str_eq(text, "abc");
    ck_assert_str_eq(part, "abcd");
    ck_assert_str_eq(more, "x");
    ck_assert_str_eq(made, "abcd-5");
    free(text);
    free(part);
    free(more);
    free(made);
}
END_TEST

START_TEST(blocks_are_aligned_and_zeroed)
{
    static const size_t sizes[] = {0, 1, 63, 4096, (4u << 20) - 1, 4u << 20, 9u << 20};
    for (size_t i = 0; i < SP_COUNT(sizes); i++) {
        uint8_t *block = sp_alloc_block(sizes[i], 1);
        ck_assert_ptr_nonnull(block);
        size_t align = sizes[i] >= 4u << 20 ? 2u << 20 : 64;
        ck_assert_uint_eq((uintptr_t)block % align, 0);
        for (size_t k = 0; k < sizes[i]; k += 511)
            ck_assert_uint_eq(block[k], 0);
        memset(block, 0xff, sizes[i]);
        sp_free_block(block);
    }
    sp_free_block(NULL);
}
END_TEST

START_TEST(impossible_blocks_are_refused)
{
    ck_assert_ptr_null(sp_alloc_block(SIZE_MAX, 2));
    ck_assert_ptr_null(sp_alloc_block(SIZE_MAX / 8, 8));
    ck_assert_ptr_null(sp_alloc_block((size_t)1 << 50, 8));
}
END_TEST

START_TEST(arena_is_aligned_zeroed_and_reused)
{
    struct sp_arena *arena = sp_arena_new(256, 1 << 20);
    for (int round = 0; round < 3; round++) {
        for (size_t n = 0; n < 200; n++) {
            uint8_t *p = sp_arena_alloc(arena, n, 3);
            ck_assert_uint_eq((uintptr_t)p % 64, 0);
            for (size_t k = 0; k < n * 3; k++)
                ck_assert_uint_eq(p[k], 0);
            memset(p, 0xee, n * 3);
        }
        char *text = sp_arena_strdup(arena, "kept");
        ck_assert_ptr_nonnull(sp_arena_alloc(arena, 100000, 1));
        ck_assert_str_eq(text, "kept");
        ck_assert_uint_gt(sp_arena_used(arena), 100000);
        sp_arena_reset(arena);
        ck_assert_uint_eq(sp_arena_used(arena), 0);
    }
    sp_arena_free(arena);
    sp_arena_free(NULL);
}
END_TEST

START_TEST(arena_holds_its_limit)
{
    struct sp_arena *arena = sp_arena_new(64, 1024);
    ck_assert_ptr_null(sp_arena_alloc(arena, SIZE_MAX, 2));
    ck_assert_ptr_null(sp_arena_alloc(arena, SIZE_MAX, 1));
    ck_assert_ptr_null(sp_arena_alloc(arena, 1025, 1));
    ck_assert_ptr_nonnull(sp_arena_alloc(arena, 512, 1));
    ck_assert_ptr_nonnull(sp_arena_alloc(arena, 512, 1));
    ck_assert_ptr_null(sp_arena_alloc(arena, 1, 1));
    sp_arena_reset(arena);
    ck_assert_ptr_nonnull(sp_arena_alloc(arena, 1024, 1));
    sp_arena_free(arena);
}
END_TEST

START_TEST(arena_pointers_survive_growth)
{
    struct sp_arena *arena = sp_arena_new(64, 1 << 20);
    uint32_t *values[500];
    for (uint32_t i = 0; i < 500; i++) {
        values[i] = sp_arena_alloc(arena, 1 + i % 30, sizeof(uint32_t));
        *values[i] = i;
    }
    for (uint32_t i = 0; i < 500; i++)
        ck_assert_uint_eq(*values[i], i);
    sp_arena_free(arena);
}
END_TEST

START_TEST(buf_grows_and_stays_terminated)
{
    struct sp_buf buf = SP_BUF_INIT;
    for (int i = 0; i < 1000; i++) {
        sp_buf_putc(&buf, 'x');
        ck_assert_uint_eq(strlen(buf.data), (size_t)i + 1);
    }
    sp_buf_clear(&buf);
    ck_assert_str_eq(buf.data, "");
    sp_buf_puts(&buf, "a");
    sp_buf_printf(&buf, "%0500d|", 7);
    ck_assert_uint_eq(buf.length, 502);
    ck_assert_uint_eq(strlen(buf.data), 502);
    sp_buf_append(&buf, "\0b", 2);
    ck_assert_uint_eq(buf.length, 504);
    ck_assert_int_eq(buf.data[503], 'b');
    char *detached = sp_buf_detach(&buf);
    ck_assert_ptr_null(buf.data);
    ck_assert_int_eq(detached[0], 'a');
    free(detached);
    detached = sp_buf_detach(&buf);
    ck_assert_str_eq(detached, "");
    free(detached);
    sp_buf_deinit(&buf);
}
END_TEST

START_TEST(buf_writes_little_endian)
{
    struct sp_buf buf = SP_BUF_INIT;
    sp_buf_put_u32(&buf, 0x01020304);
    sp_buf_put_u64(&buf, 0x0102030405060708u);
    ck_assert_uint_eq(buf.length, 12);
    ck_assert_mem_eq(buf.data, "\4\3\2\1\10\7\6\5\4\3\2\1", 12);
    sp_buf_deinit(&buf);
}
END_TEST

static Suite *suite(void)
{
    Suite *s = suite_create("mem");
    TCase *t = tcase_create("all");
    tcase_add_test(t, sizes_are_checked);
    tcase_add_test(t, small_allocations);
    tcase_add_test(t, blocks_are_aligned_and_zeroed);
    tcase_add_test(t, impossible_blocks_are_refused);
    tcase_add_test(t, arena_is_aligned_zeroed_and_reused);
    tcase_add_test(t, arena_holds_its_limit);
    tcase_add_test(t, arena_pointers_survive_growth);
    tcase_add_test(t, buf_grows_and_stays_terminated);
    tcase_add_test(t, buf_writes_little_endian);
    suite_add_tcase(s, t);
    return s;
}

SPIN_CHECK_MAIN(suite())
