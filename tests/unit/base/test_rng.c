#include "common/base/rng.h"

#include <stdbool.h>
#include <string.h>

#include "tests/unit/check_main.h"

/* Known-answer vectors of Random123 1.14, tests/kat_vectors, philox4x32 10. */
static const struct {
    uint32_t counter[4], key[2], expected[4];
} vectors[] = {
    {{0, 0, 0, 0}, {0, 0}, {0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}},
    {{0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff},
     {0xffffffff, 0xffffffff},
     {0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}},
    {{0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344},
     {0xa4093822, 0x299f31d0},
     {0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}},
};

START_TEST(known_answers)
{
    uint32_t got[4];
    sp_philox(vectors[_i].counter, vectors[_i].key, got);
    for (int i = 0; i < 4; i++)
        ck_assert_uint_eq(got[i], vectors[_i].expected[i]);
}
END_TEST

START_TEST(draw_is_the_documented_counter)
{
    uint64_t seed = 0x0123456789abcdefu;
    const uint32_t counter[4] = {7, 8, 9, 5u << 8 | SP_STREAM_SAMPLE};
    const uint32_t key[2] = {0x89abcdef, 0x01234567};
    uint32_t expected[4], got[4];
    sp_philox(counter, key, expected);
    sp_rng_draw(seed, SP_STREAM_SAMPLE, 5, 7, 8, 9, got);
    ck_assert_mem_eq(got, expected, sizeof(got));
    ck_assert(sp_rng_uniform(seed, SP_STREAM_SAMPLE, 5, 7, 8, 9) ==
              (float)(expected[0] >> 8) / 16777216.0f);
}
END_TEST

START_TEST(every_argument_changes_the_draw)
{
    uint32_t base[4], other[4];
    sp_rng_draw(1, SP_STREAM_SAMPLE, 2, 3, 4, 5, base);
    for (int field = 0; field < 6; field++) {
        sp_rng_draw(field == 0 ? 1 | 1ull << 40 : 1, field == 1 ? SP_STREAM_TEST : SP_STREAM_SAMPLE,
                    field == 2 ? 3 : 2, field == 3 ? 4 : 3, field == 4 ? 5 : 4, field == 5 ? 6 : 5,
                    other);
        ck_assert_mem_ne(base, other, sizeof(base));
    }
}
END_TEST

START_TEST(uniform_has_its_moments)
{
    double sum = 0, squares = 0;
    const int n = 100000;
    for (int i = 0; i < n; i++) {
        float u = sp_rng_uniform(99, SP_STREAM_TEST, 0, (uint32_t)i, 0, 0);
        ck_assert(u >= 0.0f && u < 1.0f);
        sum += (double)u;
        squares += (double)u * (double)u;
    }
    /* Five standard deviations of the mean of n uniforms are 0.0046, of their squares 0.0047. */
    ck_assert(sum / n > 0.5 - 0.0046 && sum / n < 0.5 + 0.0046);
    ck_assert(squares / n > 1.0 / 3 - 0.0048 && squares / n < 1.0 / 3 + 0.0048);
}
END_TEST

START_TEST(below_stays_below)
{
    int seen[7] = {0};
    for (uint32_t i = 0; i < 7000; i++) {
        uint64_t v = sp_rng_below(5, SP_STREAM_TEST, 1, i, 0, 0, 7);
        ck_assert_uint_lt(v, 7);
        seen[v]++;
    }
    for (int i = 0; i < 7; i++)
        ck_assert(seen[i] > 800 && seen[i] < 1200);
    ck_assert_uint_eq(sp_rng_below(5, SP_STREAM_TEST, 1, 0, 0, 0, 1), 0);
    ck_assert_uint_lt(sp_rng_below(5, SP_STREAM_TEST, 1, 0, 0, 0, UINT64_MAX), UINT64_MAX);
}
END_TEST

START_TEST(permutation_is_one)
{
    uint32_t order[1000], again[1000], other[1000];
    bool seen[1000] = {false};
    sp_rng_permutation(3, 1, 2, 1000, order);
    sp_rng_permutation(3, 1, 2, 1000, again);
    ck_assert_mem_eq(order, again, sizeof(order));
    for (int i = 0; i < 1000; i++) {
        ck_assert_uint_lt(order[i], 1000);
        ck_assert(!seen[order[i]]);
        seen[order[i]] = true;
    }
    sp_rng_permutation(3, 1, 3, 1000, other);
    ck_assert_mem_ne(order, other, sizeof(order));
    sp_rng_permutation(3, 2, 2, 1000, other);
    ck_assert_mem_ne(order, other, sizeof(order));
    sp_rng_permutation(3, 0, 0, 0, order); /* nothing to write */
    sp_rng_permutation(3, 0, 0, 1, order);
    ck_assert_uint_eq(order[0], 0);
}
END_TEST

/* Each order is as likely as any other: of three elements there are 6, each about 1000 times. */
START_TEST(permutations_are_even)
{
    uint32_t counts[27] = {0}, order[3];
    for (uint32_t i = 0; i < 6000; i++) {
        sp_rng_permutation(11, i, 0, 3, order);
        counts[9 * order[0] + 3 * order[1] + order[2]]++;
    }
    uint32_t kinds = 0;
    for (int i = 0; i < 27; i++) {
        kinds += counts[i] > 0;
        ck_assert_msg(counts[i] == 0 || (counts[i] > 850 && counts[i] < 1150), "%u", counts[i]);
    }
    ck_assert_uint_eq(kinds, 6);
}
END_TEST

static Suite *suite(void)
{
    Suite *s = suite_create("rng");
    TCase *t = tcase_create("all");
    tcase_add_loop_test(t, known_answers, 0, 3);
    tcase_add_test(t, draw_is_the_documented_counter);
    tcase_add_test(t, every_argument_changes_the_draw);
    tcase_add_test(t, uniform_has_its_moments);
    tcase_add_test(t, below_stays_below);
    tcase_add_test(t, permutation_is_one);
    tcase_add_test(t, permutations_are_even);
    suite_add_tcase(s, t);
    return s;
}

SPIN_CHECK_MAIN(suite())
