/* pairs_sha256 against digests that Python's hashlib computed from the description alone:
 *   struct.pack("<3I", …), struct.pack(f"<I{n}i", n, *ids) three times, struct.pack("<I", finish),
 *   struct.pack("<f", ref) twice, behind b"spin-pairs 1\n\0\0\0" */
#include <math.h>

#include "proto/pairs_digest.h"
#include "tests/unit/check_main.h"

static const int32_t prompt[] = {1, 2, 3}, real[] = {7, 8}, generated[] = {9, 10, 11, 2};

static struct proto_train_pair pair_at(uint64_t position)
{
    return (struct proto_train_pair){.position = position,
                                     .source_iteration = 1,
                                     .prompt = 5,
                                     .sample = 2,
                                     .prompt_ids = {prompt, 3},
                                     .real_ids = {real, 2},
                                     .generated_ids = {generated, 4},
                                     .finish = PROTO_FINISH_STOP,
                                     .ref_real = -1.5f,
                                     .ref_generated = -2.25f};
}

static void expect(struct pairs_digest *digest, const char *hex)
{
    struct sp_digest sum;
    char text[SP_DIGEST_HEX];
    pairs_digest_final(digest, &sum);
    sp_digest_hex(&sum, text);
    ck_assert_str_eq(text, hex);
}

START_TEST(test_known)
{
    struct pairs_digest *digest = pairs_digest_new();
    expect(digest, "da45728131d59e5c9449aea57e14e28d1b5694476fc211930026f907a94ebd99");
    struct proto_train_pair first = pair_at(0), second = pair_at(1);
    second.generated_ids.count = 0;
    second.finish = PROTO_FINISH_NONE;
    second.ref_real = second.ref_generated = -NAN;
    pairs_digest_add(digest, &first);
    ck_assert_uint_eq(pairs_digest_count(digest), 1);
    expect(digest, "35ef511afddb34dbcf84cce81dce8bfb687544db6c3bf9bbf79f6f8d2d9466f5");
    pairs_digest_add(digest, &first);
    pairs_digest_add(digest, &second);
    expect(digest, "1456839101cdce61ac35504b66ca9f297707ed88f1f7655620ffcd941a7a9cd6");
    pairs_digest_free(digest);
    pairs_digest_free(NULL);
}
END_TEST

/* Every field counts; what stands beside the pair (length_key, skipped) does not. */
START_TEST(test_fields)
{
    struct proto_train_pair variants[9];
    for (int i = 0; i < 9; i++)
        variants[i] = pair_at(0);
    variants[1].source_iteration = 0;
    variants[2].prompt = 6;
    variants[3].sample = 1;
    variants[4].prompt_ids.count = 2;
    variants[5].real_ids.count = 1;
    variants[6].finish = PROTO_FINISH_LENGTH;
    variants[7].ref_real = nextafterf(-1.5f, 0);
    variants[8].ref_generated = -0.0f;
    struct sp_digest sums[9], again;
    struct pairs_digest *digest = pairs_digest_new();
    for (int i = 0; i < 9; i++) {
        pairs_digest_add(digest, &variants[i]);
        pairs_digest_final(digest, &sums[i]);
        for (int j = 0; j < i; j++)
            ck_assert(!sp_digest_equal(&sums[i], &sums[j]));
    }
    struct proto_train_pair beside = pair_at(0);
    beside.length_key = 99;
    beside.skipped = true;
    pairs_digest_add(digest, &beside);
    pairs_digest_final(digest, &again);
    ck_assert(sp_digest_equal(&again, &sums[0]));
    pairs_digest_free(digest);
}
END_TEST

static Suite *suite(void)
{
    Suite *s = suite_create("pairs_digest");
    TCase *t = tcase_create("pairs_digest");
    tcase_add_test(t, test_known);
    tcase_add_test(t, test_fields);
    suite_add_tcase(s, t);
    return s;
}

SPIN_CHECK_MAIN(suite())
