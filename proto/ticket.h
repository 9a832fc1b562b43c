/* ticket: the right to ask one worker for the chunks of one manifest until some time. The
 * coordinator makes it, who asks carries it, the worker that gives checks it with the key that it
 * alone was given: whoever breaks into a worker can make tickets for nobody but that worker. Pure;
 * any thread. */
#ifndef SPIN_PROTO_TICKET_H
#define SPIN_PROTO_TICKET_H

#include <stdbool.h>
#include <stdint.h>

#include "proto/messages.h"

/* The key of a worker, from the coordinator's secret. */
void proto_ticket_key(const struct sp_digest *secret, uint64_t worker_id, struct sp_digest *ret);
/* expires_ms: by the coordinator's clock. */
void proto_ticket_make(const struct sp_digest *key, const struct sp_digest *manifest,
                       uint64_t expires_ms, struct sp_digest *ret);
/* now_ms: the coordinator's clock. The comparison takes constant time. */
bool proto_ticket_is_good(const struct sp_digest *key, const struct sp_digest *manifest,
                          uint64_t expires_ms, struct proto_bytes ticket, uint64_t now_ms);

#endif
