/* Gradients of attention with bf16 activations, beside plain loops in double precision, which are
 * themselves checked by finite differences; and whether a segment's bits are the same in any batch.
 * The unit tests run it with kernels that the host runs.
 *
 * usage: gpu_flash_bwd     prints TAP; gradients may be off by 1e-2 of their norm
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/half.h"
#include "common/base/mem.h"
#include "common/base/rng.h"
#include "common/tensor/backend.h"
#include "common/tensor/cuda/cuda.h"
#include "common/tensor/module.h"

#define LIMIT 1e-2
#define MAX_SEGMENTS 5

struct shape {
    int32_t H, G, C, window;
    float softcap;
    int32_t n;
    struct tn_segment segments[MAX_SEGMENTS];
};

/* Branches and none, prompts and none, in tiles and across; {row, prompt, a, b} */
#define PAIR                                                                                       \
    {0, 20, 13, 17},                                                                               \
    {                                                                                              \
        50, 0, 20, 0                                                                               \
    }
#define MANY                                                                                       \
    {0, 100, 40, 75}, {215, 0, 66, 0}, {281, 3, 0, 5}, {289, 7, 2, 0},                             \
    {                                                                                              \
        300, 0, 9, 70                                                                              \
    }

static const struct shape shapes[] = {
    {4, 4, 16, 0, 0, 5, {MANY}},
    {6, 2, 24, 9, 0, 5, {MANY}},
    {8, 2, 64, 64, 0, 5, {MANY}},
    {4, 1, 80, 100, 5, 2, {PAIR}},
    {8, 1, 128, 0, 30, 1, {{0, 130, 3, 2}}},
    {3, 1, 128, 65, 0, 5, {MANY}},
    {3, 3, 112, 1, 0, 2, {PAIR}},
    {2, 1, 256, 0, 50, 2, {PAIR}},
    {8, 1, 256, 33, 0, 1, {{3, 40, 30, 20}}},
    {3, 1, 144, 0, 0, 5, {MANY}},
    {4, 2, 20, 0, 0, 2, {PAIR}},
    {3, 1, 301, 0, 0, 2, {PAIR}},
    {2, 1, 512, 40, 0, 1, {{0, 50, 20, 9}}},
    {71, 1, 16, 0, 0, 2, {PAIR}},
    {4, 2, 64, 0, 0, 1, {{0, 0, 1, 0}}},
    {4, 2, 64, 0, 0, 1, {{0, 129, 0, 0}}},
    {4, 2, 64, 200, 0, 1, {{2, 0, 70, 5}}},
    {4, 2, 64, 0, 0, 1, {{0, 64, 64, 64}}},
    {4, 2, 64, 70, 2, 1, {{0, 63, 1, 65}}},
};

static int tests_run, failures;

static void report(bool ok, const char *what, const struct shape *s, const char *detail)
{
    failures += !ok;
    printf("%sok %d - %s: H %d, G %d, C %d, window %d, softcap %g, segment %d %d %d%s\n",
           ok ? "" : "not ", ++tests_run, what, s->H, s->G, s->C, s->window, (double)s->softcap,
           s->segments[0].prompt, s->segments[0].a, s->segments[0].b, detail);
}

/* --- plain loops --- */

struct problem {
    struct shape s;
    int32_t T;
    size_t width, D;
    double scale;
    double *qkv, *dout, *out, *lse, *dqkv;
};

static int32_t rows_of(const struct tn_segment *s)
{
    return s->prompt + s->a + s->b;
}

static double *drawn(size_t n, uint32_t seed, double size)
{
    double *x = sp_xarray(n, sizeof(*x));
    for (size_t i = 0; i < n; i++) {
        uint32_t draw[4];
        sp_rng_draw(seed, SP_STREAM_TEST, 0, (uint32_t)i, 0, 0, draw);
        float value = (float)(size * ((double)(draw[0] >> 8) / 8388608.0 - 1.0));
        x[i] = (double)sp_bf16_to_f32(sp_f32_to_bf16(value));
    }
    return x;
}

static struct problem problem_new(const struct shape *s)
{
    struct problem p = {.s = *s, .scale = 1.0 / sqrt((double)s->C)};
    for (int32_t i = 0; i < s->n; i++)
        p.T = SP_MAX(p.T, s->segments[i].row + rows_of(&s->segments[i]));
    p.D = (size_t)s->H * (size_t)s->C;
    p.width = (size_t)(s->H + 2 * s->G) * (size_t)s->C;
    p.qkv = drawn((size_t)p.T * p.width, 1, 2.5);
    p.dout = drawn((size_t)p.T * p.D, 2, 1.0);
    p.out = sp_xarray((size_t)p.T * p.D, sizeof(double));
    p.lse = sp_xarray((size_t)p.T * (size_t)s->H, sizeof(double));
    p.dqkv = sp_xarray((size_t)p.T * p.width, sizeof(double));
    return p;
}

static void problem_free(struct problem *p)
{
    free(p->qkv);
    free(p->dout);
    free(p->out);
    free(p->lse);
    free(p->dqkv);
}

struct query { /* of a segment */
    int32_t row, position, branch;
};

static struct query query_of(const struct tn_segment *s, int32_t i)
{
    bool b = i >= s->prompt + s->a;
    return (struct query){.row = s->row + i,
                          .position = b ? i - s->a : i,
                          .branch = i < s->prompt ? 0
                                    : b           ? 2
                                                  : 1};
}

static bool sees(const struct problem *p, const struct query *q, const struct query *k)
{
    return k->position <= q->position && (k->branch == 0 || k->branch == q->branch) &&
           (p->s.window == 0 || q->position - k->position < p->s.window);
}

static double dot(const double *a, const double *b, int32_t n)
{
    double sum = 0.0;
    for (int32_t i = 0; i < n; i++)
        sum += a[i] * b[i];
    return sum;
}

struct rows { /* of one head: query, key, value */
    double *q, *k, *v;
};

static struct rows rows_at(const struct problem *p, double *qkv, int32_t q, int32_t k, int32_t h)
{
    size_t c = (size_t)p->s.C, key = (size_t)(p->s.H + h / (p->s.H / p->s.G)) * c;
    double *k_row = qkv + (size_t)k * p->width + key;
    return (struct rows){.q = qkv + (size_t)q * p->width + (size_t)h * c,
                         .k = k_row,
                         .v = k_row + (size_t)p->s.G * c};
}

/* The score, and its derivative by q·k. */
static double score(const struct problem *p, const struct rows *r, double *ret_slope)
{
    double x = dot(r->q, r->k, p->s.C) * p->scale, cap = (double)p->s.softcap;
    double t = cap > 0 ? tanh(x / cap) : 0.0;
    *ret_slope = p->scale * (1.0 - t * t);
    return cap > 0 ? cap * t : x;
}

static void forward_query(struct problem *p, const struct tn_segment *s, int32_t i, int32_t h)
{
    struct query q = query_of(s, i);
    int32_t C = p->s.C;
    double *out = p->out + (size_t)q.row * p->D + (size_t)h * (size_t)C;
    double sum = 0.0, unused, *e = sp_xarray((size_t)i + 1, sizeof(*e));
    memset(out, 0, (size_t)C * sizeof(*out));
    for (int32_t j = 0; j <= i; j++) {
        struct query k = query_of(s, j);
        if (!sees(p, &q, &k))
            continue;
        struct rows r = rows_at(p, p->qkv, q.row, k.row, h);
        e[j] = exp(score(p, &r, &unused));
        sum += e[j];
        for (int32_t c = 0; c < C; c++)
            out[c] += e[j] * r.v[c];
    }
    for (int32_t c = 0; c < C; c++)
        out[c] /= sum;
    p->lse[q.row * p->s.H + h] = log(sum);
    free(e);
}

static void forward(struct problem *p)
{
    for (int32_t n = 0; n < p->s.n; n++)
        for (int32_t i = 0; i < rows_of(&p->s.segments[n]); i++)
            for (int32_t h = 0; h < p->s.H; h++)
                forward_query(p, &p->s.segments[n], i, h);
}

static void backward_query(struct problem *p, const struct tn_segment *s, int32_t i, int32_t h)
{
    struct query q = query_of(s, i);
    int32_t C = p->s.C;
    size_t at = (size_t)q.row * p->D + (size_t)h * (size_t)C;
    double lse = p->lse[q.row * p->s.H + h], dsum = dot(p->dout + at, p->out + at, C);
    for (int32_t j = 0; j <= i; j++) {
        struct query k = query_of(s, j);
        if (!sees(p, &q, &k))
            continue;
        struct rows r = rows_at(p, p->qkv, q.row, k.row, h);
        struct rows to = rows_at(p, p->dqkv, q.row, k.row, h);
        double slope, probability = exp(score(p, &r, &slope) - lse);
        double ds = probability * (dot(p->dout + at, r.v, C) - dsum) * slope;
        for (int32_t c = 0; c < C; c++) {
            to.q[c] += ds * r.k[c];
            to.k[c] += ds * r.q[c];
            to.v[c] += probability * p->dout[at + (size_t)c];
        }
    }
}

static void backward(struct problem *p)
{
    memset(p->dqkv, 0, (size_t)p->T * p->width * sizeof(double));
    for (int32_t n = 0; n < p->s.n; n++)
        for (int32_t i = 0; i < rows_of(&p->s.segments[n]); i++)
            for (int32_t h = 0; h < p->s.H; h++)
                backward_query(p, &p->s.segments[n], i, h);
}

/* --- the backend --- */

static void *on_device(struct tn_backend *b, const double *x, size_t n, enum tn_dtype dtype)
{
    size_t bytes = dtype == TN_BF16 ? sizeof(uint16_t) : sizeof(float);
    void *host = sp_xarray(n, bytes), *to = b->ops->alloc(b, n, bytes);
    SP_ASSERT(to != NULL);
    for (size_t i = 0; i < n; i++)
        if (dtype == TN_BF16)
            ((uint16_t *)host)[i] = sp_f32_to_bf16((float)x[i]);
        else
            ((float *)host)[i] = (float)x[i];
    b->ops->upload(b, to, host, n * bytes);
    free(host);
    return to;
}

/* The backend's gradient, bits of bf16; what no segment has keeps a pattern. */
static uint16_t *gradient(struct tn_backend *b, const struct problem *p)
{
    size_t n = (size_t)p->T * p->width, rows = (size_t)p->T;
    void *qkv = on_device(b, p->qkv, n, TN_BF16),
         *dout = on_device(b, p->dout, rows * p->D, TN_BF16);
    void *out = on_device(b, p->out, rows * p->D, TN_BF16);
    void *lse = on_device(b, p->lse, rows * (size_t)p->s.H, TN_F32);
    uint16_t *host = sp_xarray(n, sizeof(*host));
    void *dqkv = b->ops->alloc(b, n, sizeof(*host));
    SP_ASSERT(dqkv != NULL);
    memset(host, 0xff, n * sizeof(*host));
    b->ops->upload(b, dqkv, host, n * sizeof(*host));
    b->ops->attention_bwd(b, dqkv, dout, out, lse, qkv, p->T, p->s.segments, p->s.n, p->s.H, p->s.G,
                          p->s.C, (float)p->scale, p->s.window, p->s.softcap);
    b->ops->download(b, host, dqkv, n * sizeof(*host));
    void *held[] = {qkv, dout, out, lse, dqkv};
    for (size_t i = 0; i < SP_COUNT(held); i++)
        b->ops->free(b, held[i]);
    return host;
}

/* --- the tests --- */

struct error {
    double difference, size;
};

static void check_norms(struct tn_backend *b, const struct shape *s)
{
    struct problem p = problem_new(s);
    struct error errors[3] = {{0}};
    forward(&p);
    backward(&p);
    uint16_t *got = gradient(b, &p);
    bool untouched = true;
    for (int32_t row = 0; row < p.T; row++) {
        bool owned = false;
        for (int32_t n = 0; n < s->n; n++)
            owned |=
                row >= s->segments[n].row && row < s->segments[n].row + rows_of(&s->segments[n]);
        for (size_t i = 0; i < p.width; i++) {
            size_t at = (size_t)row * p.width + i, head = i / (size_t)s->C;
            struct error *e = &errors[head < (size_t)s->H            ? 0
                                      : head < (size_t)(s->H + s->G) ? 1
                                                                     : 2];
            if (!owned) {
                untouched &= got[at] == 0xffff;
                continue;
            }
            e->difference += pow((double)sp_bf16_to_f32(got[at]) - p.dqkv[at], 2);
            e->size += pow(p.dqkv[at], 2);
        }
    }
    char detail[128];
    double off[3]; /* where a gradient is next to nothing, of the values' */
    for (int i = 0; i < 3; i++)
        off[i] = sqrt(errors[i].difference) / sqrt(fmax(errors[i].size, 1e-4 * errors[2].size));
    snprintf(detail, sizeof(detail), ": dq, dk, dv off by %.2g, %.2g, %.2g%s", off[0], off[1],
             off[2], untouched ? "" : "; wrote to rows of no segment");
    /* false for NaN */
    report(off[0] < LIMIT && off[1] < LIMIT && off[2] < LIMIT && untouched, "gradient", s, detail);
    free(got);
    problem_free(&p);
}

/* The loops' gradient beside the change of Σ dout·out. */
static void check_differences(const struct shape *s)
{
    struct problem p = problem_new(s);
    struct error e = {0};
    double step = 1e-5;
    char detail[64];
    forward(&p);
    backward(&p);
    for (size_t i = 0; i < (size_t)p.T * p.width; i++) {
        double before = p.qkv[i], loss[2];
        for (int side = 0; side < 2; side++) {
            p.qkv[i] = before + (side ? step : -step);
            forward(&p);
            loss[side] = 0.0;
            for (size_t j = 0; j < (size_t)p.T * p.D; j++)
                loss[side] += p.dout[j] * p.out[j];
        }
        p.qkv[i] = before;
        e.difference += pow((loss[1] - loss[0]) / (2 * step) - p.dqkv[i], 2);
        e.size += pow(p.dqkv[i], 2);
    }
    double off = sqrt(e.difference / e.size);
    snprintf(detail, sizeof(detail), ": off by %.2g", off);
    report(off < 1e-6, "finite differences", s, detail);
    problem_free(&p);
}

/* Rows of x (width elements each) go to where segment 1 of the batch lies. */
static void place(double *to, const double *x, size_t width, const struct tn_segment *from,
                  const struct tn_segment *where)
{
    memcpy(to + (size_t)where->row * width, x + (size_t)from->row * width,
           (size_t)rows_of(from) * width * sizeof(*to));
}

/* A segment alone, and the same as the second of three, the last of which has `rows`. */
static void check_rows(struct tn_backend *b, const struct shape *s, int32_t rows)
{
    struct shape many = *s;
    struct tn_segment first = {1, 40, 9, 31}, second = s->segments[0], third = {0, 0, rows, 0};
    second.row = 88;
    third.row = second.row + rows_of(&second);
    many.n = 3;
    many.segments[0] = first;
    many.segments[1] = second;
    many.segments[2] = third;
    struct problem alone = problem_new(s), batch = problem_new(&many);
    forward(&alone);
    place(batch.qkv, alone.qkv, alone.width, &s->segments[0], &second);
    place(batch.dout, alone.dout, alone.D, &s->segments[0], &second);
    forward(&batch);
    uint16_t *a = gradient(b, &alone), *c = gradient(b, &batch);
    bool same =
        memcmp(a + (size_t)s->segments[0].row * alone.width, c + (size_t)second.row * batch.width,
               (size_t)rows_of(&second) * batch.width * sizeof(*a)) == 0;
    report(same, "the same bits in a batch", s, "");
    free(a);
    free(c);
    problem_free(&alone);
    problem_free(&batch);
}

extern const struct tn_module spin_tensor_module;

static struct tn_backend *open_backend(struct tn_ops *ops)
{
    struct tn_backend *b;
    struct sp_error err = {0};
    if (spin_tensor_module.open("cuda", NULL, &b, &err) != SP_OK) {
        fprintf(stderr, "gpu_flash_bwd: %s\n", err.text);
        exit(1);
    }
    *ops = *b->ops;
    cuda_add_flash_bwd(ops);
    b->ops = ops;
    return b;
}

int main(void)
{
    static const struct shape tiny[] = {{3, 1, 4, 0, 0, 1, {{0, 3, 2, 3}}},
                                        {2, 2, 3, 2, 1.5f, 1, {{0, 2, 3, 1}}}};
    static const struct {
        struct shape s;
        int32_t others; /* many: a large batch has other kernels */
    } rows[] = {{{6, 2, 24, 0, 0, 1, {{5, 50, 30, 70}}}, 77},
                {{3, 1, 128, 40, 0, 1, {{0, 70, 20, 33}}}, 77},
                {{2, 1, 160, 0, 20, 1, {{0, 33, 20, 10}}}, 77},
                {{1, 1, 320, 0, 0, 1, {{0, 20, 20, 10}}}, 77},
                {{16, 16, 24, 40, 0, 1, {{0, 70, 20, 33}}}, 880},
                {{32, 16, 72, 40, 0, 1, {{0, 70, 20, 33}}}, 880}};
    struct tn_ops ops;
    struct tn_backend *b = open_backend(&ops);
    printf("1..%d\n", (int)(SP_COUNT(shapes) + SP_COUNT(tiny) + SP_COUNT(rows)));
    for (size_t i = 0; i < SP_COUNT(tiny); i++)
        check_differences(&tiny[i]);
    for (size_t i = 0; i < SP_COUNT(shapes); i++)
        check_norms(b, &shapes[i]);
    for (size_t i = 0; i < SP_COUNT(rows); i++)
        check_rows(b, &rows[i].s, rows[i].others);
    b->ops->close(b);
    return failures ? 1 : 0;
}
