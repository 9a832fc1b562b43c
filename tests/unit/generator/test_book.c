#include "generator/book.h"

#include <string.h>

#include "common/base/mem.h"
#include "tests/unit/check_main.h"

static const int32_t prompt_ids[] = {5, 6, 7};
static const int32_t answer_ids[] = {8, 9};

/* A lease of n sampling items, with prompts 100, 101, … */
static struct proto_lease_reply grant_of(uint64_t id, struct proto_work_item *items, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++)
        items[i] = (struct proto_work_item){
            .kind = PROTO_WORK_SAMPLE,
            .position = i,
            .prompt = 100 + i,
            .prompt_ids = {.ids = prompt_ids, .count = 3},
            .answer_a = {.ids = answer_ids, .count = 2},
        };
    return (struct proto_lease_reply){
        .lease_id = id,
        .run = "r",
        .backend = "cpu",
        .max_new_tokens = 16,
        .items = items,
        .items_count = n,
    };
}

static struct gen_lease *lease_of(uint64_t id, uint32_t n)
{
    struct proto_work_item items[16];
    struct proto_lease_reply grant = grant_of(id, items, n);
    struct gen_lease *lease = NULL;
    struct sp_error err;
    ck_assert_int_eq(gen_lease_new(&grant, &lease, &err), SP_OK);
    memset(items, 0xff, sizeof(items)); /* the lease must own what it needs */
    return lease;
}

static struct gen_task *start_next(struct gen_book *book)
{
    struct gen_task *task = gen_book_peek(book);
    ck_assert_ptr_nonnull(task);
    gen_book_start(book, task);
    return task;
}

START_TEST(test_items_start_in_order_of_leases)
{
    struct gen_book book = {0};
    uint64_t done;
    gen_book_add(&book, lease_of(1, 2));
    gen_book_add(&book, lease_of(2, 1));
    ck_assert_uint_eq(book.queued, 3);
    struct gen_task *a = start_next(&book), *b = start_next(&book), *c = start_next(&book);
    ck_assert_uint_eq(a->lease->grant.lease_id, 1);
    ck_assert_uint_eq(a->item->prompt, 100);
    ck_assert_int_eq(a->item->prompt_ids.ids[2], 7);
    ck_assert_uint_eq(b->item->prompt, 101);
    ck_assert_uint_eq(c->lease->grant.lease_id, 2);
    ck_assert_ptr_null(gen_book_peek(&book));
    ck_assert_uint_eq(book.in_flight, 3);
    gen_book_finish(&book, b, &done);
    ck_assert_uint_eq(done, 0);
    gen_book_finish(&book, c, &done);
    ck_assert_uint_eq(done, 2);
    gen_book_finish(&book, a, &done);
    ck_assert_uint_eq(done, 1);
    ck_assert_ptr_null(book.first);
    ck_assert_uint_eq(book.in_flight, 0);
}
END_TEST

START_TEST(test_lost_lease_drops_queued_items_and_lets_others_end)
{
    struct gen_book book = {0};
    uint64_t done;
    gen_book_add(&book, lease_of(1, 3));
    gen_book_add(&book, lease_of(2, 1));
    struct gen_task *a = start_next(&book);
    ck_assert(gen_book_lose(&book, 1));
    ck_assert(!gen_book_lose(&book, 1));
    ck_assert(!gen_book_lose(&book, 77));
    ck_assert_uint_eq(book.queued, 1);
    ck_assert_uint_eq(book.in_flight, 1);
    ck_assert_uint_eq(book.in_flight_wanted, 0);
    struct gen_task *b = start_next(&book);
    ck_assert_uint_eq(b->lease->grant.lease_id, 2);
    ck_assert_uint_eq(book.in_flight_wanted, 1);
    gen_book_finish(&book, a, &done);
    ck_assert_uint_eq(done, 1);
    gen_book_finish(&book, b, &done);
    ck_assert_uint_eq(done, 2);
    ck_assert_ptr_null(book.first);
}
END_TEST

START_TEST(test_lost_lease_without_work_in_flight_leaves_at_once)
{
    struct gen_book book = {0};
    gen_book_add(&book, lease_of(9, 4));
    ck_assert(gen_book_lose(&book, 9));
    ck_assert_ptr_null(book.first);
    ck_assert_uint_eq(book.queued, 0);
}
END_TEST

START_TEST(test_reset_queues_again_what_was_in_flight)
{
    struct gen_book book = {0};
    uint64_t done;
    gen_book_add(&book, lease_of(1, 3));
    gen_book_add(&book, lease_of(2, 2));
    struct gen_task *first = start_next(&book);
    start_next(&book);
    start_next(&book);
    struct gen_task *of_second = start_next(&book);
    gen_book_finish(&book, first, &done);
    ck_assert(gen_book_lose(&book, 2));
    ck_assert_int_eq(of_second->state, GEN_TASK_IN_FLIGHT);
    gen_book_reset(&book);
    ck_assert_uint_eq(book.in_flight, 0);
    ck_assert_uint_eq(book.in_flight_wanted, 0);
    ck_assert_uint_eq(book.queued, 2);
    ck_assert_ptr_null(book.first->following);
    ck_assert_uint_eq(start_next(&book)->item->position, 1);
    ck_assert_uint_eq(start_next(&book)->item->position, 2);
    ck_assert_ptr_null(gen_book_peek(&book));
    gen_book_deinit(&book);
}
END_TEST

/* Grants that no coordinator should send are refused, each for its own reason. */
START_TEST(test_malformed_grants_are_refused)
{
    struct proto_work_item items[2];
    int32_t many[16] = {0};
    const char *const expected[] = {
        "0 items",       "unknown kind", "empty prompt", "max_new_tokens",    "nothing to score",
        "end an answer", "storage type", "storage type", "item 1: iteration", "items, expected"};
    for (size_t i = 0; i < SP_COUNT(expected); i++) {
        struct proto_lease_reply grant = grant_of(1, items, 2);
        struct gen_lease *lease = NULL;
        struct sp_error err = {0};
        switch (i) {
        case 0:
            grant.items_count = 0;
            break;
        case 1:
            items[1].kind = 9;
            break;
        case 2:
            items[1].prompt_ids.count = 0;
            break;
        case 3:
            grant.max_new_tokens = 0;
            break;
        case 4:
            items[0].kind = PROTO_WORK_SCORE;
            items[0].answer_a.count = 0;
            break;
        case 5:
            grant.stop_ids = (struct proto_ids){.ids = many, .count = 16};
            break;
        case 6:
            grant.kv_dtype = 2;
            break;
        case 7:
            grant.weights_dtype = 3;
            break;
        case 8:
            items[1].key_iteration = 1u << 24;
            break;
        default:
            grant.items_count = 100000;
            break;
        }
        ck_assert_int_eq(gen_lease_new(&grant, &lease, &err), SP_EFORMAT);
        ck_assert_ptr_null(lease);
        ck_assert_msg(strstr(err.text, expected[i]) != NULL, "case %zu: %s", i, err.text);
    }
}
END_TEST

START_TEST(test_positions_and_weights_of_a_lease)
{
    struct gen_lease *a = lease_of(1, 1), *b = lease_of(2, 1);
    ck_assert_int_eq(gen_lease_positions(a), 3 + 16);
    struct gen_weights weights = gen_lease_weights(a);
    ck_assert(gen_lease_needs(b, &weights));
    b->grant.kv_dtype = 1;
    ck_assert(!gen_lease_needs(b, &weights));
    b->grant.kv_dtype = 0;
    b->grant.weights_dtype = 2;
    ck_assert(!gen_lease_needs(b, &weights));
    b->grant.weights_dtype = 0;
    b->grant.checkpoint.bytes[31] = 1;
    ck_assert(!gen_lease_needs(b, &weights));
    gen_lease_free(a);
    gen_lease_free(b);
}
END_TEST

static Suite *suite(void)
{
    Suite *s = suite_create("generator/book");
    TCase *c = tcase_create("book");
    tcase_add_test(c, test_items_start_in_order_of_leases);
    tcase_add_test(c, test_lost_lease_drops_queued_items_and_lets_others_end);
    tcase_add_test(c, test_lost_lease_without_work_in_flight_leaves_at_once);
    tcase_add_test(c, test_reset_queues_again_what_was_in_flight);
    tcase_add_test(c, test_malformed_grants_are_refused);
    tcase_add_test(c, test_positions_and_weights_of_a_lease);
    suite_add_tcase(s, c);
    return s;
}

SPIN_CHECK_MAIN(suite())
