/* One pass of the decoder: which rows it runs, the network over them, what becomes of the logits.
 */
#include <math.h>
#include <string.h>

#include "common/base/mem.h"
#include "common/model/decoder_impl.h"

/* Rows that an answer needs: its last token predicts nothing, its first comes from the prompt. */
static int32_t branch_rows(const struct decoder_record *r, int32_t branch)
{
    return SP_MAX(0, r->request.n_answers[branch] - 1);
}

bool decoder_advance(struct decoder_record *r)
{
    if (r->prompt_done < r->request.n_prompt)
        return false;
    while (r->branch < MODEL_DECODER_ANSWERS && r->branch_done == branch_rows(r, r->branch)) {
        r->branch++;
        r->branch_done = 0;
    }
    return r->branch == MODEL_DECODER_ANSWERS &&
           (!r->request.generate || r->finish != MODEL_FINISH_NONE);
}

static int32_t add_row(struct model_decoder *d, int32_t slot, int32_t id, int32_t position)
{
    int32_t row = d->n_rows++;
    d->ids[row] = id;
    d->positions[row] = position;
    d->cache_rows[row] = (struct tn_cache_row){.slot = slot, .position = position};
    return row;
}

/* The prompt's last row predicts the first token of everything that follows. */
static void add_last_prompt_row(struct model_decoder *d, struct decoder_record *r, int32_t row)
{
    struct decoder_logit_row l = {.row = row, .record = r, .sample = r->request.generate};
    for (int32_t a = 0; a < MODEL_DECODER_ANSWERS; a++)
        if (r->request.n_answers[a] > 0)
            l.scores[l.n_scores++].answer = a;
    if (l.sample)
        d->samples[d->n_samples++] = l;
    else if (l.n_scores > 0)
        d->scores[d->n_scores++] = l;
}

/* Rows of the prompt, then of one answer, as far as there is room. */
static void add_given_rows(struct model_decoder *d, int32_t slot, struct decoder_record *r,
                           int32_t room)
{
    int32_t n_prompt = r->request.n_prompt;
    if (d->slots[slot].donor >= 0)
        return; /* its beginning comes from another slot */
    while (d->n_rows < room && r->prompt_done < n_prompt) {
        int32_t i = r->prompt_done++;
        int32_t row = add_row(d, slot, r->prompt[i], i);
        d->stats.prefill_rows++;
        if (i == n_prompt - 1)
            add_last_prompt_row(d, r, row);
    }
    d->slots[slot].cached = r->prompt_done;
    decoder_advance(r);
    if (r->prompt_done < n_prompt || r->branch == MODEL_DECODER_ANSWERS)
        return;
    int32_t a = r->branch, rows = branch_rows(r, a);
    while (d->n_rows < room && r->branch_done < rows) {
        int32_t i = r->branch_done++;
        int32_t row = add_row(d, slot, r->answers[a][i], n_prompt + i);
        d->stats.prefill_rows++;
        struct decoder_logit_row *l = &d->scores[d->n_scores++];
        *l = (struct decoder_logit_row){.row = row, .record = r, .n_scores = 1};
        l->scores[0].answer = a;
        l->scores[0].index = i + 1;
    }
}

static bool is_sampling(const struct decoder_record *r)
{
    return r->prompt_done == r->request.n_prompt && r->branch == MODEL_DECODER_ANSWERS;
}

/* Rows of this step. While slots sample, given rows are some for each of them, so that their tokens
 * come after a small multiple of the time that they would take alone. */
static int32_t step_room(const struct model_decoder *d)
{
    int32_t given = SP_MAX(DECODER_GIVEN_LEAST, DECODER_GIVEN_EACH * d->n_samples);
    if (d->n_samples == 0)
        return d->options.rows_per_step;
    return SP_MIN(d->options.rows_per_step, d->n_samples + given);
}

static void build_batch(struct model_decoder *d)
{
    d->n_rows = d->n_samples = d->n_scores = 0;
    for (int32_t s = 0; s < d->options.slots; s++) {
        struct decoder_record *r = decoder_slot_record(d, s);
        if (!r || !is_sampling(r))
            continue;
        int32_t last = r->n_response - 1;
        int32_t row = add_row(d, s, r->response[last], r->request.n_prompt + last);
        d->samples[d->n_samples++] =
            (struct decoder_logit_row){.row = row, .record = r, .sample = true};
    }
    /* Slots take turns, beginning with the one that the last step had no more room for. */
    int32_t room = step_room(d), first = d->next_given;
    for (int32_t i = 0; i < d->options.slots && d->n_rows < room; i++) {
        int32_t s = (first + i) % d->options.slots;
        struct decoder_record *r = decoder_slot_record(d, s);
        if (r && !is_sampling(r))
            add_given_rows(d, s, r, room);
        d->next_given = s;
    }
}

/* y(rows, n) = x·wᵀ, plus bias, plus residual, where they aren't NULL */
static void project(struct model_decoder *d, void *y, const void *x, const struct tn_weights *w,
                    const float *bias, const void *residual, int32_t n)
{
    struct tn_backend *be = d->backend;
    int32_t rows = d->n_rows;
    if (residual && !bias) {
        be->ops->linear_packed_residual(be, y, residual, x, w, rows, n);
        return;
    }
    be->ops->linear_packed(be, y, x, w, rows);
    if (bias)
        be->ops->bias(be, y, bias, rows, n);
    if (residual)
        be->ops->add(be, y, residual, (size_t)rows * (size_t)n);
}

/* The end of a part, whose product goes through the norm behind it where there is one. */
static void project_back(struct model_decoder *d, void *y, const void *x,
                         const struct tn_weights *w, const float *bias, const float *post,
                         const void *residual)
{
    struct tn_backend *be = d->backend;
    size_t n = (size_t)d->n_rows * (size_t)d->config.hidden;
    project(d, y, x, w, bias, post ? NULL : residual, d->config.hidden);
    if (post) {
        model_part_norm(be, &d->config, d->norm, d->rstd, y, post, NULL, d->n_rows);
        be->ops->affine(be, y, d->norm, 1, 0, n);
        be->ops->add(be, y, residual, n);
    }
}

static void norm_heads(struct model_decoder *d, const struct decoder_layer *layer)
{
    struct tn_backend *be = d->backend;
    const struct model_config *c = &d->config;
    int32_t hc = c->heads * c->head_size, width = hc + 2 * c->kv_heads * c->head_size;
    float eps = (float)c->rms_eps;
    be->ops->head_norm(be, d->qkv, NULL, d->qkv, layer->q_norm, d->n_rows, c->heads, c->head_size,
                       width, eps);
    void *keys = tn_at(d->qkv, be->activations, (size_t)hc);
    be->ops->head_norm(be, keys, NULL, keys, layer->k_norm, d->n_rows, c->kv_heads, c->head_size,
                       width, eps);
}

static void run_layer(struct model_decoder *d, int32_t l)
{
    struct tn_backend *be = d->backend;
    const struct tn_ops *ops = be->ops;
    const struct model_config *c = &d->config;
    const struct decoder_layer *layer = &d->layers[l];
    int32_t rows = d->n_rows, width = (c->heads + 2 * c->kv_heads) * c->head_size;
    model_part_norm(be, c, d->norm, d->rstd, d->x, layer->norm1, layer->norm1_bias, rows);
    project(d, d->qkv, d->norm, layer->qkv, layer->qkv_bias, NULL, width);
    if (c->traits.qk_norm)
        norm_heads(d, layer);
    model_part_rotate(be, c, l, d->qkv, rows, d->positions, d->rope, false);
    ops->cache_put(be, d->cache, l, d->qkv, d->cache_rows, rows, c->heads);
    ops->cache_attention(be, d->att, d->qkv, d->cache, l, d->cache_rows, rows, c->heads,
                         model_config_scale(c), model_config_window(c, l),
                         (float)c->attention_softcap);
    project_back(d, d->mid, d->att, layer->out, layer->out_bias, layer->post1, d->x);
    model_part_norm(be, c, d->norm, d->rstd, c->traits.parallel ? d->x : d->mid, layer->norm2,
                    layer->norm2_bias, rows);
    project(d, d->gu, d->norm, layer->gate_up, layer->gate_up_bias, NULL,
            model_config_ffn_width(c));
    model_part_activate(be, c, d->half, d->gu, rows);
    project_back(d, d->x, d->half, layer->down, layer->down_bias, layer->post2, d->mid);
}

static const struct decoder_logit_row *logit_row(const struct model_decoder *d, int32_t i)
{
    return i < d->n_samples ? &d->samples[i] : &d->scores[i - d->n_samples];
}

static struct tn_sample_key draw_key(const struct decoder_record *r)
{
    return (struct tn_sample_key){.seed = r->request.seed,
                                  .iteration = r->request.iteration,
                                  .prompt = r->request.prompt_key,
                                  .sample = r->request.sample_key,
                                  .position = (uint32_t)r->n_response};
}

static void accept(struct model_decoder *d, struct decoder_record *r, int32_t id)
{
    r->response[r->n_response++] = id;
    d->stats.sampled_tokens++;
    for (int32_t i = 0; i < r->request.n_eos; i++)
        if (r->request.eos_ids[i] == id)
            r->finish = MODEL_FINISH_STOP;
    if (r->finish == MODEL_FINISH_NONE && r->n_response >= r->request.max_new_tokens)
        r->finish = MODEL_FINISH_LENGTH;
}

/* Logits of rows [first, first + n). */
static void run_head(struct model_decoder *d, int32_t first, int32_t n)
{
    struct tn_backend *be = d->backend;
    const struct tn_ops *ops = be->ops;
    const struct model_config *c = &d->config;
    for (int32_t i = 0; i < n; i++)
        d->gather[i] = logit_row(d, first + i)->row;
    ops->gather_rows(be, d->head_x, d->x, d->gather, n, c->hidden);
    model_part_norm(be, c, d->head_norm, d->rstd, d->head_x, d->final_norm, d->final_bias, n);
    ops->head_packed(be, d->logits, d->head_norm, d->head, n);
    if (c->logit_softcap > 0)
        ops->softcap(be, d->logits, (float)c->logit_softcap, (size_t)n * (size_t)c->vocab);
}

/* What is asked of these rows; each given token's log-probability goes to its sink. */
static struct tn_tokens ask(struct model_decoder *d, int32_t first, int32_t n)
{
    struct tn_tokens t = {.logits = d->logits,
                          .R = n,
                          .V = d->config.vocab,
                          .draws = SP_MAX(0, SP_MIN(n, d->n_samples - first)),
                          .params = d->params,
                          .keys = d->keys,
                          .targets = d->targets,
                          .lse = d->lse,
                          .ids = d->drawn,
                          .drawn = d->drawn_logprobs,
                          .given = d->logprobs};
    for (int32_t i = 0; i < n; i++) {
        const struct decoder_logit_row *l = logit_row(d, first + i);
        struct decoder_record *r = l->record;
        if (i < t.draws) {
            d->params[i] = r->request.params;
            d->keys[i] = draw_key(r);
        }
        for (int32_t s = 0; s < l->n_scores; s++) {
            int32_t a = l->scores[s].answer, index = l->scores[s].index;
            d->targets[t.n_targets] = (struct tn_target){.row = i, .id = r->answers[a][index]};
            d->sinks[t.n_targets++] = &r->answer_logprobs[a][index];
        }
    }
    return t;
}

static enum sp_err take_tokens(struct model_decoder *d, int32_t first, const struct tn_tokens *t,
                               struct sp_error *err)
{
    for (int32_t i = 0; i < t->R; i++)
        if (!isfinite(t->lse[i]))
            return sp_fail(err, SP_ENUMERIC,
                           "decoder: logits are not finite; the weights are "
                           "unusable");
    for (int32_t i = 0; i < t->n_targets; i++)
        *d->sinks[i] = t->given[i];
    for (int32_t i = 0; i < t->draws; i++) {
        struct decoder_record *r = logit_row(d, first + i)->record;
        r->response_logprobs[r->n_response] = t->drawn[i];
        accept(d, r, t->ids[i]);
    }
    return SP_OK;
}

static void collect_finished(struct model_decoder *d)
{
    for (int32_t s = 0; s < d->options.slots; s++) {
        struct decoder_record *r = decoder_slot_record(d, s);
        if (r && decoder_advance(r)) {
            decoder_push(&d->finished, d->slots[s].record);
            decoder_leave_slot(d, s);
        }
    }
    decoder_admit(d);
}

enum sp_err model_decoder_step(struct model_decoder *d, bool *ret_idle, struct sp_error *err)
{
    if (d->broken)
        return sp_fail(err, SP_ENUMERIC, "decoder: its logits were not finite");
    decoder_admit(d);
    build_batch(d);
    *ret_idle = d->n_rows == 0;
    if (d->n_rows == 0)
        return SP_OK;
    d->stats.steps++;
    /* Steps of so many rows are alike, and end with the logits of the first block. */
    int32_t total = d->n_samples + d->n_scores, n = SP_MIN(d->logit_rows, total);
    d->backend->ops->pass_begin(d->backend, (uint64_t)d->n_rows << 32 | (uint32_t)n);
    model_part_embed(d->backend, &d->config, d->x, d->norm, d->embed, d->places, d->ids,
                     d->positions, d->n_rows);
    for (int32_t l = 0; l < d->config.layers; l++)
        run_layer(d, l);
    if (n > 0)
        run_head(d, 0, n);
    d->backend->ops->pass_end(d->backend);
    for (int32_t first = 0; first < total; first += n) {
        n = SP_MIN(d->logit_rows, total - first);
        if (first > 0)
            run_head(d, first, n);
        struct tn_tokens tokens = ask(d, first, n);
        d->backend->ops->tokens(d->backend, &tokens);
        enum sp_err rc = take_tokens(d, first, &tokens, err);
        if (rc != SP_OK) {
            d->broken = true;
            return rc;
        }
    }
    collect_finished(d);
    return SP_OK;
}
