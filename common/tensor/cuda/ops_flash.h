/* ops_flash: attention and its cache for the backend that stores bf16: see flash.h. Pointers to
 * void are bf16 of the device. Operations are those of backend.h, with what is said here.
 *
 * The cache keeps keys and values as bf16, whatever it is asked for: the activations that it is
 * given are bf16, and fp32 would hold the same numbers. It has pages of FLASH_KEYS positions
 * (pages.h), taken when a slot first writes there. Slots share whole pages of a common prefix until
 * one of them writes to it, which gives it its own copy first. */
#ifndef SPIN_TENSOR_CUDA_OPS_FLASH_H
#define SPIN_TENSOR_CUDA_OPS_FLASH_H

#include "common/tensor/cuda/cuda.h"
#include "common/tensor/cuda/flash.h"

/* What all calls of a model's layer have in common. */
struct flash_heads {
    int32_t H, G, C, window;
    float scale, softcap;
};

/* Rows at consecutive positions whose queries attend to the same keys: see gpu_flash_tile. */
struct flash_run {
    int32_t row, position, count;
    int32_t first, prompt, branch;
};

void flash_attention(struct tn_cuda *cuda, void *out, float *lse, const void *qkv,
                     const struct tn_segment *segments, int32_t n_segments,
                     const struct flash_heads *heads);

/* Items of a block for heads of C columns, at most. */
int32_t flash_items(int32_t C);
/* The run's tiles of up to `items` items; returns their number, to NULL only that. */
size_t flash_tile_run(struct gpu_flash_tile *to, const struct flash_run *run, int32_t group,
                      int32_t items);
/* Attention of n tiles, which are on the device and have at most `items` items. `args` says where
 * everything lies; the rest of it is filled in. */
void flash_launch(struct tn_cuda *cuda, struct gpu_flash *args, const struct flash_heads *heads,
                  const struct gpu_flash_tile *tiles, size_t n, int32_t items);

/* Puts all that is here into the table, over the plain attention and cache; but for
 * attention_bwd. */

/* --- the cache (flash_cache.c) --- */

/* positions: as in backend.h; whole pages, and at least what one slot can fill. With fewer than all
 * slots can fill a row may find no page left, which aborts: reserve before. NULL: no memory. */
struct tn_kv_cache *flash_cache_new(struct tn_cuda *cuda, int32_t layers, int32_t slots,
                                    int32_t max_positions, int32_t G, int32_t C, size_t positions);
void flash_cache_free(struct tn_cuda *cuda, struct tn_kv_cache *cache); /* NULL is fine */
void flash_cache_put(struct tn_cuda *cuda, struct tn_kv_cache *cache, int32_t layer,
                     const void *qkv, const struct tn_cache_row *rows, int32_t T, int32_t H);
/* G and C are the cache's, whatever `heads` says. */
void flash_cache_attention(struct tn_cuda *cuda, void *out, const void *qkv,
                           struct tn_kv_cache *cache, int32_t layer,
                           const struct tn_cache_row *rows, int32_t T,
                           const struct flash_heads *heads);
void flash_cache_copy(struct tn_cuda *cuda, struct tn_kv_cache *cache, int32_t from, int32_t to,
                      int32_t n);

/* Pages that are free and reserved for nobody. */
int32_t flash_cache_room(const struct tn_kv_cache *cache);
/* Forgets the slot's positions from `kept` on and reserves what it takes to write all positions
 * from there to `positions`. false: there is no room for them, and nothing is reserved. Prefixes
 * that are copied to the slot later give back what they need no page for. */
bool flash_cache_reserve(struct tn_cuda *cuda, struct tn_kv_cache *cache, int32_t slot,
                         int32_t kept, int32_t positions) __attribute__((warn_unused_result));
#endif
