#include "proto/ticket.h"

#include <string.h>

#include "tests/unit/check_main.h"

static const struct sp_digest secret = {.bytes = {5, 6, 7}};
static const struct sp_digest manifest = {.bytes = {1, 2, 3}};

static bool is_good(uint64_t worker, const struct sp_digest *of, uint64_t expires_ms,
                    const struct sp_digest *ticket, uint64_t now_ms)
{
    struct sp_digest key;
    proto_ticket_key(&secret, worker, &key);
    return proto_ticket_is_good(&key, of, expires_ms,
                                (struct proto_bytes){ticket->bytes, SP_DIGEST_BYTES}, now_ms);
}

START_TEST(for_one_worker_one_manifest_and_a_while)
{
    struct sp_digest key, ticket;
    struct sp_digest other = manifest;
    proto_ticket_key(&secret, 8, &key);
    proto_ticket_make(&key, &manifest, 1000, &ticket);
    ck_assert(is_good(8, &manifest, 1000, &ticket, 0));
    ck_assert(is_good(8, &manifest, 1000, &ticket, 999));
    ck_assert(!is_good(8, &manifest, 1000, &ticket, 1000)); /* over */
    ck_assert(!is_good(8, &manifest, 1001, &ticket, 0));    /* made longer */
    ck_assert(!is_good(9, &manifest, 1000, &ticket, 0));    /* another worker's */
    other.bytes[31] ^= 1;
    ck_assert(!is_good(8, &other, 1000, &ticket, 0));
    for (int i = 0; i < SP_DIGEST_BYTES; i++) {
        struct sp_digest changed = ticket;
        changed.bytes[i] ^= 1;
        ck_assert(!is_good(8, &manifest, 1000, &changed, 0));
    }
    ck_assert(!proto_ticket_is_good(&key, &manifest, 1000,
                                    (struct proto_bytes){ticket.bytes, SP_DIGEST_BYTES - 1}, 0));
    ck_assert(!proto_ticket_is_good(&key, &manifest, 1000, (struct proto_bytes){NULL, 0}, 0));
}
END_TEST

/* Who has a worker's key has no other worker's. */
START_TEST(keys_differ)
{
    struct sp_digest one, two, again;
    proto_ticket_key(&secret, 1, &one);
    proto_ticket_key(&secret, 2, &two);
    proto_ticket_key(&secret, 1, &again);
    ck_assert(!sp_digest_equal(&one, &two));
    ck_assert(sp_digest_equal(&one, &again));
    struct sp_digest another = secret;
    another.bytes[0] ^= 1; /* the coordinator was started again */
    proto_ticket_key(&another, 1, &again);
    ck_assert(!sp_digest_equal(&one, &again));
}
END_TEST

static Suite *suite(void)
{
    Suite *s = suite_create("ticket");
    TCase *t = tcase_create("ticket");
    tcase_add_test(t, for_one_worker_one_manifest_and_a_while);
    tcase_add_test(t, keys_differ);
    suite_add_tcase(s, t);
    return s;
}

SPIN_CHECK_MAIN(suite())
