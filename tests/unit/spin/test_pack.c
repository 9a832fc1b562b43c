#include "common/spin/pack.h"

#include "tests/unit/model/fixtures.h"

static const int32_t x[] = {10, 11, 12}, y[] = {20, 21, 22, 2}, z[] = {30, 31};

static struct spin_pair pair(void)
{
    return (struct spin_pair){
        .prompt = x, .real = y, .generated = z, .n_prompt = 3, .n_real = 4, .n_generated = 2};
}

static void check_targets(const struct spin_micro *m, const int32_t (*expected)[3], int32_t n)
{
    ck_assert_int_eq(m->batch.n_targets, n);
    for (int32_t i = 0; i < n; i++) {
        ck_assert_int_eq(m->targets[i].row, expected[i][0]);
        ck_assert_int_eq(m->targets[i].id, expected[i][1]);
        ck_assert_int_eq(m->answer[i], expected[i][2]);
    }
}

START_TEST(pair_shares_its_prompt)
{
    struct spin_pair p = pair();
    struct spin_packer *k = NULL;
    struct spin_micro m;
    int32_t cursor = 0;
    ck_ok(spin_packer_new(20, true, &k, err));
    ck_assert_int_eq(spin_pair_rows(&p, true), 7);
    ck_assert_int_eq(spin_pair_rows(&p, false), 6);
    ck_assert(spin_packer_next(k, &p, 1, true, &cursor, &m));
    static const int32_t ids[] = {10, 11, 12, 20, 21, 22, 30}, positions[] = {0, 1, 2, 3, 4, 5, 3};
    static const int32_t targets[][3] = {{2, 20, 0}, {2, 30, 1}, {3, 21, 0},
                                         {4, 22, 0}, {5, 2, 0},  {6, 31, 1}};
    ck_assert_int_eq(m.batch.rows, 7);
    ck_assert(memcmp(m.batch.ids, ids, sizeof(ids)) == 0);
    ck_assert(memcmp(m.batch.positions, positions, sizeof(positions)) == 0);
    ck_assert_int_eq(m.batch.n_segments, 1);
    struct tn_segment s = m.batch.segments[0];
    ck_assert(s.row == 0 && s.prompt == 3 && s.a == 3 && s.b == 1);
    check_targets(&m, targets, 6);
    ck_assert_int_eq(m.n_pairs, 1);
    ck_assert(m.pairs[0].first_target == 0 && m.pairs[0].n_targets == 6 && !m.pairs[0].identical);
    ck_assert(!spin_packer_next(k, &p, 1, true, &cursor, &m));
    spin_packer_free(k);
}
END_TEST

START_TEST(prompts_apart)
{
    struct spin_pair p = pair();
    struct spin_packer *k = NULL;
    struct spin_micro m;
    int32_t cursor = 0;
    ck_ok(spin_packer_new(20, false, &k, err));
    ck_assert_int_eq(spin_packer_rows(k, &p, true), 10);
    ck_assert(spin_packer_next(k, &p, 1, true, &cursor, &m));
    static const int32_t ids[] = {10, 11, 12, 20, 21, 22, 10, 11, 12, 30};
    static const int32_t positions[] = {0, 1, 2, 3, 4, 5, 0, 1, 2, 3};
    static const int32_t targets[][3] = {{2, 20, 0}, {3, 21, 0}, {4, 22, 0},
                                         {5, 2, 0},  {8, 30, 1}, {9, 31, 1}};
    ck_assert_int_eq(m.batch.rows, 10);
    ck_assert(memcmp(m.batch.ids, ids, sizeof(ids)) == 0);
    ck_assert(memcmp(m.batch.positions, positions, sizeof(positions)) == 0);
    ck_assert_int_eq(m.batch.n_segments, 2);
    check_targets(&m, targets, 6);
    spin_packer_free(k);
}
END_TEST

START_TEST(plain_and_identical_and_single)
{
    struct spin_pair pairs[4] = {pair(), pair(), pair(), pair()};
    struct spin_packer *k = NULL;
    struct spin_micro m;
    int32_t cursor = 0, copy[] = {20, 21, 22, 2};
    pairs[1].generated = copy;
    pairs[1].n_generated = 4;
    pairs[2].n_real = pairs[2].n_generated = pairs[2].n_prompt = 1;
    pairs[3].n_generated = 1; /* the first token only: a branch without rows */
    ck_assert(spin_pair_identical(&pairs[1]) && !spin_pair_identical(&pairs[0]));
    ck_ok(spin_packer_new(40, true, &k, err));
    ck_assert(spin_packer_next(k, pairs, 4, true, &cursor, &m));
    ck_assert_int_eq(m.n_pairs, 4);
    ck_assert_int_eq(m.batch.rows, 7 + 6 + 1 + 6);
    ck_assert(m.pairs[1].identical && m.pairs[1].n_targets == 4);
    ck_assert(m.pairs[2].n_targets == 2 && m.pairs[3].n_targets == 5);
    const struct tn_segment *s = m.batch.segments;
    ck_assert(s[2].row == 13 && s[2].prompt == 1 && s[2].a == 0 && s[2].b == 0);
    ck_assert(s[3].row == 14 && s[3].a == 3 && s[3].b == 0);
    /* Without the opponent's answers. */
    cursor = 0;
    ck_assert(spin_packer_next(k, pairs, 4, false, &cursor, &m));
    ck_assert_int_eq(m.batch.rows, 6 + 6 + 1 + 6);
    for (int32_t i = 0; i < m.batch.n_targets; i++)
        ck_assert_int_eq(m.answer[i], 0);
    ck_assert(!m.pairs[1].identical);
    spin_packer_free(k);
}
END_TEST

START_TEST(micro_batches_are_cut_in_order)
{
    struct spin_pair pairs[9];
    struct spin_packer *k = NULL;
    struct spin_micro m;
    int32_t cursor = 0, next = 0, batches = 0;
    for (int32_t i = 0; i < 9; i++) {
        pairs[i] = pair();
        pairs[i].n_real = 1 + i % 4;
    }
    ck_ok(spin_packer_new(15, true, &k, err));
    while (spin_packer_next(k, pairs, 9, true, &cursor, &m)) {
        ck_assert_int_le(m.batch.rows, 15);
        for (int32_t i = 0; i < m.n_pairs; i++)
            ck_assert_int_eq(m.pairs[i].pair, next++);
        if (next < 9) /* the next one would not have fitted */
            ck_assert_int_gt(m.batch.rows + spin_pair_rows(&pairs[next], true), 15);
        batches++;
    }
    ck_assert_int_eq(next, 9);
    ck_assert_int_gt(batches, 2);
    spin_packer_free(k);
    k = NULL;
    ck_fails(SP_EINVAL, "0 rows", spin_packer_new(0, true, &k, err));
}
END_TEST

static Suite *suite(void)
{
    Suite *s = suite_create("pack");
    TCase *t = tcase_create("pack");
    tcase_add_test(t, pair_shares_its_prompt);
    tcase_add_test(t, prompts_apart);
    tcase_add_test(t, plain_and_identical_and_single);
    tcase_add_test(t, micro_batches_are_cut_in_order);
    suite_add_tcase(s, t);
    return s;
}

SPIN_CHECK_MAIN(suite())
