/* backend: the table of operations that the model is written against. A backend's folder is the
 * only place that knows its library or device; the model code stays one.
 *
 * Backends: "cpu" (our own kernels, the default), "openblas" (the same, with its matrix products
 * done by OpenBLAS in blocks of a fixed size; the plain peer that every product is checked
 * against), "cuda" and "cuda-fp32" (an NVIDIA device; in a module that is loaded when asked for,
 * see module.h).
 *
 * Numerics (promise 1). In "cpu" every output of a matrix product is one chain of fused
 * multiply-adds over k = 0, 1, … K-1, in its own lane, whatever the batch, the block and the number
 * of threads; reductions (norms, softmax, log-sum-exp) use TN_LANES virtual lanes, element i in
 * lane i % TN_LANES, and one fixed tree; exp and log are polynomials of our own. So AVX2, AVX-512
 * and plain C give the same bits, decode gives the same bits as the training forward, and the
 * numerics class names no CPU. Products of decoding whose rows are rounded to bf16 (weights_new)
 * are chains over k = 1, 0, 3, 2, … of multiply-adds that take denormals for zero, which is what
 * one instruction computes (cpu/pairs.h); they too have one result everywhere. Gradients that sum
 * over rows do so in row order, split over columns.
 *
 * What a backend stores. Pointers to numbers come in three kinds:
 *     activations (T rows of a layer, and their gradients): void *, of the backend's `activations`
 *     parameters and their gradients: void *, of the backend's `weights`
 *     logits, statistics of norms and softmaxes, rotary tables, vectors of parameters as
 *         they are used (norms' weights, biases): float *, fp32 everywhere
 * The CPU backends and "cuda-fp32" store fp32 alone. "cuda" stores activations as bf16, parameters
 * as fp32 or, after tn_store_weights, as bf16; sums are fp32 in all. tn_at, tn_put and tn_get are
 * for code that doesn't care. All pointers in operations are memory of the backend (ops->alloc); on
 * CPU backends that is ordinary memory, so host arrays can be passed. Ids, positions and tables of
 * rows are host arrays always. One compute thread at a time calls a backend; it has its own worker
 * pool. Operations cannot fail: sizes are checked where memory is planned. No operation allocates:
 * scratch is taken at creation or by ops->reserve. Shapes are row-major; T rows, D hidden, F ffn, V
 * vocabulary, H query heads, G key/value heads, C = head size. */
#ifndef SPIN_TENSOR_BACKEND_H
#define SPIN_TENSOR_BACKEND_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/base/err.h"
#include "common/base/half.h" /* fp32 from and to the 16-bit storage types; there is no convert.h */

#define TN_LANES 16
#define TN_CLASS_BYTES 128

enum tn_dtype { TN_F32 = 0, TN_BF16 = 1, TN_F16 = 2 };

/* One packed sequence: rows [row, row + prompt) are the prompt; then `a` rows of the first branch
 * (the human answer) and `b` rows of the second (the opponent's), each of which attends to the
 * prompt and to itself, never to the other. Positions of both branches go on from the prompt's.
 * A plain sequence has b = 0. */
struct tn_segment {
    int32_t row, prompt, a, b;
};

/* A row of a decode or prefill batch: which cache slot, which position in it. */
struct tn_cache_row {
    int32_t slot, position;
};

/* (row of the logits block, target id, coefficient): one term of Σ coefficient × log p(target). */
struct tn_target {
    int32_t row;
    int32_t id;
    float coefficient;
};

/* How an optimizer's state is stored: see state.h. */
enum tn_state { TN_STATE_F32 = 0, TN_STATE_8BIT = 1 };

struct tn_sample_params {
    float temperature; /* 0: greedy (lowest id among equals) */
    int32_t top_k;     /* 0: off */
    float top_p;       /* 1: off */
};

struct tn_sample_key { /* names one draw: see common/base/rng.h, SP_STREAM_SAMPLE */
    uint64_t seed;
    uint32_t iteration, prompt, sample, position;
};

/* What a decoder asks of R rows of logits, all at once, so that a device is waited for once. */
struct tn_tokens {
    const float *logits; /* (R,V) */
    int32_t R, V;
    int32_t draws;                         /* one token is drawn from each of so many first rows */
    const struct tn_sample_params *params; /* (draws) */
    const struct tn_sample_key *keys;      /* (draws) */
    const struct tn_target *targets;       /* given tokens; coefficients are not read */
    int32_t n_targets;
    /* Results, host arrays. Where a log-sum-exp isn't finite, the others mean nothing. */
    float *lse;   /* (R) */
    int32_t *ids; /* (draws) */
    float *drawn; /* (draws): their log-probabilities */
    float *given; /* (n_targets) */
};

struct tn_backend;  /* an open device with its worker pool */
struct tn_weights;  /* one matrix prepared for products with few rows (decode) */
struct tn_kv_cache; /* keys and values of `slots` sequences for all layers */

struct tn_backend_options {
    int32_t threads; /* 0: cores available to the process */
    const char *isa; /* NULL: the best; "generic", "avx2", "avx512", "avx512bf16" (tests) */
    /* Folder of the modules; NULL or "": SPIN_MODULE_PATH of the environment, else where they were
     * installed. */
    const char *module_path;
    /* "cuda": a row's bits may depend on how many rows there are, where that is faster. Then
     * decoding has not the bits of training, nor a batch those of its parts. */
    bool row_variant;
};

/* Optimizer step over n elements; g is multiplied by g_scale first (clipping). RMSProp's weight
 * decay is added to the gradient; AdamW's shrinks the weights by lr·weight_decay, as in torch.
 * Parameters that are stored as bf16 are rounded up or down at random, by the key (seed, step). */
struct tn_rmsprop {
    float lr, alpha, eps, weight_decay, g_scale;
    int64_t step; /* 1-based number of the update */
    enum tn_state state;
    uint64_t seed;
};
struct tn_adamw {
    float lr, beta1, beta2, eps, weight_decay, g_scale;
    int64_t step; /* and for bias correction */
    enum tn_state state;
    uint64_t seed;
};

/* How full and how busy the device is, for people. */
struct tn_usage {
    /* Bytes; 0: unknown. Of a device: those of all its processes. On a CPU: the process's own, of
     * the machine's. */
    uint64_t memory_used, memory_total;
    uint64_t memory_free; /* what may still be had; 0: unknown */
    uint64_t own_peak;    /* what this backend had of it at most, probes aside; 0: unknown */
    /* Share of the time that it works, 0 to 1; NaN: unknown. On a CPU: of the backend's threads,
     * since the call before. */
    double busy;
};

struct tn_ops {
    /* --- memory --- */
    void *(*alloc)(struct tn_backend *, size_t count, size_t elem_bytes); /* zeroed, NULL: none */
    void (*free)(struct tn_backend *, void *memory);
    void (*upload)(struct tn_backend *, void *to, const void *from_host, size_t bytes);
    void (*download)(struct tn_backend *, void *to_host, const void *from, size_t bytes);
    void (*zero)(struct tn_backend *, void *memory, size_t bytes);
    /* Zeroed memory for an optimizer's state; host: of the host's, where the device reaches it and
     * works on it in place. NULL: none. */
    void *(*state_new)(struct tn_backend *, size_t bytes, bool host);
    void (*state_free)(struct tn_backend *, void *state);
    /* Grows scratch for up to max_rows rows in segments (or cached sequences) of at most `longest`
     * positions, and matrices and vocabularies of at most max_width; false when there is no memory.
     * An operation that needs more grows it by itself and aborts when there is no memory. */
    bool (*reserve)(struct tn_backend *, int32_t max_rows, int32_t longest, int32_t heads,
                    int32_t head_size, int32_t max_width);

    /* --- matrix products; w is (N, K) as Hugging Face stores a linear layer --- */
    /* y(T,N) = x(T,K)·wᵀ, or += when accumulate */
    void (*linear)(struct tn_backend *, void *y, const void *x, const void *w, int32_t T, int32_t N,
                   int32_t K, bool accumulate);
    /* y(T,N) = residual(T,N) + x·wᵀ, y neither of the two: fp32 as by `linear`, then `add`; bf16
     * rounded once */
    void (*linear_residual)(struct tn_backend *, void *y, const void *residual, const void *x,
                            const void *w, int32_t T, int32_t N, int32_t K);
    /* dx(T,K) = dy(T,N)·w, or += */
    void (*linear_bwd_x)(struct tn_backend *, void *dx, const void *dy, const void *w, int32_t T,
                         int32_t N, int32_t K, bool accumulate);
    /* dw(N,K) += dyᵀ·x */
    void (*linear_bwd_w)(struct tn_backend *, void *dw, const void *dy, const void *x, int32_t T,
                         int32_t N, int32_t K);
    /* The same for the output matrix, whose results are logits and not activations. */
    void (*head)(struct tn_backend *, float *logits, const void *x, const void *w, int32_t T,
                 int32_t N, int32_t K);
    void (*head_bwd_x)(struct tn_backend *, void *dx, const float *dlogits, const void *w,
                       int32_t T, int32_t N, int32_t K);
    void (*head_bwd_w)(struct tn_backend *, void *dw, const float *dlogits, const void *x,
                       int32_t T, int32_t N, int32_t K);
    /* Weights prepared once per checkpoint; dtype TN_F32 or TN_BF16 storage; rows TN_F32, or
     * TN_BF16 with bf16 storage: rows are rounded to bf16 before they are multiplied. NULL: no
     * memory. */
    struct tn_weights *(*weights_new)(struct tn_backend *, const void *w, int32_t N, int32_t K,
                                      enum tn_dtype dtype, enum tn_dtype rows);
    /* The same of parameters that stay where they are as long as it, without a copy; NULL: the
     * backend wants one, or has no memory. */
    struct tn_weights *(*weights_view)(struct tn_backend *, const void *w, int32_t N, int32_t K);
    void (*weights_free)(struct tn_backend *, struct tn_weights *);
    /* The same bits as `linear` and `linear_residual` on the same (for bf16: rounded) weights;
     * where rows are rounded too, bits of their own (see above). */
    void (*linear_packed)(struct tn_backend *, void *y, const void *x, const struct tn_weights *w,
                          int32_t T);
    void (*linear_packed_residual)(struct tn_backend *, void *y, const void *residual,
                                   const void *x, const struct tn_weights *w, int32_t T, int32_t N);
    void (*head_packed)(struct tn_backend *, float *logits, const void *x,
                        const struct tn_weights *w, int32_t T);
    /* Vectors of parameters as norms take them: to = from + shift. */
    void (*widen)(struct tn_backend *, float *to, const void *from, float shift, size_t n);

    /* --- pointwise and norms --- */
    void (*embed)(struct tn_backend *, void *y, const void *table, const int32_t *ids, int32_t T,
                  int32_t D);
    void (*embed_bwd)(struct tn_backend *, void *dtable, const void *dy, const int32_t *ids,
                      int32_t T, int32_t D, int32_t V); /* rows of one id add in row order */
    /* y(n,D) = rows of x; and back: rows of x(T,D), each once, += y(n,D) */
    void (*gather_rows)(struct tn_backend *, void *y, const void *x, const int32_t *rows, int32_t n,
                        int32_t D);
    void (*scatter_rows)(struct tn_backend *, void *x, const void *y, const int32_t *rows,
                         int32_t n, int32_t T, int32_t D);
    void (*add)(struct tn_backend *, void *y, const void *x, size_t n); /* y += x */
    /* y = x · rstd · w, rstd(T) kept for the backward. Zhang & Sennrich 2019 (arXiv 1910.07467). */
    void (*rmsnorm)(struct tn_backend *, void *y, float *rstd, const void *x, const float *w,
                    int32_t T, int32_t D, float eps);
    /* dx += …, dw += … */
    void (*rmsnorm_bwd)(struct tn_backend *, void *dx, void *dw, const void *dy, const void *x,
                        const float *w, const float *rstd, int32_t T, int32_t D);
    /* Rotates pairs (i, i + R/2) of each head of x(T, heads, C), rows `stride` floats apart, by the
     * angle tables cos, sin (positions, R/2); inverse for the backward. R = rotary, or C when that
     * is 0; dimensions from R on stay. Su et al. (arXiv 2104.09864), in the half-split form of
     * Hugging Face's Llama. */
    void (*rope)(struct tn_backend *, void *x, int32_t T, int32_t heads, int32_t C, int32_t stride,
                 const int32_t *positions, const float *cos, const float *sin, bool inverse,
                 int32_t rotary);
    /* y = x·scale + shift, rounded once; y may be x */
    void (*affine)(struct tn_backend *, void *y, const void *x, float scale, float shift, size_t n);
    /* y(T,N) += b(N), and its gradient: db += Σ over rows of dy, in row order */
    void (*bias)(struct tn_backend *, void *y, const float *b, int32_t T, int32_t N);
    void (*bias_bwd)(struct tn_backend *, void *db, const void *dy, int32_t T, int32_t N);
    /* y = (x − mean) · rstd · w + b; stats(T,2): mean and rstd, for the backward. Ba et al. 2016
     * (arXiv 1607.06450). */
    void (*layernorm)(struct tn_backend *, void *y, float *stats, const void *x, const float *w,
                      const float *b, int32_t T, int32_t D, float eps);
    /* dx += …, dw += … (db is bias_bwd of dy) */
    void (*layernorm_bwd)(struct tn_backend *, void *dx, void *dw, const void *dy, const void *x,
                          const float *w, const float *stats, int32_t T, int32_t D);
    /* RMSNorm of each head of x(T, heads, C), rows `stride` floats apart, into y of the same
     * layout; one w(C) for all heads; rstd(T, heads). */
    void (*head_norm)(struct tn_backend *, void *y, float *rstd, const void *x, const float *w,
                      int32_t T, int32_t heads, int32_t C, int32_t stride, float eps);
    /* dy becomes dx in place; dw += …, by row, then head. heads·C at most the widest reserved. */
    void (*head_norm_bwd)(struct tn_backend *, void *dy, void *dw, const void *x, const float *w,
                          const float *rstd, int32_t T, int32_t heads, int32_t C, int32_t stride);
    /* y(T,F) = silu(g) · u, where gu(T,2F) holds g in columns [0,F) and u in [F,2F) */
    void (*swiglu)(struct tn_backend *, void *y, const void *gu, int32_t T, int32_t F);
    void (*swiglu_bwd)(struct tn_backend *, void *dgu, const void *dy, const void *gu, int32_t T,
                       int32_t F);

    /* The same with gelu(g), tanh form (GeGLU). */
    void (*geglu)(struct tn_backend *, void *y, const void *gu, int32_t T, int32_t F);
    void (*geglu_bwd)(struct tn_backend *, void *dgu, const void *dy, const void *gu, int32_t T,
                      int32_t F);
    /* y = gelu(x): x·Φ(x), or with `tanh` its approximation; dx = gradient (overwritten; dx may be
     * dy). Hendrycks & Gimpel (arXiv 1606.08415). */
    void (*gelu)(struct tn_backend *, void *y, const void *x, size_t n, bool tanh);
    void (*gelu_bwd)(struct tn_backend *, void *dx, const void *dy, const void *x, size_t n,
                     bool tanh);

    /* --- attention over packed segments ---
     * qkv(T, (H+2G)·C): queries, keys, values of a row side by side, rotated already.
     * out(T, H·C); lse(T,H): log-sum-exp of the scaled scores, for the backward.
     * window 0: full causal; else a row sees the last `window` logical positions, itself among
     * them. softcap 0: none; else a scaled score s becomes softcap·tanh(s / softcap). */
    void (*attention)(struct tn_backend *, void *out, float *lse, const void *qkv, int32_t T,
                      const struct tn_segment *segments, int32_t n_segments, int32_t H, int32_t G,
                      int32_t C, float scale, int32_t window, float softcap);
    /* dqkv = gradient (overwritten). Probabilities are recomputed from lse. */
    void (*attention_bwd)(struct tn_backend *, void *dqkv, const void *dout, const void *out,
                          const float *lse, const void *qkv, int32_t T,
                          const struct tn_segment *segments, int32_t n_segments, int32_t H,
                          int32_t G, int32_t C, float scale, int32_t window, float softcap);

    /* --- logits --- */
    /* x = cap·tanh(x / cap) in place. */
    void (*softcap)(struct tn_backend *, float *x, float cap, size_t n);
    /* lse(R) of logits(R,V); argmax may be NULL (host array). */
    void (*row_lse)(struct tn_backend *, float *lse_host, int32_t *argmax_host, const float *logits,
                    int32_t R, int32_t V);
    /* logprob_host[i] = logits[row_i][id_i] - lse[row_i] */
    void (*gather_logprob)(struct tn_backend *, float *logprob_host, const float *logits,
                           const float *lse_host, const struct tn_target *targets, int32_t n,
                           int32_t V);
    /* In place: dlogits = Σ coefficient·(onehot(id) − softmax), the gradient of
     * Σ coefficient·log p. Targets sorted by row. */
    void (*logits_bwd)(struct tn_backend *, float *logits, const float *lse_host,
                       const struct tn_target *targets, int32_t n, int32_t R, int32_t V);
    /* The same of logits that went through softcap: the gradient before it. At most 4·V targets a
     * row. */
    void (*logits_bwd_capped)(struct tn_backend *, float *logits, const float *lse_host,
                              const struct tn_target *targets, int32_t n, int32_t R, int32_t V,
                              float cap);
    /* ids_host(R): one draw a row. Order of ties, top-k and top-p: higher logit first, then lower
     * id. V up to 2^20. */
    void (*sample)(struct tn_backend *, int32_t *ids_host, const float *logits, int32_t R,
                   int32_t V, const struct tn_sample_params *params,
                   const struct tn_sample_key *keys);

    /* row_lse, sample and gather_logprob in one */
    void (*tokens)(struct tn_backend *, const struct tn_tokens *);

    /* --- passes: what is launched again and again ---
     * Around the operations of a pass that will be repeated with other numbers in the same memory.
     * A device may hold their launches back until pass_end, and do them as one. Nothing may be read
     * from the device in between. */
    void (*pass_begin)(struct tn_backend *, uint64_t key); /* key: passes that may be alike */
    void (*pass_end)(struct tn_backend *);

    /* --- KV cache: slots × max_positions for every layer; dtype TN_F32 or TN_BF16 ---
     * positions: what all slots together hold at most, in a backend that hands memory out by pages;
     * 0, and in others: all that they can. */
    struct tn_kv_cache *(*cache_new)(struct tn_backend *, int32_t layers, int32_t slots,
                                     int32_t max_positions, int32_t G, int32_t C,
                                     enum tn_dtype dtype, size_t positions);
    void (*cache_free)(struct tn_backend *, struct tn_kv_cache *);
    /* Forgets the slot's positions from `kept` on, and makes sure that all up to `positions` can be
     * put: to be asked before a sequence is begun where `positions` of all was limited. false: not
     * now. */
    bool (*cache_reserve)(struct tn_backend *, struct tn_kv_cache *, int32_t slot, int32_t kept,
                          int32_t positions);
    /* Puts the K and V of each row of qkv at its slot and position. */
    void (*cache_put)(struct tn_backend *, struct tn_kv_cache *, int32_t layer, const void *qkv,
                      const struct tn_cache_row *rows, int32_t T, int32_t H);
    /* Row i attends to positions 0 … rows[i].position of its slot. Same bits as `attention` for an
     * fp32 cache. */
    void (*cache_attention)(struct tn_backend *, void *out, const void *qkv, struct tn_kv_cache *,
                            int32_t layer, const struct tn_cache_row *rows, int32_t T, int32_t H,
                            float scale, int32_t window, float softcap);
    /* Copies positions [0, n) of slot `from` to slot `to` in every layer (shared prefixes). */
    void (*cache_copy)(struct tn_backend *, struct tn_kv_cache *, int32_t from, int32_t to,
                       int32_t n);

    /* --- optimizer --- */
    double (*sum_squares)(struct tn_backend *, const void *x, size_t n); /* not finite if any is */
    void (*rmsprop)(struct tn_backend *, void *w, const void *g, void *v, size_t n,
                    const struct tn_rmsprop *);
    void (*adamw)(struct tn_backend *, void *w, const void *g, void *m, void *v, size_t n,
                  const struct tn_adamw *);

    /* --- the backend itself: see tn_close, tn_probe and tn_usage --- */
    void (*close)(struct tn_backend *);
    double (*probe)(struct tn_backend *);
    double (*bandwidth)(struct tn_backend *); /* NULL: not measured */
    void (*usage)(struct tn_backend *, struct tn_usage *ret);
};

struct tn_backend {
    const struct tn_ops *ops;
    const char *name; /* as it was opened: "cpu", "openblas", "cuda", "cuda-fp32" */
    /* What bits depend on: "cpu r1", "openblas r1 0.3.21 SkylakeX". */
    char numerics_class[TN_CLASS_BYTES];
    char device[128]; /* for people: "2 threads, avx512" */
    int32_t threads;
    enum tn_dtype activations, weights; /* how they are stored: TN_F32 or TN_BF16 */
    bool has_memory; /* ops->alloc gives a device's memory, which nothing else on the host needs */
    void *state;     /* the backend's own */
};

/* Opens a backend by name. SP_EUNSUPPORTED names the known ones. What a module may lack is said by
 * its name, with the remedy: SP_ENOTFOUND (no module), SP_EVERSION (a module of another version),
 * SP_EUNSUPPORTED (no driver, an old one, no device), SP_ENOMEM (the device's memory is taken). */
enum sp_err tn_open(const char *name, const struct tn_backend_options *options,
                    struct tn_backend **ret, struct sp_error *err) SP_MUST_USE;
void tn_close(struct tn_backend *backend); /* NULL is fine */
/* How parameters and gradients of models are stored from now on: TN_F32, as after tn_open, or in
 * "cuda" TN_BF16 (SP_EUNSUPPORTED elsewhere). No model of the backend may be alive. */
enum sp_err tn_store_weights(struct tn_backend *backend, enum tn_dtype dtype,
                             struct sp_error *err) SP_MUST_USE;
/* The numerics class by name, without taking the device's memory or starting the pool. */
enum sp_err tn_numerics_class(const char *name, char ret[TN_CLASS_BYTES],
                              struct sp_error *err) SP_MUST_USE;
/* Element i of numbers that are stored so. */
static inline size_t tn_unit(enum tn_dtype dtype)
{
    return dtype == TN_F32 ? sizeof(float) : sizeof(uint16_t);
}
static inline void *tn_at(void *numbers, enum tn_dtype dtype, size_t i)
{
    return (char *)numbers + i * tn_unit(dtype);
}
static inline const void *tn_const_at(const void *numbers, enum tn_dtype dtype, size_t i)
{
    return (const char *)numbers + i * tn_unit(dtype);
}
/* Between fp32 of the host and the backend's memory, rounded to nearest even. */
void tn_put(struct tn_backend *backend, void *to, enum tn_dtype dtype, const float *from_host,
            size_t n);
void tn_get(struct tn_backend *backend, float *to_host, const void *from, enum tn_dtype dtype,
            size_t n);
/* Floating-point operations per second that the backend reaches in multiply-adds on what fits the
 * first cache, "cuda" in products of large bf16 matrices: the limit that figures are compared with.
 * Takes some 30 ms; allocates. */
double tn_probe(struct tn_backend *backend);
/* Bytes per second that copies in its memory read and write; 0: not measured. Takes some
 * milliseconds, and up to 2 GiB of a device's memory. */
double tn_bandwidth(struct tn_backend *backend);
/* Any thread. */
void tn_usage(struct tn_backend *backend, struct tn_usage *ret);

#endif
