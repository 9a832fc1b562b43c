/* book: the leases that a generator holds and how far each of their items is. Pure: no threads, no
 * clock, no network; the compute thread owns it.
 *
 *     item:  queued ──start──> in flight ──finish──> finished
 *     lease: leaves the book when every item is finished, or was queued when the lease was lost
 *
 * Items are started in the order in which leases came. A lease that is lost loses its queued items
 * at once; those in flight may end (their late answers are still welcome) but nobody waits for
 * them. */
#ifndef SPIN_GENERATOR_BOOK_H
#define SPIN_GENERATOR_BOOK_H

#include <stdbool.h>
#include <stdint.h>

#include "common/base/arena.h"
#include "common/base/err.h"
#include "common/checkpoint/materialise.h"
#include "proto/messages.h"

struct gen_lease;

enum gen_task_state { GEN_TASK_QUEUED, GEN_TASK_IN_FLIGHT, GEN_TASK_FINISHED };

/* One item; what the decoder carries as its user pointer. */
struct gen_task {
    struct gen_lease *lease;
    const struct proto_work_item *item; /* in the lease's arena */
    enum gen_task_state state;
};

/* A checkpoint's directory in the cache, shared by the leases that need it: the cache verifies
 * every byte on each look-up, which is too much to do for each lease. Any thread. */
struct gen_dir;
struct gen_dir *gen_dir_new(struct ckpt_cache_ref *ref); /* takes the reference; one user */
struct gen_dir *gen_dir_share(struct gen_dir *dir);
void gen_dir_drop(struct gen_dir *dir); /* NULL is fine; the last user releases */
const char *gen_dir_path(const struct gen_dir *dir);

/* A grant with everything that it points to. */
struct gen_lease {
    struct proto_lease_reply grant; /* strings and arrays in the arena */
    struct sp_arena *arena;         /* owned */
    struct gen_dir *weights;        /* owned share; NULL until the weights are here */
    struct gen_task *tasks;         /* (grant.items_count), in the arena */
    uint32_t next;                  /* first queued task */
    uint32_t open;                  /* tasks not finished */
    bool lost;
    struct gen_lease *following; /* list of the book */
};

/* Deep copy of a grant, without weights. SP_EFORMAT for grants that
 * no coordinator should send (no items, unknown kinds, empty prompts, too many end ids). */
enum sp_err gen_lease_new(const struct proto_lease_reply *grant, struct gen_lease **ret,
                          struct sp_error *err) SP_MUST_USE;
void gen_lease_free(struct gen_lease *lease); /* NULL is fine */
/* Positions that its longest item needs: prompt and the longest of answers and max_new_tokens. */
int64_t gen_lease_positions(const struct gen_lease *lease);
/* What a decoder is made from. */
struct gen_weights {
    struct sp_digest checkpoint;
    uint32_t weights_dtype, kv_dtype;
};
struct gen_weights gen_lease_weights(const struct gen_lease *lease);
bool gen_lease_needs(const struct gen_lease *lease, const struct gen_weights *weights);

struct gen_book {
    struct gen_lease *first;    /* oldest */
    uint32_t queued, in_flight; /* tasks of all leases */
    uint32_t in_flight_wanted;  /* of them, of leases that are not lost */
};

void gen_book_deinit(struct gen_book *book);                       /* frees the leases */
void gen_book_add(struct gen_book *book, struct gen_lease *lease); /* takes it */
/* The next task to start, or NULL; it stays queued until gen_book_start. */
struct gen_task *gen_book_peek(const struct gen_book *book);
void gen_book_start(struct gen_book *book, struct gen_task *task); /* the one that peek gave */
/* *ret_done: id of the lease when this was its last task (it is freed then), else 0. */
void gen_book_finish(struct gen_book *book, struct gen_task *task, uint64_t *ret_done);
/* The lease is not ours any more. true when it was in the book. It leaves when nothing of it is in
 * flight. */
bool gen_book_lose(struct gen_book *book, uint64_t lease_id);
/* The decoder was reset: whatever was in flight is queued again; lost leases leave. */
void gen_book_reset(struct gen_book *book);

#endif
