/* What would make a step fit its memory. */
#include <string.h>

#include "common/base/mem.h"
#include "common/spin/step.h"

/* What a run's settings can change, the least harmful first: a set of changes is tried before any
 * larger one. */
enum {
    SHORT_BATCHES = 1 << 0, /* micro-batches of one longest pair */
    NARROW_STATE = 1 << 1,
    NARROW_WEIGHTS = 1 << 2,
    OFFLOAD = 1 << 3, /* slow */
    ALL_CHANGES = (1 << 4) - 1,
};

static int count(int changes)
{
    int n = 0;
    for (; changes; changes &= changes - 1)
        n++;
    return n;
}

/* Those that change nothing are left out. */
static int possible(const struct spin_step_config *c, bool device)
{
    int changes = 0;
    if (c->longest > 0 && c->micro_rows > c->longest)
        changes |= SHORT_BATCHES;
    if (c->optimizer.state == TN_STATE_F32)
        changes |= NARROW_STATE;
    if (device && c->activations == TN_BF16 && c->weights == TN_F32)
        changes |= NARROW_WEIGHTS;
    if (device && !c->optimizer.offload)
        changes |= OFFLOAD;
    return changes;
}

static struct spin_step_config changed(const struct spin_step_config *c, int changes)
{
    struct spin_step_config to = *c;
    if (changes & SHORT_BATCHES)
        to.micro_rows = c->longest;
    if (changes & NARROW_STATE)
        to.optimizer.state = TN_STATE_8BIT;
    if (changes & NARROW_WEIGHTS)
        to.weights = TN_BF16;
    if (changes & OFFLOAD)
        to.optimizer.offload = true;
    return to;
}

static void name(struct sp_buf *out, const struct spin_step_config *c, int changes)
{
    const char *comma = "";
    if (changes & SHORT_BATCHES) {
        sp_buf_printf(out, "micro_batch_tokens = %d", c->longest);
        comma = ", ";
    }
    if (changes & NARROW_WEIGHTS) {
        sp_buf_printf(out, "%sweights = bf16", comma);
        comma = ", ";
    }
    if (changes & NARROW_STATE) {
        sp_buf_printf(out, "%soptimizer_state = 8bit", comma);
        comma = ", ";
    }
    if (changes & OFFLOAD)
        sp_buf_printf(out, "%soptimizer_offload = true", comma);
}

bool spin_step_advise(const struct model_config *model, const struct spin_step_config *config,
                      bool device, struct sp_buf *out)
{
    struct sp_error ignored;
    int may = possible(config, device);
    for (int size = 1; size <= count(ALL_CHANGES); size++)
        for (int changes = 1; changes <= ALL_CHANGES; changes++) {
            struct model_memory_plan plan;
            if ((changes & ~may) != 0 || count(changes) != size)
                continue;
            struct spin_step_config to = changed(config, changes);
            if (spin_step_plan(model, &to, &plan, &ignored) != SP_OK)
                continue;
            sp_buf_printf(out, "it fits (%.1f GiB) with [train] ",
                          (double)plan.total / (1024.0 * 1024 * 1024));
            name(out, config, changes);
            return true;
        }
    if (may != 0) {
        sp_buf_printf(out, "it does not fit with [train] ");
        name(out, config, may);
        sp_buf_printf(out, " either; ");
    }
    sp_buf_printf(out, "shorter sequences or more memory are needed");
    return false;
}
