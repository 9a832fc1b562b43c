/* Every architecture against transformers: log-probabilities, gradients of a SPIN step, greedy
 * answers; the decoder against the forward pass; what is saved against what was loaded. */
#include <dirent.h>

#include "common/checkpoint/hf_dir.h"
#include "common/checkpoint/safetensors.h"
#include "common/model/decoder.h"
#include "common/model/dmath.h"
#include "common/model/workspace_impl.h"

#include "tests/unit/model/fixtures.h"

#define MAX_FIXTURES 64

static const char *const committed[] = {
    "llama3",          "llama-linear", "llama-dynamic", "qwen2",
    "qwen3",           "smollm3",      "phi3",          "phi3-longrope",
    "gemma2",          "gemma3",       "gpt2",          "gpt-neox",
    "gpt-neox-serial", "gemma2-even",  "gemma3-third",  "qwen3-yarn",
};
static const char *names[MAX_FIXTURES];
static int name_count;
static char arch_dir[4096];

/* With SPIN_ARCH_DIR, the fixtures that make_arch_fixtures.py --more has put there. */
static void find_fixtures(void)
{
    const char *dir = getenv("SPIN_ARCH_DIR");
    golden_path(arch_dir, "arch");
    for (size_t i = 0; !dir && i < SP_COUNT(committed); i++)
        names[name_count++] = committed[i];
    if (!dir)
        return;
    snprintf(arch_dir, sizeof(arch_dir), "%s", dir);
    DIR *list = opendir(dir);
    SP_ASSERT(list);
    for (struct dirent *entry; (entry = readdir(list)) && name_count < MAX_FIXTURES;)
        if (entry->d_name[0] != '.')
            names[name_count++] = sp_xstrdup(entry->d_name);
    closedir(list);
    SP_ASSERT(name_count > 0);
}

static struct tn_backend *cpu;
static struct model *model;
static json_t *golden;

static void setup(void)
{
    cpu = open_cpu(2);
}

static void teardown(void)
{
    model_free(model);
    json_decref(golden);
    tn_close(cpu);
    model = NULL;
    golden = NULL;
}

/* A file of a fixture; free(). */
static char *fixture_file(const char *name, const char *file)
{
    return sp_xprintf("%s/%s/%s", arch_dir, name, file);
}

static void open_fixture(struct tn_backend *b, const char *name)
{
    char *path = fixture_file(name, "golden.json"), *dir = fixture_file(name, "");
    ck_ok(sp_json_load(path, 16 << 20, &golden, err));
    ck_ok(model_open(b, dir, &model, err));
    free(path);
    free(dir);
}

/* --- log-probabilities --- */

static double worst_logprob(void)
{
    size_t i;
    json_t *row;
    double worst = 0;
    json_array_foreach(json_object_get(golden, "sequences"), i, row)
    {
        int32_t n_prompt, n;
        float got[128];
        int32_t *prompt = json_ids(json_object_get(row, "prompt"), &n_prompt);
        int32_t *response = json_ids(json_object_get(row, "response"), &n);
        const json_t *expected = json_object_get(row, "logprobs");
        ck_assert_uint_eq(json_array_size(expected), (size_t)n);
        forward_logprobs(model, prompt, n_prompt, response, n, got);
        for (int32_t t = 0; t < n; t++) {
            double e = json_number_value(json_array_get(expected, (size_t)t));
            worst = fmax(worst, fabs((double)got[t] - e));
            ck_assert(isfinite(got[t]));
        }
        free(prompt);
        free(response);
    }
    ck_assert_uint_eq(i, 4);
    return worst;
}

START_TEST(logprobs_agree_with_transformers)
{
    open_fixture(cpu, names[_i]);
    double worst = worst_logprob();
    printf("# %s: log-probabilities differ by %.2g\n", names[_i], worst);
    ck_assert_msg(worst < 1e-4, "%s: log-probabilities differ by %.3g", names[_i], worst);
}
END_TEST

START_TEST(logprobs_agree_on_openblas)
{
    struct tn_backend *other = open_backend("openblas", 2);
    open_fixture(other, names[_i]);
    double worst = worst_logprob();
    ck_assert_msg(worst < 1e-4, "%s: log-probabilities differ by %.3g", names[_i], worst);
    model_free(model);
    model = NULL;
    tn_close(other);
}
END_TEST

/* --- gradients of a SPIN step --- */

struct pairs {
    int32_t ids[128], positions[128];
    struct tn_segment segments[4];
    struct tn_target targets[128];
    int32_t first_real[4], n_real[4], n_generated[4]; /* targets of a pair */
    struct model_batch batch;
};

/* One segment: the prompt once, then both answers. Targets by row: both first tokens share one. */
static void add_pair(struct pairs *p, const json_t *row, int32_t index)
{
    struct model_batch *b = &p->batch;
    int32_t n, a, c;
    int32_t *prompt = json_ids(json_object_get(row, "prompt"), &n);
    int32_t *real = json_ids(json_object_get(row, "real"), &a);
    int32_t *generated = json_ids(json_object_get(row, "generated"), &c);
    struct tn_segment s = {b->rows, n, a - 1, c - 1};
    p->segments[b->n_segments++] = s;
    for (int32_t i = 0; i < n + a - 1 + c - 1; i++) {
        int32_t at = b->rows + i, second = i - n - (a - 1);
        p->ids[at] = i < n ? prompt[i] : second < 0 ? real[i - n] : generated[second];
        p->positions[at] = second < 0 ? i : n + second;
    }
    p->first_real[index] = b->n_targets;
    p->n_real[index] = a;
    p->n_generated[index] = c;
    for (int32_t i = 0; i < a; i++) {
        int32_t at = b->rows + n - 1 + i;
        p->targets[b->n_targets++] = (struct tn_target){.row = at, .id = real[i]};
        if (i == 0)
            p->targets[b->n_targets++] = (struct tn_target){.row = at, .id = generated[0]};
    }
    for (int32_t i = 1; i < c; i++)
        p->targets[b->n_targets++] =
            (struct tn_target){.row = b->rows + n + (a - 1) + i - 1, .id = generated[i]};
    b->rows += n + a - 1 + c - 1;
    free(prompt);
    free(real);
    free(generated);
}

static bool is_generated(const struct pairs *p, int32_t pair, int32_t target)
{
    int32_t i = target - p->first_real[pair];
    return i == 1 || i > p->n_real[pair];
}

/* Coefficients of the mean logistic loss: ∂L/∂log p = ±β·σ(−m)/n, downhill for the answer. */
static void set_coefficients(struct pairs *p, const float *logprobs)
{
    double beta = json_num(golden, "beta");
    int32_t n = p->batch.n_segments;
    for (int32_t k = 0; k < n; k++) {
        const json_t *row = json_array_get(json_object_get(golden, "pairs"), (size_t)k);
        int32_t first = p->first_real[k], end = first + p->n_real[k] + p->n_generated[k];
        double real = -json_num(row, "ref_real"), generated = -json_num(row, "ref_generated");
        for (int32_t t = first; t < end; t++)
            *(is_generated(p, k, t) ? &generated : &real) += (double)logprobs[t];
        double m = beta * (real - generated);
        double want =
            json_number_value(json_array_get(json_object_get(golden, "margins"), (size_t)k));
        ck_assert_msg(fabs(m) > 0.5 && fabs(m - want) < 1e-3, "margin %.5f, expected %.5f", m,
                      want);
        double slope = -beta / (1 + model_exp(m)) / n;
        for (int32_t t = first; t < end; t++)
            p->targets[t].coefficient = (float)(is_generated(p, k, t) ? -slope : slope);
    }
}

/* ‖difference‖ / ‖expected‖ of a tensor, in the order of files. A gradient that is zero but for
 * rounding (a key's bias where nothing turns) is measured against 1e-4; others are far above. */
static double tensor_error(const struct ckpt_st *gradients, const struct model_tensor *t)
{
    const struct ckpt_tensor *stored = ckpt_st_find(gradients, t->name);
    ck_assert_msg(stored != NULL, "no gradient of %s", t->name);
    size_t n = (size_t)t->rows * (size_t)SP_MAX(t->cols, 1);
    float *expected = sp_xarray(n, sizeof(float)), *got = sp_xarray(n, sizeof(float));
    ck_ok(ckpt_tensor_to_f32(stored, expected, err));
    float *gradient = host_copy(cpu, (float *)model_grads(model) + t->offset, n);
    model_tensor_to_file(t, gradient, got);
    free(gradient);
    double difference = 0, size = 0;
    for (size_t i = 0; i < n; i++) {
        difference += pow((double)got[i] - (double)expected[i], 2);
        size += pow((double)expected[i], 2);
    }
    free(expected);
    free(got);
    return sqrt(difference) / (sqrt(size) + 1e-4);
}

static void spin_step(struct pairs *p, size_t budget, struct model_memory_plan *ret_plan)
{
    struct model_workspace *work = NULL;
    float logprobs[128];
    struct model_workspace_size size = {.max_rows = p->batch.rows,
                                        .longest = 24,
                                        .max_targets = p->batch.n_targets,
                                        .backward = true,
                                        .budget_bytes = budget};
    ck_ok(model_workspace_new(model, &size, &work, err));
    ck_ok(model_forward(model, work, &p->batch, logprobs, err));
    set_coefficients(p, logprobs);
    ck_ok(model_backward(model, work, &p->batch, err));
    *ret_plan = *model_workspace_plan(work);
    model_workspace_free(work);
}

START_TEST(gradients_agree_with_transformers)
{
    struct pairs p = {.batch = {0}};
    struct ckpt_st *gradients = NULL;
    size_t i, n_params;
    json_t *row;
    int32_t n;
    open_fixture(cpu, names[_i]);
    p.batch = (struct model_batch){
        .ids = p.ids, .positions = p.positions, .segments = p.segments, .targets = p.targets};
    json_array_foreach(json_object_get(golden, "pairs"), i, row)
    {
        add_pair(&p, row, (int32_t)i);
    }
    struct model_memory_plan plan, small;
    spin_step(&p, 0, &plan);
    char *path = fixture_file(names[_i], "gradients.safetensors");
    ck_ok(ckpt_st_open(path, &gradients, err));
    free(path);
    const struct model_tensor *tensors = model_tensors(model, &n);
    ck_assert_uint_eq(ckpt_st_count(gradients), (size_t)n);
    double worst = 0;
    for (int32_t t = 0; t < n; t++) {
        double error = tensor_error(gradients, &tensors[t]);
        worst = fmax(worst, error);
        ck_assert_msg(error < 1e-3, "%s: gradient of %s is off by %.3g of its size", names[_i],
                      tensors[t].name, error);
    }
    printf("# %s: gradients differ by %.2g of their size\n", names[_i], worst);
    ckpt_st_close(gradients);
    /* Computing activations again gives the same bits. */
    model_params(model, &n_params);
    float *first = host_copy(cpu, model_grads(model), n_params);
    model_zero_grads(model);
    size_t budget = plan.total;
    struct model_workspace_size size = {.max_rows = p.batch.rows,
                                        .longest = 24,
                                        .max_targets = p.batch.n_targets,
                                        .backward = true};
    do {
        size.budget_bytes = budget -= 512;
        ck_ok(model_memory_plan(model_get_config(model), &size, &small, err));
    } while (small.kept_layers > 0);
    spin_step(&p, budget, &small);
    ck_assert_int_eq(small.kept_layers, 0);
    float *again = host_copy(cpu, model_grads(model), n_params);
    ck_assert(memcmp(first, again, n_params * sizeof(float)) == 0);
    free(first);
    free(again);
}
END_TEST

/* --- the decoder --- */

START_TEST(greedy_answers_are_those_of_transformers)
{
    open_fixture(cpu, names[_i]);
    const json_t *row = json_object_get(golden, "greedy");
    int32_t n_prompt, n;
    int32_t *prompt = json_ids(json_object_get(row, "prompt"), &n_prompt);
    int32_t *ids = json_ids(json_object_get(row, "ids"), &n);
    ck_assert(n == 64 && json_num(row, "gap") > 1e-3);
    struct model_decoder_options options = {
        .slots = 2, .queue = 2, .max_positions = 90, .rows_per_step = 7};
    struct model_decoder *d = NULL;
    struct model_decoder_result r;
    float forward[64];
    bool idle = false;
    ck_ok(model_decoder_new(model, &options, &d, err));
    for (uint32_t k = 0; k < 2; k++) {
        struct model_decoder_request request = {.prompt = prompt,
                                                .n_prompt = n_prompt,
                                                .answers = {ids},
                                                .n_answers = {n},
                                                .generate = true,
                                                .max_new_tokens = n,
                                                .params = {.temperature = 0, .top_p = 1},
                                                .token_logprobs = true};
        ck_ok(model_decoder_submit(d, &request, err));
    }
    while (!idle)
        ck_ok(model_decoder_step(d, &idle, err));
    forward_logprobs(model, prompt, n_prompt, ids, n, forward);
    for (int32_t k = 0; k < 2; k++) {
        ck_assert(model_decoder_take_result(d, &r));
        ck_assert_int_eq(r.n_ids, n);
        for (int32_t t = 0; t < n; t++)
            ck_assert_msg(r.ids[t] == ids[t], "%s: token %d is %d, expected %d", names[_i], t,
                          r.ids[t], ids[t]);
        /* And its log-probabilities have the bits of the forward pass. */
        ck_assert(memcmp(r.response.token_logprobs, forward, sizeof(forward)) == 0);
        ck_assert(memcmp(r.answers[0].token_logprobs, forward, sizeof(forward)) == 0);
    }
    model_decoder_free(d);
    free(prompt);
    free(ids);
}
END_TEST

/* With bf16 weights and cache, and activations too: near the fp32 log-probabilities, whatever the
 * batch. */
START_TEST(narrow_decoders_are_near)
{
    open_fixture(cpu, names[_i]);
    const json_t *row = json_array_get(json_object_get(golden, "sequences"), 2);
    int32_t n_prompt, n;
    int32_t *prompt = json_ids(json_object_get(row, "prompt"), &n_prompt);
    int32_t *ids = json_ids(json_object_get(row, "response"), &n);
    float forward[64], first[64];
    ck_assert_int_eq(n, 30);
    forward_logprobs(model, prompt, n_prompt, ids, n, forward);
    for (int32_t pass = 0; pass < 6; pass++) {
        int32_t rows = 1 + 16 * (pass % 3);
        bool narrow_rows = pass >= 3;
        struct model_decoder_options options = {.slots = 1,
                                                .max_positions = 60,
                                                .rows_per_step = rows,
                                                .weights = TN_BF16,
                                                .cache = TN_BF16,
                                                .activations = narrow_rows ? TN_BF16 : TN_F32};
        struct model_decoder_request request = {.prompt = prompt,
                                                .n_prompt = n_prompt,
                                                .answers = {ids},
                                                .n_answers = {n},
                                                .token_logprobs = true};
        struct model_decoder *d = NULL;
        struct model_decoder_result r;
        bool idle = false;
        ck_ok(model_decoder_new(model, &options, &d, err));
        ck_ok(model_decoder_submit(d, &request, err));
        while (!idle)
            ck_ok(model_decoder_step(d, &idle, err));
        ck_assert(model_decoder_take_result(d, &r));
        const float *got = r.answers[0].token_logprobs;
        if (rows == 1)
            memcpy(first, got, (size_t)n * sizeof(float));
        ck_assert(memcmp(first, got, (size_t)n * sizeof(float)) == 0);
        double difference = 0;
        for (int32_t t = 0; t < n; t++)
            difference += fabs((double)got[t] - (double)forward[t]) / n;
        ck_assert_msg(difference > 0 && difference < 0.1, "%s: %.3g", names[_i], difference);
        model_decoder_free(d);
    }
    free(prompt);
    free(ids);
}
END_TEST

/* --- saving --- */

static void check_saved(const char *dir, const char *name)
{
    char *path = fixture_file(name, "model.safetensors");
    struct ckpt *ours = NULL;
    struct ckpt_st *st = NULL;
    ck_ok(ckpt_st_open(path, &st, err));
    free(path);
    ck_ok(ckpt_open(dir, &ours, err));
    ck_assert_uint_eq(ckpt_count(ours), ckpt_st_count(st));
    for (size_t i = 0; i < ckpt_count(ours); i++) {
        const struct ckpt_tensor *a = ckpt_at(ours, i), *b = ckpt_st_find(st, a->name);
        ck_assert_msg(b != NULL, "%s: saved tensor %s is not in the fixture", name, a->name);
        ck_assert(a->dims == b->dims && a->count == b->count &&
                  memcmp(a->shape, b->shape, (size_t)a->dims * sizeof(a->shape[0])) == 0);
        ck_assert_msg(memcmp(a->data, b->data, a->count * sizeof(float)) == 0, "%s: %s", name,
                      a->name);
    }
    ckpt_st_close(st);
    ckpt_close(ours);
}

/* With SPIN_ARCH_SAVE_DIR the directories stay, for make_arch_fixtures.py --check. */
START_TEST(saving_gives_back_the_same_files)
{
    char dir[4096], root[] = "/tmp/spin-arch-XXXXXX";
    const char *keep = getenv("SPIN_ARCH_SAVE_DIR");
    struct model_config a, b;
    open_fixture(cpu, names[_i]);
    if (!keep)
        ck_assert_ptr_nonnull(mkdtemp(root));
    snprintf(dir, sizeof(dir), "%s/%s", keep ? keep : root, names[_i]);
    ck_ok(model_save(model, dir, TN_F32, NULL, err));
    check_saved(dir, names[_i]);
    /* The config that we wrote says the same. */
    ck_ok(model_config_load(dir, &a, err));
    b = *model_get_config(model);
    ck_assert(a.n_params == b.n_params && a.window == b.window && a.rotary == b.rotary);
    ck_assert(memcmp(&a.traits, &b.traits, sizeof(a.traits)) == 0);
    ck_assert(memcmp(&a.scaling, &b.scaling, sizeof(a.scaling)) == 0);
    ck_assert(memcmp(a.layer_bits, b.layer_bits, sizeof(a.layer_bits)) == 0);
    ck_assert(a.attention_softcap == b.attention_softcap && a.logit_softcap == b.logit_softcap);
    ck_assert(a.attention_scalar == b.attention_scalar && a.local_theta == b.local_theta);
    ck_assert(a.rope_theta == b.rope_theta && a.rms_eps == b.rms_eps);
    ck_assert(a.max_positions == b.max_positions && a.tie_embeddings == b.tie_embeddings);
    if (!keep)
        ck_ok(sp_remove_tree(root, err));
}
END_TEST

/* --- what other tools call tensors --- */

struct rename {
    const char *fixture, *from, *to; /* prefixes */
    const char *extra;               /* a table that follows from the configuration */
};

/* A model that doesn't turn has no tables, and no frequency 1 / 0. */
START_TEST(tables_are_finite)
{
    static struct model_config c;
    static float cosines[64 * 64], sines[64 * 64];
    char *path = fixture_file(names[_i], "");
    ck_ok(model_config_load(path, &c, err));
    free(path);
    int32_t half = model_rope_width(&c) / 2;
    ck_assert_int_eq(half == 0, c.traits.learned_positions);
    ck_assert_int_le(half, 64);
    for (int local = 0; local < (c.local_theta > 0 ? 2 : 1); local++) {
        model_rope_tables(&c, local, 64, cosines, sines);
        for (int32_t i = 0; i < 64 * half; i++)
            ck_assert(fabsf(cosines[i]) <= 2 && fabsf(sines[i]) <= 2);
    }
}
END_TEST

static const struct rename renames[] = {
    {"gpt2", "transformer.", "", "h.0.attn.bias"},
    {"gpt-neox", "embed_out.", "lm_head.", "gpt_neox.layers.0.attention.masked_bias"},
    {"gpt-neox", "gpt_neox.", "gpt_neox.", "gpt_neox.layers.1.attention.rotary_emb.inv_freq"},
};

START_TEST(other_names_are_understood)
{
    const struct rename *k = &renames[_i];
    char dir[4096], text[64][96], root[] = "/tmp/spin-arch-XXXXXX";
    struct ckpt_array arrays[64] = {{0}};
    struct ckpt_st *st = NULL;
    struct model *m = NULL;
    float one = 1;
    size_t length, n, n_params;
    char *config = NULL;
    open_fixture(cpu, k->fixture);
    char *path = fixture_file(k->fixture, "model.safetensors");
    ck_ok(ckpt_st_open(path, &st, err));
    free(path);
    n = ckpt_st_count(st);
    for (size_t i = 0; i < n; i++) {
        const struct ckpt_tensor *t = ckpt_st_at(st, i);
        bool renamed = strncmp(t->name, k->from, strlen(k->from)) == 0;
        snprintf(text[i], sizeof(text[i]), "%s%s", renamed ? k->to : "",
                 t->name + (renamed ? strlen(k->from) : 0));
        float *data = sp_xarray(t->count, sizeof(float));
        ck_ok(ckpt_tensor_to_f32(t, data, err));
        arrays[i] = (struct ckpt_array){.name = text[i], .dims = t->dims, .data = data};
        memcpy(arrays[i].shape, t->shape, sizeof(arrays[i].shape));
    }
    arrays[n] = (struct ckpt_array){.name = k->extra, .dims = 1, .shape = {1}, .data = &one};
    path = fixture_file(k->fixture, "config.json");
    ck_ok(sp_read_file(path, 1 << 20, &config, &length, err));
    free(path);
    ck_assert_ptr_nonnull(mkdtemp(root));
    snprintf(dir, sizeof(dir), "%s/renamed", root);
    struct ckpt_save_options options = {.config_json = config};
    ck_ok(ckpt_save(dir, arrays, n + 1, &options, err));
    ck_ok(model_open(cpu, dir, &m, err));
    const float *a = model_params(model, &n_params), *b = model_params(m, &n);
    ck_assert_uint_eq(n, n_params);
    float *opened = host_copy(cpu, a, n), *renamed = host_copy(cpu, b, n);
    ck_assert(memcmp(opened, renamed, n * sizeof(float)) == 0);
    free(opened);
    free(renamed);
    model_free(m);
    /* But not a tensor that nothing reads. */
    arrays[ckpt_st_count(st)].name = "model.surprise.weight";
    snprintf(dir, sizeof(dir), "%s/surprise", root);
    ck_ok(ckpt_save(dir, arrays, ckpt_st_count(st) + 1, &options, err));
    ck_fails(SP_EUNSUPPORTED, "model.surprise.weight", model_open(cpu, dir, &m, err));
    for (size_t i = 0; i < ckpt_st_count(st); i++)
        free((void *)(uintptr_t)arrays[i].data);
    free(config);
    ckpt_st_close(st);
    ck_ok(sp_remove_tree(root, err));
}
END_TEST

START_TEST(positions_end_where_frequencies_change)
{
    struct model_decoder_options options = {.slots = 1, .max_positions = 97};
    struct model_decoder *d = NULL;
    open_fixture(cpu, "phi3-longrope");
    ck_assert_int_eq(model_get_config(model)->max_positions, 96);
    ck_fails(SP_EINVAL, "97 positions, the model has 96; beyond them its rotary frequencies",
             model_decoder_new(model, &options, &d, err));
}
END_TEST

static Suite *suite(void)
{
    Suite *s = suite_create("arch");
    TCase *t = tcase_create("arch");
    find_fixtures();
    int n = name_count;
    tcase_add_checked_fixture(t, setup, teardown);
    tcase_set_timeout(t, 30);
    tcase_add_loop_test(t, logprobs_agree_with_transformers, 0, n);
    tcase_add_loop_test(t, logprobs_agree_on_openblas, 0, n);
    tcase_add_loop_test(t, gradients_agree_with_transformers, 0, n);
    tcase_add_loop_test(t, greedy_answers_are_those_of_transformers, 0, n);
    tcase_add_loop_test(t, narrow_decoders_are_near, 0, n);
    tcase_add_loop_test(t, saving_gives_back_the_same_files, 0, n);
    tcase_add_loop_test(t, tables_are_finite, 0, n);
    if (getenv("SPIN_ARCH_DIR") == NULL) {
        tcase_add_loop_test(t, other_names_are_understood, 0, SP_COUNT(renames));
        tcase_add_test(t, positions_end_where_frequencies_change);
    }
    suite_add_tcase(s, t);
    return s;
}

SPIN_CHECK_MAIN(suite())
