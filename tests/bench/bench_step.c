/* bench_step: one piece of work of a trainer, done once for every line on standard input; the
 * other side of peers/train.py. Answers each with a line of JSON: seconds, cpu_seconds (of all
 * threads), peak_bytes (of the process so far) and fma_share (needed operations per second over
 * those of tn_probe, taken just before).
 *
 *     bench_step DIR --pairs "PROMPT REAL GENERATED; …" [--work step|score|prefill]
 *                [--threads N] [--micro ROWS]
 *
 * DIR has a config.json; weights are random. step: packing, forward, loss, backward, clipping and
 * RMSProp over all pairs; score: log-probabilities of both answers; prefill: one row of logits for
 * each prompt. */
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "common/base/clock.h"
#include "common/base/mem.h"
#include "common/base/rng.h"
#include "common/spin/step.h"

#define MAX_PAIRS 4096
#define MICRO_ROWS 4096 /* the default of run settings */

struct bench {
    struct tn_backend *backend;
    struct model *model;
    const struct model_config *config;
    const char *work;
    int32_t n_pairs, rows, longest, prompt_rows, longest_prompt;
    struct spin_pair pairs[MAX_PAIRS];
    int32_t *ids;
    double flops;
    /* of step and score */
    struct spin_step *step;
    int64_t index;
    float *real, *generated;
    /* of prefill */
    struct model_workspace *workspace;
    struct model_batch batch;
};

static void check(enum sp_err rc, const struct sp_error *err)
{
    if (rc == SP_OK)
        return;
    fprintf(stderr, "bench_step: %s\n", err->text);
    exit(1);
}

static void parse_pairs(struct bench *b, const char *text)
{
    for (; *text; text += strspn(text, "; ")) {
        struct spin_pair *p = &b->pairs[b->n_pairs];
        int used = 0;
        if (b->n_pairs == MAX_PAIRS ||
            sscanf(text, "%d %d %d%n", &p->n_prompt, &p->n_real, &p->n_generated, &used) != 3 ||
            p->n_prompt < 1 || p->n_real < 1 || p->n_generated < 1) {
            fprintf(stderr, "bench_step: --pairs at \"%.20s\"\n", text);
            exit(2);
        }
        text += used;
        b->n_pairs++;
    }
}

static void fill_pairs(struct bench *b)
{
    size_t n = 0;
    for (int32_t i = 0; i < b->n_pairs; i++)
        n += (size_t)b->pairs[i].n_prompt + (size_t)b->pairs[i].n_real +
             (size_t)b->pairs[i].n_generated;
    b->ids = sp_xarray(n, sizeof(*b->ids));
    for (size_t i = 0; i < n; i++)
        b->ids[i] = (int32_t)sp_rng_below(1, SP_STREAM_TEST, 0, (uint32_t)i, 0, 0,
                                          (uint64_t)b->config->vocab);
    int32_t *at = b->ids;
    for (int32_t i = 0; i < b->n_pairs; i++) {
        struct spin_pair *p = &b->pairs[i];
        p->prompt = at;
        p->real = at + p->n_prompt;
        p->generated = p->real + p->n_real;
        at += p->n_prompt;
        at[p->n_real] = (at[0] + 1) % b->config->vocab; /* the answers differ */
        at += p->n_real + p->n_generated;
        struct tn_segment s = {.prompt = p->n_prompt, .a = p->n_real - 1, .b = p->n_generated - 1};
        int32_t rows = spin_pair_rows(p, true);
        b->rows += rows;
        b->longest = SP_MAX(b->longest, rows);
        b->flops += model_forward_flops(b->config, &s, 1, p->n_real + p->n_generated - 1);
    }
}

static void open_step(struct bench *b, int32_t micro_rows, struct sp_error *err)
{
    struct spin_step_config config = {
        .mode = SPIN_MODE_SPIN,
        .loss = {.kind = SPIN_LOSS_LOGISTIC, .beta = 0.1},
        .optimizer = spin_optimizer_defaults(SPIN_RMSPROP),
        .batch_pairs = b->n_pairs,
        .micro_rows = SP_MAX(b->longest, SP_MIN(b->rows, micro_rows)),
        .longest = b->longest,
    };
    config.optimizer.lr = 1e-9;
    config.optimizer.total_steps = INT32_MAX;
    config.optimizer.schedule = SPIN_SCHEDULE_CONSTANT;
    check(spin_step_new(b->model, &config, &b->step, err), err);
    b->real = sp_xarray((size_t)b->n_pairs, sizeof(*b->real));
    b->generated = sp_xarray((size_t)b->n_pairs, sizeof(*b->generated));
    if (strcmp(b->work, "step") == 0)
        b->flops *= 3;
}

static void open_prefill(struct bench *b, struct sp_error *err)
{
    size_t n = 0;
    for (int32_t i = 0; i < b->n_pairs; i++)
        n += (size_t)b->pairs[i].n_prompt;
    int32_t *ids = sp_xarray(n, sizeof(*ids)), *positions = sp_xarray(n, sizeof(*positions));
    struct tn_segment *segments = sp_xarray((size_t)b->n_pairs, sizeof(*segments));
    struct tn_target *targets = sp_xarray((size_t)b->n_pairs, sizeof(*targets));
    int32_t row = 0, longest = 0;
    for (int32_t i = 0; i < b->n_pairs; i++) {
        const struct spin_pair *p = &b->pairs[i];
        segments[i] = (struct tn_segment){.row = row, .prompt = p->n_prompt};
        for (int32_t k = 0; k < p->n_prompt; k++) {
            ids[row] = p->prompt[k];
            positions[row++] = k;
        }
        targets[i] = (struct tn_target){.row = row - 1, .id = p->real[0]};
        longest = SP_MAX(longest, p->n_prompt);
    }
    b->batch = (struct model_batch){row, ids, positions, segments, b->n_pairs, targets, b->n_pairs};
    b->flops = model_forward_flops(b->config, segments, b->n_pairs, b->n_pairs);
    b->real = sp_xarray((size_t)b->n_pairs, sizeof(*b->real));
    struct model_workspace_size size = {
        .max_rows = row, .longest = longest, .max_targets = b->n_pairs};
    check(model_workspace_new(b->model, &size, &b->workspace, err), err);
}

static void run(struct bench *b, struct sp_error *err)
{
    struct spin_metrics metrics;
    enum sp_err rc;
    if (b->workspace)
        rc = model_forward(b->model, b->workspace, &b->batch, b->real, err);
    else if (strcmp(b->work, "score") == 0)
        rc = spin_step_score(b->step, b->pairs, b->n_pairs, b->real, b->generated, err);
    else
        rc = spin_step_run(b->step, b->index++, b->pairs, b->n_pairs, &metrics, err);
    check(rc, err);
}

static double cpu_seconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static long peak_kib(void)
{
    FILE *f = fopen("/proc/self/status", "r");
    char line[256];
    long kib = 0;
    while (f && fgets(line, sizeof(line), f))
        if (sscanf(line, "VmHWM: %ld", &kib) == 1)
            break;
    if (f)
        fclose(f);
    return kib;
}

static void usage(void)
{
    fprintf(stderr, "usage: bench_step DIR --pairs LIST [--work step|score|prefill] [--threads N] "
                    "[--micro ROWS]\n");
    exit(2);
}

int main(int argc, char **argv)
{
    static const struct option options[] = {{"pairs", 1, NULL, 'p'},
                                            {"work", 1, NULL, 'w'},
                                            {"threads", 1, NULL, 't'},
                                            {"micro", 1, NULL, 'm'},
                                            {0}};
    static struct bench b = {.work = "step"};
    struct tn_backend_options backend = {0};
    struct model_config config;
    struct sp_error err;
    int32_t micro_rows = MICRO_ROWS;
    char line[64];
    for (int c; (c = getopt_long(argc, argv, "", options, NULL)) != -1;) {
        if (c == 'p')
            parse_pairs(&b, optarg);
        else if (c == 'w')
            b.work = optarg;
        else if (c == 't')
            backend.threads = atoi(optarg);
        else if (c == 'm')
            micro_rows = atoi(optarg);
        else
            usage();
    }
    if (optind != argc - 1 || b.n_pairs == 0 || micro_rows < 1)
        usage();
    check(tn_open("cpu", &backend, &b.backend, &err), &err);
    check(model_config_load(argv[optind], &config, &err), &err);
    check(model_new(b.backend, &config, 1, &b.model, &err), &err);
    b.config = model_get_config(b.model);
    fill_pairs(&b);
    if (strcmp(b.work, "prefill") == 0)
        open_prefill(&b, &err);
    else if (strcmp(b.work, "step") == 0 || strcmp(b.work, "score") == 0)
        open_step(&b, micro_rows, &err);
    else
        usage();
    while (fgets(line, sizeof(line), stdin)) {
        double limit = tn_probe(b.backend);
        double cpu = cpu_seconds();
        int64_t start = sp_now_ns();
        run(&b, &err);
        double seconds = (double)(sp_now_ns() - start) * 1e-9;
        printf("{\"seconds\": %.6f, \"cpu_seconds\": %.6f, \"peak_bytes\": %ld, "
               "\"fma_share\": %.4f}\n",
               seconds, cpu_seconds() - cpu, peak_kib() * 1024, b.flops / seconds / limit);
        fflush(stdout);
    }
    return 0;
}
