#include "coordinator/backup.h"

#include <dirent.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/base/fs.h"
#include "common/base/json.h"
#include "common/base/limits.h"
#include "common/base/mem.h"

#define FORMAT "spin-backup"
#define FORMAT_VERSION 1
#define MAX_MANIFEST ((size_t)512 << 20) /* manifest.json: 67 bytes a blob */

/* A missing directory is made; one with something in it is refused. */
static enum sp_err need_empty(const char *dir, const char *what, struct sp_error *err)
{
    enum sp_err rc = sp_mkdir_p(dir, 0700, err);
    if (rc != SP_OK)
        return rc;
    DIR *handle = opendir(dir);
    if (handle == NULL)
        return sp_fail_errno(err, errno, "%s", dir);
    for (struct dirent *entry; rc == SP_OK && (entry = readdir(handle)) != NULL;) {
        if (strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0)
            rc = sp_fail(err, SP_EEXIST, "%s: not empty (\"%.100s\"): name a new directory for %s",
                         dir, entry->d_name, what);
    }
    closedir(handle);
    return rc;
}

/* ---- backup ---- */

struct coord_backup {
    char *dir;
    int64_t at_ms;
    struct sp_arena *arena;
    const char **names; /* of the runs; in the arena */
    size_t count;
    struct ckpt_blobs *from, *to;
    json_t *files, *blobs; /* of manifest.json */
    struct coord_backup_report report;
    bool (*cancelled)(void *context);
    void *context;
    struct sp_error *err;
    enum sp_err rc; /* of a blob */
};

/* Digest of a file already below DIR. */
static enum sp_err list_file(struct coord_backup *b, const char *name, struct sp_error *err)
{
    struct sp_digest digest;
    char hex[SP_DIGEST_HEX];
    uint64_t bytes = 0;
    char *path = sp_path_join(b->dir, name);
    enum sp_err rc = sp_sha256_file(path, &digest, &bytes, err);
    if (rc == SP_OK) {
        sp_digest_hex(&digest, hex);
        json_array_append_new(b->files, json_pack("{s:s, s:s, s:I}", "path", name, "sha256", hex,
                                                  "bytes", (json_int_t)bytes));
        b->report.bytes += bytes;
    }
    free(path);
    return rc;
}

static bool copy_blob(void *context, const struct sp_digest *digest)
{
    struct coord_backup *b = context;
    char hex[SP_DIGEST_HEX];
    uint8_t *data = NULL;
    size_t length = 0;
    if (ckpt_blobs_has(b->to, digest)) /* another run refers to it, too */
        return true;
    if (b->cancelled && b->cancelled(b->context)) {
        b->rc = sp_fail(b->err, SP_ECANCELED, "the coordinator stops: %s is not complete", b->dir);
        return false;
    }
    b->rc = ckpt_blobs_get(b->from, digest, &data, &length, b->err);
    if (b->rc == SP_OK)
        b->rc = ckpt_blobs_put(b->to, digest, data, length, b->err);
    free(data);
    if (b->rc != SP_OK)
        return false;
    sp_digest_hex(digest, hex);
    json_array_append_new(b->blobs, json_string(hex));
    b->report.blobs++;
    b->report.bytes += length;
    return true;
}

static char *run_file(const struct coord_backup *b, const char *name, char **ret_relative)
{
    *ret_relative = sp_xprintf("runs/%s.db", name);
    return sp_path_join(b->dir, *ret_relative);
}

static enum sp_err copy_run(struct coord_backup *b, struct store *store, const char *name,
                            struct sp_error *err)
{
    struct store_run *run = NULL;
    char *relative, *path = run_file(b, name, &relative);
    enum sp_err rc = store_run_open(store, name, &run, err);
    if (rc == SP_OK)
        rc = store_copy_run(run, path, err);
    free(relative);
    free(path);
    return rc == SP_OK ? SP_OK : sp_wrap(err, rc, "run %s", name);
}

/* The references of the copy, not of the live file: they are what the copy needs. The check turns
 * the copy into a file with a write-ahead log, so its digest is taken after it. */
static enum sp_err finish_run(struct coord_backup *b, const char *name, struct sp_error *err)
{
    char *relative, *path = run_file(b, name, &relative);
    enum sp_err rc = store_check_copy(path, name, copy_blob, b, err);
    if (rc == SP_OK)
        rc = b->rc;
    if (rc == SP_OK)
        rc = list_file(b, relative, err);
    b->report.runs += rc == SP_OK;
    free(relative);
    free(path);
    return rc == SP_OK ? SP_OK : sp_wrap(err, rc, "run %s", name);
}

static enum sp_err finish_control(struct coord_backup *b, struct sp_error *err)
{
    char *path = sp_path_join(b->dir, "control.db");
    enum sp_err rc = store_check_copy(path, NULL, NULL, NULL, err);
    if (rc == SP_OK)
        rc = list_file(b, "control.db", err);
    free(path);
    return rc;
}

static enum sp_err write_manifest(struct coord_backup *b, struct sp_error *err)
{
    json_t *manifest =
        json_pack("{s:s, s:i, s:I, s:s, s:O, s:O}", "format", FORMAT, "version", FORMAT_VERSION,
                  "created_ms", (json_int_t)b->at_ms, "made_by", "spin-coordinator " SPIN_VERSION,
                  "files", b->files, "blobs", b->blobs);
    char *text = sp_json_canonical(manifest);
    char *path = sp_path_join(b->dir, "manifest.json");
    enum sp_err rc = sp_write_file_durable(path, text, strlen(text), 0600, err);
    free(path);
    free(text);
    json_decref(manifest);
    return rc;
}

/* Who asks is an administrator, often root: what may be written is the coordinator's matter. */
static enum sp_err say_whose(enum sp_err rc, struct sp_error *err)
{
    struct sp_error cause = *err;
    return sp_fail(err, rc,
                   "%.700s (the coordinator writes it, where its service may: as the unit is, "
                   "below /var/backups/spin)",
                   cause.text);
}

enum sp_err coord_backup_begin(struct store *store, struct ckpt_blobs *blobs, const char *dir,
                               int64_t now_ms, struct coord_backup **ret, struct sp_error *err)
{
    struct coord_backup *b = sp_xalloc(sizeof(*b));
    char *runs = sp_path_join(dir, "runs"), *control = sp_path_join(dir, "control.db");
    b->dir = sp_xstrdup(dir);
    b->from = blobs;
    ckpt_blobs_hold(blobs);
    b->at_ms = now_ms;
    b->arena = sp_arena_new(4096, 16 << 20);
    b->files = json_array();
    b->blobs = json_array();
    enum sp_err rc = need_empty(dir, "the backup", err);
    if (rc == SP_EDENIED || rc == SP_EIO)
        rc = say_whose(rc, err);
    if (rc == SP_OK)
        rc = sp_mkdir_p(runs, 0700, err);
    if (rc == SP_OK)
        rc = store_runs_list(store, b->arena, &b->names, &b->count, err);
    for (size_t i = 0; i < b->count && rc == SP_OK; i++)
        rc = copy_run(b, store, b->names[i], err);
    if (rc == SP_OK)
        rc = store_copy_control(store, control, err);
    free(runs);
    free(control);
    if (rc == SP_OK) {
        *ret = b;
        return SP_OK;
    }
    coord_backup_free(b);
    return sp_wrap(err, rc, "backup");
}

enum sp_err coord_backup_end(struct coord_backup *b, bool (*cancelled)(void *context),
                             void *context, struct coord_backup_report *ret, struct sp_error *err)
{
    char *runs = sp_path_join(b->dir, "runs");
    b->err = err;
    b->cancelled = cancelled;
    b->context = context;
    enum sp_err rc = ckpt_blobs_open(b->dir, NULL, &b->to, err);
    for (size_t i = 0; i < b->count && rc == SP_OK; i++)
        rc = finish_run(b, b->names[i], err);
    if (rc == SP_OK)
        rc = finish_control(b, err);
    if (rc == SP_OK)
        rc = sp_fsync_dir(runs, err);
    if (rc == SP_OK)
        rc = write_manifest(b, err);
    if (rc == SP_OK)
        *ret = b->report;
    free(runs);
    return rc == SP_OK ? SP_OK : sp_wrap(err, rc, "backup");
}

void coord_backup_free(struct coord_backup *b)
{
    if (b == NULL)
        return;
    json_decref(b->files);
    json_decref(b->blobs);
    ckpt_blobs_close(b->to);
    ckpt_blobs_release(b->from);
    sp_arena_free(b->arena);
    free(b->dir);
    free(b);
}

/* ---- restore ---- */

struct restore {
    const char *dir, *state_dir;
    struct ckpt_blobs *from, *to;
    json_t *manifest;
    struct coord_backup_report report;
    struct sp_digest missing; /* blob that a run refers to and that the backup lacks */
};

static enum sp_err load_manifest(struct restore *r, struct sp_error *err)
{
    char *path = sp_path_join(r->dir, "manifest.json");
    const char *format = NULL;
    int64_t version = 0;
    enum sp_err rc = SP_OK;
    if (!sp_path_exists(path))
        rc = sp_fail(err, SP_ENOTFOUND, "%s: missing: not a backup, or an unfinished one", path);
    if (rc == SP_OK)
        rc = sp_json_load(path, MAX_MANIFEST, &r->manifest, err);
    if (rc == SP_OK && !json_is_object(r->manifest))
        rc = sp_fail(err, SP_EFORMAT, "%s: not an object", path);
    if (rc == SP_OK)
        rc = sp_json_str(r->manifest, "format", path, &format, err);
    if (rc == SP_OK && strcmp(format, FORMAT) != 0)
        rc = sp_fail(err, SP_EFORMAT, "%s: field \"format\": \"%.40s\"", path, format);
    if (rc == SP_OK)
        rc = sp_json_i64(r->manifest, "version", 1, INT32_MAX, path, &version, err);
    if (rc == SP_OK && version > FORMAT_VERSION)
        rc = sp_fail(err, SP_EVERSION, "%s: version %lld, known: %d: upgrade the program", path,
                     (long long)version, FORMAT_VERSION);
    if (rc == SP_OK && (!json_is_array(json_object_get(r->manifest, "files")) ||
                        !json_is_array(json_object_get(r->manifest, "blobs"))))
        rc = sp_fail(err, SP_EFORMAT, "%s: fields \"files\" and \"blobs\" must be lists", path);
    free(path);
    return rc;
}

/* "control.db" → "", "runs/NAME.db" → NAME; NULL for any other path. malloc'd. */
static char *run_of_path(const char *path)
{
    size_t n = strlen(path);
    if (strcmp(path, "control.db") == 0)
        return sp_xstrdup("");
    if (!sp_path_is_safe(path) || strncmp(path, "runs/", 5) != 0 || n < 9 ||
        strcmp(path + n - 3, ".db") != 0)
        return NULL;
    char *name = sp_xstrndup(path + 5, n - 8);
    if (sp_run_name_is_good(name))
        return name;
    free(name);
    return NULL;
}

static enum sp_err copy_verified(const char *from, const char *to, const struct sp_digest *sha256,
                                 uint64_t *bytes, struct sp_error *err)
{
    struct sp_map map = {0};
    struct sp_digest digest;
    enum sp_err rc = sp_map_file(from, &map, err);
    if (rc != SP_OK)
        return rc;
    sp_sha256_of(map.data, map.length, &digest);
    if (!sp_digest_equal(&digest, sha256))
        rc = sp_fail(err, SP_ECORRUPT, "%s: not the bytes that were backed up", from);
    else
        rc = sp_write_file_durable(to, map.data, map.length, 0600, err);
    *bytes += map.length;
    sp_unmap(&map);
    return rc;
}

static bool blob_is_there(void *context, const struct sp_digest *digest)
{
    struct restore *r = context;
    if (ckpt_blobs_has(r->to, digest))
        return true;
    r->missing = *digest;
    return false;
}

/* A database arrives under NAME.new, which no coordinator opens, and is checked there. */
static enum sp_err restore_file(struct restore *r, const json_t *entry, bool control,
                                struct sp_error *err)
{
    const char *path = NULL, *hex = NULL;
    struct sp_digest sha256;
    enum sp_err rc = sp_json_str(entry, "path", "manifest.json", &path, err);
    if (rc == SP_OK)
        rc = sp_json_str(entry, "sha256", "manifest.json", &hex, err);
    if (rc == SP_OK)
        rc = sp_digest_parse(hex, &sha256, err);
    if (rc != SP_OK)
        return rc;
    char *run = run_of_path(path);
    if (run == NULL)
        return sp_fail(err, SP_EFORMAT, "manifest.json: path \"%.100s\" is no part of a backup",
                       path);
    if ((run[0] == '\0') != control) {
        free(run);
        return SP_OK;
    }
    char *from = sp_path_join(r->dir, path), *to = sp_path_join(r->state_dir, path);
    char *aside = sp_xprintf("%s.new", to);
    rc = copy_verified(from, aside, &sha256, &r->report.bytes, err);
    r->missing = (struct sp_digest){{0}};
    if (rc == SP_OK)
        rc = store_check_copy(aside, control ? NULL : run, blob_is_there, r, err);
    if (rc == SP_OK && !sp_digest_is_zero(&r->missing)) {
        char missing[SP_DIGEST_HEX];
        sp_digest_hex(&r->missing, missing);
        rc = sp_fail(err, SP_ENOTFOUND, "run %s needs blob %s, which the backup lacks", run,
                     missing);
    }
    if (rc == SP_OK)
        rc = sp_rename_durable(aside, to, err);
    r->report.runs += rc == SP_OK && !control;
    free(from);
    free(to);
    free(aside);
    free(run);
    return rc;
}

static enum sp_err restore_blobs(struct restore *r, struct sp_error *err)
{
    const json_t *blobs = json_object_get(r->manifest, "blobs");
    enum sp_err rc = SP_OK;
    for (size_t i = 0; i < json_array_size(blobs) && rc == SP_OK; i++) {
        const char *hex = json_string_value(json_array_get(blobs, i));
        struct sp_digest digest;
        uint8_t *data = NULL;
        size_t length = 0;
        rc = sp_digest_parse(hex ? hex : "", &digest, err);
        if (rc != SP_OK)
            return sp_wrap(err, rc, "manifest.json: blobs");
        rc = ckpt_blobs_get(r->from, &digest, &data, &length, err);
        if (rc == SP_OK)
            rc = ckpt_blobs_put(r->to, &digest, data, length, err);
        free(data);
        r->report.blobs += rc == SP_OK;
        r->report.bytes += length;
    }
    return rc;
}

static enum sp_err restore_all(struct restore *r, struct sp_error *err)
{
    const json_t *files = json_object_get(r->manifest, "files");
    char *runs = sp_path_join(r->state_dir, "runs");
    enum sp_err rc = sp_mkdir_p(runs, 0700, err);
    if (rc == SP_OK)
        rc = restore_blobs(r, err);
    for (int control = 0; control < 2 && rc == SP_OK; control++) {
        for (size_t i = 0; i < json_array_size(files) && rc == SP_OK; i++)
            rc = restore_file(r, json_array_get(files, i), control, err);
    }
    char *path = sp_path_join(r->state_dir, "control.db");
    if (rc == SP_OK && !sp_path_exists(path))
        rc = sp_fail(err, SP_EFORMAT, "manifest.json lists no control.db");
    free(path);
    free(runs);
    return rc;
}

/* The directory was empty, so everything in it but the lock is ours to take away. */
static void clean_up(const char *state_dir)
{
    static const char *const names[] = {"runs", "blobs", "control.db", "control.db.new"};
    for (size_t i = 0; i < SP_COUNT(names); i++) {
        struct sp_error ignored;
        char *path = sp_path_join(state_dir, names[i]);
        (void)(sp_remove_tree(path, &ignored) == SP_OK);
        free(path);
    }
}

enum sp_err coord_restore(const char *dir, const char *state_dir, struct coord_backup_report *ret,
                          struct sp_error *err)
{
    struct restore r = {.dir = dir, .state_dir = state_dir};
    int lock = -1;
    enum sp_err rc = load_manifest(&r, err);
    if (rc == SP_OK)
        rc = need_empty(state_dir, "what is restored", err);
    bool ours = rc == SP_OK;
    if (rc == SP_OK)
        rc = sp_lock_dir(state_dir, &lock, err);
    if (rc == SP_OK)
        rc = ckpt_blobs_open(dir, NULL, &r.from, err);
    if (rc == SP_OK)
        rc = ckpt_blobs_open(state_dir, NULL, &r.to, err);
    if (rc == SP_OK)
        rc = restore_all(&r, err);
    ckpt_blobs_close(r.from);
    ckpt_blobs_close(r.to);
    if (rc == SP_OK)
        *ret = r.report;
    else if (ours)
        clean_up(state_dir);
    if (lock >= 0) {
        char *path = sp_path_join(state_dir, "lock");
        if (rc != SP_OK)
            (void)unlink(path);
        free(path);
        close(lock);
    }
    json_decref(r.manifest);
    return rc == SP_OK ? SP_OK : sp_wrap(err, rc, "restore");
}
