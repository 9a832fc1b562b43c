/* Which algorithms the device takes of a cublasLt that has good and bad ones (fake_cuda.h): that a
 * row's bits don't depend on the number of rows, that what is quick is used, and what is done when
 * memory is short. Prints TAP. */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "common/base/mem.h"
#include "common/tensor/cuda/device.h"
#include "common/tensor/cuda/device_products.h"
#include "common/tensor/cuda/products_typed.h"
#include "tests/gpu/fake_cuda.h"

enum { N = 24, K = 40, ROWS = 3000 };

static int tests, failures;

static void check(bool ok, const char *what)
{
    failures += !ok;
    printf("%sok %d - %s\n", ok ? "" : "not ", ++tests, what);
}

static struct device *open_device(size_t memory_bytes)
{
    struct device *d;
    struct sp_error err = {0};
    /* and what is taken when the device is opened */
    fake = (struct fake){.memory_bytes = memory_bytes + ((size_t)32 << 20), .last_algorithm = -1};
    SP_ASSERT(device_open(&d, &err) == SP_OK);
    return d;
}

/* bf16 numbers of many sizes and signs */
static uint16_t *noise(struct device *d, size_t n, uint32_t seed)
{
    uint16_t *host = sp_xarray(n, sizeof(*host)), *at = device_alloc(d, n * sizeof(*at));
    for (size_t i = 0; i < n; i++) {
        uint32_t h = ((uint32_t)i + seed) * 2654435761u;
        host[i] = (uint16_t)(0x3e00u + (h >> 16 & 0x81ffu));
    }
    SP_ASSERT(at != NULL);
    device_put(d, at, host, n * sizeof(*host));
    free(host);
    return at;
}

struct matrices {
    struct device *d;
    uint16_t *a, *b, *c, *residual; /* these two of 32-bit numbers at most */
    struct device_product product;
};

enum added { NOTHING, ITSELF, RESIDUAL };

static struct matrices matrices(struct device *d, int32_t rows, bool c_bf16, enum added added)
{
    struct matrices m = {.d = d,
                         .a = noise(d, (size_t)rows * K, 1),
                         .b = noise(d, (size_t)N * K, 2),
                         .c = noise(d, (size_t)rows * N * 2, 3),
                         .residual = noise(d, (size_t)rows * N * 2, 4)};
    const void *const all[] = {NULL, m.c, m.residual};
    m.product = (struct device_product){.c = m.c,
                                        .a = m.a,
                                        .b = m.b,
                                        .added = all[added],
                                        .M = rows,
                                        .N = N,
                                        .K = K,
                                        .b_transposed = true,
                                        .c_bf16 = c_bf16};
    return m;
}

static void drop(struct matrices *m)
{
    device_free(m->d, m->a);
    device_free(m->d, m->b);
    device_free(m->d, m->c);
    device_free(m->d, m->residual);
}

/* Rows [first, first + rows) by themselves have the bits that they have in `whole`, which has the
 * results of all. */
static bool same_rows(struct matrices *m, const uint8_t *whole, int32_t first, int32_t rows)
{
    size_t row = N * (m->product.c_bf16 ? 2 : 4), at = (size_t)first * row;
    size_t bytes = (size_t)rows * row;
    struct device_product p = m->product;
    uint8_t *part = sp_xalloc(bytes);
    p.M = rows;
    p.a = m->a + (size_t)first * K;
    p.c = m->c + at / 2;
    if (p.added == m->residual)
        p.added = m->residual + at / 2;
    if (p.added == m->c) {
        p.added = p.c;
        device_zero(m->d, p.c, bytes);
    }
    bool ok = device_product(m->d, &p);
    device_get(m->d, part, p.c, bytes);
    ok &= memcmp(part, whole + at, bytes) == 0;
    free(part);
    return ok;
}

/* FAKE_BY_COUNT sums like the others from 100 rows on, and FAKE_FORGETS does no residual. */
static const struct {
    int32_t rows;
    enum fake_algorithm expected;
} parts[] = {{1, FAKE_FEW},       {7, FAKE_FEW},        {16, FAKE_FEW},    {17, FAKE_FEW},
             {64, FAKE_FEW},      {65, FAKE_MOODY},     {77, FAKE_PLAIN},  {128, FAKE_MOODY},
             {129, FAKE_FORGETS}, {1024, FAKE_FORGETS}, {1025, FAKE_MANY}, {2000, FAKE_MANY}};

static void alike(bool c_bf16, enum added added, bool workspace)
{
    static const char *const names[] = {"", ", added", ", with a residual"};
    struct device *d = open_device((size_t)1 << 30);
    struct matrices m = matrices(d, ROWS, c_bf16, added);
    size_t bytes = (size_t)ROWS * N * (c_bf16 ? 2 : 4);
    uint8_t *whole = sp_xalloc(bytes);
    char what[128];
    fake.needs_workspace = workspace;
    if (added == ITSELF)
        device_zero(d, m.c, bytes);
    SP_ASSERT(device_product(d, &m.product));
    device_get(d, whole, m.c, bytes);
    int asked = fake.heuristics;
    for (size_t i = 0; i < SP_COUNT(parts); i++) {
        bool ok = same_rows(&m, whole, (ROWS - parts[i].rows) / 2, parts[i].rows);
        enum fake_algorithm expected = parts[i].expected;
        if (added == RESIDUAL && expected == FAKE_FORGETS)
            expected = FAKE_BY_COUNT;
        snprintf(what, sizeof(what), "%d rows%s%s%s: algorithm %d, the bits of the whole",
                 parts[i].rows, c_bf16 ? " in bf16" : "", names[added],
                 workspace ? ", with workspace" : "", fake.last_algorithm);
        check(ok && fake.last_algorithm == (int)expected, what);
    }
    check(fake.heuristics == asked, "algorithms are chosen once");
    free(whole);
    drop(&m);
    device_close(d);
}

static void sums_over_rows(void)
{
    struct device *d = open_device((size_t)1 << 30);
    struct matrices m = matrices(d, ROWS, false, ITSELF);
    struct device_product p = {
        .c = m.c, .a = m.a, .b = m.b, .added = m.c, .M = K, .N = N, .K = K, .a_transposed = true};
    check(device_product(d, &p) && fake.last_algorithm != FAKE_SPLIT &&
              fake.last_algorithm != FAKE_REDUCES,
          "a sum over rows is not split");
    drop(&m);
    device_close(d);
}

/* Weights that are too large for a trial to have others: those of the product serve, unless they
 * are zero. */
static void borrowed_weights(bool zero)
{
    const struct device_trial_limits limits = device_trial_limits;
    struct device *d = open_device((size_t)1 << 30);
    struct matrices m = matrices(d, 16, true, NOTHING);
    device_trial_limits.weight_bytes = (size_t)N * K * 2 - 1;
    if (zero)
        device_zero(d, m.b, (size_t)N * K * 2);
    SP_ASSERT(device_product(d, &m.product));
    printf("# algorithm %d\n", fake.last_algorithm);
    check(fake.last_algorithm == (zero ? FAKE_BY_COUNT : FAKE_FEW),
          zero ? "weights of zeros tell nothing" : "weights in use are tried with");
    drop(&m);
    device_close(d);
    device_trial_limits = limits;
}

/* Memory that another process has for a moment is waited for. */
static void short_memory(void)
{
    struct device *d = open_device((size_t)1 << 30);
    struct matrices m = matrices(d, 20, false, NOTHING);
    size_t left, all;
    SP_ASSERT(cudaMemGetInfo(&left, &all) == cudaSuccess);
    fake.others_bytes = left;
    fake.others_patience = 3;
    check(device_product(d, &m.product) && fake.last_algorithm == FAKE_FEW &&
              fake.others_bytes == 0,
          "a trial waits for memory, and chooses what it would have chosen");
    drop(&m);
    device_close(d);
}

/* Without memory for a trial nothing is computed: the bits could be others. */
static void little_memory(void)
{
    enum { SAID = 512 };
    char said[SAID + 1] = "";
    int ends[2], status = 0;
    SP_ASSERT(pipe(ends) == 0);
    fflush(stdout);
    pid_t child = fork();
    if (child == 0) {
        struct device *d = open_device((size_t)300 << 10);
        struct matrices m = matrices(d, 20, false, NOTHING);
        device_trial_limits.seconds = 0;
        dup2(ends[1], STDERR_FILENO);
        (void)device_product(d, &m.product);
        _exit(0);
    }
    close(ends[1]);
    ssize_t n = 0, got = 0;
    while ((got = read(ends[0], said + n, (size_t)(SAID - n))) > 0)
        n += got;
    close(ends[0]);
    SP_ASSERT(child > 0 && waitpid(child, &status, 0) == child);
    check(WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT &&
              strstr(said, "to choose algorithms for weights of 24 x 40 takes 2 MiB"),
          "without memory for a trial the process ends, and says what to lower");
}

static void no_algorithm(void)
{
    struct device *d = open_device((size_t)1 << 30);
    struct matrices m = matrices(d, 20, false, NOTHING);
    struct device_product p = m.product;
    p.a = m.a + 1;
    check(!device_product(d, &p), "an address that rows don't have");
    p = m.product;
    p.added = m.residual + 1;
    check(!device_product(d, &p), "nor what is added to them");
    p = m.product;
    p.N = 8;
    fake.no_algorithms = true;
    check(!device_product(d, &p) && !device_product(d, &p), "no algorithm");
    drop(&m);
    device_close(d);
}

static void variant(void)
{
    struct device *d = open_device((size_t)1 << 30);
    struct matrices m = matrices(d, 20, true, NOTHING);
    device_row_variant(d, true);
    check(device_product(d, &m.product) && fake.last_algorithm == FAKE_SPLIT,
          "where rows may differ, k is split");
    drop(&m);
    device_close(d);
}

static void many_shapes(void)
{
    struct device *d = open_device((size_t)1 << 30);
    struct matrices m = matrices(d, 64, false, NOTHING);
    bool ok = true;
    device_row_variant(d, true); /* no trials, which take long */
    for (int32_t i = 0; i < 1300; i++) {
        m.product.N = 1 + i % 24;
        m.product.K = 1 + i / 24 % 40;
        m.product.added = i >= 24 * 40 ? m.c : NULL;
        m.product.M = 2;
        ok &= device_product(d, &m.product);
    }
    check(ok, "more shapes than are remembered");
    drop(&m);
    device_close(d);
}

/* More rows than one call does: each part as by itself. */
static void many_rows(void)
{
    enum { MANY = 16384 + 77 };
    struct device *d = open_device((size_t)1 << 30);
    struct matrices m = matrices(d, MANY, true, RESIDUAL);
    size_t bytes = (size_t)MANY * N * 2;
    uint8_t *whole = sp_xalloc(bytes);
    bool ok = device_product(d, &m.product);
    device_get(d, whole, m.c, bytes);
    check(ok && same_rows(&m, whole, 16380, 20) && same_rows(&m, whole, 0, 5), "very many rows");
    free(whole);
    drop(&m);
    device_close(d);
}

/* Other weights by a kernel and other rows by the host, and their product: in a pass or not. */
static void fill_and_multiply(struct matrices *m, uint32_t step)
{
    uint16_t host[ROWS * K / 100];
    struct gpu_noise k = {.to = m->b, .n = (size_t)N * K, .seed = 4};
    for (uint32_t i = 0; i < SP_COUNT(host); i++)
        host[i] = (uint16_t)(0x3f00u + i * step % 128u);
    device_zero(m->d, m->a, (size_t)ROWS / 100 * K * 2);
    device_put(m->d, m->a, host, sizeof(host));
    device_launch(m->d, gpu_noise_kernel, (struct device_grid){(k.n + GPU_FLAT - 1) / GPU_FLAT, 1},
                  (struct device_grid){GPU_FLAT, 1}, &k);
    SP_ASSERT(device_product(m->d, &m->product));
}

/* What can't be recorded, or not be done by a graph for want of memory, is done all the same. */
static void passes(bool recordable, bool memory)
{
    struct device *d = open_device((size_t)1 << 30);
    struct matrices m = matrices(d, ROWS / 100, false, RESIDUAL);
    float at_once[ROWS / 100 * N], held[ROWS / 100 * N];
    bool ok = true;
    fake.no_recording = !recordable;
    fake.no_graph_memory = !memory;
    for (uint32_t i = 1; i < 5; i++) {
        fill_and_multiply(&m, i);
        device_get(d, at_once, m.c, sizeof(at_once));
        device_zero(d, m.c, sizeof(at_once));
        device_pass_begin(d, 1);
        fill_and_multiply(&m, i);
        device_pass_end(d);
        device_get(d, held, m.c, sizeof(held));
        ok &= memcmp(at_once, held, sizeof(held)) == 0;
    }
    check(ok, "passes with products are what is done at once");
    check(device_pass_counts(d).repeated == (recordable && memory ? 3 : 0) && fake.recordings == 1,
          !recordable ? "work that can't be recorded is issued"
          : !memory   ? "without memory for graphs as well"
                      : "all but the first by a graph");
    drop(&m);
    device_close(d);
}

/* What was launched with more shared memory still has it when others were launched with less. */
static void shared_memory(void)
{
    struct device *d = open_device((size_t)1 << 30);
    static const size_t sizes[] = {70 << 10, 20 << 10, 90 << 10, 60 << 10};
    uint16_t *at = device_alloc(d, 64 * sizeof(*at)), host[64];
    uint32_t differ = 0;
    for (size_t i = 0; i < SP_COUNT(sizes); i++) {
        struct gpu_noise k = {.to = at + 16 * i, .n = 16, .seed = 1};
        device_launch_shared(d, gpu_noise_kernel, (struct device_grid){1, 1},
                             (struct device_grid){GPU_FLAT, 1}, sizes[i], &k);
    }
    device_get(d, host, at, sizeof(host));
    for (size_t i = 0; i < SP_COUNT(host); i++)
        differ |= host[i] ^ host[i % 16];
    check(!differ && host[1] != 0, "kernels with more and less shared memory");
    device_free(d, at);
    device_close(d);
}

/* The made-up CUDA refuses what a device does. */
static void refused(void)
{
    struct device *d = open_device((size_t)1 << 30);
    uint8_t *at = device_alloc(d, 1000), host[1001];
    const void *kernel = ((const struct gpu_handle *)gpu_noise_kernel)->function;
    struct gpu_noise k = {.n = 0};
    void *args[] = {&k};
    cudaStream_t s = NULL;
    cudaEvent_t never;
    float ms;
    SP_ASSERT(cudaStreamCreateWithFlags(&s, cudaStreamNonBlocking) == cudaSuccess);
    SP_ASSERT(cudaEventCreate(&never) == cudaSuccess);
    check(cudaMemcpyAsync(at, host, 1001, cudaMemcpyHostToDevice, s) == cudaErrorInvalidValue &&
              cudaMemcpyAsync(host, at + 1, 1000, cudaMemcpyDeviceToHost, s) ==
                  cudaErrorInvalidValue &&
              cudaMemsetAsync(at + 999, 0, 2, s) == cudaErrorInvalidValue,
          "copies and zeroing beyond what was had are refused");
    check(cudaLaunchKernel(kernel, (dim3){0, 1, 1}, (dim3){1, 1, 1}, args, 0, s) ==
                  cudaErrorInvalidConfiguration &&
              cudaLaunchKernel(kernel, (dim3){1, 65536, 1}, (dim3){1, 1, 1}, args, 0, s) ==
                  cudaErrorInvalidConfiguration &&
              cudaLaunchKernel(kernel, (dim3){1, 1, 1}, (dim3){64, 32, 1}, args, 0, s) ==
                  cudaErrorInvalidConfiguration,
          "grids of no block, of too many, and blocks that are too large are refused");
    SP_ASSERT(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, 1000) ==
              cudaSuccess);
    check(cudaLaunchKernel(kernel, (dim3){1, 1, 1}, (dim3){1, 1, 1}, args, 1001, s) ==
                  cudaErrorInvalidValue &&
              cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                   DEVICE_SHARED_BYTES + 1) == cudaErrorInvalidValue,
          "more shared memory than was asked for, or than there is, is refused");
    check(cudaEventElapsedTime(&ms, never, never) == cudaErrorInvalidResourceHandle,
          "an event that was never recorded has no time");
    SP_ASSERT(device_record(d, 1));
    device_zero(d, at, 1000);
    SP_ASSERT(device_recorded(d) && d->graphs.n == 1);
    device_wait(d);
    SP_ASSERT(cudaFree(at) == cudaSuccess); /* behind the device's back */
    check(cudaGraphLaunch(d->graphs.kept[0].work, s) == cudaErrorIllegalAddress,
          "a graph of memory that was freed is refused");
    SP_ASSERT(cudaEventDestroy(never) == cudaSuccess);
    device_close(d);
}

static void without_services(void)
{
    struct device *d = open_device((size_t)1 << 30);
    size_t n = (size_t)3 << 20;
    fake.no_pinned = fake.no_graphs = true;
    uint8_t *host = sp_xalloc(n), *back = sp_xalloc(n);
    void *memory = device_alloc(d, n);
    memset(host, 7, n);
    device_put(d, memory, host, n);
    memset(host, 0, n);
    device_get(d, back, memory, n);
    memset(host, 7, n);
    check(memcmp(host, back, n) == 0, "copies without pinned memory");
    check(!device_record(d, 1) && !device_replay(d, 1), "no recording");
    device_free(d, memory);
    free(host);
    free(back);
    device_close(d);
}

static void no_memory(void)
{
    struct device *d;
    struct sp_error err = {0};
    fake = (struct fake){.memory_bytes = 1 << 20};
    check(device_open(&d, &err) == SP_ENOMEM, "a device that is full");
}

static void no_kernels(void)
{
    struct device *d;
    struct sp_error err = {0};
    fake = (struct fake){.memory_bytes = (size_t)1 << 30, .no_kernels = true};
    check(device_open(&d, &err) == SP_EUNSUPPORTED && strstr(err.text, "no kernels for made up"),
          "a device that no kernel was built for");
}

int main(void)
{
    no_memory();
    no_kernels();
    for (int i = 0; i < 4; i++)
        alike(i % 2, i / 2 ? ITSELF : NOTHING, false);
    alike(true, RESIDUAL, false);
    alike(true, RESIDUAL, true);
    alike(true, NOTHING, true);
    sums_over_rows();
    borrowed_weights(false);
    borrowed_weights(true);
    short_memory();
    little_memory();
    no_algorithm();
    variant();
    many_shapes();
    many_rows();
    passes(true, true);
    passes(false, true);
    passes(true, false);
    shared_memory();
    refused();
    without_services();
    printf("1..%d\n", tests);
    return failures > 0;
}
