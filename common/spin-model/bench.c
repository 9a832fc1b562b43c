/* bench: tokens per second of the things that a run spends its time on, beside what the machine
 * could do. Medians over repeats, with their spread, because machines are noisy. */
#include "common/spin-model/bench.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/clock.h"
#include "common/base/fs.h"
#include "common/base/mem.h"
#include "common/base/rng.h"

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double median(const double *values, int32_t n)
{
    double sorted[BENCH_MAX_REPEATS];
    memcpy(sorted, values, (size_t)n * sizeof(*sorted));
    qsort(sorted, (size_t)n, sizeof(*sorted), by_value);
    return sorted[n / 2];
}

/* The most memory that the process has held since reset_peak, and where the system doesn't say,
 * since it began. */
static uint64_t peak_bytes(void)
{
    char *text = NULL;
    size_t length;
    struct sp_error ignored;
    uint64_t kib = 0;
    if (sp_read_file("/proc/self/status", 1 << 16, &text, &length, &ignored) != SP_OK)
        return 0;
    const char *line = strstr(text, "VmHWM:");
    if (line != NULL)
        kib = strtoull(line + strlen("VmHWM:"), NULL, 10);
    free(text);
    return kib * 1024;
}

static void reset_peak(void)
{
    FILE *f = fopen("/proc/self/clear_refs", "w");
    if (f == NULL)
        return;
    fputs("5", f);
    fclose(f);
}

/* What the backend took of its device at most, since it was opened. */
static uint64_t device_peak(const struct bench *bench)
{
    struct tn_usage usage;
    tn_usage(bench->backend, &usage);
    return usage.own_peak;
}

static bool enough(const struct bench *bench, const struct bench_figure *f, int64_t started_ns)
{
    if (f->repeats == BENCH_MAX_REPEATS)
        return true;
    return f->repeats >= bench->tool->bench_repeats &&
           (double)(sp_now_ns() - started_ns) >= bench->tool->bench_seconds * 1e9;
}

enum sp_err bench_measure(struct bench *bench, struct bench_figure *f, struct sp_error *err)
{
    struct bench_products *products = NULL;
    int64_t ns = 0, started = sp_now_ns();
    reset_peak();
    enum sp_err rc = f->run(f->context, &ns, err); /* pages are touched for the first time */
    f->peak_bytes = bench->backend->has_memory ? device_peak(bench) : peak_bytes();
    if (rc == SP_OK && f->bytes > 0 && bench->bandwidth == 0)
        bench->bandwidth = tn_bandwidth(bench->backend); /* takes memory, too */
    /* A figure may leave no room for its products alone. */
    if (rc == SP_OK && !f->no_products &&
        bench_products_new(bench, &f->shape, &products, &(struct sp_error){0}) == SP_OK)
        bench_products_run(products);
    for (f->repeats = 0; rc == SP_OK && !enough(bench, f, started); f->repeats++) {
        double probe = tn_probe(bench->backend); /* 0: no memory is left for it */
        f->probe[f->repeats] = probe > 0 ? probe : bench->probe;
        f->gemm[f->repeats] = products ? bench_products_run(products) : 0;
        rc = f->run(f->context, &ns, err);
        f->seconds[f->repeats] = (double)(ns > 0 ? ns : 1) * 1e-9;
    }
    bench_products_free(products);
    return rc;
}

/* Median of work per second over `limit`, repeat by repeat. */
static double share(const struct bench_figure *f, double work, const double *limit)
{
    double values[BENCH_MAX_REPEATS];
    for (int32_t i = 0; i < f->repeats; i++)
        values[i] = limit[i] > 0 ? work / f->seconds[i] / limit[i] : 0;
    return median(values, f->repeats);
}

/* Empty where a figure does not have it. */
static void optional_cell(struct sp_table *t, int decimals, double value)
{
    if (value > 0)
        sp_table_cell(t, "%.*f", decimals, value);
    else
        sp_table_cell(t, "%s", "");
}

static void report_row(struct bench *bench, const struct bench_figure *f, double seconds,
                       double least, double most)
{
    struct sp_table *t = bench->table;
    sp_table_cell(t, "%s", f->what);
    sp_table_cell(t, "%.0f", f->tokens / seconds);
    sp_table_cell(t, "%.0f", f->tokens / most);
    sp_table_cell(t, "%.0f", f->tokens / least);
    optional_cell(t, 2, f->pairs / seconds);
    sp_table_cell(t, "%.0f %%", 100 * share(f, f->flops, f->probe));
    if (f->gemm[0] > 0)
        sp_table_cell(t, "%.0f %%", 100 * share(f, f->flops, f->gemm));
    else
        sp_table_cell(t, "%s", "");
    optional_cell(t, 1, f->bytes / seconds * 1e-9);
    if (f->bytes > 0 && bench->bandwidth > 0)
        sp_table_cell(t, "%.0f %%", 100 * f->bytes / seconds / bench->bandwidth);
    else
        sp_table_cell(t, "%s", "");
    sp_table_cell(t, "%.0f", (double)f->peak_bytes / (1 << 20));
    optional_cell(t, 0, (double)f->plan_bytes / (1 << 20));
    sp_table_cell(t, "%d", f->repeats);
}

void bench_report(struct bench *bench, struct bench_figure *f)
{
    double sorted[BENCH_MAX_REPEATS], seconds = median(f->seconds, f->repeats);
    memcpy(sorted, f->seconds, (size_t)f->repeats * sizeof(*sorted));
    qsort(sorted, (size_t)f->repeats, sizeof(*sorted), by_value);
    double least = sorted[0], most = sorted[f->repeats - 1];
    sp_progress_set(bench->progress, ++bench->figures);
    if (bench->table != NULL) {
        report_row(bench, f, seconds, least, most);
        json_decref(f->fields);
        return;
    }
    json_t *o = f->fields;
    json_object_set_new(o, "tokens_per_s", json_real(f->tokens / seconds));
    json_object_set_new(o, "tokens_per_s_lowest", json_real(f->tokens / most));
    json_object_set_new(o, "tokens_per_s_highest", json_real(f->tokens / least));
    if (f->pairs > 0) {
        json_object_set_new(o, "pairs_per_s", json_real(f->pairs / seconds));
        json_object_set_new(o, "flops_per_pair", json_real(f->flops / f->pairs));
    } else {
        json_object_set_new(o, "flops_per_token", json_real(f->flops / f->tokens));
    }
    json_object_set_new(o, "fma_share", json_real(share(f, f->flops, f->probe)));
    json_object_set_new(o, "probe_gflops", json_real(median(f->probe, f->repeats) * 1e-9));
    if (f->gemm[0] > 0) {
        json_object_set_new(o, "gemm_share", json_real(share(f, f->flops, f->gemm)));
        json_object_set_new(o, "gemm_gflops", json_real(median(f->gemm, f->repeats) * 1e-9));
    }
    if (f->bytes > 0)
        json_object_set_new(o, "gb_per_s", json_real(f->bytes / seconds * 1e-9));
    if (f->bytes > 0 && bench->bandwidth > 0) {
        double read = f->bytes / seconds;
        json_object_set_new(o, "copy_share", json_real(read / bench->bandwidth));
        json_object_set_new(o, "copy_gb_per_s", json_real(bench->bandwidth * 1e-9));
    }
    json_object_set_new(o, "peak_bytes", json_integer((json_int_t)f->peak_bytes));
    if (f->plan_bytes > 0)
        json_object_set_new(o, "plan_bytes", json_integer((json_int_t)f->plan_bytes));
    json_object_set_new(o, "repeats", json_integer(f->repeats));
    json_t *seconds_of = json_array();
    for (int32_t i = 0; i < f->repeats; i++)
        json_array_append_new(seconds_of, json_real(f->seconds[i]));
    json_object_set_new(o, "seconds", seconds_of);
    json_array_append_new(json_object_get(bench->document, f->list), o);
}

void bench_wait(struct tn_backend *backend, const void *memory)
{
    float ignored;
    backend->ops->download(backend, &ignored, memory, sizeof(ignored));
}

int32_t bench_random_id(const struct bench *bench, uint32_t i)
{
    return (int32_t)sp_rng_below((uint64_t)bench->tool->seed, SP_STREAM_TEST, 0, i, 0, 0,
                                 (uint64_t)bench->config->vocab);
}

enum sp_err bench_parse(const char *option, const char *text, int32_t *ret, size_t n,
                        struct sp_error *err)
{
    const char *at = text;
    for (size_t i = 0; i < n; i++) {
        char *end;
        long value = strtol(at, &end, 10);
        if (end == at || value < 1 || value > BENCH_MAX_TOKENS || *end != (i + 1 < n ? ',' : 0))
            return sp_fail(err, SP_EINVAL,
                           "%s %.60s: expected %zu numbers from 1 to %d, separated "
                           "by commas",
                           option, text, n, BENCH_MAX_TOKENS);
        ret[i] = (int32_t)value;
        at = end + 1;
    }
    return SP_OK;
}

static enum sp_err plan(struct bench *bench, struct sp_error *err)
{
    enum sp_err rc = SP_OK;
    if (bench->tool->bench_pairs)
        rc = bench_plan_step(bench, err);
    if (rc == SP_OK && bench->tool->bench_sequences)
        rc = bench_plan_sequences(bench, err);
    return rc;
}

/* As --weights says for a trainer; otherwise as a generator has them, which keeps a checkpoint of
 * bf16 where activations are. */
static enum tn_dtype stored_weights(const struct bench *bench)
{
    if (bench->tool->bench_pairs)
        return bench->tool->weights;
    bool bf16 = bench->backend->activations == TN_BF16 && bench->config->dtype == TN_BF16;
    return bench->tool->bench_sequences && bf16 ? TN_BF16 : TN_F32;
}

/* The checkpoint, or random weights where the directory has only a shape. */
static enum sp_err open_model(struct bench *bench, struct sp_error *err)
{
    const struct tool *tool = bench->tool;
    struct tn_backend_options options = {.threads = (int32_t)tool->threads};
    enum sp_err rc = tn_open(tool->backend, &options, &bench->backend, err);
    if (rc == SP_OK)
        rc = model_config_load(tool->dir, &bench->own_config, err);
    bench->config = &bench->own_config;
    if (rc == SP_OK)
        rc = tn_store_weights(bench->backend, stored_weights(bench), err);
    if (rc == SP_OK)
        rc = plan(bench, err);
    if (rc != SP_OK)
        return rc;
    bench->probe = tn_probe(bench->backend);
    char *single = sp_path_join(tool->dir, "model.safetensors");
    char *index = sp_path_join(tool->dir, "model.safetensors.index.json");
    if (sp_path_exists(single) || sp_path_exists(index))
        rc = model_open(bench->backend, tool->dir, &bench->model, err);
    else
        rc = model_new_quickly(bench->backend, bench->config, (uint64_t)tool->seed, &bench->model,
                               err);
    free(single);
    free(index);
    return rc;
}

static void begin_report(struct bench *bench)
{
    static const char *const headers[] = {
        "what",  ">tokens/s", ">lowest",   ">highest",  ">pairs/s", ">of FMA", ">of GEMM",
        ">GB/s", ">of copy",  ">peak MiB", ">plan MiB", ">repeats", NULL};
    double probe = bench->probe * 1e-9;
    if (bench->tool->json) {
        bench->document =
            json_pack("{s:f, s:[], s:[], s:[], s:[], s:[], s:s, s:s, s:s, s:i, s:I}",
                      "probe_gflops", probe, "prefill", "score", "decode", "answer", "spin_step",
                      "backend", bench->backend->numerics_class, "device", bench->backend->device,
                      "model_type", bench->config->model_type, "threads", bench->backend->threads,
                      "parameters", (json_int_t)bench->config->n_params);
        SP_ASSERT(bench->document != NULL);
        return;
    }
    bench->table = sp_table_new(headers);
    printf("%s, %" PRId64 " parameters; %s, %s; multiply-add limit %.1f GFLOP/s\n\n",
           bench->config->model_type, bench->config->n_params, bench->backend->numerics_class,
           bench->backend->device, probe);
    fflush(stdout);
}

static bool wanted(const struct tool *tool, const char *part)
{
    if (tool->bench_pairs || tool->bench_sequences)
        return strcmp(part, tool->bench_pairs ? "spin_step" : "decode") == 0;
    return tool->bench_only == NULL || strcmp(tool->bench_only, part) == 0;
}

static enum sp_err check_options(const struct tool *tool, struct sp_error *err)
{
    const char *only = tool->bench_only, *step = tool->bench_pairs;
    if (step && tool->bench_sequences)
        return sp_fail(err, SP_EINVAL, "--pairs and --sequences: one figure at a time");
    if (step && only && strcmp(only, "spin_step") != 0)
        return sp_fail(err, SP_EINVAL, "--pairs is a shape of spin_step, not of %s", only);
    if (tool->bench_sequences && only && strcmp(only, "decode") != 0)
        return sp_fail(err, SP_EINVAL, "--sequences is a shape of decode, not of %s", only);
    if (strcmp(tool->bench_state, "f32") != 0 && strcmp(tool->bench_state, "8bit") != 0)
        return sp_fail(err, SP_EINVAL, "--optimizer-state %s: expected f32 or 8bit",
                       tool->bench_state);
    if (only && strcmp(only, "prefill") != 0 && strcmp(only, "decode") != 0 &&
        strcmp(only, "spin_step") != 0)
        return sp_fail(err, SP_EINVAL, "--only %s: expected prefill, decode or spin_step", only);
    return SP_OK;
}

enum sp_err tool_bench(struct tool *tool, struct sp_error *err)
{
    static const struct {
        const char *name;
        enum sp_err (*run)(struct bench *bench, struct sp_error *err);
    } parts[] = {{"prefill", bench_passes}, {"decode", bench_decoding}, {"spin_step", bench_steps}};
    struct bench bench = {.tool = tool};
    enum sp_err rc = check_options(tool, err);
    if (rc == SP_OK)
        rc = open_model(&bench, err);
    if (rc == SP_OK)
        begin_report(&bench);
    bench.progress = sp_progress_new("bench", 0, "figures");
    for (size_t i = 0; rc == SP_OK && i < SP_COUNT(parts); i++)
        if (wanted(tool, parts[i].name))
            rc = parts[i].run(&bench, err);
    sp_progress_free(bench.progress);
    if (rc == SP_OK && bench.table != NULL)
        sp_table_print(bench.table, stdout);
    if (rc == SP_OK && bench.document != NULL)
        rc = tool_print_json(json_incref(bench.document), err);
    json_decref(bench.document);
    sp_table_free(bench.table);
    model_free(bench.model);
    tn_close(bench.backend);
    return rc;
}
