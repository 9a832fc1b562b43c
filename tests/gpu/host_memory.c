/* Memory of the host that kernels work on: copies and zeroing keep their place between the kernels,
 * on either side of a copy, and an optimizer's state in it changes no bit. The device is linked
 * into this program. Prints TAP. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/mem.h"
#include "common/tensor/cuda/cuda.h"
#include "common/tensor/module.h"
#include "common/tensor/state.h"

extern const struct tn_module spin_tensor_module;

enum { N = 600001 }; /* more bytes than what is copied without a stage */

static struct tn_backend *b;
static int tests, failures;

static void check(bool ok, const char *what)
{
    failures += !ok;
    printf("%sok %d - %s\n", ok ? "" : "not ", ++tests, what);
}

static float *numbers(float first)
{
    float *x = sp_xarray(N, sizeof(*x));
    for (size_t i = 0; i < N; i++)
        x[i] = first + (float)(i % 1013) / 1024.0f;
    return x;
}

static bool all_are(const float *x, size_t from, size_t to, const float *want, float factor)
{
    for (size_t i = from; i < to; i++)
        if (x[i] != factor * (want ? want[i] : 0.0f))
            return false;
    return true;
}

/* Each call is behind the work before it and before what comes after. */
static void order(void)
{
    const size_t bytes = N * sizeof(float);
    struct device *d = tn_cuda_of(b)->device;
    float *at = b->ops->state_new(b, bytes, true), *there = b->ops->alloc(b, N, sizeof(float));
    float *x = numbers(1.0f), *y = numbers(0.0f);
    SP_ASSERT(at && there);
    check(device_is_host(d, at) && device_is_host(d, at + N - 1) && !device_is_host(d, there) &&
              !device_is_host(d, at + N),
          "it is known");
    check(all_are(at, 0, N, NULL, 0.0f), "zeroed");
    b->ops->upload(b, at, x, bytes);
    b->ops->add(b, at, at, N);
    b->ops->download(b, y, at, bytes);
    check(all_are(y, 0, N, x, 2.0f), "a kernel between put and get");
    b->ops->add(b, at, at, N);
    b->ops->upload(b, at, x, bytes / 2 / sizeof(float) * sizeof(float)); /* not before the sum */
    b->ops->download(b, y, at, bytes);
    check(all_are(y, 0, N / 2, x, 1.0f) && all_are(y, N / 2, N, x, 4.0f), "put behind a kernel");
    b->ops->add(b, at, at, N);
    b->ops->zero(b, at + 100, 1000 * sizeof(float));
    b->ops->add(b, at, at, N);
    device_copy(d, there, at, bytes);
    b->ops->download(b, y, there, bytes);
    check(all_are(y, 0, 100, x, 4.0f) && all_are(y, 100, 1100, NULL, 0.0f) &&
              all_are(y, 1100, N / 2, x, 4.0f) && all_are(y, N / 2, N, x, 16.0f),
          "zeroed behind a kernel, copied to the device");
    b->ops->upload(b, there, x, bytes);
    device_copy(d, at, there, bytes);
    b->ops->add(b, at, there, N);
    b->ops->upload(b, there, at,
                   bytes / 2 / sizeof(float) * sizeof(float)); /* from pinned memory */
    b->ops->zero(b, at, bytes);
    b->ops->download(b, y, there, bytes);
    check(all_are(y, 0, N / 2, x, 2.0f) && all_are(y, N / 2, N, x, 1.0f),
          "copied from the device, put from pinned memory");
    b->ops->state_free(b, at);
    b->ops->free(b, there);
    free(x);
    free(y);
}

static void steps(bool host, enum tn_state kind, float *ret_w, uint8_t *ret_state)
{
    size_t bytes = tn_state_bytes(kind, N);
    uint8_t *m = b->ops->state_new(b, bytes, host), *v = b->ops->state_new(b, bytes, host);
    float *w = b->ops->alloc(b, N, sizeof(float)), *g = b->ops->alloc(b, N, sizeof(float));
    float *x = numbers(-0.25f);
    SP_ASSERT(m && v && w && g);
    b->ops->upload(b, w, x, N * sizeof(float));
    for (int64_t step = 1; step <= 3; step++) {
        struct tn_adamw a = {1e-3f, 0.9f, 0.95f, 1e-8f, 0.1f, 0.7f, step, kind, 3};
        x[step] = 7.0f;
        b->ops->upload(b, g, x, N * sizeof(float));
        b->ops->adamw(b, w, g, m, v, N, &a);
    }
    b->ops->download(b, ret_state, m, bytes);
    b->ops->download(b, ret_state + bytes, v, bytes);
    b->ops->download(b, ret_w, w, N * sizeof(float));
    b->ops->state_free(b, m);
    b->ops->state_free(b, v);
    b->ops->free(b, w);
    b->ops->free(b, g);
    free(x);
}

static void state(enum tn_state kind, const char *what)
{
    size_t bytes = 2 * tn_state_bytes(kind, N);
    float *w = sp_xarray(N, sizeof(*w)), *w2 = sp_xarray(N, sizeof(*w));
    uint8_t *s = sp_xalloc(bytes), *s2 = sp_xalloc(bytes);
    steps(false, kind, w, s);
    steps(true, kind, w2, s2);
    check(memcmp(w, w2, N * sizeof(*w)) == 0 && memcmp(s, s2, bytes) == 0, what);
    free(w);
    free(w2);
    free(s);
    free(s2);
}

int main(void)
{
    struct sp_error err = {0};
    if (spin_tensor_module.open("cuda-fp32", NULL, &b, &err) != SP_OK) {
        fprintf(stderr, "gpu_host_memory: %s\n", err.text);
        return 1;
    }
    order();
    state(TN_STATE_F32, "state in fp32");
    state(TN_STATE_8BIT, "state in 8 bits");
    tn_close(b);
    printf("1..%d\n", tests);
    return failures ? 1 : 0;
}
