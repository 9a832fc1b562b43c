/* flash_bwd: gradients of attention by tiles: see flash_bwd.h. A block of GPU_FLAT threads holds a
 * tile of queries and dout and a tile of keys and values in shared memory; one of the two stays,
 * the other is replaced step by step in a fixed order, and the sums of the gradient stay in the
 * warps' tiles.
 *
 * One step: S = Q·Kᵀ and dP = dout·Vᵀ, each warp its patches of 16 × 16; each thread's eight
 * probabilities P = exp(S - lse) and slopes dS = P·(dP - Σ dout·out)·scale; both rounded to bf16;
 * and dQ += dS·K, or dV += Pᵀ·dout and dK += dSᵀ·Q.
 *
 * A head that is wider than a block's columns is done in chunks: every chunk has blocks of its own,
 * which sum the products of all chunks, their own last, so that it is there when it is needed. */
#include "common/tensor/cuda/flash_bwd.h"
#include "common/tensor/cuda/gpu_math.h"

#define GPU_BWD_PATCHES 2 /* of a warp in a tile of scores, at most */
#define GPU_BWD_PARTS 4   /* tiles of sums that a warp keeps of each gradient */

/* In shared memory. The numbers are known when a kernel is compiled. */
struct gpu_bwd_tiles {
    uint16_t *q, *dout, *k, *v;    /* [items or keys][ld] */
    uint16_t *probability, *slope; /* [items][scores_ld] by key */
    float *lse, *dsum;             /* of items; lse in powers of two */
    int32_t *position;
    int items, keys, ld, scores_ld;
};

#define GPU_BWD_LOG2E 1.44269504088896341f

/* Eight elements as four words, zeros behind the first n. */
GPU_FN void gpu_bwd_load(uint32_t to[4], const uint16_t *from, size_t n, int vectors)
{
    if (vectors) {
        gpu_load_16(to, from);
        return;
    }
    for (size_t i = 0; i < 8; i += 2)
        to[i / 2] = (i < n ? from[i] : 0u) | (i + 1 < n ? (uint32_t)from[i + 1] : 0u) << 16;
}

/* Σ dout·out of each head and row */
GPU_KERNEL(gpu_bwd_dsum, gpu_flash_bwd)
{
    GPU_SHARED float lanes[GPU_ROWS][GPU_LANES];
    GPU_EACH
    {
        size_t item = (size_t)blockIdx.x * GPU_ROWS + threadIdx.y, c = (size_t)p.C;
        const uint16_t *dout = p.dout + item * c, *out = p.out + item * c;
        float sum = 0.0f;
        if (item >= (size_t)p.T * (size_t)p.H)
            continue;
        for (size_t i = 8 * threadIdx.x; i < c; i += 8 * GPU_LANES) {
            uint32_t a[4], b[4];
            gpu_bwd_load(a, dout + i, c - i, p.vectors);
            gpu_bwd_load(b, out + i, c - i, p.vectors);
            for (int j = 0; j < 4; j++) {
                sum = fmaf(gpu_widen((uint16_t)a[j]), gpu_widen((uint16_t)b[j]), sum);
                sum =
                    fmaf(gpu_widen((uint16_t)(a[j] >> 16)), gpu_widen((uint16_t)(b[j] >> 16)), sum);
            }
        }
        lanes[threadIdx.y][threadIdx.x] = sum;
    }
    GPU_SYNC();
    GPU_EACH
    {
        size_t item = (size_t)blockIdx.x * GPU_ROWS + threadIdx.y;
        if (item < (size_t)p.T * (size_t)p.H && threadIdx.x == 0)
            p.dsum[item] = gpu_tree(lanes[threadIdx.y]);
    }
}

/* --- tiles --- */

GPU_FN struct gpu_bwd_tiles gpu_bwd_tiles_of(const int items, const int keys, const int columns,
                                             const int scores)
{
    struct gpu_bwd_tiles t;
    t.items = items;
    t.keys = keys;
    t.ld = columns + GPU_BWD_PAD;
    t.scores_ld = keys + GPU_BWD_PAD;
    t.q = (uint16_t *)GPU_DYNAMIC;
    t.dout = t.q + items * t.ld;
    t.k = t.dout + items * t.ld;
    t.v = t.k + keys * t.ld;
    t.slope = t.v + keys * t.ld;
    t.probability = t.slope + (scores - 1) * items * t.scores_ld;
    t.lse = (float *)(t.slope + scores * items * t.scores_ld);
    t.dsum = t.lse + items;
    t.position = (int32_t *)(t.dsum + items);
    return t;
}

/* Eights of columns of a tile: a power of two, which divides a block's threads. */
GPU_FN int gpu_bwd_pieces(const struct gpu_bwd_tiles *t)
{
    return (t->ld - GPU_BWD_PAD) / 8;
}

/* Eight elements from `at` on of a row of `here` elements; zeros where the row has none, or where
 * there is no row (NULL). */
GPU_FN void gpu_bwd_fetch(uint16_t *to, const uint16_t *row, int32_t at, int32_t here, int vectors)
{
    if (vectors && row && at < here) {
        gpu_fetch_16(to + at, row + at);
        return;
    }
    for (int32_t i = at; i < at + 8; i++)
        to[i] = (uint16_t)(row && i < here ? row[i] : 0);
}

/* Chunks of a head: only the widest kernels have several. */
GPU_FN int32_t gpu_bwd_chunks(const struct gpu_flash_bwd *p, const int columns)
{
    return columns < GPU_BWD_COLUMNS ? 1 : p->chunks;
}

/* Elements of a head that a chunk has. */
GPU_FN int32_t gpu_bwd_here(const struct gpu_flash_bwd *p, int32_t chunk)
{
    const int32_t rest = p->C - chunk * p->columns;
    return rest < p->columns ? rest : p->columns;
}

/* A thread's part of the queries and dout of the tile of items from `item` on, of rows below `end`.
 */
GPU_FN void gpu_bwd_fetch_items(const struct gpu_flash_bwd *p, const struct gpu_bwd_tiles *t,
                                const struct gpu_bwd_run *run, int32_t end, int32_t item,
                                int32_t head, int32_t chunk)
{
    const int pieces = gpu_bwd_pieces(t);
    const int32_t here = gpu_bwd_here(p, chunk), group = p->H / p->G;
    const size_t c = (size_t)p->C, width = (size_t)(p->H + 2 * p->G) * c;
    const size_t from = (size_t)(chunk * p->columns);
    for (int i = (int)threadIdx.x; i < t->items * pieces; i += GPU_FLAT) {
        const int to = i / pieces, at = i % pieces * 8;
        const int32_t in_run = (item + to) / group;
        const size_t row = (size_t)(run->row + in_run);
        const size_t h = (size_t)(head * group + (item + to) % group);
        const uint16_t *q = p->qkv + (row * width + h * c + from);
        const uint16_t *dout = p->dout + ((row * (size_t)p->H + h) * c + from);
        if (at >= p->columns)
            continue;
        gpu_bwd_fetch(t->q + to * t->ld, in_run < end ? q : NULL, at, here, p->vectors);
        gpu_bwd_fetch(t->dout + to * t->ld, in_run < end ? dout : NULL, at, here, p->vectors);
    }
    if (threadIdx.x < (uint32_t)t->items) {
        const int32_t to = (int32_t)threadIdx.x, in_run = (item + to) / group;
        const size_t at = (size_t)(run->row + in_run) * (size_t)p->H +
                          (size_t)(head * group + (item + to) % group);
        t->position[to] = in_run < end ? run->position + in_run : -1; /* -1: sees nothing */
        t->lse[to] = in_run < end ? p->lse[at] * GPU_BWD_LOG2E : 0.0f;
        t->dsum[to] = in_run < end ? p->dsum[at] : 0.0f;
    }
}

GPU_FN size_t gpu_bwd_row(const struct gpu_bwd_places *places, int32_t position)
{
    return (size_t)(position < places->prompt ? places->first + position
                                              : places->branch + (position - places->prompt));
}

/* A thread's part of the keys and values at positions from `from` on, below `end`. */
GPU_FN void gpu_bwd_fetch_keys(const struct gpu_flash_bwd *p, const struct gpu_bwd_tiles *t,
                               const struct gpu_bwd_places *places, int32_t from, int32_t end,
                               int32_t head, int32_t chunk)
{
    const int pieces = gpu_bwd_pieces(t);
    const int32_t here = gpu_bwd_here(p, chunk);
    const size_t c = (size_t)p->C, width = (size_t)(p->H + 2 * p->G) * c;
    for (int i = (int)threadIdx.x; i < t->keys * pieces; i += GPU_FLAT) {
        const int to = i / pieces, at = i % pieces * 8;
        const int there = from + to < end;
        const uint16_t *k = p->qkv + (there ? gpu_bwd_row(places, from + to) * width : 0) +
                            ((size_t)(p->H + head) * c + (size_t)(chunk * p->columns));
        if (at >= p->columns)
            continue;
        gpu_bwd_fetch(t->k + to * t->ld, there ? k : NULL, at, here, p->vectors);
        gpu_bwd_fetch(t->v + to * t->ld, there ? k + (size_t)p->G * c : NULL, at, here, p->vectors);
    }
}

/* --- scores --- */

/* Warps divide a tile of results into strips of 16 rows, and a strip's columns, 16 by 16, among the
 * warps that have it: a warp's strip, and the first column of its part j. */
GPU_FN int gpu_bwd_strip(const int rows)
{
    return (int)GPU_WARP % (rows / GPU_TILE) * GPU_TILE;
}
GPU_FN int gpu_bwd_part(const int rows, const int j)
{
    const int strips = rows / GPU_TILE;
    return ((int)GPU_WARP / strips + j * (GPU_BWD_WARPS / strips)) * GPU_TILE;
}
/* Columns of all warps' parts j. */
GPU_FN int gpu_bwd_width(const int rows)
{
    return GPU_BWD_WARPS / (rows / GPU_TILE) * GPU_TILE;
}

/* Parts of a warp, of so many columns. */
GPU_FN int gpu_bwd_parts(const int rows, const int columns)
{
    return (columns + gpu_bwd_width(rows) - 1) / gpu_bwd_width(rows);
}

/* S and dP, or what the chunk in shared memory adds to them. */
GPU_FN void gpu_bwd_multiply(const struct gpu_flash_bwd *p, const struct gpu_bwd_tiles *t,
                             const int first, gpu_sum (*s)[GPU_BWD_PATCHES],
                             gpu_sum (*dp)[GPU_BWD_PATCHES])
{
    GPU_EACH_WARP
    {
        const int items = gpu_bwd_strip(t->items) * t->ld;
        gpu_left left;
        gpu_right_across right;
        if (gpu_bwd_part(t->items, 0) >= t->keys)
            continue;
        GPU_UNROLL
        for (int j = 0; j < gpu_bwd_parts(t->items, t->keys); j++)
            if (first) {
                gpu_tile_zero(&s[GPU_WARP_SELF][j]);
                gpu_tile_zero(&dp[GPU_WARP_SELF][j]);
            }
        for (int c = 0; c < p->columns; c += GPU_TILE) {
            gpu_tile_load(&left, t->q + items + c, t->ld);
            GPU_UNROLL
            for (int j = 0; j < gpu_bwd_parts(t->items, t->keys); j++) {
                const int keys = gpu_bwd_part(t->items, j) * t->ld;
                gpu_tile_load(&right, t->k + keys + c, t->ld);
                gpu_tile_multiply(&s[GPU_WARP_SELF][j], &left, &right);
            }
            gpu_tile_load(&left, t->dout + items + c, t->ld);
            GPU_UNROLL
            for (int j = 0; j < gpu_bwd_parts(t->items, t->keys); j++) {
                const int keys = gpu_bwd_part(t->items, j) * t->ld;
                gpu_tile_load(&right, t->v + keys + c, t->ld);
                gpu_tile_multiply(&dp[GPU_WARP_SELF][j], &left, &right);
            }
        }
    }
}

/* The gradient of a score, and its probability. */
GPU_FN float gpu_bwd_slope(const struct gpu_flash_bwd *p, float score, float dp, float lse,
                           float dsum, float *ret_probability)
{
    float power = fmaf(score, p->scale * GPU_BWD_LOG2E, -lse), slope = p->scale;
    if (p->softcap > 0) {
        float t = gpu_tanh(score * (p->scale / p->softcap));
        power = fmaf(t, p->softcap * GPU_BWD_LOG2E, -lse);
        slope = fmaf(-t, t, 1.0f) * p->scale;
    }
    *ret_probability = gpu_exp2(power);
    return *ret_probability * (dp - dsum) * slope;
}

/* A thread's part of a patch, pair by pair: what a query does not see is 0, whatever was
 * computed. */
GPU_FN void gpu_bwd_patch(const struct gpu_flash_bwd *p, const struct gpu_bwd_tiles *t,
                          const int both, int items, int keys, int32_t first_key, int32_t key_end,
                          const gpu_sum *s, const gpu_sum *dp)
{
    const uint32_t reach = p->window > 0 ? (uint32_t)p->window : 0x80000000u;
    GPU_UNROLL
    for (int i = 0; i < 8; i += 2) {
        const int item = items + gpu_tile_row(i), key = keys + gpu_tile_column(i);
        const int32_t position = first_key + key;
        const uint32_t back = (uint32_t)t->position[item] - (uint32_t)position;
        const float lse = t->lse[item], dsum = t->dsum[item];
        float probability[2], slope[2];
        GPU_UNROLL
        for (int j = 0; j < 2; j++) {
            const int seen = back - (uint32_t)j < reach && position + j < key_end;
            slope[j] = gpu_bwd_slope(p, gpu_tile_at(s, i + j), gpu_tile_at(dp, i + j), lse, dsum,
                                     &probability[j]);
            slope[j] = seen ? slope[j] : 0.0f;
            probability[j] = seen ? probability[j] : 0.0f;
        }
        gpu_store_4(t->slope + item * t->scores_ld + key, gpu_pack(slope[0], slope[1]));
        if (both)
            gpu_store_4(t->probability + item * t->scores_ld + key,
                        gpu_pack(probability[0], probability[1]));
    }
}

/* Slopes, and with `both` probabilities, of the tile whose S and dP are in the warps' tiles. */
GPU_FN void gpu_bwd_slopes(const struct gpu_flash_bwd *p, const struct gpu_bwd_tiles *t,
                           const int both, int32_t first_key, int32_t key_end,
                           gpu_sum (*s)[GPU_BWD_PATCHES], gpu_sum (*dp)[GPU_BWD_PATCHES])
{
    GPU_EACH
    {
        GPU_UNROLL
        for (int j = 0; j < gpu_bwd_parts(t->items, t->keys); j++)
            if (gpu_bwd_part(t->items, j) < t->keys)
                gpu_bwd_patch(p, t, both, gpu_bwd_strip(t->items), gpu_bwd_part(t->items, j),
                              first_key, key_end, &s[GPU_WARP_SELF][j], &dp[GPU_WARP_SELF][j]);
    }
}

/* --- gradients --- */

/* Whether warps sum all parts that the kernel has room for, as they do for heads of 64 and 128
 * columns: known before the loops, whose steps then overlap. */
GPU_FN int gpu_bwd_full(const struct gpu_flash_bwd *p, const struct gpu_bwd_tiles *t,
                        const int rows)
{
    const int parts = gpu_bwd_parts(rows, t->ld - GPU_BWD_PAD);
    return p->columns > (parts - 1) * gpu_bwd_width(rows);
}

/* Whether warps sum part j; its columns behind the chunk's are of no use, and of no harm. */
GPU_FN int gpu_bwd_has(const struct gpu_flash_bwd *p, const struct gpu_bwd_tiles *t, const int rows,
                       const int full, const int j)
{
    return j < gpu_bwd_parts(rows, t->ld - GPU_BWD_PAD) &&
           (full || j * gpu_bwd_width(rows) < p->columns);
}

GPU_FN void gpu_bwd_zero(gpu_sum (*sums)[GPU_BWD_PARTS])
{
    GPU_EACH_WARP
    {
        GPU_UNROLL
        for (int j = 0; j < GPU_BWD_PARTS; j++)
            gpu_tile_zero(&sums[GPU_WARP_SELF][j]);
    }
}

/* Sums, rounded, to a tile in shared memory. */
GPU_FN void gpu_bwd_round(const struct gpu_flash_bwd *p, const struct gpu_bwd_tiles *t,
                          const int rows, uint16_t *to, gpu_sum (*sums)[GPU_BWD_PARTS])
{
    GPU_EACH
    {
        uint16_t *strip = to + gpu_bwd_strip(rows) * t->ld;
        GPU_UNROLL
        for (int j = 0; j < GPU_BWD_PARTS; j++) {
            const gpu_sum *sum = &sums[GPU_WARP_SELF][j];
            if (!gpu_bwd_has(p, t, rows, 0, j))
                continue;
            GPU_UNROLL
            for (int i = 0; i < 8; i += 2)
                gpu_store_4(strip + gpu_tile_row(i) * t->ld + gpu_bwd_part(rows, j) +
                                gpu_tile_column(i),
                            gpu_pack(gpu_tile_at(sum, i), gpu_tile_at(sum, i + 1)));
        }
    }
}

/* Eight elements of a row of a tile, from `at` on, to a row of `here` elements. */
GPU_FN void gpu_bwd_write(uint16_t *row, const uint16_t *from, int32_t at, int32_t here,
                          int vectors)
{
    if (vectors && at < here) {
        uint32_t words[4];
        gpu_load_16(words, from + at);
        gpu_store_16(row + at, words);
        return;
    }
    for (int32_t i = at; i < at + 8 && i < here; i++)
        row[i] = from[i];
}

/* --- dQ --- */

/* A tile of rounded sums to where its items' queries lie. */
GPU_FN void gpu_bwd_put_items(const struct gpu_flash_bwd *p, const struct gpu_bwd_tiles *t,
                              const struct gpu_bwd_items *block, int32_t head, int32_t chunk,
                              const uint16_t *from)
{
    const size_t c = (size_t)p->C, width = (size_t)(p->H + 2 * p->G) * c;
    const int pieces = gpu_bwd_pieces(t);
    const int32_t group = p->H / p->G;
    GPU_EACH
    {
        for (int i = (int)threadIdx.x; i < t->items * pieces; i += GPU_FLAT) {
            const int32_t item = block->item + i / pieces;
            const size_t row = (size_t)(block->run.row + item / group);
            const size_t column = (size_t)(head * group + item % group) * c;
            if (item / group < block->run.rows)
                gpu_bwd_write(p->dqkv + (row * width + column + (size_t)(chunk * p->columns)),
                              from + i / pieces * t->ld, i % pieces * 8, gpu_bwd_here(p, chunk),
                              p->vectors);
        }
    }
}

/* dQ += slopes·keys */
GPU_FN void gpu_bwd_add_keys(const struct gpu_flash_bwd *p, const struct gpu_bwd_tiles *t,
                             const int full, gpu_sum (*dq)[GPU_BWD_PARTS])
{
    const int items = gpu_bwd_strip(t->items) * t->scores_ld;
    GPU_UNROLL
    for (int k = 0; k < t->keys; k += GPU_TILE) {
        gpu_left left;
        gpu_right right;
        gpu_tile_load(&left, t->slope + items + k, t->scores_ld);
        GPU_UNROLL
        for (int j = 0; j < GPU_BWD_PARTS; j++)
            if (gpu_bwd_has(p, t, t->items, full, j)) {
                gpu_tile_load(&right, t->k + k * t->ld + gpu_bwd_part(t->items, j), t->ld);
                gpu_tile_multiply(&dq[GPU_WARP_SELF][j], &left, &right);
            }
    }
}

GPU_FN void gpu_bwd_dq_of(const struct gpu_flash_bwd *p, const int side, const int columns)
{
    GPU_OWN_WARP gpu_sum s[GPU_WARP_COPIES][GPU_BWD_PATCHES];
    GPU_OWN_WARP gpu_sum dp[GPU_WARP_COPIES][GPU_BWD_PATCHES];
    GPU_OWN_WARP gpu_sum dq[GPU_WARP_COPIES][GPU_BWD_PARTS];
    const struct gpu_bwd_tiles t = gpu_bwd_tiles_of(side, side, columns, 1);
    const int32_t chunks = gpu_bwd_chunks(p, columns);
    const int32_t own = (int32_t)(blockIdx.x % (uint32_t)chunks);
    const int32_t head = (int32_t)(blockIdx.x / (uint32_t)chunks % (uint32_t)p->G);
    const struct gpu_bwd_items block = p->items[blockIdx.x / (uint32_t)(chunks * p->G)];
    gpu_bwd_zero(dq);
    for (int32_t from = block.from; from < block.to; from += side) {
        for (int32_t n = 1; n <= chunks; n++) {
            const int32_t chunk = (own + n) % chunks;
            GPU_EACH
            {
                if (chunks > 1 || from == block.from)
                    gpu_bwd_fetch_items(p, &t, &block.run, block.run.rows, block.item, head, chunk);
                gpu_bwd_fetch_keys(p, &t, &block.places, from, block.to, head, chunk);
                gpu_fetched();
            }
            GPU_SYNC();
            gpu_bwd_multiply(p, &t, n == 1, s, dp);
            if (n < chunks)
                GPU_SYNC();
        }
        gpu_bwd_slopes(p, &t, 0, from, INT32_MAX, s, dp);
        GPU_SYNC();
        GPU_EACH_WARP
        {
            if (gpu_bwd_full(p, &t, side))
                gpu_bwd_add_keys(p, &t, 1, dq);
            else
                gpu_bwd_add_keys(p, &t, 0, dq);
        }
        GPU_SYNC();
    }
    gpu_bwd_round(p, &t, side, t.q, dq);
    GPU_SYNC();
    gpu_bwd_put_items(p, &t, &block, head, own, t.q);
}

GPU_KERNEL_FIT(gpu_bwd_dq_64, gpu_flash_bwd, GPU_FLAT, 2)
{
    gpu_bwd_dq_of(&p, 64, 64);
}

GPU_KERNEL_FIT(gpu_bwd_dq_128, gpu_flash_bwd, GPU_FLAT, 2)
{
    gpu_bwd_dq_of(&p, 64, 128);
}

GPU_KERNEL_FIT(gpu_bwd_dq_256, gpu_flash_bwd, GPU_FLAT, 2)
{
    gpu_bwd_dq_of(&p, 32, 256);
}

/* --- dK and dV --- */

/* A tile of rounded sums to head `to_head` of its keys' rows. */
GPU_FN void gpu_bwd_put_keys(const struct gpu_flash_bwd *p, const struct gpu_bwd_tiles *t,
                             const struct gpu_bwd_keys *block, int32_t to_head, int32_t chunk,
                             const uint16_t *from)
{
    const size_t c = (size_t)p->C, width = (size_t)(p->H + 2 * p->G) * c;
    const size_t column = (size_t)to_head * c + (size_t)(chunk * p->columns);
    const int pieces = gpu_bwd_pieces(t);
    GPU_EACH
    {
        for (int i = (int)threadIdx.x; i < t->keys * pieces; i += GPU_FLAT) {
            const int32_t position = block->from + i / pieces;
            if (position < block->to)
                gpu_bwd_write(p->dqkv + (gpu_bwd_row(&block->places, position) * width + column),
                              from + i / pieces * t->ld, i % pieces * 8, gpu_bwd_here(p, chunk),
                              p->vectors);
        }
    }
}

/* sums += scoresᵀ·rows */
GPU_FN void gpu_bwd_gather(const struct gpu_flash_bwd *p, const struct gpu_bwd_tiles *t,
                           const int full, const uint16_t *scores, const uint16_t *rows,
                           gpu_sum (*sums)[GPU_BWD_PARTS])
{
    const int keys = gpu_bwd_strip(t->keys);
    GPU_UNROLL
    for (int k = 0; k < t->items; k += GPU_TILE) {
        gpu_left_across left;
        gpu_right right;
        gpu_tile_load(&left, scores + k * t->scores_ld + keys, t->scores_ld);
        GPU_UNROLL
        for (int j = 0; j < GPU_BWD_PARTS; j++)
            if (gpu_bwd_has(p, t, t->keys, full, j)) {
                gpu_tile_load(&right, rows + k * t->ld + gpu_bwd_part(t->keys, j), t->ld);
                gpu_tile_multiply(&sums[GPU_WARP_SELF][j], &left, &right);
            }
    }
}

GPU_FN void gpu_bwd_dkv_of(const struct gpu_flash_bwd *p, const int items, const int keys,
                           const int columns)
{
    GPU_OWN_WARP gpu_sum s[GPU_WARP_COPIES][GPU_BWD_PATCHES];
    GPU_OWN_WARP gpu_sum dp[GPU_WARP_COPIES][GPU_BWD_PATCHES];
    GPU_OWN_WARP gpu_sum dk[GPU_WARP_COPIES][GPU_BWD_PARTS];
    GPU_OWN_WARP gpu_sum dv[GPU_WARP_COPIES][GPU_BWD_PARTS];
    const struct gpu_bwd_tiles t = gpu_bwd_tiles_of(items, keys, columns, 2);
    const int32_t chunks = gpu_bwd_chunks(p, columns);
    const int32_t own = (int32_t)(blockIdx.x % (uint32_t)chunks), group = p->H / p->G;
    const int32_t head = (int32_t)(blockIdx.x / (uint32_t)chunks % (uint32_t)p->G);
    const struct gpu_bwd_keys *block = &p->keys[blockIdx.x / (uint32_t)(chunks * p->G)];
    int keys_there = 0;
    gpu_bwd_zero(dk);
    gpu_bwd_zero(dv);
    for (int run = 0; run < 2; run++) {
        const struct gpu_bwd_seen seen = block->seen[run];
        for (int32_t item = seen.from * group / items * items; item < seen.to * group;
             item += items) {
            for (int32_t n = 1; n <= chunks; n++) {
                const int32_t chunk = (own + n) % chunks;
                GPU_EACH
                {
                    gpu_bwd_fetch_items(p, &t, &seen.run, seen.to, item, head, chunk);
                    if (chunks > 1 || !keys_there)
                        gpu_bwd_fetch_keys(p, &t, &block->places, block->from, block->to, head,
                                           chunk);
                    gpu_fetched();
                }
                GPU_SYNC();
                gpu_bwd_multiply(p, &t, n == 1, s, dp);
                if (n < chunks)
                    GPU_SYNC();
            }
            keys_there = 1;
            gpu_bwd_slopes(p, &t, 1, block->from, seen.key_end, s, dp);
            GPU_SYNC();
            GPU_EACH_WARP
            {
                if (gpu_bwd_full(p, &t, keys)) {
                    gpu_bwd_gather(p, &t, 1, t.probability, t.dout, dv);
                    gpu_bwd_gather(p, &t, 1, t.slope, t.q, dk);
                } else {
                    gpu_bwd_gather(p, &t, 0, t.probability, t.dout, dv);
                    gpu_bwd_gather(p, &t, 0, t.slope, t.q, dk);
                }
            }
            GPU_SYNC();
        }
    }
    gpu_bwd_round(p, &t, keys, t.k, dk);
    gpu_bwd_round(p, &t, keys, t.v, dv);
    GPU_SYNC();
    gpu_bwd_put_keys(p, &t, block, p->H + head, own, t.k);
    gpu_bwd_put_keys(p, &t, block, p->H + p->G + head, own, t.v);
}

GPU_KERNEL_FIT(gpu_bwd_dkv_64, gpu_flash_bwd, GPU_FLAT, 2)
{
    gpu_bwd_dkv_of(&p, 64, 64, 64);
}

GPU_KERNEL_FIT(gpu_bwd_dkv_128, gpu_flash_bwd, GPU_FLAT, 2)
{
    gpu_bwd_dkv_of(&p, 64, 64, 128);
}

GPU_KERNEL_FIT(gpu_bwd_dkv_256, gpu_flash_bwd, GPU_FLAT, 2)
{
    gpu_bwd_dkv_of(&p, 32, 32, 256);
}

GPU_KERNEL_FIT(gpu_bwd_dkv_64_few, gpu_flash_bwd, GPU_FLAT, 2)
{
    gpu_bwd_dkv_of(&p, 64, 32, 64);
}

GPU_KERNEL_FIT(gpu_bwd_dkv_128_few, gpu_flash_bwd, GPU_FLAT, 2)
{
    gpu_bwd_dkv_of(&p, 64, 32, 128);
}
