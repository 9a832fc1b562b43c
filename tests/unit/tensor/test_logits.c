/* Log-sum-exp, log-probabilities, their gradient, and sampling. */
#include "tests/unit/check_main.h"

#include <math.h>
#include <string.h>

#include "common/base/mem.h"
#include "common/base/rng.h"
#include "tests/unit/tensor/tensor_test.h"

static const int32_t vocabularies[] = {1, 5, 16, 100, 513, 3001};

START_TEST(lse_and_argmax)
{
    struct tn_backend *b = open_backend("cpu", NULL, 2);
    enum { R = 9 };
    int32_t V = vocabularies[_i], argmax[R];
    size_t v = (size_t)V;
    float *x = filled(R * v, 1, 20.0f), lse[R], logprob[R];
    struct tn_target targets[R];
    for (size_t i = 0; i < v; i++) {
        x[3 * v + i] = -1000.0f; /* a row of equals: the lowest id wins */
        x[4 * v + i] = i == v / 2 || i == v - 1 ? 30.0f : x[4 * v + i];
    }
    b->ops->row_lse(b, lse, argmax, x, R, V);
    for (size_t r = 0; r < R; r++) {
        double max = -INFINITY, sum = 0.0;
        int32_t best = 0;
        for (size_t i = 0; i < v; i++)
            if ((double)x[r * v + i] > max) {
                max = x[r * v + i];
                best = (int32_t)i;
            }
        for (size_t i = 0; i < v; i++)
            sum += exp(x[r * v + i] - max);
        ck_assert_double_eq_tol(lse[r], max + log(sum), 2e-6 * (1.0 + fabs(max)));
        ck_assert_int_eq(argmax[r], best);
        targets[r] = (struct tn_target){(int32_t)r, (int32_t)pick(2, (uint32_t)r, (uint32_t)V), 1};
    }
    ck_assert_int_eq(argmax[3], 0);
    ck_assert_int_eq(argmax[4], V / 2);
    b->ops->gather_logprob(b, logprob, x, lse, targets, R, V);
    for (size_t r = 0; r < R; r++)
        ck_assert(logprob[r] == x[r * v + (size_t)targets[r].id] - lse[r]);
    b->ops->row_lse(b, lse, NULL, x, R, V);
    tn_close(b);
}
END_TEST

enum { GR = 6, GV = 50, GN = 7 };
/* Row 0 has two targets (the last prompt row of a pair), row 2 and 5 none. */
static const struct tn_target targets[GN] = {
    {0, 3, 0.7f}, {0, 41, -1.3f}, {1, 0, 1.0f}, {3, 49, -0.2f},
    {4, 7, 0.5f}, {4, 7, 0.25f},  {4, 8, 2.0f},
};

static double logits_loss(const double *x, void *context)
{
    double loss = 0.0;
    for (size_t i = 0; i < GN; i++) {
        const double *row = x + (size_t)targets[i].row * GV;
        double sum = 0.0;
        for (size_t j = 0; j < GV; j++)
            sum += exp(row[j]);
        loss += (double)targets[i].coefficient * (row[targets[i].id] - log(sum));
    }
    return loss;
}

START_TEST(logits_gradient)
{
    struct tn_backend *b = open_backend("cpu", NULL, 2);
    float *x = filled(GR * GV, 1, 3.0f), *d = filled(GR * GV, 1, 3.0f), lse[GR];
    b->ops->row_lse(b, lse, NULL, x, GR, GV);
    b->ops->logits_bwd(b, d, lse, targets, GN, GR, GV);
    check_gradient(logits_loss, NULL, x, d, GR * GV, 1e-4);
    for (size_t i = 0; i < GV; i++)
        ck_assert(d[2 * GV + i] == 0.0f && d[5 * GV + i] == 0.0f);
    tn_close(b);
}
END_TEST

enum { OR = 30, OV = 700, OUT = OR * OV + 3 * OR };

static void all_of_it(struct tn_backend *b, float *out)
{
    struct tn_target list[OR];
    struct tn_sample_params params[OR];
    struct tn_sample_key keys[OR];
    int32_t ids[OR], argmax[OR];
    for (int32_t i = 0; i < OR; i++) {
        list[i] = (struct tn_target){i / 2 * 2, (int32_t)pick(3, (uint32_t)i, OV), (float)i - 7.3f};
        params[i] = (struct tn_sample_params){0.4f * (float)(i % 5), i % 3 ? 0 : 20 * i,
                                              i % 4 ? 1.0f : 0.8f};
        keys[i] = (struct tn_sample_key){7, 1, (uint32_t)i, 0, 5};
    }
    fill(out, OR * OV, 1, 4.0f);
    b->ops->sample(b, ids, out, OR, OV, params, keys);
    float *lse = out + OR * OV;
    b->ops->row_lse(b, lse, argmax, out, OR, OV);
    b->ops->logits_bwd(b, out, lse, list, OR, OR, OV);
    for (int32_t i = 0; i < OR; i++) {
        lse[OR + i] = (float)ids[i];
        lse[2 * OR + i] = (float)argmax[i];
    }
}

START_TEST(logits_have_one_result)
{
    check_same_bits(all_of_it, OUT);
}
END_TEST

/* --- sampling --- */

struct candidate {
    float logit;
    int32_t id;
};

static int by_logit(const void *a, const void *b)
{
    const struct candidate *x = a, *y = b;
    if (x->logit != y->logit)
        return x->logit > y->logit ? -1 : 1;
    return x->id < y->id ? -1 : x->id > y->id;
}

/* What the header says, in double: the probabilities of each id. */
static void distribution(double *p, const float *x, int32_t V, const struct tn_sample_params *o)
{
    struct candidate *list = array((size_t)V, sizeof(*list));
    double *share = array((size_t)V, 8), total = 0.0, kept = 0.0;
    for (int32_t i = 0; i < V; i++)
        list[i] = (struct candidate){x[i], i};
    qsort(list, (size_t)V, sizeof(*list), by_logit);
    int32_t n = o->top_k > 0 && o->top_k < V ? o->top_k : V, m = 0;
    for (int32_t i = 0; i < V; i++)
        p[i] = 0.0;
    for (int32_t i = 0; i < n; i++) {
        share[i] = exp((list[i].logit - list[0].logit) / (double)o->temperature);
        total += share[i];
    }
    while (m < n && (m == 0 || (kept < (double)o->top_p * total)))
        kept += share[m++];
    for (int32_t i = 0; i < m; i++)
        p[list[i].id] = share[i] / kept;
}

static const struct tn_sample_params settings[] = {
    {1.0f, 0, 1.0f},  {0.5f, 0, 1.0f}, {1.0f, 4, 1.0f},  {2.0f, 0, 0.7f},
    {1.0f, 10, 0.5f}, {1.3f, 1, 1.0f}, {1.0f, 0, 1e-6f}, {1.0f, 1000, 0.95f},
};

/* Draws follow the distribution (chi-square), and nothing outside it is ever drawn. */
START_TEST(samples_follow_the_distribution)
{
    enum { V = 37, DRAWS = 40000 };
    const struct tn_sample_params *o = &settings[_i];
    struct tn_backend *b = open_backend("cpu", NULL, 2);
    float one[V], *x = zeros((size_t)DRAWS * V);
    double p[V];
    fill(one, V, 21, 2.0f);
    one[5] = one[20]; /* a tie */
    distribution(p, one, V, o);
    struct tn_sample_params *params = array(DRAWS, sizeof(*params));
    struct tn_sample_key *keys = array(DRAWS, sizeof(*keys));
    int32_t *ids = array(DRAWS, sizeof(*ids)), count[V] = {0};
    for (size_t i = 0; i < DRAWS; i++) {
        memcpy(x + i * V, one, sizeof(one));
        params[i] = *o;
        keys[i] = (struct tn_sample_key){99, 2, (uint32_t)i, 0, 3};
    }
    b->ops->sample(b, ids, x, DRAWS, V, params, keys);
    for (size_t i = 0; i < DRAWS; i++) {
        ck_assert(ids[i] >= 0 && ids[i] < V);
        count[ids[i]]++;
    }
    double chi = 0.0;
    int degrees = -1;
    for (size_t i = 0; i < V; i++) {
        if (p[i] == 0.0)
            ck_assert_int_eq(count[i], 0);
        if (p[i] * DRAWS < 5.0)
            continue;
        degrees++;
        chi += (count[i] - p[i] * DRAWS) * (count[i] - p[i] * DRAWS) / (p[i] * DRAWS);
    }
    ck_assert_msg(chi < degrees + 5.0 * sqrt(2.0 * degrees) + 1e-9, "chi-square %.1f of %d", chi,
                  degrees);
    tn_close(b);
}
END_TEST

/* Top-p keeps the shortest prefix that reaches p, also where it does so exactly; equals by id. */
START_TEST(top_p_at_its_edge)
{
    enum { V = 8, ROWS = 200 };
    struct tn_backend *b = open_backend("cpu", NULL, 1);
    float *x = zeros(ROWS * V);
    struct tn_sample_params params[ROWS];
    struct tn_sample_key keys[ROWS];
    int32_t ids[ROWS];
    bool seen[V] = {false};
    for (uint32_t r = 0; r < ROWS; r++) {
        params[r] = (struct tn_sample_params){1.0f, 0, _i == 0 ? 0.5f : 0.5000001f};
        keys[r] = (struct tn_sample_key){5, 1, r, 0, 0};
    }
    b->ops->sample(b, ids, x, ROWS, V, params, keys);
    for (uint32_t r = 0; r < ROWS; r++)
        seen[ids[r]] = true;
    for (int32_t i = 0; i < V; i++)
        ck_assert_int_eq(seen[i], i < 4 + _i);
    tn_close(b);
}
END_TEST

/* A draw is the inverse of the distribution function, in the order that the header gives. */
START_TEST(samples_are_the_inverse_distribution)
{
    enum { V = 2500, ROWS = 60 };
    struct tn_backend *b = open_backend("cpu", NULL, 2);
    const struct tn_sample_params *o = &settings[_i];
    bool sorted = (o->top_k > 0 && o->top_k < V) || o->top_p < 1.0f;
    float *x = filled(ROWS * V, 5, 4.0f);
    struct tn_sample_params params[ROWS];
    struct tn_sample_key keys[ROWS];
    int32_t ids[ROWS], again[1];
    double *p = array(V, 8);
    struct candidate *list = array(V, sizeof(*list));
    for (uint32_t r = 0; r < ROWS; r++) {
        params[r] = *o;
        keys[r] = (struct tn_sample_key){1u << r % 20, r, 3 * r, 1, 40 - r % 40};
    }
    b->ops->sample(b, ids, x, ROWS, V, params, keys);
    for (size_t r = 0; r < ROWS; r++) {
        distribution(p, x + r * V, V, o);
        for (int32_t i = 0; i < V; i++)
            list[i] = (struct candidate){sorted ? x[r * V + (size_t)i] : 0.0f, i};
        qsort(list, V, sizeof(*list), by_logit);
        double u = (double)sp_rng_uniform(keys[r].seed, SP_STREAM_SAMPLE, keys[r].iteration,
                                          keys[r].prompt, keys[r].sample, keys[r].position);
        double below = 0.0, at = 0.0;
        for (int32_t i = 0; i < V && list[i].id != ids[r]; i++)
            below += p[list[i].id];
        at = p[ids[r]];
        ck_assert_msg(below - 1e-4 <= u && u <= below + at + 1e-4, "row %zu: %g not in %g + %g", r,
                      u, below, at);
        /* alone, it draws the same */
        b->ops->sample(b, again, x + r * V, 1, V, &params[r], &keys[r]);
        ck_assert_int_eq(again[0], ids[r]);
    }
    tn_close(b);
}
END_TEST

START_TEST(odd_rows_are_sampled_without_harm)
{
    enum { V = 600, ROWS = 6 };
    struct tn_backend *b = open_backend("cpu", NULL, 2);
    float *x = filled(ROWS * V, 1, 2.0f);
    for (size_t i = 0; i < V; i++) {
        x[i] = NAN;
        x[V + i] = -INFINITY;
        x[2 * V + i] = i == 77 ? INFINITY : x[2 * V + i];
        x[3 * V + i] = i % 3 ? NAN : x[3 * V + i];
        x[4 * V + i] = i == 599 ? 0.0f : -INFINITY;
        x[5 * V + i] = i % 2 ? -0.0f : 0.0f;
    }
    for (size_t s = 0; s < SP_COUNT(settings); s++) {
        struct tn_sample_params params[ROWS];
        struct tn_sample_key keys[ROWS] = {0};
        int32_t ids[ROWS];
        for (size_t r = 0; r < ROWS; r++)
            params[r] = settings[s];
        b->ops->sample(b, ids, x, ROWS, V, params, keys);
        for (size_t r = 0; r < ROWS; r++)
            ck_assert(ids[r] >= 0 && ids[r] < V);
        ck_assert_int_eq(ids[2], 77);
        ck_assert_int_eq(ids[4], 599);
    }
    struct tn_sample_params greedy[ROWS] = {{0}};
    struct tn_sample_key keys[ROWS] = {0};
    int32_t ids[ROWS];
    b->ops->sample(b, ids, x, ROWS, V, greedy, keys);
    ck_assert_int_eq(ids[5], 0);
    ck_assert_int_eq(ids[4], 599);
    tn_close(b);
}
END_TEST

START_TEST(logits_agree_with_openblas)
{
    check_backends_agree(all_of_it, OUT, 1e-6);
}
END_TEST

static Suite *suite(void)
{
    Suite *suite = suite_create("logits");
    TCase *tcase = tcase_create("logits");
    tcase_set_timeout(tcase, 30);
    tcase_add_checked_fixture(tcase, NULL, free_arrays);
    tcase_add_loop_test(tcase, lse_and_argmax, 0, (int)SP_COUNT(vocabularies));
    tcase_add_test(tcase, logits_gradient);
    tcase_add_test(tcase, logits_have_one_result);
    tcase_add_loop_test(tcase, samples_follow_the_distribution, 0, (int)SP_COUNT(settings));
    tcase_add_loop_test(tcase, samples_are_the_inverse_distribution, 0, (int)SP_COUNT(settings));
    tcase_add_loop_test(tcase, top_p_at_its_edge, 0, 2);
    tcase_add_test(tcase, odd_rows_are_sampled_without_harm);
    tcase_add_test(tcase, logits_agree_with_openblas);
    suite_add_tcase(suite, tcase);
    return suite;
}

SPIN_CHECK_MAIN(suite())
