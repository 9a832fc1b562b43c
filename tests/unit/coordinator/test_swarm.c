/* The choice of sources, alone and as a simulated distribution: every link, the coordinator's too,
 * carries one chunk a unit of time in each direction, shared by those who use it. */
#include "coordinator/swarm.h"

#include "common/base/mem.h"
#include "tests/unit/check_main.h"

#define UNIT_MS 1000 /* a chunk over a link */
#define STEP_MS 50
#define CHUNKS_MAX 256
#define WORKERS_MAX 160

static const struct coord_swarm_times times = {
    .silent_ms = 60000, .transfer_ms = 60000, .patience_ms = 10000};
static const struct sp_digest manifest = {.bytes = {1, 2, 3}};
static struct coord_swarms *swarms;

static void setup(void)
{
    swarms = coord_swarms_new(&times, 7);
}

static void teardown(void)
{
    coord_swarms_free(swarms);
}

static struct coord_swarm_answer ask(uint64_t worker, uint32_t chunks, const uint8_t *have,
                                     enum coord_outcome outcome, int64_t now_ms)
{
    struct coord_swarm_answer answer;
    ck_assert(coord_swarms_report(swarms, worker, &manifest, chunks, have, outcome, now_ms));
    coord_swarms_ask(swarms, worker, &manifest, chunks, now_ms, &answer);
    return answer;
}

static const uint8_t none[CHUNKS_MAX / 8];

START_TEST(nobody_gives)
{
    ck_assert_int_eq(ask(1, 8, none, SWARM_GOT, 0).what, SWARM_ALONE);
    ck_assert(!coord_swarms_report(swarms, 1, &manifest, 0, none, SWARM_GOT, 0));
    ck_assert(
        !coord_swarms_report(swarms, 1, &manifest, COORD_SWARM_CHUNKS + 1, NULL, SWARM_GOT, 0));
}
END_TEST

START_TEST(the_first_is_served_by_the_coordinator)
{
    coord_swarms_giver(swarms, 1, 1, 0);
    struct coord_swarm_answer first = ask(1, 8, none, SWARM_GOT, 0);
    ck_assert_int_eq(first.what, SWARM_FETCH);
    ck_assert_uint_eq(first.source, 0);
    /* The second gets another chunk, the third waits: the coordinator's places are taken. */
    coord_swarms_giver(swarms, 2, 1, 0);
    coord_swarms_giver(swarms, 3, 1, 0);
    struct coord_swarm_answer second = ask(2, 8, none, SWARM_GOT, 0);
    ck_assert_int_eq(second.what, SWARM_FETCH);
    ck_assert_uint_ne(second.index, first.index);
    ck_assert_int_eq(ask(3, 8, none, SWARM_GOT, 0).what, SWARM_WAIT);
    /* The first has its chunk: the third is sent to it, or takes the place that is free. */
    uint8_t have[1] = {(uint8_t)(1u << first.index)};
    ck_assert_int_eq(ask(1, 8, have, SWARM_GOT, 10).what, SWARM_FETCH);
    struct coord_swarm_answer third = ask(3, 8, none, SWARM_GOT, 10);
    ck_assert_int_eq(third.what, SWARM_FETCH);
    ck_assert_uint_eq(third.source, 1);
    ck_assert_uint_eq(third.index, first.index);
    /* One at a time. */
    coord_swarms_giver(swarms, 4, 1, 0);
    ck_assert_int_eq(ask(4, 8, none, SWARM_GOT, 10).what, SWARM_WAIT);
}
END_TEST

START_TEST(who_does_not_give_waits_for_one_who_does)
{
    coord_swarms_giver(swarms, 1, 1, 0); /* elsewhere */
    ck_assert_int_eq(ask(9, 8, none, SWARM_GOT, 0).what, SWARM_WAIT);
    ck_assert_int_eq(ask(9, 8, none, SWARM_GOT, times.patience_ms - 1).what, SWARM_WAIT);
    ck_assert_int_eq(ask(9, 8, none, SWARM_GOT, times.patience_ms).what, SWARM_ALONE);
    /* One who has it all is asked. */
    ck_assert(coord_swarms_report(swarms, 1, &manifest, 8, NULL, SWARM_GOT, 20000));
    struct coord_swarm_answer answer = ask(9, 8, none, SWARM_GOT, 20000);
    ck_assert_int_eq(answer.what, SWARM_FETCH);
    ck_assert_uint_eq(answer.source, 1);
}
END_TEST

START_TEST(a_liar_is_left_alone)
{
    coord_swarms_giver(swarms, 1, 4, 0);
    coord_swarms_giver(swarms, 2, 4, 0);
    ck_assert(coord_swarms_report(swarms, 1, &manifest, 8, NULL, SWARM_GOT, 0));
    struct coord_swarm_answer answer = ask(8, 8, none, SWARM_GOT, 0);
    ck_assert_uint_eq(answer.source, 1);
    /* Who was lied to is not sent there again, nor made to wait. */
    ck_assert_int_eq(ask(8, 8, none, SWARM_POISONED, 1).what, SWARM_ALONE);
    ck_assert_uint_eq(coord_swarms_counts(swarms).failures[SWARM_POISONED], 1);
    /* One accuser is not enough for all, and the same one does not count twice. */
    answer = ask(7, 8, none, SWARM_GOT, 1);
    ck_assert_uint_eq(answer.source, 1);
    ck_assert_uint_eq(coord_swarms_givers(swarms, 1), 2);
    ask(7, 8, none, SWARM_POISONED, 2);
    ck_assert_uint_eq(coord_swarms_givers(swarms, 2), 1);
    ck_assert_int_eq(ask(6, 8, none, SWARM_GOT, 2).what, SWARM_WAIT);
    /* For as long as it lives. Another giver is fed by the coordinator meanwhile. */
    coord_swarms_seen(swarms, 1, 200000);
    ck_assert_uint_eq(coord_swarms_givers(swarms, 200000), 1 - 1);
    coord_swarms_seen(swarms, 2, 200000);
    answer = ask(2, 8, none, SWARM_GOT, 200000);
    ck_assert_int_eq(answer.what, SWARM_FETCH);
    ck_assert_uint_eq(answer.source, 0);
    /* A new process under the name is a new giver. */
    coord_swarms_giver(swarms, 1, 4, 200000);
    ck_assert_uint_eq(coord_swarms_givers(swarms, 200000), 2);
}
END_TEST

/* One who said so before the new process came does not count with one who says so after. */
START_TEST(a_new_process_has_no_accuser)
{
    coord_swarms_giver(swarms, 1, 4, 0);
    ck_assert(coord_swarms_report(swarms, 1, &manifest, 8, NULL, SWARM_GOT, 0));
    ck_assert_uint_eq(ask(8, 8, none, SWARM_GOT, 0).source, 1);
    ask(8, 8, none, SWARM_POISONED, 1);
    coord_swarms_giver(swarms, 1, 4, 2);
    ck_assert_uint_eq(ask(7, 8, none, SWARM_GOT, 2).source, 1);
    ask(7, 8, none, SWARM_POISONED, 3);
    ck_assert_uint_eq(coord_swarms_givers(swarms, 3), 1);
    ck_assert_uint_eq(ask(6, 8, none, SWARM_GOT, 3).source, 1);
    ask(6, 8, none, SWARM_POISONED, 4);
    ck_assert_uint_eq(coord_swarms_givers(swarms, 4), 0);
}
END_TEST

START_TEST(reports_without_a_transfer_accuse_nobody)
{
    coord_swarms_giver(swarms, 1, 4, 0);
    ck_assert(coord_swarms_report(swarms, 1, &manifest, 8, NULL, SWARM_GOT, 0));
    for (uint64_t worker = 10; worker < 20; worker++)
        ck_assert(coord_swarms_report(swarms, worker, &manifest, 8, none, SWARM_POISONED, 0));
    ck_assert_uint_eq(coord_swarms_givers(swarms, 0), 1);
    ck_assert_uint_eq(coord_swarms_counts(swarms).failures[SWARM_POISONED], 0);
}
END_TEST

START_TEST(the_silent_come_back)
{
    coord_swarms_giver(swarms, 1, 4, 0);
    ck_assert(coord_swarms_report(swarms, 1, &manifest, 8, NULL, SWARM_GOT, 0));
    ask(8, 8, none, SWARM_GOT, 0);
    ask(8, 8, none, SWARM_SILENT, 1);
    ask(7, 8, none, SWARM_GOT, 1);
    ask(7, 8, none, SWARM_SILENT, 2);
    ck_assert_uint_eq(coord_swarms_givers(swarms, 2), 0);
    coord_swarms_seen(swarms, 1, 2 + times.patience_ms);
    ck_assert_uint_eq(coord_swarms_givers(swarms, 2 + times.patience_ms), 1);
    ck_assert_uint_eq(ask(7, 8, none, SWARM_GOT, 2 + times.patience_ms).source, 1);
}
END_TEST

/* What was evicted there is asked for elsewhere. */
START_TEST(absent_chunks)
{
    coord_swarms_giver(swarms, 1, 4, 0);
    ck_assert(coord_swarms_report(swarms, 1, &manifest, 1, NULL, SWARM_GOT, 0));
    ck_assert_uint_eq(ask(8, 1, none, SWARM_GOT, 0).source, 1);
    ck_assert_int_eq(ask(8, 1, none, SWARM_ABSENT, 1).what, SWARM_WAIT);
    ck_assert_uint_eq(coord_swarms_givers(swarms, 2), 1);
}
END_TEST

/* A worker that dies in a transfer gives its place back after a while. */
START_TEST(places_come_back)
{
    coord_swarms_giver(swarms, 1, 1, 0);
    ck_assert(coord_swarms_report(swarms, 1, &manifest, 8, NULL, SWARM_GOT, 0));
    ck_assert_uint_eq(ask(8, 8, none, SWARM_GOT, 0).source, 1);
    ck_assert_int_eq(ask(7, 8, none, SWARM_GOT, 1).what, SWARM_FETCH); /* from the coordinator */
    ck_assert_int_eq(ask(6, 8, none, SWARM_GOT, 1).what, SWARM_FETCH);
    ck_assert_int_eq(ask(5, 8, none, SWARM_GOT, 1).what, SWARM_WAIT);
    coord_swarms_seen(swarms, 1, times.transfer_ms);
    struct coord_swarm_answer answer = ask(5, 8, none, SWARM_GOT, times.transfer_ms);
    ck_assert_int_eq(answer.what, SWARM_FETCH);
    ck_assert_uint_eq(answer.source, 1);
    coord_swarms_forget(swarms, 1);
    ck_assert_uint_eq(coord_swarms_givers(swarms, times.transfer_ms), 0);
}
END_TEST

/* More checkpoints than places: the one that was used longest ago goes. */
START_TEST(many_checkpoints)
{
    coord_swarms_giver(swarms, 1, 1, 0);
    ck_assert(coord_swarms_report(swarms, 1, &manifest, 8, NULL, SWARM_GOT, 0));
    for (int i = 0; i < 3 * COORD_SWARMS_MAX; i++) {
        struct sp_digest digest = {.bytes = {9, (uint8_t)i}};
        ck_assert(coord_swarms_report(swarms, 1, &digest, 100, NULL, SWARM_GOT, i));
        ck_assert(coord_swarms_report(swarms, 2, &manifest, 8, none, SWARM_GOT, i));
    }
    /* That one has it is still known. */
    ck_assert_uint_eq(ask(2, 8, none, SWARM_GOT, 1000).source, 1);
}
END_TEST

/* ---- a distribution ---- */

struct node {
    uint8_t have[CHUNKS_MAX / 8];
    uint32_t missing;
    bool fetching, alone, dead;
    uint32_t index;
    uint64_t source;
    double left; /* of the chunk */
    int64_t next_ms;
};

struct world {
    uint32_t chunks, nodes, givers, liars, places;
    struct node node[WORKERS_MAX + 1]; /* by worker */
    uint64_t from_coordinator;
    int64_t now_ms;
};

static void end_fetch(struct world *w, uint64_t worker, enum coord_outcome *outcome)
{
    struct node *node = &w->node[worker];
    node->fetching = false;
    *outcome = node->source == 0            ? SWARM_GOT
               : node->source <= w->liars   ? SWARM_POISONED
               : w->node[node->source].dead ? SWARM_SILENT
                                            : SWARM_GOT;
    if (*outcome != SWARM_GOT)
        return;
    if (node->source == 0)
        w->from_coordinator++;
    else
        ck_assert(w->node[node->source].have[node->index / 8] >> (node->index % 8) & 1);
    node->have[node->index / 8] |= (uint8_t)(1u << (node->index % 8));
    node->missing--;
}

static void go_on(struct world *w, uint64_t worker, enum coord_outcome outcome)
{
    struct node *node = &w->node[worker];
    struct coord_swarm_answer answer = ask(worker, w->chunks, node->have, outcome, w->now_ms);
    if (node->missing == 0)
        return;
    if (answer.what == SWARM_ALONE) {
        node->alone = true;
        w->from_coordinator += node->missing;
        node->missing = 0;
    } else if (answer.what == SWARM_WAIT) {
        node->next_ms = w->now_ms + STEP_MS;
    } else {
        ck_assert(!(node->have[answer.index / 8] >> (answer.index % 8) & 1));
        *node = (struct node){.missing = node->missing,
                              .fetching = true,
                              .index = answer.index,
                              .source = answer.source,
                              .left = 1};
    }
}

/* The bitmap of a node lives beside it: go_on() sets the rest anew. */
static void step(struct world *w, uint64_t worker)
{
    struct node *node = &w->node[worker];
    enum coord_outcome outcome = SWARM_GOT;
    if (node->dead || node->missing == 0 || w->now_ms < node->next_ms)
        return;
    if (node->fetching) {
        if (node->left > 1e-9)
            return;
        end_fetch(w, worker, &outcome);
    }
    uint8_t have[CHUNKS_MAX / 8];
    memcpy(have, node->have, sizeof(have));
    go_on(w, worker, outcome);
    memcpy(node->have, have, sizeof(have));
}

static void carry(struct world *w)
{
    uint32_t users[WORKERS_MAX + 1] = {0};
    for (uint64_t i = 1; i <= w->nodes; i++)
        users[w->node[i].source] += w->node[i].fetching;
    for (uint64_t i = 1; i <= w->nodes; i++) {
        if (w->node[i].fetching)
            w->node[i].left -= (double)STEP_MS / UNIT_MS / users[w->node[i].source];
    }
}

/* Workers 1 … givers give; of them 1 … liars say that they have it all and send rubbish. The rest
 * only fetches. Returns the time until all have everything, in copies. */
static double distribute(struct world *w, uint32_t dying)
{
    uint32_t left = 1;
    for (uint64_t i = 1; i <= w->nodes; i++) {
        w->node[i].missing = w->chunks;
        if (i <= w->givers)
            coord_swarms_giver(swarms, i, w->places, 0);
    }
    for (uint64_t i = 1; i <= w->liars; i++) {
        w->node[i].missing = 0;
        ck_assert(coord_swarms_report(swarms, i, &manifest, w->chunks, NULL, SWARM_GOT, 0));
    }
    for (w->now_ms = 0; left > 0; w->now_ms += STEP_MS) {
        carry(w);
        ck_assert_int_lt(w->now_ms, (int64_t)UNIT_MS * w->chunks * 20);
        left = 0;
        for (uint64_t i = 1; i <= w->nodes; i++) {
            if (!w->node[i].dead)
                coord_swarms_seen(swarms, i, w->now_ms); /* it renews */
            if (i > w->givers - dying && i <= w->givers && w->now_ms > 10 * UNIT_MS)
                w->node[i].dead = true;
            step(w, i);
            left += w->node[i].missing > 0 && !w->node[i].dead;
        }
    }
    return (double)w->now_ms / UNIT_MS / w->chunks;
}

START_TEST(fifty_workers)
{
    static struct world w;
    w = (struct world){.chunks = 32, .nodes = 50, .givers = 50, .places = 1};
    double copies_of_time = distribute(&w, 0);
    ck_assert_double_lt(copies_of_time, 2);
    ck_assert_uint_le(w.from_coordinator, 5 * w.chunks);
}
END_TEST

START_TEST(a_hundred_of_whom_half_give)
{
    static struct world w;
    w = (struct world){.chunks = 64, .nodes = 100, .givers = 50, .places = 1};
    double copies_of_time = distribute(&w, 0);
    ck_assert_double_lt(copies_of_time, 4); /* two downloads for each upload */
    ck_assert_uint_le(w.from_coordinator, 5 * w.chunks);
}
END_TEST

START_TEST(liars_and_deaths)
{
    static struct world w;
    w = (struct world){.chunks = 32, .nodes = 50, .givers = 50, .liars = 5, .places = 1};
    distribute(&w, 10);
    ck_assert_uint_le(w.from_coordinator, 5 * w.chunks);
    ck_assert_uint_ge(coord_swarms_counts(swarms).failures[SWARM_POISONED], 2);
    for (uint64_t i = 6; i <= 40; i++)
        ck_assert_uint_eq(w.node[i].missing, 0);
}
END_TEST

static Suite *suite(void)
{
    Suite *s = suite_create("swarm");
    TCase *t = tcase_create("swarm");
    tcase_add_checked_fixture(t, setup, teardown);
    tcase_add_test(t, nobody_gives);
    tcase_add_test(t, the_first_is_served_by_the_coordinator);
    tcase_add_test(t, who_does_not_give_waits_for_one_who_does);
    tcase_add_test(t, a_liar_is_left_alone);
    tcase_add_test(t, a_new_process_has_no_accuser);
    tcase_add_test(t, reports_without_a_transfer_accuse_nobody);
    tcase_add_test(t, the_silent_come_back);
    tcase_add_test(t, absent_chunks);
    tcase_add_test(t, places_come_back);
    tcase_add_test(t, many_checkpoints);
    tcase_add_test(t, fifty_workers);
    tcase_add_test(t, a_hundred_of_whom_half_give);
    tcase_add_test(t, liars_and_deaths);
    suite_add_tcase(s, t);
    return s;
}

SPIN_CHECK_MAIN(suite())
