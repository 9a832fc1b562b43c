/* The matrix products of a pass or a step alone: what the model would take if all else were free.
 * A few layers stand for all; together their weights exceed the caches, as all of them do. */
#include "common/spin-model/bench.h"

#include <stdlib.h>

#include "common/base/clock.h"
#include "common/base/mem.h"
#include "common/model/forward.h"

#define LAYERS 4     /* that are run */
#define MATRICES 4   /* of a layer */
#define HEAD_MAX 256 /* rows of the output matrix's product: MODEL_LOGIT_ROWS */

struct matrix {
    int32_t n, k;
    const void *w;             /* (n, k) */
    struct tn_weights *packed; /* BENCH_PACKED, else NULL */
};

struct bench_products {
    struct tn_backend *backend;
    struct bench_shape shape;
    struct matrix layer[LAYERS][MATRICES], head;
    int32_t layers, layers_of_model;
    int32_t head_rows; /* of one product */
    void *x, *y, *dw;  /* dw: BENCH_TRAIN */
};

static enum sp_err add(struct bench_products *p, struct matrix *to, const void *w, int32_t n,
                       int32_t k, struct sp_error *err)
{
    *to = (struct matrix){.n = n, .k = k, .w = w};
    if (p->shape.kind != BENCH_PACKED)
        return SP_OK;
    to->packed =
        p->backend->ops->weights_new(p->backend, w, n, k, p->shape.weights, p->shape.activations);
    return to->packed ? SP_OK : sp_fail(err, SP_ENOMEM, "no memory for packed weights");
}

/* Numbers between -1 and 1: with zeros a device draws less power and is faster. */
static void fill(struct tn_backend *b, void *to, size_t n)
{
    enum { NUMBERS = 4099 };
    float host[NUMBERS];
    for (uint32_t i = 0; i < NUMBERS; i++)
        host[i] = (float)(int32_t)(i * 2654435761u) * 0x1p-31f;
    for (size_t i = 0; i < n; i += NUMBERS)
        tn_put(b, tn_at(to, b->activations, i), b->activations, host, SP_MIN(NUMBERS, n - i));
}

enum sp_err bench_products_new(struct bench *bench, const struct bench_shape *shape,
                               struct bench_products **ret, struct sp_error *err)
{
    const struct model_config *c = bench->config;
    struct tn_backend *b = bench->backend;
    struct bench_products *p = sp_xalloc(sizeof(*p));
    int32_t hc = c->heads * c->head_size, qkv = hc + 2 * c->kv_heads * c->head_size;
    int32_t ffn = model_config_ffn_width(c);
    const int32_t sizes[MATRICES][2] = {
        {qkv, c->hidden}, {c->hidden, hc}, {ffn, c->hidden}, {c->hidden, c->ffn}};
    size_t at = 0, n_params, widest = (size_t)SP_MAX(SP_MAX(ffn, qkv), SP_MAX(c->hidden, hc));
    const void *w = model_params(bench->model, &n_params);
    enum sp_err rc = SP_OK;
    p->backend = b;
    p->shape = *shape;
    p->layers = SP_MIN(LAYERS, c->layers);
    p->layers_of_model = c->layers;
    p->head_rows = SP_MIN(shape->head_rows, HEAD_MAX);
    /* Which weights they are does not matter, only that they are others each time. */
    rc = add(p, &p->head, w, c->vocab, c->hidden, err);
    at = (size_t)c->vocab * (size_t)c->hidden;
    for (int32_t l = 0; rc == SP_OK && l < p->layers; l++)
        for (size_t i = 0; rc == SP_OK && i < MATRICES; i++) {
            size_t n = (size_t)sizes[i][0] * (size_t)sizes[i][1];
            if (at + n > n_params)
                at = 0;
            rc = add(p, &p->layer[l][i], tn_const_at(w, b->weights, at), sizes[i][0], sizes[i][1],
                     err);
            at += n;
        }
    size_t y = SP_MAX((size_t)shape->rows * widest, (size_t)p->head_rows * (size_t)c->vocab);
    size_t x = (size_t)SP_MAX(shape->rows, p->head_rows) * widest;
    p->x = b->ops->alloc(b, x, sizeof(float));
    if (p->x)
        fill(b, p->x, x);
    p->y = b->ops->alloc(b, y, sizeof(float));
    if (shape->kind == BENCH_TRAIN)
        p->dw = b->ops->alloc(b, SP_MAX(at, (size_t)c->vocab * (size_t)c->hidden), sizeof(float));
    if (rc == SP_OK && (!p->x || !p->y || (shape->kind == BENCH_TRAIN && !p->dw)))
        rc = sp_fail(err, SP_ENOMEM, "no memory for products of %d rows", shape->rows);
    if (rc != SP_OK) {
        bench_products_free(p);
        return rc;
    }
    *ret = p;
    return SP_OK;
}

void bench_products_free(struct bench_products *p)
{
    if (p == NULL)
        return;
    struct tn_backend *b = p->backend;
    for (size_t l = 0; l < LAYERS; l++)
        for (size_t i = 0; i < MATRICES; i++)
            b->ops->weights_free(b, p->layer[l][i].packed);
    b->ops->weights_free(b, p->head.packed);
    b->ops->free(b, p->x);
    b->ops->free(b, p->y);
    b->ops->free(b, p->dw);
    free(p);
}

static double run_matrix(struct bench_products *p, const struct matrix *m, int32_t rows)
{
    struct tn_backend *b = p->backend;
    double flops = 2.0 * rows * m->n * m->k;
    if (p->shape.kind == BENCH_PACKED) {
        b->ops->linear_packed(b, p->y, p->x, m->packed, rows);
        return flops;
    }
    b->ops->linear(b, p->y, p->x, m->w, rows, m->n, m->k, false);
    if (p->shape.kind == BENCH_FORWARD)
        return flops;
    b->ops->linear_bwd_w(b, p->dw, p->y, p->x, rows, m->n, m->k);
    b->ops->linear_bwd_x(b, p->x, p->y, m->w, rows, m->n, m->k, false);
    return 3 * flops;
}

double bench_products_run(struct bench_products *p)
{
    double flops = 0, head_flops = 0;
    bench_wait(p->backend, p->y);
    int64_t start = sp_now_ns();
    for (int32_t l = 0; l < p->layers; l++)
        for (size_t i = 0; i < MATRICES; i++)
            flops += run_matrix(p, &p->layer[l][i], p->shape.rows);
    bench_wait(p->backend, p->y);
    int64_t middle = sp_now_ns();
    if (p->head_rows > 0)
        head_flops = run_matrix(p, &p->head, p->head_rows);
    bench_wait(p->backend, p->y);
    int64_t end = sp_now_ns();
    double layers = (double)p->layers_of_model / p->layers;
    double heads = p->head_rows > 0 ? (double)p->shape.head_rows / p->head_rows : 0;
    double ns = layers * (double)(middle - start) + heads * (double)(end - middle);
    return (layers * flops + heads * head_flops) * 1e9 / SP_MAX(ns, 1.0);
}
