/* verdict: what an iteration has achieved, from numbers. Pure; any thread; blocks on nothing.
 *
 *   a: share of held-out pairs with m > 0 under the new player (ties count one half): Wilson's
 *      interval
 *   f: the same at first sight, second half of the first pass, replays left out
 *   r: the same on trained pairs after training
 *   d: paired difference of the mean negative log-likelihood of a human answer's token, player
 *      minus opponent: percentile bootstrap interval of 2,000 resamples (more where confidence is
 *      above 0.999), drawn from SP_STREAM_BOOTSTRAP
 *   e: exact match of the player minus that of the opponent: Newcombe's interval (1998, method 10)
 *
 * The first rule that holds gives the verdict:
 *   undecided     fewer than min_pairs held-out pairs
 *   improved      e's interval above 0: the evaluation that the user chose decides
 *   degraded      d's interval above 0
 *   improved      d's interval below 0
 *   overfitted    f's interval above one half while the held-out loss is above ℓ(0)
 *   converged     a and f within one half ± 0.05, and r's interval above one half
 *   undertrained  r's interval contains one half
 *   plateau       otherwise: d's interval contains 0
 * In mode sft there is no other side: a, f and r are not a number, and their rules do not hold.
 *
 * Wilson (1927), "Probable inference, the law of succession, and statistical inference". */
#ifndef SPIN_COORDINATOR_VERDICT_H
#define SPIN_COORDINATOR_VERDICT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct verdict_interval {
    double value, low, high; /* NaN: nothing to measure */
};

enum verdict {
    VERDICT_UNDECIDED,
    VERDICT_IMPROVED,
    VERDICT_PLATEAU,
    VERDICT_CONVERGED,
    VERDICT_UNDERTRAINED,
    VERDICT_OVERFITTED,
    VERDICT_DEGRADED,
};
const char *verdict_name(enum verdict verdict); /* "improved"; static */

struct verdict_input {
    uint64_t seed;
    uint32_t iteration;
    double confidence;          /* 0.95 */
    uint64_t min_pairs;
    size_t pairs;               /* held-out */
    const double *nll_change;   /* [pairs] nats per token of the human answer, player − opponent */
    const double *margins;      /* [pairs] m, or NULL (mode sft) */
    double holdout_loss;        /* mean ℓ(m); NaN in mode sft */
    double loss_at_zero;        /* ℓ(0) */
    double first_sight_correct; /* ties one half */
    uint64_t first_sight_pairs;
    double trained_correct;
    uint64_t trained_pairs;
    /* 0 problems: no evaluation */
    uint64_t eval_correct, eval_count, eval_correct_before, eval_count_before;
};

struct verdict_result {
    enum verdict verdict;
    struct verdict_interval a, f, r, nll_change, exact_match_change;
};

void verdict_judge(const struct verdict_input *input, struct verdict_result *ret);

/* successes may be a half-integer; n 0: NaN. */
struct verdict_interval verdict_wilson(double successes, uint64_t n, double confidence);
/* Mean with the percentile bootstrap interval; n 0: NaN. */
struct verdict_interval verdict_bootstrap(const double *values, size_t n, double confidence,
                                          uint64_t seed, uint32_t iteration);
/* p1 − p0 of two independent shares. */
struct verdict_interval verdict_newcombe(uint64_t k1, uint64_t n1, uint64_t k0, uint64_t n0,
                                         double confidence);
/* The quantile of the standard normal distribution (Acklam's rational approximation, error below
 * 1.2e-9 relative). */
double verdict_normal_quantile(double p);

/* ---- shortcuts: can one feature tell the human answer from the other? ---- */

struct verdict_features {
    uint32_t prompt;
    uint32_t length[2];      /* tokens: human, generated */
    int32_t first_token[2];  /* −1: none */
    bool cut;                /* the generated answer ended at the token limit */
};
struct verdict_shortcuts {
    double length;      /* "the longer (or the shorter) one is human" */
    double end_token;   /* "the one with an end token is human" */
    double first_token; /* by how often each first token starts a human answer; learned on the even
                           prompts, counted on the odd ones: all pairs of a prompt have one human
                           answer */
};
#define VERDICT_SHORTCUT_WARN 0.7
/* Accuracies; NaN without pairs. */
void verdict_shortcuts(const struct verdict_features *pairs, size_t n,
                       struct verdict_shortcuts *ret);

#endif
