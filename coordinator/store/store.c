/* The state directory: lock, control.db, run files, transactions over them. */
#include "coordinator/store/store.h"

#include <dirent.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/base/clock.h"
#include "common/base/fs.h"
#include "common/base/limits.h"
#include "common/base/log.h"
#include "common/base/mem.h"
#include "coordinator/store/internal.h"

char *store_run_path(const char *state_dir, const char *name, const char *suffix)
{
    return sp_xprintf("%s/runs/%s.db%s", state_dir, name, suffix);
}

static enum sp_err open_control(struct store *store, struct sp_error *err)
{
    char *path = sp_path_join(store->dir, "control.db");
    struct sdb_options options = {
        .vfs = store->options.vfs,
        .create = !store->readonly,
        .readonly = store->readonly,
        .check = !store->readonly && !store->options.skip_check,
    };
    enum sp_err rc = sdb_open(path, &sdb_control_schema, &options, &store->control, err);
    if (rc == SP_OK)
        store->control->write_window = &store->write_window;
    free(path);
    return rc;
}

/* A control.db without anything in it beside files of runs: it was lost or replaced. Taking the
 * runs in would hide that tokens and the list of runs are gone. */
static enum sp_err check_not_lost(struct store *store, const char *entry, struct sp_error *err)
{
    sqlite3_stmt *statement = NULL;
    bool have = false;
    enum sp_err rc = sdb_query(store->control,
                               "SELECT 1 FROM runs UNION ALL SELECT 1 FROM tokens"
                               " UNION ALL SELECT 1 FROM events LIMIT 1",
                               &statement, err, "");
    if (rc == SP_OK)
        rc = sdb_step(store->control, statement, &have, err);
    sdb_done(statement);
    if (rc == SP_OK && !have)
        rc = sp_fail(err, SP_ESTATE,
                     "%s/control.db is empty, but there is runs/%.80s: restore it from a backup; "
                     "to begin with new tokens, move runs/ aside, start once, stop, and move it "
                     "back",
                     store->dir, entry);
    return rc;
}

static bool has_suffix(const char *text, const char *suffix)
{
    size_t n = strlen(text), m = strlen(suffix);
    return n >= m && strcmp(text + n - m, suffix) == 0;
}

static enum sp_err insert_run(struct store *store, const char *name, bool *ret_new,
                              struct sp_error *err)
{
    enum sp_err rc = sdb_write(store->control, err);
    int changes = 0;
    if (rc == SP_OK)
        rc = sdb_run(store->control,
                     "INSERT INTO runs(name, created_ms) VALUES (?1, ?2) ON CONFLICT DO NOTHING",
                     &changes, err, "ti", name, sp_wall_ms());
    if (rc == SP_OK)
        *ret_new = changes == 1;
    return rc;
}

/* One entry of runs/: left-overs of unfinished create-runs go; a run's file without a row, which a
 * power loss between rename and COMMIT leaves, becomes a run. */
static enum sp_err sort_out(struct store *store, const char *entry, struct sp_error *err)
{
    if (has_suffix(entry, ".db.new") || strstr(entry, ".db.new-")) {
        char *path = sp_xprintf("%s/runs/%s", store->dir, entry);
        enum sp_err rc = SP_OK;
        if (unlink(path) != 0 && errno != ENOENT)
            rc = sp_fail_errno(err, errno, "%s: remove", path);
        free(path);
        return rc;
    }
    if (!has_suffix(entry, ".db"))
        return SP_OK;
    char *name = sp_xstrndup(entry, strlen(entry) - 3);
    bool is_new = false, is_run = sp_run_name_is_good(name);
    enum sp_err rc = is_run ? check_not_lost(store, entry, err) : SP_OK;
    if (rc == SP_OK && is_run)
        rc = insert_run(store, name, &is_new, err);
    if (is_new)
        sp_info("run %s found without a row in control.db: taken in", name);
    free(name);
    return rc;
}

static enum sp_err sort_out_runs(struct store *store, struct sp_error *err)
{
    char *path = sp_path_join(store->dir, "runs");
    enum sp_err rc = sp_mkdir_p(path, 0700, err);
    DIR *dir = rc == SP_OK ? opendir(path) : NULL;
    if (rc == SP_OK && dir == NULL)
        rc = sp_fail_errno(err, errno, "%s", path);
    store_begin(store);
    for (struct dirent *entry; rc == SP_OK && (entry = readdir(dir)) != NULL;)
        rc = sort_out(store, entry->d_name, err);
    if (rc == SP_OK)
        rc = store_commit(store, err);
    else
        store_rollback(store);
    if (dir)
        closedir(dir);
    free(path);
    return rc;
}

static enum sp_err remove_temporary(struct store *store, struct sp_error *err)
{
    char *path = sp_path_join(store->dir, "tmp");
    enum sp_err rc = sp_remove_tree(path, err);
    free(path);
    return rc;
}

static struct store *new_store(const char *state_dir, const struct store_options *options,
                               bool readonly)
{
    struct store *store = sp_xalloc(sizeof(*store));
    store->dir = sp_xstrdup(state_dir);
    if (options)
        store->options = *options;
    store->readonly = readonly;
    store->lock_fd = -1;
    return store;
}

enum sp_err store_open(const char *state_dir, const struct store_options *options,
                       struct store **ret, struct sp_error *err)
{
    struct store *store = new_store(state_dir, options, false);
    enum sp_err rc = sp_mkdir_p(state_dir, 0700, err);
    if (rc == SP_OK && sp_is_network_fs(state_dir))
        rc = sp_fail(err, SP_EUNSUPPORTED,
                     "%s is on a network file system, whose locks and fsync cannot be trusted: put "
                     "the state directory on a local disk",
                     state_dir);
    if (rc == SP_OK && !store->options.unlocked)
        rc = sp_lock_dir(state_dir, &store->lock_fd, err);
    if (rc == SP_OK)
        rc = remove_temporary(store, err);
    if (rc == SP_OK)
        rc = open_control(store, err);
    if (rc == SP_OK)
        rc = sort_out_runs(store, err);
    if (rc == SP_OK)
        rc = store_forget_workers(store, err);
    if (rc == SP_OK)
        rc = sp_fsync_dir(state_dir, err);
    if (rc != SP_OK) {
        store_close(store);
        return rc;
    }
    *ret = store;
    return SP_OK;
}

enum sp_err store_open_reader(const char *state_dir, const struct store_options *options,
                              struct store **ret, struct sp_error *err)
{
    struct store *store = new_store(state_dir, options, true);
    enum sp_err rc = open_control(store, err);
    if (rc != SP_OK) {
        store_close(store);
        return rc;
    }
    *ret = store;
    return SP_OK;
}

void store_run_close(struct store_run *run)
{
    sdb_close(run->db);
    free(run->name);
    free(run);
}

void store_close(struct store *store)
{
    if (store == NULL)
        return;
    store_rollback(store);
    for (size_t i = 0; i < store->run_count; i++)
        store_run_close(store->runs[i]);
    free(store->runs);
    sdb_close(store->control);
    if (store->lock_fd >= 0)
        close(store->lock_fd);
    free(store->dir);
    free(store);
}

const char *store_dir(const struct store *store)
{
    return store->dir;
}

/* ---- transactions ---- */

void store_begin(struct store *store)
{
    SP_ASSERT(!store->readonly && !store->write_window);
    store->write_window = true;
}

enum sp_err store_commit(struct store *store, struct sp_error *err)
{
    SP_ASSERT(store->write_window);
    enum sp_err rc = SP_OK;
    for (size_t i = 0; i < store->run_count && rc == SP_OK; i++)
        rc = sdb_commit(store->runs[i]->db, err);
    if (rc == SP_OK)
        rc = sdb_commit(store->control, err);
    if (rc == SP_OK)
        store->write_window = false;
    return rc == SP_OK ? SP_OK : sp_wrap(err, rc, "commit");
}

void store_rollback(struct store *store)
{
    for (size_t i = 0; i < store->run_count; i++)
        sdb_rollback(store->runs[i]->db);
    if (store->control)
        sdb_rollback(store->control);
    store->write_window = false;
}

bool store_in_transaction(const struct store *store)
{
    return store->write_window;
}

/* ---- runs ---- */

static void read_run_name(struct sdb_row *row, void *ret)
{
    const char *name = sdb_text(row);
    if (!sp_run_name_is_good(name))
        row->bad = 0;
    *(const char **)ret = name;
}
static const struct sdb_row_kind run_name_rows = {"runs", sizeof(const char *), read_run_name};

enum sp_err store_runs_list(struct store *store, struct sp_arena *arena, const char ***ret_names,
                            size_t *ret_count, struct sp_error *err)
{
    sqlite3_stmt *statement = NULL;
    enum sp_err rc =
        sdb_query(store->control, "SELECT name FROM runs ORDER BY id", &statement, err, "");
    if (rc == SP_OK)
        rc = sdb_rows(store->control, statement, &run_name_rows, arena, ret_names, ret_count, err);
    return rc;
}

enum sp_err store_run_known(struct store *store, const char *name, bool *ret, struct sp_error *err)
{
    sqlite3_stmt *statement = NULL;
    enum sp_err rc = sdb_query(store->control, "SELECT id FROM runs WHERE name = ?1", &statement,
                               err, "t", name);
    if (rc == SP_OK)
        rc = sdb_step(store->control, statement, ret, err);
    sdb_done(statement);
    return rc;
}

/* The file must be the run that its name says: two files exchanged by hand would mix up runs. */
static enum sp_err check_run_name(struct store_run *run, struct sp_error *err)
{
    sqlite3_stmt *statement = NULL;
    bool have = false;
    enum sp_err rc = sdb_query(run->db, "SELECT name FROM info", &statement, err, "");
    if (rc == SP_OK)
        rc = sdb_step(run->db, statement, &have, err);
    if (rc == SP_OK && !have)
        rc = sp_fail(err, SP_ECORRUPT, "%s: table info is empty: restore it from a backup",
                     run->db->path);
    if (rc == SP_OK) {
        const char *name = (const char *)sqlite3_column_text(statement, 0);
        if (name == NULL || strcmp(name, run->name) != 0)
            rc =
                sp_fail(err, SP_ECORRUPT, "%s: holds run \"%.80s\", not \"%s\": files were renamed",
                        run->db->path, name ? name : "", run->name);
    }
    sdb_done(statement);
    return rc;
}

enum sp_err store_run_open(struct store *store, const char *name, struct store_run **ret,
                           struct sp_error *err)
{
    for (size_t i = 0; i < store->run_count; i++) {
        if (strcmp(store->runs[i]->name, name) == 0) {
            *ret = store->runs[i];
            return SP_OK;
        }
    }
    bool known = false;
    enum sp_err rc = store_run_known(store, name, &known, err);
    if (rc == SP_OK && !known)
        rc = sp_fail(err, SP_ENOTFOUND, "no run \"%.80s\": `spinctl status` lists them", name);
    if (rc != SP_OK)
        return rc;
    struct store_run *run = sp_xalloc(sizeof(*run));
    run->store = store;
    run->name = sp_xstrdup(name);
    char *path = store_run_path(store->dir, name, "");
    struct sdb_options options = {
        .vfs = store->options.vfs,
        .readonly = store->readonly,
        .check = !store->readonly && !store->options.skip_check,
    };
    rc = sdb_open(path, &sdb_run_schema, &options, &run->db, err);
    free(path);
    if (rc == SP_OK) {
        run->db->write_window = &store->write_window;
        rc = check_run_name(run, err);
    }
    if (rc != SP_OK) {
        store_run_close(run);
        return sp_wrap(err, rc, "run %s", name);
    }
    store->runs = sp_xgrow(store->runs, store->run_count + 1, sizeof(*store->runs));
    store->runs[store->run_count++] = run;
    *ret = run;
    return SP_OK;
}

enum sp_err store_run_adopt(struct store *store, const char *name, struct sp_error *err)
{
    SP_ASSERT(store->write_window);
    if (!sp_run_name_is_good(name))
        return sp_fail(err, SP_EINVAL, "\"%.80s\" is not a name for a run", name);
    char *from = store_run_path(store->dir, name, ".new");
    char *to = store_run_path(store->dir, name, "");
    bool is_new = false;
    enum sp_err rc = SP_OK;
    if (sp_path_exists(to))
        rc = sp_fail(err, SP_EEXIST, "run %s exists already", name);
    else if (!sp_path_exists(from))
        rc = sp_fail(err, SP_ENOTFOUND, "run %s: its file is not finished", name);
    else
        rc = sp_rename_durable(from, to, err);
    if (rc == SP_OK)
        rc = insert_run(store, name, &is_new, err);
    free(from);
    free(to);
    return rc;
}

/* ---- copies ---- */

enum sp_err store_copy_control(struct store *store, const char *path, struct sp_error *err)
{
    SP_ASSERT(!store->write_window);
    return sdb_copy_to(store->control, path, err);
}

enum sp_err store_copy_run(struct store_run *run, const char *path, struct sp_error *err)
{
    SP_ASSERT(!run->store->write_window);
    return sdb_copy_to(run->db, path, err);
}

enum sp_err store_check_copy(const char *path, const char *name,
                             bool (*each)(void *context, const struct sp_digest *digest),
                             void *context, struct sp_error *err)
{
    struct store_run run = {.name = (char *)name};
    struct sdb_options options = {.check = true};
    const struct sdb_schema *schema = name ? &sdb_run_schema : &sdb_control_schema;
    enum sp_err rc = sdb_open(path, schema, &options, &run.db, err);
    if (rc == SP_OK && name)
        rc = check_run_name(&run, err);
    if (rc == SP_OK && name && each)
        rc = store_blob_refs_each(&run, each, context, err);
    sdb_close(run.db);
    return rc;
}

const char *store_run_name(const struct store_run *run)
{
    return run->name;
}
