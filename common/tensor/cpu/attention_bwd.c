/* attention_bwd: gradients of attention over packed segments. A task is one key head of one segment
 * and does all of it in one order: sequence a, then b; queries by position, then head; so the sums
 * over queries in dK and dV, for the prompt over both branches, are chains of one fixed order. */
#include <string.h>

#include "common/base/mem.h"
#include "common/tensor/cpu/attend.h"

#define TILE 56 /* queries (rows × heads) whose scores are kept at a time */

struct backward {
    struct tn_cpu *cpu;
    float *dqkv;
    const float *dout, *out, *lse, *qkv;
    const struct tn_segment *segments;
    int32_t H, G, C, window;
    float scale, softcap;
    size_t own_floats;
};

/* One task's view: its head, and its buffers in the worker's scratch. */
struct head {
    const struct backward *b;
    const struct tn_kern *kern;
    const struct tn_sequence *s;
    size_t c, padded, stride;
    int32_t head, group;
    float *kt, *vt; /* keys and values, transposed blocks, by logical position */
    float *kn;      /* keys as rows */
    float *dk, *dv; /* gradients by row of the segment: prompt, a, b */
    float *q, *dy;  /* [TILE][padded] */
    float *p, *ds;  /* [TILE][n_padded] */
    float *part;    /* a tile of A for the microkernel */
    float *dq;      /* [mr][padded] */
};

struct item { /* one query of a tile */
    size_t row;
    int32_t h, position;
};

static size_t head_floats(const struct tn_kern *kern, int32_t keys, int32_t rows, int32_t C,
                          size_t *ret_parts)
{
    size_t nr = (size_t)kern->nr, c = (size_t)C, padded = tn_round_up(c, nr);
    size_t n = tn_round_up((size_t)keys, nr) + nr;
    size_t parts[] = {
        n * c,
        n * c,
        n * padded,
        (size_t)rows * padded,
        (size_t)rows * padded,
        TILE * padded,
        TILE * padded,
        TILE * n,
        TILE * n,
        TN_MAX_MR * SP_MAX(n, c) + 64,
        TN_MAX_MR * padded,
    };
    size_t sum = 0;
    for (size_t i = 0; i < SP_COUNT(parts); i++) {
        ret_parts[i] = sum;
        sum += tn_round_up(parts[i], 16);
    }
    return sum;
}
#define HEAD_PARTS 11

void tn_attention_scratch(const struct tn_kern *kern, int32_t longest, int32_t heads, int32_t C,
                          size_t *ret_shared, size_t *ret_own)
{
    size_t parts[HEAD_PARTS], nr = (size_t)kern->nr, padded = tn_round_up((size_t)C, nr);
    size_t forward = tn_attend_floats(kern, longest, C);
    size_t backward = head_floats(kern, longest, longest, C, parts);
    *ret_own = SP_MAX(forward, backward);
    *ret_shared = 4 * (size_t)heads * tn_round_up((size_t)longest, nr) * padded;
}

static void products(const struct head *h, const struct item *items, int32_t m, size_t low,
                     size_t n_padded)
{
    size_t nr = (size_t)h->kern->nr;
    const struct {
        const float *a, *keys;
        float *to;
    } pair[] = {{h->q, h->kt, h->p}, {h->dy, h->vt, h->ds}};
    for (size_t which = 0; which < 2; which++)
        for (int32_t first = 0; first < m; first += h->kern->mr) {
            int32_t rows = SP_MIN(h->kern->mr, m - first);
            h->kern->transpose(h->part, (size_t)rows, pair[which].a + (size_t)first * h->padded,
                               h->padded, rows, (int32_t)h->c);
            for (size_t at = 0; at < n_padded; at += nr)
                h->kern->micro(rows, h->c, h->part, (size_t)rows,
                               pair[which].keys + (low + at) * h->c, nr,
                               pair[which].to + (size_t)first * n_padded + at, n_padded, false);
        }
}

static void tile_dq(const struct head *h, const struct item *items, int32_t m, size_t low, size_t n,
                    size_t n_padded)
{
    size_t nr = (size_t)h->kern->nr;
    for (int32_t first = 0; first < m; first += h->kern->mr) {
        int32_t rows = SP_MIN(h->kern->mr, m - first);
        h->kern->transpose(h->part, (size_t)rows, h->ds + (size_t)first * n_padded, n_padded, rows,
                           (int32_t)n);
        for (size_t j = 0; j < h->padded; j += nr)
            h->kern->micro(rows, n, h->part, (size_t)rows, h->kn + low * h->padded + j, h->padded,
                           h->dq + j, h->padded, false);
        for (int32_t i = 0; i < rows; i++) {
            const struct item *item = &items[first + i];
            memcpy(h->b->dqkv + item->row * h->stride + (size_t)item->h * h->c,
                   h->dq + (size_t)i * h->padded, h->c * sizeof(float));
        }
    }
}

/* to[key] += Σ over the tile's queries of weight[query][key] · rows[query], keys [from, end) */
static void tile_dkeys(const struct head *h, float *to, const float *weight, const float *rows,
                       int32_t m, size_t low, size_t from, size_t end, size_t n_padded)
{
    size_t nr = (size_t)h->kern->nr, mr = (size_t)h->kern->mr;
    for (size_t key = from; key < end; key += mr) {
        int32_t keys = (int32_t)SP_MIN(mr, end - key);
        size_t row = (size_t)(tn_sequence_row(h->s, (int32_t)key) - h->s->row);
        for (size_t j = 0; j < h->padded; j += nr)
            h->kern->micro(keys, (size_t)m, weight + (key - low), n_padded, rows + j, h->padded,
                           to + row * h->padded + j, h->padded, true);
    }
}

static void tile(const struct head *h, const struct item *items, int32_t m)
{
    const struct backward *b = h->b;
    size_t nr = (size_t)h->kern->nr;
    size_t low = (size_t)tn_window_start(items[0].position, b->window) / nr * nr;
    size_t high = (size_t)items[m - 1].position + 1;
    size_t n_padded = tn_round_up(high - low, nr);
    for (int32_t i = 0; i < m; i++) {
        size_t at = (items[i].row * (size_t)b->H + (size_t)items[i].h) * h->c;
        float *q = h->q + (size_t)i * h->padded, *dy = h->dy + (size_t)i * h->padded;
        memcpy(q, b->qkv + items[i].row * h->stride + (size_t)items[i].h * h->c,
               h->c * sizeof(float));
        memcpy(dy, b->dout + at, h->c * sizeof(float));
        memset(q + h->c, 0, (h->padded - h->c) * sizeof(float));
        memset(dy + h->c, 0, (h->padded - h->c) * sizeof(float));
    }
    products(h, items, m, low, n_padded);
    for (int32_t i = 0; i < m; i++) {
        size_t at = items[i].row * (size_t)b->H + (size_t)items[i].h;
        float dsum = h->kern->dot(b->dout + at * h->c, b->out + at * h->c, h->c);
        float *p = h->p + (size_t)i * n_padded, *ds = h->ds + (size_t)i * n_padded;
        size_t from = (size_t)tn_window_start(items[i].position, b->window);
        size_t to = (size_t)items[i].position + 1;
        if (b->softcap > 0)
            h->kern->softmax_bwd_capped(p, ds, low, n_padded, from, to, b->scale, b->softcap,
                                        b->lse[at], dsum);
        else
            h->kern->softmax_bwd(p, ds, low, n_padded, from, to, b->scale, b->lse[at], dsum);
    }
    tile_dq(h, items, m, low, high - low, n_padded);
    size_t prompt = SP_MIN((size_t)h->s->prompt, high), from = SP_MAX(low, prompt);
    if (low < prompt) {
        tile_dkeys(h, h->dk, h->ds, h->q, m, low, low, prompt, n_padded);
        tile_dkeys(h, h->dv, h->p, h->dy, m, low, low, prompt, n_padded);
    }
    tile_dkeys(h, h->dk, h->ds, h->q, m, low, from, high, n_padded);
    tile_dkeys(h, h->dv, h->p, h->dy, m, low, from, high, n_padded);
}

static void sequence(struct head *h, const struct tn_sequence *s)
{
    const struct backward *b = h->b;
    const float *k = b->qkv + (size_t)(b->H + h->head) * h->c, *v = k + (size_t)b->G * h->c;
    h->s = s;
    tn_pack_blocks(h->kern, h->kt, k, h->stride, s, b->C);
    tn_pack_blocks(h->kern, h->vt, v, h->stride, s, b->C);
    tn_pack_rows(h->kn, h->padded, k, h->stride, s, b->C);
    struct item items[TILE];
    int32_t m = 0, keys = tn_sequence_keys(s);
    for (int32_t position = s->first_query; position < keys; position++)
        for (int32_t i = 0; i < h->group; i++) {
            items[m++] = (struct item){.row = (size_t)tn_sequence_row(s, position),
                                       .h = h->head * h->group + i,
                                       .position = position};
            if (m == TILE || (position == keys - 1 && i == h->group - 1)) {
                tile(h, items, m);
                m = 0;
            }
        }
}

static void backward_task(void *context, int32_t task, int32_t worker)
{
    const struct backward *b = context;
    const struct tn_segment *g = &b->segments[task / b->G];
    struct tn_sequence sequences[2];
    int32_t n = tn_segment_sequences(g, sequences), rows = g->prompt + g->a + g->b;
    size_t parts[HEAD_PARTS];
    (void)head_floats(b->cpu->kern, g->prompt + SP_MAX(g->a, g->b), rows, b->C, parts);
    float *base = tn_own_scratch(b->cpu, worker, b->own_floats);
    struct head h = {.b = b,
                     .kern = b->cpu->kern,
                     .head = task % b->G,
                     .group = b->H / b->G,
                     .c = (size_t)b->C,
                     .stride = (size_t)(b->H + 2 * b->G) * (size_t)b->C};
    h.padded = tn_round_up(h.c, (size_t)h.kern->nr);
    float **buffers[] = {&h.kt, &h.vt, &h.kn, &h.dk,   &h.dv, &h.q,
                         &h.dy, &h.p,  &h.ds, &h.part, &h.dq};
    for (size_t i = 0; i < HEAD_PARTS; i++)
        *buffers[i] = base + parts[i];
    memset(h.dk, 0, (size_t)rows * h.padded * sizeof(float));
    memset(h.dv, 0, (size_t)rows * h.padded * sizeof(float));
    for (int32_t i = 0; i < n; i++)
        sequence(&h, &sequences[i]);
    for (int32_t i = 0; i < rows; i++) {
        float *to = b->dqkv + (size_t)(g->row + i) * h.stride + (size_t)(b->H + h.head) * h.c;
        memcpy(to, h.dk + (size_t)i * h.padded, h.c * sizeof(float));
        memcpy(to + (size_t)b->G * h.c, h.dv + (size_t)i * h.padded, h.c * sizeof(float));
    }
}

void tn_cpu_attention_bwd(struct tn_backend *backend, void *dqkv, const void *dout, const void *out,
                          const float *lse, const void *qkv, int32_t T,
                          const struct tn_segment *segments, int32_t n_segments, int32_t H,
                          int32_t G, int32_t C, float scale, int32_t window, float softcap)
{
    struct backward b = {.cpu = tn_cpu_of(backend),
                         .dqkv = dqkv,
                         .dout = dout,
                         .out = out,
                         .lse = lse,
                         .qkv = qkv,
                         .segments = segments,
                         .H = H,
                         .G = G,
                         .C = C,
                         .window = window,
                         .scale = scale,
                         .softcap = softcap};
    for (int32_t i = 0; i < n_segments; i++) {
        size_t parts[HEAD_PARTS];
        const struct tn_segment *g = &segments[i];
        size_t floats = head_floats(b.cpu->kern, g->prompt + SP_MAX(g->a, g->b),
                                    g->prompt + g->a + g->b, C, parts);
        b.own_floats = SP_MAX(b.own_floats, floats);
    }
    tn_pool_run(b.cpu->pool, n_segments * G, backward_task, &b);
}
