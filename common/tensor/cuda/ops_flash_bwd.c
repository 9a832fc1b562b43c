/* ops_flash_bwd: packed segments as tiles of items and of keys for flash_bwd.cu. */
#include <stdlib.h>

#include "common/base/mem.h"
#include "common/tensor/cuda/cuda.h"
#include "common/tensor/cuda/flash_bwd.h"

struct tiles {
    struct gpu_bwd_items *items;
    struct gpu_bwd_keys *keys;
    size_t n_items, n_keys;
    int32_t items_side, keys_side; /* of a tile of each */
    int32_t group, window;
};

static void add_items(struct tiles *t, const struct gpu_bwd_run *run,
                      const struct gpu_bwd_places *places)
{
    int32_t n = run->rows * t->group;
    for (int32_t item = 0; item < n; item += t->items_side) {
        int32_t first = run->position + item / t->group;
        int32_t last = run->position + (SP_MIN(item + t->items_side, n) - 1) / t->group;
        int32_t from = t->window > 0 ? SP_MAX(0, first - t->window + 1) : 0;
        t->items[t->n_items++] =
            (struct gpu_bwd_items){.run = *run,
                                   .places = *places,
                                   .item = item,
                                   .from = from / t->items_side * t->items_side,
                                   .to = last + 1};
    }
}

/* The rows of a run, from row `from` of it on, that see keys up to position `last`; the run may see
 * no keys at `key_end` and behind. */
static struct gpu_bwd_seen seen_by(const struct tiles *t, const struct gpu_bwd_run *run,
                                   int32_t from, int32_t last, int32_t key_end)
{
    int64_t to = run->rows;
    if (t->window > 0)
        to = SP_MIN(to, (int64_t)last + t->window - run->position);
    return (struct gpu_bwd_seen){
        .run = *run, .from = from, .to = (int32_t)SP_MAX(to, (int64_t)from), .key_end = key_end};
}

/* The keys of a run, which its own rows see, and the prompt's also those of `branch` (or NULL). */
static void add_keys(struct tiles *t, const struct gpu_bwd_run *run,
                     const struct gpu_bwd_run *branch)
{
    struct gpu_bwd_places places = {.first = run->row - run->position, .prompt = INT32_MAX};
    for (int32_t at = 0; at < run->rows; at += t->keys_side) {
        int32_t from = run->position + at,
                to = SP_MIN(from + t->keys_side, run->position + run->rows);
        struct gpu_bwd_keys *keys = &t->keys[t->n_keys++];
        *keys = (struct gpu_bwd_keys){.places = places, .from = from, .to = to};
        keys->seen[0] = seen_by(t, run, at, to - 1, INT32_MAX);
        if (branch && branch->rows > 0 && from < branch->position)
            keys->seen[1] =
                seen_by(t, branch, 0, SP_MIN(to, branch->position) - 1, branch->position);
    }
}

static int32_t steps_of_items(const struct gpu_bwd_items *i)
{
    return i->to - i->from;
}
static int32_t steps_of_keys(const struct gpu_bwd_keys *k)
{
    return k->seen[0].to - k->seen[0].from + k->seen[1].to - k->seen[1].from;
}

/* The longest first, so that all of the device is at work to the end. */
static int by_items(const void *a, const void *b)
{
    int32_t left = steps_of_items(a), right = steps_of_items(b);
    return (right > left) - (right < left);
}
static int by_keys(const void *a, const void *b)
{
    int32_t left = steps_of_keys(a), right = steps_of_keys(b);
    return (right > left) - (right < left);
}

static struct tiles tiles_new(const struct tn_segment *segments, int32_t n_segments,
                              int32_t items_side, int32_t keys_side, int32_t group, int32_t window)
{
    struct tiles t = {
        .items_side = items_side, .keys_side = keys_side, .group = group, .window = window};
    size_t items = 0, keys = 0;
    for (int32_t i = 0; i < n_segments; i++) {
        size_t rows = (size_t)(segments[i].prompt + segments[i].a + segments[i].b);
        items += rows * (size_t)group / (size_t)items_side + 2;
        keys += rows / (size_t)keys_side + 2;
    }
    t.items = sp_xarray(items + 1, sizeof(*t.items));
    t.keys = sp_xarray(keys + 1, sizeof(*t.keys));
    for (int32_t i = 0; i < n_segments; i++) {
        const struct tn_segment *s = &segments[i];
        struct gpu_bwd_run a = {s->row, 0, s->prompt + s->a};
        struct gpu_bwd_run b = {s->row + a.rows, s->prompt, s->b};
        struct gpu_bwd_places places = {s->row, s->prompt, b.row};
        add_items(&t, &a, &(struct gpu_bwd_places){.first = s->row, .prompt = INT32_MAX});
        add_items(&t, &b, &places);
        add_keys(&t, &a, &b);
        add_keys(&t, &b, NULL);
    }
    SP_ASSERT(t.n_items <= items && t.n_keys <= keys);
    qsort(t.items, t.n_items, sizeof(*t.items), by_items);
    qsort(t.keys, t.n_keys, sizeof(*t.keys), by_keys);
    return t;
}

static void tiles_free(struct tiles *t)
{
    free(t->items);
    free(t->keys);
}

/* Every head of every row at a multiple of 16 bytes? */
static bool vectors(const void *dqkv, const void *dout, const void *out, const void *qkv, int32_t C)
{
    uintptr_t all = (uintptr_t)dqkv | (uintptr_t)dout | (uintptr_t)out | (uintptr_t)qkv;
    return C % 8 == 0 && all % 16 == 0;
}

struct form {                     /* of the kernels, for chunks of at most so many columns */
    int32_t columns, items, keys; /* keys: of a tile of dK and dV; of dQ's as many as items */
    const void *dq, *dkv;
};

/* With less than two blocks a multiprocessor of the largest devices, halves of tiles are better
 * shared out; a row's bits are the same. */
#define FEW_BLOCKS 264

static struct form form_of(int32_t columns, int32_t rows, int32_t heads)
{
    bool few = (int64_t)rows / 64 * heads < FEW_BLOCKS;
    if (columns > 128)
        return (struct form){256, 32, 32, gpu_bwd_dq_256_kernel, gpu_bwd_dkv_256_kernel};
    if (columns > 64)
        return (struct form){128, 64, few ? 32 : 64, gpu_bwd_dq_128_kernel,
                             few ? gpu_bwd_dkv_128_few_kernel : gpu_bwd_dkv_128_kernel};
    return (struct form){64, 64, few ? 32 : 64, gpu_bwd_dq_64_kernel,
                         few ? gpu_bwd_dkv_64_few_kernel : gpu_bwd_dkv_64_kernel};
}

static void op_attention_bwd(struct tn_backend *b, void *dqkv, const void *dout, const void *out,
                             const float *lse, const void *qkv, int32_t T,
                             const struct tn_segment *segments, int32_t n_segments, int32_t H,
                             int32_t G, int32_t C, float scale, int32_t window, float softcap)
{
    struct tn_cuda *cuda = tn_cuda_of(b);
    int32_t chunks = (C + GPU_BWD_COLUMNS - 1) / GPU_BWD_COLUMNS;
    int32_t columns = ((C + chunks - 1) / chunks + GPU_TILE - 1) / GPU_TILE * GPU_TILE;
    const struct form form = form_of(columns, T, G);
    size_t heads = (size_t)G * (size_t)chunks;
    struct tiles t = tiles_new(segments, n_segments, form.items, form.keys, H / G, window);
    struct gpu_flash_bwd a = {.dqkv = dqkv,
                              .dout = dout,
                              .out = out,
                              .qkv = qkv,
                              .lse = lse,
                              .T = T,
                              .H = H,
                              .G = G,
                              .C = C,
                              .window = window,
                              .columns = columns,
                              .chunks = chunks,
                              .vectors = vectors(dqkv, dout, out, qkv, C),
                              .scale = scale,
                              .softcap = softcap};
    const struct device_grid threads = {GPU_FLAT, 1};
    SP_ASSERT(C <= GPU_MAX_HEAD);
    if (t.n_keys > 0) {
        a.items = cuda_table(cuda, CUDA_TABLE, t.items, t.n_items * sizeof(*t.items));
        a.keys = cuda_table(cuda, CUDA_TABLE2, t.keys, t.n_keys * sizeof(*t.keys));
        a.dsum = cuda_scratch(cuda, CUDA_SUMS, (size_t)T * (size_t)H * sizeof(float));
        cuda_rows(cuda, gpu_bwd_dsum_kernel, (size_t)T * (size_t)H, &a);
        device_launch_shared(cuda->device, form.dq, (struct device_grid){t.n_items * heads, 1},
                             threads, GPU_BWD_BYTES(form.items, form.items, form.columns, 1), &a);
        device_launch_shared(cuda->device, form.dkv, (struct device_grid){t.n_keys * heads, 1},
                             threads, GPU_BWD_BYTES(form.items, form.keys, form.columns, 2), &a);
    }
    tiles_free(&t);
}

void cuda_add_flash_bwd(struct tn_ops *ops)
{
    ops->attention_bwd = op_attention_bwd;
}
