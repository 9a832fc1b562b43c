/* pairs_digest: pairs_sha256 of an iteration, one function for the coordinator, spinctl and tests.
 *
 * SHA-256 over the 16 bytes "spin-pairs 1\n\0\0\0", then, for each pair of the plan in position
 * order, everything little-endian:
 *   u32 source_iteration, u32 prompt, u32 sample, u32 n and n × i32 of prompt_ids, of real_ids and
 *   of generated_ids, u32 finish, u32 the bits of fp32 ref_real, u32 the bits of fp32 ref_generated
 * A NaN (not scored) has the bits 0x7fc00000, whatever it was made from. A skipped pair without an
 * answer stands with no generated_ids and two NaNs. Any thread; a struct belongs to one. */
#ifndef SPIN_PROTO_PAIRS_DIGEST_H
#define SPIN_PROTO_PAIRS_DIGEST_H

#include "common/base/hash.h"
#include "proto/messages.h"

struct pairs_digest;

struct pairs_digest *pairs_digest_new(void);
/* Pairs must come by position 0, 1, 2, …: a jump is a bug of the caller (asserted). */
void pairs_digest_add(struct pairs_digest *digest, const struct proto_train_pair *pair);
uint64_t pairs_digest_count(const struct pairs_digest *digest);
/* Resets for the next iteration. */
void pairs_digest_final(struct pairs_digest *digest, struct sp_digest *ret);
void pairs_digest_free(struct pairs_digest *digest); /* NULL is fine */
/* The bits as they are hashed and printed: one NaN. */
uint32_t pairs_digest_bits(float value);

#endif
