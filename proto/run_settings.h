/* run_settings: the settings of a run, from one table (run_settings.c): what `spinctl create-run`
 * reads from an INI file, what the coordinator freezes as canonical JSON, what trainer and
 * generators obey. Settings that the recipe gives by iteration are lists; a list shorter than the
 * run repeats its last value. Sources of the defaults: arXiv 2401.01335 v3, appendix B. */
#ifndef SPIN_PROTO_RUN_SETTINGS_H
#define SPIN_PROTO_RUN_SETTINGS_H

#include "common/base/config.h"

/* EVALUATE: of evaluations, which the coordinator makes itself; no run file may say so. */
enum run_mode { RUN_MODE_SPIN, RUN_MODE_SFT, RUN_MODE_DPO, RUN_MODE_EVALUATE };
enum run_numerics { RUN_NUMERICS_STRICT, RUN_NUMERICS_ANY };
enum run_score_by { RUN_SCORE_BY_GENERATOR, RUN_SCORE_BY_TRAINER };
enum run_overlong { RUN_OVERLONG_DROP, RUN_OVERLONG_ERROR };
enum run_turns { RUN_TURNS_LAST, RUN_TURNS_FIRST, RUN_TURNS_ALL };
enum run_dtype { RUN_DTYPE_F32, RUN_DTYPE_BF16, RUN_DTYPE_F16 };
enum run_loss { RUN_LOSS_LOGISTIC, RUN_LOSS_HINGE, RUN_LOSS_EXPONENTIAL, RUN_LOSS_CORRELATION,
                RUN_LOSS_IPO };
enum run_optimizer { RUN_OPT_RMSPROP, RUN_OPT_ADAMW };
enum run_state { RUN_STATE_F32, RUN_STATE_8BIT };
enum run_schedule { RUN_SCHEDULE_LINEAR, RUN_SCHEDULE_COSINE, RUN_SCHEDULE_CONSTANT };
enum run_order { RUN_ORDER_SHUFFLE, RUN_ORDER_LENGTH, RUN_ORDER_GAP };
enum run_compat { RUN_COMPAT_NONE, RUN_COMPAT_UCLAML };
enum run_replay { RUN_REPLAY_PREVIOUS, RUN_REPLAY_NONE };

struct run_settings {
    /* [run] */
    char *name;
    int mode; /* enum run_mode */
    int64_t seed;
    int64_t iterations;
    int numerics; /* enum run_numerics */
    int score_by; /* enum run_score_by */
    int compat;   /* enum run_compat */
    char *backend;
    /* [data] */
    char *train, *holdout, *eval, *format, *template_name, *template_date;
    char *generated_1, *generated_2, *generated_3;
    char *prompt_field, *response_field, *rejected_field, *system_field;
    int64_t train_limit, eval_limit, holdout_limit;
    double holdout_share;
    int64_t max_prompt_tokens, max_sequence_tokens;
    int overlong; /* enum run_overlong */
    int turns;    /* enum run_turns */
    /* [model] */
    char *base;
    int checkpoint_dtype; /* enum run_dtype */
    /* [generate] */
    int64_t samples_per_prompt;
    double temperature;
    int64_t top_k;
    double top_p;
    int64_t max_new_tokens;
    int weights_dtype, activations_dtype, kv_dtype; /* enum run_dtype, f32 or bf16 */
    /* [train] */
    int loss; /* enum run_loss */
    struct sp_f64_list beta, sft_weight, learning_rate, epochs;
    double ipo_tau;
    int train_weights;   /* enum run_dtype, f32 or bf16 */
    int optimizer;       /* enum run_optimizer */
    int optimizer_state; /* enum run_state */
    bool optimizer_offload;
    double rms_alpha, adam_beta1, adam_beta2, eps, weight_decay;
    int schedule; /* enum run_schedule */
    double warmup_share;
    int64_t batch_pairs;
    double clip;
    int64_t micro_batch_tokens;
    int64_t memory_budget_bytes;
    int replay; /* enum run_replay */
    int order;  /* enum run_order */
    int64_t snapshot_steps;
    int64_t max_nonfinite_steps;
    double guard_nats;
    /* [verdict] */
    int64_t verdict_min_pairs;
    double verdict_confidence;
    bool stop_on_verdict;
    bool accept_degraded;
    int64_t trained_sample;
    /* [evaluation] */
    char *evaluate, *evaluate_data;
    int64_t evaluate_limit;
};

extern const struct sp_config_spec run_settings_spec;

extern const char *const run_mode_names[]; /* "spin", …; by enum run_mode */

/* From the canonical JSON that a store or a lease holds. Settings that the version which froze it
 * did not have keep their defaults. */
enum sp_err run_settings_from_json(const json_t *object, struct run_settings *ret,
                                   struct sp_error *err) SP_MUST_USE;

/* max_prompt_tokens, or what max_sequence_tokens leaves when that is 0. */
int64_t run_settings_prompt_limit(const struct run_settings *settings);

/* The defaults that [run] compat puts in the place of the table's; before the run file is read over
 * them. */
void run_settings_use_compat(struct run_settings *settings, int compat);

/* What the table cannot say: fields that need each other (a prompt shorter than the sequence, a
 * mode that needs generated answers, …), a name of letters, digits, "-", "_", ".", whole passes. */
enum sp_err run_settings_check(const struct run_settings *settings,
                               struct sp_error *err) SP_MUST_USE;

#endif
