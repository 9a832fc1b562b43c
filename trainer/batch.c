#include "trainer/batch.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/buf.h"
#include "common/base/mem.h"
#include "proto/pairs_digest.h"

#define BATCH_FIRST_BYTES (64u << 10)
#define BATCH_LIMIT_BYTES (1024u << 20)

struct train_batch *train_batch_new(uint32_t pass, uint64_t start, uint32_t wanted)
{
    struct train_batch *batch = sp_xalloc(sizeof(*batch));
    batch->pass = pass;
    batch->start = start;
    batch->wanted = wanted;
    batch->pairs = sp_xarray(wanted, sizeof(*batch->pairs));
    batch->arena = sp_arena_new(BATCH_FIRST_BYTES, BATCH_LIMIT_BYTES);
    return batch;
}

void train_batch_free(struct train_batch *batch)
{
    if (batch == NULL)
        return;
    sp_arena_free(batch->arena);
    free(batch->pairs);
    free(batch);
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

enum sp_err train_batch_append(struct train_batch *batch, const struct proto_train_pair *pairs,
                               uint32_t count, struct sp_error *err)
{
    if (count > batch->wanted - batch->count)
        return sp_fail(err, SP_EFORMAT, "pairs: %u came, %u were asked for", count,
                       batch->wanted - batch->count);
    for (uint32_t i = 0; i < count; i++) {
        struct proto_train_pair pair = pairs[i];
        if (!pair.skipped && (pair.prompt_ids.count == 0 || pair.real_ids.count == 0))
            return sp_fail(err, SP_EFORMAT, "pairs: prompt %u: empty prompt or human answer",
                           pair.prompt);
        if (!copy_ids(batch->arena, &pair.prompt_ids) || !copy_ids(batch->arena, &pair.real_ids) ||
            !copy_ids(batch->arena, &pair.generated_ids))
            return sp_fail(err, SP_ELIMIT, "pairs: a batch over %u MiB: lower [train] batch_pairs",
                           BATCH_LIMIT_BYTES >> 20);
        batch->pairs[batch->count++] = pair;
    }
    return SP_OK;
}

static void put_ids(struct sp_buf *row, const struct proto_ids *ids)
{
    sp_buf_put_u32(row, ids->count);
    for (uint32_t i = 0; i < ids->count; i++)
        sp_buf_put_u32(row, (uint32_t)ids->ids[i]);
}

void train_chain_add(struct sp_digest *chain, const struct proto_train_pair *pair)
{
    struct sp_buf row = SP_BUF_INIT;
    sp_buf_append(&row, chain->bytes, sizeof(chain->bytes));
    sp_buf_put_u32(&row, pair->source_iteration);
    sp_buf_put_u32(&row, pair->prompt);
    sp_buf_put_u32(&row, pair->sample);
    put_ids(&row, &pair->prompt_ids);
    put_ids(&row, &pair->real_ids);
    put_ids(&row, &pair->generated_ids);
    sp_buf_put_u32(&row, pair->finish);
    sp_buf_put_u32(&row, pairs_digest_bits(pair->ref_real));
    sp_buf_put_u32(&row, pairs_digest_bits(pair->ref_generated));
    sp_sha256_of(row.data, row.length, chain);
    sp_buf_deinit(&row);
}

void train_batch_keys(const struct train_batch *batch, char *ret, size_t bytes)
{
    size_t at = 0;
    ret[0] = '\0';
    for (uint32_t i = 0; i < batch->count; i++) {
        const struct proto_train_pair *pair = &batch->pairs[i];
        int n = snprintf(ret + at, bytes - at, "%st%u p%u s%u", i == 0 ? "" : ", ",
                         pair->source_iteration, pair->prompt, pair->sample);
        if (n < 0 || (size_t)n >= bytes - at) {
            ret[at] = '\0';
            return;
        }
        at += (size_t)n;
    }
}
