/* Taking a run away, with no coordinator running. */
#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/base/clock.h"
#include "common/base/fs.h"
#include "common/base/mem.h"
#include "coordinator/store/internal.h"

/* The log goes into the file when its last connection closes: a new run of this name must not find
 * one. */
static void close_if_open(struct store *store, const char *name)
{
    for (size_t i = 0; i < store->run_count; i++) {
        if (strcmp(store->runs[i]->name, name) != 0)
            continue;
        store_run_close(store->runs[i]);
        store->runs[i] = store->runs[--store->run_count];
        return;
    }
}

/* What comes behind "NAME.db": SQLite's own, or .vN.bak of a migration. Another run's name may
 * begin with "NAME.db.". */
static bool is_part(const char *rest)
{
    if (strcmp(rest, "-wal") == 0 || strcmp(rest, "-shm") == 0 || strcmp(rest, "-journal") == 0)
        return true;
    if (strncmp(rest, ".v", 2) != 0 || !isdigit((unsigned char)rest[2]))
        return false;
    return strcmp(rest + 2 + strspn(rest + 2, "0123456789"), ".bak") == 0;
}

static enum sp_err remove_file(const char *dir, const char *entry, struct sp_error *err)
{
    char *path = sp_path_join(dir, entry);
    enum sp_err rc = SP_OK;
    if (unlink(path) != 0 && errno != ENOENT)
        rc = sp_fail_errno(err, errno, "%s: remove", path);
    free(path);
    return rc;
}

static enum sp_err remove_files(const char *dir, const char *name, struct sp_error *err)
{
    char *stem = sp_xprintf("%s.db", name);
    size_t length = strlen(stem);
    DIR *handle = opendir(dir);
    enum sp_err rc = handle ? SP_OK : sp_fail_errno(err, errno, "%s", dir);
    /* The file itself last: while it is there, all of it may be asked for again. */
    for (struct dirent *entry; rc == SP_OK && (entry = readdir(handle)) != NULL;) {
        if (strncmp(entry->d_name, stem, length) == 0 && is_part(entry->d_name + length))
            rc = remove_file(dir, entry->d_name, err);
    }
    if (handle)
        closedir(handle);
    if (rc == SP_OK)
        rc = remove_file(dir, stem, err);
    if (rc == SP_OK)
        rc = sp_fsync_dir(dir, err);
    free(stem);
    return rc;
}

static enum sp_err remove_row(struct store *store, const char *name, struct sp_error *err)
{
    char text[128];
    snprintf(text, sizeof(text), "run %s is removed", name);
    const struct store_event event = {.at_ms = sp_wall_ms(),
                                      .iteration = -1,
                                      .actor = "coordinator",
                                      .kind = "run",
                                      .text = text,
                                      .detail = ""};
    store_begin(store);
    enum sp_err rc = sdb_write(store->control, err);
    if (rc == SP_OK)
        rc = sdb_run(store->control, "DELETE FROM runs WHERE name = ?1", NULL, err, "t", name);
    if (rc == SP_OK)
        rc = store_event_append(store, NULL, &event, err);
    if (rc == SP_OK)
        return store_commit(store, err);
    store_rollback(store);
    return rc;
}

enum sp_err store_run_remove(struct store *store, const char *name, struct sp_error *err)
{
    SP_ASSERT(!store->write_window && !store->readonly);
    bool known = false;
    enum sp_err rc = store_run_known(store, name, &known, err);
    if (rc == SP_OK && !known)
        rc = sp_fail(err, SP_ENOTFOUND, "no run \"%.80s\" in %s", name, store->dir);
    if (rc != SP_OK)
        return rc;
    char *dir = sp_path_join(store->dir, "runs");
    close_if_open(store, name);
    rc = remove_files(dir, name, err);
    if (rc == SP_OK)
        rc = remove_row(store, name, err);
    free(dir);
    return rc;
}
