#include "trainer/metrics.h"

#include <math.h>
#include <string.h>

#include "common/base/json.h"

/* Whether first-sight accuracy counts a pair: second half of the first pass, not replayed. */
static bool is_first_sight(const struct train_step_context *context,
                           const struct train_batch *batch, uint32_t index)
{
    return context->has_reference && batch->pass == 0 &&
           (batch->start + index) * 2 >= context->plan_pairs &&
           batch->pairs[index].source_iteration == context->iteration;
}

static void first_sight(const struct train_step_context *context, const struct train_batch *batch,
                        const struct spin_metrics *metrics, struct proto_step_metrics *ret)
{
    int32_t at = 0; /* in the step's arrays, which have no skipped pairs */
    for (uint32_t i = 0; i < batch->count && at < metrics->n_pairs; i++) {
        if (batch->pairs[i].skipped)
            continue;
        double margin = metrics->margins[at++];
        if (!is_first_sight(context, batch, i) || !isfinite(margin))
            continue;
        ret->first_sight_pairs++;
        ret->first_sight_correct += margin > 0 ? 1.0 : margin == 0 ? 0.5 : 0.0;
    }
}

void train_metrics_fill(const struct train_step_context *context, const struct train_batch *batch,
                        const struct spin_metrics *metrics, struct proto_step_metrics *ret)
{
    *ret = (struct proto_step_metrics){
        .step = context->step,
        .train_epoch = batch->pass,
        .learning_rate = metrics->lr,
        .loss = metrics->loss,
        .sft_loss = metrics->sft_nll,
        .margin = metrics->margin_mean,
        .margin_abs_max = metrics->margin_abs_max,
        .accuracy = metrics->accuracy,
        .reward_real = context->beta * metrics->logp_real_change_mean,
        .reward_generated = context->beta * metrics->logp_generated_change_mean,
        .logp_real = metrics->logp_real_mean,
        .logp_generated = metrics->logp_generated_mean,
        .logp_real_change = metrics->logp_real_change_mean,
        .grad_norm = metrics->grad_norm,
        .pairs = (uint64_t)metrics->n_pairs,
        .identical = (uint64_t)metrics->identical,
        .tokens = (uint64_t)metrics->tokens,
        .milliseconds = context->milliseconds,
        .skipped = metrics->nonfinite,
    };
    if (context->has_reference && metrics->margins != NULL)
        first_sight(context, batch, metrics, ret);
}

void train_totals_add(struct train_totals *totals, const struct proto_step_metrics *metrics)
{
    totals->tokens += metrics->tokens;
    totals->milliseconds += metrics->milliseconds;
    totals->pairs += metrics->pairs;
    totals->identical += metrics->identical;
    totals->nonfinite += metrics->skipped;
    totals->first_sight_pairs += metrics->first_sight_pairs;
    totals->first_sight_correct += metrics->first_sight_correct;
    totals->loss_last = metrics->loss;
    if (metrics->step == 1) {
        totals->loss_first = metrics->loss;
        totals->margin_abs_max_first = metrics->margin_abs_max;
    }
}

double train_logp_real_change(const struct train_batch *batch, const struct spin_metrics *metrics)
{
    double change = 0;
    uint64_t tokens = 0;
    int32_t at = 0;
    for (uint32_t i = 0; i < batch->count && at < metrics->n_pairs; i++) {
        const struct proto_train_pair *pair = &batch->pairs[i];
        if (pair->skipped)
            continue;
        change += (double)metrics->logp_real[at++] - (double)pair->ref_real;
        tokens += pair->real_ids.count;
    }
    return tokens == 0 ? 0 : change / (double)tokens;
}

/* ---- JSON ---- */

static json_t *real(double value)
{
    return isfinite(value) ? json_real(value) : json_null();
}

static enum sp_err get_real(const json_t *object, const char *name, double *ret,
                            struct sp_error *err)
{
    *ret = nan("");
    return sp_json_opt_f64(object, name, "metrics", ret, err);
}

static enum sp_err get_count(const json_t *object, const char *name, uint64_t *ret,
                             struct sp_error *err)
{
    int64_t value;
    enum sp_err rc = sp_json_i64(object, name, 0, INT64_MAX, "metrics", &value, err);
    if (rc == SP_OK)
        *ret = (uint64_t)value;
    return rc;
}

#define PUT_U32(name) json_object_set_new(object, #name, json_integer(metrics->name));
#define PUT_U64(name) json_object_set_new(object, #name, json_integer((json_int_t)metrics->name));
#define PUT_F64(name) json_object_set_new(object, #name, real(metrics->name));
#define PUT_BOOL(name) json_object_set_new(object, #name, json_boolean(metrics->name));
#define PUT_FIELD(kind, name, help) PUT_##kind(name)
#define NO_LIST(item, name, help)

json_t *train_metrics_to_json(const struct proto_step_metrics *metrics)
{
    json_t *object = json_object();
    PROTO_STEP_METRICS_FIELDS(PUT_FIELD, NO_LIST)
    return object;
}

#define GET_U32(name)                                                                              \
    if (rc == SP_OK && (rc = get_count(object, #name, &count, err)) == SP_OK)                      \
        metrics.name = (uint32_t)count;
#define GET_U64(name)                                                                              \
    if (rc == SP_OK)                                                                               \
        rc = get_count(object, #name, &metrics.name, err);
#define GET_F64(name)                                                                              \
    if (rc == SP_OK)                                                                               \
        rc = get_real(object, #name, &metrics.name, err);
#define GET_BOOL(name)                                                                             \
    if (rc == SP_OK)                                                                               \
        rc = sp_json_bool(object, #name, "metrics", &metrics.name, err);
#define GET_FIELD(kind, name, help) GET_##kind(name)

enum sp_err train_metrics_from_json(const json_t *object, struct proto_step_metrics *ret,
                                    struct sp_error *err)
{
    struct proto_step_metrics metrics = {0};
    uint64_t count = 0;
    enum sp_err rc = SP_OK;
    PROTO_STEP_METRICS_FIELDS(GET_FIELD, NO_LIST)
    if (rc == SP_OK)
        *ret = metrics;
    return rc;
}

#define TOTALS(COUNT, REAL)                                                                        \
    COUNT(tokens)                                                                                  \
    COUNT(milliseconds)                                                                            \
    COUNT(pairs) COUNT(identical) COUNT(nonfinite) COUNT(first_sight_pairs)                        \
        REAL(first_sight_correct) REAL(loss_first) REAL(loss_last) REAL(margin_abs_max_first)

json_t *train_totals_to_json(const struct train_totals *totals)
{
    const struct train_totals *metrics = totals;
    json_t *object = json_object();
    TOTALS(PUT_U64, PUT_F64)
    return object;
}

enum sp_err train_totals_from_json(const json_t *object, struct train_totals *ret,
                                   struct sp_error *err)
{
    struct train_totals metrics = {0};
    enum sp_err rc = SP_OK;
    TOTALS(GET_U64, GET_F64)
    if (rc == SP_OK)
        *ret = metrics;
    return rc;
}
