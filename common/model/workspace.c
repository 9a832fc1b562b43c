/* The memory of a training pass: planned from sizes alone, taken at once. */
#include <stdlib.h>

#include "common/base/mem.h"
#include "common/model/forward.h"
#include "common/model/model_impl.h"
#include "common/model/workspace_impl.h"

#define MIB (1024.0 * 1024.0)

/* Widths of a row in numbers, and derived counts. All are products of validated sizes: a row's
 * width stays below 2^31, and rows below 2^31, so that size_t holds every product. A layer keeps so
 * many numbers of activations, and so many of statistics. */
struct widths {
    size_t d, qkv, att, gu, wide, half, stats, layer, layer_stats, rope, vector;
};

static struct widths widths_of(const struct model_config *c)
{
    size_t h = (size_t)c->heads, g = (size_t)c->kv_heads, s = (size_t)c->head_size;
    size_t f = (size_t)c->ffn;
    struct widths w = {.d = (size_t)c->hidden, .qkv = (h + 2 * g) * s, .att = h * s};
    w.gu = (size_t)model_config_ffn_width(c);
    w.wide = SP_MAX(w.gu, w.qkv);
    w.half = SP_MAX(f, w.att);
    w.stats = c->traits.norm == MODEL_NORM_LAYER ? 2 : 1;
    w.rope = (size_t)model_rope_width(c) * (c->local_theta > 0 ? 2 : 1);
    w.layer = w.d + w.qkv + w.att + w.gu; /* struct model_activations */
    w.layer_stats = h + 2 * w.stats;
    if (c->traits.qk_norm) {
        w.layer += w.qkv;
        w.layer_stats += h + g;
    }
    if (c->traits.post_norms) {
        w.layer += 2 * w.d;
        w.layer_stats += 2 * w.stats;
    }
    w.vector = SP_MAX(SP_MAX(w.d, s), SP_MAX(w.qkv, w.gu));
    return w;
}

/* A gradient beside that of the residual stream is needed. */
static bool has_second_branch(const struct model_config *c)
{
    return c->traits.post_norms || c->traits.parallel;
}

static int32_t rope_rows(const struct model_config *c, const struct model_workspace_size *s)
{
    return SP_MIN(c->max_positions, s->longest);
}

/* Rows that can have targets: several targets may share one. */
static int32_t target_rows(const struct model_workspace_size *s)
{
    return SP_MAX(1, SP_MIN(s->max_targets, s->max_rows));
}

static int32_t head_rows(const struct model_workspace_size *s)
{
    return SP_MIN(target_rows(s), MODEL_LOGIT_ROWS);
}

/* Vectors of parameters need a copy as they are used. */
static bool copies_vectors(const struct model_config *c, const struct model_workspace_size *s)
{
    return c->traits.norm == MODEL_NORM_RMS_PLUS || s->weights != TN_F32;
}

/* Blocks are handed out in multiples of so many bytes; this bounds what rounding adds. */
#define ROUNDING 64

static size_t activation_bytes(const struct model_config *c, const struct model_workspace_size *s,
                               int32_t kept)
{
    struct widths w = widths_of(c);
    size_t rows = (size_t)s->max_rows, layers = (size_t)c->layers, k = (size_t)kept;
    size_t inputs = s->backward ? layers + 1 : 2;
    size_t sets = s->backward && kept == c->layers ? k : k + 1;
    size_t numbers = rows * w.d * inputs + rows * w.layer * sets;
    return numbers * tn_unit(s->activations) + rows * w.layer_stats * sets * sizeof(float) +
           ROUNDING * (inputs + 14 * sets);
}

static size_t scratch_bytes(const struct model_config *c, const struct model_workspace_size *s)
{
    struct widths w = widths_of(c);
    size_t rows = (size_t)s->max_rows, head = (size_t)head_rows(s);
    size_t numbers = rows * (w.d + w.half) + head * 2 * w.d;
    size_t floats = head * w.stats + (size_t)rope_rows(c, s) * w.rope;
    if (s->backward)
        numbers += rows * (w.d + w.wide) + head * w.d;
    if (s->backward && has_second_branch(c))
        numbers += rows * w.d;
    if (copies_vectors(c, s))
        floats += 2 * w.vector;
    return numbers * tn_unit(s->activations) + floats * sizeof(float) + ROUNDING * 16;
}

/* What is rounded to bf16 for products where activations are, one matrix at a time: parameters in
 * fp32, and the gradients of a block's logits. The backend takes it when it first needs it. */
static size_t rounded_bytes(const struct model_config *c, const struct model_workspace_size *s)
{
    struct widths w = widths_of(c);
    size_t widest = SP_MAX(SP_MAX(w.wide, w.half), (size_t)c->vocab), numbers = 0;
    if (s->activations != TN_BF16)
        return 0;
    if (s->weights == TN_F32)
        numbers += widest * w.d;
    if (s->backward)
        numbers += (size_t)head_rows(s) * (size_t)c->vocab;
    return numbers * tn_unit(TN_BF16);
}

static enum sp_err check_size(const struct model_config *c, const struct model_workspace_size *s,
                              struct sp_error *err)
{
    if (s->max_rows < 1 || s->longest < 1 || s->longest > s->max_rows)
        return sp_fail(err, SP_EINVAL, "a batch of %d rows with segments of up to %d", s->max_rows,
                       s->longest);
    if (s->max_targets < 0)
        return sp_fail(err, SP_EINVAL, "%d targets", s->max_targets);
    if (s->max_rows > 1 << 24 || s->max_targets > 1 << 25)
        return sp_fail(err, SP_ELIMIT, "a batch of %d rows; at most %d", s->max_rows, 1 << 24);
    (void)c;
    return SP_OK;
}

static void sum_plan(struct model_memory_plan *p, const struct model_config *c,
                     const struct model_workspace_size *s)
{
    p->activations = activation_bytes(c, s, p->kept_layers);
    p->logits = (size_t)p->logit_rows * (size_t)c->vocab * sizeof(float);
    p->total = p->weights + p->grads + p->extra + p->activations + p->logits + p->scratch;
}

static bool fits(const struct model_memory_plan *p)
{
    return p->budget == 0 || p->total <= p->budget;
}

enum sp_err model_memory_plan(const struct model_config *c, const struct model_workspace_size *s,
                              struct model_memory_plan *ret, struct sp_error *err)
{
    enum sp_err rc = check_size(c, s, err);
    if (rc != SP_OK)
        return rc;
    struct model_memory_plan p = {.extra = s->extra_bytes,
                                  .budget = s->budget_bytes,
                                  .layers = c->layers,
                                  .max_rows = s->max_rows,
                                  .logit_rows = head_rows(s)};
    p.weights = (size_t)c->n_params * tn_unit(s->weights);
    p.grads = s->backward ? p.weights : 0;
    p.scratch = scratch_bytes(c, s) + rounded_bytes(c, s) + (size_t)s->max_targets * 24;
    sum_plan(&p, c, s);
    if (!fits(&p))
        return sp_fail(
            err, SP_ELIMIT,
            "the smallest plan takes %.1f MiB (weights %.1f, gradients %.1f, other state "
            "%.1f, activations %.1f, logits %.1f, scratch %.1f), %.1f MiB more than the "
            "budget: raise the memory budget or lower the rows of a micro-batch (%d)",
            (double)p.total / MIB, (double)p.weights / MIB, (double)p.grads / MIB,
            (double)p.extra / MIB, (double)p.activations / MIB, (double)p.logits / MIB,
            (double)p.scratch / MIB, (double)(p.total - p.budget) / MIB, s->max_rows);
    if (s->backward) {
        struct model_memory_plan more = p;
        for (more.kept_layers = 1; more.kept_layers <= c->layers; more.kept_layers++) {
            sum_plan(&more, c, s);
            if (fits(&more))
                p = more;
        }
        more = p;
        while (more.logit_rows < target_rows(s)) {
            more.logit_rows = SP_MIN(more.logit_rows + MODEL_LOGIT_ROWS, target_rows(s));
            sum_plan(&more, c, s);
            if (fits(&more))
                p = more;
        }
    }
    *ret = p;
    return SP_OK;
}

void model_memory_plan_print(const struct model_memory_plan *p, struct sp_buf *out)
{
    const struct {
        const char *name;
        size_t bytes;
    } parts[] = {
        {"weights", p->weights},
        {"gradients", p->grads},
        {"optimizer and more", p->extra},
        {"activations", p->activations},
        {"logits", p->logits},
        {"scratch", p->scratch},
        {"total", p->total},
    };
    for (size_t i = 0; i < SP_COUNT(parts); i++)
        sp_buf_printf(out, "%-18s %10.1f MiB\n", parts[i].name, (double)parts[i].bytes / MIB);
    if (p->budget)
        sp_buf_printf(out, "%-18s %10.1f MiB\n", "budget", (double)p->budget / MIB);
    sp_buf_printf(out,
                  "micro-batches of up to %d rows; activations of %d of %d layers are kept, the "
                  "others computed again; logits of up to %d rows are kept\n",
                  p->max_rows, p->kept_layers, p->layers, p->logit_rows);
}

/* Hands out parts of a block. */
struct cursor {
    char *next, *end;
    enum tn_dtype activations;
};

static void *take_bytes(struct cursor *c, size_t bytes)
{
    char *part = c->next;
    bytes = (bytes + ROUNDING - 1) / ROUNDING * ROUNDING;
    SP_ASSERT((size_t)(c->end - c->next) >= bytes);
    c->next += bytes;
    return part;
}

static void *take(struct cursor *c, size_t rows, size_t width)
{
    return take_bytes(c, rows * width * tn_unit(c->activations));
}

static float *take_floats(struct cursor *c, size_t rows, size_t width)
{
    return take_bytes(c, rows * width * sizeof(float));
}

static void take_activations(struct cursor *c, const struct model_config *config, size_t rows,
                             struct model_activations *a)
{
    struct widths w = widths_of(config);
    a->rstd1 = take_floats(c, rows, w.stats);
    a->qkv = take(c, rows, w.qkv);
    a->lse = take_floats(c, rows, (size_t)config->heads);
    a->att = take(c, rows, w.att);
    a->mid = take(c, rows, w.d);
    a->rstd2 = take_floats(c, rows, w.stats);
    a->gu = take(c, rows, w.gu);
    if (config->traits.qk_norm) {
        a->raw = take(c, rows, w.qkv);
        a->q_rstd = take_floats(c, rows, (size_t)config->heads);
        a->k_rstd = take_floats(c, rows, (size_t)config->kv_heads);
    }
    if (config->traits.post_norms) {
        a->att_out = take(c, rows, w.d);
        a->ffn_out = take(c, rows, w.d);
        a->rstd3 = take_floats(c, rows, w.stats);
        a->rstd4 = take_floats(c, rows, w.stats);
    }
}

static void lay_out_activations(struct model_workspace *work, size_t bytes)
{
    const struct model_config *config = model_get_config(work->model);
    struct cursor c = {work->block, (char *)work->block + bytes, work->size.activations};
    size_t rows = (size_t)work->size.max_rows;
    int32_t layers = config->layers;
    if (work->size.backward) {
        for (int32_t l = 0; l <= layers; l++)
            work->x[l] = take(&c, rows, (size_t)config->hidden);
    } else {
        void *two[2];
        for (int32_t l = 0; l < 2; l++)
            two[l] = take(&c, rows, (size_t)config->hidden);
        for (int32_t l = 0; l <= layers; l++)
            work->x[l] = two[l % 2];
    }
    work->first_kept = layers - work->plan.kept_layers;
    if (work->first_kept > 0) {
        struct model_activations shared = {0};
        take_activations(&c, config, rows, &shared);
        for (int32_t l = 0; l < work->first_kept; l++)
            work->kept[l] = shared;
    }
    for (int32_t l = work->first_kept; l < layers; l++)
        take_activations(&c, config, rows, &work->kept[l]);
}

static void lay_out_scratch(struct model_workspace *work, size_t bytes)
{
    const struct model_config *config = model_get_config(work->model);
    struct widths w = widths_of(config);
    struct cursor c = {work->scratch, (char *)work->scratch + bytes, work->size.activations};
    size_t rows = (size_t)work->size.max_rows, head = (size_t)head_rows(&work->size);
    size_t half = (size_t)model_rope_width(config) / 2;
    work->norm = take(&c, rows, w.d);
    work->half = take(&c, rows, w.half);
    work->head_x = take(&c, head, w.d);
    work->head_norm = take(&c, head, w.d);
    work->head_rstd = take_floats(&c, head, w.stats);
    for (int32_t i = 0; i < (config->local_theta > 0 ? 4 : 2); i++)
        work->rope[i] = take_floats(&c, (size_t)work->n_positions, half);
    for (int32_t i = 0; i < 2 && copies_vectors(config, &work->size); i++)
        work->vectors[i] = take_floats(&c, 1, w.vector);
    if (work->size.backward) {
        work->wide = take(&c, rows, w.wide);
        work->dx = take(&c, rows, w.d);
        work->head_dx = take(&c, head, w.d);
        if (has_second_branch(config))
            work->dx2 = take(&c, rows, w.d);
    }
}

static enum sp_err take_memory(struct model_workspace *work, struct sp_error *err)
{
    const struct model_config *c = model_get_config(work->model);
    struct tn_backend *b = model_backend(work->model);
    struct widths w = widths_of(c);
    size_t targets = (size_t)SP_MAX(work->size.max_targets, 1);
    size_t activations = activation_bytes(c, &work->size, work->plan.kept_layers);
    size_t scratch = scratch_bytes(c, &work->size);
    work->block = b->ops->alloc(b, activations, 1);
    work->scratch = b->ops->alloc(b, scratch, 1);
    work->logits =
        b->ops->alloc(b, (size_t)work->plan.logit_rows * (size_t)c->vocab, sizeof(float));
    work->target_rows = sp_alloc_block(targets, sizeof(*work->target_rows));
    work->targets = sp_alloc_block(targets, sizeof(*work->targets));
    work->lse = sp_alloc_block(targets, sizeof(*work->lse));
    int32_t widest = (int32_t)SP_MAX(SP_MAX(w.wide, w.half), SP_MAX(w.d, (size_t)c->vocab));
    if (!work->block || !work->scratch || !work->logits || !work->target_rows || !work->targets ||
        !work->lse ||
        !b->ops->reserve(b, work->size.max_rows, work->size.longest, c->heads, c->head_size,
                         widest))
        return sp_fail(
            err, SP_ENOMEM, "no memory for a training pass: %.1f MiB for micro-batches of %d rows",
            (double)(work->plan.activations + work->plan.logits + work->plan.scratch) / MIB,
            work->size.max_rows);
    lay_out_activations(work, activations);
    lay_out_scratch(work, scratch);
    if (!model_rope_upload(b, c, work->n_positions, work->rope))
        return sp_fail(err, SP_ENOMEM, "no memory for rotation tables");
    return SP_OK;
}

enum sp_err model_workspace_new(struct model *model, const struct model_workspace_size *size,
                                struct model_workspace **ret, struct sp_error *err)
{
    const struct model_config *c = model_get_config(model);
    struct model_workspace_size stored = *size;
    struct model_memory_plan plan;
    stored.weights = model_backend(model)->weights;
    stored.activations = model_backend(model)->activations;
    enum sp_err rc = model_memory_plan(c, &stored, &plan, err);
    if (rc == SP_OK && size->backward)
        rc = model_enable_grads(model, err);
    if (rc != SP_OK)
        return rc;
    struct model_workspace *work = sp_xalloc(sizeof(*work));
    work->model = model;
    work->size = stored;
    work->plan = plan;
    work->n_positions = rope_rows(c, size);
    work->x = sp_xarray((size_t)c->layers + 1, sizeof(*work->x));
    work->kept = sp_xarray((size_t)c->layers, sizeof(*work->kept));
    rc = take_memory(work, err);
    if (rc != SP_OK) {
        model_workspace_free(work);
        return rc;
    }
    *ret = work;
    return SP_OK;
}

void model_workspace_free(struct model_workspace *work)
{
    if (!work)
        return;
    struct tn_backend *b = model_backend(work->model);
    void *blocks[] = {work->block, work->scratch, work->logits};
    for (size_t i = 0; i < SP_COUNT(blocks); i++)
        if (blocks[i])
            b->ops->free(b, blocks[i]);
    sp_free_block(work->target_rows);
    sp_free_block(work->targets);
    sp_free_block(work->lse);
    free(work->x);
    free(work->kept);
    free(work);
}

const struct model_memory_plan *model_workspace_plan(const struct model_workspace *work)
{
    return &work->plan;
}
