/* kernels: every kernel with its arguments. The host's side fills them in (ops_*.c), the device's
 * reads them (*.cu). Pointers are the device's. Shapes are row-major, letters as in backend.h. */
#ifndef SPIN_TENSOR_CUDA_KERNELS_H
#define SPIN_TENSOR_CUDA_KERNELS_H

#include <stddef.h>
#include <stdint.h>

#define GPU_LANES 16     /* TN_LANES: virtual lanes of every reduction */
#define GPU_ROWS 8       /* rows of a block of (GPU_LANES, GPU_ROWS) threads */
#define GPU_FLAT 256     /* threads of a block over elements or columns */
#define GPU_TILE 16      /* rows and columns of a product's tile, and steps of k at a time */
#define GPU_ATTEND 128   /* threads of a block of attention */
#define GPU_MAX_HEAD 512 /* head size */
#define GPU_CHUNK 65536  /* elements of one partial sum of squares, as in cpu/pointwise.c */
#define GPU_SAMPLE 512   /* ids of a partial sum of probabilities, as in cpu/sample.c */

/* Work that is held back is compared byte by byte with that of the last time (device_pass.c). So
 * structs of arguments that it has say of all their bytes what they are: where a compiler would
 * leave some behind the members, which may be anything, there is one more of them (padding.c). */
struct gpu_handle { /* what a kernel's handle points to */
    const void *function;
    size_t args_bytes;
};
#ifdef __cplusplus
#define GPU_HANDLE(name) extern "C" const void *const name##_kernel
#else
#define GPU_HANDLE(name) extern const void *const name##_kernel
#endif

/* --- rows, columns, elements (norms.cu, pointwise.cu) --- */

/* What an operation takes; which member is what stands at the kernel. */
struct gpu_work {
    float *y, *y2, *y3;
    const float *a, *b, *c, *d;
    const int32_t *ids;
    size_t n;             /* elements, or rows */
    size_t stride;        /* floats between rows */
    int32_t T, D;         /* rows, columns */
    int32_t heads, C;     /* heads of a row, columns of a head */
    int32_t rotary, flag; /* flag: inverse, tanh, accumulate */
    float p, q;
    float o[10]; /* an optimizer's numbers */
};
GPU_HANDLE(gpu_rmsnorm);
GPU_HANDLE(gpu_rmsnorm_dx);
GPU_HANDLE(gpu_rmsnorm_dw);
GPU_HANDLE(gpu_layernorm);
GPU_HANDLE(gpu_layernorm_dx);
GPU_HANDLE(gpu_layernorm_dw);
GPU_HANDLE(gpu_embed);
GPU_HANDLE(gpu_embed_bwd);
GPU_HANDLE(gpu_add);
GPU_HANDLE(gpu_affine);
GPU_HANDLE(gpu_bias);
GPU_HANDLE(gpu_bias_bwd);
GPU_HANDLE(gpu_rope);
GPU_HANDLE(gpu_swiglu);
GPU_HANDLE(gpu_swiglu_bwd);
GPU_HANDLE(gpu_geglu);
GPU_HANDLE(gpu_geglu_bwd);
GPU_HANDLE(gpu_gelu);
GPU_HANDLE(gpu_gelu_bwd);
GPU_HANDLE(gpu_softcap);
GPU_HANDLE(gpu_rmsprop);
GPU_HANDLE(gpu_adamw);

struct gpu_squares {
    double *sums; /* one for each chunk */
    const float *x;
    size_t n;
};
GPU_HANDLE(gpu_sum_squares);

/* --- products (products.cu) --- */

/* C(M,N) = or += A·B, each output one chain over k: A[m][k] is a[m·a_row + k·a_col], B[k][n] is
 * b[k·b_row + n·b_col]. */
struct gpu_product {
    float *c;
    const float *a;
    const void *b; /* fp32, or bf16 */
    size_t a_row, a_col, b_row, b_col;
    int32_t M, N, K;
    int32_t accumulate, b_bf16;
    int32_t
        pairs; /* rows of A rounded to bf16, k = 1, 0, 3, 2, …, denormals as zero: cpu/pairs.h */
};
GPU_HANDLE(gpu_product);

/* --- attention (attention.cu, attention_bwd.cu) --- */

/* A row whose queries attend. Keys are rows of k and v: logical position j is row first + j below
 * `prompt`, and branch + j - prompt from there on. */
struct gpu_query {
    int32_t row, first, prompt, branch, position;
};

/* A row whose keys were attended to by the queries of two runs of rows, in this order. */
struct gpu_key {
    int32_t row;
    int32_t query[2], count[2]; /* first row, rows */
};

struct gpu_attention {
    float *out, *lse;     /* lse may be NULL */
    const float *q;       /* heads of a row side by side */
    const void *k, *v;    /* key heads side by side; bf16, or fp32 */
    size_t q_row, kv_row; /* elements between rows */
    const struct gpu_query *queries;
    int32_t n, H, G, C, window, kv_bf16;
    float scale, softcap;
    float *scores; /* `longest` for each block */
    size_t longest;
};
GPU_HANDLE(gpu_attention);

struct gpu_attention_bwd {
    float *dqkv;
    float *dsum; /* (T, H): Σ dout·out */
    const float *dout, *out, *lse, *qkv;
    const struct gpu_query *queries;
    const struct gpu_key *keys;
    int32_t T, n, H, G, C, window; /* n: queries, or keys */
    float scale, softcap;
    float *scores; /* `longest` for each block */
    size_t longest;
};
GPU_HANDLE(gpu_attention_dsum);
GPU_HANDLE(gpu_attention_dq);
GPU_HANDLE(gpu_attention_dkv);

struct gpu_cache_row { /* row `row` of the batch is row `to` of the cache */
    int32_t to;
};
struct gpu_cache_put {
    void *k, *v;
    const float *qkv;
    const struct gpu_cache_row *rows;
    int32_t T, H, G, C, bf16, unused;
};
GPU_HANDLE(gpu_cache_put);

/* --- logits (logits.cu, sample.cu) --- */

struct gpu_lse {
    float *lse;
    int32_t *argmax;
    const float *logits;
    int32_t R, V;
};
GPU_HANDLE(gpu_row_lse);

struct gpu_target { /* a target and, for the gradient, what its row's softmax is multiplied with */
    int32_t row, id;
    float coefficient;
};
struct gpu_gather {
    float *logprob;
    const float *logits, *lse;
    const struct gpu_target *targets;
    int32_t n, V;
};
GPU_HANDLE(gpu_gather);

struct gpu_gather_drawn { /* logprob[i] = logits[i][ids[i]] − lse[i] */
    float *logprob;
    const float *logits, *lse;
    const int32_t *ids;
    int32_t n, V;
};
GPU_HANDLE(gpu_gather_drawn);

struct gpu_logits_row { /* its targets, and minus the sum of their coefficients */
    int32_t first, count;
    float factor;
};
struct gpu_logits_bwd {
    float *logits;
    float *slopes; /* one a target */
    const float *lse;
    const struct gpu_target *targets;
    const struct gpu_logits_row *rows;
    int32_t R, V;
    float cap; /* 0: none */
    int32_t unused;
};
GPU_HANDLE(gpu_logits_bwd);

struct gpu_draw {    /* how one row is drawn from */
    float inverse_t; /* 0: greedy */
    float uniform, top_p;
    int32_t top_k; /* V: all */
};
struct gpu_sample {
    int32_t *ids;
    const float *logits;
    const struct gpu_draw *draws;
    uint64_t *lists; /* `width` for each block: candidates, sorted */
    float *likely;   /* `width` for each block: their probabilities, or all rows' by id */
    double *sums;    /* V / GPU_SAMPLE, rounded up, for each block */
    int32_t R, V;
    size_t width; /* power of two, at least V */
};
GPU_HANDLE(gpu_sample);

#endif
