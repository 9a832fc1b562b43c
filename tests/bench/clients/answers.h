/* answers: submissions that are encoded once and patched, so that a thousand generators cost less
 * than the coordinator that they are to load.
 *
 * An answer is a function of its position, as a real one is of its key: whoever makes a position
 * gives the same bits, which another worker may check. One thread. */
#ifndef SPIN_TESTS_BENCH_ANSWERS_H
#define SPIN_TESTS_BENCH_ANSWERS_H

#include <stddef.h>
#include <stdint.h>

#include "proto/messages.h"

#define ANSWERS_MAX 64 /* results in a submission */

struct answers;

/* Answers of so many tokens, all below `vocab`. Checks that what it makes decodes to what was
 * meant; exits with a message otherwise. */
struct answers *answers_new(const char *token, uint32_t tokens, uint32_t vocab);
void answers_free(struct answers *answers);
void answers_ids(const struct answers *answers, uint64_t position, struct proto_ids *ret);

struct answers_key {
    uint64_t position;
    uint32_t prompt, sample;
};
struct answers_head {
    uint64_t request_id, worker_id, lease_id;
    const char *run;
    uint32_t iteration;
    struct sp_digest checkpoint;
};
/* Bytes of a submission of `count` results; then those bytes. */
size_t answers_begin(struct answers *answers, const struct answers_head *head, uint32_t count);
void answers_write(const struct answers *answers, const struct answers_key *keys, uint32_t count,
                   uint8_t *ret);

#endif
