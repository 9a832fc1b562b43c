#include "tests/unit/tensor/tensor_test.h"

#include <check.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/mem.h"
#include "common/base/rng.h"

void fill(float *x, size_t n, uint32_t seed, float scale)
{
    for (size_t i = 0; i < n; i += 4) {
        uint32_t draw[4];
        sp_rng_draw(seed, SP_STREAM_TEST, 0, (uint32_t)(i / 4), 0, 0, draw);
        for (size_t j = 0; j < 4 && i + j < n; j++)
            x[i + j] = scale * ((float)(draw[j] >> 8) * (1.0f / 8388608.0f) - 1.0f);
    }
}

static void **arrays; /* what the test at hand has taken */
static size_t array_count;

void *array(size_t n, size_t elem_bytes)
{
    void *x = sp_alloc_block(n + 1, elem_bytes);
    ck_assert_ptr_nonnull(x);
    arrays = sp_xgrow(arrays, array_count + 1, sizeof(*arrays));
    arrays[array_count++] = x;
    return x;
}

void free_arrays(void)
{
    for (size_t i = 0; i < array_count; i++)
        sp_free_block(arrays[i]);
    free(arrays);
    arrays = NULL;
    array_count = 0;
}

float *zeros(size_t n)
{
    return array(n, sizeof(float));
}

float *filled(size_t n, uint32_t seed, float scale)
{
    float *x = zeros(n);
    fill(x, n, seed, scale);
    return x;
}

uint32_t pick(uint32_t seed, uint32_t index, uint32_t bound)
{
    return (uint32_t)sp_rng_below(seed, SP_STREAM_TEST, 1, index, 0, 0, bound);
}

struct tn_backend *open_backend(const char *name, const char *isa, int32_t threads)
{
    struct tn_backend_options options = {.threads = threads, .isa = isa};
    struct tn_backend *backend = NULL;
    struct sp_error err = {0};
    enum sp_err rc = tn_open(name, &options, &backend, &err);
    if (rc == SP_EUNSUPPORTED && isa) {
        fprintf(stderr, "skipped: %s\n", err.text);
        return NULL;
    }
    ck_assert_msg(rc == SP_OK, "%s", err.text);
    return backend;
}

double error_f(const float *a, const float *b, size_t n)
{
    double difference = 0.0, size = 0.0;
    for (size_t i = 0; i < n; i++) {
        difference += ((double)a[i] - b[i]) * ((double)a[i] - b[i]);
        size += (double)b[i] * b[i];
    }
    return sqrt(difference) / (sqrt(size) + 1e-30);
}

double error_d(const float *a, const double *b, size_t n)
{
    double difference = 0.0, size = 0.0;
    for (size_t i = 0; i < n; i++) {
        difference += ((double)a[i] - b[i]) * ((double)a[i] - b[i]);
        size += b[i] * b[i];
    }
    return sqrt(difference) / (sqrt(size) + 1e-30);
}

static void check_equal_bits(const float *a, const float *b, size_t n, const char *what)
{
    size_t i = 0;
    while (i < n && memcmp(&a[i], &b[i], sizeof(float)) == 0)
        i++;
    ck_assert_msg(i == n, "%s: element %zu of %zu is %.9g, elsewhere %.9g", what, i, n,
                  i < n ? (double)b[i] : 0.0, i < n ? (double)a[i] : 0.0);
}

void check_same_bits(output_fn *run, size_t n)
{
    static const struct {
        const char *name, *isa;
        int32_t threads;
    } on[] = {
        {"cpu", "generic", 3}, {"cpu", "avx2", 3}, {"cpu", "avx512", 3}, {"cuda-fp32", NULL, 1}};
    float *first = NULL;
    for (size_t i = 0; i < SP_COUNT(on); i++)
        for (int32_t threads = 1; threads <= on[i].threads; threads++) {
            struct tn_backend *backend = open_backend(on[i].name, on[i].isa, threads);
            if (!backend)
                break;
            float *out = zeros(n);
            memset(out, 0xff, n * sizeof(float)); /* NaN: what isn't written differs from nothing */
            run(backend, out);
            if (first)
                check_equal_bits(first, out, n, backend->device);
            else
                first = out;
            tn_close(backend);
        }
    size_t finite = 0;
    while (finite < n && isfinite(first[finite]))
        finite++;
    ck_assert_msg(finite == n, "element %zu of %zu isn't finite", finite, n);
}

void check_backends_agree(output_fn *run, size_t n, double tolerance)
{
    float *out[2] = {zeros(n), zeros(n)};
    for (int i = 0; i < 2; i++) {
        struct tn_backend *backend = open_backend(i == 0 ? "cpu" : "openblas", NULL, 2);
        run(backend, out[i]);
        tn_close(backend);
    }
    double error = error_f(out[1], out[0], n);
    ck_assert_msg(error < tolerance, "backends differ by %.3g, allowed %.3g", error, tolerance);
}

void check_gradient(scalar_fn *f, void *context, const float *x, const float *gradient, size_t n,
                    double tolerance)
{
    double *at = array(n, sizeof(double)), *v = array(n, sizeof(double));
    float *direction = zeros(n);
    double largest = 0.0, worst = 0.0, size = 0.0;
    for (size_t i = 0; i < n; i++)
        size += (double)gradient[i] * gradient[i];
    ck_assert_msg(size > 0.0, "the gradient is zero");
    /* Directions with every element, then single elements. */
    for (uint32_t trial = 0; trial < 24; trial++) {
        const double step = 1e-4;
        fill(direction, n, 900 + trial, 1.0f);
        for (size_t i = 0; i < n; i++)
            v[i] = trial < 8 ? (double)direction[i] : 0.0;
        if (trial >= 8)
            v[pick(77, trial, (uint32_t)n)] = 1.0;
        double plus, minus, analytic = 0.0, norm = 0.0;
        for (size_t i = 0; i < n; i++)
            at[i] = x[i] + step * v[i];
        plus = f(at, context);
        for (size_t i = 0; i < n; i++)
            at[i] = x[i] - step * v[i];
        minus = f(at, context);
        for (size_t i = 0; i < n; i++) {
            analytic += v[i] * gradient[i];
            norm += v[i] * v[i];
        }
        double numeric = (plus - minus) / (2.0 * step);
        double scale = sqrt(norm) * sqrt(size / (double)n) + 1e-12;
        largest = fmax(largest, fabs(numeric) / scale);
        worst = fmax(worst, fabs(numeric - analytic) / scale);
    }
    ck_assert_msg(worst < tolerance, "gradient is off by %.3g of its size, allowed %.3g", worst,
                  tolerance);
    ck_assert_msg(largest > 0.01, "the check would pass a zero gradient");
}
