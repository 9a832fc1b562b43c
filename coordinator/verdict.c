#include "coordinator/verdict.h"

#include <math.h>
#include <stdlib.h>

#include "common/base/mem.h"
#include "common/base/rng.h"

#define RESAMPLES 2000
#define CONVERGED_WITHIN 0.05

static const struct verdict_interval nothing = {NAN, NAN, NAN};

const char *verdict_name(enum verdict verdict)
{
    static const char *const names[] = {
        [VERDICT_UNDECIDED] = "undecided",       [VERDICT_IMPROVED] = "improved",
        [VERDICT_PLATEAU] = "plateau",           [VERDICT_CONVERGED] = "converged",
        [VERDICT_UNDERTRAINED] = "undertrained", [VERDICT_OVERFITTED] = "overfitted",
        [VERDICT_DEGRADED] = "degraded",
    };
    return (size_t)verdict < SP_COUNT(names) ? names[verdict] : "unknown";
}

/* ---- intervals ---- */

static double horner(const double *c, int n, double x)
{
    double sum = c[0];
    for (int i = 1; i < n; i++)
        sum = sum * x + c[i];
    return sum;
}

double verdict_normal_quantile(double p)
{
    static const double a[] = {-3.969683028665376e+01, 2.209460984245205e+02,
                               -2.759285104469687e+02, 1.383577518672690e+02,
                               -3.066479806614716e+01, 2.506628277459239e+00};
    static const double b[] = {-5.447609879822406e+01, 1.615858368580409e+02,
                               -1.556989798598866e+02, 6.680131188771972e+01,
                               -1.328068155288572e+01, 1};
    static const double c[] = {-7.784894002430293e-03, -3.223964580411365e-01,
                               -2.400758277161838e+00, -2.549732539343734e+00,
                               4.374664141464968e+00,  2.938163982698783e+00};
    static const double d[] = {7.784695709041462e-03, 3.224671290700398e-01, 2.445134137142996e+00,
                               3.754408661907416e+00, 1};
    const double low = 0.02425;
    if (!(p > 0 && p < 1))
        return NAN;
    if (p < low || p > 1 - low) {
        double q = sqrt(-2 * log(p < low ? p : 1 - p));
        double x = horner(c, 6, q) / horner(d, 5, q);
        return p < low ? x : -x;
    }
    double q = p - 0.5, r = q * q;
    return horner(a, 6, r) * q / horner(b, 6, r);
}

struct verdict_interval verdict_wilson(double successes, uint64_t n, double confidence)
{
    if (n == 0)
        return nothing;
    double z = verdict_normal_quantile(1 - (1 - confidence) / 2);
    double count = (double)n, p = successes / count;
    double scale = 1 + z * z / count;
    double middle = (p + z * z / (2 * count)) / scale;
    double half = z * sqrt(p * (1 - p) / count + z * z / (4 * count * count)) / scale;
    return (struct verdict_interval){.value = p, .low = middle - half, .high = middle + half};
}

struct verdict_interval verdict_newcombe(uint64_t k1, uint64_t n1, uint64_t k0, uint64_t n0,
                                         double confidence)
{
    if (n1 == 0 || n0 == 0)
        return nothing;
    struct verdict_interval x = verdict_wilson((double)k1, n1, confidence);
    struct verdict_interval y = verdict_wilson((double)k0, n0, confidence);
    double change = x.value - y.value;
    double down = hypot(x.value - x.low, y.high - y.value);
    double up = hypot(x.high - x.value, y.value - y.low);
    return (struct verdict_interval){.value = change, .low = change - down, .high = change + up};
}

static int compare_doubles(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

struct verdict_interval verdict_bootstrap(const double *values, size_t n, double confidence,
                                          uint64_t seed, uint32_t iteration)
{
    if (n == 0)
        return nothing;
    double sum = 0;
    for (size_t i = 0; i < n; i++)
        sum += values[i];
    /* The outermost of 2,000 is as far out as the tail of 0.999. */
    double tail = (1 - confidence) / 2;
    uint32_t resamples = (uint32_t)SP_MAX(RESAMPLES, lround(1 / tail));
    double *means = sp_xarray(resamples, sizeof(*means));
    for (uint32_t r = 0; r < resamples; r++) {
        double resampled = 0;
        for (uint32_t i = 0; i < n; i++)
            resampled +=
                values[sp_rng_below(seed, SP_STREAM_BOOTSTRAP, iteration, r, i, 0, (uint64_t)n)];
        means[r] = resampled / (double)n;
    }
    qsort(means, resamples, sizeof(*means), compare_doubles);
    size_t low = (size_t)floor(tail * (resamples - 1));
    struct verdict_interval interval = {
        .value = sum / (double)n, .low = means[low], .high = means[resamples - 1 - low]};
    free(means);
    return interval;
}

/* ---- the rules ---- */

static bool above(const struct verdict_interval *interval, double bound)
{
    return interval->low > bound; /* false for NaN */
}

static bool near_half(const struct verdict_interval *interval)
{
    return fabs(interval->value - 0.5) <= CONVERGED_WITHIN;
}

static enum verdict decide(const struct verdict_input *input, const struct verdict_result *x)
{
    if (input->pairs < input->min_pairs || input->pairs == 0)
        return VERDICT_UNDECIDED;
    if (above(&x->exact_match_change, 0))
        return VERDICT_IMPROVED;
    if (above(&x->nll_change, 0))
        return VERDICT_DEGRADED;
    if (x->nll_change.high < 0)
        return VERDICT_IMPROVED;
    if (above(&x->f, 0.5) && input->holdout_loss > input->loss_at_zero)
        return VERDICT_OVERFITTED;
    if (near_half(&x->a) && near_half(&x->f) && above(&x->r, 0.5))
        return VERDICT_CONVERGED;
    if (x->r.low <= 0.5 && x->r.high >= 0.5)
        return VERDICT_UNDERTRAINED;
    return VERDICT_PLATEAU;
}

void verdict_judge(const struct verdict_input *input, struct verdict_result *ret)
{
    double positive = 0;
    for (size_t i = 0; input->margins && i < input->pairs; i++)
        positive += input->margins[i] > 0 ? 1 : input->margins[i] == 0 ? 0.5 : 0;
    double level = input->confidence;
    ret->a = input->margins ? verdict_wilson(positive, input->pairs, level) : nothing;
    ret->f = verdict_wilson(input->first_sight_correct, input->first_sight_pairs, level);
    ret->r = verdict_wilson(input->trained_correct, input->trained_pairs, level);
    ret->nll_change =
        verdict_bootstrap(input->nll_change, input->pairs, level, input->seed, input->iteration);
    ret->exact_match_change =
        verdict_newcombe(input->eval_correct, input->eval_count, input->eval_correct_before,
                         input->eval_count_before, level);
    ret->verdict = decide(input, ret);
}

/* ---- shortcuts ---- */

struct token_count {
    int32_t token;
    int64_t score; /* human − generated */
};

static int compare_tokens(const void *a, const void *b)
{
    int32_t x = ((const struct token_count *)a)->token, y = ((const struct token_count *)b)->token;
    return (x > y) - (x < y);
}

static int64_t score_of(const struct token_count *counts, size_t n, int32_t token)
{
    struct token_count key = {.token = token};
    const struct token_count *found = bsearch(&key, counts, n, sizeof(key), compare_tokens);
    return found ? found->score : 0;
}

static double first_token_accuracy(const struct verdict_features *pairs, size_t n)
{
    struct token_count *counts = sp_xarray(2 * n, sizeof(*counts));
    size_t used = 0, tested = 0, unique = 0;
    for (size_t i = 0; i < n; i++) {
        if (pairs[i].prompt % 2 != 0)
            continue;
        counts[used++] = (struct token_count){pairs[i].first_token[0], 1};
        counts[used++] = (struct token_count){pairs[i].first_token[1], -1};
    }
    qsort(counts, used, sizeof(*counts), compare_tokens);
    for (size_t i = 0; i < used; i++) {
        if (unique > 0 && counts[unique - 1].token == counts[i].token)
            counts[unique - 1].score += counts[i].score;
        else
            counts[unique++] = counts[i];
    }
    double correct = 0;
    for (size_t i = 0; i < n; i++) {
        if (pairs[i].prompt % 2 == 0)
            continue;
        tested++;
        int64_t human = score_of(counts, unique, pairs[i].first_token[0]);
        int64_t other = score_of(counts, unique, pairs[i].first_token[1]);
        correct += human > other ? 1 : human == other ? 0.5 : 0;
    }
    free(counts);
    return tested > 0 ? correct / (double)tested : NAN;
}

void verdict_shortcuts(const struct verdict_features *pairs, size_t n,
                       struct verdict_shortcuts *ret)
{
    *ret = (struct verdict_shortcuts){NAN, NAN, NAN};
    if (n == 0)
        return;
    double longer = 0, cut = 0;
    for (size_t i = 0; i < n; i++) {
        uint32_t human = pairs[i].length[0], other = pairs[i].length[1];
        longer += human > other ? 1 : human == other ? 0.5 : 0;
        cut += pairs[i].cut;
    }
    longer /= (double)n;
    ret->length = longer > 0.5 ? longer : 1 - longer;
    ret->end_token = 0.5 + 0.5 * cut / (double)n;
    ret->first_token = first_token_accuracy(pairs, n);
}
