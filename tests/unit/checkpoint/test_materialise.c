#include "common/checkpoint/materialise.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "common/base/limits.h"
#include "common/checkpoint/blobstore.h"
#include "common/checkpoint/hf_dir.h"
#include "tests/unit/checkpoint/scratch.h"

static struct sp_error error;
static char *dir;
static struct ckpt_blobs *blobs;

static void setup(void)
{
    dir = scratch_new();
    ck_ok(ckpt_blobs_open(dir, NULL, &blobs, &error));
}

static void teardown(void)
{
    ckpt_blobs_close(blobs);
    scratch_free(dir);
}

static char *in(const char *name)
{
    return sp_path_join(dir, name);
}

/* A checkpoint directory with three chunks of weights, all in the store. */
static char *make_checkpoint(const char *name, uint8_t salt, struct ckpt_manifest *ret)
{
    char *path = in(name);
    size_t length = 2 * (size_t)SP_MAX_CHUNK + 100;
    uint8_t *data = sp_xalloc(length);
    for (size_t i = 0; i < length; i++)
        data[i] = (uint8_t)(i * 31 + (i >> 20) + salt);
    ck_ok(sp_mkdir_p(path, 0777, &error));
    put_file(path, "model.safetensors", data, length);
    put_text(path, "config.json", "{}");
    put_text(path, "tokenizer.json", "");
    ck_ok(ckpt_blobs_put_dir(blobs, path, NULL, NULL, ret, &error));
    free(data);
    return path;
}

/* A source that counts, poisons one chunk, and gives up after some. */
struct source {
    int fetched;
    int poison_at; /* -1: never */
    int fail_at;   /* -1: never */
};

static enum sp_err fetch(void *context, const struct sp_digest *digest, uint32_t bytes, uint8_t *to,
                         struct sp_error *err)
{
    struct source *source = context;
    if (source->fetched == source->fail_at)
        return sp_fail(err, SP_EUNAVAIL, "the source is gone");
    enum sp_err rc = ckpt_blobs_fetch(blobs, digest, bytes, to, err);
    if (rc == SP_OK && source->fetched == source->poison_at)
        to[bytes / 2] ^= 1;
    source->fetched++;
    return rc;
}

START_TEST(test_materialise)
{
    struct ckpt_manifest manifest;
    struct source source = {.poison_at = -1, .fail_at = -1};
    char *from = make_checkpoint("from", 1, &manifest), *to = in("to/");
    ck_ok(ckpt_materialise(&manifest, to, fetch, &source, NULL, NULL, &error));
    ck_assert_int_eq(source.fetched, 4);
    ck_ok(ckpt_manifest_verify(&manifest, to, NULL, NULL, &error));
    char *command = sp_xprintf("diff -r %s %s && ! ls %s | grep partial", from, to, dir);
    ck_assert_int_eq(system(command), 0);
    free(command);
    ck_fails(ckpt_materialise(&manifest, to, fetch, &source, NULL, NULL, &error), SP_EEXIST, "to");
    ckpt_manifest_deinit(&manifest);
    free(from);
    free(to);
}
END_TEST

static bool never_shown(const char *path)
{
    return !sp_path_exists(path);
}

START_TEST(test_resume_and_poison)
{
    struct ckpt_manifest manifest;
    struct source source = {.poison_at = -1, .fail_at = 2};
    char *from = make_checkpoint("from", 1, &manifest), *to = in("to");
    ck_fails(ckpt_materialise(&manifest, to, fetch, &source, NULL, NULL, &error), SP_EUNAVAIL,
             "model.safetensors: chunk 2 of 3 (");
    ck_assert(never_shown(to));
    source = (struct source){.poison_at = 0, .fail_at = -1};
    ck_fails(ckpt_materialise(&manifest, to, fetch, &source, NULL, NULL, &error), SP_ECORRUPT,
             "model.safetensors: chunk 2 of 3 (");
    ck_assert_ptr_nonnull(strstr(error.text, "another SHA-256"));
    ck_assert(never_shown(to));
    /* What was stored before is not fetched again; what was damaged meanwhile is. */
    char *partial = in("to.partial"), *stranger = in("to.partial/training_args.bin");
    put_text(partial, "training_args.bin", "left by something else");
    put_text(partial, "config.json", "[]");
    source = (struct source){.poison_at = -1, .fail_at = -1};
    ck_ok(ckpt_materialise(&manifest, to, fetch, &source, NULL, NULL, &error));
    ck_assert_int_eq(source.fetched, 3);
    char *command = sp_xprintf("diff -r %s %s", from, to);
    ck_assert_int_eq(system(command), 0);
    free(command);
    ckpt_manifest_deinit(&manifest);
    free(partial);
    free(stranger);
    free(from);
    free(to);
}
END_TEST

/* A manifest whose chunks do not make its file is caught at the file's end. */
/* A link that lies where a file shall be is replaced, and what it points to is left alone. */
START_TEST(test_links_are_not_followed)
{
    struct ckpt_manifest manifest;
    struct source source = {.poison_at = -1, .fail_at = -1};
    char *from = make_checkpoint("from", 1, &manifest), *to = in("to");
    char *outside = in("outside"), *link = in("to.partial/config.json");
    char *partial = in("to.partial");
    put_text(dir, "outside", "mine");
    ck_ok(sp_mkdir_p(partial, 0777, &error));
    ck_assert_int_eq(symlink(outside, link), 0);
    ck_ok(ckpt_materialise(&manifest, to, fetch, &source, NULL, NULL, &error));
    ck_ok(ckpt_manifest_verify(&manifest, to, NULL, NULL, &error));
    char *text = get_text(dir, "outside");
    ck_assert_str_eq(text, "mine");
    ckpt_manifest_deinit(&manifest);
    free(text);
    free(partial);
    free(link);
    free(outside);
    free(to);
    free(from);
}
END_TEST

START_TEST(test_lying_manifest)
{
    struct ckpt_manifest manifest;
    struct source source = {.poison_at = -1, .fail_at = -1};
    char *from = make_checkpoint("from", 1, &manifest), *to = in("to");
    struct ckpt_manifest_file *file = &manifest.files[1];
    struct sp_digest swapped = file->chunks[0];
    file->chunks[0] = file->chunks[1];
    file->chunks[1] = swapped;
    ck_fails(ckpt_materialise(&manifest, to, fetch, &source, NULL, NULL, &error), SP_ECORRUPT,
             "not the file it names");
    ck_assert(never_shown(to));
    ckpt_manifest_deinit(&manifest);
    free(from);
    free(to);
}
END_TEST

START_TEST(test_put_file)
{
    struct ckpt_manifest manifest;
    char *path = in("data.jsonl"), *to = in("out"), *back = in("out/dataset");
    put_text(dir, "data.jsonl", "{\"prompt\": 1}\n");
    ck_ok(ckpt_blobs_put_file(blobs, path, "dataset", NULL, NULL, &manifest, &error));
    ck_assert_uint_eq(manifest.count, 1);
    ck_ok(ckpt_materialise(&manifest, to, ckpt_blobs_fetch, blobs, NULL, NULL, &error));
    char *text = get_text(dir, "out/dataset");
    ck_assert_str_eq(text, "{\"prompt\": 1}\n");
    free(text);
    ckpt_manifest_deinit(&manifest);
    free(path);
    free(to);
    free(back);
}
END_TEST

/* ---- cache ---- */

START_TEST(test_cache_find_get)
{
    struct ckpt_manifest manifest;
    struct source source = {.poison_at = -1, .fail_at = -1};
    struct ckpt_cache *cache;
    struct ckpt_cache_ref *ref;
    char *from = make_checkpoint("from", 1, &manifest), *path = in("cache/a");
    ck_ok(ckpt_cache_open(path, 0, &cache, &error));
    ck_fails(ckpt_cache_find(cache, &manifest.digest, &ref, &error), SP_ENOTFOUND, "not in the");
    ck_ok(ckpt_cache_get(cache, &manifest, fetch, &source, NULL, NULL, &ref, &error));
    ck_ok(ckpt_manifest_verify(&manifest, ckpt_cache_ref_dir(ref), NULL, NULL, &error));
    ck_assert_int_eq(source.fetched, 4);
    ckpt_cache_release(ref);
    ck_ok(ckpt_cache_get(cache, &manifest, fetch, &source, NULL, NULL, &ref, &error));
    ck_assert_int_eq(source.fetched, 4);
    ckpt_cache_release(ref);
    ck_ok(ckpt_cache_find(cache, &manifest.digest, &ref, &error));
    /* A damaged copy is not handed out, and replaced by get. */
    put_text(ckpt_cache_ref_dir(ref), "config.json", "[]");
    ckpt_cache_release(ref);
    ck_fails(ckpt_cache_find(cache, &manifest.digest, &ref, &error), SP_ENOTFOUND, "damaged");
    ck_ok(ckpt_cache_get(cache, &manifest, fetch, &source, NULL, NULL, &ref, &error));
    ck_assert_int_eq(source.fetched, 8);
    ckpt_cache_release(ref);
    ckpt_cache_release(NULL);
    ckpt_cache_close(cache);
    ckpt_manifest_deinit(&manifest);
    free(from);
    free(path);
}
END_TEST

START_TEST(test_cache_evicts_unused)
{
    struct ckpt_manifest m[3];
    struct source source = {.poison_at = -1, .fail_at = -1};
    struct ckpt_cache *cache;
    struct ckpt_cache_ref *first, *second, *third;
    char *path = in("cache");
    for (int i = 0; i < 3; i++) {
        char name[8];
        snprintf(name, sizeof(name), "c%d", i);
        free(make_checkpoint(name, (uint8_t)i, &m[i]));
    }
    ck_ok(ckpt_cache_open(path, 2 * m[0].bytes + 10, &cache, &error));
    ck_ok(ckpt_cache_get(cache, &m[0], fetch, &source, NULL, NULL, &first, &error));
    usleep(20000);
    ck_ok(ckpt_cache_get(cache, &m[1], fetch, &source, NULL, NULL, &second, &error));
    /* Both in use: the third has no place. */
    ck_fails(ckpt_cache_get(cache, &m[2], fetch, &source, NULL, NULL, &third, &error), SP_ELIMIT,
             "in use");
    /* The older one is in use, so the newer, unused one goes. */
    ckpt_cache_release(second);
    ck_ok(ckpt_cache_get(cache, &m[2], fetch, &source, NULL, NULL, &third, &error));
    ck_fails(ckpt_cache_find(cache, &m[1].digest, &second, &error), SP_ENOTFOUND, "not in");
    ckpt_cache_release(first);
    ckpt_cache_release(third);
    /* Both unused: the least recently used goes. */
    usleep(20000);
    ck_ok(ckpt_cache_find(cache, &m[0].digest, &first, &error));
    ckpt_cache_release(first);
    ck_ok(ckpt_cache_get(cache, &m[1], fetch, &source, NULL, NULL, &second, &error));
    ckpt_cache_release(second);
    ck_ok(ckpt_cache_find(cache, &m[0].digest, &first, &error));
    ckpt_cache_release(first);
    ck_fails(ckpt_cache_find(cache, &m[2].digest, &third, &error), SP_ENOTFOUND, "not in");
    ckpt_cache_close(cache);
    for (int i = 0; i < 3; i++)
        ckpt_manifest_deinit(&m[i]);
    free(path);
}
END_TEST

static void set_used(const char *cache, const struct ckpt_manifest *manifest, struct timespec used)
{
    char hex[SP_DIGEST_HEX];
    sp_digest_hex(&manifest->digest, hex);
    char *path = sp_xprintf("%s/%s.lock", cache, hex);
    ck_assert_int_eq(utimensat(AT_FDCWD, path, (struct timespec[2]){used, used}, 0), 0);
    free(path);
}

/* _i: the one that was used a second earlier, or a nanosecond. */
START_TEST(test_cache_evicts_the_oldest)
{
    static const struct timespec used[2][2] = {{{1000, 9}, {1001, 0}}, {{1000, 8}, {1000, 9}}};
    struct ckpt_manifest m[3];
    struct source source = {.poison_at = -1, .fail_at = -1};
    struct ckpt_cache *cache;
    struct ckpt_cache_ref *ref;
    char *path = in("cache");
    for (int i = 0; i < 3; i++) {
        char name[8];
        snprintf(name, sizeof(name), "c%d", i);
        free(make_checkpoint(name, (uint8_t)i, &m[i]));
    }
    for (int oldest = 0; oldest < 2; oldest++) {
        ck_ok(ckpt_cache_open(path, 2 * m[0].bytes + 10, &cache, &error));
        for (int i = 0; i < 2; i++) {
            ck_ok(ckpt_cache_get(cache, &m[i], fetch, &source, NULL, NULL, &ref, &error));
            ckpt_cache_release(ref);
        }
        for (int i = 0; i < 2; i++)
            set_used(path, &m[i], used[_i][i == oldest ? 0 : 1]);
        ck_ok(ckpt_cache_get(cache, &m[2], fetch, &source, NULL, NULL, &ref, &error));
        ckpt_cache_release(ref);
        ck_fails(ckpt_cache_find(cache, &m[oldest].digest, &ref, &error), SP_ENOTFOUND, "not in");
        ckpt_cache_close(cache);
        ck_ok(sp_remove_tree(path, &error));
    }
    for (int i = 0; i < 3; i++)
        ckpt_manifest_deinit(&m[i]);
    free(path);
}
END_TEST

/* What an attempt has left of a checkpoint is part of it, not beside it. */
START_TEST(test_cache_goes_on_in_its_own_room)
{
    struct ckpt_manifest manifest;
    struct source source = {.poison_at = -1, .fail_at = 2};
    struct ckpt_cache *cache;
    struct ckpt_cache_ref *ref;
    char *path = in("cache");
    free(make_checkpoint("one", 1, &manifest));
    ck_ok(ckpt_cache_open(path, manifest.bytes, &cache, &error));
    ck_fails(ckpt_cache_get(cache, &manifest, fetch, &source, NULL, NULL, &ref, &error),
             SP_EUNAVAIL, "gone");
    source.fail_at = -1;
    ck_ok(ckpt_cache_get(cache, &manifest, fetch, &source, NULL, NULL, &ref, &error));
    ckpt_cache_release(ref);
    ckpt_cache_close(cache);
    ckpt_manifest_deinit(&manifest);
    free(path);
}
END_TEST

/* Four processes ask for one digest at once: each chunk is fetched once. */
START_TEST(test_cache_shared)
{
    struct ckpt_manifest manifest;
    char *from = make_checkpoint("from", 1, &manifest), *path = in("cache");
    pid_t children[4];
    int sum = 0;
    for (int i = 0; i < 4; i++) {
        children[i] = fork();
        ck_assert_int_ge(children[i], 0);
        if (children[i] == 0) {
            struct source source = {.poison_at = -1, .fail_at = -1};
            struct ckpt_cache *cache;
            struct ckpt_cache_ref *ref;
            if (ckpt_cache_open(path, 0, &cache, &error) != SP_OK ||
                ckpt_cache_get(cache, &manifest, fetch, &source, NULL, NULL, &ref, &error) !=
                    SP_OK ||
                ckpt_manifest_verify(&manifest, ckpt_cache_ref_dir(ref), NULL, NULL, &error) !=
                    SP_OK)
                _exit(100);
            _exit(source.fetched);
        }
    }
    for (int i = 0; i < 4; i++) {
        int status;
        ck_assert_int_eq(waitpid(children[i], &status, 0), children[i]);
        ck_assert(WIFEXITED(status));
        sum += WEXITSTATUS(status);
    }
    ck_assert_int_eq(sum, 4);
    ckpt_manifest_deinit(&manifest);
    free(from);
    free(path);
}
END_TEST

static enum sp_err fetch_and_die(void *context, const struct sp_digest *digest, uint32_t bytes,
                                 uint8_t *to, struct sp_error *err)
{
    int *go = context;
    char byte;
    struct source source = {.poison_at = -1, .fail_at = -1};
    if (bytes == 100) { /* the last chunk of the weights: the other process waits by now */
        ck_assert_int_eq(read(go[0], &byte, 1), 1);
        kill(getpid(), SIGKILL);
    }
    return fetch(&source, digest, bytes, to, err);
}

static bool tell(void *context, uint64_t done, uint64_t total)
{
    int *go = context;
    if (go[1] >= 0)
        ck_assert_int_eq(write(go[1], "x", 1), 1);
    go[1] = -1;
    return true;
}

/* One process of the host fetches and another one waits for it; the first is killed in the middle:
 * the second goes on where it was. */
START_TEST(test_cache_survives_a_kill)
{
    struct ckpt_manifest manifest;
    struct source source = {.poison_at = -1, .fail_at = -1};
    struct ckpt_cache *cache;
    struct ckpt_cache_ref *ref;
    int go[2], status;
    char *from = make_checkpoint("from", 1, &manifest), *path = in("cache");
    ck_ok(ckpt_cache_open(path, 0, &cache, &error));
    ck_assert_int_eq(pipe(go), 0);
    pid_t child = fork();
    if (child == 0) {
        enum sp_err rc =
            ckpt_cache_get(cache, &manifest, fetch_and_die, go, NULL, NULL, &ref, &error);
        _exit(rc == SP_OK);
    }
    char *partial = sp_xprintf("ls %s | grep -q partial", path);
    for (int i = 0; i < 500 && system(partial) != 0; i++)
        usleep(10000);
    ck_ok(ckpt_cache_get(cache, &manifest, fetch, &source, tell, go, &ref, &error));
    ck_assert_int_eq(waitpid(child, &status, 0), child);
    ck_assert(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
    ck_assert_int_eq(source.fetched, 1);
    ck_ok(ckpt_manifest_verify(&manifest, ckpt_cache_ref_dir(ref), NULL, NULL, &error));
    ckpt_cache_release(ref);
    ckpt_cache_close(cache);
    ckpt_manifest_deinit(&manifest);
    free(partial);
    free(from);
    free(path);
}
END_TEST

struct second {
    const struct ckpt_manifest *manifest;
    const char *path;
    int refused;
};

/* While one checkpoint is on its way, another process asks for a second one, again and again. */
static enum sp_err fetch_between(void *context, const struct sp_digest *digest, uint32_t bytes,
                                 uint8_t *to, struct sp_error *err)
{
    struct second *second = context;
    struct source source = {.poison_at = -1, .fail_at = -1};
    struct ckpt_cache *cache;
    struct ckpt_cache_ref *ref;
    ck_ok(ckpt_cache_open(second->path, 4 * (uint64_t)SP_MAX_CHUNK, &cache, &error));
    ck_fails(ckpt_cache_get(cache, second->manifest, fetch, &source, NULL, NULL, &ref, &error),
             SP_ELIMIT, "do not fit");
    ckpt_cache_close(cache);
    second->refused++;
    return fetch(&source, digest, bytes, to, err);
}

/* What is on its way counts in full: two that come at once do not exceed the limit together. */
START_TEST(test_cache_counts_what_is_coming)
{
    struct ckpt_manifest m[2];
    struct ckpt_cache *cache;
    struct ckpt_cache_ref *ref;
    char *path = in("cache");
    free(make_checkpoint("one", 1, &m[0]));
    free(make_checkpoint("two", 2, &m[1]));
    struct second second = {.manifest = &m[1], .path = path};
    ck_ok(ckpt_cache_open(path, 4 * (uint64_t)SP_MAX_CHUNK, &cache, &error));
    ck_ok(ckpt_cache_get(cache, &m[0], fetch_between, &second, NULL, NULL, &ref, &error));
    ck_assert_int_eq(second.refused, 4); /* before each chunk */
    ckpt_cache_release(ref);
    ckpt_cache_close(cache);
    ckpt_manifest_deinit(&m[0]);
    ckpt_manifest_deinit(&m[1]);
    free(path);
}
END_TEST

/* Several processes find a damaged copy at once: one of them fetches it again. */
START_TEST(test_cache_damage_shared)
{
    struct ckpt_manifest manifest;
    struct source source = {.poison_at = -1, .fail_at = -1};
    struct ckpt_cache *cache;
    struct ckpt_cache_ref *ref;
    char *from = make_checkpoint("from", 1, &manifest), *path = in("cache");
    ck_ok(ckpt_cache_open(path, 0, &cache, &error));
    ck_ok(ckpt_cache_get(cache, &manifest, fetch, &source, NULL, NULL, &ref, &error));
    put_text(ckpt_cache_ref_dir(ref), "config.json", "[]");
    ckpt_cache_release(ref);
    pid_t children[4];
    int sum = 0;
    for (int i = 0; i < 4; i++) {
        children[i] = fork();
        ck_assert_int_ge(children[i], 0);
        if (children[i] == 0) {
            source.fetched = 0;
            if (ckpt_cache_get(cache, &manifest, fetch, &source, NULL, NULL, &ref, &error) != SP_OK)
                _exit(100);
            _exit(source.fetched);
        }
    }
    for (int i = 0; i < 4; i++) {
        int status;
        ck_assert_int_eq(waitpid(children[i], &status, 0), children[i]);
        ck_assert(WIFEXITED(status));
        sum += WEXITSTATUS(status);
    }
    ck_assert_int_eq(sum, 4);
    ckpt_cache_close(cache);
    ckpt_manifest_deinit(&manifest);
    free(from);
    free(path);
}
END_TEST

static Suite *suite(void)
{
    Suite *s = suite_create("materialise");
    TCase *t = tcase_create("materialise");
    tcase_add_checked_fixture(t, setup, teardown);
    tcase_add_test(t, test_materialise);
    tcase_add_test(t, test_resume_and_poison);
    tcase_add_test(t, test_links_are_not_followed);
    tcase_add_test(t, test_lying_manifest);
    tcase_add_test(t, test_put_file);
    tcase_add_test(t, test_cache_find_get);
    tcase_add_test(t, test_cache_evicts_unused);
    tcase_add_loop_test(t, test_cache_evicts_the_oldest, 0, 2);
    tcase_add_test(t, test_cache_goes_on_in_its_own_room);
    tcase_add_test(t, test_cache_shared);
    tcase_add_test(t, test_cache_damage_shared);
    tcase_add_test(t, test_cache_survives_a_kill);
    tcase_add_test(t, test_cache_counts_what_is_coming);
    tcase_set_timeout(t, 20);
    suite_add_tcase(s, t);
    return s;
}

SPIN_CHECK_MAIN(suite())
