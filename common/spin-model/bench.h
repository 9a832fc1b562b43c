/* bench: what the files of `spin-model bench` share. Without --pairs and --sequences it measures a
 * list of figures, with them one of the shape that they give. A figure is measured in repeats; each
 * repeat also measures the machine's multiply-add limit (tn_probe) and the figure's own matrix
 * products alone (bench_products), so that a share compares what happened at the same time.
 * Operations are counted by model_forward_flops; a training step has three times those. */
#ifndef SPIN_SPIN_MODEL_BENCH_H
#define SPIN_SPIN_MODEL_BENCH_H

#include <jansson.h>

#include "common/base/progress.h"
#include "common/base/table.h"
#include "common/model/forward.h"
#include "common/spin-model/tool.h"

#define BENCH_MAX_REPEATS 100
#define BENCH_MAX_TOKENS (1 << 20)

struct bench {
    const struct tool *tool;
    struct tn_backend *backend;
    struct model *model; /* NULL once a decoder has what it needs of it */
    struct model_config own_config;
    const struct model_config *config; /* own_config */
    double probe;                      /* tn_probe, before there was a model */
    double bandwidth;                  /* tn_bandwidth, once it was measured; 0: unknown */
    uint64_t plan_bytes;               /* of the figure that --pairs or --sequences ask for */
    json_t *document;                  /* with --json, else NULL */
    struct sp_table *table;            /* without */
    struct sp_progress *progress;
    uint64_t figures; /* that are done */
};

/* Which products bench_products runs. */
enum bench_kind { BENCH_FORWARD, BENCH_TRAIN, BENCH_PACKED };

struct bench_shape {
    enum bench_kind kind;
    int32_t rows, head_rows;            /* of a batch; of those, rows that get logits */
    enum tn_dtype weights, activations; /* BENCH_PACKED */
};

/* One figure: fill in the first part, call bench_measure, then bench_report. */
struct bench_figure {
    const char *list; /* of the document: "prefill" */
    const char *what; /* for the table: "prefill of 128" */
    double tokens;    /* of one repeat */
    double pairs;     /* of one repeat; 0: does not apply */
    double flops;     /* of one repeat, by model_forward_flops */
    double bytes;     /* read from memory in one repeat; 0: not reported */
    json_t *fields;   /* of its object; the figures are added. The reference is taken */
    struct bench_shape shape;
    bool no_products;    /* `shape` doesn't apply: they aren't measured */
    uint64_t plan_bytes; /* of everything, made before it was taken; 0: there is none */
    enum sp_err (*run)(void *context, int64_t *ret_ns, struct sp_error *err); /* one repeat */
    void *context;

    int32_t repeats;
    double seconds[BENCH_MAX_REPEATS], probe[BENCH_MAX_REPEATS]; /* probes in flops per second */
    double gemm[BENCH_MAX_REPEATS]; /* 0: no room for the products beside the figure */
    uint64_t peak_bytes; /* of the process; of a device: what it took there since it was opened */
};

/* Runs once uncounted, then --repeats times or longer (--seconds). */
enum sp_err bench_measure(struct bench *bench, struct bench_figure *figure,
                          struct sp_error *err) SP_MUST_USE;
/* Takes figure->fields. */
void bench_report(struct bench *bench, struct bench_figure *figure);

/* The products of `shape` alone, on weights that come from memory: operations per second. */
struct bench_products;
enum sp_err bench_products_new(struct bench *bench, const struct bench_shape *shape,
                               struct bench_products **ret, struct sp_error *err) SP_MUST_USE;
double bench_products_run(struct bench_products *products);
void bench_products_free(struct bench_products *products); /* NULL is fine */

/* Until the backend has done all that it was asked for, which a device does later; `memory`: four
 * bytes or more of the backend's. */
void bench_wait(struct tn_backend *backend, const void *memory);

int32_t bench_random_id(const struct bench *bench, uint32_t i);
/* `n` numbers above 0, separated by commas; `option` is what gave them. */
enum sp_err bench_parse(const char *option, const char *text, int32_t *ret, size_t n,
                        struct sp_error *err) SP_MUST_USE;

/* What the figure that --pairs or --sequences ask for will take: said on standard error and left
 * in plan_bytes, before any of it is taken. */
enum sp_err bench_plan_step(struct bench *bench, struct sp_error *err) SP_MUST_USE;
enum sp_err bench_plan_sequences(struct bench *bench, struct sp_error *err) SP_MUST_USE;

/* The figures, by file. */
enum sp_err bench_passes(struct bench *bench, struct sp_error *err) SP_MUST_USE;
enum sp_err bench_steps(struct bench *bench, struct sp_error *err) SP_MUST_USE;
enum sp_err bench_decoding(struct bench *bench, struct sp_error *err) SP_MUST_USE;

#endif
