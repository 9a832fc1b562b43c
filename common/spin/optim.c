#include "common/spin/optim.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/mem.h"
#include "common/model/dmath.h"

static const double pi = 3.14159265358979323846;

struct spin_optimizer {
    struct model *model; /* borrowed */
    struct spin_optimizer_config config;
    uint8_t *state; /* memory of the backend */
    size_t state_bytes;
    size_t second; /* where AdamW's v lies in it */
    int64_t updates;
};

struct spin_optimizer_config spin_optimizer_defaults(enum spin_optimizer_kind kind)
{
    return (struct spin_optimizer_config){.kind = kind,
                                          .alpha = 0.99,
                                          .beta1 = 0.9,
                                          .beta2 = 0.999,
                                          .eps = 1e-8,
                                          .clip_norm = 1.0,
                                          .schedule = SPIN_SCHEDULE_LINEAR};
}

enum sp_err spin_optimizer_parse(const char *name, enum spin_optimizer_kind *ret,
                                 struct sp_error *err)
{
    if (strcmp(name, "rmsprop") == 0)
        *ret = SPIN_RMSPROP;
    else if (strcmp(name, "adamw") == 0)
        *ret = SPIN_ADAMW;
    else
        return sp_fail(err, SP_EINVAL, "optimizer \"%.40s\": expected rmsprop or adamw", name);
    return SP_OK;
}

enum sp_err spin_schedule_parse(const char *name, enum spin_schedule_kind *ret,
                                struct sp_error *err)
{
    static const char *const names[] = {"linear", "cosine", "constant"};
    for (size_t i = 0; i < SP_COUNT(names); i++) {
        if (strcmp(name, names[i]) == 0) {
            *ret = (enum spin_schedule_kind)i;
            return SP_OK;
        }
    }
    return sp_fail(err, SP_EINVAL, "schedule \"%.40s\": expected linear, cosine or constant", name);
}

enum sp_err spin_optimizer_check(const struct spin_optimizer_config *c, struct sp_error *err)
{
    const struct {
        const char *name;
        double value, min, max;
        bool open; /* the minimum itself is no value */
    } rows[] = {
        {"learning rate", c->lr, 0, 1e6, false},
        {"alpha", c->alpha, 0, 1, false},
        {"beta1", c->beta1, 0, 0.999999, false},
        {"beta2", c->beta2, 0, 0.999999, false},
        {"eps", c->eps, 0, 1, true},
        {"weight decay", c->weight_decay, 0, 1e6, false},
        {"clip norm", c->clip_norm, 0, 1e30, false},
        {"final ratio", c->final_ratio, 0, 1, false},
    };
    for (size_t i = 0; i < SP_COUNT(rows); i++)
        if (!(rows[i].value >= rows[i].min && rows[i].value <= rows[i].max) ||
            (rows[i].open && rows[i].value == rows[i].min))
            return sp_fail(err, SP_EINVAL, "optimizer: %s %g is not %s %g and at most %g",
                           rows[i].name, rows[i].value, rows[i].open ? "above" : "at least",
                           rows[i].min, rows[i].max);
    if (c->total_steps < 1 || c->warmup_steps < 0 || c->warmup_steps > c->total_steps)
        return sp_fail(err, SP_EINVAL, "optimizer: %lld warm-up steps of %lld steps",
                       (long long)c->warmup_steps, (long long)c->total_steps);
    return SP_OK;
}

double spin_schedule_lr(const struct spin_optimizer_config *c, int64_t step)
{
    if (step < c->warmup_steps)
        return c->lr * (double)(step + 1) / (double)(c->warmup_steps + 1);
    if (c->schedule == SPIN_SCHEDULE_CONSTANT)
        return c->lr;
    double rest = (double)(c->total_steps - c->warmup_steps);
    double p = rest > 0 ? (double)(step - c->warmup_steps) / rest : 1;
    if (p > 1)
        p = 1;
    double part = 1 - p;
    if (c->schedule == SPIN_SCHEDULE_COSINE) {
        double s, cosine;
        model_sincos(pi * p, &s, &cosine);
        part = (1 + cosine) / 2;
    }
    return c->lr * (c->final_ratio + (1 - c->final_ratio) * part);
}

double spin_clip_scale(double norm, double clip)
{
    if (clip <= 0)
        return 1;
    double scale = clip / (norm + 1e-6);
    return scale < 1 ? scale : 1;
}

/* v lies aligned behind m. */
static size_t second_at(const struct spin_optimizer_config *c, size_t n_params)
{
    size_t bytes = tn_state_bytes(c->state, n_params);
    return c->kind == SPIN_ADAMW
               ? (bytes + SPIN_STATE_ALIGN - 1) / SPIN_STATE_ALIGN * SPIN_STATE_ALIGN
               : 0;
}

static size_t all_bytes(const struct spin_optimizer_config *c, size_t n_params)
{
    return second_at(c, n_params) + tn_state_bytes(c->state, n_params);
}

size_t spin_optimizer_bytes(const struct spin_optimizer_config *c, size_t n_params)
{
    return c->offload ? 0 : all_bytes(c, n_params);
}

size_t spin_optimizer_host_bytes(const struct spin_optimizer_config *c, size_t n_params)
{
    return c->offload ? all_bytes(c, n_params) : 0;
}

enum sp_err spin_optimizer_new(struct model *model, const struct spin_optimizer_config *config,
                               struct spin_optimizer **ret, struct sp_error *err)
{
    enum sp_err rc = spin_optimizer_check(config, err);
    if (rc != SP_OK)
        return rc;
    struct tn_backend *b = model_backend(model);
    struct spin_optimizer *o = sp_xalloc(sizeof(*o));
    size_t n;
    model_params(model, &n);
    o->model = model;
    o->config = *config;
    o->second = second_at(config, n);
    o->state_bytes = all_bytes(config, n);
    o->state = b->ops->state_new(b, o->state_bytes, config->offload);
    if (!o->state) {
        size_t mib = o->state_bytes >> 20;
        free(o);
        return sp_fail(err, SP_ENOMEM, "no memory%s for the optimizer's state of %zu MiB",
                       config->offload ? " of the host that can be pinned" : "", mib);
    }
    *ret = o;
    return SP_OK;
}

void spin_optimizer_free(struct spin_optimizer *o)
{
    if (!o)
        return;
    struct tn_backend *b = model_backend(o->model);
    b->ops->state_free(b, o->state);
    free(o);
}

void *spin_optimizer_state(struct spin_optimizer *o, size_t *ret_bytes)
{
    *ret_bytes = o->state_bytes;
    return o->state;
}

int64_t spin_optimizer_updates(const struct spin_optimizer *o)
{
    return o->updates;
}

void spin_optimizer_set_updates(struct spin_optimizer *o, int64_t updates)
{
    o->updates = updates;
}

void spin_optimizer_apply(struct spin_optimizer *o, double lr, double scale)
{
    struct tn_backend *b = model_backend(o->model);
    const struct spin_optimizer_config *c = &o->config;
    size_t n;
    void *w = model_params(o->model, &n), *g = model_grads(o->model);
    SP_ASSERT(g);
    o->updates++;
    if (c->kind == SPIN_RMSPROP) {
        struct tn_rmsprop p = {.lr = (float)lr,
                               .alpha = (float)c->alpha,
                               .eps = (float)c->eps,
                               .weight_decay = (float)c->weight_decay,
                               .g_scale = (float)scale,
                               .step = o->updates,
                               .state = c->state,
                               .seed = c->seed};
        b->ops->rmsprop(b, w, g, o->state, n, &p);
        return;
    }
    struct tn_adamw p = {.lr = (float)lr,
                         .beta1 = (float)c->beta1,
                         .beta2 = (float)c->beta2,
                         .eps = (float)c->eps,
                         .weight_decay = (float)c->weight_decay,
                         .g_scale = (float)scale,
                         .step = o->updates,
                         .state = c->state,
                         .seed = c->seed};
    b->ops->adamw(b, w, g, o->state, o->state + o->second, n, &p);
}
