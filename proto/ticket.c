#include "proto/ticket.h"

#include <string.h>

#define U64_BYTES 8

static void put_u64(uint8_t *to, uint64_t value)
{
    for (int i = 0; i < U64_BYTES; i++)
        to[i] = (uint8_t)(value >> (8 * i));
}

/* The two uses of HMAC are told apart by their first byte. */
void proto_ticket_key(const struct sp_digest *secret, uint64_t worker_id, struct sp_digest *ret)
{
    uint8_t text[1 + U64_BYTES] = {'k'};
    put_u64(text + 1, worker_id);
    sp_hmac_sha256(secret->bytes, SP_DIGEST_BYTES, text, sizeof(text), ret);
}

void proto_ticket_make(const struct sp_digest *key, const struct sp_digest *manifest,
                       uint64_t expires_ms, struct sp_digest *ret)
{
    uint8_t text[1 + SP_DIGEST_BYTES + U64_BYTES] = {'t'};
    memcpy(text + 1, manifest->bytes, SP_DIGEST_BYTES);
    put_u64(text + 1 + SP_DIGEST_BYTES, expires_ms);
    sp_hmac_sha256(key->bytes, SP_DIGEST_BYTES, text, sizeof(text), ret);
}

bool proto_ticket_is_good(const struct sp_digest *key, const struct sp_digest *manifest,
                          uint64_t expires_ms, struct proto_bytes ticket, uint64_t now_ms)
{
    struct sp_digest real;
    proto_ticket_make(key, manifest, expires_ms, &real);
    return ticket.length == SP_DIGEST_BYTES &&
           sp_equal_constant_time(real.bytes, ticket.data, SP_DIGEST_BYTES) && now_ms < expires_ms;
}
