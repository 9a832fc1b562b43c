/* flash_bwd: gradients of attention over packed segments with bf16 activations, tile by tile, by
 * the multipliers of tiles (flash_bwd.cu); the host's side is ops_flash_bwd.c. attention_bwd.cu is
 * the plain form of the same. After Dao 2023 (arXiv 2307.08691): probabilities are recomputed from
 * the log-sum-exp, once for dQ and once for dK and dV, so that every sum has one owner and one
 * order.
 *
 * An item is a query: the queries of a run of rows are numbered row by row, in a row head by head
 * of the group that shares a key head. Tiles of items start at multiples of their size within the
 * run, tiles of keys at multiples within the segment: bits of a row's gradient depend on its
 * segment alone. */
#ifndef SPIN_TENSOR_CUDA_FLASH_BWD_H
#define SPIN_TENSOR_CUDA_FLASH_BWD_H

#include "common/tensor/cuda/kernels.h"

#define GPU_BWD_COLUMNS 256 /* of a head that a block can hold; wider heads are done in chunks */
#define GPU_BWD_PAD 8       /* elements behind each row, so that rows lie in other banks */
#define GPU_BWD_WARPS (GPU_FLAT / 32)

/* Bytes of shared memory: queries, dout, keys and values; `scores` tiles of scores rounded to bf16
 * (2: probabilities and slopes); log-sum-exp, Σ dout·out and position of each item. */
#define GPU_BWD_BYTES(items, keys, columns, scores)                                                \
    (4 * ((size_t)(items) + (size_t)(keys)) * ((size_t)(columns) + GPU_BWD_PAD) +                  \
     (size_t)(items) * (2 * (scores) * ((size_t)(keys) + GPU_BWD_PAD) + 12))

/* Rows with consecutive positions whose queries attend. */
struct gpu_bwd_run {
    int32_t row, position, rows;
};

/* Keys: logical position j is row first + j below `prompt`, and branch + j - prompt from there. */
struct gpu_bwd_places {
    int32_t first, prompt, branch;
};

/* The tile of items of a run from `item` on, and the keys that they see: positions [from, to),
 * tiles of which start at `from`. */
struct gpu_bwd_items {
    struct gpu_bwd_run run;
    struct gpu_bwd_places places;
    int32_t item, from, to;
};

/* Keys at positions [from, to), at most a tile, and whose queries see them: of each run its rows
 * [from, to), but no keys at `key_end` and behind. */
struct gpu_bwd_seen {
    struct gpu_bwd_run run;
    int32_t from, to, key_end;
};
struct gpu_bwd_keys {
    struct gpu_bwd_places places;
    int32_t from, to;
    struct gpu_bwd_seen seen[2];
};

struct gpu_flash_bwd {
    uint16_t *dqkv;
    float *dsum; /* (T, H): Σ dout·out */
    const uint16_t *dout, *out, *qkv;
    const float *lse;
    const struct gpu_bwd_items *items; /* blocks of dQ: (tile, key head, chunk) */
    const struct gpu_bwd_keys *keys;   /* blocks of dK and dV, likewise */
    int32_t T, H, G, C, window;
    int32_t columns; /* of a chunk, a multiple of 16 */
    int32_t chunks;  /* of a head */
    int32_t vectors; /* every head starts at a multiple of 16 bytes */
    float scale, softcap;
};
GPU_HANDLE(gpu_bwd_dsum); /* blocks of (GPU_LANES, GPU_ROWS) threads; the others of GPU_FLAT */
/* By the most columns of a chunk; tiles of 64 items and 64 keys, the widest of 32 and 32. `few`
 * have tiles of 32 keys, for when there are few, and give the same bits. */
GPU_HANDLE(gpu_bwd_dq_64);
GPU_HANDLE(gpu_bwd_dq_128);
GPU_HANDLE(gpu_bwd_dq_256);
GPU_HANDLE(gpu_bwd_dkv_64);
GPU_HANDLE(gpu_bwd_dkv_128);
GPU_HANDLE(gpu_bwd_dkv_256);
GPU_HANDLE(gpu_bwd_dkv_64_few);
GPU_HANDLE(gpu_bwd_dkv_128_few);

#endif
