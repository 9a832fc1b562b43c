/* loss: the functions ℓ(m) of a pair's margin m, their slopes, and the margin itself.
 * Source: Chen et al. 2024 (arXiv 2401.01335), section 4; IPO: Azar et al. 2023 (arXiv 2310.12036).
 * Pure; any thread. All arithmetic is in double with the exp and log of model/dmath.h. */
#ifndef SPIN_SPIN_LOSS_H
#define SPIN_SPIN_LOSS_H

#include "common/base/err.h"

enum spin_loss_kind {
    SPIN_LOSS_LOGISTIC,    /* log(1 + e^−m) */
    SPIN_LOSS_HINGE,       /* max(0, 1 − m); slope −1 below 1, 0 from 1 on */
    SPIN_LOSS_EXPONENTIAL, /* e^−m */
    SPIN_LOSS_CORRELATION, /* 1 − m */
    SPIN_LOSS_IPO,         /* (m/β − 1/(2τ))² */
};

struct spin_loss {
    enum spin_loss_kind kind;
    double beta; /* β > 0 */
    double tau;  /* IPO's τ > 0; unused by the others */
};

/* "logistic", "hinge", "exponential", "correlation", "ipo" */
enum sp_err spin_loss_parse(const char *name, enum spin_loss_kind *ret,
                            struct sp_error *err) SP_MUST_USE;
const char *spin_loss_name(enum spin_loss_kind kind);

/* m = β·[(real − ref_real) − (generated − ref_generated)], sums of log-probabilities */
double spin_margin(double beta, float real, float ref_real, float generated, float ref_generated);
double spin_loss_value(const struct spin_loss *loss, double margin); /* ℓ(m) */
double spin_loss_slope(const struct spin_loss *loss, double margin); /* ℓ'(m) */

#endif
