#include "common/base/mailbox.h"

#include <pthread.h>
#include <stdatomic.h>

#include "common/base/clock.h"
#include "common/base/mem.h"
#include "tests/unit/check_main.h"

#define SENDERS 4
#define ITEMS 20000

static void count_wake(void *context)
{
    atomic_fetch_add((atomic_int *)context, 1);
}

START_TEST(order_and_capacity)
{
    int items[4];
    atomic_int wakes = 0;
    struct sp_mailbox *box = sp_mailbox_new(3, count_wake, &wakes);
    for (int round = 0; round < 5; round++) {
        ck_assert_ptr_null(sp_mailbox_try_take(box));
        for (int i = 0; i < 3; i++)
            ck_assert(sp_mailbox_try_put(box, &items[i]));
        ck_assert(!sp_mailbox_try_put(box, &items[3]));
        ck_assert_uint_eq(sp_mailbox_count(box), 3);
        for (int i = 0; i < 3; i++)
            ck_assert_ptr_eq(sp_mailbox_try_take(box), &items[i]);
    }
    ck_assert_int_eq(atomic_load(&wakes), 15);
    sp_mailbox_free(box);
    sp_mailbox_free(NULL);
}
END_TEST

START_TEST(take_waits_no_longer_than_asked)
{
    int item;
    struct sp_mailbox *box = sp_mailbox_new(1, NULL, NULL);
    int64_t start = sp_now_ms();
    ck_assert_ptr_null(sp_mailbox_take(box, 60));
    ck_assert_int_ge(sp_now_ms() - start, 59);
    ck_assert_ptr_null(sp_mailbox_take(box, 0));
    ck_assert(sp_mailbox_put(box, &item));
    ck_assert_ptr_eq(sp_mailbox_take(box, -1), &item);
    sp_mailbox_free(box);
}
END_TEST

START_TEST(closing_refuses_puts_and_keeps_items)
{
    int item;
    atomic_int wakes = 0;
    struct sp_mailbox *box = sp_mailbox_new(2, count_wake, &wakes);
    ck_assert(sp_mailbox_try_put(box, &item));
    sp_mailbox_close(box);
    ck_assert_int_eq(atomic_load(&wakes), 2);
    ck_assert(!sp_mailbox_try_put(box, &item));
    ck_assert(!sp_mailbox_put(box, &item));
    ck_assert_ptr_eq(sp_mailbox_take(box, -1), &item);
    ck_assert_ptr_null(sp_mailbox_take(box, -1));
    sp_mailbox_free(box);
}
END_TEST

static void *close_later(void *argument)
{
    sp_sleep_ms(50);
    sp_mailbox_close(argument);
    return NULL;
}

START_TEST(closing_wakes_sender_and_receiver)
{
    int item;
    for (int side = 0; side < 2; side++) {
        struct sp_mailbox *box = sp_mailbox_new(1, NULL, NULL);
        pthread_t thread;
        if (side == 0)
            ck_assert(sp_mailbox_try_put(box, &item));
        ck_assert_int_eq(pthread_create(&thread, NULL, close_later, box), 0);
        if (side == 0)
            ck_assert(!sp_mailbox_put(box, &item));
        else
            ck_assert_ptr_null(sp_mailbox_take(box, -1));
        pthread_join(thread, NULL);
        sp_mailbox_free(box);
    }
}
END_TEST

struct sender {
    struct sp_mailbox *box;
    uintptr_t number;
};

static void *send_items(void *argument)
{
    struct sender *sender = argument;
    for (uintptr_t i = 1; i <= ITEMS; i++)
        SP_ASSERT(sp_mailbox_put(sender->box, (void *)(sender->number << 32 | i)));
    return NULL;
}

START_TEST(nothing_is_lost_between_threads)
{
    struct sp_mailbox *box = sp_mailbox_new(5, NULL, NULL);
    pthread_t threads[SENDERS];
    struct sender senders[SENDERS];
    uintptr_t last[SENDERS] = {0};
    for (uintptr_t i = 0; i < SENDERS; i++) {
        senders[i] = (struct sender){box, i};
        ck_assert_int_eq(pthread_create(&threads[i], NULL, send_items, &senders[i]), 0);
    }
    for (int i = 0; i < SENDERS * ITEMS; i++) {
        uintptr_t item = (uintptr_t)sp_mailbox_take(box, 10000);
        uintptr_t from = item >> 32;
        ck_assert_uint_lt(from, SENDERS);
        ck_assert_uint_eq(item & UINT32_MAX, last[from] + 1); /* in each sender's order */
        last[from]++;
    }
    for (int i = 0; i < SENDERS; i++)
        pthread_join(threads[i], NULL);
    ck_assert_uint_eq(sp_mailbox_count(box), 0);
    sp_mailbox_free(box);
}
END_TEST

static Suite *suite(void)
{
    Suite *s = suite_create("mailbox");
    TCase *t = tcase_create("all");
    tcase_add_test(t, order_and_capacity);
    tcase_add_test(t, take_waits_no_longer_than_asked);
    tcase_add_test(t, closing_refuses_puts_and_keeps_items);
    tcase_add_test(t, closing_wakes_sender_and_receiver);
    tcase_add_test(t, nothing_is_lost_between_threads);
    suite_add_tcase(s, t);
    return s;
}

SPIN_CHECK_MAIN(suite())
