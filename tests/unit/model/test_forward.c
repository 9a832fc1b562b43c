#include "tests/unit/model/fixtures.h"

static struct tn_backend *cpu;

static void setup(void)
{
    cpu = open_cpu(2);
}

static void teardown(void)
{
    tn_close(cpu);
}

static void check_sequence(struct model *m, const json_t *row, const char *key, double tolerance)
{
    int32_t n_prompt, n;
    int32_t *prompt = json_ids(json_object_get(row, "prompt"), &n_prompt);
    int32_t *response = json_ids(json_object_get(row, "response"), &n);
    const json_t *expected = json_object_get(row, key);
    ck_assert_uint_eq(json_array_size(expected), (size_t)n);
    float *logprobs = sp_xarray((size_t)n, sizeof(*logprobs));
    forward_logprobs(m, prompt, n_prompt, response, n, logprobs);
    for (int32_t i = 0; i < n; i++) {
        double e = json_number_value(json_array_get(expected, (size_t)i));
        ck_assert_msg(fabs((double)logprobs[i] - e) < tolerance, "token %d: %.7f, expected %.7f", i,
                      (double)logprobs[i], e);
    }
    free(prompt);
    free(response);
    free(logprobs);
}

static void check_tiny_models(struct tn_backend *b)
{
    json_t *golden = load_golden("tiny.json");
    const char *const names[] = {"llama", "mistral"};
    for (size_t k = 0; k < 2; k++) {
        char dir[64];
        size_t i;
        json_t *row;
        snprintf(dir, sizeof(dir), "tiny-%s", names[k]);
        struct model *m = open_golden(b, dir);
        json_array_foreach(json_object_get(golden, "sequences"), i, row)
        {
            check_sequence(m, row, names[k], 2e-5);
        }
        ck_assert_uint_eq(i, 6);
        model_free(m);
    }
    json_decref(golden);
}

START_TEST(agrees_with_transformers_on_tiny_models)
{
    check_tiny_models(cpu);
    struct tn_backend *other = open_backend("openblas", 2);
    check_tiny_models(other);
    tn_close(other);
}
END_TEST

START_TEST(agrees_with_transformers_on_stories)
{
    const char *dir = shared_data(STORIES);
    if (!dir)
        return;
    struct model *m = NULL;
    json_t *golden = load_golden("stories.json"), *row;
    size_t i;
    ck_ok(model_open(cpu, dir, &m, err));
    json_array_foreach(json_object_get(golden, "texts"), i, row)
    {
        check_sequence(m, row, "logprobs", 1e-4);
    }
    ck_assert_uint_eq(i, 20);
    check_sequence(m, json_object_get(golden, "long"), "logprobs", 1e-4);
    json_decref(golden);
    model_free(m);
}
END_TEST

/* A batch of three segments: a pair, a plain sequence, a pair; the second targets' rows are shared
 * by both branches of a pair. */
struct packed {
    int32_t ids[40], positions[40];
    struct tn_segment segments[3];
    struct tn_target targets[40];
    struct model_batch batch;
};

static void add_segment(struct packed *p, struct tn_segment s)
{
    struct model_batch *b = &p->batch;
    int32_t row = b->rows, n = s.prompt + s.a + s.b;
    s.row = row;
    p->segments[b->n_segments++] = s;
    random_ids((uint32_t)b->n_segments, 53, n, p->ids + row);
    for (int32_t i = 0; i < n; i++)
        p->positions[row + i] = i < s.prompt + s.a ? i : i - s.a;
    for (int32_t i = s.prompt - 1; i < n; i++) {
        int32_t copies = i == s.prompt - 1 && s.b > 0 ? 2 : 1;
        for (int32_t c = 0; c < copies; c++, b->n_targets++)
            p->targets[b->n_targets] =
                (struct tn_target){.row = row + i,
                                   .id = (int32_t)random_below(9, (uint32_t)b->n_targets, 53),
                                   .coefficient = (b->n_targets % 3 ? 0.4f : -0.7f)};
    }
    b->rows += n;
}

static void make_packed(struct packed *p)
{
    *p = (struct packed){0};
    p->batch = (struct model_batch){
        .ids = p->ids, .positions = p->positions, .segments = p->segments, .targets = p->targets};
    add_segment(p, (struct tn_segment){.prompt = 4, .a = 3, .b = 5});
    add_segment(p, (struct tn_segment){.prompt = 2, .a = 6});
    add_segment(p, (struct tn_segment){.prompt = 7, .a = 1, .b = 2});
}

static struct model_workspace *work_for(struct model *m, const struct packed *p, size_t budget)
{
    struct model_workspace *work = NULL;
    struct model_workspace_size size = {.max_rows = p->batch.rows,
                                        .longest = 12,
                                        .max_targets = p->batch.n_targets,
                                        .backward = true,
                                        .budget_bytes = budget};
    ck_ok(model_workspace_new(m, &size, &work, err));
    return work;
}

static double weighted_sum(struct model *m, struct model_workspace *work, const struct packed *p)
{
    float logprobs[40];
    double sum = 0;
    ck_ok(model_forward(m, work, &p->batch, logprobs, err));
    for (int32_t i = 0; i < p->batch.n_targets; i++)
        sum += (double)p->targets[i].coefficient * (double)logprobs[i];
    return sum;
}

/* Central differences along the gradient of each tensor: its slope is the gradient's norm. */
static void check_gradient(bool tied, int32_t window)
{
    struct model_config config = odd_config(tied);
    struct model *m = NULL;
    struct packed p;
    int32_t n_tensors;
    size_t n;
    config.window = window;
    make_packed(&p);
    ck_ok(model_new(cpu, &config, 3, &m, err));
    struct model_workspace *work = work_for(m, &p, 0);
    weighted_sum(m, work, &p);
    ck_ok(model_backward(m, work, &p.batch, err));
    const struct model_tensor *tensors = model_tensors(m, &n_tensors);
    float *params = model_params(m, &n);
    float *w = host_copy(cpu, params, n), *kept = sp_xmemdup(w, n * sizeof(float));
    float *g = host_copy(cpu, model_grads(m), n);
    for (int32_t t = 0; t < n_tensors; t++) {
        size_t first = tensors[t].offset, end = first, norm_end;
        norm_end = first + (size_t)tensors[t].rows * (size_t)SP_MAX(tensors[t].cols, 1);
        double norm = 0, at[2];
        for (; end < norm_end; end++)
            norm += (double)g[end] * (double)g[end];
        norm = sqrt(norm);
        ck_assert_msg(norm > 1e-3, "%s: gradient norm %g", tensors[t].name, norm);
        const double h = 0.004;
        for (int side = 0; side < 2; side++) {
            for (size_t i = first; i < end; i++)
                w[i] = kept[i] + (float)((side ? h : -h) * (double)g[i] / norm);
            cpu->ops->upload(cpu, params, w, n * sizeof(float));
            at[side] = weighted_sum(m, work, &p);
            memcpy(w + first, kept + first, (end - first) * sizeof(float));
        }
        double slope = (at[1] - at[0]) / (2 * h);
        ck_assert_msg(fabs(slope - norm) < 4e-3 * norm + 2e-3, "%s: slope %.6f, gradient %.6f",
                      tensors[t].name, slope, norm);
    }
    free(kept);
    free(w);
    free(g);
    model_workspace_free(work);
    model_free(m);
}

START_TEST(gradient_agrees_with_differences)
{
    check_gradient(false, 0);
    check_gradient(true, 0);
    check_gradient(false, 3);
}
END_TEST

START_TEST(packed_pair_has_the_bits_of_plain_sequences)
{
    struct model_config config = odd_config(false);
    struct model *m = NULL;
    struct packed p;
    float together[40], apart[40];
    make_packed(&p);
    ck_ok(model_new(cpu, &config, 4, &m, err));
    struct model_workspace *work = work_for(m, &p, 0);
    ck_ok(model_forward(m, work, &p.batch, together, err));
    int32_t t = 0;
    for (int32_t s = 0; s < 3; s++) {
        struct tn_segment g = p.segments[s];
        for (int32_t branch = 0; branch < (g.b ? 2 : 1); branch++) {
            const int32_t *ids = p.ids + g.row;
            int32_t n = branch ? g.b : g.a, response[16];
            /* Targets of a pair: both first tokens, then the rest of each branch. */
            int32_t first = t + branch, rest = t + (g.b ? 2 : 1) + (branch ? g.a : 0);
            memcpy(response, ids + g.prompt + (branch ? g.a : 0), (size_t)n * sizeof(int32_t));
            response[n] = 0;
            for (int32_t i = 0; i <= n; i++) {
                /* The rows hold other ids than the targets: ask for one target at a time. */
                int32_t target = i == 0 ? first : rest + i - 1, with[17];
                memcpy(with, response, (size_t)i * sizeof(int32_t));
                with[i] = p.targets[target].id;
                forward_logprobs(m, ids, g.prompt, with, i + 1, apart);
                ck_assert_msg(memcmp(&apart[i], &together[target], sizeof(float)) == 0,
                              "segment %d, branch %d, token %d: %.9g, packed %.9g", s, branch, i,
                              (double)apart[i], (double)together[target]);
            }
        }
        t += (g.b ? 2 : 1) + g.a + g.b;
    }
    ck_assert_int_eq(t, p.batch.n_targets);
    model_workspace_free(work);
    model_free(m);
}
END_TEST

/* In "cuda", too, where numbers are rounded on their way to memory. */
START_TEST(recomputing_gives_the_same_bits)
{
    struct tn_backend *b = _i == 0 ? cpu : open_backend("cuda", 1);
    struct model_config config = odd_config(false);
    struct model *m = NULL;
    struct packed p;
    size_t n;
    float *first = NULL, logprobs[2][40];
    make_packed(&p);
    ck_ok(model_new(b, &config, 5, &m, err));
    model_params(m, &n);
    struct model_workspace_size size = {.max_rows = p.batch.rows,
                                        .longest = 12,
                                        .max_targets = p.batch.n_targets,
                                        .backward = true,
                                        .activations = b->activations};
    struct model_memory_plan plan;
    ck_ok(model_memory_plan(&config, &size, &plan, err));
    ck_assert_int_eq(plan.kept_layers, 3);
    size_t budget = plan.total;
    int32_t seen = 0, last = 4;
    for (int32_t i = 0;; i++, budget -= 512) {
        size.budget_bytes = budget;
        if (model_memory_plan(&config, &size, &plan, NULL) != SP_OK)
            break;
        ck_assert_uint_le(plan.total, budget);
        ck_assert_int_le(plan.kept_layers, last);
        if (plan.kept_layers == last)
            continue;
        last = plan.kept_layers;
        seen++;
        struct model_workspace *work = work_for(m, &p, budget);
        ck_assert_int_eq(model_workspace_plan(work)->kept_layers, last);
        model_zero_grads(m);
        ck_ok(model_forward(m, work, &p.batch, logprobs[first != NULL], err));
        ck_ok(model_backward(m, work, &p.batch, err));
        float *grads = host_copy(b, model_grads(m), n);
        if (first) {
            ck_assert(memcmp(first, grads, n * sizeof(float)) == 0);
            ck_assert(memcmp(logprobs[0], logprobs[1], (size_t)p.batch.n_targets * sizeof(float)) ==
                      0);
            free(grads);
        } else {
            first = grads;
        }
        model_workspace_free(work);
    }
    ck_assert_int_eq(seen, 3); /* one layer in the shared set is the same as all kept */
    ck_fails(SP_ELIMIT, "budget", model_memory_plan(&config, &size, &plan, err));
    free(first);
    model_free(m);
    if (b != cpu)
        tn_close(b);
}
END_TEST

/* 700 target rows: three blocks of logits, kept or computed again. */
START_TEST(logits_by_block_give_the_same_bits)
{
    struct model_config config = odd_config(true);
    struct model *m = NULL;
    enum { ROWS = 700, SEGMENTS = 10 };
    static int32_t ids[ROWS], positions[ROWS];
    static struct tn_target targets[ROWS];
    static float logprobs[2][ROWS];
    struct tn_segment segments[SEGMENTS];
    size_t n;
    random_ids(1, 53, ROWS, ids);
    for (int32_t i = 0; i < ROWS; i++) {
        positions[i] = i % 70;
        targets[i] = (struct tn_target){i, (i * 7) % 53, (float)(i % 5) - 2};
    }
    for (int32_t s = 0; s < SEGMENTS; s++)
        segments[s] = (struct tn_segment){s * 70, 1, 69, 0};
    struct model_batch batch = {ROWS, ids, positions, segments, SEGMENTS, targets, ROWS};
    struct model_workspace_size size = {
        .max_rows = ROWS, .longest = 70, .max_targets = ROWS, .backward = true};
    struct model_memory_plan plan;
    float *grads[2];
    ck_ok(model_new(cpu, &config, 6, &m, err));
    model_params(m, &n);
    ck_ok(model_memory_plan(&config, &size, &plan, err));
    ck_assert_int_eq(plan.logit_rows, ROWS);
    for (int k = 0; k < 2; k++) {
        struct model_workspace *work = NULL;
        size.budget_bytes = k ? plan.total - 4 : 0;
        ck_ok(model_workspace_new(m, &size, &work, err));
        ck_assert_int_eq(model_workspace_plan(work)->logit_rows, k ? 512 : ROWS);
        model_zero_grads(m);
        ck_ok(model_forward(m, work, &batch, logprobs[k], err));
        ck_ok(model_backward(m, work, &batch, err));
        grads[k] = host_copy(cpu, model_grads(m), n);
        model_workspace_free(work);
    }
    ck_assert(memcmp(logprobs[0], logprobs[1], sizeof(logprobs[0])) == 0);
    ck_assert(memcmp(grads[0], grads[1], n * sizeof(float)) == 0);
    free(grads[0]);
    free(grads[1]);
    model_free(m);
}
END_TEST

START_TEST(threads_do_not_change_bits)
{
    struct model_config config = odd_config(false);
    struct packed p;
    float *first = NULL;
    size_t n;
    make_packed(&p);
    for (int32_t threads = 1; threads <= 4; threads++) {
        struct tn_backend *b = open_cpu(threads);
        struct model *m = NULL;
        float logprobs[40];
        ck_ok(model_new(b, &config, 8, &m, err));
        struct model_workspace *work = work_for(m, &p, 0);
        ck_ok(model_forward(m, work, &p.batch, logprobs, err));
        ck_ok(model_backward(m, work, &p.batch, err));
        model_params(m, &n);
        float *grads = host_copy(b, model_grads(m), n);
        first = first ? first : host_copy(b, model_grads(m), n);
        ck_assert(memcmp(first, grads, n * sizeof(float)) == 0);
        free(grads);
        model_workspace_free(work);
        model_free(m);
        tn_close(b);
    }
    free(first);
}
END_TEST

START_TEST(plan_is_what_it_says)
{
    struct model_config config = odd_config(false);
    struct model_workspace_size size = {
        .max_rows = 100, .longest = 50, .max_targets = 80, .backward = true, .extra_bytes = 12345};
    struct model_memory_plan p, forward_only, more;
    struct sp_buf text = SP_BUF_INIT;
    ck_ok(model_memory_plan(&config, &size, &p, err));
    ck_assert_uint_eq(p.total,
                      p.weights + p.grads + p.extra + p.activations + p.logits + p.scratch);
    ck_assert_uint_eq(p.weights, 4 * (size_t)config.n_params);
    ck_assert_uint_eq(p.extra, 12345);
    ck_assert_uint_eq(p.logits, 80 * 53 * 4);
    size.backward = false;
    ck_ok(model_memory_plan(&config, &size, &forward_only, err));
    ck_assert_uint_eq(forward_only.grads, 0);
    ck_assert_uint_lt(forward_only.activations, p.activations);
    model_memory_plan_print(&p, &text);
    ck_assert_ptr_nonnull(strstr(text.data, "activations of 3 of 3 layers"));
    ck_assert_ptr_nonnull(strstr(text.data, "total"));
    sp_buf_deinit(&text);
    /* With activations in bf16 parameters and logits are rounded for products. */
    size.backward = true;
    size.activations = size.weights = TN_BF16;
    ck_ok(model_memory_plan(&config, &size, &p, err));
    size.weights = TN_F32;
    ck_ok(model_memory_plan(&config, &size, &more, err));
    ck_assert_uint_ge(p.scratch, 2 * 80 * 53);
    ck_assert_uint_ge(more.scratch + 1024, p.scratch + 2 * (size_t)config.hidden * 53);
    size.longest = 101;
    ck_fails(SP_EINVAL, "segments of up to 101", model_memory_plan(&config, &size, &p, err));
    size.longest = size.max_rows = INT32_MAX;
    ck_fails(SP_ELIMIT, "rows", model_memory_plan(&config, &size, &p, err));
}
END_TEST

START_TEST(bad_batches_are_refused)
{
    struct model_config config = odd_config(false);
    struct model *m = NULL;
    struct packed p, q;
    float logprobs[40];
    ck_ok(model_new(cpu, &config, 9, &m, err));
    make_packed(&p);
    struct model_workspace *work = work_for(m, &p, 0);
#define REFUSED(part, change)                                                                      \
    make_packed(&q);                                                                               \
    change;                                                                                        \
    ck_fails(SP_EINVAL, part, model_forward(m, work, &q.batch, logprobs, err))
    REFUSED("token id", q.ids[3] = 53);
    REFUSED("token id", q.ids[3] = -1);
    REFUSED("position", q.positions[0] = 12);
    REFUSED("position", q.positions[0] = -1);
    REFUSED("order or range", q.targets[4].row = 0);
    REFUSED("order or range", q.targets[q.batch.n_targets - 1].row = q.batch.rows);
    REFUSED("target", q.targets[0].id = 99);
    REFUSED("segment 1", q.segments[1].row++);
    REFUSED("segment 0", q.segments[0].prompt = 0);
    REFUSED("segment 2", q.segments[2].b = INT32_MAX);
    REFUSED("cover", q.batch.n_segments--);
    REFUSED("rows", q.batch.rows = 0);
    REFUSED("targets", q.batch.n_targets = 41);
    make_packed(&q);
    ck_fails(SP_ESTATE, "without a forward", model_backward(m, work, &q.batch, err));
    model_workspace_free(work);
    model_free(m);
}
END_TEST

/* Counted by hand: a segment with two branches, a window, a second segment. */
START_TEST(flops_are_what_the_result_needs)
{
    struct model_config c = {.vocab = 10,
                             .hidden = 4,
                             .ffn = 5,
                             .layers = 2,
                             .heads = 2,
                             .kv_heads = 1,
                             .head_size = 2,
                             .max_positions = 16};
    struct tn_segment segments[] = {{0, 2, 1, 2}, {5, 3, 0, 0}};
    /* query, key, value and output: 2·4·(8 + 4); gate, up, down: 2·4·15; 8 rows, 2 layers */
    double matrices = (96 + 120) * 8 * 2;
    /* 1 + 2 keys of the prompt, 3 of one branch, 3 + 4 of the other; 1 + 2 + 3 of the second */
    double attention = 4 * 4 * (3 + 3 + 7 + 6) * 2, head = 2 * 4 * 10 * 3;
    ck_assert_double_eq(model_forward_flops(&c, segments, 2, 3), matrices + attention + head);
    c.window = 2; /* 1 + 2, 2, 2 + 2; 1 + 2 + 2 */
    attention = 4 * 4 * (3 + 2 + 4 + 5) * 2;
    ck_assert_double_eq(model_forward_flops(&c, segments, 2, 3), matrices + attention + head);
}
END_TEST

static Suite *suite(void)
{
    Suite *s = suite_create("forward");
    TCase *t = tcase_create("forward");
    tcase_add_checked_fixture(t, setup, teardown);
    tcase_set_timeout(t, 30);
    tcase_add_test(t, agrees_with_transformers_on_tiny_models);
    tcase_add_test(t, agrees_with_transformers_on_stories);
    tcase_add_test(t, gradient_agrees_with_differences);
    tcase_add_test(t, packed_pair_has_the_bits_of_plain_sequences);
    tcase_add_loop_test(t, recomputing_gives_the_same_bits, 0, 2);
    tcase_add_test(t, logits_by_block_give_the_same_bits);
    tcase_add_test(t, threads_do_not_change_bits);
    tcase_add_test(t, plan_is_what_it_says);
    tcase_add_test(t, flops_are_what_the_result_needs);
    tcase_add_test(t, bad_batches_are_refused);
    suite_add_tcase(s, t);
    return s;
}

SPIN_CHECK_MAIN(suite())
