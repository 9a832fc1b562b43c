#include "common/spin/loss.h"

#include <string.h>

#include "common/base/mem.h"
#include "common/model/dmath.h"

static const char *const names[] = {
    [SPIN_LOSS_LOGISTIC] = "logistic",
    [SPIN_LOSS_HINGE] = "hinge",
    [SPIN_LOSS_EXPONENTIAL] = "exponential",
    [SPIN_LOSS_CORRELATION] = "correlation",
    [SPIN_LOSS_IPO] = "ipo",
};

enum sp_err spin_loss_parse(const char *name, enum spin_loss_kind *ret, struct sp_error *err)
{
    for (size_t i = 0; i < SP_COUNT(names); i++) {
        if (strcmp(name, names[i]) == 0) {
            *ret = (enum spin_loss_kind)i;
            return SP_OK;
        }
    }
    return sp_fail(err, SP_EINVAL,
                   "loss \"%.40s\": expected logistic, hinge, exponential, correlation or ipo",
                   name);
}

const char *spin_loss_name(enum spin_loss_kind kind)
{
    return names[kind];
}

double spin_margin(double beta, float real, float ref_real, float generated, float ref_generated)
{
    return beta * (((double)real - (double)ref_real) - ((double)generated - (double)ref_generated));
}

/* log(1 + e^x) without overflow */
static double softplus(double x)
{
    return x > 0 ? x + model_log1p(model_exp(-x)) : model_log1p(model_exp(x));
}

/* 1 / (1 + e^−x) without overflow */
static double sigmoid(double x)
{
    if (x >= 0)
        return 1 / (1 + model_exp(-x));
    double e = model_exp(x);
    return e / (1 + e);
}

double spin_loss_value(const struct spin_loss *loss, double m)
{
    switch (loss->kind) {
    case SPIN_LOSS_LOGISTIC:
        return softplus(-m);
    case SPIN_LOSS_HINGE:
        return m != m || m < 1 ? 1 - m : 0;
    case SPIN_LOSS_EXPONENTIAL:
        return model_exp(-m);
    case SPIN_LOSS_CORRELATION:
        return 1 - m;
    case SPIN_LOSS_IPO:
        break;
    }
    double d = m / loss->beta - 1 / (2 * loss->tau);
    return d * d;
}

double spin_loss_slope(const struct spin_loss *loss, double m)
{
    switch (loss->kind) {
    case SPIN_LOSS_LOGISTIC:
        return -sigmoid(-m);
    case SPIN_LOSS_HINGE:
        return m != m ? m : m < 1 ? -1 : 0;
    case SPIN_LOSS_EXPONENTIAL:
        return -model_exp(-m);
    case SPIN_LOSS_CORRELATION:
        return -1;
    case SPIN_LOSS_IPO:
        break;
    }
    return 2 * (m / loss->beta - 1 / (2 * loss->tau)) / loss->beta;
}
