/* sample: one draw a row. The uniform number comes from the counter-based generator by the draw's
 * name, probabilities from our exp, and every sum has one order:
 *
 * - Without top-k and top-p the distribution function is inverted over the vocabulary by id: sums
 * of chunks of CHUNK ids (16 lanes and a tree) are added up in order, and the chunk that the draw
 * falls in is walked id by id. Nothing is sorted.
 * - With either, candidates are taken in order of falling logit, lower id first among equals: top-k
 *   keeps the first k; top-p the shortest prefix whose share of what top-k left is at least p (at
 *   least one). Only as many as needed are sorted.
 *
 * A row whose probabilities aren't finite (NaN or +∞ among its logits) gives its greedy choice. */
#include <stdlib.h>
#include <string.h>

#include "common/base/mem.h"
#include "common/base/rng.h"
#include "common/tensor/cpu/cpu.h"

#define CHUNK 512
#define MAX_CHUNKS ((1 << 20) / CHUNK)
#define FIRST_SORTED 256 /* candidates sorted at first when only top-p is on */

struct sampling {
    struct tn_cpu *cpu;
    int32_t *ids;
    const float *logits;
    int32_t R, V;
    const struct tn_sample_params *params;
    const struct tn_sample_key *keys;
};

/* --- candidates as integers: ascending order is falling logit, then rising id --- */

static uint64_t candidate(float logit, int32_t id)
{
    uint32_t bits;
    logit += 0.0f; /* −0 equals +0 */
    memcpy(&bits, &logit, 4);
    bits = bits & 0x80000000u ? ~bits : bits | 0x80000000u;
    return (uint64_t)~bits << 32 | (uint32_t)id;
}

static int compare_candidates(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return x < y ? -1 : x > y;
}

/* Quickselect: the `keep` smallest of list[0..n) come first, in any order. */
static void select_first(uint64_t *list, size_t n, size_t keep)
{
    size_t low = 0, high = n;
    while (high - low > 16 && keep > low && keep < high) {
        uint64_t a = list[low], b = list[low + (high - low) / 2], c = list[high - 1];
        uint64_t pivot = SP_MAX(SP_MIN(a, b), SP_MIN(SP_MAX(a, b), c));
        size_t i = low, j = high - 1;
        while (i <= j) {
            while (list[i] < pivot)
                i++;
            while (list[j] > pivot)
                j--;
            if (i >= j)
                break;
            uint64_t swap = list[i];
            list[i++] = list[j];
            list[j--] = swap;
        }
        /* candidates differ pairwise: [low, i) ≤ pivot ≤ [i, high) */
        size_t middle = list[i] <= pivot ? i + 1 : i;
        if (keep < middle)
            high = middle;
        else
            low = middle;
    }
    if (keep > low && keep < high)
        qsort(list + low, high - low, sizeof(*list), compare_candidates);
}

/* --- without truncation --- */

static int32_t sample_all(const struct sampling *s, const float *x, float max, float inverse_t,
                          float uniform, int32_t greedy)
{
    const struct tn_kern *kern = s->cpu->kern;
    double sums[MAX_CHUNKS], total = 0.0;
    int32_t V = s->V, chunks = tn_ceil_div(V, CHUNK), last = 0;
    for (int32_t i = 0; i < chunks; i++) {
        size_t at = (size_t)i * CHUNK, n = SP_MIN((size_t)CHUNK, (size_t)V - at);
        sums[i] = (double)kern->row_sum_exp(x + at, n, max, inverse_t);
        total += sums[i];
    }
    if (!(total > 0.0 && total < 1e300))
        return greedy;
    double target = (double)uniform * total, before = 0.0;
    for (int32_t i = 0; i < chunks; i++) {
        if (sums[i] > 0.0)
            last = i;
        if (sums[i] > 0.0 && before + sums[i] > target)
            break;
        if (i < chunks - 1)
            before += sums[i];
    }
    /* Rounding may leave the draw past the last number: then the last that is likely at all. */
    float p[CHUNK];
    size_t at = (size_t)last * CHUNK, n = SP_MIN((size_t)CHUNK, (size_t)V - at);
    int32_t chosen = greedy;
    kern->row_exp(p, x + at, n, max, inverse_t);
    for (size_t i = 0; i < n; i++) {
        if (!(p[i] > 0.0f))
            continue;
        chosen = (int32_t)(at + i);
        before += (double)p[i];
        if (before > target)
            break;
    }
    return chosen;
}

/* --- with top-k, top-p or both --- */

static int32_t sample_sorted(const struct sampling *s, const float *x, float max, float inverse_t,
                             float uniform, int32_t greedy, const struct tn_sample_params *params,
                             uint64_t *list)
{
    const struct tn_kern *kern = s->cpu->kern;
    size_t V = (size_t)s->V, keep = V;
    for (size_t i = 0; i < V; i++)
        list[i] = candidate(x[i], (int32_t)i);
    if (params->top_k > 0 && (size_t)params->top_k < V)
        keep = (size_t)params->top_k;
    bool limited = keep < V;
    double whole = 0.0;
    if (limited) {
        select_first(list, V, keep);
        qsort(list, keep, sizeof(*list), compare_candidates);
    } else {
        for (size_t at = 0; at < V; at += CHUNK)
            whole +=
                (double)kern->row_sum_exp(x + at, SP_MIN((size_t)CHUNK, V - at), max, inverse_t);
    }
    float *p = (float *)(list + V), *logit = p + V;
    size_t sorted = limited ? keep : 0, known = 0;
    if (limited) {
        for (size_t i = 0; i < keep; i++)
            logit[i] = x[(uint32_t)list[i]];
        kern->row_exp(p, logit, keep, max, inverse_t);
        for (size_t i = 0; i < keep; i++)
            whole += (double)p[i];
        known = keep;
    }
    if (!(whole > 0.0 && whole < 1e300))
        return greedy;
    /* the prefix whose share reaches top_p */
    double need = params->top_p < 1.0f ? (double)params->top_p * whole : whole, kept = 0.0;
    size_t count = 0;
    while (count < keep && (count == 0 || kept < need)) {
        if (count == known) {
            size_t more = SP_MIN(V, sorted == 0 ? FIRST_SORTED : 4 * sorted);
            select_first(list + sorted, V - sorted, more - sorted);
            qsort(list + sorted, more - sorted, sizeof(*list), compare_candidates);
            for (size_t i = sorted; i < more; i++)
                logit[i] = x[(uint32_t)list[i]];
            kern->row_exp(p + sorted, logit + sorted, more - sorted, max, inverse_t);
            known = sorted = more;
        }
        kept += (double)p[count++];
    }
    double target = (double)uniform * kept, before = 0.0;
    int32_t chosen = (int32_t)(uint32_t)list[0];
    for (size_t i = 0; i < count; i++) {
        if (!(p[i] > 0.0f))
            continue;
        chosen = (int32_t)(uint32_t)list[i];
        before += (double)p[i];
        if (before > target)
            break;
    }
    return chosen;
}

static void sample_task(void *context, int32_t row, int32_t worker)
{
    const struct sampling *s = context;
    const struct tn_sample_params *params = &s->params[row];
    const struct tn_sample_key *key = &s->keys[row];
    const float *x = s->logits + (size_t)row * (size_t)s->V;
    int32_t greedy;
    float max = s->cpu->kern->row_max(x, (size_t)s->V, &greedy);
    if (!(params->temperature > 0.0f)) {
        s->ids[row] = greedy;
        return;
    }
    float uniform = sp_rng_uniform(key->seed, SP_STREAM_SAMPLE, key->iteration, key->prompt,
                                   key->sample, key->position);
    float inverse_t = 1.0f / params->temperature;
    bool top_k = params->top_k > 0 && params->top_k < s->V, top_p = params->top_p < 1.0f;
    if (!top_k && !top_p) {
        s->ids[row] = sample_all(s, x, max, inverse_t, uniform, greedy);
        return;
    }
    uint64_t *list = (uint64_t *)(void *)tn_own_scratch(s->cpu, worker, 4 * (size_t)s->V);
    s->ids[row] = sample_sorted(s, x, max, inverse_t, uniform, greedy, params, list);
}

void tn_cpu_sample(struct tn_backend *backend, int32_t *ids_host, const float *logits, int32_t R,
                   int32_t V, const struct tn_sample_params *params,
                   const struct tn_sample_key *keys)
{
    struct sampling s = {.cpu = tn_cpu_of(backend),
                         .ids = ids_host,
                         .logits = logits,
                         .R = R,
                         .V = V,
                         .params = params,
                         .keys = keys};
    SP_ASSERT(V > 0 && V <= 1 << 20);
    tn_pool_run_near(s.cpu->pool, R, sample_task, &s);
}
