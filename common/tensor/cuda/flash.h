/* flash: attention by tiles for the backend that stores bf16 (flash.cu), its arguments. Pointers
 * are the device's; numbers that are uint16_t are bf16. Letters as in backend.h.
 *
 * A block has a tile of queries, all of one key head: its items are the (row, query head) pairs of
 * a run of rows at consecutive positions, heads fastest, so that keys and values are read once for
 * the whole group. It takes keys in tiles of FLASH_KEYS logical positions, from 0 on whatever the
 * window, and keeps each item's largest score, sum and weighted values: Dao (arXiv 2307.08691).
 * Which keys an item sees, in which tiles and in which order, follows from its position alone, and
 * what others see in a tile adds exact zeros to it. So an item's bits depend neither on its tile
 * nor on where keys lie: training, prefill and decoding have the same. */
#ifndef SPIN_TENSOR_CUDA_FLASH_H
#define SPIN_TENSOR_CUDA_FLASH_H

#include "common/tensor/cuda/kernels.h"

#define FLASH_KEYS 64     /* positions of a tile of keys, and of a page of the cache */
#define FLASH_THREADS 128 /* 4 warps, each with 16 items */
#define FLASH_ITEMS 64    /* of a block, at most */
#define FLASH_COLUMNS 256 /* of keys, values and output that a block holds, at most */

/* Elements between rows in shared memory: 16 bytes more, so that rows begin in other banks. */
#define FLASH_LD(columns) ((columns) + 8)
/* Shared memory of a block of `items` (a multiple of 16), with heads of `padded` columns of which
 * it holds `held` of keys and of values. */
#define FLASH_SHARED(items, padded, held)                                                          \
    (2 * ((size_t)(items)*FLASH_LD(padded) + (size_t)2 * FLASH_KEYS * FLASH_LD(held)))

struct gpu_flash_tile {
    int32_t row, position; /* of the run's first row */
    int32_t item, items;   /* the tile's first item within the run, and how many they are */
    /* Where keys lie. Rows: logical position j is row first + j below `prompt`, and branch + j -
     * prompt from there on. Pages: the run's are pages[first], …; the others are not used. */
    int32_t first, prompt, branch;
};

struct gpu_flash {
    uint16_t *out; /* (T, H·C) */
    float *lse;    /* (T, H); may be NULL */
    const uint16_t *q, *k, *v;
    size_t q_row, kv_row, kv_head; /* elements between rows, and between key heads */
    const int32_t *pages;          /* NULL: keys are rows */
    size_t page;                   /* elements between pages */
    const struct gpu_flash_tile *tiles;
    int32_t H, G, C, window;
    int32_t items; /* that a block has room for: a multiple of 16 */
    int32_t wide;  /* all rows of heads are at multiples of 16 bytes */
    int32_t shift; /* 2^shift threads fetch a row */
    /* A score's exponent of 2 is score·factor; with cap > 0 it is cap·tanh(x / 2) of the x that has
     * e^x = 2^(score·factor). */
    float factor, cap;
    int32_t unused; /* see gpu_handle */
};
GPU_HANDLE(gpu_flash_64); /* C = 64, C = 128, C = 256, up to 128, up to 512 */
GPU_HANDLE(gpu_flash_128);
GPU_HANDLE(gpu_flash_256);
GPU_HANDLE(gpu_flash_small);
GPU_HANDLE(gpu_flash_large);

/* Keys and values of the rows of qkv(T, (H+2G)·C) to the cache: row i to page to[i] / FLASH_KEYS,
 * position to[i] % FLASH_KEYS of it. A thread 8 columns when `wide`, else one. */
struct gpu_flash_put {
    uint16_t *k, *v; /* (page, key head, position, column), `page` elements between pages */
    const uint16_t *qkv;
    const int32_t *to;
    size_t page;
    int32_t T, H, G, C, wide, unused;
};
GPU_HANDLE(gpu_flash_put);

/* The first n positions of one page to another, in all its `runs` (layers, keys and values, heads)
 * of FLASH_KEYS·C elements. A thread 8 columns when `wide`, else one. */
struct gpu_flash_copy {
    uint16_t *to;
    const uint16_t *from;
    int32_t runs, n, C, wide;
};
GPU_HANDLE(gpu_flash_copy);

#endif
