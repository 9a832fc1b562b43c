/* The tables, as numbered migrations. A step that was ever released is never changed: a new one is
 * added behind it. */
#include "common/base/mem.h"
#include "coordinator/store/db.h"

#define EVENTS_TABLE                                                                               \
    "CREATE TABLE events("                                                                         \
    " id INTEGER PRIMARY KEY, at_ms INTEGER NOT NULL, iteration INTEGER NOT NULL,"                 \
    " actor TEXT NOT NULL, kind TEXT NOT NULL, text TEXT NOT NULL, detail TEXT NOT NULL) STRICT;"

static const char *const control_migrations[] = {
    "CREATE TABLE runs("
    " id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, created_ms INTEGER NOT NULL) STRICT;"
    "CREATE TABLE tokens("
    " id TEXT PRIMARY KEY NOT NULL, secret_sha BLOB NOT NULL, role INTEGER NOT NULL, name TEXT NOT "
    "NULL,"
    " runs TEXT NOT NULL, created_ms INTEGER NOT NULL, expires_ms INTEGER NOT NULL,"
    " revoked_ms INTEGER NOT NULL) STRICT;"
    "CREATE TABLE workers("
    " name TEXT PRIMARY KEY, role INTEGER NOT NULL, host TEXT NOT NULL, device TEXT NOT NULL,"
    " version TEXT NOT NULL, numerics_class TEXT NOT NULL, token_id TEXT NOT NULL,"
    " first_seen_ms INTEGER NOT NULL, last_seen_ms INTEGER NOT NULL) STRICT, WITHOUT "
    "ROWID;" EVENTS_TABLE,
    /* 2: workers that get no work */
    "CREATE TABLE holds("
    " worker TEXT PRIMARY KEY, kind INTEGER NOT NULL, reason TEXT NOT NULL, at_ms INTEGER NOT NULL)"
    " STRICT, WITHOUT ROWID;",
};

/* Token ids are little-endian int32 blobs; log-probabilities are the bits of an fp32, because a
 * REAL column would turn NaN into NULL. results.trainer_* are NULL until the trainer has scored the
 * pair itself. */
static const char *const run_migrations[] = {
    "CREATE TABLE info("
    " id INTEGER PRIMARY KEY CHECK (id = 1), name TEXT NOT NULL, created_ms INTEGER NOT NULL,"
    " settings TEXT NOT NULL, base BLOB NOT NULL, base_manifest BLOB NOT NULL, data TEXT NOT NULL,"
    " data_digest BLOB NOT NULL, train_prompts INTEGER NOT NULL, holdout_prompts INTEGER NOT NULL,"
    " eval_prompts INTEGER NOT NULL) STRICT;"
    "CREATE TABLE meta(key TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT, WITHOUT ROWID;"
    "CREATE TABLE prompts("
    " split INTEGER NOT NULL, idx INTEGER NOT NULL, prompt_ids BLOB NOT NULL,"
    " real_ids BLOB NOT NULL, rejected_ids BLOB NOT NULL, response TEXT NOT NULL,"
    " PRIMARY KEY (split, idx)) STRICT, WITHOUT ROWID;"
    "CREATE TABLE iterations("
    " iteration INTEGER PRIMARY KEY, state TEXT NOT NULL, return_state TEXT NOT NULL,"
    " reason TEXT NOT NULL, opponent BLOB NOT NULL, opponent_manifest BLOB NOT NULL,"
    " checkpoint BLOB NOT NULL, checkpoint_manifest BLOB NOT NULL, seed INTEGER NOT NULL,"
    " prompts INTEGER NOT NULL, samples_per_prompt INTEGER NOT NULL, new_pairs INTEGER NOT NULL,"
    " replay_pairs INTEGER NOT NULL, pass_order INTEGER NOT NULL, plan BLOB NOT NULL,"
    " epoch INTEGER NOT NULL, attempt INTEGER NOT NULL, steps_total INTEGER NOT NULL,"
    " created_ms INTEGER NOT NULL, started_ms INTEGER NOT NULL, generated_ms INTEGER NOT NULL,"
    " trained_ms INTEGER NOT NULL, closed_ms INTEGER NOT NULL, verdict TEXT NOT NULL,"
    " accepted INTEGER NOT NULL, summary TEXT NOT NULL, pairs_sha256 BLOB NOT NULL,"
    " pairs_chain BLOB NOT NULL) STRICT;"
    "CREATE TABLE gap_orders(iteration INTEGER PRIMARY KEY, positions BLOB NOT NULL) STRICT;"
    "CREATE TABLE results("
    " iteration INTEGER NOT NULL, work_set INTEGER NOT NULL, position INTEGER NOT NULL,"
    " prompt INTEGER NOT NULL, sample INTEGER NOT NULL, source_iteration INTEGER NOT NULL,"
    " ids BLOB NOT NULL, finish INTEGER NOT NULL, ref_real INTEGER NOT NULL,"
    " ref_generated INTEGER NOT NULL, trainer_real INTEGER, trainer_generated INTEGER,"
    " worker TEXT NOT NULL, at_ms INTEGER NOT NULL,"
    " PRIMARY KEY (iteration, work_set, position)) STRICT, WITHOUT ROWID;"
    "CREATE TABLE skips("
    " iteration INTEGER NOT NULL, prompt INTEGER NOT NULL, actor TEXT NOT NULL,"
    " at_ms INTEGER NOT NULL, PRIMARY KEY (iteration, prompt)) STRICT, WITHOUT ROWID;"
    "CREATE TABLE steps("
    " iteration INTEGER NOT NULL, step INTEGER NOT NULL, train_epoch INTEGER NOT NULL,"
    " learning_rate REAL, loss REAL, sft_loss REAL, margin REAL, margin_abs_max REAL,"
    " accuracy REAL, reward_real REAL, reward_generated REAL, logp_real REAL, logp_generated REAL,"
    " logp_real_change REAL, grad_norm REAL, pairs INTEGER NOT NULL, identical INTEGER NOT NULL,"
    " tokens INTEGER NOT NULL, milliseconds INTEGER NOT NULL, first_sight_correct REAL,"
    " first_sight_pairs INTEGER NOT NULL, skipped INTEGER NOT NULL,"
    " PRIMARY KEY (iteration, step)) STRICT, WITHOUT ROWID;"
    "CREATE TABLE checkpoints("
    " digest BLOB PRIMARY KEY, manifest BLOB NOT NULL, iteration INTEGER NOT NULL,"
    " created_ms INTEGER NOT NULL, bytes INTEGER NOT NULL, provenance TEXT NOT NULL)"
    " STRICT, WITHOUT ROWID;"
    "CREATE TABLE blob_refs("
    " owner TEXT NOT NULL, digest BLOB NOT NULL, PRIMARY KEY (owner, digest))"
    " STRICT, WITHOUT ROWID;" EVENTS_TABLE,
    /* 2: retention */
    ("ALTER TABLE checkpoints ADD COLUMN pinned INTEGER NOT NULL DEFAULT 0;"
     "ALTER TABLE checkpoints ADD COLUMN dropped_ms INTEGER NOT NULL DEFAULT 0;"),
    /* 3: the prompt that answers are sampled behind, where that is another one than training's. */
    "ALTER TABLE prompts ADD COLUMN sample_ids BLOB NOT NULL DEFAULT x'';",
    /* 4: results in the order in which they come, with an index of their keys: a thousand workers
     * write in a thousand places of the plan at once, and every page of a table in the order of
     * keys would be written again for each. What is long stands last. */
    "CREATE TABLE arrived("
    " iteration INTEGER NOT NULL, work_set INTEGER NOT NULL, position INTEGER NOT NULL,"
    " prompt INTEGER NOT NULL, sample INTEGER NOT NULL, source_iteration INTEGER NOT NULL,"
    " finish INTEGER NOT NULL, ref_real INTEGER NOT NULL, ref_generated INTEGER NOT NULL,"
    " trainer_real INTEGER, trainer_generated INTEGER, worker TEXT NOT NULL,"
    " at_ms INTEGER NOT NULL, ids BLOB NOT NULL,"
    " PRIMARY KEY (iteration, work_set, position)) STRICT;"
    "INSERT INTO arrived(iteration, work_set, position, prompt, sample, source_iteration, finish,"
    " ref_real, ref_generated, trainer_real, trainer_generated, worker, at_ms, ids)"
    " SELECT iteration, work_set, position, prompt, sample, source_iteration, finish,"
    " ref_real, ref_generated, trainer_real, trainer_generated, worker, at_ms, ids FROM results;"
    "DROP TABLE results; ALTER TABLE arrived RENAME TO results;",
    /* 5: answers in the order in which they come, apart from all that is counted and listed: what
     * goes through a million results reads a hundred bytes of each. answer 0: there is none. An
     * iteration's replayed answers may be those of the iteration before. */
    "CREATE TABLE answers(id INTEGER PRIMARY KEY, ids BLOB NOT NULL) STRICT;"
    "CREATE TABLE keyed("
    " iteration INTEGER NOT NULL, work_set INTEGER NOT NULL, position INTEGER NOT NULL,"
    " prompt INTEGER NOT NULL, sample INTEGER NOT NULL, source_iteration INTEGER NOT NULL,"
    " tokens INTEGER NOT NULL, answer INTEGER NOT NULL, finish INTEGER NOT NULL,"
    " ref_real INTEGER NOT NULL, ref_generated INTEGER NOT NULL, trainer_real INTEGER,"
    " trainer_generated INTEGER, worker TEXT NOT NULL, at_ms INTEGER NOT NULL,"
    " PRIMARY KEY (iteration, work_set, position)) STRICT, WITHOUT ROWID;"
    "INSERT INTO answers(id, ids) SELECT rowid, ids FROM results WHERE length(ids) > 0;"
    "INSERT INTO keyed(iteration, work_set, position, prompt, sample, source_iteration, tokens,"
    " answer, finish, ref_real, ref_generated, trainer_real, trainer_generated, worker, at_ms)"
    " SELECT iteration, work_set, position, prompt, sample, source_iteration, length(ids) / 4,"
    " iif(length(ids) > 0, rowid, 0), finish, ref_real, ref_generated, trainer_real,"
    " trainer_generated, worker, at_ms FROM results ORDER BY iteration, work_set, position;"
    "DROP TABLE results; ALTER TABLE keyed RENAME TO results;",
};

const struct sdb_schema sdb_control_schema = {
    .application_id = 0x53504943, /* "SPIC" */
    .what = "a coordinator's control.db",
    .migrations = control_migrations,
    .count = SP_COUNT(control_migrations),
};

const struct sdb_schema sdb_run_schema = {
    .application_id = 0x53504952, /* "SPIR" */
    .what = "a run's file",
    .migrations = run_migrations,
    .count = SP_COUNT(run_migrations),
};
