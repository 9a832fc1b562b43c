/* optim: RMSProp and AdamW over a block of parameters, learning-rate schedules, clipping.
 *
 * The state is fp32, or 8 bits block by block (common/tensor/state.h), and lies with the parameters
 * or, for a device whose memory it would fill, in memory of the host (offload).
 *
 * The update rules are torch's: RMSprop without momentum (v = αv + (1−α)g², w −= lr·g/(√v + ε),
 * weight decay added to g) and AdamW (decoupled decay, bias correction; Loshchilov & Hutter,
 * arXiv 1711.05101). Weight decay applies to every parameter, norms included, as torch does when
 * it is given no groups. State starts at zero in every iteration.
 * One compute thread; allocates in spin_optimizer_new only. */
#ifndef SPIN_SPIN_OPTIM_H
#define SPIN_SPIN_OPTIM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/base/err.h"
#include "common/model/model.h"
#include "common/tensor/state.h"

enum spin_optimizer_kind { SPIN_RMSPROP, SPIN_ADAMW };
enum spin_schedule_kind { SPIN_SCHEDULE_LINEAR, SPIN_SCHEDULE_COSINE, SPIN_SCHEDULE_CONSTANT };

struct spin_optimizer_config {
    enum spin_optimizer_kind kind;
    double lr;           /* peak */
    double alpha;        /* RMSProp: 0.99 */
    double beta1, beta2; /* AdamW: 0.9, 0.999 */
    double eps;          /* 1e-8 */
    double weight_decay; /* 0 */
    double clip_norm;    /* of the whole gradient; 0: off */
    enum spin_schedule_kind schedule;
    int64_t warmup_steps; /* ≤ total_steps */
    int64_t total_steps;  /* of the iteration, fixed by its plan */
    double final_ratio;   /* rate at the end of linear and cosine, as a part of the peak: 0 */
    enum tn_state state;
    bool offload;  /* state in the host's memory; of use to backends with memory of their own */
    uint64_t seed; /* of the rounding of parameters that are stored as bf16 */
};

/* RMSProp α 0.99, ε 1e-8, AdamW β 0.9 and 0.999, clip 1, linear schedule; lr and steps are zero. */
struct spin_optimizer_config spin_optimizer_defaults(enum spin_optimizer_kind kind);
enum sp_err spin_optimizer_check(const struct spin_optimizer_config *config,
                                 struct sp_error *err) SP_MUST_USE;
enum sp_err spin_optimizer_parse(const char *name, enum spin_optimizer_kind *ret,
                                 struct sp_error *err) SP_MUST_USE; /* rmsprop, adamw */
enum sp_err spin_schedule_parse(const char *name, enum spin_schedule_kind *ret,
                                struct sp_error *err) SP_MUST_USE; /* linear, cosine, constant */

/* Rate of step s = 0, 1, …: peak × (s+1)/(w+1) in the w warm-up steps; then, with
 * p = (s−w)/(total−w), peak × (1−p) for linear, peak × (1+cos πp)/2 for cosine, between peak and
 * final_ratio × peak; so no step has a rate of zero. Pure. */
double spin_schedule_lr(const struct spin_optimizer_config *config, int64_t step);
/* Factor for the gradient: min(1, clip / (norm + 1e-6)), as torch's clip_grad_norm_. Pure. */
double spin_clip_scale(double norm, double clip);

struct spin_optimizer;

/* Of the state, in the backend's memory and, offloaded, in the host's. */
size_t spin_optimizer_bytes(const struct spin_optimizer_config *config, size_t n_params);
size_t spin_optimizer_host_bytes(const struct spin_optimizer_config *config, size_t n_params);
enum sp_err spin_optimizer_new(struct model *model, const struct spin_optimizer_config *config,
                               struct spin_optimizer **ret, struct sp_error *err) SP_MUST_USE;
void spin_optimizer_free(struct spin_optimizer *optimizer); /* NULL is fine */
/* State for snapshots, of the backend (ops->upload, download), in bytes: RMSProp v; AdamW m, filled
 * up to a multiple of SPIN_STATE_ALIGN, then v. */
#define SPIN_STATE_ALIGN 256
void *spin_optimizer_state(struct spin_optimizer *optimizer, size_t *ret_bytes);
/* Updates made; set it together with the state when resuming. */
int64_t spin_optimizer_updates(const struct spin_optimizer *optimizer);
void spin_optimizer_set_updates(struct spin_optimizer *optimizer, int64_t updates);
/* params −= update(grads × scale) at rate lr. */
void spin_optimizer_apply(struct spin_optimizer *optimizer, double lr, double scale);

#endif
