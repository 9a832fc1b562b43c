/* bench_tensor: speed of the matrix products, of decode products and of attention, beside a probe
 * of the machine's multiply-add limit and beside OpenBLAS. Figures are medians; the candidates of a
 * line take turns, because a shared machine's speed changes while one looks. Prints a table.
 *
 *     bench_tensor [--threads N] [--isa NAME] [--repeats N] [--only WORD] [--json]
 *
 * --json prints the products as lines of JSON, and nothing else. */
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "common/base/mem.h"
#include "common/tensor/backend.h"
#include "common/tensor/cpu/cpu.h"

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static struct tn_backend *open_or_exit(const char *name, const char *isa, int32_t threads)
{
    struct tn_backend_options options = {.threads = threads, .isa = isa};
    struct tn_backend *backend;
    struct sp_error err;
    if (tn_open(name, &options, &backend, &err) != SP_OK) {
        fprintf(stderr, "bench_tensor: %s\n", err.text);
        exit(2);
    }
    return backend;
}

static float *noise(size_t n)
{
    float *x = sp_alloc_block(n, sizeof(float));
    uint32_t state = 12345;
    if (!x)
        exit(7);
    for (size_t i = 0; i < n; i++) {
        state = state * 1664525u + 1013904223u;
        x[i] = (float)(int32_t)state * (1.0f / 2147483648.0f);
    }
    return x;
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

/* --- lines --- */

enum kind { LINEAR, BWD_X, BWD_W, PACKED, PACKED_BF16, PACKED_PAIRS, KINDS };
static const char *const kind_names[KINDS] = {"linear", "bwd_x",       "bwd_w",
                                              "packed", "packed bf16", "both bf16"};

struct bench {
    struct tn_backend *cpu, *blas;
    int repeats;
    const char *only;
    bool json;
};

/* One product; `copies` weights in turn, so that they come from memory and not from a cache. */
static void product(struct bench *bench, enum kind kind, int32_t M, int32_t N, int32_t K)
{
    size_t m = (size_t)M, n = (size_t)N, k = (size_t)K, copies = 1 + 300000000 / (n * k * 4) / 4;
    double flops = 2.0 * M * N * K, times[2][64];
    float *x = noise(m * k), *dy = noise(m * n), *w = noise(copies * n * k);
    float *out = noise(SP_MAX(m * n, SP_MAX(m * k, n * k)));
    struct tn_weights **packed = sp_xarray(copies, sizeof(*packed));
    enum tn_dtype dtype = kind >= PACKED_BF16 ? TN_BF16 : TN_F32;
    for (size_t i = 0; kind >= PACKED && i < copies; i++)
        packed[i] = bench->cpu->ops->weights_new(bench->cpu, w + i * n * k, N, K, dtype,
                                                 kind == PACKED_PAIRS ? TN_BF16 : TN_F32);
    for (int repeat = 0; repeat < bench->repeats; repeat++)
        for (int which = 0; which < 2; which++) {
            struct tn_backend *b = which == 0 ? bench->cpu : bench->blas;
            int calls = 0;
            double start = now(), limit = start + 0.02;
            do {
                size_t copy = (size_t)(calls + repeat * 7) % copies;
                const float *wi = w + copy * n * k;
                if (kind == BWD_X)
                    b->ops->linear_bwd_x(b, out, dy, wi, M, N, K, false);
                else if (kind == BWD_W)
                    b->ops->linear_bwd_w(b, out, dy, x, M, N, K);
                else if (kind == LINEAR || which == 1)
                    b->ops->linear(b, out, x, wi, M, N, K, false);
                else
                    b->ops->linear_packed(b, out, x, packed[copy], M);
                calls++;
            } while (now() < limit);
            times[which][repeat] = (now() - start) / calls;
        }
    double median[2];
    for (int which = 0; which < 2; which++) {
        qsort(times[which], (size_t)bench->repeats, sizeof(double), by_value);
        median[which] = times[which][bench->repeats / 2];
    }
    double bytes = kind >= PACKED ? (double)(n * k) * (dtype == TN_BF16 ? 2 : 4) : 0.0;
    if (bench->json) {
        printf("{\"product\": \"%s\", \"m\": %d, \"n\": %d, \"k\": %d, \"gflops\": %.1f, "
               "\"gb_per_s\": %.1f, \"openblas_gflops\": %.1f}\n",
               kind_names[kind], M, N, K, flops / median[0] * 1e-9, bytes / median[0] * 1e-9,
               flops / median[1] * 1e-9);
    } else {
        printf("%-12s M %4d N %5d K %4d  %7.1f GFLOP/s", kind_names[kind], M, N, K,
               flops / median[0] * 1e-9);
        if (bytes > 0.0)
            printf("  %5.1f GB/s", bytes / median[0] * 1e-9);
        printf("   openblas %7.1f GFLOP/s\n", flops / median[1] * 1e-9);
    }
    for (size_t i = 0; i < copies; i++)
        bench->cpu->ops->weights_free(bench->cpu, packed[i]);
    free(packed);
    sp_free_block(x);
    sp_free_block(dy);
    sp_free_block(w);
    sp_free_block(out);
}

static void attention(struct bench *bench, int32_t segments, int32_t prompt, int32_t branch)
{
    enum { H = 9, G = 3, C = 64 };
    struct tn_backend *b = bench->cpu;
    int32_t length = prompt + 2 * branch, T = segments * length;
    size_t t = (size_t)T;
    struct tn_segment *list = sp_xarray((size_t)segments, sizeof(*list));
    for (int32_t i = 0; i < segments; i++)
        list[i] = (struct tn_segment){i * length, prompt, branch, branch};
    float *qkv = noise(t * (H + 2 * G) * C), *dqkv = noise(t * (H + 2 * G) * C);
    float *out = noise(t * H * C), *dout = noise(t * H * C), *lse = noise(t * H);
    double times[2][64];
    for (int repeat = 0; repeat < bench->repeats; repeat++) {
        double start = now();
        b->ops->attention(b, out, lse, qkv, T, list, segments, H, G, C, 0.125f, 0, 0);
        double middle = now();
        b->ops->attention_bwd(b, dqkv, dout, out, lse, qkv, T, list, segments, H, G, C, 0.125f, 0,
                              0);
        times[0][repeat] = middle - start;
        times[1][repeat] = now() - middle;
    }
    for (int i = 0; i < 2; i++)
        qsort(times[i], (size_t)bench->repeats, sizeof(double), by_value);
    /* pairs of query and key that are seen: causal halves */
    double seen = 0.5 * prompt * prompt + 2.0 * (branch * (prompt + 0.5 * branch));
    double flops = 4.0 * seen * segments * H * C;
    printf("attention    %d × (%d + 2·%d), 9/3 heads of 64: forward %.2f ms %.1f GFLOP/s, backward "
           "%.2f ms %.1f GFLOP/s\n",
           segments, prompt, branch, 1e3 * times[0][bench->repeats / 2],
           flops / times[0][bench->repeats / 2] * 1e-9, 1e3 * times[1][bench->repeats / 2],
           2.5 * flops / times[1][bench->repeats / 2] * 1e-9);
    sp_free_block(qkv);
    sp_free_block(dqkv);
    sp_free_block(out);
    sp_free_block(dout);
    sp_free_block(lse);
    free(list);
}

static void decode_attention(struct bench *bench, int32_t batch, int32_t context,
                             enum tn_dtype dtype)
{
    enum { H = 9, G = 3, C = 64, LAYERS = 4 };
    struct tn_backend *b = bench->cpu;
    struct tn_kv_cache *cache = b->ops->cache_new(b, LAYERS, batch, context, G, C, dtype, 0);
    struct tn_cache_row *rows = sp_xarray((size_t)batch, sizeof(*rows));
    float *qkv = noise((size_t)batch * (H + 2 * G) * C), *out = noise((size_t)batch * H * C);
    double times[64];
    for (int32_t i = 0; i < context; i++)
        for (int32_t layer = 0; layer < LAYERS; layer++) {
            for (int32_t s = 0; s < batch; s++)
                rows[s] = (struct tn_cache_row){s, i};
            b->ops->cache_put(b, cache, layer, qkv, rows, batch, H);
        }
    for (int repeat = 0; repeat < bench->repeats; repeat++) {
        double start = now();
        for (int32_t layer = 0; layer < LAYERS; layer++)
            b->ops->cache_attention(b, out, qkv, cache, layer, rows, batch, H, 0.125f, 0, 0);
        times[repeat] = (now() - start) / LAYERS;
    }
    qsort(times, (size_t)bench->repeats, sizeof(double), by_value);
    double bytes = 2.0 * batch * context * G * C * (dtype == TN_BF16 ? 2 : 4);
    printf("decode       batch %d, context %d, %s cache: %.3f ms a layer, %.1f GB/s\n", batch,
           context, dtype == TN_BF16 ? "bf16" : "fp32", 1e3 * times[bench->repeats / 2],
           bytes / times[bench->repeats / 2] * 1e-9);
    b->ops->cache_free(b, cache);
    free(rows);
    sp_free_block(qkv);
    sp_free_block(out);
}

static void rows(struct bench *bench)
{
    enum { R = 256, V = 49152, F = 1536, T = 512 };
    struct tn_backend *b = bench->cpu;
    float *x = noise((size_t)R * V), *y = noise((size_t)T * F), lse[R];
    double times[3][64];
    int32_t ids[R];
    struct tn_sample_params params[R];
    struct tn_sample_key keys[R];
    for (uint32_t i = 0; i < R; i++) {
        params[i] = (struct tn_sample_params){1.0f, 0, 1.0f};
        keys[i] = (struct tn_sample_key){1, 1, i, 0, 0};
    }
    for (int repeat = 0; repeat < bench->repeats; repeat++) {
        double t0 = now();
        b->ops->row_lse(b, lse, NULL, x, R, V);
        double t1 = now();
        b->ops->sample(b, ids, x, R, V, params, keys);
        double t2 = now();
        b->ops->swiglu(b, y, x, T, F);
        times[0][repeat] = t1 - t0;
        times[1][repeat] = t2 - t1;
        times[2][repeat] = now() - t2;
    }
    for (int i = 0; i < 3; i++)
        qsort(times[i], (size_t)bench->repeats, sizeof(double), by_value);
    int middle = bench->repeats / 2;
    printf(
        "rows         vocabulary 49152: log-sum-exp %.1f us a row, sample %.1f us a row; swiglu of "
        "1536: %.2f us a row\n",
        1e6 * times[0][middle] / R, 1e6 * times[1][middle] / R, 1e6 * times[2][middle] / T);
    sp_free_block(x);
    sp_free_block(y);
}

static bool wanted(const struct bench *bench, const char *word)
{
    return !bench->only || strcmp(bench->only, word) == 0;
}

int main(int argc, char **argv)
{
    static const struct option options[] = {{"threads", 1, NULL, 't'}, {"isa", 1, NULL, 'i'},
                                            {"repeats", 1, NULL, 'r'}, {"only", 1, NULL, 'o'},
                                            {"json", 0, NULL, 'j'},    {0}};
    static const int32_t train[][2] = {{960, 576}, {3072, 576}, {576, 1536}, {49152, 576}};
    static const int32_t decode_rows[] = {1, 8, 32, 64, 128};
    struct bench bench = {.repeats = 5};
    int32_t threads = 0;
    const char *isa = NULL;
    for (int c; (c = getopt_long(argc, argv, "t:i:r:o:j", options, NULL)) != -1;) {
        if (c == 't')
            threads = atoi(optarg);
        else if (c == 'i')
            isa = optarg;
        else if (c == 'r')
            bench.repeats = SP_MAX(1, SP_MIN(64, atoi(optarg)));
        else if (c == 'o')
            bench.only = optarg;
        else if (c == 'j')
            bench.json = true;
        else
            return 2;
    }
    bench.cpu = open_or_exit("cpu", isa, threads);
    bench.blas = open_or_exit("openblas", isa, threads);
    if (!bench.json)
        printf("%s; %s\n", bench.cpu->device, bench.blas->numerics_class);
    if (!bench.json)
        printf("multiply-add limit (microkernel in the first cache): %.1f GFLOP/s\n",
               1e-9 * tn_probe(bench.cpu));
    for (size_t i = 0; wanted(&bench, "train") && i < SP_COUNT(train); i++)
        for (int kind = LINEAR; kind <= BWD_W; kind++)
            product(&bench, (enum kind)kind, 512, train[i][0], train[i][1]);
    for (size_t i = 0; wanted(&bench, "decode") && i < SP_COUNT(decode_rows); i++)
        for (int kind = PACKED; kind <= PACKED_PAIRS; kind++) {
            product(&bench, (enum kind)kind, decode_rows[i], 576, 576);
            product(&bench, (enum kind)kind, decode_rows[i], 3072, 576);
            product(&bench, (enum kind)kind, decode_rows[i], 49152, 576);
        }
    if (!bench.json && wanted(&bench, "attention")) {
        attention(&bench, 4, 128, 128);
        attention(&bench, 1, 512, 512);
        decode_attention(&bench, 1, 512, TN_F32);
        decode_attention(&bench, 64, 256, TN_F32);
        decode_attention(&bench, 64, 256, TN_BF16);
    }
    if (!bench.json && wanted(&bench, "rows"))
        rows(&bench);
    tn_close(bench.cpu);
    tn_close(bench.blas);
    return 0;
}
