/* step_cases: what the tests of a step share. */
#ifndef SPIN_TESTS_STEP_CASES_H
#define SPIN_TESTS_STEP_CASES_H

#include "common/spin/step.h"

#include "tests/unit/model/fixtures.h"

#define MAX_PAIRS 16

static struct tn_backend *cpu;

static void setup(void)
{
    cpu = open_cpu(2);
}

static void teardown(void)
{
    tn_close(cpu);
}

static struct spin_step_config config_of(enum spin_loss_kind kind, double beta, double tau)
{
    struct spin_step_config c = {.mode = SPIN_MODE_SPIN,
                                 .loss = {kind, beta, tau},
                                 .optimizer = spin_optimizer_defaults(SPIN_RMSPROP),
                                 .batch_pairs = MAX_PAIRS,
                                 .micro_rows = 400};
    c.optimizer.total_steps = 10;
    return c;
}

struct pair_list {
    struct spin_pair pairs[MAX_PAIRS];
    int32_t n;
};

/* One step at rate 0: the gradient stays in the model. */
static void gradient_of(struct model *m, const struct spin_step_config *c,
                        const struct pair_list *list, struct spin_metrics *metrics)
{
    struct spin_step *step = NULL;
    ck_ok(spin_step_new(m, c, &step, err));
    ck_ok(spin_step_run(step, 0, list->pairs, list->n, metrics, err));
    metrics->margins = NULL;
    metrics->logp_real = metrics->logp_generated = NULL;
    spin_step_free(step);
}

#endif
