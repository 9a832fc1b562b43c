#include "common/spin/step.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/mem.h"

struct spin_step {
    struct model *model; /* borrowed */
    struct spin_step_config config;
    struct model_memory_plan plan;
    struct model_workspace *work;
    struct spin_packer *packer;
    struct spin_optimizer *optimizer;
    /* (batch_pairs): the batch with identical pairs moved behind the others, and where each was */
    struct spin_pair *pairs;
    int32_t *where;
    /* results, in the order of the batch */
    double *margins;
    float *logp_real, *logp_generated;
    /* of a micro-batch, (2 × micro_rows) */
    float *logprobs, *gathered;
};

/* What one pass over a batch does and needs. */
struct pass {
    bool backward;
    bool margins; /* references are given: compute margins and losses */
    int32_t n_pairs;
    int64_t n_real_tokens;
    int64_t rows;
    int32_t micro_batches;
    bool nonfinite;
};

static enum sp_err check_config(const struct spin_step_config *c, struct sp_error *err)
{
    if (c->batch_pairs < 1 || c->batch_pairs > 1 << 20)
        return sp_fail(err, SP_EINVAL, "step: batches of %d pairs", c->batch_pairs);
    if (c->micro_rows < 1 || c->longest < 0 || c->longest > c->micro_rows)
        return sp_fail(err, SP_EINVAL, "step: micro-batches of %d rows for pairs of up to %d",
                       c->micro_rows, c->longest);
    if (!(c->sft_weight >= 0 && c->sft_weight <= 1e6))
        return sp_fail(err, SP_EINVAL, "step: an SFT weight of %g", c->sft_weight);
    if (c->mode != SPIN_MODE_SFT && !(c->loss.beta > 0 && c->loss.beta <= 1e6))
        return sp_fail(err, SP_EINVAL, "step: a beta of %g; it must be above 0", c->loss.beta);
    if (c->mode != SPIN_MODE_SFT && c->loss.kind == SPIN_LOSS_IPO &&
        !(c->loss.tau > 0 && c->loss.tau <= 1e6))
        return sp_fail(err, SP_EINVAL, "step: a tau of %g; it must be above 0", c->loss.tau);
    return spin_optimizer_check(&c->optimizer, err);
}

static struct model_workspace_size workspace_size(const struct model_config *model,
                                                  const struct spin_step_config *c)
{
    size_t rows = (size_t)c->micro_rows, pairs = (size_t)c->batch_pairs;
    return (struct model_workspace_size){
        .max_rows = c->micro_rows,
        .longest = c->longest ? c->longest : c->micro_rows,
        .max_targets = 2 * c->micro_rows,
        .backward = true,
        .weights = c->weights,
        .activations = c->activations,
        .extra_bytes =
            spin_optimizer_bytes(&c->optimizer, (size_t)model->n_params) + rows * 80 + pairs * 80,
        .budget_bytes = c->memory_budget_bytes,
    };
}

enum sp_err spin_step_plan(const struct model_config *model, const struct spin_step_config *config,
                           struct model_memory_plan *ret, struct sp_error *err)
{
    enum sp_err rc = check_config(config, err);
    if (rc != SP_OK)
        return rc;
    struct model_workspace_size size = workspace_size(model, config);
    return model_memory_plan(model, &size, ret, err);
}

enum sp_err spin_step_new(struct model *model, const struct spin_step_config *config,
                          struct spin_step **ret, struct sp_error *err)
{
    struct spin_step_config stored = *config;
    struct model_memory_plan plan;
    stored.weights = model_backend(model)->weights;
    stored.activations = model_backend(model)->activations;
    config = &stored;
    enum sp_err rc = spin_step_plan(model_get_config(model), config, &plan, err);
    if (rc != SP_OK)
        return rc;
    struct model_workspace_size size = workspace_size(model_get_config(model), config);
    struct spin_step *s = sp_xalloc(sizeof(*s));
    size_t pairs = (size_t)config->batch_pairs, targets = 2 * (size_t)config->micro_rows;
    s->model = model;
    s->config = *config;
    s->plan = plan;
    s->pairs = sp_xarray(pairs, sizeof(*s->pairs));
    s->where = sp_xarray(pairs, sizeof(*s->where));
    s->margins = sp_xarray(pairs, sizeof(*s->margins));
    s->logp_real = sp_xarray(pairs, sizeof(*s->logp_real));
    s->logp_generated = sp_xarray(pairs, sizeof(*s->logp_generated));
    s->logprobs = sp_alloc_block(targets, sizeof(*s->logprobs));
    s->gathered = sp_alloc_block(targets, sizeof(*s->gathered));
    if (!s->logprobs || !s->gathered)
        rc = sp_fail(err, SP_ENOMEM, "step: no memory for %zu targets", targets);
    if (rc == SP_OK)
        rc = model_workspace_new(model, &size, &s->work, err);
    if (rc == SP_OK)
        rc = spin_packer_new(config->micro_rows, !config->unshared_prompts, &s->packer, err);
    if (rc == SP_OK)
        rc = spin_optimizer_new(model, &config->optimizer, &s->optimizer, err);
    if (rc != SP_OK) {
        spin_step_free(s);
        return rc;
    }
    *ret = s;
    return SP_OK;
}

void spin_step_free(struct spin_step *s)
{
    if (!s)
        return;
    model_workspace_free(s->work);
    spin_packer_free(s->packer);
    spin_optimizer_free(s->optimizer);
    sp_free_block(s->logprobs);
    sp_free_block(s->gathered);
    free(s->pairs);
    free(s->where);
    free(s->margins);
    free(s->logp_real);
    free(s->logp_generated);
    free(s);
}

struct spin_optimizer *spin_step_optimizer(struct spin_step *s)
{
    return s->optimizer;
}

const struct model_memory_plan *spin_step_memory(const struct spin_step *s)
{
    return &s->plan;
}

static bool has_generated(const struct spin_step *s)
{
    return s->config.mode != SPIN_MODE_SFT;
}

static enum sp_err check_ids(const struct spin_step *s, const int32_t *ids, int32_t n,
                             const char *what, int32_t pair, struct sp_error *err)
{
    int32_t vocab = model_get_config(s->model)->vocab;
    for (int32_t i = 0; i < n; i++)
        if (ids[i] < 0 || ids[i] >= vocab)
            return sp_fail(err, SP_EINVAL, "pair %d: %s: token %d is id %d, the vocabulary has %d",
                           pair, what, i, ids[i], vocab);
    return SP_OK;
}

static enum sp_err check_pair(const struct spin_step *s, const struct spin_pair *p, int32_t i,
                              bool references, struct sp_error *err)
{
    const struct model_config *c = model_get_config(s->model);
    bool generated = has_generated(s);
    int32_t n_generated = generated ? p->n_generated : 0;
    if (p->n_prompt < 1 || p->n_real < 1 || (generated && n_generated < 1))
        return sp_fail(err, SP_EINVAL,
                       "pair %d: a prompt of %d tokens and answers of %d and %d: none may be empty",
                       i, p->n_prompt, p->n_real, n_generated);
    int64_t tokens = (int64_t)p->n_prompt + SP_MAX(p->n_real, n_generated);
    int64_t rows = spin_packer_rows(s->packer, p, generated);
    int32_t longest = s->config.longest ? s->config.longest : s->config.micro_rows;
    if (tokens > c->max_positions)
        return sp_fail(err, SP_EINVAL, "pair %d: %lld tokens, the model has %d positions", i,
                       (long long)tokens, c->max_positions);
    if (rows > s->config.micro_rows || spin_pair_rows(p, generated) > longest)
        return sp_fail(err, SP_EINVAL,
                       "pair %d: %lld rows, more than the %d of a micro-batch (or the %d planned "
                       "for a pair)",
                       i, (long long)rows, s->config.micro_rows, longest);
    enum sp_err rc = check_ids(s, p->prompt, p->n_prompt, "prompt", i, err);
    if (rc == SP_OK)
        rc = check_ids(s, p->real, p->n_real, "real", i, err);
    if (rc == SP_OK && generated)
        rc = check_ids(s, p->generated, n_generated, "generated", i, err);
    if (rc == SP_OK && references && (!isfinite(p->ref_real) || !isfinite(p->ref_generated)))
        rc = sp_fail(err, SP_EINVAL, "pair %d: a reference log-probability is not finite", i);
    return rc;
}

static enum sp_err check_batch(const struct spin_step *s, const struct spin_pair *pairs, int32_t n,
                               bool references, struct sp_error *err)
{
    if (n < 1 || n > s->config.batch_pairs)
        return sp_fail(err, SP_EINVAL, "a batch of %d pairs, planned for 1 to %d", n,
                       s->config.batch_pairs);
    for (int32_t i = 0; i < n; i++) {
        enum sp_err rc = check_pair(s, &pairs[i], i, references && has_generated(s), err);
        if (rc != SP_OK)
            return rc;
    }
    return SP_OK;
}

/* Identical pairs go behind the others: where they have no gradient, their micro-batches need no
 * backward pass. Returns how many differ. */
static int32_t sort_pairs(struct spin_step *s, const struct spin_pair *pairs, int32_t n)
{
    int32_t k = 0, differ = 0;
    for (int32_t round = 0; round < 2; round++) {
        for (int32_t i = 0; i < n; i++) {
            bool identical = has_generated(s) && spin_pair_identical(&pairs[i]);
            if (identical != (round == 1))
                continue;
            s->pairs[k] = pairs[i];
            s->where[k++] = i;
        }
        if (round == 0)
            differ = k;
    }
    return differ;
}

/* Log-probability of one answer of a packed pair, by the one rule for sums. */
static float sum_answer(struct spin_step *s, const struct spin_micro *micro,
                        const struct spin_packed_pair *packed, int answer)
{
    int32_t n = 0, end = packed->first_target + packed->n_targets;
    for (int32_t t = packed->first_target; t < end; t++)
        if (micro->answer[t] == answer)
            s->gathered[n++] = s->logprobs[t];
    return model_sum_logprobs(s->gathered, n);
}

/* Results of a micro-batch; `base` is where its pairs begin in s->pairs. */
static void collect(struct spin_step *s, const struct spin_micro *micro, const struct pass *pass,
                    int32_t base)
{
    for (int32_t i = 0; i < micro->n_pairs; i++) {
        const struct spin_packed_pair *packed = &micro->pairs[i];
        const struct spin_pair *p = &s->pairs[base + packed->pair];
        int32_t to = s->where[base + packed->pair];
        s->logp_real[to] = sum_answer(s, micro, packed, 0);
        s->logp_generated[to] = 0;
        s->margins[to] = 0;
        if (!has_generated(s))
            continue;
        s->logp_generated[to] =
            packed->identical ? s->logp_real[to] : sum_answer(s, micro, packed, 1);
        if (pass->margins)
            s->margins[to] = spin_margin(s->config.loss.beta, s->logp_real[to], p->ref_real,
                                         s->logp_generated[to], p->ref_generated);
    }
}

/* Sets the coefficients of ∂L/∂log p of every target; false when all are zero. */
static bool set_coefficients(struct spin_step *s, const struct spin_micro *micro,
                             const struct pass *pass, int32_t base)
{
    const struct spin_step_config *c = &s->config;
    double sft = c->mode == SPIN_MODE_SFT ? 1 : c->sft_weight;
    double per_token = -sft / (double)pass->n_real_tokens;
    bool any = false;
    for (int32_t i = 0; i < micro->n_pairs; i++) {
        const struct spin_packed_pair *packed = &micro->pairs[i];
        double slope = 0;
        if (has_generated(s) && !packed->identical)
            slope = c->loss.beta *
                    spin_loss_slope(&c->loss, s->margins[s->where[base + packed->pair]]) /
                    (double)pass->n_pairs;
        for (int32_t t = packed->first_target; t < packed->first_target + packed->n_targets; t++) {
            double value = micro->answer[t] == 0 ? slope + per_token : -slope;
            micro->targets[t].coefficient = (float)value;
            any = any || value != 0;
        }
    }
    return any;
}

static bool micro_is_finite(const struct spin_step *s, const struct spin_micro *micro, int32_t base)
{
    for (int32_t i = 0; i < micro->n_pairs; i++) {
        int32_t k = s->where[base + micro->pairs[i].pair];
        if (!isfinite(s->logp_real[k]) || !isfinite(s->logp_generated[k]) ||
            (has_generated(s) && !isfinite(spin_loss_value(&s->config.loss, s->margins[k]))))
            return false;
    }
    return true;
}

/* Forward (and backward) over s->pairs[base, base + n). */
static enum sp_err run_group(struct spin_step *s, struct pass *pass, int32_t base, int32_t n,
                             struct sp_error *err)
{
    struct spin_micro micro;
    int32_t cursor = 0;
    while (spin_packer_next(s->packer, s->pairs + base, n, has_generated(s), &cursor, &micro)) {
        if (s->config.alive)
            s->config.alive();
        enum sp_err rc = model_forward(s->model, s->work, &micro.batch, s->logprobs, err);
        if (rc != SP_OK)
            return rc;
        pass->rows += micro.batch.rows;
        pass->micro_batches++;
        collect(s, &micro, pass, base);
        if (pass->margins && !micro_is_finite(s, &micro, base))
            pass->nonfinite = true;
        if (!pass->backward || pass->nonfinite || !set_coefficients(s, &micro, pass, base))
            continue;
        rc = model_backward(s->model, s->work, &micro.batch, err);
        if (rc != SP_OK)
            return rc;
    }
    return SP_OK;
}

static enum sp_err run_pass(struct spin_step *s, const struct spin_pair *pairs, int32_t n,
                            struct pass *pass, struct sp_error *err)
{
    pass->n_pairs = n;
    for (int32_t i = 0; i < n; i++)
        pass->n_real_tokens += pairs[i].n_real;
    int32_t differ = sort_pairs(s, pairs, n);
    enum sp_err rc = run_group(s, pass, 0, differ, err);
    if (rc == SP_OK)
        rc = run_group(s, pass, differ, n - differ, err);
    return rc;
}

/* Sums run over the batch in its own order, whatever the micro-batches were. */
static void fill_metrics(const struct spin_step *s, const struct spin_pair *pairs,
                         const struct pass *pass, struct spin_metrics *m)
{
    const struct spin_step_config *c = &s->config;
    int32_t n = pass->n_pairs;
    double loss = 0, nll = 0, margin = 0, right = 0, real = 0, generated = 0, d_real = 0, d_gen = 0;
    for (int32_t i = 0; i < n; i++) {
        const struct spin_pair *p = &pairs[i];
        real += s->logp_real[i];
        nll -= s->logp_real[i];
        m->tokens += (int64_t)p->n_prompt + p->n_real;
        if (!has_generated(s))
            continue;
        m->tokens += p->n_generated;
        m->identical += spin_pair_identical(p);
        generated += s->logp_generated[i];
        d_real += (double)s->logp_real[i] - (double)p->ref_real;
        d_gen += (double)s->logp_generated[i] - (double)p->ref_generated;
        loss += spin_loss_value(&c->loss, s->margins[i]);
        margin += s->margins[i];
        right += s->margins[i] > 0 ? 1 : s->margins[i] == 0 ? 0.5 : 0;
        if (!(fabs(s->margins[i]) <= m->margin_abs_max))
            m->margin_abs_max = fabs(s->margins[i]);
    }
    m->n_pairs = n;
    m->rows = pass->rows;
    m->micro_batches = pass->micro_batches;
    m->sft_nll = nll / (double)pass->n_real_tokens;
    m->logp_real_mean = real / n;
    m->logp_real = s->logp_real;
    m->loss = m->sft_nll;
    if (has_generated(s)) {
        m->spin_loss = loss / n;
        m->margin_mean = margin / n;
        m->accuracy = right / n;
        m->logp_generated_mean = generated / n;
        m->logp_real_change_mean = d_real / n;
        m->logp_generated_change_mean = d_gen / n;
        m->margins = s->margins;
        m->logp_generated = s->logp_generated;
        m->loss = m->spin_loss + (c->sft_weight > 0 ? c->sft_weight * m->sft_nll : 0);
    }
    if (pass->nonfinite || !isfinite(m->loss)) {
        m->nonfinite = true;
        m->nonfinite_what = "loss";
    }
}

enum sp_err spin_step_run(struct spin_step *s, int64_t index, const struct spin_pair *pairs,
                          int32_t n_pairs, struct spin_metrics *ret, struct sp_error *err)
{
    struct pass pass = {.backward = true, .margins = true};
    struct spin_metrics m = {.step = index};
    struct tn_backend *b = model_backend(s->model);
    size_t n;
    enum sp_err rc = check_batch(s, pairs, n_pairs, true, err);
    if (rc != SP_OK)
        return rc;
    model_zero_grads(s->model);
    rc = run_pass(s, pairs, n_pairs, &pass, err);
    if (rc != SP_OK)
        return rc;
    fill_metrics(s, pairs, &pass, &m);
    m.lr = spin_schedule_lr(&s->config.optimizer, index);
    if (!m.nonfinite) {
        model_params(s->model, &n);
        m.grad_norm = sqrt(b->ops->sum_squares(b, model_grads(s->model), n));
        if (!isfinite(m.grad_norm)) {
            m.nonfinite = true;
            m.nonfinite_what = "gradient";
        }
    }
    if (!m.nonfinite)
        spin_optimizer_apply(s->optimizer, m.lr,
                             spin_clip_scale(m.grad_norm, s->config.optimizer.clip_norm));
    *ret = m;
    return SP_OK;
}

enum sp_err spin_step_evaluate(struct spin_step *s, const struct spin_pair *pairs, int32_t n_pairs,
                               struct spin_metrics *ret, struct sp_error *err)
{
    struct pass pass = {.margins = true};
    struct spin_metrics m = {0};
    enum sp_err rc = check_batch(s, pairs, n_pairs, true, err);
    if (rc == SP_OK)
        rc = run_pass(s, pairs, n_pairs, &pass, err);
    if (rc != SP_OK)
        return rc;
    fill_metrics(s, pairs, &pass, &m);
    *ret = m;
    return SP_OK;
}

enum sp_err spin_step_score(struct spin_step *s, const struct spin_pair *pairs, int32_t n_pairs,
                            float *ret_real, float *ret_generated, struct sp_error *err)
{
    for (int32_t first = 0; first < n_pairs; first += s->config.batch_pairs) {
        struct pass pass = {0};
        int32_t n = SP_MIN(n_pairs - first, s->config.batch_pairs);
        enum sp_err rc = check_batch(s, pairs + first, n, false, err);
        if (rc == SP_OK)
            rc = run_pass(s, pairs + first, n, &pass, err);
        if (rc != SP_OK)
            return rc;
        memcpy(ret_real + first, s->logp_real, (size_t)n * sizeof(float));
        if (ret_generated)
            memcpy(ret_generated + first, s->logp_generated, (size_t)n * sizeof(float));
    }
    return SP_OK;
}
