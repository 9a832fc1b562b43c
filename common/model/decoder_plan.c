/* What a decoder takes of memory, from sizes alone. */
#include "common/base/limits.h"
#include "common/base/mem.h"
#include "common/model/decoder_impl.h"
#include "common/model/workspace_impl.h"

#define DEFAULT_ROWS 256
#define DEFAULT_ROWS_DEVICE 1024 /* with few, a device waits for its memory */
#define PAGE 64                  /* positions of a cache's page, where it has pages */
#define SPARE_PAGES                                                                                \
    2                /* beside those of the longest sequence: prefixes that others use are copied */
#define LEAST_PART 4 /* of what all slots could fill: with less, fewer slots are better */

/* The device's cache for bf16 activations. */
static bool has_pages(const struct model_decoder_options *o)
{
    return o->on_device && o->stored_activations == TN_BF16;
}

enum sp_err decoder_fill_options(const struct model_config *c, struct model_decoder_options *o,
                                 struct sp_error *err)
{
    if (o->slots < 1 || o->slots > SP_MAX_SLOTS)
        return sp_fail(err, SP_EINVAL, "decoder: %d slots, expected 1 to %d", o->slots,
                       SP_MAX_SLOTS);
    if (o->queue < 0 || o->queue > SP_MAX_LEASE_ITEMS * 16)
        return sp_fail(err, SP_EINVAL, "decoder: a queue of %d requests, expected 0 to %d",
                       o->queue, SP_MAX_LEASE_ITEMS * 16);
    if (o->max_positions == 0)
        o->max_positions = c->max_positions;
    if (o->max_positions < 1 || o->max_positions > c->max_positions)
        return sp_fail(err, SP_EINVAL, "decoder: %d positions, the model has %d%s",
                       o->max_positions, c->max_positions,
                       c->scaling.type == MODEL_ROPE_DYNAMIC ||
                               c->scaling.type == MODEL_ROPE_LONGROPE
                           ? "; beyond them its rotary frequencies would change, which is not "
                             "supported"
                           : "");
    if (o->rows_per_step == 0)
        o->rows_per_step = SP_MAX(o->on_device ? DEFAULT_ROWS_DEVICE : DEFAULT_ROWS, 2 * o->slots);
    if (o->rows_per_step < o->slots || o->rows_per_step > 1 << 16)
        return sp_fail(err, SP_EINVAL, "decoder: %d rows a step, expected %d to %d",
                       o->rows_per_step, o->slots, 1 << 16);
    if (o->weights == TN_F16 || o->cache == TN_F16)
        return sp_fail(err, SP_EUNSUPPORTED, "decoder: weights and cache are f32 or bf16");
    if (o->activations == TN_F16 || (o->activations == TN_BF16 && o->weights != TN_BF16))
        return sp_fail(err, SP_EUNSUPPORTED,
                       "decoder: activations are f32, or bf16 with weights in bf16");
    return SP_OK;
}

bool decoder_keeps_model(const struct model_decoder_options *o)
{
    return o->takes_model && o->stored_weights == TN_BF16 && o->stored_activations == TN_BF16;
}

int32_t decoder_logit_rows(const struct model_decoder_options *o)
{
    return SP_MIN(o->rows_per_step, o->on_device ? DECODER_LOGIT_ROWS_DEVICE : DECODER_LOGIT_ROWS);
}

size_t decoder_block_bytes(const struct model_config *c, const struct model_decoder_options *o)
{
    size_t rows = (size_t)o->rows_per_step, d = (size_t)c->hidden, f = (size_t)c->ffn;
    size_t att = (size_t)c->heads * (size_t)c->head_size;
    size_t qkv = att + 2 * (size_t)c->kv_heads * (size_t)c->head_size;
    size_t logit_rows = (size_t)decoder_logit_rows(o);
    size_t gu = (size_t)model_config_ffn_width(c), turn = (size_t)model_rope_width(c);
    size_t numbers = rows * (3 * d + qkv + att + gu + f) + logit_rows * 2 * d;
    size_t floats = rows * 2 + logit_rows * (size_t)c->vocab +
                    (size_t)o->max_positions * turn * (c->local_theta > 0 ? 2 : 1);
    return numbers * tn_unit(o->stored_activations) + floats * sizeof(float) +
           DECODER_ROUNDING * 20;
}

/* Bytes of a number of decode weights, or of the cache, of this type. */
static size_t kept_unit(const struct model_decoder_options *o, enum tn_dtype dtype)
{
    return tn_unit(o->stored_activations == TN_BF16 ? TN_BF16 : dtype);
}

/* Bytes of a cached position in all layers. */
static size_t position_bytes(const struct model_config *c, const struct model_decoder_options *o)
{
    return 2 * (size_t)c->kv_heads * (size_t)c->head_size * kept_unit(o, o->cache) *
           (size_t)c->layers;
}

/* Positions that the cache has memory for; false: too many to count. */
static bool cache_positions(const struct model_decoder_options *o, size_t *ret)
{
    size_t each = (size_t)o->max_positions;
    if (has_pages(o))
        each = (each + PAGE - 1) / PAGE * PAGE;
    if (!sp_mul_size((size_t)o->slots, each, ret))
        return false;
    if (has_pages(o) && o->cache_positions > 0)
        *ret = SP_MIN(*ret, (size_t)o->cache_positions);
    return true;
}

enum sp_err model_decoder_bytes(const struct model_config *c,
                                const struct model_decoder_options *options, size_t *ret,
                                struct sp_error *err)
{
    struct model_decoder_options o = *options;
    enum sp_err rc = decoder_fill_options(c, &o, err);
    if (rc != SP_OK)
        return rc;
    size_t cache, bytes;
    size_t weights = (size_t)c->n_params * kept_unit(&o, o.weights);
    size_t records =
        (size_t)(o.slots + o.queue + 1) * (DECODER_ID_BUFFERS + DECODER_LOGPROB_BUFFERS) * 4 +
        (size_t)o.slots * 4;
    /* The table itself stays as the backend stores parameters, beside the output matrix. */
    if (c->tie_embeddings || kept_unit(&o, o.weights) == 2)
        weights += (size_t)c->vocab * (size_t)c->hidden * tn_unit(o.stored_weights);
    if (c->traits.learned_positions) /* counted above in the dtype of decode weights */
        weights += (size_t)c->max_positions * (size_t)c->hidden * tn_unit(o.stored_weights);
    if (decoder_keeps_model(&o))
        weights = 0; /* they are there */
    bytes = weights + decoder_block_bytes(c, &o);
    if (!cache_positions(&o, &cache) || !sp_mul_size(cache, position_bytes(c, &o), &cache) ||
        !sp_mul_size(records, (size_t)o.max_positions, &records) ||
        !sp_add_size(bytes, cache, &bytes) ||
        (!o.on_device && !sp_add_size(bytes, records, &bytes)))
        return sp_fail(err, SP_ELIMIT, "decoder: %d slots of %d positions are too many", o.slots,
                       o.max_positions);
    *ret = bytes;
    return SP_OK;
}

/* Whether a cache of less than all slots can fill will do: *ret positions in `room` bytes. */
static bool fits_pages(const struct model_config *c, size_t room, size_t bytes,
                       const struct model_decoder_options *options, int64_t *ret)
{
    struct model_decoder_options o = *options;
    struct sp_error ignored;
    size_t all;
    if (decoder_fill_options(c, &o, &ignored) != SP_OK || !has_pages(&o) ||
        !cache_positions(&o, &all))
        return false;
    size_t each = position_bytes(c, &o), others = bytes - all * each;
    size_t longest = (size_t)o.max_positions + SPARE_PAGES * PAGE;
    size_t least = SP_MAX((size_t)o.slots * (size_t)o.max_positions / LEAST_PART, longest);
    if (room <= others || (room - others) / each < least)
        return false;
    *ret = (int64_t)SP_MIN((room - others) / each, all);
    return true;
}

enum sp_err model_decoder_fit(const struct model_config *config, size_t room,
                              struct model_decoder_options *options, struct sp_error *err)
{
    for (;; options->slots = (options->slots + 1) / 2, options->queue = (options->queue + 1) / 2) {
        size_t bytes;
        enum sp_err rc = model_decoder_bytes(config, options, &bytes, err);
        if ((rc != SP_OK && rc != SP_ELIMIT) || (rc == SP_OK && bytes <= room))
            return rc;
        if (rc == SP_OK && fits_pages(config, room, bytes, options, &options->cache_positions))
            return SP_OK;
        if (options->slots <= 1)
            return rc;
    }
}
