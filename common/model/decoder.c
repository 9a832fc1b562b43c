/* The life of a decoder, its requests and its results; decoder_step.c runs the network. */
#include "common/model/decoder.h"

#include <stdlib.h>
#include <string.h>

#include "common/base/limits.h"
#include "common/base/mem.h"
#include "common/model/decoder_impl.h"
#include "common/model/model_impl.h"
#include "common/model/workspace_impl.h"

void decoder_push(struct decoder_ring *ring, int32_t item)
{
    SP_ASSERT(ring->count < ring->capacity);
    ring->items[(ring->first + ring->count++) % ring->capacity] = item;
}

int32_t decoder_pop(struct decoder_ring *ring)
{
    if (ring->count == 0)
        return -1;
    int32_t item = ring->items[ring->first];
    ring->first = (ring->first + 1) % ring->capacity;
    ring->count--;
    return item;
}

/* A table of the model: itself, or a copy, through the host, some rows at a time; NULL: no memory.
 */
static void *take_table(struct model_decoder *d, const struct model *m, size_t offset, size_t n)
{
    if (decoder_keeps_model(&d->options))
        return model_param(m, offset);
    struct tn_backend *be = d->backend;
    size_t unit = tn_unit(be->weights), chunk = SP_MIN(n, (size_t)1 << 20);
    char *to = be->ops->alloc(be, n, unit), *host = sp_alloc_block(chunk, unit);
    for (size_t i = 0; to && host && i < n; i += chunk) {
        size_t bytes = SP_MIN(chunk, n - i) * unit;
        be->ops->download(be, host, model_param(m, offset + i), bytes);
        be->ops->upload(be, to + i * unit, host, bytes);
    }
    if (to && !host) {
        be->ops->free(be, to);
        to = NULL;
    }
    sp_free_block(host);
    return to;
}

/* Vectors of the model go into one block, each on a line of its own. */
struct vectors {
    struct model_decoder *d;
    const struct model *m;
    float *next;
};

static size_t vector_floats(const struct model_config *c)
{
    size_t d = (size_t)c->hidden, heads = (size_t)(c->heads + 2 * c->kv_heads);
    size_t qkv = heads * (size_t)c->head_size, ffn = (size_t)model_config_ffn_width(c);
    /* six norms and two biases of D, two norms of C, the others; each rounded up */
    size_t layer = 8 * d + 2 * (size_t)c->head_size + qkv + ffn + 12 * 16;
    return (size_t)c->layers * layer + 2 * d + 2 * 16;
}

/* NULL when the model has no such vector. */
static float *take_shifted(struct vectors *v, size_t offset, int32_t n, float shift)
{
    struct tn_backend *be = v->d->backend;
    if (offset == 0)
        return NULL;
    float *to = v->next;
    v->next += ((size_t)n + 15) / 16 * 16;
    be->ops->widen(be, to, model_param(v->m, offset), shift, (size_t)n);
    return to;
}

static float *take_vector(struct vectors *v, size_t offset, int32_t n)
{
    return take_shifted(v, offset, n, 0.0f);
}

static float *take_norm(struct vectors *v, size_t offset, int32_t n)
{
    return take_shifted(v, offset, n,
                        v->d->config.traits.norm == MODEL_NORM_RMS_PLUS ? 1.0f : 0.0f);
}

static void take_layer_vectors(struct vectors *v, const struct model_layer *from,
                               struct decoder_layer *to)
{
    const struct model_config *c = &v->d->config;
    int32_t d = c->hidden, qkv = (c->heads + 2 * c->kv_heads) * c->head_size;
    to->norm1 = take_norm(v, from->norm1, d);
    to->norm2 = take_norm(v, from->norm2, d);
    to->norm1_bias = take_vector(v, from->norm1_bias, d);
    to->norm2_bias = take_vector(v, from->norm2_bias, d);
    to->post1 = take_norm(v, from->post1, d);
    to->post2 = take_norm(v, from->post2, d);
    to->q_norm = take_norm(v, from->q_norm, c->head_size);
    to->k_norm = take_norm(v, from->k_norm, c->head_size);
    to->qkv_bias = take_vector(v, from->qkv_bias, qkv);
    to->out_bias = take_vector(v, from->out_bias, d);
    to->gate_up_bias = take_vector(v, from->gate_up_bias, model_config_ffn_width(c));
    to->down_bias = take_vector(v, from->down_bias, d);
}

static struct tn_weights *take_matrix(struct model_decoder *d, const struct model *m, size_t offset,
                                      int32_t N, int32_t K)
{
    struct tn_backend *be = d->backend;
    const void *w = model_param(m, offset);
    if (decoder_keeps_model(&d->options))
        return be->ops->weights_view(be, w, N, K);
    return be->ops->weights_new(be, w, N, K, d->options.weights, d->options.activations);
}

static bool take_weights(struct model_decoder *d, const struct model *m)
{
    const struct model_config *c = &d->config;
    struct tn_backend *be = d->backend;
    const struct tn_ops *ops = be->ops;
    size_t width = (size_t)c->hidden;
    int32_t hc = c->heads * c->head_size, qkv = hc + 2 * c->kv_heads * c->head_size;
    d->embed = take_table(d, m, m->layout.embed, (size_t)c->vocab * width);
    d->vectors = ops->alloc(be, vector_floats(c), sizeof(float));
    if (!d->embed || !d->vectors)
        return false;
    if (c->traits.learned_positions) {
        d->places = take_table(d, m, m->layout.positions, (size_t)c->max_positions * width);
        if (!d->places)
            return false;
    }
    struct vectors v = {.d = d, .m = m, .next = d->vectors};
    for (int32_t l = 0; l < c->layers; l++) {
        const struct model_layer *from = &m->layout.layers[l];
        struct decoder_layer *to = &d->layers[l];
        take_layer_vectors(&v, from, to);
        to->qkv = take_matrix(d, m, from->qkv, qkv, c->hidden);
        to->out = take_matrix(d, m, from->out, c->hidden, hc);
        to->gate_up = take_matrix(d, m, from->gate_up, model_config_ffn_width(c), c->hidden);
        to->down = take_matrix(d, m, from->down, c->hidden, c->ffn);
        if (!to->qkv || !to->out || !to->gate_up || !to->down)
            return false;
    }
    d->final_norm = take_norm(&v, m->layout.final_norm, c->hidden);
    d->final_bias = take_vector(&v, m->layout.final_bias, c->hidden);
    SP_ASSERT((size_t)(v.next - d->vectors) <= vector_floats(c));
    d->head = take_matrix(d, m, m->layout.head, c->vocab, c->hidden);
    return d->head != NULL;
}

static void *part(char **next, size_t bytes)
{
    char *p = *next;
    *next += (bytes + DECODER_ROUNDING - 1) / DECODER_ROUNDING * DECODER_ROUNDING;
    return p;
}

static bool take_activations(struct model_decoder *d)
{
    const struct model_config *c = &d->config;
    const struct tn_ops *ops = d->backend->ops;
    size_t rows = (size_t)d->options.rows_per_step, width = (size_t)c->hidden, f = (size_t)c->ffn;
    size_t att = (size_t)c->heads * (size_t)c->head_size;
    size_t qkv = att + 2 * (size_t)c->kv_heads * (size_t)c->head_size;
    size_t positions = (size_t)d->options.max_positions;
    size_t half = (size_t)model_rope_width(c) / 2, gu = (size_t)model_config_ffn_width(c);
    size_t logit_rows = (size_t)d->logit_rows;
    size_t bytes = decoder_block_bytes(c, &d->options), unit = tn_unit(d->backend->activations);
    d->block = ops->alloc(d->backend, bytes, 1);
    if (!d->block)
        return false;
    char *next = d->block;
    d->x = part(&next, rows * width * unit);
    d->norm = part(&next, rows * width * unit);
    d->mid = part(&next, rows * width * unit);
    d->qkv = part(&next, rows * qkv * unit);
    d->att = part(&next, rows * att * unit);
    d->gu = part(&next, rows * gu * unit);
    d->half = part(&next, rows * f * unit);
    d->rstd = part(&next, 2 * rows * sizeof(float));
    d->head_x = part(&next, logit_rows * width * unit);
    d->head_norm = part(&next, logit_rows * width * unit);
    d->logits = part(&next, logit_rows * (size_t)c->vocab * sizeof(float));
    for (int32_t i = 0; i < (c->local_theta > 0 ? 4 : 2); i++)
        d->rope[i] = part(&next, positions * half * sizeof(float));
    SP_ASSERT((size_t)(next - (char *)d->block) <= bytes);
    if (!model_rope_upload(d->backend, c, d->options.max_positions, d->rope))
        return false;
    d->cache = ops->cache_new(d->backend, c->layers, d->options.slots, d->options.max_positions,
                              c->kv_heads, c->head_size, d->options.cache,
                              (size_t)d->options.cache_positions);
    size_t widest = SP_MAX(SP_MAX(SP_MAX(gu, f), qkv), SP_MAX(width, (size_t)c->vocab));
    return d->cache && ops->reserve(d->backend, d->options.rows_per_step, d->options.max_positions,
                                    c->heads, c->head_size, (int32_t)widest);
}

static void take_tables(struct model_decoder *d)
{
    size_t rows = (size_t)d->options.rows_per_step, logit_rows = (size_t)d->logit_rows;
    size_t slots = (size_t)d->options.slots;
    d->ids = sp_xarray(rows, sizeof(*d->ids));
    d->positions = sp_xarray(rows, sizeof(*d->positions));
    d->cache_rows = sp_xarray(rows, sizeof(*d->cache_rows));
    d->samples = sp_xarray(slots, sizeof(*d->samples));
    d->scores = sp_xarray(rows, sizeof(*d->scores));
    d->gather = sp_xarray(logit_rows, sizeof(*d->gather));
    d->drawn = sp_xarray(logit_rows, sizeof(*d->drawn));
    d->lse = sp_xarray(logit_rows, sizeof(*d->lse));
    d->params = sp_xarray(logit_rows, sizeof(*d->params));
    d->keys = sp_xarray(logit_rows, sizeof(*d->keys));
    d->targets = sp_xarray(3 * logit_rows, sizeof(*d->targets));
    d->logprobs = sp_xarray(3 * logit_rows, sizeof(*d->logprobs));
    d->drawn_logprobs = sp_xarray(logit_rows, sizeof(*d->drawn_logprobs));
    d->sinks = sp_xarray(3 * logit_rows, sizeof(*d->sinks));
    d->slots = sp_xarray(slots, sizeof(*d->slots));
    d->records = sp_xarray((size_t)d->n_records, sizeof(*d->records));
    struct decoder_ring *rings[] = {&d->free, &d->waiting, &d->finished};
    for (size_t i = 0; i < SP_COUNT(rings); i++) {
        rings[i]->capacity = d->n_records;
        rings[i]->items = sp_xarray((size_t)d->n_records, sizeof(*rings[i]->items));
    }
}

static bool take_records(struct model_decoder *d)
{
    size_t n = (size_t)d->n_records, positions = (size_t)d->options.max_positions;
    d->record_ids = sp_alloc_block(n * DECODER_ID_BUFFERS, positions * sizeof(int32_t));
    d->record_logprobs = sp_alloc_block(n * DECODER_LOGPROB_BUFFERS, positions * sizeof(float));
    d->slot_ids = sp_alloc_block((size_t)d->options.slots, positions * sizeof(int32_t));
    if (!d->record_ids || !d->record_logprobs || !d->slot_ids)
        return false;
    for (int32_t s = 0; s < d->options.slots; s++)
        d->slots[s].prompt = d->slot_ids + (size_t)s * positions;
    for (size_t i = 0; i < n; i++) {
        struct decoder_record *r = &d->records[i];
        int32_t *ids = d->record_ids + i * DECODER_ID_BUFFERS * positions;
        float *logprobs = d->record_logprobs + i * DECODER_LOGPROB_BUFFERS * positions;
        r->prompt = ids;
        r->response = ids + positions;
        r->response_logprobs = logprobs;
        for (size_t a = 0; a < MODEL_DECODER_ANSWERS; a++) {
            r->answers[a] = ids + (2 + a) * positions;
            r->answer_logprobs[a] = logprobs + (1 + a) * positions;
        }
    }
    return true;
}

/* *ret_kept: the model is the decoder's, and freed with it. */
static enum sp_err decoder_new(struct model *m, const struct model_decoder_options *options,
                               struct model_decoder **ret, bool *ret_kept, struct sp_error *err)
{
    struct model_decoder_options o = *options;
    size_t bytes;
    o.stored_weights = m->backend->weights;
    o.stored_activations = m->backend->activations;
    o.on_device = m->backend->has_memory;
    enum sp_err rc = decoder_fill_options(&m->config, &o, err);
    if (rc == SP_OK)
        rc = model_decoder_bytes(&m->config, &o, &bytes, err);
    if (rc != SP_OK)
        return rc;
    struct model_decoder *d = sp_xalloc(sizeof(*d));
    *ret_kept = decoder_keeps_model(&o);
    d->model = *ret_kept ? m : NULL;
    d->backend = m->backend;
    d->config = m->config;
    d->options = o;
    d->logit_rows = decoder_logit_rows(&o);
    d->n_records = o.slots + o.queue + 1;
    d->layers = sp_xarray((size_t)m->config.layers, sizeof(*d->layers));
    take_tables(d);
    if (!take_records(d) || !take_activations(d) || !take_weights(d, m)) {
        model_decoder_free(d);
        return sp_fail(err, SP_ENOMEM,
                       "decoder: no memory for %.1f MiB: %d slots of %d positions; lower them or "
                       "use bf16",
                       (double)bytes / (1 << 20), o.slots, o.max_positions);
    }
    model_decoder_reset(d);
    *ret = d;
    return SP_OK;
}

enum sp_err model_decoder_new(struct model *m, const struct model_decoder_options *options,
                              struct model_decoder **ret, struct sp_error *err)
{
    bool kept = false;
    enum sp_err rc = decoder_new(m, options, ret, &kept, err);
    if (options->takes_model && !kept)
        model_free(m);
    return rc;
}

void model_decoder_free(struct model_decoder *d)
{
    if (!d)
        return;
    struct tn_backend *be = d->backend;
    for (int32_t l = 0; l < d->config.layers; l++) {
        struct tn_weights *w[] = {d->layers[l].qkv, d->layers[l].out, d->layers[l].gate_up,
                                  d->layers[l].down};
        for (size_t i = 0; i < SP_COUNT(w); i++)
            if (w[i])
                be->ops->weights_free(be, w[i]);
    }
    if (d->head)
        be->ops->weights_free(be, d->head);
    if (d->cache)
        be->ops->cache_free(be, d->cache);
    void *blocks[] = {d->model ? NULL : d->embed, d->model ? NULL : d->places, d->vectors,
                      d->block};
    for (size_t i = 0; i < SP_COUNT(blocks); i++)
        if (blocks[i])
            be->ops->free(be, blocks[i]);
    model_free(d->model);
    sp_free_block(d->record_ids);
    sp_free_block(d->record_logprobs);
    sp_free_block(d->slot_ids);
    void *tables[] = {d->layers,  d->ids,        d->positions,     d->cache_rows,
                      d->samples, d->scores,     d->gather,        d->drawn,
                      d->lse,     d->params,     d->keys,          d->drawn_logprobs,
                      d->targets, d->logprobs,   d->sinks,         d->slots,
                      d->records, d->free.items, d->waiting.items, d->finished.items};
    for (size_t i = 0; i < SP_COUNT(tables); i++)
        free(tables[i]);
    free(d);
}

int32_t model_decoder_room(const struct model_decoder *d)
{
    /* One record stays aside for the result that the caller looks at. */
    return SP_MAX(0, d->free.count - (d->taken < 0 ? 1 : 0));
}

static enum sp_err check_ids(const struct model_decoder *d, const int32_t *ids, int32_t n,
                             const char *what, struct sp_error *err)
{
    for (int32_t i = 0; i < n; i++)
        if (ids[i] < 0 || ids[i] >= d->config.vocab)
            return sp_fail(err, SP_EINVAL, "%s: token %d is id %d, the vocabulary has %d", what, i,
                           ids[i], d->config.vocab);
    return SP_OK;
}

static enum sp_err check_params(const struct model_decoder_request *r, struct sp_error *err)
{
    if (r->max_new_tokens < 1)
        return sp_fail(err, SP_EINVAL, "request: max_new_tokens %d, expected at least 1",
                       r->max_new_tokens);
    if (r->n_eos < 0 || r->n_eos > MODEL_MAX_EOS)
        return sp_fail(err, SP_EINVAL, "request: %d end tokens, at most %d", r->n_eos,
                       MODEL_MAX_EOS);
    if (!(r->params.temperature >= 0 && r->params.temperature <= 1000))
        return sp_fail(err, SP_EINVAL, "request: temperature %g is not between 0 and 1000",
                       (double)r->params.temperature);
    if (r->params.top_k < 0)
        return sp_fail(err, SP_EINVAL, "request: top_k %d is negative", r->params.top_k);
    if (!(r->params.top_p > 0 && r->params.top_p <= 1))
        return sp_fail(err, SP_EINVAL, "request: top_p %g is not above 0 and at most 1",
                       (double)r->params.top_p);
    return SP_OK;
}

static enum sp_err check_request(const struct model_decoder *d,
                                 const struct model_decoder_request *r, struct sp_error *err)
{
    if (r->n_prompt < 1)
        return sp_fail(err, SP_EINVAL, "request: the prompt is empty");
    int64_t longest = 0;
    enum sp_err rc = SP_OK;
    if (r->generate) {
        rc = check_params(r, err);
        longest = r->max_new_tokens;
    }
    for (int32_t a = 0; rc == SP_OK && a < MODEL_DECODER_ANSWERS; a++) {
        if (r->n_answers[a] < 0)
            rc = sp_fail(err, SP_EINVAL, "request: an answer of %d tokens", r->n_answers[a]);
        else if (r->answers[a])
            longest = SP_MAX(longest, r->n_answers[a]);
    }
    if (rc != SP_OK)
        return rc;
    if (r->n_prompt + longest > d->options.max_positions)
        return sp_fail(err, SP_ELIMIT,
                       "request: a prompt of %d tokens and an answer of up to %lld exceed %d "
                       "positions",
                       r->n_prompt, (long long)longest, d->options.max_positions);
    rc = check_ids(d, r->prompt, r->n_prompt, "request: prompt", err);
    for (int32_t a = 0; rc == SP_OK && a < MODEL_DECODER_ANSWERS; a++)
        if (r->answers[a])
            rc = check_ids(d, r->answers[a], r->n_answers[a], "request: answer", err);
    return rc;
}

enum sp_err model_decoder_submit(struct model_decoder *d,
                                 const struct model_decoder_request *request, struct sp_error *err)
{
    if (model_decoder_room(d) == 0)
        return sp_fail(err, SP_EUNAVAIL, "decoder: all %d places are taken",
                       d->options.slots + d->options.queue);
    enum sp_err rc = check_request(d, request, err);
    if (rc != SP_OK)
        return rc;
    int32_t index = decoder_pop(&d->free);
    struct decoder_record *r = &d->records[index];
    r->request = *request;
    r->prompt_done = r->branch = r->branch_done = r->n_response = 0;
    r->finish = MODEL_FINISH_NONE;
    memcpy(r->prompt, request->prompt, (size_t)request->n_prompt * sizeof(*r->prompt));
    for (int32_t a = 0; a < MODEL_DECODER_ANSWERS; a++) {
        if (!request->answers[a])
            r->request.n_answers[a] = 0;
        else
            memcpy(r->answers[a], request->answers[a],
                   (size_t)request->n_answers[a] * sizeof(*r->answers[a]));
    }
    decoder_push(&d->waiting, index);
    return SP_OK;
}

static struct model_decoder_score score(const float *logprobs, int32_t n, bool by_token)
{
    return (struct model_decoder_score){
        .logprob = model_sum_logprobs(logprobs, n),
        .token_logprobs = by_token && n > 0 ? logprobs : NULL,
        .n = n,
    };
}

bool model_decoder_take_result(struct model_decoder *d, struct model_decoder_result *ret)
{
    if (d->taken >= 0)
        decoder_push(&d->free, d->taken);
    d->taken = decoder_pop(&d->finished);
    if (d->taken < 0)
        return false;
    const struct decoder_record *r = &d->records[d->taken];
    bool by_token = r->request.token_logprobs;
    *ret = (struct model_decoder_result){
        .user = r->request.user,
        .ids = r->response,
        .n_ids = r->n_response,
        .finish = r->finish,
        .response = score(r->response_logprobs, r->n_response, by_token),
    };
    for (int32_t a = 0; a < MODEL_DECODER_ANSWERS; a++)
        ret->answers[a] = score(r->answer_logprobs[a], r->request.n_answers[a], by_token);
    return true;
}

int32_t model_decoder_partial(const struct model_decoder *d, const void *user,
                              const int32_t **ret_ids)
{
    for (int32_t i = 0; i < d->options.slots; i++) {
        const struct decoder_record *r = decoder_slot_record(d, i);
        if (r != NULL && r->request.user == user) {
            *ret_ids = r->response;
            return r->n_response;
        }
    }
    return 0;
}

void model_decoder_reset(struct model_decoder *d)
{
    d->free.count = d->waiting.count = d->finished.count = 0;
    for (int32_t i = 0; i < d->n_records; i++)
        decoder_push(&d->free, i);
    for (int32_t s = 0; s < d->options.slots; s++) {
        struct decoder_slot *slot = &d->slots[s];
        slot->record = slot->donor = -1;
        slot->n_prompt = slot->cached = 0;
        (void)d->backend->ops->cache_reserve(d->backend, d->cache, s, 0, 0);
    }
    d->taken = -1;
    d->broken = false;
}

void model_decoder_get_stats(const struct model_decoder *d, struct model_decoder_stats *ret)
{
    *ret = d->stats;
    ret->active = 0;
    for (int32_t s = 0; s < d->options.slots; s++)
        ret->active += d->slots[s].record >= 0;
    ret->waiting = d->waiting.count;
    ret->finished = d->finished.count;
}
