/* cpu: opens the CPU backend, and its memory. */
#include "common/tensor/cpu/cpu.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/limits.h"
#include "common/base/mem.h"
#include "common/tensor/backend.h"
#include "common/tensor/plain.h"

bool tn_scratch_grow(struct tn_scratch *scratch, size_t bytes)
{
    if (bytes <= scratch->bytes)
        return true;
    sp_free_block(scratch->block);
    scratch->bytes = 0;
    scratch->block = sp_alloc_block(bytes, 1);
    if (!scratch->block)
        return false;
    scratch->bytes = bytes;
    return true;
}

float *tn_shared_scratch(struct tn_cpu *cpu, size_t floats)
{
    SP_ASSERT(tn_scratch_grow(&cpu->shared, floats * sizeof(float)));
    return cpu->shared.block;
}

float *tn_own_scratch(struct tn_cpu *cpu, int32_t worker, size_t floats)
{
    SP_ASSERT(tn_scratch_grow(&cpu->own[worker], floats * sizeof(float)));
    return cpu->own[worker].block;
}

static void *cpu_alloc(struct tn_backend *backend, size_t count, size_t elem_bytes)
{
    return sp_alloc_block(count, elem_bytes);
}

static void cpu_free(struct tn_backend *backend, void *memory)
{
    sp_free_block(memory);
}

static void cpu_upload(struct tn_backend *backend, void *to, const void *from_host, size_t bytes)
{
    memcpy(to, from_host, bytes);
}

static void cpu_download(struct tn_backend *backend, void *to_host, const void *from, size_t bytes)
{
    memcpy(to_host, from, bytes);
}

static void cpu_zero(struct tn_backend *backend, void *memory, size_t bytes)
{
    memset(memory, 0, bytes);
}

bool tn_cpu_reserve(struct tn_backend *backend, int32_t max_rows, int32_t longest, int32_t heads,
                    int32_t head_size, int32_t max_width)
{
    struct tn_cpu *cpu = tn_cpu_of(backend);
    size_t shared, own;
    size_t products = tn_gemm_scratch(cpu, max_rows, max_width);
    tn_attention_scratch(cpu->kern, longest, heads, head_size, &shared, &own);
    shared = SP_MAX(shared, products);
    own = SP_MAX(own, 4 * (size_t)max_width); /* sampling with top-k or top-p */
    bool ok = tn_scratch_grow(&cpu->shared, shared * sizeof(float));
    for (int32_t i = 0; ok && i < cpu->threads; i++)
        ok = tn_scratch_grow(&cpu->own[i], own * sizeof(float));
    return ok;
}

static const struct tn_ops cpu_ops = {
    .alloc = cpu_alloc,
    .free = cpu_free,
    .upload = cpu_upload,
    .download = cpu_download,
    .zero = cpu_zero,
    .reserve = tn_cpu_reserve,
    .linear = tn_cpu_linear,
    .linear_bwd_x = tn_cpu_linear_bwd_x,
    .linear_bwd_w = tn_cpu_linear_bwd_w,
    .weights_new = tn_cpu_weights_new,
    .weights_free = tn_cpu_weights_free,
    .linear_packed = tn_cpu_linear_packed,
    .embed = tn_cpu_embed,
    .embed_bwd = tn_cpu_embed_bwd,
    .add = tn_cpu_add,
    .rmsnorm = tn_cpu_rmsnorm,
    .rmsnorm_bwd = tn_cpu_rmsnorm_bwd,
    .rope = tn_cpu_rope,
    .affine = tn_cpu_affine,
    .bias = tn_cpu_bias,
    .bias_bwd = tn_cpu_bias_bwd,
    .layernorm = tn_cpu_layernorm,
    .layernorm_bwd = tn_cpu_layernorm_bwd,
    .head_norm = tn_cpu_head_norm,
    .head_norm_bwd = tn_cpu_head_norm_bwd,
    .geglu = tn_cpu_geglu,
    .geglu_bwd = tn_cpu_geglu_bwd,
    .gelu = tn_cpu_gelu,
    .gelu_bwd = tn_cpu_gelu_bwd,
    .softcap = tn_cpu_softcap,
    .logits_bwd_capped = tn_cpu_logits_bwd_capped,
    .swiglu = tn_cpu_swiglu,
    .swiglu_bwd = tn_cpu_swiglu_bwd,
    .attention = tn_cpu_attention,
    .attention_bwd = tn_cpu_attention_bwd,
    .row_lse = tn_cpu_row_lse,
    .gather_logprob = tn_cpu_gather_logprob,
    .logits_bwd = tn_cpu_logits_bwd,
    .sample = tn_cpu_sample,
    .cache_new = tn_cpu_cache_new,
    .cache_free = tn_cpu_cache_free,
    .cache_put = tn_cpu_cache_put,
    .cache_attention = tn_cpu_cache_attention,
    .cache_copy = tn_cpu_cache_copy,
    .sum_squares = tn_cpu_sum_squares,
    .rmsprop = tn_cpu_rmsprop,
    .adamw = tn_cpu_adamw,
    .close = tn_cpu_close,
    .probe = tn_cpu_probe,
    .usage = tn_cpu_usage,
    PLAIN_OPERATIONS,
};

static bool has_generic(void)
{
    return true;
}

#if defined(__x86_64__)
static bool has_avx2(void)
{
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
}

static bool has_avx512(void)
{
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") &&
           __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("fma");
}

static bool has_avx512bf16(void)
{
    return has_avx512() && __builtin_cpu_supports("avx512bf16");
}
#endif

/* The best first. */
static const struct isa {
    const char *name;
    const struct tn_kern *kern;
    const struct tn_pairs *pairs;
    bool (*has)(void);
} isas[] = {
#if defined(__x86_64__)
    {"avx512bf16", &tn_kern_avx512, &tn_pairs_avx512bf16, has_avx512bf16},
    {"avx512", &tn_kern_avx512, &tn_pairs_avx512, has_avx512},
    {"avx2", &tn_kern_avx2, &tn_pairs_avx2, has_avx2},
#endif
    {"generic", &tn_kern_generic, &tn_pairs_generic, has_generic},
};

static const struct isa *choose(const char *name)
{
#if defined(__x86_64__)
    __builtin_cpu_init();
#endif
    for (size_t i = 0; i < SP_COUNT(isas); i++)
        if ((!name || strcmp(name, isas[i].name) == 0) && isas[i].has())
            return &isas[i];
    return NULL;
}

enum sp_err tn_cpu_open(const struct tn_backend_options *options, struct tn_backend **ret,
                        struct sp_error *err)
{
    const struct isa *isa = choose(options ? options->isa : NULL);
    if (!isa)
        return sp_fail(
            err, SP_EUNSUPPORTED,
            "instruction set %s: not known, or not of this CPU; known are generic, avx2, "
            "avx512 and avx512bf16",
            options->isa);
    int32_t threads = options ? options->threads : 0;
    if (threads <= 0)
        threads = tn_pool_cores();
    threads = SP_MIN(threads, (int32_t)SP_MAX_THREADS);
    struct tn_backend *backend = sp_xalloc(sizeof(*backend));
    struct tn_cpu *cpu = sp_xalloc(sizeof(*cpu));
    backend->ops = &cpu_ops;
    backend->state = cpu;
    backend->threads = cpu->threads = threads;
    cpu->kern = isa->kern;
    cpu->pairs = isa->pairs;
    cpu->own = sp_xarray((size_t)threads, sizeof(*cpu->own));
    enum sp_err rc = tn_pool_new(threads, &cpu->pool, err);
    if (rc != SP_OK) {
        tn_close(backend);
        return rc;
    }
    backend->name = "cpu";
    snprintf(backend->numerics_class, sizeof(backend->numerics_class), "cpu r%d",
             TN_NUMERICS_REVISION);
    snprintf(backend->device, sizeof(backend->device), "%d thread%s, %s", threads,
             threads == 1 ? "" : "s", isa->name);
    *ret = backend;
    return SP_OK;
}

void tn_cpu_close(struct tn_backend *backend)
{
    struct tn_cpu *cpu = tn_cpu_of(backend);
    tn_pool_free(cpu->pool);
    for (int32_t i = 0; i < cpu->threads; i++)
        sp_free_block(cpu->own[i].block);
    sp_free_block(cpu->shared.block);
    free(cpu->own);
    free(cpu);
    free(backend);
}
