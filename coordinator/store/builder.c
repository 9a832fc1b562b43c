/* Making a run's file aside, and reading what it fixed: the run's row, its prompts. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/base/fs.h"
#include "common/base/limits.h"
#include "common/base/mem.h"
#include "coordinator/store/internal.h"

struct store_builder {
    char *path, *dir, *name;
    struct sdb *db;
    struct sp_sha256 *data_hash; /* over every prompt, in the order of adding */
    struct sp_digest data;       /* what it came to; zero: more may be added */
    uint32_t prompts[STORE_SPLITS];
    bool finished;
};

/* O_EXCL decides between two create-runs of one name; SQLite takes the empty file as a new one. */
static enum sp_err create_empty(const char *path, const char *name, struct sp_error *err)
{
    int fd = open(path, O_CREAT | O_EXCL | O_WRONLY | O_CLOEXEC, 0600);
    if (fd >= 0) {
        close(fd);
        return SP_OK;
    }
    if (errno == EEXIST)
        return sp_fail(err, SP_EUNAVAIL, "run %s is being created by another request", name);
    return sp_fail_errno(err, errno, "%s: create", path);
}

/* Every run has a file that is open while the coordinator runs. */
static enum sp_err check_room(const char *state_dir, const char *name, struct sp_error *err)
{
    char *path = sp_path_join(state_dir, "runs");
    DIR *dir = opendir(path);
    enum sp_err rc = dir == NULL ? sp_fail_errno(err, errno, "%s", path) : SP_OK;
    uint32_t count = 0;
    for (struct dirent *entry; dir != NULL && (entry = readdir(dir)) != NULL;) {
        const char *dot = strrchr(entry->d_name, '.');
        count += dot != NULL && strcmp(dot, ".db") == 0;
    }
    if (dir != NULL)
        closedir(dir);
    if (count >= SP_MAX_RUNS)
        rc = sp_fail(err, SP_ELIMIT,
                     "run %s: there are %u runs, evaluations among them, and a coordinator has at "
                     "most %d: `spinctl remove-run` takes one out",
                     name, count, SP_MAX_RUNS);
    free(path);
    return rc;
}

enum sp_err store_builder_open(const char *state_dir, const char *name,
                               const struct store_options *options, struct store_builder **ret,
                               struct sp_error *err)
{
    if (!sp_run_name_is_good(name))
        return sp_fail(err, SP_EINVAL, "\"%.80s\" is not a name for a run", name);
    char *run_path = store_run_path(state_dir, name, "");
    bool there = sp_path_exists(run_path);
    free(run_path);
    if (there)
        return sp_fail(err, SP_EEXIST, "run %s exists already", name);
    enum sp_err rc = check_room(state_dir, name, err);
    if (rc != SP_OK)
        return rc;
    char *path = store_run_path(state_dir, name, ".new");
    rc = create_empty(path, name, err);
    if (rc != SP_OK) {
        free(path);
        return rc;
    }
    struct store_builder *builder = sp_xalloc(sizeof(*builder));
    builder->path = path;
    builder->dir = sp_path_join(state_dir, "runs");
    builder->name = sp_xstrdup(name);
    builder->data_hash = sp_sha256_new();
    struct sdb_options db_options = {
        .vfs = options ? options->vfs : NULL, .create = true, .scratch = true};
    rc = sdb_open(path, &sdb_run_schema, &db_options, &builder->db, err);
    if (rc == SP_OK)
        rc = sdb_write(builder->db, err);
    if (rc != SP_OK) {
        store_builder_free(builder);
        return rc;
    }
    *ret = builder;
    return SP_OK;
}

static void hash_ids(struct sp_sha256 *hash, const struct proto_ids *ids)
{
    sp_sha256_update(hash, &ids->count, sizeof(ids->count));
    sp_sha256_update(hash, ids->ids, (size_t)ids->count * sizeof(int32_t));
}

enum sp_err store_builder_add(struct store_builder *builder, enum store_split split,
                              const struct store_prompt *prompt, struct sp_error *err)
{
    SP_ASSERT((unsigned)split < STORE_SPLITS && prompt->index == builder->prompts[split] &&
              sp_digest_is_zero(&builder->data));
    if (prompt->index >= SP_MAX_DATASET_ROWS)
        return sp_fail(err, SP_ELIMIT, "more than %d prompts", SP_MAX_DATASET_ROWS);
    const char *response = prompt->response ? prompt->response : "";
    enum sp_err rc =
        sdb_run(builder->db,
                "INSERT INTO prompts(split, idx, prompt_ids, real_ids, rejected_ids,"
                " response, sample_ids) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
                NULL, err, "iinnntn", (int64_t)split, (int64_t)prompt->index, &prompt->prompt_ids,
                &prompt->real_ids, &prompt->rejected_ids, response, &prompt->sample_ids);
    if (rc != SP_OK)
        return rc;
    uint32_t head[2] = {(uint32_t)split, prompt->index};
    sp_sha256_update(builder->data_hash, head, sizeof(head));
    hash_ids(builder->data_hash, &prompt->prompt_ids);
    hash_ids(builder->data_hash, &prompt->real_ids);
    hash_ids(builder->data_hash, &prompt->rejected_ids);
    if (prompt->sample_ids.count > 0)
        hash_ids(builder->data_hash, &prompt->sample_ids);
    sp_sha256_update(builder->data_hash, response, strlen(response) + 1);
    builder->prompts[split]++;
    return SP_OK;
}

enum sp_err store_builder_given(struct store_builder *builder, uint32_t iteration, uint32_t index,
                                const struct proto_ids *answer, struct sp_error *err)
{
    struct store_run run = {.name = builder->name, .db = builder->db};
    struct store_result result = {
        .iteration = iteration,
        .set = PROTO_SET_TRAIN,
        .position = index,
        .prompt = index,
        .source_iteration = iteration,
        .ids = *answer,
        .finish = PROTO_FINISH_STOP,
        .ref_real = NAN,
        .ref_generated = NAN,
        .worker = STORE_GIVEN,
    };
    enum store_put put;
    enum sp_err rc = store_result_put(&run, &result, &put, err);
    if (rc != SP_OK)
        return rc;
    uint32_t head[2] = {STORE_SPLITS + iteration, index};
    sp_sha256_update(builder->data_hash, head, sizeof(head));
    hash_ids(builder->data_hash, answer);
    return SP_OK;
}

void store_builder_digest(struct store_builder *builder, struct sp_digest *ret)
{
    if (sp_digest_is_zero(&builder->data))
        sp_sha256_final(builder->data_hash, &builder->data);
    *ret = builder->data;
}

enum sp_err store_builder_meta(struct store_builder *builder, const char *key, const char *value,
                               struct sp_error *err)
{
    struct store_run run = {.name = builder->name, .db = builder->db};
    return store_meta_put(&run, key, value, err);
}

enum sp_err store_builder_iteration(struct store_builder *builder,
                                    const struct store_iteration *iteration, struct sp_error *err)
{
    struct store_run run = {.name = builder->name, .db = builder->db};
    return store_iteration_put(&run, iteration, err);
}

enum sp_err store_builder_refs(struct store_builder *builder, const char *owner,
                               const struct sp_digest *digests, size_t count, struct sp_error *err)
{
    struct store_run run = {.name = builder->name, .db = builder->db};
    return store_blob_refs_add(&run, owner, digests, count, err);
}

static enum sp_err write_info(struct store_builder *builder, const struct store_run_info *info,
                              const struct sp_digest *data_digest, struct sp_error *err)
{
    return sdb_run(builder->db,
                   "INSERT INTO info(id, name, created_ms, settings, base, base_manifest, data,"
                   " data_digest, train_prompts, holdout_prompts, eval_prompts)"
                   " VALUES (1, ?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)",
                   NULL, err, "titggtgiii", builder->name, info->created_ms, info->settings,
                   &info->base, &info->base_manifest, info->data, data_digest,
                   (int64_t)builder->prompts[STORE_SPLIT_TRAIN],
                   (int64_t)builder->prompts[STORE_SPLIT_HOLDOUT],
                   (int64_t)builder->prompts[STORE_SPLIT_EVAL]);
}

enum sp_err store_builder_finish(struct store_builder *builder, const struct store_run_info *info,
                                 struct sp_error *err)
{
    SP_ASSERT(!builder->finished && strcmp(info->name, builder->name) == 0);
    struct sp_digest data_digest;
    store_builder_digest(builder, &data_digest);
    enum sp_err rc = write_info(builder, info, &data_digest, err);
    struct store_run run = {.name = builder->name, .db = builder->db};
    struct store_checkpoint base = {
        .digest = info->base,
        .manifest = info->base_manifest,
        .iteration = -1,
        .created_ms = info->created_ms,
        .bytes = info->base_bytes,
        .provenance = "{\"base\":true}",
    };
    char text[160];
    snprintf(text, sizeof(text), "created with %u training, %u held-out and %u evaluation prompts",
             builder->prompts[STORE_SPLIT_TRAIN], builder->prompts[STORE_SPLIT_HOLDOUT],
             builder->prompts[STORE_SPLIT_EVAL]);
    struct store_event created = {.at_ms = info->created_ms,
                                  .iteration = -1,
                                  .actor = "coordinator",
                                  .kind = "audit",
                                  .text = text};
    if (rc == SP_OK)
        rc = store_checkpoint_put(&run, &base, err);
    if (rc == SP_OK)
        rc = store_db_event_append(builder->db, &created, err);
    if (rc == SP_OK)
        rc = sdb_commit(builder->db, err);
    if (rc != SP_OK)
        return rc;
    sdb_close(builder->db);
    builder->db = NULL;
    rc = sp_fsync_path(builder->path, err);
    if (rc == SP_OK)
        rc = sp_fsync_dir(builder->dir, err);
    builder->finished = rc == SP_OK;
    return rc;
}

void store_builder_free(struct store_builder *builder)
{
    if (builder == NULL)
        return;
    sdb_close(builder->db);
    if (!builder->finished)
        (void)unlink(builder->path);
    sp_sha256_free(builder->data_hash);
    free(builder->path);
    free(builder->dir);
    free(builder->name);
    free(builder);
}

/* ---- reading ---- */

enum sp_err store_run_info(struct store_run *run, struct sp_arena *arena,
                           struct store_run_info *ret, struct sp_error *err)
{
    sqlite3_stmt *statement = NULL;
    bool have = false;
    enum sp_err rc =
        sdb_query(run->db,
                  "SELECT name, created_ms, settings, base, base_manifest, data,"
                  " data_digest, train_prompts, holdout_prompts, eval_prompts FROM info",
                  &statement, err, "");
    if (rc == SP_OK)
        rc = sdb_step(run->db, statement, &have, err);
    if (rc == SP_OK && !have)
        rc = sp_fail(err, SP_ECORRUPT, "%s: table info is empty", run->db->path);
    if (rc == SP_OK) {
        struct store_run_info info = {0};
        struct sdb_row row = sdb_row(run->db, statement, arena, "info");
        info.name = sdb_text(&row);
        info.created_ms = sdb_i64(&row, INT64_MIN, INT64_MAX);
        info.settings = sdb_text(&row);
        sdb_digest(&row, &info.base);
        sdb_digest(&row, &info.base_manifest);
        info.data = sdb_text(&row);
        sdb_digest(&row, &info.data_digest);
        for (int i = 0; i < STORE_SPLITS; i++)
            info.prompts[i] = (uint32_t)sdb_u64(&row, SP_MAX_DATASET_ROWS);
        rc = sdb_row_end(&row, err);
        if (rc == SP_OK)
            *ret = info;
    }
    sdb_done(statement);
    return rc;
}

enum sp_err store_meta_put(struct store_run *run, const char *key, const char *value,
                           struct sp_error *err)
{
    enum sp_err rc = sdb_write(run->db, err);
    if (rc != SP_OK)
        return rc;
    if (value == NULL)
        return sdb_run(run->db, "DELETE FROM meta WHERE key = ?1", NULL, err, "t", key);
    return sdb_run(run->db,
                   "INSERT INTO meta(key, value) VALUES (?1, ?2)"
                   " ON CONFLICT(key) DO UPDATE SET value = excluded.value",
                   NULL, err, "tt", key, value);
}

enum sp_err store_meta_get(struct store_run *run, const char *key, struct sp_arena *arena,
                           const char **ret, struct sp_error *err)
{
    sqlite3_stmt *statement = NULL;
    bool have = false;
    enum sp_err rc =
        sdb_query(run->db, "SELECT value FROM meta WHERE key = ?1", &statement, err, "t", key);
    if (rc == SP_OK)
        rc = sdb_step(run->db, statement, &have, err);
    const char *value = "";
    if (rc == SP_OK && have) {
        struct sdb_row row = sdb_row(run->db, statement, arena, "meta");
        value = sdb_text(&row);
        rc = sdb_row_end(&row, err);
    }
    sdb_done(statement);
    if (rc == SP_OK)
        *ret = value;
    return rc;
}

enum sp_err store_prompts_get(struct store_run *run, enum store_split split, uint32_t first,
                              uint32_t count, struct sp_arena *arena, struct store_prompt *ret,
                              struct sp_error *err)
{
    sqlite3_stmt *statement = NULL;
    enum sp_err rc =
        sdb_query(run->db,
                  "SELECT split, idx, prompt_ids, real_ids, rejected_ids, response, sample_ids"
                  " FROM prompts WHERE split = ?1 AND idx >= ?2 ORDER BY idx LIMIT ?3",
                  &statement, err, "iii", (int64_t)split, (int64_t)first, (int64_t)count);
    for (uint32_t i = 0; i < count && rc == SP_OK; i++) {
        bool have = false;
        rc = sdb_step(run->db, statement, &have, err);
        if (rc != SP_OK)
            break;
        if (!have) {
            rc = sp_fail(err, SP_ENOTFOUND, "run %s: no prompt %u in split %d", run->name,
                         first + i, (int)split);
            break;
        }
        struct sdb_row row = sdb_row(run->db, statement, arena, "prompts");
        row.next = 1;
        ret[i] = (struct store_prompt){0};
        ret[i].index = (uint32_t)sdb_u64(&row, UINT32_MAX);
        ret[i].prompt_ids = sdb_ids(&row);
        ret[i].real_ids = sdb_ids(&row);
        ret[i].rejected_ids = sdb_ids(&row);
        ret[i].response = sdb_text(&row);
        ret[i].sample_ids = sdb_ids(&row);
        if (ret[i].index != first + i && row.bad < 0)
            row.bad = 1;
        rc = sdb_row_end(&row, err);
    }
    sdb_done(statement);
    return rc;
}

enum sp_err store_prompt_lengths(struct store_run *run, enum store_split split, uint64_t *ret,
                                 struct sp_error *err)
{
    sqlite3_stmt *statement = NULL;
    enum sp_err rc = sdb_query(run->db,
                               "SELECT idx, (length(prompt_ids) + length(real_ids)) / 4"
                               " FROM prompts WHERE split = ?1 ORDER BY idx",
                               &statement, err, "i", (int64_t)split);
    for (int64_t i = 0; rc == SP_OK; i++) {
        bool have = false;
        rc = sdb_step(run->db, statement, &have, err);
        if (rc != SP_OK || !have)
            break;
        struct sdb_row row = sdb_row(run->db, statement, NULL, "prompts");
        (void)sdb_i64(&row, i, i);
        ret[i] = sdb_u64(&row, INT64_MAX);
        rc = sdb_row_end(&row, err);
    }
    sdb_done(statement);
    return rc;
}
