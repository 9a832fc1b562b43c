#include "generator/book.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/limits.h"
#include "common/base/mem.h"
#include "common/base/rng.h"
#include "common/model/config.h"

#define LEASE_ARENA_BYTES (64u << 10)
#define LEASE_ARENA_LIMIT (64u << 20)

/* ---- directories ---- */

struct gen_dir {
    struct ckpt_cache_ref *ref;
    atomic_uint users;
};

struct gen_dir *gen_dir_new(struct ckpt_cache_ref *ref)
{
    struct gen_dir *dir = sp_xalloc(sizeof(*dir));
    dir->ref = ref;
    atomic_init(&dir->users, 1);
    return dir;
}

struct gen_dir *gen_dir_share(struct gen_dir *dir)
{
    atomic_fetch_add(&dir->users, 1);
    return dir;
}

void gen_dir_drop(struct gen_dir *dir)
{
    if (dir == NULL || atomic_fetch_sub(&dir->users, 1) > 1)
        return;
    ckpt_cache_release(dir->ref);
    free(dir);
}

const char *gen_dir_path(const struct gen_dir *dir)
{
    return ckpt_cache_ref_dir(dir->ref);
}

/* ---- leases ---- */

static enum sp_err check_grant(const struct proto_lease_reply *grant, struct sp_error *err)
{
    if (grant->items_count == 0 || grant->items_count > SP_MAX_LEASE_ITEMS)
        return sp_fail(err, SP_EFORMAT, "lease: %u items, expected 1 to %d", grant->items_count,
                       SP_MAX_LEASE_ITEMS);
    if (grant->stop_ids.count > MODEL_MAX_EOS)
        return sp_fail(err, SP_EFORMAT, "lease: %u ids end an answer, at most %d are supported",
                       grant->stop_ids.count, MODEL_MAX_EOS);
    if (grant->weights_dtype > PROTO_WEIGHTS_BF16_BOTH || grant->kv_dtype > 1)
        return sp_fail(err, SP_EFORMAT, "lease: unknown storage type of weights or cache");
    for (uint32_t i = 0; i < grant->items_count; i++) {
        const struct proto_work_item *item = &grant->items[i];
        if (item->kind != PROTO_WORK_SAMPLE && item->kind != PROTO_WORK_SCORE)
            return sp_fail(err, SP_EFORMAT, "lease: item %u: unknown kind %u", i, item->kind);
        if (item->key_iteration >= SP_RNG_ITERATIONS)
            return sp_fail(err, SP_EFORMAT, "lease: item %u: iteration %u", i, item->key_iteration);
        if (item->prompt_ids.count == 0)
            return sp_fail(err, SP_EFORMAT, "lease: item %u: empty prompt", i);
        if (item->kind == PROTO_WORK_SAMPLE && grant->max_new_tokens < 1)
            return sp_fail(err, SP_EFORMAT, "lease: item %u: max_new_tokens %d", i,
                           grant->max_new_tokens);
        if (item->kind == PROTO_WORK_SCORE && item->answer_a.count == 0 &&
            item->answer_b.count == 0)
            return sp_fail(err, SP_EFORMAT, "lease: item %u: nothing to score", i);
    }
    return SP_OK;
}

static bool copy_ids(struct sp_arena *arena, struct proto_ids *ids)
{
    if (ids->count == 0)
        return true;
    int32_t *copy = sp_arena_alloc(arena, ids->count, sizeof(*copy));
    if (copy == NULL)
        return false;
    memcpy(copy, ids->ids, ids->count * sizeof(*copy));
    ids->ids = copy;
    return true;
}

static bool copy_grant(struct gen_lease *lease)
{
    struct proto_lease_reply *grant = &lease->grant;
    struct sp_arena *arena = lease->arena;
    grant->run = sp_arena_strdup(arena, grant->run != NULL ? grant->run : "");
    grant->backend = sp_arena_strdup(arena, grant->backend != NULL ? grant->backend : "");
    struct proto_work_item *items = sp_arena_alloc(arena, grant->items_count, sizeof(*items));
    lease->tasks = sp_arena_alloc(arena, grant->items_count, sizeof(*lease->tasks));
    if (grant->run == NULL || grant->backend == NULL || items == NULL || lease->tasks == NULL ||
        !copy_ids(arena, &grant->stop_ids))
        return false;
    memcpy(items, grant->items, grant->items_count * sizeof(*items));
    grant->items = items;
    for (uint32_t i = 0; i < grant->items_count; i++) {
        if (!copy_ids(arena, &items[i].prompt_ids) || !copy_ids(arena, &items[i].answer_a) ||
            !copy_ids(arena, &items[i].answer_b))
            return false;
        lease->tasks[i] = (struct gen_task){.lease = lease, .item = &items[i]};
    }
    return true;
}

enum sp_err gen_lease_new(const struct proto_lease_reply *grant, struct gen_lease **ret,
                          struct sp_error *err)
{
    enum sp_err rc = check_grant(grant, err);
    if (rc != SP_OK)
        return rc;
    struct gen_lease *lease = sp_xalloc(sizeof(*lease));
    lease->grant = *grant;
    lease->arena = sp_arena_new(LEASE_ARENA_BYTES, LEASE_ARENA_LIMIT);
    lease->open = grant->items_count;
    if (!copy_grant(lease)) {
        gen_lease_free(lease);
        return sp_fail(err, SP_ELIMIT, "lease: over %u bytes", LEASE_ARENA_LIMIT);
    }
    *ret = lease;
    return SP_OK;
}

void gen_lease_free(struct gen_lease *lease)
{
    if (lease == NULL)
        return;
    gen_dir_drop(lease->weights);
    sp_arena_free(lease->arena);
    free(lease);
}

int64_t gen_lease_positions(const struct gen_lease *lease)
{
    int64_t most = 1;
    for (uint32_t i = 0; i < lease->grant.items_count; i++) {
        const struct proto_work_item *item = &lease->grant.items[i];
        int64_t answer = item->kind == PROTO_WORK_SAMPLE ? lease->grant.max_new_tokens : 0;
        answer = SP_MAX(answer, (int64_t)item->answer_a.count);
        answer = SP_MAX(answer, (int64_t)item->answer_b.count);
        most = SP_MAX(most, (int64_t)item->prompt_ids.count + answer);
    }
    return most;
}

struct gen_weights gen_lease_weights(const struct gen_lease *lease)
{
    return (struct gen_weights){.checkpoint = lease->grant.checkpoint,
                                .weights_dtype = lease->grant.weights_dtype,
                                .kv_dtype = lease->grant.kv_dtype};
}

bool gen_lease_needs(const struct gen_lease *lease, const struct gen_weights *weights)
{
    return sp_digest_equal(&lease->grant.checkpoint, &weights->checkpoint) &&
           lease->grant.weights_dtype == weights->weights_dtype &&
           lease->grant.kv_dtype == weights->kv_dtype;
}

/* ---- the book ---- */

void gen_book_deinit(struct gen_book *book)
{
    while (book->first != NULL) {
        struct gen_lease *lease = book->first;
        book->first = lease->following;
        gen_lease_free(lease);
    }
    *book = (struct gen_book){0};
}

void gen_book_add(struct gen_book *book, struct gen_lease *lease)
{
    struct gen_lease **end = &book->first;
    while (*end != NULL)
        end = &(*end)->following;
    *end = lease;
    book->queued += lease->grant.items_count;
}

static void take_out(struct gen_book *book, struct gen_lease *lease)
{
    struct gen_lease **link = &book->first;
    while (*link != lease)
        link = &(*link)->following;
    *link = lease->following;
    gen_lease_free(lease);
}

struct gen_task *gen_book_peek(const struct gen_book *book)
{
    for (struct gen_lease *lease = book->first; lease != NULL; lease = lease->following)
        if (!lease->lost && lease->next < lease->grant.items_count)
            return &lease->tasks[lease->next];
    return NULL;
}

/* Moves the cursor past tasks that are not queued. */
static void advance(struct gen_lease *lease)
{
    while (lease->next < lease->grant.items_count &&
           lease->tasks[lease->next].state != GEN_TASK_QUEUED)
        lease->next++;
}

void gen_book_start(struct gen_book *book, struct gen_task *task)
{
    SP_ASSERT(task->state == GEN_TASK_QUEUED && !task->lease->lost);
    task->state = GEN_TASK_IN_FLIGHT;
    advance(task->lease);
    book->queued--;
    book->in_flight++;
    book->in_flight_wanted++;
}

/* Tasks of this lease with a state. */
static uint32_t count_state(const struct gen_lease *lease, enum gen_task_state state)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < lease->grant.items_count; i++)
        n += lease->tasks[i].state == state;
    return n;
}

void gen_book_finish(struct gen_book *book, struct gen_task *task, uint64_t *ret_done)
{
    SP_ASSERT(task->state == GEN_TASK_IN_FLIGHT);
    struct gen_lease *lease = task->lease;
    task->state = GEN_TASK_FINISHED;
    book->in_flight--;
    if (!lease->lost)
        book->in_flight_wanted--;
    *ret_done = 0;
    if (--lease->open == 0) {
        *ret_done = lease->grant.lease_id;
        take_out(book, lease);
    }
}

bool gen_book_lose(struct gen_book *book, uint64_t lease_id)
{
    for (struct gen_lease *lease = book->first; lease != NULL; lease = lease->following) {
        if (lease->grant.lease_id != lease_id || lease->lost)
            continue;
        uint32_t queued = count_state(lease, GEN_TASK_QUEUED);
        uint32_t in_flight = count_state(lease, GEN_TASK_IN_FLIGHT);
        lease->lost = true;
        lease->open -= queued;
        book->queued -= queued;
        book->in_flight_wanted -= in_flight;
        if (lease->open == 0)
            take_out(book, lease);
        return true;
    }
    return false;
}

void gen_book_reset(struct gen_book *book)
{
    struct gen_lease *following;
    for (struct gen_lease *lease = book->first; lease != NULL; lease = following) {
        following = lease->following;
        if (lease->lost) {
            book->in_flight -= count_state(lease, GEN_TASK_IN_FLIGHT);
            take_out(book, lease);
            continue;
        }
        for (uint32_t i = 0; i < lease->grant.items_count; i++) {
            if (lease->tasks[i].state != GEN_TASK_IN_FLIGHT)
                continue;
            lease->tasks[i].state = GEN_TASK_QUEUED;
            lease->next = SP_MIN(lease->next, i);
            book->in_flight--;
            book->in_flight_wanted--;
            book->queued++;
        }
    }
}
