/* store_run: what is inside one run's file. Rules of thread, transaction, error and memory as in
 * store.h; functions that write say so with "write". */
#ifndef SPIN_COORDINATOR_STORE_RUN_H
#define SPIN_COORDINATOR_STORE_RUN_H

#include "coordinator/store/store.h"
#include "proto/messages.h"

/* ---- making a run: on any one thread, in a file of its own ---- */

enum store_split { STORE_SPLIT_TRAIN = 0, STORE_SPLIT_HOLDOUT = 1, STORE_SPLIT_EVAL = 2 };
#define STORE_SPLITS 3

struct store_prompt {
    uint32_t index; /* in its split, from 0 */
    struct proto_ids prompt_ids, real_ids;
    struct proto_ids rejected_ids; /* empty unless the data gives it */
    struct proto_ids sample_ids;   /* what answers are sampled behind; empty: prompt_ids */
    const char *response;          /* reference text of the answer */
};

struct store_run_info {
    const char *name;
    int64_t created_ms;             /* wall clock */
    const char *settings;           /* canonical JSON (run_settings) */
    struct sp_digest base;          /* checkpoint digest of the base */
    struct sp_digest base_manifest; /* SHA-256 of its manifest, a blob */
    const char *data;               /* JSON: dataset manifests, counts, length statistics */
    struct sp_digest data_digest;   /* over all prompts; set by the builder */
    uint32_t prompts[STORE_SPLITS]; /* rows by split; set by the builder */
    uint64_t base_bytes;            /* builder only: size of the base, for its checkpoint's row */
};

/* Makes runs/NAME.db.new beside the live store, on any thread: one transaction, no fsync before
 * finish. SP_EEXIST when the run is there, SP_EUNAVAIL while somebody else makes it, SP_ELIMIT when
 * there are SP_MAX_RUNS. Free an unfinished one with store_builder_free, which removes the file. */
struct store_builder;
enum sp_err store_builder_open(const char *state_dir, const char *name,
                               const struct store_options *options, struct store_builder **ret,
                               struct sp_error *err) SP_MUST_USE;
/* Indices of a split must come as 0, 1, 2, … */
enum sp_err store_builder_add(struct store_builder *builder, enum store_split split,
                              const struct store_prompt *prompt, struct sp_error *err) SP_MUST_USE;
#define STORE_GIVEN "(data)" /* the worker of answers that the data gives */
/* The answer that the data gives for training prompt `index` in an iteration: a result that is
 * there before the iteration begins, of no worker, and that clearing the iteration leaves. */
enum sp_err store_builder_given(struct store_builder *builder, uint32_t iteration, uint32_t index,
                                const struct proto_ids *answer, struct sp_error *err) SP_MUST_USE;
/* The run refers to these blobs (owner: "base", "data"). */
enum sp_err store_builder_refs(struct store_builder *builder, const char *owner,
                               const struct sp_digest *digests, size_t count,
                               struct sp_error *err) SP_MUST_USE;
/* Digest of every prompt added; no more may be added then. */
void store_builder_digest(struct store_builder *builder, struct sp_digest *ret);
struct store_iteration;
/* For a run that is not trained: a small named value, and its one iteration. */
enum sp_err store_builder_meta(struct store_builder *builder, const char *key, const char *value,
                               struct sp_error *err) SP_MUST_USE;
enum sp_err store_builder_iteration(struct store_builder *builder,
                                    const struct store_iteration *iteration,
                                    struct sp_error *err) SP_MUST_USE;
/* Writes the run's row (name, created_ms, settings, base, base_manifest and data of *info), as
 * iteration -1 the base checkpoint's, and the run's first event; makes everything durable and
 * closes the file. */
enum sp_err store_builder_finish(struct store_builder *builder, const struct store_run_info *info,
                                 struct sp_error *err) SP_MUST_USE;
/* NULL is fine; after finish the file stays. */
void store_builder_free(struct store_builder *builder);
/* Store thread, write: the finished file becomes the run. SP_EEXIST; SP_ENOTFOUND: not finished. */
enum sp_err store_run_adopt(struct store *store, const char *name,
                            struct sp_error *err) SP_MUST_USE;

/* ---- the run itself ---- */

const char *store_run_name(const struct store_run *run);
enum sp_err store_run_info(struct store_run *run, struct sp_arena *arena,
                           struct store_run_info *ret, struct sp_error *err) SP_MUST_USE;
/* Small named values: "numerics_class", "stopped", … value NULL deletes. Write. */
enum sp_err store_meta_put(struct store_run *run, const char *key, const char *value,
                           struct sp_error *err) SP_MUST_USE;
/* *ret = "" when absent. */
enum sp_err store_meta_get(struct store_run *run, const char *key, struct sp_arena *arena,
                           const char **ret, struct sp_error *err) SP_MUST_USE;

/* Prompts [first, first + count) of a split; SP_ENOTFOUND when one is not there. ret[count]. */
enum sp_err store_prompts_get(struct store_run *run, enum store_split split, uint32_t first,
                              uint32_t count, struct sp_arena *arena, struct store_prompt *ret,
                              struct sp_error *err) SP_MUST_USE;
/* ret[prompts of the split]: tokens of prompt and human answer (plan_order's length_keys). */
enum sp_err store_prompt_lengths(struct store_run *run, enum store_split split, uint64_t *ret,
                                 struct sp_error *err) SP_MUST_USE;

/* ---- iterations ---- */

#define STORE_STATE_LIST(X)                                                                        \
    X(PLANNED, planned)                                                                            \
    X(RUNNING, running)                                                                            \
    X(PUBLISHING, publishing)                                                                      \
    X(EVALUATING, evaluating)                                                                      \
    X(CLOSED, closed)                                                                              \
    X(PAUSED, paused)                                                                              \
    X(FAILED, failed)                                                                              \
    X(CANCELLED, cancelled)
#define STORE_STATE_ENUM(NAME, name) STORE_STATE_##NAME,
enum store_state { STORE_STATE_LIST(STORE_STATE_ENUM) STORE_STATE_COUNT };
#undef STORE_STATE_ENUM
const char *store_state_name(enum store_state state); /* "running"; static */

struct store_iteration {
    uint32_t iteration; /* key */
    enum store_state state;
    enum store_state return_state; /* where resume or retry goes; equal to state when unused */
    const char *reason;            /* of paused, failed, cancelled; "" */
    struct sp_digest opponent, opponent_manifest;     /* starting weights; manifest's SHA-256 */
    struct sp_digest checkpoint, checkpoint_manifest; /* published; zero: not yet */
    uint64_t seed;                                    /* plan fields: struct plan */
    uint32_t prompts, samples_per_prompt, new_pairs, replay_pairs;
    uint32_t order;        /* enum run_order */
    struct sp_digest plan; /* plan_digest */
    uint64_t epoch;        /* fencing number of the newest trainer grant of the run */
    uint64_t attempt;      /* how often it was started afresh */
    uint64_t steps_total;  /* 0: not known yet */
    /* wall clock; 0: not yet */
    int64_t created_ms, started_ms, generated_ms, trained_ms, closed_ms;
    const char *verdict; /* "", or improved, plateau, … */
    bool accepted;       /* its checkpoint is the next opponent */
    const char *summary; /* JSON: the trainer's words and the coordinator's statistics; "" */
    struct sp_digest pairs_sha256; /* proto/pairs_digest.h; zero: not yet */
    struct sp_digest pairs_chain;  /* the trainer's, in the order consumed; zero: not yet */
};
/* Inserts or replaces the row. Write. */
enum sp_err store_iteration_put(struct store_run *run, const struct store_iteration *iteration,
                                struct sp_error *err) SP_MUST_USE;
enum sp_err store_iteration_get(struct store_run *run, uint32_t iteration, struct sp_arena *arena,
                                struct store_iteration *ret, struct sp_error *err) SP_MUST_USE;
/* All, by number. */
enum sp_err store_iterations_list(struct store_run *run, struct sp_arena *arena,
                                  struct store_iteration **ret, size_t *ret_count,
                                  struct sp_error *err) SP_MUST_USE;
/* Order of the gap curriculum: positions. Write. */
enum sp_err store_gap_order_put(struct store_run *run, uint32_t iteration, const uint32_t *order,
                                uint32_t count, struct sp_error *err) SP_MUST_USE;
enum sp_err store_gap_order_drop(struct store_run *run, uint32_t iteration,
                                 struct sp_error *err) SP_MUST_USE;
/* SP_ENOTFOUND; SP_ECORRUPT unless it has exactly count positions, each once. ret[count]. */
enum sp_err store_gap_order_get(struct store_run *run, uint32_t iteration, uint32_t count,
                                uint32_t *ret, struct sp_error *err) SP_MUST_USE;

/* ---- results of work ---- */

struct store_result {
    uint32_t iteration, set; /* key, with position; set: enum proto_set */
    uint64_t position;
    uint32_t prompt, sample;
    uint32_t source_iteration; /* whose opponent sampled ids: an earlier one for replayed pairs */
    struct proto_ids ids;      /* the sampled (or replayed) answer; empty for given answers */
    uint32_t finish;           /* enum proto_finish */
    float ref_real;            /* log-probability of the human (chosen) answer; NaN: not scored */
    float ref_generated;       /* of the opponent's (rejected) answer; NaN: not scored */
    const char *worker;        /* name */
    int64_t at_ms;             /* wall clock; no part of the comparison with a duplicate */
};
enum store_put {
    STORE_NEW,       /* stored */
    STORE_DUPLICATE, /* there already, with the same bits */
    STORE_DIFFERENT, /* there already, with another answer or other bits: the first one is kept */
};
/* First stored wins. Write. */
enum sp_err store_result_put(struct store_run *run, const struct store_result *result,
                             enum store_put *ret, struct sp_error *err) SP_MUST_USE;
/* References from the trainer (score_by = trainer), which take the place of the generator's; a
 * position without a result (given answers) gets one. Idempotent. Write. */
enum sp_err store_refs_put(struct store_run *run, uint32_t iteration, uint32_t set,
                           uint64_t position, uint32_t prompt, uint32_t sample, float ref_real,
                           float ref_generated, struct sp_error *err) SP_MUST_USE;
/* ret[count], in the order of positions; SP_ENOTFOUND when one is missing. The trainer's references
 * stand in ref_real and ref_generated where there are any. */
enum sp_err store_results_get(struct store_run *run, uint32_t iteration, uint32_t set,
                              const uint64_t *positions, uint32_t count, struct sp_arena *arena,
                              struct store_result *ret, struct sp_error *err) SP_MUST_USE;
/* Stored rows with position ≥ first, by position, at most limit. */
enum sp_err store_results_range(struct store_run *run, uint32_t iteration, uint32_t set,
                                uint64_t first, uint32_t limit, struct sp_arena *arena,
                                struct store_result **ret, size_t *ret_count,
                                struct sp_error *err) SP_MUST_USE;
/* Sets bit p (byte p / 8, 1 << p % 8) of bitmap[(positions + 7) / 8] for each stored position;
 * SP_ECORRUPT when there is one ≥ positions. with_refs: only those that the trainer has scored. */
enum sp_err store_results_bitmap(struct store_run *run, uint32_t iteration, uint32_t set,
                                 uint64_t positions, bool with_refs, uint8_t *bitmap,
                                 uint64_t *ret_count, struct sp_error *err) SP_MUST_USE;
/* Of the training set's results only those that the data gives; bits as above. */
enum sp_err store_given_bitmap(struct store_run *run, uint32_t iteration, uint64_t positions,
                               uint8_t *bitmap, struct sp_error *err) SP_MUST_USE;
/* The answers of the new pairs of iteration - 1 become those of the replayed pairs of `iteration`,
 * without references, as if the data had given them. Write. */
enum sp_err store_replays_copy(struct store_run *run, uint32_t iteration, uint32_t new_pairs,
                               int64_t at_ms, struct sp_error *err) SP_MUST_USE;
/* Calls `each` with every stored position of a set, in order, and who made it. */
enum sp_err store_results_owners(struct store_run *run, uint32_t iteration, uint32_t set,
                                 void (*each)(void *context, uint64_t position, const char *worker),
                                 void *context, struct sp_error *err) SP_MUST_USE;
/* Drops one result. SP_ENOTFOUND. Write. */
enum sp_err store_result_revoke(struct store_run *run, uint32_t iteration, uint32_t set,
                                uint64_t position, struct sp_error *err) SP_MUST_USE;
/* cancel, then start --fresh: drops results that workers made, steps, gap order and skip marks of
 * an iteration; its row stays. Write. */
enum sp_err store_iteration_clear(struct store_run *run, uint32_t iteration,
                                  struct sp_error *err) SP_MUST_USE;
/* Drops the results of the sets that `sets` names (bit 1 << set): a new checkpoint is evaluated
 * afresh. Write. */
enum sp_err store_results_clear(struct store_run *run, uint32_t iteration, uint32_t sets,
                                struct sp_error *err) SP_MUST_USE;

struct store_share {
    const char *worker;
    uint64_t results, tokens; /* rows; tokens of their sampled answers */
};
/* Who made the results of a set; new_only leaves replayed pairs out. Sorted by worker. */
enum sp_err store_shares(struct store_run *run, uint32_t iteration, uint32_t set, bool new_only,
                         struct sp_arena *arena, struct store_share **ret, size_t *ret_count,
                         struct sp_error *err) SP_MUST_USE;

struct store_slice {
    const char *worker;
    uint32_t set;
    int64_t slice; /* (at_ms - start_ms) / slice_ms */
    uint64_t results;
};
/* When the results of an iteration came: counts by worker, set and slice of time, in that order.
 * Those from before start_ms (clocks are set back) count as of slice 0. */
enum sp_err store_slices(struct store_run *run, uint32_t iteration, int64_t start_ms,
                         int64_t slice_ms, struct sp_arena *arena, struct store_slice **ret,
                         size_t *ret_count, struct sp_error *err) SP_MUST_USE;
/* When the newest result came; 0: there is none. */
enum sp_err store_results_last_ms(struct store_run *run, uint32_t iteration, int64_t *ret,
                                  struct sp_error *err) SP_MUST_USE;

/* ---- pairs: prompts and results together, as the trainer and pairs_sha256 see them ---- */

/* Whose references a pair has; a scorer that has not delivered any leaves NaN. */
enum store_refs {
    STORE_REFS_LATEST = 0, /* the trainer's, where there are none the generator's */
    STORE_REFS_TRAINER,
    STORE_REFS_GENERATOR,
};

struct store_pair_key { /* from plan_key_at, or by hand for other sets */
    uint64_t position;
    uint32_t source_iteration, prompt, sample;
    enum store_refs refs;
};
/* ret[count] in the order of keys, ret_stored[count] (may be NULL): whether a result row is there.
 * generated_ids: the result's ids, else the rejected_ids of the data. Without a row the references
 * are NaN and finish is PROTO_FINISH_NONE. skipped as store_skip_add says, in the iteration or in
 * the pair's source iteration; length_key as in messages.def. A row of another prompt or sample
 * than its key's is SP_ECORRUPT. */
enum sp_err store_pairs_read(struct store_run *run, uint32_t iteration, uint32_t set,
                             enum store_split split, const struct store_pair_key *keys,
                             uint32_t count, struct sp_arena *arena, struct proto_train_pair *ret,
                             bool *ret_stored, struct sp_error *err) SP_MUST_USE;

/* Keys taken out of an iteration's plan by an administrator: all samples of the prompt. Again: no
 * change. Write. */
enum sp_err store_skip_add(struct store_run *run, uint32_t iteration, uint32_t prompt,
                           const char *actor, int64_t at_ms, struct sp_error *err) SP_MUST_USE;
/* Sorted prompts. */
enum sp_err store_skips_list(struct store_run *run, uint32_t iteration, struct sp_arena *arena,
                             uint32_t **ret, size_t *ret_count, struct sp_error *err) SP_MUST_USE;

/* ---- steps ---- */

/* Idempotent by step number; the newest report of a step stays. Write. */
enum sp_err store_step_put(struct store_run *run, uint32_t iteration,
                           const struct proto_step_metrics *step, struct sp_error *err) SP_MUST_USE;
/* Steps with number > after, at most limit (≤ SP_MAX_LIST_ROWS). */
enum sp_err store_steps_list(struct store_run *run, uint32_t iteration, uint64_t after,
                             uint32_t limit, struct sp_arena *arena,
                             struct proto_step_metrics **ret, size_t *ret_count,
                             struct sp_error *err) SP_MUST_USE;
struct store_step_sums {
    uint64_t steps, first_step, last_step; /* rows; lowest and highest number; 0: none */
    uint64_t pairs, identical, tokens, milliseconds;
    uint64_t first_sight_pairs; /* the trainer knows which pairs count */
    double first_sight_correct;
    uint64_t skipped; /* steps without an update */
};
enum sp_err store_step_sums(struct store_run *run, uint32_t iteration, struct store_step_sums *ret,
                            struct sp_error *err) SP_MUST_USE;

/* ---- checkpoints and the blobs that they need ---- */

struct store_checkpoint {
    struct sp_digest digest;   /* key */
    struct sp_digest manifest; /* SHA-256 of its manifest */
    int32_t iteration;         /* that made it; -1: the base */
    int64_t created_ms;
    uint64_t bytes;         /* of all files */
    const char *provenance; /* JSON: what made it */
    bool pinned;            /* never let go of by retention */
    int64_t dropped_ms;     /* wall clock when it was let go of: its blobs may be gone; 0: no */
};
/* Again with the same digest: no change. Write. */
enum sp_err store_checkpoint_put(struct store_run *run, const struct store_checkpoint *checkpoint,
                                 struct sp_error *err) SP_MUST_USE;
enum sp_err store_checkpoint_get(struct store_run *run, const struct sp_digest *digest,
                                 struct sp_arena *arena, struct store_checkpoint *ret,
                                 struct sp_error *err) SP_MUST_USE;
/* By iteration, then time. */
enum sp_err store_checkpoints_list(struct store_run *run, struct sp_arena *arena,
                                   struct store_checkpoint **ret, size_t *ret_count,
                                   struct sp_error *err) SP_MUST_USE;
/* Write. SP_ENOTFOUND; SP_ESTATE: it was let go of already. */
enum sp_err store_checkpoint_pin(struct store_run *run, const struct sp_digest *digest, bool pinned,
                                 struct sp_error *err) SP_MUST_USE;
/* Lets go of a checkpoint: its references are dropped, its row stays. Write. */
enum sp_err store_checkpoint_drop(struct store_run *run, const struct sp_digest *digest,
                                  int64_t now_ms, struct sp_error *err) SP_MUST_USE;
/* Blobs that must not be deleted while the run is there: the manifest and its chunks. owner:
 * "base", "data", or a checkpoint's digest in hex. Idempotent. Write. */
#define STORE_OWNER_WEIGHTS "weights" /* of what an evaluation needs until it is closed */
enum sp_err store_blob_refs_add(struct store_run *run, const char *owner,
                                const struct sp_digest *digests, size_t count,
                                struct sp_error *err) SP_MUST_USE;
/* Drops all references of an owner. Write. */
enum sp_err store_blob_refs_drop(struct store_run *run, const char *owner,
                                 struct sp_error *err) SP_MUST_USE;
/* Each blob that the run refers to, once, sorted; false ends the walk. */
enum sp_err store_blob_refs_each(struct store_run *run,
                                 bool (*each)(void *context, const struct sp_digest *digest),
                                 void *context, struct sp_error *err) SP_MUST_USE;

#endif
