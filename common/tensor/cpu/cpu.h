/* cpu: what the files of the CPU backend share. The backend's state holds the pool, the kernels of
 * the chosen instruction set and scratch memory: one block shared by all workers and one block for
 * each. Scratch grows when an operation needs more than was reserved, which is for callers that
 * don't plan; with tn_ops.reserve called for the largest shapes no operation allocates. */
#ifndef SPIN_TENSOR_CPU_H
#define SPIN_TENSOR_CPU_H

#include <stdatomic.h>

#include "common/tensor/backend.h"
#include "common/tensor/cpu/kern.h"
#include "common/tensor/cpu/pairs.h"
#include "common/tensor/cpu/pool.h"

#define TN_NUMERICS_REVISION 1

struct tn_scratch {
    void *block;
    size_t bytes;
};

struct tn_cpu {
    const struct tn_kern *kern;
    const struct tn_pairs *pairs;
    struct tn_pool *pool;
    int32_t threads;
    struct tn_scratch shared;
    struct tn_scratch *own;                 /* one for each worker */
    struct tn_ops ops;                      /* of a backend that replaces some: see openblas.c */
    int32_t block_rows;                     /* of such a backend's calls of its library */
    atomic_uint_least64_t used_ns, wall_ns; /* processor time and clock at the newest tn_usage */
};

static inline struct tn_cpu *tn_cpu_of(struct tn_backend *backend)
{
    return backend->state;
}
static inline int32_t tn_ceil_div(int32_t a, int32_t b)
{
    return (int32_t)(((int64_t)a + b - 1) / b);
}
static inline size_t tn_round_up(size_t n, size_t unit)
{
    return (n + unit - 1) / unit * unit;
}
/* First of part `part` when n items are split evenly into `parts`. */
static inline int32_t tn_split(int32_t n, int32_t parts, int32_t part)
{
    return (int32_t)((int64_t)n * part / parts);
}

/* Grows; aborts when there is no memory (an operation can't fail; reserve can). */
float *tn_shared_scratch(struct tn_cpu *cpu, size_t floats);
float *tn_own_scratch(struct tn_cpu *cpu, int32_t worker, size_t floats);
bool tn_scratch_grow(struct tn_scratch *scratch, size_t bytes);

/* A matrix product C(M,N) = or += A(M,K)·B(K,N); C row-major with rows of N. Element A[m][k] is
 * a[m·a_row + k·a_col], B[k][n] is b[k·b_row + n·b_col]; one stride of each is 1. */
struct tn_gemm {
    int32_t M, N, K;
    const float *a;
    size_t a_row, a_col;
    const float *b;
    size_t b_row, b_col;
    float *c;
    bool accumulate;
};
void tn_gemm_run(struct tn_cpu *cpu, const struct tn_gemm *gemm);

/* B packed once: panels of nr columns, [N/nr][K][nr] (fp32), [N/nr][K][nr/2 words] (bf16), or for
 * rows that are rounded too [N/nr][K/2][nr words] (see pairs.h). */
struct tn_weights {
    int32_t N, K, nr;
    enum tn_dtype dtype, rows;
    void *panels;
};

/* The key/value cache: for layer, slot, key head: K in blocks of nr positions transposed,
 * [block][C][nr], and V as [position][padded C], both fp32 or bf16 pairs as kern.panels reads. */
struct tn_kv_cache {
    int32_t layers, slots, blocks, G, C, padded, nr; /* positions = blocks · nr */
    enum tn_dtype dtype;
    size_t k_head, v_head; /* bytes of one head's K and V */
    uint8_t *k, *v;
};

/* Scratch needed for attention, in floats: shared, and for each worker. */
void tn_attention_scratch(const struct tn_kern *kern, int32_t longest, int32_t heads, int32_t C,
                          size_t *ret_shared, size_t *ret_own);
size_t tn_gemm_scratch(const struct tn_cpu *cpu, int32_t max_rows, int32_t max_width);
size_t tn_packed_scratch(int32_t max_rows, int32_t max_width);

/* operations, by file */
bool tn_cpu_reserve(struct tn_backend *, int32_t max_rows, int32_t longest, int32_t heads,
                    int32_t head_size, int32_t max_width);
void tn_cpu_linear(struct tn_backend *, void *y, const void *x, const void *w, int32_t T, int32_t N,
                   int32_t K, bool accumulate);
void tn_cpu_linear_bwd_x(struct tn_backend *, void *dx, const void *dy, const void *w, int32_t T,
                         int32_t N, int32_t K, bool accumulate);
void tn_cpu_linear_bwd_w(struct tn_backend *, void *dw, const void *dy, const void *x, int32_t T,
                         int32_t N, int32_t K);
struct tn_weights *tn_cpu_weights_new(struct tn_backend *, const void *w, int32_t N, int32_t K,
                                      enum tn_dtype dtype, enum tn_dtype rows);
void tn_cpu_weights_free(struct tn_backend *, struct tn_weights *);
void tn_cpu_linear_packed(struct tn_backend *, void *y, const void *x, const struct tn_weights *w,
                          int32_t T);

void tn_cpu_embed(struct tn_backend *, void *y, const void *table, const int32_t *ids, int32_t T,
                  int32_t D);
void tn_cpu_embed_bwd(struct tn_backend *, void *dtable, const void *dy, const int32_t *ids,
                      int32_t T, int32_t D, int32_t V);
void tn_cpu_add(struct tn_backend *, void *y, const void *x, size_t n);
void tn_cpu_rmsnorm(struct tn_backend *, void *y, float *rstd, const void *x, const float *w,
                    int32_t T, int32_t D, float eps);
void tn_cpu_rmsnorm_bwd(struct tn_backend *, void *dx, void *dw, const void *dy, const void *x,
                        const float *w, const float *rstd, int32_t T, int32_t D);
void tn_cpu_rope(struct tn_backend *, void *x, int32_t T, int32_t heads, int32_t C, int32_t stride,
                 const int32_t *positions, const float *cos, const float *sin, bool inverse,
                 int32_t rotary);
void tn_cpu_affine(struct tn_backend *, void *y, const void *x, float scale, float shift, size_t n);
void tn_cpu_bias(struct tn_backend *, void *y, const float *b, int32_t T, int32_t N);
void tn_cpu_bias_bwd(struct tn_backend *, void *db, const void *dy, int32_t T, int32_t N);
void tn_cpu_layernorm(struct tn_backend *, void *y, float *stats, const void *x, const float *w,
                      const float *b, int32_t T, int32_t D, float eps);
void tn_cpu_layernorm_bwd(struct tn_backend *, void *dx, void *dw, const void *dy, const void *x,
                          const float *w, const float *stats, int32_t T, int32_t D);
void tn_cpu_head_norm(struct tn_backend *, void *y, float *rstd, const void *x, const float *w,
                      int32_t T, int32_t heads, int32_t C, int32_t stride, float eps);
void tn_cpu_head_norm_bwd(struct tn_backend *, void *dy, void *dw, const void *x, const float *w,
                          const float *rstd, int32_t T, int32_t heads, int32_t C, int32_t stride);
void tn_cpu_geglu(struct tn_backend *, void *y, const void *gu, int32_t T, int32_t F);
void tn_cpu_geglu_bwd(struct tn_backend *, void *dgu, const void *dy, const void *gu, int32_t T,
                      int32_t F);
void tn_cpu_gelu(struct tn_backend *, void *y, const void *x, size_t n, bool tanh);
void tn_cpu_gelu_bwd(struct tn_backend *, void *dx, const void *dy, const void *x, size_t n,
                     bool tanh);
void tn_cpu_softcap(struct tn_backend *, float *x, float cap, size_t n);
void tn_cpu_swiglu(struct tn_backend *, void *y, const void *gu, int32_t T, int32_t F);
void tn_cpu_swiglu_bwd(struct tn_backend *, void *dgu, const void *dy, const void *gu, int32_t T,
                       int32_t F);
double tn_cpu_sum_squares(struct tn_backend *, const void *x, size_t n);
void tn_cpu_rmsprop(struct tn_backend *, void *w, const void *g, void *v, size_t n,
                    const struct tn_rmsprop *);
void tn_cpu_adamw(struct tn_backend *, void *w, const void *g, void *m, void *v, size_t n,
                  const struct tn_adamw *);
void tn_cpu_rmsprop_8bit(struct tn_cpu *cpu, float *w, const float *g, void *v, size_t n,
                         const struct tn_rmsprop *options);
void tn_cpu_adamw_8bit(struct tn_cpu *cpu, float *w, const float *g, void *m, void *v, size_t n,
                       const struct tn_adamw *options, float correction1, float correction2);

void tn_cpu_attention(struct tn_backend *, void *out, float *lse, const void *qkv, int32_t T,
                      const struct tn_segment *segments, int32_t n_segments, int32_t H, int32_t G,
                      int32_t C, float scale, int32_t window, float softcap);
void tn_cpu_attention_bwd(struct tn_backend *, void *dqkv, const void *dout, const void *out,
                          const float *lse, const void *qkv, int32_t T,
                          const struct tn_segment *segments, int32_t n_segments, int32_t H,
                          int32_t G, int32_t C, float scale, int32_t window, float softcap);

void tn_cpu_row_lse(struct tn_backend *, float *lse_host, int32_t *argmax_host, const float *logits,
                    int32_t R, int32_t V);
void tn_cpu_gather_logprob(struct tn_backend *, float *logprob_host, const float *logits,
                           const float *lse_host, const struct tn_target *targets, int32_t n,
                           int32_t V);
void tn_cpu_logits_bwd(struct tn_backend *, float *logits, const float *lse_host,
                       const struct tn_target *targets, int32_t n, int32_t R, int32_t V);
void tn_cpu_logits_bwd_capped(struct tn_backend *, float *logits, const float *lse_host,
                              const struct tn_target *targets, int32_t n, int32_t R, int32_t V,
                              float cap);
void tn_cpu_sample(struct tn_backend *, int32_t *ids_host, const float *logits, int32_t R,
                   int32_t V, const struct tn_sample_params *params,
                   const struct tn_sample_key *keys);

struct tn_kv_cache *tn_cpu_cache_new(struct tn_backend *, int32_t layers, int32_t slots,
                                     int32_t max_positions, int32_t G, int32_t C,
                                     enum tn_dtype dtype, size_t positions);
void tn_cpu_cache_free(struct tn_backend *, struct tn_kv_cache *);
void tn_cpu_cache_put(struct tn_backend *, struct tn_kv_cache *, int32_t layer, const void *qkv,
                      const struct tn_cache_row *rows, int32_t T, int32_t H);
void tn_cpu_cache_attention(struct tn_backend *, void *out, const void *qkv, struct tn_kv_cache *,
                            int32_t layer, const struct tn_cache_row *rows, int32_t T, int32_t H,
                            float scale, int32_t window, float softcap);
void tn_cpu_cache_copy(struct tn_backend *, struct tn_kv_cache *, int32_t from, int32_t to,
                       int32_t n);

void tn_cpu_close(struct tn_backend *backend);
double tn_cpu_probe(struct tn_backend *backend);
void tn_cpu_usage(struct tn_backend *backend, struct tn_usage *ret);

/* Opens the "cpu" backend; the "openblas" one starts from it. */
enum sp_err tn_cpu_open(const struct tn_backend_options *options, struct tn_backend **ret,
                        struct sp_error *err) SP_MUST_USE;
enum sp_err tn_openblas_open(const struct tn_backend_options *options, struct tn_backend **ret,
                             struct sp_error *err) SP_MUST_USE;
void tn_openblas_class(char ret[TN_CLASS_BYTES]);

#endif
