#include "trainer/batch.h"

#include <math.h>
#include <string.h>

#include "tests/unit/check_main.h"

static struct proto_train_pair pair_of(uint32_t prompt)
{
    static const int32_t x[] = {1, 2}, y[] = {3}, z[] = {4, 5};
    return (struct proto_train_pair){
        .prompt = prompt,
        .prompt_ids = {.ids = x, .count = 2},
        .real_ids = {.ids = y, .count = 1},
        .generated_ids = {.ids = z, .count = 2},
        .finish = PROTO_FINISH_STOP,
        .ref_real = -1.0f,
        .ref_generated = -2.0f,
    };
}

START_TEST(test_append_copies_and_refuses_too_many)
{
    struct train_batch *batch = train_batch_new(0, 0, 2);
    struct sp_error err = {0};
    int32_t ids[] = {1, 2};
    struct proto_train_pair pair = pair_of(7);
    pair.prompt_ids.ids = ids;
    ck_assert_int_eq(train_batch_append(batch, &pair, 1, &err), SP_OK);
    ids[0] = 99;
    ck_assert_int_eq(batch->pairs[0].prompt_ids.ids[0], 1);
    struct proto_train_pair two[] = {pair_of(8), pair_of(9)};
    ck_assert_int_eq(train_batch_append(batch, two, 2, &err), SP_EFORMAT);
    ck_assert_uint_eq(batch->count, 1);
    ck_assert_int_eq(train_batch_append(batch, two, 1, &err), SP_OK);
    train_batch_free(batch);
}
END_TEST

START_TEST(test_append_refuses_empty_pairs_but_not_removed_ones)
{
    struct train_batch *batch = train_batch_new(0, 0, 4);
    struct sp_error err = {0};
    struct proto_train_pair pair = pair_of(7);
    pair.real_ids.count = 0;
    ck_assert_int_eq(train_batch_append(batch, &pair, 1, &err), SP_EFORMAT);
    pair = pair_of(7);
    pair.prompt_ids.count = 0;
    ck_assert_int_eq(train_batch_append(batch, &pair, 1, &err), SP_EFORMAT);
    ck_assert_ptr_nonnull(strstr(err.text, "prompt 7"));
    pair.skipped = true;
    ck_assert_int_eq(train_batch_append(batch, &pair, 1, &err), SP_OK);
    train_batch_free(batch);
}
END_TEST

/* The chain depends on every field, on the order, and on nothing else. */
START_TEST(test_chain_sees_every_field)
{
    struct proto_train_pair base = pair_of(7);
    struct sp_digest reference = {0}, chain;
    train_chain_add(&reference, &base);
    for (int i = 0; i < 9; i++) {
        static const int32_t other[] = {1, 9};
        struct proto_train_pair pair = base;
        switch (i) {
        case 0:
            pair.source_iteration++;
            break;
        case 1:
            pair.prompt++;
            break;
        case 2:
            pair.sample++;
            break;
        case 3:
            pair.prompt_ids.ids = other;
            break;
        case 4:
            pair.real_ids.ids = other + 1;
            break;
        case 5:
            pair.generated_ids.count--;
            break;
        case 6:
            pair.finish = PROTO_FINISH_LENGTH;
            break;
        case 7:
            pair.ref_real = nextafterf(pair.ref_real, 0);
            break;
        default:
            pair.ref_generated = nanf("");
            break;
        }
        chain = (struct sp_digest){0};
        train_chain_add(&chain, &pair);
        ck_assert_msg(!sp_digest_equal(&chain, &reference), "field %d is not seen", i);
    }
    struct proto_train_pair second = pair_of(8);
    struct sp_digest ab = {0}, ba = {0};
    train_chain_add(&ab, &base);
    train_chain_add(&ab, &second);
    train_chain_add(&ba, &second);
    train_chain_add(&ba, &base);
    ck_assert(!sp_digest_equal(&ab, &ba));
}
END_TEST

/* SHA-256 of 32 zero bytes and the row, computed with Python's hashlib and struct. */
START_TEST(test_chain_has_the_documented_bytes)
{
    struct sp_digest chain = {0};
    char hex[SP_DIGEST_HEX];
    struct proto_train_pair pair = pair_of(7);
    train_chain_add(&chain, &pair);
    sp_digest_hex(&chain, hex);
    ck_assert_str_eq(hex, "bb3778b72e038f6d3652997b653aa6c47e5a4b6eeabb4a70fb220ae0a2a6f4a0");
}
END_TEST

START_TEST(test_keys_are_cut_at_the_end_of_the_text)
{
    struct train_batch *batch = train_batch_new(0, 0, 2);
    struct proto_train_pair pairs[] = {pair_of(17), pair_of(4)};
    struct sp_error err;
    char text[64], small[16];
    ck_assert_int_eq(train_batch_append(batch, pairs, 2, &err), SP_OK);
    train_batch_keys(batch, text, sizeof(text));
    ck_assert_str_eq(text, "t0 p17 s0, t0 p4 s0");
    train_batch_keys(batch, small, sizeof(small));
    ck_assert_str_eq(small, "t0 p17 s0");
    train_batch_free(batch);
}
END_TEST

static Suite *suite(void)
{
    Suite *s = suite_create("trainer/batch");
    TCase *c = tcase_create("batch");
    tcase_add_test(c, test_append_copies_and_refuses_too_many);
    tcase_add_test(c, test_append_refuses_empty_pairs_but_not_removed_ones);
    tcase_add_test(c, test_chain_sees_every_field);
    tcase_add_test(c, test_chain_has_the_documented_bytes);
    tcase_add_test(c, test_keys_are_cut_at_the_end_of_the_text);
    suite_add_tcase(s, c);
    return s;
}

SPIN_CHECK_MAIN(suite())
