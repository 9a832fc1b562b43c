#include "proto/run_settings.h"

#include <math.h>
#include <stddef.h>
#include <string.h>

#include "common/base/fs.h"
#include "common/base/limits.h"
#include "common/base/mem.h"
#include "common/base/setting_rows.h"

#define AT(field) offsetof(struct run_settings, field)

static const struct sp_setting table[] = {
    STR("run", "name", name, "", "Name of the run: letters, digits, '-', '_' and '.'."),
    ENUM("run", "mode", mode, "spin", "spin|sft|dpo|evaluate",
         "spin: self-play; sft: maximum likelihood on the human answers; dpo: given pairs of "
         "chosen and rejected answers; evaluate: what `spinctl evaluate` makes, not for run "
         "files."),
    I64("run", "seed", seed, "1", 0, 9007199254740991.0, "",
        "Decides every draw and every order; the same seed gives the same bits."),
    I64("run", "iterations", iterations, "4", 1, SP_LIST_MAX, "",
        "How many iterations `spinctl run` makes, unless a verdict stops it first."),
    ENUM("run", "numerics", numerics, "strict", "strict|any",
         "strict: work goes only to workers whose numerics class equals the first one's; any: the "
         "promise of equal bits is waived."),
    ENUM("run", "score_by", score_by, "generator", "generator|trainer",
         "Who computes the reference log-probabilities; trainer: every pair, before the first "
         "step."),
    ENUM("run", "compat", compat, "none", "none|uclaml",
         "uclaml: as the SPIN authors' code does it, with its templates, its defaults and its data "
         "of each iteration (docs/uclaml.md)."),
    STR("run", "backend", backend, "cpu",
        "Backend of generators and trainer: cpu, openblas, cuda or cuda-fp32."),

    STR("data", "train", train, "",
        "File of prompts with human answers: JSON Lines, a JSON array or CSV, also compressed with "
        "gzip or zstd."),
    STR("data", "holdout", holdout, "",
        "File of held-out prompts for the verdict; empty: holdout_share of the training file."),
    F64("data", "holdout_share", holdout_share, "0.05", 0, 0.9, "",
        "Share of the training file that is held out when there is no holdout file."),
    I64("data", "holdout_limit", holdout_limit, "1000", 0, 100000, "prompts",
        "At most this many held-out prompts."),
    STR("data", "eval", eval, "",
        "File of problems on which exact match is measured after every iteration; empty: none."),
    I64("data", "eval_limit", eval_limit, "10000", 0, 1000000, "prompts",
        "At most this many evaluation problems, the first ones."),
    I64("data", "train_limit", train_limit, "0", 0, SP_MAX_DATASET_ROWS, "prompts",
        "At most this many training rows, the first ones; 0: all."),
    ENUM("data", "overlong", overlong, "drop", "drop|error",
         "What becomes of rows over the token limits: left out and counted, or refused."),
    STR("data", "format", format, "auto",
        "auto, prompt_response, messages, instruction, question_answer, uclaml or preference."),
    STR("data", "generated_1", generated_1, "",
        "compat = uclaml: file with given answers for iteration 1 (those for iteration 0 are in "
        "train); what no file gives is sampled."),
    STR("data", "generated_2", generated_2, "", "The same for iteration 2."),
    STR("data", "generated_3", generated_3, "", "The same for iteration 3."),
    STR("data", "prompt", prompt_field, "",
        "Name of the field that holds the prompt, for data of no known format: a column, or a path "
        "into objects and lists (chat.0.value)."),
    STR("data", "response", response_field, "",
        "Name of the field that holds the human answer; empty: response."),
    STR("data", "rejected", rejected_field, "",
        "Name of the field that holds the other answer; empty: there is none."),
    STR("data", "system", system_field, "",
        "Name of the field that holds the system message; empty: there is none."),
    STR("data", "template", template_name, "auto",
        "Chat template: auto (the model's own), none, or a name; a wrong name lists them all. As "
        "in "
        "transformers, the text of a special token in a message is that token; an answer that "
        "holds "
        "its end token is refused."),
    ENUM(
        "data", "turns", turns, "last", "last|first|all",
        "Of a conversation (messages): its last answer, behind all that comes before it; its first "
        "one; or each of them, a pair of its own. The pairs of a conversation are in one split."),
    STR("data", "template_date", template_date, "",
        "The day (YYYY-MM-DD) that templates which ask for today's date are told; empty: they are "
        "refused."),
    I64("data", "max_prompt_tokens", max_prompt_tokens, "0", 0, SP_MAX_SEQUENCE_TOKENS, "tokens",
        "Longer prompts are left out and counted; 0: what max_sequence_tokens allows."),
    I64("data", "max_sequence_tokens", max_sequence_tokens, "2048", 2, SP_MAX_SEQUENCE_TOKENS,
        "tokens",
        "Prompt and answer together; longer rows are left out and counted. Where answers are "
        "sampled "
        "max_new_tokens must fit behind the prompt, too."),

    STR("model", "base", base, "", "Directory of the SFT model, in Hugging Face layout."),
    ENUM("model", "checkpoint_dtype", checkpoint_dtype, "f32", "f32|bf16|f16",
         "Storage type of published checkpoints; bf16 rounds away small steps."),

    I64("generate", "samples_per_prompt", samples_per_prompt, "1", 1, 64, "",
        "Answers sampled for each prompt."),
    F64("generate", "temperature", temperature, "1", 0, 100, "", "0 is greedy."),
    I64("generate", "top_k", top_k, "0", 0, SP_MAX_VOCAB, "tokens", "0: off."),
    F64("generate", "top_p", top_p, "1", 1e-6, 1, "", "1: off."),
    I64("generate", "max_new_tokens", max_new_tokens, "256", 1, SP_MAX_SEQUENCE_TOKENS, "tokens",
        "An answer cut here gets no end token and is marked."),
    ENUM("generate", "weights", weights_dtype, "f32", "f32|bf16",
         "Storage of the opponent's weights in generators; bf16 needs score_by = trainer."),
    ENUM("generate", "activations", activations_dtype, "f32", "f32|bf16",
         "bf16 (with weights = bf16): what is multiplied with weights is rounded as well, which "
         "processors with AVX512_BF16 compute twice as fast; needs score_by = trainer."),
    ENUM("generate", "kv", kv_dtype, "f32", "f32|bf16",
         "Storage of keys and values; bf16 needs score_by = trainer."),

    ENUM("train", "loss", loss, "logistic", "logistic|hinge|exponential|correlation|ipo",
         "The function of the margin."),
    LIST("train", "beta", beta, "0.1, 0.1, 0.1, 5", 1e-6, 1000, "", "By iteration."),
    LIST("train", "sft_weight", sft_weight, "0", 0, 1000, "",
         "Weight of the mean negative log-likelihood of the human answer, by iteration."),
    LIST("train", "learning_rate", learning_rate, "5e-7, 5e-7, 1e-7, 1e-7", 0, 1, "",
         "Peak of the schedule, by iteration."),
    LIST("train", "epochs", epochs, "2", 1, 1000, "",
         "Passes over the pairs, by iteration: whole numbers."),
    F64("train", "ipo_tau", ipo_tau, "0.1", 1e-6, 1000, "", "Regularisation of the ipo loss."),
    ENUM("train", "optimizer", optimizer, "rmsprop", "rmsprop|adamw",
         "rmsprop, as in the paper, without bias correction; adamw with it."),
    ENUM("train", "optimizer_state", optimizer_state, "f32", "f32|8bit",
         "Storage of the optimizer's state: 4 bytes a number, or about one, in blocks of 256 that "
         "share a scale."),
    BOOL("train", "optimizer_offload", optimizer_offload, "false",
         "Whether the state lies in memory of the host, which the device reads and writes at each "
         "step, and not in the device's; needs backend = cuda or cuda-fp32."),
    ENUM("train", "weights", train_weights, "f32", "f32|bf16",
         "Storage of parameters and gradients in training; bf16 (backend = cuda) rounds updates up "
         "or down at random, so that small ones count; modes spin and dpo then need score_by = "
         "trainer."),
    F64("train", "rms_alpha", rms_alpha, "0.99", 0, 1, "", "Smoothing of RMSProp."),
    F64("train", "adam_beta1", adam_beta1, "0.9", 0, 0.999999, "", "First moment of AdamW."),
    F64("train", "adam_beta2", adam_beta2, "0.999", 0, 0.999999, "", "Second moment of AdamW."),
    F64("train", "eps", eps, "1e-8", 0, 1, "", "Added to the root in both optimizers; above 0."),
    F64("train", "weight_decay", weight_decay, "0", 0, 10, "",
        "As in torch: rmsprop adds it to the gradient, adamw shrinks the weights by it."),
    ENUM("train", "schedule", schedule, "linear", "linear|cosine|constant",
         "What the learning rate does after the warm-up: falls to 0, or stays."),
    F64("train", "warmup_share", warmup_share, "0.1", 0, 1, "",
        "Share of the steps over which the learning rate rises."),
    I64("train", "batch_pairs", batch_pairs, "64", 1, 65536, "pairs", "Pairs of one step."),
    F64("train", "clip", clip, "1", 0, 1e9, "", "Largest norm of the gradient; 0: off."),
    I64("train", "micro_batch_tokens", micro_batch_tokens, "4096", 16, 16777216, "tokens",
        "Tokens that go through the model at once; decides bits, not results."),
    BYTES("train", "memory_budget", memory_budget_bytes, "0", 0, 1e15,
          "Memory for activations; above it layers are recomputed; 0: half of what is free, of a "
          "device nine tenths."),
    ENUM("train", "replay", replay, "previous", "previous|none",
         "Pairs of the iteration before are trained on again, scored by the new opponent."),
    ENUM("train", "order", order, "shuffle", "shuffle|length|gap",
         "Seeded shuffle, or a curriculum: shortest first, or easiest first by log-probability."),
    I64("train", "snapshot_steps", snapshot_steps, "50", 1, 1000000, "steps",
        "A trainer that dies loses at most this many steps."),
    I64("train", "max_nonfinite_steps", max_nonfinite_steps, "3", 0, 1000000, "steps",
        "More steps than this with a loss or gradient that is not finite fail the iteration."),
    F64("train", "guard_nats", guard_nats, "0.5", 0, 1e9, "nats",
        "The iteration fails when the mean log-probability of a human answer's token has fallen by "
        "more; 0: off."),

    I64("verdict", "min_pairs", verdict_min_pairs, "1000", 1, 1000000, "pairs",
        "With fewer held-out pairs the verdict is `undecided`."),
    F64("verdict", "confidence", verdict_confidence, "0.95", 0.5, 0.9999, "",
        "Level of the intervals."),
    BOOL("verdict", "stop", stop_on_verdict, "true",
         "Whether `spinctl run` stops at plateau (twice), converged and degraded."),
    BOOL("verdict", "accept_degraded", accept_degraded, "false",
         "Whether a degraded checkpoint becomes the next opponent all the same."),
    I64("verdict", "trained_sample", trained_sample, "200", 0, 100000, "pairs",
        "Trained pairs that are scored again for the accuracy after training."),

    STR("evaluation", "evaluate", evaluate, "",
        "Task files, separated by commas, on which the base and every checkpoint are evaluated; a "
        "name without a slash that is no file is one of the installed tasks: gsm8k, "
        "arc_challenge."),
    STR("evaluation", "evaluate_data", evaluate_data, "",
        "Directory at which the paths of the tasks' data start; empty: each task file's own."),
    I64("evaluation", "evaluate_limit", evaluate_limit, "0", 0, SP_MAX_DATASET_ROWS, "problems",
        "At most this many problems of each task, the first ones; 0: the task's own limit."),
};

const char *const run_mode_names[] = {"spin", "sft", "dpo", "evaluate"};

const struct sp_config_spec run_settings_spec = {
    .title = "run settings",
    .settings = table,
    .count = SP_COUNT(table),
    .struct_bytes = sizeof(struct run_settings),
};

/* github.com/uclaml/SPIN: configs/config*.yaml, scripts/finetune*.sh, spin/generate_vllm.py, and
 * the defaults of the libraries that they use. Held-out pairs are not looked at there. */
static const char *const uclaml_defaults[] = {
    "run.compat=uclaml",
    "run.score_by=trainer",
    "run.seed=42",
    "data.template=zephyr",
    "data.holdout_share=0",
    "data.max_prompt_tokens=512",
    "data.max_sequence_tokens=1024",
    "generate.temperature=1",
    "generate.max_new_tokens=256",
    "train.optimizer=rmsprop",
    "train.learning_rate=5e-7, 5e-7, 1e-7, 1e-7",
    "train.beta=0.1, 0.1, 0.1, 5",
    "train.epochs=6",
    "train.batch_pairs=64",
    "train.schedule=linear",
    "train.warmup_share=0.1",
    "train.clip=1",
    "train.replay=previous",
    "train.order=shuffle",
    "train.guard_nats=0",
    "verdict.trained_sample=0",
};

void run_settings_use_compat(struct run_settings *settings, int compat)
{
    struct sp_error err;
    if (compat != RUN_COMPAT_UCLAML)
        return;
    for (size_t i = 0; i < SP_COUNT(uclaml_defaults); i++)
        SP_ASSERT(sp_config_set(&run_settings_spec, uclaml_defaults[i], settings, &err) == SP_OK);
}

static enum sp_err check_compat(const struct run_settings *s, struct sp_error *err)
{
    bool given = s->generated_1[0] || s->generated_2[0] || s->generated_3[0];
    if (s->compat != RUN_COMPAT_UCLAML)
        return given ? sp_fail(err, SP_EINVAL,
                               "[data] generated_1, generated_2, generated_3: only with [run] "
                               "compat = uclaml")
                     : SP_OK;
    if (s->mode != RUN_MODE_SPIN || s->score_by != RUN_SCORE_BY_TRAINER)
        return sp_fail(err, SP_EINVAL,
                       "[run] compat: uclaml trains on another text than it samples behind: it "
                       "needs mode = spin and score_by = trainer");
    if (s->samples_per_prompt != 1)
        return sp_fail(err, SP_EINVAL,
                       "[generate] samples_per_prompt: compat = uclaml has one answer a prompt");
    if (strcmp(s->template_name, "zephyr") != 0)
        return sp_fail(err, SP_EINVAL,
                       "[data] template: compat = uclaml has Zephyr's: leave it out");
    return SP_OK;
}

/* Whether the trainer's margins start from what generators scored; mode sft has no references. */
static bool scored_by_generator(const struct run_settings *s)
{
    return s->mode != RUN_MODE_SFT && s->score_by == RUN_SCORE_BY_GENERATOR;
}

/* What only a device does. */
static enum sp_err check_storage(const struct run_settings *s, struct sp_error *err)
{
    if (s->train_weights == RUN_DTYPE_BF16 && strcmp(s->backend, "cuda") != 0)
        return sp_fail(err, SP_EUNSUPPORTED,
                       "[train] weights: bf16 needs [run] backend = cuda; it is %.40s", s->backend);
    if (s->train_weights == RUN_DTYPE_BF16 && scored_by_generator(s))
        return sp_fail(err, SP_EINVAL,
                       "[train] weights: answers must be scored with bf16 weights, too: set [run] "
                       "score_by = trainer");
    if (s->optimizer_offload && strncmp(s->backend, "cuda", 4) != 0)
        return sp_fail(err, SP_EUNSUPPORTED,
                       "[train] optimizer_offload: the state lies in the host's memory already "
                       "with backend = %.40s; needs [run] backend = cuda",
                       s->backend);
    return SP_OK;
}

/* What the table's ranges cannot say of single numbers. */
static enum sp_err check_numbers(const struct run_settings *s, struct sp_error *err)
{
    for (int32_t i = 0; i < s->epochs.count; i++)
        if (s->epochs.values[i] != floor(s->epochs.values[i]))
            return sp_fail(err, SP_EINVAL, "[train] epochs: %g: passes are whole",
                           s->epochs.values[i]);
    if ((float)s->eps <= 0)
        return sp_fail(err, SP_EINVAL,
                       "[train] eps: %g: a weight whose gradient was always 0 would be divided by "
                       "it, which is 0 in fp32: give 1e-8",
                       s->eps);
    return SP_OK;
}

int64_t run_settings_prompt_limit(const struct run_settings *settings)
{
    return settings->max_prompt_tokens > 0 ? settings->max_prompt_tokens
                                           : settings->max_sequence_tokens - 1;
}

enum sp_err run_settings_from_json(const json_t *object, struct run_settings *ret,
                                   struct sp_error *err)
{
    struct run_settings defaults;
    sp_config_init(&run_settings_spec, &defaults);
    json_t *all = sp_config_to_json(&run_settings_spec, &defaults);
    sp_config_deinit(&run_settings_spec, &defaults);
    if (json_is_object(object))
        json_object_update(all, (json_t *)object);
    enum sp_err rc = json_is_object(object)
                         ? sp_config_from_json(&run_settings_spec, all, ret, err)
                         : sp_fail(err, SP_EFORMAT, "run settings: not a JSON object");
    json_decref(all);
    return rc;
}

enum sp_err run_settings_check(const struct run_settings *settings, struct sp_error *err)
{
    const struct run_settings *s = settings;
    if (!sp_run_name_is_good(s->name))
        return sp_fail(
            err, SP_EINVAL,
            "[run] name: \"%.80s\": give 1 to %d letters, digits, '-', '_' or '.', the first "
            "of them no '-' or '.'",
            s->name, SP_MAX_RUN_NAME);
    if (s->mode == RUN_MODE_EVALUATE || strncmp(s->name, "evaluation.", 11) == 0)
        return sp_fail(err, SP_EINVAL,
                       "[run] mode, name: evaluations are made by `spinctl evaluate`, not by "
                       "create-run");
    if (s->max_prompt_tokens >= s->max_sequence_tokens)
        return sp_fail(err, SP_EINVAL,
                       "[data] max_prompt_tokens: %lld leaves no room for an answer in "
                       "max_sequence_tokens = %lld",
                       (long long)s->max_prompt_tokens, (long long)s->max_sequence_tokens);
    if (s->micro_batch_tokens < 2)
        return sp_fail(err, SP_EINVAL, "[train] micro_batch_tokens: below 2");
    if (s->activations_dtype != RUN_DTYPE_F32 && s->weights_dtype != RUN_DTYPE_BF16)
        return sp_fail(err, SP_EINVAL,
                       "[generate] activations: bf16 goes with weights = bf16 only");
    if (scored_by_generator(s) &&
        (s->weights_dtype != RUN_DTYPE_F32 || s->kv_dtype != RUN_DTYPE_F32))
        return sp_fail(
            err, SP_EINVAL,
            "[generate] weights, activations, kv: bf16 answers must be scored in the trainer's "
            "precision: set [run] score_by = trainer");
    if (s->mode == RUN_MODE_SFT && s->order == RUN_ORDER_GAP)
        return sp_fail(err, SP_EINVAL,
                       "[train] order: gap needs scored pairs, which mode = sft "
                       "does not make: use shuffle or length");
    if (s->order == RUN_ORDER_GAP && s->score_by == RUN_SCORE_BY_TRAINER)
        return sp_fail(err, SP_EINVAL,
                       "[train] order: gap needs scores before training: set [run] score_by = "
                       "generator, or another order");
    enum sp_err rc = check_numbers(s, err);
    if (rc == SP_OK)
        rc = check_storage(s, err);
    if (rc == SP_OK)
        rc = check_compat(s, err);
    if (rc != SP_OK)
        return rc;
    bool named =
        s->prompt_field[0] || s->response_field[0] || s->rejected_field[0] || s->system_field[0];
    if (named && strcmp(s->format, "auto") != 0 && strcmp(s->format, "mapped") != 0)
        return sp_fail(err, SP_EINVAL,
                       "[data] format: %.40s has its own names of fields: leave it out where "
                       "prompt, response, rejected or system name them",
                       s->format);
    if (s->train[0] == '\0')
        return sp_fail(err, SP_EINVAL, "[data] train: no file given");
    if (s->base[0] == '\0')
        return sp_fail(err, SP_EINVAL, "[model] base: no directory given");
    return SP_OK;
}
