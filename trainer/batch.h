/* batch: the pairs of one step, copied out of a message, and the digest that is chained over pairs
 * in the order in which they are consumed. Plain data; one thread at a time. */
#ifndef SPIN_TRAINER_BATCH_H
#define SPIN_TRAINER_BATCH_H

#include <stdint.h>

#include "common/base/arena.h"
#include "common/base/err.h"
#include "common/base/hash.h"
#include "proto/messages.h"

struct train_batch {
    uint32_t pass;                  /* train epoch */
    uint64_t start;                 /* index of the first pair in the pass's order */
    uint32_t count;                 /* pairs there are */
    uint32_t wanted;                /* pairs it shall have */
    struct proto_train_pair *pairs; /* (wanted), ids in the arena */
    struct sp_arena *arena;         /* owned */
};

struct train_batch *train_batch_new(uint32_t pass, uint64_t start, uint32_t wanted);
void train_batch_free(struct train_batch *batch); /* NULL is fine */
/* Copies pairs behind those that are there. SP_EFORMAT for more than are wanted, for pairs without
 * prompt or human answer; SP_ELIMIT over the memory for a batch. */
enum sp_err train_batch_append(struct train_batch *batch, const struct proto_train_pair *pairs,
                               uint32_t count, struct sp_error *err) SP_MUST_USE;

/* chain' = SHA-256(chain ‖ row), row as in proto/pairs_digest.h. The chain of an iteration starts
 * at zero. */
void train_chain_add(struct sp_digest *chain, const struct proto_train_pair *pair);
/* "t1 p17 s0, t1 p4 s0, …": the keys of the pairs, for messages; cut at the end of the text. */
void train_batch_keys(const struct train_batch *batch, char *ret, size_t bytes);

#endif
