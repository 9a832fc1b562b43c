/* Products of the backend "cuda" against loops in double precision, that no row's bits depend on
 * the others, and the device's other services: recorded work, copies of much memory, how much
 * memory was had. The device is linked into this program. Prints TAP. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/mem.h"
#include "common/base/rng.h"
#include "common/tensor/cuda/cuda.h"
#include "common/tensor/cuda/products_typed.h"
#include "common/tensor/module.h"

extern const struct tn_module spin_tensor_module;

static int tests, failures;

static void check(bool ok, const char *what)
{
    failures += !ok;
    printf("%sok %d - %s\n", ok ? "" : "not ", ++tests, what);
}

/* --- matrices --- */

struct matrix { /* on the host as double, and on the device as it is stored */
    enum tn_dtype dtype;
    size_t n;
    double *host;
    void *at;
};

static struct tn_backend *b;

/* A device of hardware, which may lack algorithms, and has time for larger matrices. */
static bool is_real(void)
{
    return strstr(b->device, "NVIDIA") != NULL;
}

/* Uniform in [-scale, scale), rounded as it is stored. */
static struct matrix matrix(enum tn_dtype dtype, size_t rows, size_t columns, uint32_t seed,
                            float scale)
{
    struct matrix m = {.dtype = dtype, .n = rows * columns};
    float *host = sp_xarray(m.n + 4, sizeof(*host));
    m.host = sp_xarray(m.n + 1, sizeof(*m.host));
    for (size_t i = 0; i < m.n; i += 4) {
        uint32_t draw[4];
        sp_rng_draw(seed, SP_STREAM_TEST, 0, (uint32_t)(i / 4), 0, 0, draw);
        for (size_t j = 0; j < 4; j++)
            host[i + j] = scale * ((float)(draw[j] >> 8) * (1.0f / 8388608.0f) - 1.0f);
    }
    for (size_t i = 0; i < m.n; i++) {
        if (dtype == TN_BF16)
            host[i] = sp_bf16_to_f32(sp_f32_to_bf16(host[i]));
        m.host[i] = (double)host[i];
    }
    m.at = b->ops->alloc(b, m.n, tn_unit(dtype));
    SP_ASSERT(m.at != NULL);
    tn_put(b, m.at, dtype, host, m.n);
    free(host);
    return m;
}

static void drop(struct matrix *m)
{
    b->ops->free(b, m->at);
    free(m->host);
}

static float *numbers(const struct matrix *m)
{
    float *host = sp_xarray(m->n + 1, sizeof(*host));
    tn_get(b, host, m->at, m->dtype, m->n);
    return host;
}

/* What is on the device against what is on the host: normalised error. */
static double error_of(const struct matrix *m)
{
    float *found = numbers(m);
    double difference = 0.0, size = 0.0;
    for (size_t i = 0; i < m->n; i++) {
        difference += pow((double)found[i] - m->host[i], 2);
        size += pow(m->host[i], 2);
    }
    free(found);
    return sqrt(difference) / (sqrt(size) + 1e-30);
}

/* c = a·b, and what is added unless NULL, on the host; as the product rounds it, fp32 factors
 * rounded to bf16 */
static void multiply(struct matrix *c, const struct matrix *a, const struct matrix *w,
                     const struct matrix *added, const struct device_product *p)
{
    for (size_t m = 0; m < (size_t)p->M; m++)
        for (size_t n = 0; n < (size_t)p->N; n++) {
            size_t at = m * (size_t)p->N + n;
            double sum = added ? added->host[at] : 0.0;
            for (size_t k = 0; k < (size_t)p->K; k++) {
                size_t i = p->a_transposed ? k * (size_t)p->M + m : m * (size_t)p->K + k;
                size_t j = p->b_transposed ? n * (size_t)p->K + k : k * (size_t)p->N + n;
                sum += (double)sp_bf16_to_f32(sp_f32_to_bf16((float)a->host[i])) *
                       (double)sp_bf16_to_f32(sp_f32_to_bf16((float)w->host[j]));
            }
            c->host[at] = sum;
        }
}

static bool is_near(struct matrix *m)
{
    double error = error_of(m), limit = m->dtype == TN_BF16 ? 4e-3 : 1e-5;
    if (!(error < limit))
        printf("# off by %.3g\n", error);
    return error < limit;
}

/* --- the device's product, by types and sizes --- */

static bool product_is_right(int32_t M, int32_t N, int32_t K, int kind)
{
    struct device_product p = {.M = M,
                               .N = N,
                               .K = K,
                               .a_transposed = kind % 3 == 1,
                               .b_transposed = kind % 3 == 2,
                               .c_bf16 = kind / 9};
    struct matrix a = matrix(TN_BF16, (size_t)M, (size_t)K, 1, 1.0f);
    struct matrix w = matrix(TN_BF16, (size_t)K, (size_t)N, 2, 1.0f);
    struct matrix c = matrix(p.c_bf16 ? TN_BF16 : TN_F32, (size_t)M, (size_t)N, 3, 3.0f);
    struct matrix r = matrix(c.dtype, (size_t)M, (size_t)N, 26, 3.0f);
    const struct matrix *const all[] = {NULL, &c, &r}, *added = all[kind / 3 % 3];
    p.a = a.at;
    p.b = w.at;
    p.c = c.at;
    p.added = added ? added->at : NULL;
    bool none = is_real() || getenv("SPIN_EMULATE_NO_CUBLASLT"), ok = none;
    if (device_product(tn_cuda_of(b)->device, &p)) {
        multiply(&c, &a, &w, added, &p);
        ok = is_near(&c);
    }
    drop(&a);
    drop(&w);
    drop(&c);
    drop(&r);
    return ok;
}

static void device_products(void)
{
    static const int32_t sizes[][3] = {{1, 24, 16}, {16, 8, 40}, {37, 50, 33}, {5, 1, 1}};
    char what[96];
    for (size_t i = 0; i < SP_COUNT(sizes); i++)
        for (int kind = 0; kind < 18; kind++) {
            snprintf(what, sizeof(what), "device_product %d x %d x %d, kind %d", sizes[i][0],
                     sizes[i][1], sizes[i][2], kind);
            check(product_is_right(sizes[i][0], sizes[i][1], sizes[i][2], kind), what);
        }
}

/* --- operations --- */

static void layer(enum tn_dtype weights, int32_t T, int32_t N, int32_t K)
{
    size_t t = (size_t)T, n = (size_t)N, k = (size_t)K;
    struct matrix x = matrix(TN_BF16, t, k, 4, 1.0f), w = matrix(weights, n, k, 5, 0.3f);
    struct matrix y = matrix(TN_BF16, t, n, 6, 1.0f), dy = matrix(TN_BF16, t, n, 7, 1.0f);
    struct matrix dx = matrix(TN_BF16, t, k, 8, 1.0f), dw = matrix(weights, n, k, 9, 1.0f);
    struct device_product f = {.M = T, .N = N, .K = K, .b_transposed = true};
    struct device_product bx = {.M = T, .N = K, .K = N};
    struct device_product bw = {.M = N, .N = K, .K = T, .a_transposed = true};
    for (int accumulate = 0; accumulate < 2; accumulate++) {
        multiply(&y, &x, &w, accumulate ? &y : NULL, &f);
        b->ops->linear(b, y.at, x.at, w.at, T, N, K, accumulate);
        check(is_near(&y), accumulate ? "linear, added" : "linear");
        multiply(&dx, &dy, &w, accumulate ? &dx : NULL, &bx);
        b->ops->linear_bwd_x(b, dx.at, dy.at, w.at, T, N, K, accumulate);
        check(is_near(&dx), accumulate ? "linear_bwd_x, added" : "linear_bwd_x");
    }
    multiply(&dw, &dy, &x, &dw, &bw);
    b->ops->linear_bwd_w(b, dw.at, dy.at, x.at, T, N, K);
    check(is_near(&dw), "linear_bwd_w");
    multiply(&y, &x, &w, &dy, &f);
    b->ops->linear_residual(b, y.at, dy.at, x.at, w.at, T, N, K);
    check(is_near(&y) && error_of(&dy) == 0.0, "linear_residual");
    drop(&x);
    drop(&w);
    drop(&y);
    drop(&dy);
    drop(&dx);
    drop(&dw);
}

static void make_whole(struct matrix *m, double step)
{
    float *host = sp_xarray(m->n + 1, sizeof(*host));
    for (size_t i = 0; i < m->n; i++) {
        m->host[i] = rint(m->host[i] / step) * step;
        host[i] = (float)m->host[i];
    }
    tn_put(b, m->at, m->dtype, host, m->n);
    free(host);
}

/* Sums of whole numbers are exact, so there is one right result, and products that have more digits
 * than bf16: rounding them before what is added would give others. */
static void rounded_once(enum tn_dtype weights, int32_t T, int32_t N, int32_t K)
{
    size_t t = (size_t)T, n = (size_t)N, k = (size_t)K, others = 0;
    struct matrix x = matrix(TN_BF16, t, k, 27, 60.0f), w = matrix(weights, n, k, 28, 30.0f);
    struct matrix y = matrix(TN_BF16, t, n, 29, 1.0f), r = matrix(TN_BF16, t, n, 30, 9000.0f);
    struct device_product f = {.M = T, .N = N, .K = K, .b_transposed = true};
    make_whole(&x, 1.0);
    make_whole(&w, 1.0);
    make_whole(&r, 64.0);
    multiply(&y, &x, &w, NULL, &f);
    for (size_t i = 0; i < y.n; i++) {
        float once = sp_bf16_to_f32(sp_f32_to_bf16((float)(y.host[i] + r.host[i])));
        float twice = sp_bf16_to_f32(sp_f32_to_bf16((float)y.host[i])) + (float)r.host[i];
        others += once != sp_bf16_to_f32(sp_f32_to_bf16(twice));
        y.host[i] = (double)once;
    }
    struct tn_weights *packed = b->ops->weights_new(b, w.at, N, K, TN_BF16, TN_BF16);
    b->ops->linear_residual(b, y.at, r.at, x.at, w.at, T, N, K);
    check(others > 0 && error_of(&y) == 0.0, "linear_residual rounds once");
    b->ops->zero(b, y.at, y.n * 2);
    b->ops->linear_packed_residual(b, y.at, r.at, x.at, packed, T, N);
    check(error_of(&y) == 0.0, "linear_packed_residual as well");
    b->ops->weights_free(b, packed);
    drop(&x);
    drop(&w);
    drop(&y);
    drop(&r);
}

static void head(enum tn_dtype weights, int32_t T, int32_t V, int32_t K)
{
    size_t t = (size_t)T, v = (size_t)V, k = (size_t)K;
    struct matrix x = matrix(TN_BF16, t, k, 10, 1.0f), w = matrix(weights, v, k, 11, 0.3f);
    struct matrix y = matrix(TN_F32, t, v, 12, 1.0f), dy = matrix(TN_F32, t, v, 13, 1.0f);
    struct matrix dx = matrix(TN_BF16, t, k, 14, 1.0f), dw = matrix(weights, v, k, 15, 1.0f);
    struct device_product f = {.M = T, .N = V, .K = K, .b_transposed = true};
    struct device_product bx = {.M = T, .N = K, .K = V};
    struct device_product bw = {.M = V, .N = K, .K = T, .a_transposed = true};
    multiply(&y, &x, &w, NULL, &f);
    b->ops->head(b, y.at, x.at, w.at, T, V, K);
    check(is_near(&y), "head");
    multiply(&dx, &dy, &w, NULL, &bx);
    b->ops->head_bwd_x(b, dx.at, dy.at, w.at, T, V, K);
    check(is_near(&dx), "head_bwd_x");
    multiply(&dw, &dy, &x, &dw, &bw);
    b->ops->head_bwd_w(b, dw.at, dy.at, x.at, T, V, K);
    check(is_near(&dw), "head_bwd_w");
    drop(&x);
    drop(&w);
    drop(&y);
    drop(&dy);
    drop(&dx);
    drop(&dw);
}

static bool same_bits(const struct matrix *x, const struct matrix *y)
{
    float *first = numbers(x), *second = numbers(y);
    bool same = memcmp(first, second, x->n * sizeof(float)) == 0;
    free(first);
    free(second);
    return same;
}

/* Rows by themselves and in batches, in training and in decoding: the same bits. */
static void rows(enum tn_dtype weights, int32_t N, int32_t K, const int32_t *parts, size_t n_parts)
{
    size_t n = (size_t)N, k = (size_t)K, T = 0, row = 0;
    for (size_t i = 0; i < n_parts; i++)
        T += (size_t)parts[i];
    struct matrix x = matrix(TN_BF16, T, k, 16, 1.0f), w = matrix(weights, n, k, 17, 0.3f);
    struct matrix y = matrix(TN_BF16, T, n, 18, 1.0f), z = matrix(TN_BF16, T, n, 19, 1.0f);
    struct matrix l = matrix(TN_F32, T, n, 20, 1.0f), m = matrix(TN_F32, T, n, 21, 1.0f);
    struct matrix s = matrix(TN_BF16, T, n, 31, 1.0f), u = matrix(TN_BF16, T, n, 32, 1.0f);
    struct matrix r = matrix(TN_BF16, T, n, 33, 1.0f);
    struct tn_weights *packed = b->ops->weights_new(b, w.at, N, K, TN_BF16, TN_BF16);
    b->ops->linear(b, y.at, x.at, w.at, (int32_t)T, N, K, false);
    b->ops->linear_residual(b, s.at, r.at, x.at, w.at, (int32_t)T, N, K);
    b->ops->head(b, l.at, x.at, w.at, (int32_t)T, N, K);
    for (size_t i = 0; i < n_parts; i++) {
        const void *from = tn_const_at(x.at, TN_BF16, row * k);
        b->ops->linear_packed(b, tn_at(z.at, TN_BF16, row * n), from, packed, parts[i]);
        b->ops->linear_packed_residual(b, tn_at(u.at, TN_BF16, row * n),
                                       tn_const_at(r.at, TN_BF16, row * n), from, packed, parts[i],
                                       N);
        b->ops->head_packed(b, tn_at(m.at, TN_F32, row * n), from, packed, parts[i]);
        row += (size_t)parts[i];
    }
    check(same_bits(&y, &z), "rows of linear and of linear_packed");
    check(same_bits(&s, &u), "rows of linear_residual and of linear_packed_residual");
    check(same_bits(&l, &m), "rows of head and of head_packed");
    b->ops->weights_free(b, packed);
    drop(&x);
    drop(&w);
    drop(&y);
    drop(&z);
    drop(&l);
    drop(&m);
    drop(&s);
    drop(&u);
    drop(&r);
}

static void rows_of(enum tn_dtype weights)
{
    static const int32_t few[] = {1, 16, 23, 2, 48},
                         many[] = {1,   2,   7,   8,   16,  17,  33,   64,   65,  100,
                                   128, 129, 200, 256, 257, 777, 1024, 1025, 1500};
    rows(weights, 48, 40, few, SP_COUNT(few));
    rows(weights, 51, 19, few, SP_COUNT(few));
    if (is_real()) {
        rows(weights, 4096, 4096, many, SP_COUNT(many));
        rows(weights, 1536, 576, many, SP_COUNT(many));
        rows(weights, 4096, 11008, many, SP_COUNT(many));
    }
}

static void operations(void)
{
    static const int32_t sizes[][3] = {{1, 24, 16}, {70, 48, 40}, {33, 51, 19}};
    for (int weights = TN_F32; weights <= TN_BF16; weights++) {
        b->weights = (enum tn_dtype)weights;
        for (size_t i = 0; i < SP_COUNT(sizes); i++) {
            printf("# parameters in %s, %d rows of %d from %d\n", weights ? "bf16" : "fp32",
                   sizes[i][0], sizes[i][1], sizes[i][2]);
            layer(b->weights, sizes[i][0], sizes[i][1], sizes[i][2]);
            head(b->weights, sizes[i][0], sizes[i][1], sizes[i][2]);
            rounded_once(b->weights, sizes[i][0], sizes[i][1], sizes[i][2]);
        }
        rows_of(b->weights);
    }
    b->weights = TN_F32;
    b->ops->linear(b, NULL, NULL, NULL, 0, 24, 16, false);
    b->ops->linear_residual(b, NULL, b, NULL, NULL, 0, 24, 16);
    b->ops->linear_bwd_w(b, NULL, NULL, NULL, 0, 24, 16);
    b->ops->head(b, NULL, NULL, NULL, 0, 24, 16);
    check(true, "no rows");
}

/* --- recorded work --- */

/* y += x·wᵀ, and the sum copied and the copy's first element zeroed */
struct work {
    struct matrix x, w, y, copy;
};

static void do_work(const struct work *k)
{
    struct device *d = tn_cuda_of(b)->device;
    struct device_product p = {.c = k->y.at,
                               .a = k->x.at,
                               .b = k->w.at,
                               .added = k->y.at,
                               .M = 3,
                               .N = 24,
                               .K = 16,
                               .b_transposed = true};
    struct gpu_typed_product g = {.c = k->y.at,
                                  .added = k->y.at,
                                  .a = k->x.at,
                                  .b = k->w.at,
                                  .a_row = 16,
                                  .a_col = 1,
                                  .b_row = 1,
                                  .b_col = 16,
                                  .M = 3,
                                  .N = 24,
                                  .K = 16};
    if (!device_product(d, &p))
        device_launch(d, gpu_typed_product_kernel, (struct device_grid){2, 1},
                      (struct device_grid){GPU_TILE, GPU_TILE}, &g);
    memset(&g, 0xff, sizeof(g)); /* arguments are copied */
    device_copy(d, k->copy.at, k->y.at, k->y.n * sizeof(float));
    device_zero(d, k->copy.at, sizeof(float));
}

static bool keep(const struct work *k, uint64_t key)
{
    struct device *d = tn_cuda_of(b)->device;
    bool recording = device_record(d, key);
    if (recording)
        do_work(k);
    return recording && device_recorded(d);
}

/* Whether y and its copy are what they should be after so much work. */
static bool is_done(struct work *k)
{
    bool ok = is_near(&k->y);
    memcpy(k->copy.host, k->y.host, k->y.n * sizeof(double));
    k->copy.host[0] = 0.0;
    return is_near(&k->copy) && ok;
}

static void recorded_work(void)
{
    struct device *d = tn_cuda_of(b)->device;
    struct work k = {matrix(TN_BF16, 3, 16, 22, 1.0f), matrix(TN_BF16, 24, 16, 23, 1.0f),
                     matrix(TN_F32, 3, 24, 24, 1.0f), matrix(TN_F32, 3, 24, 25, 1.0f)};
    struct device_product p = {.M = 3, .N = 24, .K = 16, .b_transposed = true};
    void *other = device_alloc(d, 64);
    check(!device_replay(d, 7), "nothing was recorded under the key");
    do_work(&k); /* chooses algorithms */
    multiply(&k.y, &k.x, &k.w, &k.y, &p);
    check(is_done(&k), "work as it is asked for");
    check(keep(&k, 7) && is_done(&k), "recording does nothing");
    for (int i = 0; i < 3; i++) {
        multiply(&k.y, &k.x, &k.w, &k.y, &p);
        check(device_replay(d, 7) && is_done(&k), "recorded work is done again");
    }
    bool all = true;
    for (uint64_t key = 100; key < 100 + DEVICE_GRAPHS; key++) { /* one too many; 7 was used last */
        all &= keep(&k, key) && device_replay(d, 7);
        multiply(&k.y, &k.x, &k.w, &k.y, &p);
    }
    check(all && is_done(&k), "work of other keys is kept beside it");
    check(!device_replay(d, 100), "the one that was not used for longest went");
    check(keep(&k, 7) && device_replay(d, 7), "a key is recorded anew");
    multiply(&k.y, &k.x, &k.w, &k.y, &p);
    check(is_done(&k), "and done once");
    device_free(d, other);
    check(!device_replay(d, 7) && !device_replay(d, 101), "freed memory ends them all");
    drop(&k.x);
    drop(&k.w);
    drop(&k.y);
    drop(&k.copy);
}

/* --- memory --- */

static void copies(void)
{
    static const size_t sizes[] = {1, 1 << 20, (1 << 20) + 1, 16 << 20, (48 << 20) + 12345};
    char what[64];
    for (size_t i = 0; i < SP_COUNT(sizes); i++) {
        size_t n = sizes[i];
        uint8_t *host = sp_xalloc(n), *back = sp_xalloc(n);
        void *memory = b->ops->alloc(b, n, 1), *twin = b->ops->alloc(b, n, 1);
        for (size_t j = 0; j < n; j++)
            host[j] = (uint8_t)(j * 2654435761u >> 13);
        b->ops->upload(b, memory, host, n);
        uint8_t first = host[0], last = host[n - 1];
        memset(host, 0, n); /* it may be used again */
        device_copy(tn_cuda_of(b)->device, twin, memory, n);
        b->ops->download(b, back, twin, n);
        b->ops->upload(b, memory, host, n);
        bool ok = back[0] == first && back[n - 1] == last;
        for (size_t j = 0; j < n; j++)
            ok &= back[j] == (uint8_t)(j * 2654435761u >> 13);
        b->ops->download(b, back, memory, n);
        snprintf(what, sizeof(what), "%zu bytes go to the device and come back", n);
        check(ok && memcmp(back, host, n) == 0, what);
        b->ops->free(b, memory);
        b->ops->free(b, twin);
        free(host);
        free(back);
    }
}

/* More small ones, one behind the other, than the device has read when the last are put. */
static void many_copies(void)
{
    enum { COPIES = 700, BYTES = 60001 };
    struct device *d = tn_cuda_of(b)->device;
    uint8_t *host = sp_xalloc(BYTES), *back = sp_xalloc((size_t)COPIES * BYTES);
    uint8_t *memory = device_alloc(d, (size_t)COPIES * BYTES);
    bool ok = true;
    for (size_t i = 0; i < COPIES; i++) {
        memset(host, (int)(i % 251), BYTES);
        device_put(d, memory + i * BYTES, host, BYTES);
    }
    device_get(d, back, memory, (size_t)COPIES * BYTES);
    for (size_t i = 0; i < (size_t)COPIES * BYTES; i++)
        ok &= back[i] == i / BYTES % 251;
    check(ok, "many small copies");
    device_free(d, memory);
    free(host);
    free(back);
}

static void usage(void)
{
    struct device *d = tn_cuda_of(b)->device;
    struct device_usage before, held, after;
    struct tn_usage all;
    device_usage(d, &before);
    size_t much = before.own_peak + 1000;
    void *memory = device_alloc(d, much), *more = device_alloc(d, 24);
    device_usage(d, &held);
    device_free(d, more);
    device_free(d, memory);
    device_usage(d, &after);
    tn_usage(b, &all);
    check(held.own == before.own + much + 24 && held.own_peak == held.own, "memory is counted");
    check(after.own == before.own && after.own_peak == held.own, "its peak is remembered");
    check(all.own_peak == held.own, "and known to the backend");
}

static void limits(void)
{
    double flops = tn_probe(b), bandwidth = tn_bandwidth(b);
    printf("# %.3g operations and %.3g bytes per second\n", flops, bandwidth);
    check(flops > 0 && isfinite(flops) && bandwidth > 0 && isfinite(bandwidth), "limits");
}

int main(void)
{
    static struct tn_ops ops;
    struct sp_error err = {0};
    if (spin_tensor_module.open("cuda", NULL, &b, &err) != SP_OK) {
        fprintf(stderr, "gpu_products: %s\n", err.text);
        return 1;
    }
    ops = *b->ops;
    cuda_add_fast_products(&ops);
    b->ops = &ops;
    b->activations = TN_BF16;
    device_products();
    operations();
    recorded_work();
    copies();
    many_copies();
    usage();
    limits();
    tn_close(b);
    printf("1..%d\n", tests);
    return failures > 0;
}
