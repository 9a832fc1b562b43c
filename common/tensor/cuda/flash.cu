/* flash: see flash.h. A warp has 16 items, and waits for others for keys and values alone. These
 * come to shared memory while others are worked on: keys of the next tile during softmax and sums
 * of values, values during scores. Scores, probabilities and sums stay in registers; of each tile
 * of them a thread has parts of two items, `upper` and `lower`, eight apart. */
#include "common/tensor/cuda/flash.h"
#include "common/tensor/cuda/gpu_math.h"

struct flash_block { /* what the threads of a block agree on */
    struct gpu_flash_tile tile;
    const uint16_t *keys, *values; /* of its key head: row 0, or page 0 */
    uint16_t *q, *k, *v;           /* shared memory */
    int32_t group, head;           /* query heads of the key head, and the first of them */
    int32_t padded;                /* columns of a head, rounded up to tiles */
    int32_t column;                /* first column of the output that is this block's */
    int32_t q_ld, kv_ld;
    int32_t begin, end; /* tiles of keys */
    int32_t last;       /* position of the last item: no key behind it is read */
};

struct flash_own {                /* a thread's: of its upper and its lower item */
    int32_t position[2], from[2]; /* what it sees; no key for none */
    float top[2];                 /* largest exponent so far */
    float sum[2];                 /* of the powers of the thread's columns */
    int32_t low, high;            /* positions of its warp's first and last item */
};

/* Which of the two items element i of a tile's sum belongs to. */
#define FLASH_SIDE(i) ((i) / 2 % 2)

GPU_FN int32_t flash_position(const struct flash_block *b, int32_t item)
{
    return b->tile.position + (b->tile.item + item) / b->group;
}

/* Index of an item's head in rows of heads, as of out and lse. */
GPU_FN size_t flash_place(const struct gpu_flash *p, const struct flash_block *b, int32_t item)
{
    const int32_t of_run = b->tile.item + item;
    return (size_t)(b->tile.row + of_run / b->group) * (size_t)p->H +
           (size_t)(b->head + of_run % b->group);
}

/* `exact`: heads have 16·tiles columns; so strides are known. */
GPU_FN struct flash_block flash_begin(const struct gpu_flash *p, const int32_t tiles,
                                      const int32_t exact)
{
    struct flash_block b;
    const int32_t head = (int32_t)(blockIdx.y % (unsigned)p->G);
    b.tile = p->tiles[blockIdx.x];
    b.keys = p->k + (size_t)head * p->kv_head;
    b.values = p->v + (size_t)head * p->kv_head;
    b.group = p->H / p->G;
    b.head = head * b.group;
    b.padded = exact ? tiles * 16 : (p->C + 15) / 16 * 16;
    b.column = (int32_t)(blockIdx.y / (unsigned)p->G) * FLASH_COLUMNS;
    b.q_ld = FLASH_LD(b.padded);
    b.kv_ld = FLASH_LD(b.padded < FLASH_COLUMNS ? b.padded : FLASH_COLUMNS);
    b.q = (uint16_t *)GPU_DYNAMIC;
    b.k = b.q + p->items * b.q_ld;
    b.v = b.k + FLASH_KEYS * b.kv_ld;
    b.last = flash_position(&b, b.tile.items - 1);
    b.begin = gpu_window_start(flash_position(&b, 0), p->window) / FLASH_KEYS;
    b.end = b.last / FLASH_KEYS + 1;
    return b;
}

/* --- to shared memory --- */

/* `columns` (a multiple of 8) of a row, of which `there` are read and the others are zeros. The
 * thread takes every `lanes`-th part of 8 columns. */
GPU_FN void flash_fetch_row(uint16_t *to, const uint16_t *from, int32_t there, int32_t columns,
                            int32_t wide, int32_t lane, int32_t lanes)
{
    const uint32_t zeros[4] = {0, 0, 0, 0};
    for (int32_t c = lane * 8; c < columns; c += lanes * 8) {
        if (c >= there)
            gpu_store_16(to + c, zeros);
        else if (wide)
            gpu_fetch_16(to + c, from + c);
        else
            for (int32_t i = c; i < c + 8; i++)
                to[i] = i < there ? from[i] : (uint16_t)0;
    }
}

/* Queries of all 16 items of each warp that has any; those behind the last are zeros. */
GPU_FN void flash_fetch_queries(const struct gpu_flash *p, const struct flash_block *b)
{
    const int32_t lanes = 1 << p->shift, lane = (int32_t)threadIdx.x & (lanes - 1);
    for (int32_t i = (int32_t)threadIdx.x >> p->shift; i < (b->tile.items + 15) / 16 * 16;
         i += FLASH_THREADS >> p->shift) {
        const bool is = i < b->tile.items;
        const int32_t of_run = b->tile.item + (is ? i : 0);
        const uint16_t *from = p->q + (size_t)(b->tile.row + of_run / b->group) * p->q_row +
                               (size_t)(b->head + of_run % b->group) * (size_t)p->C;
        flash_fetch_row(b->q + i * b->q_ld, from, is ? p->C : 0, b->padded, p->wide, lane, lanes);
    }
}

/* Keys or values of tile t, of heads of 16·tiles columns at multiples of 16 bytes. A thread's rows
 * are as many apart as threads fetch at a time, so that addresses are a few additions. */
GPU_FN void flash_fetch_exact(uint16_t *to, const uint16_t *from, const struct gpu_flash *p,
                              const struct flash_block *b, int32_t t, int32_t page,
                              const int32_t tiles)
{
    const uint32_t zeros[4] = {0, 0, 0, 0};
    const int32_t lanes = tiles * 2, rows = FLASH_THREADS / lanes;
    const int32_t r = (int32_t)threadIdx.x / lanes, c = (int32_t)threadIdx.x % lanes * 8;
    const int32_t j = t * FLASH_KEYS + r;
    /* Where position 0 would be, in elements: modulo 2^64 where there is none. */
    size_t prompt = (size_t)b->tile.first * p->kv_row;
    size_t branch = (size_t)(b->tile.branch - b->tile.prompt) * p->kv_row;
    size_t at = (size_t)j * p->kv_row + (size_t)c;
    if (p->pages)
        prompt = branch = (size_t)page * p->page - (size_t)(t * FLASH_KEYS) * p->kv_row;
    to += r * FLASH_LD(tiles * 16) + c;
    GPU_UNROLL
    for (int32_t i = 0; i < FLASH_KEYS; i += rows) {
        if (j + i <= b->last)
            gpu_fetch_16(to + i * FLASH_LD(tiles * 16),
                         from + ((j + i < b->tile.prompt ? prompt : branch) + at));
        else
            gpu_store_16(to + i * FLASH_LD(tiles * 16), zeros);
        at += (size_t)rows * p->kv_row;
    }
}

/* Keys or values of tile t: columns from `column` on, as many as a block holds. */
GPU_FN void flash_fetch_keys(uint16_t *to, const uint16_t *from, const struct gpu_flash *p,
                             const struct flash_block *b, int32_t t, int32_t page, int32_t column)
{
    const int32_t lanes = 1 << p->shift, lane = (int32_t)threadIdx.x & (lanes - 1);
    const int32_t rest = b->padded - column, left = p->C - column;
    const int32_t columns = rest < FLASH_COLUMNS ? rest : FLASH_COLUMNS;
    const int32_t there = left < FLASH_COLUMNS ? left : FLASH_COLUMNS;
    from += (size_t)page * p->page + (size_t)column;
    for (int32_t r = (int32_t)threadIdx.x >> p->shift; r < FLASH_KEYS;
         r += FLASH_THREADS >> p->shift) {
        const int32_t j = t * FLASH_KEYS + r;
        const int32_t row = p->pages             ? r
                            : j < b->tile.prompt ? b->tile.first + j
                                                 : b->tile.branch + (j - b->tile.prompt);
        flash_fetch_row(to + r * b->kv_ld, from + (size_t)row * p->kv_row, j <= b->last ? there : 0,
                        columns, p->wide, lane, lanes);
    }
}

/* By the way that the kernel and the addresses allow. */
GPU_FN void flash_fetch(uint16_t *to, const uint16_t *from, const struct gpu_flash *p,
                        const struct flash_block *b, int32_t t, int32_t page, int32_t column,
                        const int32_t tiles, const int32_t exact)
{
    if (exact && p->wide)
        flash_fetch_exact(to, from, p, b, t, page, tiles);
    else
        flash_fetch_keys(to, from, p, b, t, page, column);
}

GPU_FN int32_t flash_page(const struct gpu_flash *p, const struct flash_block *b, int32_t t)
{
    return p->pages && t < b->end ? p->pages[b->tile.first + t] : 0;
}

/* --- a tile of keys --- */

/* Whether any of the warp's items sees a key of tile t. If not, nothing would change by it. */
GPU_FN bool flash_sees(const struct gpu_flash *p, const struct flash_own *own, int32_t t)
{
    return own->high >= t * FLASH_KEYS &&
           gpu_window_start(own->low, p->window) < (t + 1) * FLASH_KEYS;
}

/* Adds columns from `column` on, 16·tiles of them, to the scores of the warp's items. */
GPU_FN void flash_score(gpu_sum *s, const struct flash_block *b, int32_t column, int32_t tiles)
{
    const uint16_t *from = b->q + (int32_t)GPU_WARP * 16 * b->q_ld + column;
    GPU_UNROLL
    for (int32_t c = 0; c < tiles; c++) {
        gpu_left q;
        gpu_tile_load(&q, from + c * 16, b->q_ld);
        GPU_UNROLL
        for (int32_t n = 0; n < FLASH_KEYS / 16; n++) {
            gpu_right_across k;
            gpu_tile_load(&k, b->k + n * 16 * b->kv_ld + c * 16, b->kv_ld);
            gpu_tile_multiply(&s[n], &q, &k);
        }
    }
}

/* Scores become exponents, -INFINITY where an item doesn't see a key. The largest of each item in
 * the thread's columns go to *upper and *lower. */
GPU_FN void flash_exponents(const struct gpu_flash *p, const struct flash_own *own, gpu_sum *s,
                            int32_t t, float *upper, float *lower)
{
    float max[2] = {-INFINITY, -INFINITY};
    /* Most tiles are seen whole. */
    const bool whole = own->low >= t * FLASH_KEYS + FLASH_KEYS - 1 &&
                       gpu_window_start(own->high, p->window) <= t * FLASH_KEYS;
    GPU_UNROLL
    for (int32_t n = 0; n < FLASH_KEYS / 16; n++) {
        GPU_UNROLL
        for (int i = 0; i < 8; i++)
            gpu_tile_at(&s[n], i) *= p->factor;
        if (p->cap > 0.0f) { /* cap·tanh(x / 2) by the power e^x, whose exponent of 2 this is */
            GPU_UNROLL
            for (int i = 0; i < 8; i++)
                gpu_tile_at(&s[n], i) =
                    p->cap - gpu_fast_divide(2.0f * p->cap, gpu_exp2(gpu_tile_at(&s[n], i)) + 1.0f);
        }
        if (!whole) {
            GPU_UNROLL
            for (int i = 0; i < 8; i++) {
                const int32_t j = t * FLASH_KEYS + n * 16 + gpu_tile_column(i);
                if (j > own->position[FLASH_SIDE(i)] || j < own->from[FLASH_SIDE(i)])
                    gpu_tile_at(&s[n], i) = -INFINITY;
            }
        }
        GPU_UNROLL
        for (int i = 0; i < 8; i++)
            max[FLASH_SIDE(i)] = fmaxf(max[FLASH_SIDE(i)], gpu_tile_at(&s[n], i));
    }
    *upper = max[0];
    *lower = max[1];
}

/* Exponents become probabilities, not yet divided by their sum; the sums so far, `tiles` of 16
 * columns, are scaled down to the new largest exponent. `max`: of the tile's keys. */
GPU_FN void flash_powers(struct flash_own *own, gpu_sum *s, gpu_sum *o, const int32_t tiles,
                         const float max[2])
{
    float base[2], scale[2], sum[2] = {0.0f, 0.0f};
    GPU_UNROLL
    for (int side = 0; side < 2; side++) {
        const float top = fmaxf(max[side], own->top[side]);
        base[side] = top == -INFINITY ? 0.0f : top; /* no key yet: all powers are 0 */
        scale[side] = gpu_exp2(own->top[side] - base[side]);
        own->top[side] = top;
    }
    GPU_UNROLL
    for (int32_t n = 0; n < FLASH_KEYS / 16; n++) {
        GPU_UNROLL
        for (int i = 0; i < 8; i++) {
            const float power = gpu_exp2(gpu_tile_at(&s[n], i) - base[FLASH_SIDE(i)]);
            gpu_tile_at(&s[n], i) = power;
            sum[FLASH_SIDE(i)] += power;
        }
    }
    GPU_UNROLL
    for (int side = 0; side < 2; side++)
        own->sum[side] = fmaf(own->sum[side], scale[side], sum[side]);
    GPU_UNROLL
    for (int32_t c = 0; c < tiles; c++) {
        GPU_UNROLL
        for (int i = 0; i < 8; i++)
            gpu_tile_at(&o[c], i) *= scale[FLASH_SIDE(i)];
    }
}

/* Sums of the warp's items, `tiles` of 16 columns of which the first `used` are there. */
GPU_FN void flash_add_values(gpu_sum *o, const gpu_sum *s, const struct flash_block *b,
                             const int32_t tiles, const int32_t used)
{
    GPU_UNROLL
    for (int32_t n = 0; n < FLASH_KEYS / 16; n++) {
        gpu_left powers;
        gpu_tile_narrow(&powers, &s[n]);
        GPU_UNROLL
        for (int32_t c = 0; c < tiles; c++) {
            gpu_right v;
            if (c >= used)
                continue;
            gpu_tile_load(&v, b->v + n * 16 * b->kv_ld + c * 16, b->kv_ld);
            gpu_tile_multiply(&o[c], &powers, &v);
        }
    }
}

/* --- the result --- */

/* The thread's elements, divided, to where the warp's queries were. `sums`: of both items. */
GPU_FN void flash_divide(const struct flash_block *b, const gpu_sum *o, const int32_t tiles,
                         const int32_t used, const float sums[2])
{
    uint16_t *to = b->q + (int32_t)GPU_WARP * 16 * b->q_ld;
    /* Of no item: they are not written. */
    const float inverse[2] = {1.0f / sums[0], 1.0f / sums[1]};
    GPU_UNROLL
    for (int32_t c = 0; c < tiles; c++) {
        if (c >= used)
            continue;
        GPU_UNROLL
        for (int i = 0; i < 8; i += 2)
            gpu_store_4(to + gpu_tile_row(i) * b->q_ld + c * 16 + gpu_tile_column(i),
                        gpu_pack(gpu_tile_at(&o[c], i) * inverse[FLASH_SIDE(i)],
                                 gpu_tile_at(&o[c], i + 1) * inverse[FLASH_SIDE(i)]));
    }
}

/* The warp's items, `used` tiles of columns, to the output. */
GPU_FN void flash_write(const struct gpu_flash *p, const struct flash_block *b, int32_t used)
{
    const int32_t lanes = 1 << p->shift, lane = (int32_t)GPU_LANE & (lanes - 1);
    const int32_t first = (int32_t)GPU_WARP * 16, left = p->C - b->column;
    const int32_t columns = left < used * 16 ? left : used * 16;
    for (int32_t row = (int32_t)GPU_LANE >> p->shift; row < 16;
         row += GPU_WARP_THREADS >> p->shift) {
        const uint16_t *from = b->q + (first + row) * b->q_ld;
        if (first + row >= b->tile.items)
            continue;
        uint16_t *to = p->out + flash_place(p, b, first + row) * (size_t)p->C + (size_t)b->column;
        for (int32_t c = lane * 8; c < columns; c += lanes * 8) {
            if (p->wide) {
                uint32_t words[4];
                gpu_load_16(words, from + c);
                gpu_store_16(to + c, words);
                continue;
            }
            for (int32_t i = c; i < c + 8 && i < columns; i++)
                to[i] = from[i];
        }
    }
}

/* Log-sum-exp of the thread's items, by the first of the four threads that share them. */
GPU_FN void flash_lse(const struct gpu_flash *p, const struct flash_block *b,
                      const struct flash_own *own, const float sums[2])
{
    if (GPU_LANE % 4 != 0 || !p->lse || b->column > 0)
        return;
    for (int side = 0; side < 2; side++) {
        const int32_t item = (int32_t)GPU_WARP * 16 + gpu_tile_row(2 * side);
        if (item < b->tile.items)
            p->lse[flash_place(p, b, item)] =
                fmaf(own->top[side], 0.693147180559945309f, gpu_log(sums[side]));
    }
}

GPU_FN void flash_own_begin(const struct gpu_flash *p, const struct flash_block *b,
                            struct flash_own *own)
{
    const int32_t first = (int32_t)GPU_WARP * 16, items = b->tile.items;
    GPU_UNROLL
    for (int side = 0; side < 2; side++) {
        const int32_t item = first + gpu_tile_row(2 * side);
        own->top[side] = -INFINITY;
        own->sum[side] = 0.0f;
        own->position[side] = item < items ? flash_position(b, item) : -1;
        own->from[side] = gpu_window_start(own->position[side], p->window);
    }
    own->low = first < items ? flash_position(b, first) : -1;
    own->high = first < items ? flash_position(b, first + 16 < items ? first + 15 : items - 1) : -1;
}

/* A block's whole work. It holds `tiles` times 16 columns of output; `exact`: the head has as many,
 * else it has less or comes in `parts` of FLASH_COLUMNS. */
GPU_FN void flash_attend(const struct gpu_flash *p, const int32_t tiles, const int32_t exact,
                         const int32_t parts)
{
    GPU_OWN struct flash_own own[GPU_COPIES];
    GPU_OWN float upper[GPU_COPIES],
        lower[GPU_COPIES]; /* what is put together of an item's parts */
    GPU_OWN_WARP gpu_sum s[GPU_WARP_COPIES][FLASH_KEYS / 16];
    GPU_OWN_WARP gpu_sum o[GPU_WARP_COPIES][FLASH_COLUMNS / 16];
    const struct flash_block b = flash_begin(p, tiles, exact);
    const int32_t rest = (b.padded - b.column) / 16;
    const int32_t used = exact ? tiles : rest < tiles ? rest : tiles;
    int32_t page = flash_page(p, &b, b.begin);
    GPU_EACH
    {
        flash_own_begin(p, &b, &own[GPU_SELF]);
        flash_fetch_queries(p, &b);
        flash_fetch(b.k, b.keys, p, &b, b.begin, page, 0, tiles, exact);
    }
    GPU_EACH_WARP
    {
        GPU_UNROLL
        for (int32_t c = 0; c < tiles; c++)
            gpu_tile_zero(&o[GPU_WARP_SELF][c]);
    }
    for (int32_t t = b.begin; t < b.end; t++) {
        const int32_t next = flash_page(p, &b, t + 1);
        for (int32_t part = 0; part < parts; part++) {
            const int32_t column = part * FLASH_COLUMNS, more = (b.padded - column) / 16;
            gpu_fetched();
            GPU_SYNC(); /* keys are there, and nobody needs the values of the tile before */
            GPU_EACH
            {
                if (part == 0)
                    flash_fetch(b.v, b.values, p, &b, t, page, b.column, tiles, exact);
            }
            GPU_SYNC_WARP();
            GPU_EACH_WARP
            {
                if (part == 0) {
                    GPU_UNROLL
                    for (int32_t n = 0; n < FLASH_KEYS / 16; n++)
                        gpu_tile_zero(&s[GPU_WARP_SELF][n]);
                }
                if (flash_sees(p, &own[GPU_SELF], t))
                    flash_score(s[GPU_WARP_SELF], &b, column, exact || more > tiles ? tiles : more);
            }
            if (part + 1 < parts) {
                GPU_SYNC();
                GPU_EACH
                {
                    flash_fetch(b.k, b.keys, p, &b, t, page, column + FLASH_COLUMNS, tiles, exact);
                }
            }
        }
        gpu_fetched();
        GPU_SYNC(); /* values are there, and nobody needs the keys any more */
        GPU_EACH
        {
            if (t + 1 < b.end)
                flash_fetch(b.k, b.keys, p, &b, t + 1, next, 0, tiles, exact);
        }
        GPU_SYNC_WARP();
        GPU_EACH
        {
            if (flash_sees(p, &own[GPU_SELF], t))
                flash_exponents(p, &own[GPU_SELF], s[GPU_WARP_SELF], t, &upper[GPU_SELF],
                                &lower[GPU_SELF]);
        }
        gpu_warp_max(upper, 4);
        gpu_warp_max(lower, 4);
        GPU_EACH
        {
            const float max[2] = {upper[GPU_SELF], lower[GPU_SELF]};
            if (flash_sees(p, &own[GPU_SELF], t))
                flash_powers(&own[GPU_SELF], s[GPU_WARP_SELF], o[GPU_WARP_SELF], tiles, max);
        }
        GPU_EACH_WARP
        {
            if (flash_sees(p, &own[GPU_SELF], t))
                flash_add_values(o[GPU_WARP_SELF], s[GPU_WARP_SELF], &b, tiles, used);
        }
        page = next;
    }
    GPU_EACH
    {
        upper[GPU_SELF] = own[GPU_SELF].sum[0];
        lower[GPU_SELF] = own[GPU_SELF].sum[1];
    }
    gpu_warp_sum(upper, 4);
    gpu_warp_sum(lower, 4);
    GPU_EACH
    {
        const float sums[2] = {upper[GPU_SELF], lower[GPU_SELF]};
        if ((int32_t)GPU_WARP * 16 >= b.tile.items)
            continue;
        flash_lse(p, &b, &own[GPU_SELF], sums);
        flash_divide(&b, o[GPU_WARP_SELF], tiles, used, sums);
    }
    GPU_SYNC_WARP();
    GPU_EACH
    {
        flash_write(p, &b, used);
    }
}

GPU_KERNEL_FIT(gpu_flash_64, gpu_flash, FLASH_THREADS, 3)
{
    flash_attend(&p, 4, 1, 1);
}

GPU_KERNEL_FIT(gpu_flash_128, gpu_flash, FLASH_THREADS, 3)
{
    flash_attend(&p, 8, 1, 1);
}

GPU_KERNEL_FIT(gpu_flash_256, gpu_flash, FLASH_THREADS, 2)
{
    flash_attend(&p, 16, 1, 1);
}

GPU_KERNEL_FIT(gpu_flash_small, gpu_flash, FLASH_THREADS, 3)
{
    flash_attend(&p, 8, 0, 1);
}

GPU_KERNEL_FIT(gpu_flash_large, gpu_flash, FLASH_THREADS, 2)
{
    flash_attend(&p, FLASH_COLUMNS / 16, 0, (p.C + FLASH_COLUMNS - 1) / FLASH_COLUMNS);
}

/* --- the cache's writes --- */

GPU_KERNEL(gpu_flash_put, gpu_flash_put)
{
    GPU_EACH
    {
        const size_t size = p.wide ? 8 : 1, c = (size_t)p.C, parts = c / size;
        const size_t i = (size_t)blockIdx.x * GPU_FLAT + threadIdx.x;
        const size_t head = i / parts % (size_t)p.G, row = i / parts / (size_t)p.G;
        if (row >= (size_t)p.T)
            continue;
        const size_t column = i % parts * size, width = (size_t)p.G * c;
        const size_t to = (size_t)(p.to[row] / FLASH_KEYS) * p.page +
                          (head * FLASH_KEYS + (size_t)(p.to[row] % FLASH_KEYS)) * c + column;
        const uint16_t *k =
            p.qkv + row * ((size_t)p.H * c + 2 * width) + (size_t)p.H * c + head * c + column;
        if (p.wide) {
            uint32_t words[4];
            gpu_load_16(words, k);
            gpu_store_16(p.k + to, words);
            gpu_load_16(words, k + width);
            gpu_store_16(p.v + to, words);
        } else {
            p.k[to] = k[0];
            p.v[to] = k[width];
        }
    }
}

GPU_KERNEL(gpu_flash_copy, gpu_flash_copy)
{
    GPU_EACH
    {
        const size_t size = p.wide ? 8 : 1, each = (size_t)p.n * (size_t)p.C / size;
        const size_t i = (size_t)blockIdx.x * GPU_FLAT + threadIdx.x;
        const size_t at = i / each * FLASH_KEYS * (size_t)p.C + i % each * size;
        if (i >= (size_t)p.runs * each)
            continue;
        if (p.wide) {
            uint32_t words[4];
            gpu_load_16(words, p.from + at);
            gpu_store_16(p.to + at, words);
        } else {
            p.to[at] = p.from[at];
        }
    }
}
