/* Attention by tiles (flash.cu) with its kernels run by the host: training beside a reference in
 * double, decoding beside training bit for bit, and the pages of the cache. Prints TAP. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/half.h"
#include "common/base/mem.h"
#include "common/base/rng.h"
#include "common/tensor/cuda/ops_flash.h"

static struct tn_cuda cuda;
static struct tn_ops ops;
static struct tn_backend backend = {.ops = &ops, .state = &cuda};
static int n_cases, n_failed;

static void result(bool ok, const char *what, const struct flash_heads *h)
{
    n_failed += !ok;
    printf("%sok %d - %s: H %d, G %d, C %d, window %d, softcap %g\n", ok ? "" : "not ", ++n_cases,
           what, h->H, h->G, h->C, h->window, (double)h->softcap);
}

/* --- memory --- */

static uint32_t pick(uint32_t seed, uint32_t i, uint32_t below)
{
    uint32_t draw[4];
    sp_rng_draw(seed, SP_STREAM_TEST, 1, i, 0, 0, draw);
    return draw[0] % below;
}

/* bf16, uniform in [-1.5, 1.5), a function of (seed, index) */
static uint16_t *filled(size_t n, uint32_t seed)
{
    uint16_t *x = sp_xarray(n, sizeof(*x));
    for (size_t i = 0; i < n; i++) {
        uint32_t draw[4];
        sp_rng_draw(seed, SP_STREAM_TEST, 0, (uint32_t)(i / 4), 0, 0, draw);
        x[i] = sp_f32_to_bf16(1.5f * ((float)(draw[i % 4] >> 8) * (1.0f / 8388608.0f) - 1.0f));
    }
    return x;
}

static void *on_device(const void *host, size_t bytes)
{
    void *at = device_alloc(cuda.device, bytes);
    SP_ASSERT(at != NULL);
    device_put(cuda.device, at, host, bytes);
    return at;
}

static size_t row_size(const struct flash_heads *h)
{
    return (size_t)(h->H + 2 * h->G) * (size_t)h->C;
}

static size_t out_size(const struct flash_heads *h)
{
    return (size_t)h->H * (size_t)h->C;
}

struct outputs {
    uint16_t *out; /* (T, H·C) */
    float *lse;    /* (T, H) */
};

static void outputs_free(struct outputs *o)
{
    free(o->out);
    free(o->lse);
}

/* Attention of packed segments: what the device writes, on the host. */
static struct outputs train(const uint16_t *qkv, int32_t T, const struct tn_segment *segments,
                            int32_t n, const struct flash_heads *h)
{
    size_t rows = (size_t)T, out_bytes = rows * out_size(h) * sizeof(uint16_t);
    size_t lse_bytes = rows * (size_t)h->H * sizeof(float);
    struct outputs o = {.out = sp_xalloc(out_bytes), .lse = sp_xalloc(lse_bytes)};
    void *x = on_device(qkv, rows * row_size(h) * sizeof(*qkv));
    void *out = device_alloc(cuda.device, out_bytes), *lse = device_alloc(cuda.device, lse_bytes);
    ops.attention(&backend, out, lse, x, T, segments, n, h->H, h->G, h->C, h->scale, h->window,
                  h->softcap);
    device_get(cuda.device, o.out, out, out_bytes);
    device_get(cuda.device, o.lse, lse, lse_bytes);
    device_free(cuda.device, x);
    device_free(cuda.device, out);
    device_free(cuda.device, lse);
    return o;
}

/* --- the reference --- */

static double score(const uint16_t *q, const uint16_t *k, const struct flash_heads *h)
{
    double s = 0.0;
    for (int32_t i = 0; i < h->C; i++)
        s += (double)sp_bf16_to_f32(q[i]) * (double)sp_bf16_to_f32(k[i]);
    s *= (double)h->scale;
    return h->softcap > 0 ? (double)h->softcap * tanh(s / (double)h->softcap) : s;
}

/* One head of one row, whose keys are the rows keys[0] … keys[n - 1]. */
static void reference_row(double *out, double *lse, const uint16_t *qkv, int32_t row,
                          const int32_t *keys, int32_t n, int32_t head, const struct flash_heads *h)
{
    size_t w = row_size(h), c = (size_t)h->C;
    const uint16_t *k = qkv + ((size_t)h->H + (size_t)(head / (h->H / h->G))) * c;
    const uint16_t *v = k + (size_t)h->G * c, *q = qkv + (size_t)row * w + (size_t)head * c;
    double max = -INFINITY, sum = 0.0;
    memset(out, 0, c * sizeof(*out));
    for (int32_t j = 0; j < n; j++)
        max = fmax(max, score(q, k + (size_t)keys[j] * w, h));
    for (int32_t j = 0; j < n; j++) {
        double p = exp(score(q, k + (size_t)keys[j] * w, h) - max);
        sum += p;
        for (size_t i = 0; i < c; i++)
            out[i] += p * (double)sp_bf16_to_f32(v[(size_t)keys[j] * w + i]);
    }
    for (size_t i = 0; i < c; i++)
        out[i] /= sum;
    *lse = max + log(sum);
}

/* Rows that row `at` of the segment attends to; returns their number. */
static int32_t keys_of(int32_t *keys, const struct tn_segment *s, int32_t at, int32_t window)
{
    int32_t n = 0, b = s->prompt + s->a;
    for (int32_t i = 0; i <= at; i++)
        if (at < b || i < s->prompt || i >= b)
            keys[n++] = s->row + i;
    int32_t skipped = window > 0 && n > window ? n - window : 0;
    memmove(keys, keys + skipped, (size_t)(n - skipped) * sizeof(*keys));
    return n - skipped;
}

static bool near(const struct outputs *o, const uint16_t *qkv, const struct tn_segment *segments,
                 int32_t n, const struct flash_heads *h)
{
    double difference = 0.0, size = 0.0, lse_off = 0.0, lse, row[GPU_MAX_HEAD];
    for (int32_t i = 0; i < n; i++) {
        const struct tn_segment *s = &segments[i];
        int32_t count = s->prompt + s->a + s->b;
        int32_t *keys = sp_xarray((size_t)count + 1, sizeof(*keys));
        for (int32_t r = 0; r < count; r++)
            for (int32_t head = 0; head < h->H; head++) {
                size_t at = (size_t)(s->row + r) * (size_t)h->H + (size_t)head;
                reference_row(row, &lse, qkv, s->row + r, keys, keys_of(keys, s, r, h->window),
                              head, h);
                lse_off = fmax(lse_off, fabs((double)o->lse[at] - lse));
                for (size_t c = 0; c < (size_t)h->C; c++) {
                    double got = (double)sp_bf16_to_f32(o->out[at * (size_t)h->C + c]);
                    difference += (got - row[c]) * (got - row[c]);
                    size += row[c] * row[c];
                }
            }
        free(keys);
    }
    double off = sqrt(difference / size);
    printf("# off by %.2g, lse by %.2g\n", off, lse_off);
    return off < 5e-3 && lse_off < 1e-4;
}

/* --- decoding --- */

struct decoder { /* a sequence in a slot, which goes on row by row of qkv */
    int32_t slot, position, row, end;
};

struct decoding {
    const struct flash_heads *h;
    const uint16_t *qkv;
    const struct outputs *want;
    struct tn_kv_cache *cache;
    uint16_t *x, *noise, *out; /* of the device, MOST_ROWS rows each */
    bool same;
};

enum { MOST_ROWS = 256 };

static void decoding_begin(struct decoding *d, int32_t slots, int32_t positions, int32_t limit)
{
    size_t w = MOST_ROWS * row_size(d->h), o = MOST_ROWS * out_size(d->h);
    uint16_t *noise = filled(w, 99);
    d->cache =
        ops.cache_new(&backend, 2, slots, positions, d->h->G, d->h->C, TN_F32, (size_t)limit);
    d->x = device_alloc(cuda.device, w * sizeof(*noise));
    d->noise = on_device(noise, w * sizeof(*noise));
    d->out = device_alloc(cuda.device, o * sizeof(*noise));
    d->same = true;
    free(noise);
}

static void decoding_end(struct decoding *d)
{
    ops.cache_free(&backend, d->cache);
    device_free(cuda.device, d->x);
    device_free(cuda.device, d->noise);
    device_free(cuda.device, d->out);
}

/* Puts `n` rows of the cache whose numbers are rows `from` of qkv, and compares what they attend to
 * with the rows of training. Layer 0 gets other numbers. A row of each sequence is a pass. */
static void decode(struct decoding *d, const struct tn_cache_row *rows, const int32_t *from,
                   int32_t n, bool pass)
{
    size_t w = row_size(d->h), o = out_size(d->h);
    uint16_t *batch = sp_xarray((size_t)n * w, sizeof(*batch));
    uint16_t *got = sp_xarray((size_t)n * o, sizeof(*got));
    for (int32_t i = 0; i < n; i++)
        memcpy(batch + (size_t)i * w, d->qkv + (size_t)from[i] * w, w * sizeof(*batch));
    device_put(cuda.device, d->x, batch, (size_t)n * w * sizeof(*batch));
    if (pass)
        device_pass_begin(cuda.device, (uint64_t)n);
    cuda.pass += pass;
    for (int32_t layer = 0; layer < 2; layer++) {
        const uint16_t *x = layer == 0 ? d->noise : d->x;
        ops.cache_put(&backend, d->cache, layer, x, rows, n, d->h->H);
        ops.cache_attention(&backend, d->out, x, d->cache, layer, rows, n, d->h->H, d->h->scale,
                            d->h->window, d->h->softcap);
    }
    if (pass)
        device_pass_end(cuda.device);
    cuda.pass += pass;
    device_get(cuda.device, got, d->out, (size_t)n * o * sizeof(*got));
    for (int32_t i = 0; i < n; i++)
        d->same = d->same && memcmp(got + (size_t)i * o, d->want->out + (size_t)from[i] * o,
                                    o * sizeof(*got)) == 0;
    free(batch);
    free(got);
}

/* Runs all sequences to their ends, in batches that have up to `most` rows of each. */
static void run_all(struct decoding *d, struct decoder *sequences, int32_t n, uint32_t most,
                    uint32_t seed)
{
    for (uint32_t step = 0;; step++) {
        struct tn_cache_row rows[MOST_ROWS];
        int32_t from[MOST_ROWS], count = 0;
        for (int32_t s = 0; s < n; s++) {
            struct decoder *q = &sequences[s];
            int32_t chunk = 1 + (int32_t)pick(seed, step * 8 + (uint32_t)s, most);
            for (int32_t i = SP_MIN(chunk, q->end - q->row); i > 0; i--) {
                rows[count] = (struct tn_cache_row){q->slot, q->position++};
                from[count++] = q->row++;
            }
        }
        if (count == 0)
            return;
        decode(d, rows, from, count, most == 1);
    }
}

enum { PROMPT = 75, A = 62, B = 70, ROWS = PROMPT + A + B, PLAIN = 40, ALL = ROWS + PLAIN + 1 };

static const struct tn_segment segments[] = {
    {0, PROMPT, A, B}, {ROWS, 0, PLAIN, 0}, {ROWS + PLAIN, 1, 0, 0}};

/* The first branch in slot 0, the second in slot 2 behind a copy of the prompt, the next segment in
 * slot 1. */
static void decode_like_training(const struct flash_heads *h, const uint16_t *qkv,
                                 const struct outputs *want, uint32_t most)
{
    struct decoding d = {.h = h, .qkv = qkv, .want = want};
    struct decoder first[] = {{0, 0, 0, PROMPT}, {1, 0, ROWS, ROWS + PLAIN / 2}};
    uint64_t repeated = device_pass_counts(cuda.device).repeated;
    decoding_begin(&d, 3, PROMPT + SP_MAX(A, B), 0);
    run_all(&d, first, 2, most, 1);
    ops.cache_copy(&backend, d.cache, 0, 2, PROMPT);
    struct decoder rest[] = {{0, PROMPT, PROMPT, PROMPT + A},
                             {1, PLAIN / 2, ROWS + PLAIN / 2, ROWS + PLAIN},
                             {2, PROMPT, PROMPT + A, ROWS}};
    run_all(&d, rest, 3, most, 2);
    decoding_end(&d);
    repeated = device_pass_counts(cuda.device).repeated - repeated;
    result(d.same && (most > 1 || repeated > PROMPT),
           most == 1 ? "decoding row by row" : "prefill in chunks", h);
}

/* The first segment alone, and the others behind other rows. */
static void same_anywhere(const struct flash_heads *h, const uint16_t *qkv,
                          const struct outputs *want)
{
    size_t w = row_size(h), o = out_size(h), n = SP_COUNT(segments);
    struct tn_segment moved[] = {{0, 5, 0, 0}, {5, 0, PLAIN, 0}, {5 + PLAIN, 1, 0, 0}};
    struct outputs alone = train(qkv, ROWS, segments, 1, h);
    struct outputs others = train(qkv + (ROWS - 5) * w, PLAIN + 6, moved, (int32_t)n, h);
    bool same =
        memcmp(alone.out, want->out, ROWS * o * sizeof(*alone.out)) == 0 &&
        memcmp(alone.lse, want->lse, ROWS * (size_t)h->H * sizeof(float)) == 0 &&
        memcmp(others.out + 5 * o, want->out + ROWS * o, (PLAIN + 1) * o * sizeof(*alone.out)) == 0;
    outputs_free(&alone);
    outputs_free(&others);
    result(same, "rows alone", h);
}

static void check_heads(const struct flash_heads *h)
{
    uint16_t *qkv = filled(ALL * row_size(h), (uint32_t)h->C);
    struct outputs o = train(qkv, ALL, segments, SP_COUNT(segments), h);
    result(near(&o, qkv, segments, SP_COUNT(segments), h), "training", h);
    same_anywhere(h, qkv, &o);
    decode_like_training(h, qkv, &o, 40);
    decode_like_training(h, qkv, &o, 1);
    outputs_free(&o);
    free(qkv);
}

/* Sequences of many tiles of keys, of which a window leaves some out. */
static void check_long(const struct flash_heads *h)
{
    enum { LENGTH = 700 };
    static const struct tn_segment one[] = {{0, 300, 250, 150}};
    uint16_t *qkv = filled(LENGTH * row_size(h), 5);
    struct outputs o = train(qkv, LENGTH, one, 1, h);
    result(near(&o, qkv, one, 1, h), "long", h);
    struct decoding d = {.h = h, .qkv = qkv, .want = &o};
    struct decoder a = {0, 0, 0, 550}, b = {1, 300, 550, LENGTH};
    decoding_begin(&d, 2, 550, 0);
    run_all(&d, &a, 1, 130, 6);
    ops.cache_copy(&backend, d.cache, 0, 1, 300);
    run_all(&d, &b, 1, 130, 7);
    decoding_end(&d);
    outputs_free(&o);
    free(qkv);
    result(d.same, "long, decoded", h);
}

/* --- pages --- */

/* One sequence of 150 rows, prefixes of which go to other slots, and slots that are used again. */
static void check_sharing(const struct flash_heads *h, int32_t pages)
{
    enum { LENGTH = 150, MAX = 200 };
    static const int32_t prefixes[] = {64, 1, 63, 65, 100, 128, 130, 150};
    uint16_t *qkv = filled(2 * LENGTH * row_size(h), 7);
    struct tn_segment two[] = {{0, LENGTH, 0, 0}, {LENGTH, LENGTH, 0, 0}};
    struct outputs want = train(qkv, 2 * LENGTH, two, 2, h);
    struct decoding d = {.h = h, .qkv = qkv, .want = &want};
    decoding_begin(&d, 3, MAX, pages * FLASH_KEYS);
    bool roomy = pages == 0, ok = true;
    for (size_t i = 0; i < SP_COUNT(prefixes); i++) {
        int32_t n = prefixes[i], to = 1 + (int32_t)(i % 2);
        struct decoder donor = {0, 0, 0, LENGTH}, other = {0, 0, LENGTH, 2 * LENGTH};
        struct decoder rest = {to, n, n, LENGTH};
        if (!roomy) { /* as a decoder does */
            ok = ok && ops.cache_reserve(&backend, d.cache, 1, 0, 0);
            ok = ok && ops.cache_reserve(&backend, d.cache, 2, 0, 0);
            ok = ok && flash_cache_reserve(&cuda, d.cache, 0, 0, LENGTH);
        }
        run_all(&d, &donor, 1, 80, 3);
        if (!roomy)
            ok = ok && flash_cache_reserve(&cuda, d.cache, to, 0, LENGTH);
        flash_cache_copy(&cuda, d.cache, 0, to, n);
        flash_cache_copy(&cuda, d.cache, 0, to, SP_MIN(n, 64)); /* what is there again */
        if (!roomy)
            ok = ok && flash_cache_reserve(&cuda, d.cache, 0, 0, LENGTH);
        if (ok)
            run_all(&d, &other, 1, 80, 4); /* the donor's slot has another prompt */
        if (ok)
            run_all(&d, &rest, 1, 80, 5);
    }
    decoding_end(&d);
    outputs_free(&want);
    free(qkv);
    result(d.same && ok, roomy ? "shared pages" : "shared pages, few of them", h);
}

static void check_exhaustion(const struct flash_heads *h)
{
    struct tn_kv_cache *cache = flash_cache_new(&cuda, 1, 4, 256, h->G, h->C, 5 * FLASH_KEYS);
    bool ok = flash_cache_room(cache) == 5;
    ok = ok && flash_cache_reserve(&cuda, cache, 0, 0, 129) && flash_cache_room(cache) == 2;
    ok = ok && !flash_cache_reserve(&cuda, cache, 1, 0, 129) && flash_cache_room(cache) == 2;
    ok = ok && flash_cache_reserve(&cuda, cache, 1, 0, 128) && flash_cache_room(cache) == 0;
    ok = ok && !flash_cache_reserve(&cuda, cache, 2, 0, 1);
    ok = ok && flash_cache_reserve(&cuda, cache, 1, 0, 0);
    ok = ok && flash_cache_reserve(&cuda, cache, 2, 0, 1) && flash_cache_room(cache) == 1;
    ok = ok && flash_cache_reserve(&cuda, cache, 0, 0, 1) && flash_cache_room(cache) == 3;
    flash_cache_free(&cuda, cache);
    result(ok, "reservations", h);
}

int main(void)
{
    static const struct flash_heads shapes[] = {
        {8, 8, 16, 0, 0.25f, 0},    {6, 2, 24, 9, 0.2f, 5.0f}, {4, 1, 64, 0, 0.125f, 0},
        {4, 1, 64, 70, 0.125f, 0},  {8, 1, 80, 33, 0.1f, 0},   {4, 1, 128, 64, 0.09f, 30.0f},
        {3, 1, 128, 0, 0.3f, 0},    {2, 1, 256, 65, 0.06f, 0}, {1, 1, 208, 0, 0.5f, 2.0f},
        {1, 1, 512, 100, 0.05f, 0}, {3, 1, 300, 0, 0.05f, 0},  {2, 2, 7, 1, 0.3f, 0},
        {21, 1, 32, 0, 0.15f, 0},
    };
    struct sp_error err = {0};
    if (device_open(&cuda.device, &err) != SP_OK) {
        fprintf(stderr, "gpu_flash: %s\n", err.text);
        return 1;
    }
    cuda_add_flash(&ops);
    for (size_t i = 0; i < SP_COUNT(shapes); i++)
        check_heads(&shapes[i]);
    check_long(&(struct flash_heads){3, 1, 16, 0, 0.25f, 0});
    check_long(&(struct flash_heads){2, 1, 16, 150, 0.25f, 0});
    check_sharing(&shapes[2], 0);
    check_sharing(&shapes[2], 6);
    check_sharing(&shapes[1], 0);
    check_exhaustion(&shapes[0]);
    for (int i = 0; i < CUDA_BLOCK_COUNT; i++)
        device_free(cuda.device, cuda.blocks[i].at);
    device_close(cuda.device);
    printf("1..%d\n", n_cases);
    return n_failed > 0;
}
