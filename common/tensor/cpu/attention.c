/* attention: forward over packed segments. All of a row's scores are kept (no rescaling of partial
 * sums), so its bits depend on its keys alone. */
#include <string.h>

#include "common/base/mem.h"
#include "common/tensor/cpu/attend.h"
#include "common/tensor/cpu/log.h"

struct attend_buffers {
    float *q;      /* [C][m] */
    float *scores; /* [m][keys of the tile] */
    float *probs;  /* [keys of the tile][m] */
    float *out;    /* [m][padded] */
};

static size_t tile_keys(const struct tn_kern *kern, int32_t keys)
{
    return tn_round_up((size_t)keys, (size_t)kern->nr) + (size_t)kern->nr;
}

size_t tn_attend_floats(const struct tn_kern *kern, int32_t keys, int32_t C)
{
    size_t mr = (size_t)kern->mr, n = tile_keys(kern, keys);
    size_t padded = tn_round_up((size_t)C, (size_t)kern->nr);
    return (size_t)C * mr + 2 * mr * n + mr * padded + 256;
}

void tn_attend(const struct tn_kern *kern, const struct tn_query *queries, int32_t m, int32_t C,
               const struct tn_attend_keys *keys, float scale, int32_t window, float softcap,
               float *scratch)
{
    size_t nr = (size_t)kern->nr, mm = (size_t)m, c = (size_t)C, padded = tn_round_up(c, nr);
    size_t low = SIZE_MAX, high = 0;
    for (int32_t i = 0; i < m; i++) {
        low = SP_MIN(low, (size_t)tn_window_start(queries[i].position, window));
        high = SP_MAX(high, (size_t)queries[i].position + 1);
    }
    low = low / nr * nr;
    size_t n = high - low, n_padded = tn_round_up(n, nr);
    struct attend_buffers b = {.q = scratch};
    b.scores = b.q + tn_round_up(c * (size_t)kern->mr + 16, 16);
    b.probs = b.scores + mm * n_padded;
    b.out = b.probs + tn_round_up(mm * n_padded + 16, 16);

    for (int32_t i = 0; i < m; i++)
        for (size_t j = 0; j < c; j++)
            b.q[j * mm + (size_t)i] = queries[i].q[j];
    for (size_t at = low; at < high; at += nr)
        kern->micro(m, c, b.q, mm, keys->k + at * c, nr, b.scores + (at - low), n_padded, false);
    if (softcap > 0) {
        kern->softcap(b.scores, mm * n_padded, scale, softcap);
        scale = 1.0f;
    }
    float max[TN_MAX_MR], sum[TN_MAX_MR];
    for (int32_t i = 0; i < m; i++)
        kern->softmax(b.scores + (size_t)i * n_padded, low, n_padded,
                      (size_t)tn_window_start(queries[i].position, window),
                      (size_t)queries[i].position + 1, scale, &max[i], &sum[i]);
    kern->transpose(b.probs, mm, b.scores, n_padded, m, (int32_t)n);
    for (size_t j = 0; j < padded; j += nr)
        kern->micro(m, n, b.probs, mm, keys->v + low * padded + j, padded, b.out + j, padded,
                    false);
    for (int32_t i = 0; i < m; i++) {
        const float *row = b.out + (size_t)i * padded;
        /* Adding zero turns −0 into +0: keys outside a row's window add ±0 to the chain. */
        for (size_t j = 0; j < c; j++)
            queries[i].out[j] = row[j] / sum[i] + 0.0f;
        if (queries[i].lse)
            *queries[i].lse = max[i] + tn_logf(sum[i]);
    }
}

void tn_pack_blocks(const struct tn_kern *kern, float *to, const float *from, size_t stride,
                    const struct tn_sequence *s, int32_t C)
{
    int32_t nr = kern->nr, keys = tn_sequence_keys(s);
    for (int32_t at = 0; at < keys;) {
        int32_t block = at / nr, lane = at % nr;
        int32_t run = SP_MIN(nr - lane, keys - at);
        if (at < s->prompt)
            run = SP_MIN(run, s->prompt - at);
        kern->transpose(to + (size_t)block * (size_t)C * (size_t)nr + (size_t)lane, (size_t)nr,
                        from + (size_t)tn_sequence_row(s, at) * stride, stride, run, C);
        at += run;
    }
}

void tn_pack_rows(float *to, size_t padded, const float *from, size_t stride,
                  const struct tn_sequence *s, int32_t C)
{
    size_t c = (size_t)C;
    int32_t keys = tn_sequence_keys(s);
    for (int32_t at = 0; at < keys; at++, to += padded) {
        memcpy(to, from + (size_t)tn_sequence_row(s, at) * stride, c * sizeof(float));
        memset(to + c, 0, (padded - c) * sizeof(float));
    }
}

/* --- the operation: as many segments at a time as scratch holds, tiles in parallel --- */

#define BATCH 64 /* sequences */

struct forward {
    struct tn_cpu *cpu;
    float *out, *lse;
    const float *qkv;
    int32_t H, G, C, window;
    float scale, softcap;
    struct tn_sequence sequences[BATCH];
    size_t at[BATCH];              /* of the packed keys in scratch, in floats */
    int32_t first_tile[BATCH + 1]; /* tiles of all sequences are numbered through */
    int32_t count, tile_rows;
    size_t used, own_floats;
    float *packed;
};

static size_t k_floats(const struct forward *f, const struct tn_sequence *s)
{
    return tn_round_up((size_t)tn_sequence_keys(s), (size_t)f->cpu->kern->nr) * (size_t)f->C;
}

static size_t head_floats(const struct forward *f, const struct tn_sequence *s)
{
    size_t padded = tn_round_up((size_t)f->C, (size_t)f->cpu->kern->nr);
    return k_floats(f, s) + (size_t)tn_sequence_keys(s) * padded;
}

static float *packed_keys(const struct forward *f, int32_t sequence, int32_t head)
{
    return f->packed + f->at[sequence] + (size_t)head * head_floats(f, &f->sequences[sequence]);
}

static void pack_keys_task(void *context, int32_t task, int32_t worker)
{
    struct forward *f = context;
    int32_t sequence = task / f->G, head = task % f->G;
    const struct tn_sequence *s = &f->sequences[sequence];
    size_t c = (size_t)f->C, stride = (size_t)(f->H + 2 * f->G) * c;
    size_t padded = tn_round_up(c, (size_t)f->cpu->kern->nr);
    float *to = packed_keys(f, sequence, head);
    const float *k = f->qkv + (size_t)(f->H + head) * c, *v = k + (size_t)f->G * c;
    tn_pack_blocks(f->cpu->kern, to, k, stride, s, f->C);
    tn_pack_rows(to + k_floats(f, s), padded, v, stride, s, f->C);
}

static void forward_task(void *context, int32_t task, int32_t worker)
{
    struct forward *f = context;
    const struct tn_kern *kern = f->cpu->kern;
    /* The last tiles see the most keys: begin with them, so that workers end together. */
    int32_t head = task % f->G, tile = f->first_tile[f->count] - 1 - task / f->G, sequence = 0;
    while (tile >= f->first_tile[sequence + 1])
        sequence++;
    const struct tn_sequence *s = &f->sequences[sequence];
    float *packed = packed_keys(f, sequence, head);
    struct tn_attend_keys keys = {.k = packed, .v = packed + k_floats(f, s)};
    int32_t group = f->H / f->G, last = tn_sequence_keys(s);
    int32_t first = s->first_query + (tile - f->first_tile[sequence]) * f->tile_rows;
    int32_t items = (SP_MIN(last, first + f->tile_rows) - first) * group;
    size_t c = (size_t)f->C, stride = (size_t)(f->H + 2 * f->G) * c;
    float *scratch = tn_own_scratch(f->cpu, worker, f->own_floats);
    for (int32_t item = 0; item < items;) {
        struct tn_query queries[TN_MAX_MR];
        int32_t m = 0;
        for (; m < kern->mr && item < items; m++, item++) {
            int32_t position = first + item / group, h = head * group + item % group;
            size_t row = (size_t)tn_sequence_row(s, position);
            queries[m].q = f->qkv + row * stride + (size_t)h * c;
            queries[m].out = f->out + (row * (size_t)f->H + (size_t)h) * c;
            queries[m].lse = f->lse ? f->lse + row * (size_t)f->H + (size_t)h : NULL;
            queries[m].position = position;
        }
        tn_attend(kern, queries, m, f->C, &keys, f->scale, f->window, f->softcap, scratch);
    }
}

static void run_batch(struct forward *f)
{
    f->packed = tn_shared_scratch(f->cpu, f->used);
    tn_pool_run(f->cpu->pool, f->count * f->G, pack_keys_task, f);
    tn_pool_run(f->cpu->pool, f->first_tile[f->count] * f->G, forward_task, f);
    f->count = 0;
    f->used = 0;
}

static void add_sequence(struct forward *f, const struct tn_sequence *s)
{
    size_t floats = head_floats(f, s) * (size_t)f->G, room = f->cpu->shared.bytes / sizeof(float);
    int32_t keys = tn_sequence_keys(s), tiles = tn_ceil_div(keys - s->first_query, f->tile_rows);
    if (keys == s->first_query)
        return;
    if (f->count == BATCH || (f->count > 0 && f->used + floats > room))
        run_batch(f);
    f->sequences[f->count] = *s;
    f->at[f->count] = f->used;
    f->first_tile[f->count + 1] = f->first_tile[f->count] + tiles;
    f->count++;
    f->used += floats;
    f->own_floats = SP_MAX(f->own_floats, tn_attend_floats(f->cpu->kern, keys, f->C));
}

void tn_cpu_attention(struct tn_backend *backend, void *out, float *lse, const void *qkv, int32_t T,
                      const struct tn_segment *segments, int32_t n_segments, int32_t H, int32_t G,
                      int32_t C, float scale, int32_t window, float softcap)
{
    struct tn_cpu *cpu = tn_cpu_of(backend);
    struct forward f = {.cpu = cpu,
                        .out = out,
                        .lse = lse,
                        .qkv = qkv,
                        .H = H,
                        .G = G,
                        .C = C,
                        .window = window,
                        .scale = scale,
                        .softcap = softcap};
    f.tile_rows = SP_MAX(1, cpu->kern->mr / (H / G));
    for (int32_t i = 0; i < n_segments; i++) {
        struct tn_sequence sequences[2];
        int32_t n = tn_segment_sequences(&segments[i], sequences);
        for (int32_t j = 0; j < n; j++)
            add_sequence(&f, &sequences[j]);
    }
    if (f.count > 0)
        run_batch(&f);
}
