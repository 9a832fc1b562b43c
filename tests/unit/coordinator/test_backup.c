/* Backup into a directory, restore from it, and what is refused. */
#include "coordinator/backup.h"

#include <sys/stat.h>

#include "tests/unit/coordinator/create_fixture.h"

struct bk {
    struct cf cf;
    char dir[96], state[96];
    uint64_t bytes; /* of the backup */
};

static bool yes(void *context)
{
    return true;
}

static enum sp_err back_up(struct bk *bk, const char *dir, bool (*cancelled)(void *),
                           struct coord_backup_report *ret, struct sp_error *err)
{
    struct coord_backup *backup = NULL;
    enum sp_err rc = coord_backup_begin(bk->cf.fx.store, bk->cf.blobs, dir, 99, &backup, err);
    if (rc == SP_OK)
        rc = coord_backup_end(backup, cancelled, NULL, ret, err);
    coord_backup_free(backup);
    return rc;
}

static struct bk bk_new(void)
{
    struct bk bk = {.cf = cf_new()};
    cf_make(&bk.cf);
    struct fx fx = bk.cf.fx;
    int32_t ids[4];
    enum store_put put;
    snprintf(bk.dir, sizeof(bk.dir), "%s/backup", fx.dir);
    snprintf(bk.state, sizeof(bk.state), "%s/restored", fx.dir);
    struct store_result result = fx_result(3, ids);
    struct store_token token = {.id = "0123456789abcdef", .role = PROTO_ROLE_ADMIN, .name = "x"};
    struct sp_digest loose;
    OK(ckpt_blobs_put_new(bk.cf.blobs, "nobody refers to this", 21, &loose, &fx.err));
    store_begin(fx.store);
    OK(store_result_put(fx.run, &result, &put, &fx.err));
    OK(store_token_put(fx.store, &token, &fx.err));
    OK(store_commit(fx.store, &fx.err));
    struct coord_backup_report report;
    OK(back_up(&bk, bk.dir, NULL, &report, &fx.err));
    ck_assert_uint_eq(report.runs, 1);
    ck_assert_uint_eq(report.blobs, 7); /* four files of the base, the dataset, two manifests */
    ck_assert(report.bytes > 1000);
    bk.bytes = report.bytes;
    return bk;
}

static char *in(const char *dir, const char *name)
{
    return sp_path_join(dir, name);
}

START_TEST(test_there_and_back)
{
    struct bk bk = bk_new();
    struct fx fx = bk.cf.fx;
    struct coord_backup_report report;
    OK(coord_restore(bk.dir, bk.state, &report, &fx.err));
    ck_assert_uint_eq(report.bytes, bk.bytes);
    ck_assert_uint_eq(report.runs, 1);
    ck_assert_uint_eq(report.blobs, 7);
    struct store *store = NULL;
    struct store_run *run = NULL;
    struct ckpt_blobs *blobs = NULL;
    OK(store_open(bk.state, NULL, &store, &fx.err));
    OK(store_run_open(store, "demo", &run, &fx.err));
    OK(ckpt_blobs_open(bk.state, NULL, &blobs, &fx.err));
    uint64_t position = 3, count = 0, bytes = 0;
    struct store_result got;
    struct store_token token;
    OK(store_results_get(run, 0, 0, &position, 1, fx.arena, &got, &fx.err));
    OK(store_token_get(store, "0123456789abcdef", fx.arena, &token, &fx.err));
    ckpt_blobs_usage(blobs, &count, &bytes);
    ck_assert_uint_eq(count, 7);
    store_begin(store); /* it can be written to, too */
    OK(store_meta_put(run, "k", "v", &fx.err));
    OK(store_commit(store, &fx.err));
    ckpt_blobs_close(blobs);
    store_close(store);
    cf_free(&bk.cf);
}
END_TEST

START_TEST(test_places_that_are_taken)
{
    struct bk bk = bk_new();
    struct fx fx = bk.cf.fx;
    struct coord_backup_report report;
    FAILS(SP_EEXIST, back_up(&bk, bk.dir, NULL, &report, &fx.err));
    FAILS(SP_EEXIST, coord_restore(bk.dir, fx.dir, &report, &fx.err));
    ck_assert(sp_path_exists(bk.dir)); /* nothing was cleaned up there */
    OK(coord_restore(bk.dir, bk.state, &report, &fx.err));
    FAILS(SP_EEXIST, coord_restore(bk.dir, bk.state, &report, &fx.err));
    struct store *store = NULL;
    OK(store_open(bk.state, NULL, &store, &fx.err));
    store_close(store);
    cf_free(&bk.cf);
}
END_TEST

/* A coordinator that stops does not wait for its blobs; what is there is no backup. */
START_TEST(test_a_backup_that_is_stopped)
{
    struct bk bk = bk_new();
    struct fx fx = bk.cf.fx;
    struct coord_backup_report report;
    char *second = in(fx.dir, "second"), *file = in(second, "manifest.json");
    FAILS(SP_ECANCELED, back_up(&bk, second, yes, &report, &fx.err));
    ck_assert_msg(strstr(fx.err.text, "second is not complete") != NULL, "%s", fx.err.text);
    ck_assert(!sp_path_exists(file));
    free(second);
    free(file);
    cf_free(&bk.cf);
}
END_TEST

static bool nothing_refers(void *context, const struct sp_digest *digest)
{
    return false;
}

static uint64_t collect(struct bk *bk, int64_t now_ms)
{
    struct fx fx = bk->cf.fx;
    struct ckpt_collect ask = {.referenced = nothing_refers, .now_ms = now_ms, .grace_ms = 1000};
    struct ckpt_collected collected;
    OK(ckpt_blobs_collect(bk->cf.blobs, &ask, &collected, &fx.err));
    return collected.deleted;
}

/* Retention may let go of a checkpoint while its blobs are being copied. */
START_TEST(test_what_a_backup_needs_is_not_collected)
{
    struct bk bk = bk_new();
    struct fx fx = bk.cf.fx;
    struct coord_backup_report report;
    struct coord_backup *backup = NULL;
    char *second = in(fx.dir, "second");
    OK(coord_backup_begin(fx.store, bk.cf.blobs, second, 99, &backup, &fx.err));
    ck_assert_uint_eq(collect(&bk, 0), 0);
    ck_assert_uint_eq(collect(&bk, 5000), 0);
    OK(coord_backup_end(backup, NULL, NULL, &report, &fx.err));
    ck_assert_uint_eq(report.blobs, 7);
    coord_backup_free(backup);
    ck_assert_uint_eq(collect(&bk, 10000), 1); /* what the backup has not read */
    ck_assert_uint_eq(collect(&bk, 20000), 7);
    free(second);
    cf_free(&bk.cf);
}
END_TEST

START_TEST(test_missing_blob_stops_the_backup)
{
    struct bk bk = bk_new();
    struct fx fx = bk.cf.fx;
    struct coord_backup_report report;
    struct ckpt_manifest manifest = CKPT_MANIFEST_INIT;
    OK(ckpt_manifest_build(bk.cf.base, NULL, NULL, &manifest, &fx.err));
    OK(ckpt_blobs_delete(bk.cf.blobs, &manifest.files[0].chunks[0], &fx.err));
    ckpt_manifest_deinit(&manifest);
    char *second = in(fx.dir, "second"), *file = in(second, "manifest.json");
    FAILS(SP_ENOTFOUND, back_up(&bk, second, NULL, &report, &fx.err));
    ck_assert(!sp_path_exists(file));
    FAILS(SP_ENOTFOUND, coord_restore(second, bk.state, &report, &fx.err));
    free(second);
    free(file);
    cf_free(&bk.cf);
}
END_TEST

/* ---- damaged backups: refused, and nothing is left behind ---- */

static void expect_refused(struct bk *bk, enum sp_err code, const char *words)
{
    struct fx fx = bk->cf.fx;
    struct coord_backup_report report;
    FAILS(code, coord_restore(bk->dir, bk->state, &report, &fx.err));
    ck_assert_msg(strstr(fx.err.text, words) != NULL, "no \"%s\" in: %s", words, fx.err.text);
    static const char *const names[] = {"control.db", "runs", "blobs", "lock"};
    for (size_t i = 0; i < SP_COUNT(names); i++) {
        char *path = in(bk->state, names[i]);
        ck_assert_msg(!sp_path_exists(path), "%s is left", path);
        free(path);
    }
}

static json_t *manifest_of(const struct bk *bk)
{
    struct fx fx = {0};
    json_t *manifest = NULL;
    char *path = in(bk->dir, "manifest.json");
    OK(sp_json_load(path, 1 << 20, &manifest, &fx.err));
    free(path);
    return manifest;
}

static void rewrite(const struct bk *bk, json_t *manifest)
{
    char *text = sp_json_canonical(manifest);
    cf_write(bk->dir, "manifest.json", text);
    free(text);
    json_decref(manifest);
}

static void flip_byte(const char *path)
{
    FILE *file = fopen(path, "r+b");
    ck_assert_ptr_nonnull(file);
    ck_assert_int_eq(fseek(file, 5000, SEEK_SET), 0);
    int c = fgetc(file);
    ck_assert_int_eq(fseek(file, 5000, SEEK_SET), 0);
    fputc(c ^ 1, file);
    fclose(file);
}

START_TEST(test_damaged_databases)
{
    struct bk bk = bk_new();
    char *run = in(bk.dir, "runs/demo.db"), *control = in(bk.dir, "control.db");
    flip_byte(run);
    expect_refused(&bk, SP_ECORRUPT, "runs/demo.db");
    flip_byte(run);
    flip_byte(control);
    expect_refused(&bk, SP_ECORRUPT, "control.db");
    flip_byte(control);
    ck_assert_int_eq(unlink(run), 0);
    expect_refused(&bk, SP_ENOTFOUND, "runs/demo.db");
    free(run);
    free(control);
    cf_free(&bk.cf);
}
END_TEST

START_TEST(test_damaged_manifest)
{
    struct bk bk = bk_new();
    static const char *const texts[] = {"",
                                        "{",
                                        "[]",
                                        "{}",
                                        "{\"format\":\"x\",\"version\":1}",
                                        "{\"format\":\"spin-backup\",\"version\":1}"};
    json_t *good = manifest_of(&bk);
    for (size_t i = 0; i < SP_COUNT(texts); i++) {
        struct fx fx = {0};
        struct coord_backup_report report;
        cf_write(bk.dir, "manifest.json", texts[i]);
        ck_assert_msg(coord_restore(bk.dir, bk.state, &report, &fx.err) != SP_OK, "case %zu", i);
        ck_assert_ptr_nonnull(strstr(fx.err.text, "manifest.json"));
    }
    json_t *manifest = json_deep_copy(good);
    json_object_set_new(manifest, "version", json_integer(2));
    rewrite(&bk, manifest);
    expect_refused(&bk, SP_EVERSION, "version 2");
    static const char *const paths[] = {"/etc/passwd", "../x.db", "runs/../control.db", "runs/.db",
                                        "runs/a b.db", "lock",    "admin.token"};
    for (size_t i = 0; i < SP_COUNT(paths); i++) {
        manifest = json_deep_copy(good);
        json_t *entry = json_array_get(json_object_get(manifest, "files"), 0);
        json_object_set_new(entry, "path", json_string(paths[i]));
        rewrite(&bk, manifest);
        expect_refused(&bk, SP_EFORMAT, "is no part of a backup");
    }
    manifest = json_deep_copy(good);
    json_array_remove(json_object_get(manifest, "files"), 1); /* control.db is listed last */
    rewrite(&bk, manifest);
    expect_refused(&bk, SP_EFORMAT, "no control.db");
    manifest = json_deep_copy(good);
    json_array_remove(json_object_get(manifest, "blobs"), 0);
    rewrite(&bk, manifest);
    expect_refused(&bk, SP_ENOTFOUND, "which the backup lacks");
    manifest = json_deep_copy(good);
    json_array_append_new(json_object_get(manifest, "blobs"), json_string("zz"));
    rewrite(&bk, manifest);
    expect_refused(&bk, SP_EFORMAT, "blobs");
    json_decref(good);
    cf_free(&bk.cf);
}
END_TEST

START_TEST(test_damaged_blob)
{
    struct bk bk = bk_new();
    json_t *manifest = manifest_of(&bk);
    const char *hex = json_string_value(json_array_get(json_object_get(manifest, "blobs"), 0));
    char *path = sp_xprintf("%s/blobs/%.2s/%s", bk.dir, hex, hex);
    FILE *file = fopen(path, "r+b");
    ck_assert_ptr_nonnull(file);
    fputc('~', file);
    fclose(file);
    expect_refused(&bk, SP_ECORRUPT, hex);
    ck_assert_int_eq(unlink(path), 0);
    expect_refused(&bk, SP_ENOTFOUND, hex);
    free(path);
    json_decref(manifest);
    cf_free(&bk.cf);
}
END_TEST

static Suite *suite(void)
{
    Suite *s = suite_create("backup");
    TCase *t = tcase_create("backup");
    tcase_add_test(t, test_there_and_back);
    tcase_add_test(t, test_places_that_are_taken);
    tcase_add_test(t, test_a_backup_that_is_stopped);
    tcase_add_test(t, test_what_a_backup_needs_is_not_collected);
    tcase_add_test(t, test_missing_blob_stops_the_backup);
    tcase_add_test(t, test_damaged_databases);
    tcase_add_test(t, test_damaged_manifest);
    tcase_add_test(t, test_damaged_blob);
    suite_add_tcase(s, t);
    return s;
}

SPIN_CHECK_MAIN(suite())
