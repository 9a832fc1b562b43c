#include "proto/pairs_digest.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/mem.h"

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__,
               "the digest is over little-endian numbers");

static const char prefix[16] = "spin-pairs 1\n";

struct pairs_digest {
    struct sp_sha256 *hash;
    uint64_t count;
};

struct pairs_digest *pairs_digest_new(void)
{
    struct pairs_digest *digest = sp_xalloc(sizeof(*digest));
    digest->hash = sp_sha256_new();
    sp_sha256_update(digest->hash, prefix, sizeof(prefix));
    return digest;
}

uint32_t pairs_digest_bits(float value)
{
    uint32_t bits;
    if (isnan(value))
        return 0x7fc00000u;
    memcpy(&bits, &value, sizeof(bits));
    return bits;
}

static void add_ids(struct sp_sha256 *hash, const struct proto_ids *ids)
{
    sp_sha256_update(hash, &ids->count, sizeof(ids->count));
    if (ids->count)
        sp_sha256_update(hash, ids->ids, (size_t)ids->count * sizeof(int32_t));
}

void pairs_digest_add(struct pairs_digest *digest, const struct proto_train_pair *pair)
{
    SP_ASSERT(pair->position == digest->count);
    digest->count++;
    const uint32_t head[3] = {pair->source_iteration, pair->prompt, pair->sample};
    const uint32_t tail[3] = {pair->finish, pairs_digest_bits(pair->ref_real),
                              pairs_digest_bits(pair->ref_generated)};
    sp_sha256_update(digest->hash, head, sizeof(head));
    add_ids(digest->hash, &pair->prompt_ids);
    add_ids(digest->hash, &pair->real_ids);
    add_ids(digest->hash, &pair->generated_ids);
    sp_sha256_update(digest->hash, tail, sizeof(tail));
}

uint64_t pairs_digest_count(const struct pairs_digest *digest)
{
    return digest->count;
}

void pairs_digest_final(struct pairs_digest *digest, struct sp_digest *ret)
{
    sp_sha256_final(digest->hash, ret);
    sp_sha256_update(digest->hash, prefix, sizeof(prefix));
    digest->count = 0;
}

void pairs_digest_free(struct pairs_digest *digest)
{
    if (digest == NULL)
        return;
    sp_sha256_free(digest->hash);
    free(digest);
}
