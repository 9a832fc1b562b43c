/* Disks that fail for a while, and files that are damaged: daemons wait or start again and lose
 * nothing, and one run's damage is no other's. */
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "common/base/clock.h"
#include "common/base/fs.h"
#include "common/base/mem.h"
#include "tests/e2e/harness.h"
#include "tests/unit/check_main.h"

#define SECONDS 60
#define SHIM SPIN_BUILD_ROOT "/tests/libchaos_shim.so"

/* What tests/chaos/shim.c understands. */
enum order { DISK_WORKS = 0, SYNC_FAILS = 1, WRITE_FAILS = 2 };

static void order(struct cluster *cluster, enum order what)
{
    char path[128];
    uint32_t value = what;
    snprintf(path, sizeof(path), "%s/shim", cluster->dir);
    int fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
    ck_assert(fd >= 0 && pwrite(fd, &value, sizeof(value), 0) == sizeof(value));
    ck_assert(ftruncate(fd, 4096) == 0); /* the daemon maps a page of it */
    close(fd);
    setenv("CHAOS_SHIM", path, 1);
}

static void fragile(bool on)
{
    if (on)
        setenv("LD_PRELOAD", SHIM, 1);
    else
        unsetenv("LD_PRELOAD");
}

static void prepare(struct cluster *cluster)
{
    cluster_open(cluster);
    cluster_write_rows(cluster, "train.jsonl", 0, 60);
    cluster_create_run(cluster, "r", 7, "train.snapshot_steps=1");
}

static char *digest_of(struct cluster *cluster, const char *run)
{
    json_t *row = cluster_iteration(cluster, run, 0);
    char *text = sp_xstrdup(cluster_text(row, "checkpoint_sha256"));
    json_decref(row);
    return text;
}

static char *undisturbed(void)
{
    struct cluster cluster;
    prepare(&cluster);
    cluster_start_generator(&cluster, 0);
    cluster_start_trainer(&cluster, 0);
    cluster_iterate(&cluster, "r", SECONDS);
    char *digest = digest_of(&cluster, "r");
    cluster_close(&cluster);
    return digest;
}

static void wait_for_activity(struct cluster *cluster, const char *words)
{
    for (int64_t end_ms = sp_now_ms() + 1000 * SECONDS;;) {
        json_t *json = cluster_ctl_ok(cluster, "status", "r", NULL);
        const json_t *run = json_array_get(json_object_get(json, "runs"), 0);
        const json_t *training = json_object_get(json_object_get(run, "iteration"), "training");
        bool said = strstr(cluster_text(training, "activity"), words) != NULL;
        json_decref(json);
        if (said)
            return;
        ck_assert_msg(sp_now_ms() < end_ms, "the trainer never says \"%s\"", words);
        sp_sleep_ms(50);
    }
}

/* Snapshots cannot be written and are done without; the checkpoint must be, and is waited for. */
START_TEST(test_trainer)
{
    struct cluster cluster;
    char *expected = undisturbed();
    prepare(&cluster);
    order(&cluster, DISK_WORKS);
    fragile(true);
    cluster_start_trainer(&cluster, 0);
    fragile(false);
    cluster_start_iteration(&cluster, "r");
    /* It has its weights when it waits for the first pair. */
    wait_for_activity(&cluster, "waiting for pair");
    order(&cluster, WRITE_FAILS);
    cluster_start_generator(&cluster, 0);
    wait_for_activity(&cluster, "waits for its disk");
    ck_assert_str_eq(cluster_state(&cluster, "r"), "running");
    order(&cluster, DISK_WORKS);
    cluster_wait_state(&cluster, "r", "closed", SECONDS);
    char *digest = digest_of(&cluster, "r");
    ck_assert_str_eq(digest, expected);
    free(digest);
    free(expected);
    cluster_close(&cluster);
}
END_TEST

static bool workers_say(struct cluster *cluster, const char *words)
{
    json_t *json = cluster_ctl_ok(cluster, "workers", NULL);
    char *text = json_dumps(json, 0);
    bool said = strstr(text, words) != NULL;
    free(text);
    json_decref(json);
    return said;
}

/* It says what it waits for, instead of "waiting for work", and goes on by itself. */
START_TEST(test_generator)
{
    struct cluster cluster;
    char *expected = undisturbed();
    prepare(&cluster);
    order(&cluster, DISK_WORKS);
    fragile(true);
    cluster_start_generator(&cluster, 0);
    fragile(false);
    int64_t end_ms = sp_now_ms() + 1000 * SECONDS;
    while (!workers_say(&cluster, "waiting for work") && sp_now_ms() < end_ms)
        sp_sleep_ms(50);
    order(&cluster, WRITE_FAILS);
    cluster_start_iteration(&cluster, "r");
    while (!workers_say(&cluster, "waits for its disk") && sp_now_ms() < end_ms)
        sp_sleep_ms(50);
    ck_assert_msg(sp_now_ms() < end_ms, "the generator does not say that its disk fails");
    order(&cluster, DISK_WORKS);
    cluster_start_trainer(&cluster, 0);
    cluster_wait_state(&cluster, "r", "closed", SECONDS);
    char *digest = digest_of(&cluster, "r");
    ck_assert_str_eq(digest, expected);
    ck_assert(!workers_say(&cluster, "waits for its disk"));
    free(digest);
    free(expected);
    cluster_close(&cluster);
}
END_TEST

/* A COMMIT that fails ends the coordinator; started again it goes on from what is durable. */
START_TEST(test_coordinator)
{
    struct cluster cluster;
    int status = 0;
    char *expected = undisturbed();
    prepare(&cluster);
    order(&cluster, DISK_WORKS);
    cluster_end(&cluster.coordinator, SIGTERM);
    fragile(true);
    cluster_start_coordinator(&cluster);
    fragile(false);
    cluster_start_iteration(&cluster, "r");
    order(&cluster, SYNC_FAILS);
    cluster_start_generator(&cluster, 0);
    ck_assert_int_eq(waitpid(cluster.coordinator, &status, 0), cluster.coordinator);
    cluster.coordinator = 0;
    ck_assert_msg(WIFEXITED(status) && WEXITSTATUS(status) == sp_err_exit_code(SP_EIO),
                  "wait status %#x", status);
    order(&cluster, DISK_WORKS);
    cluster_start_coordinator(&cluster);
    cluster_start_trainer(&cluster, 0);
    cluster_wait_state(&cluster, "r", "closed", SECONDS);
    char *digest = digest_of(&cluster, "r");
    ck_assert_str_eq(digest, expected);
    free(digest);
    free(expected);
    cluster_close(&cluster);
}
END_TEST

/* The second page and all behind it. */
static void damage(const char *path)
{
    int fd = open(path, O_WRONLY | O_CLOEXEC);
    char junk[8192];
    memset(junk, 0x5a, sizeof(junk));
    ck_assert_int_ge(fd, 0);
    for (off_t at = 8192; at < 40960; at += 8192)
        ck_assert(pwrite(fd, junk, sizeof(junk), at) == sizeof(junk));
    close(fd);
}

START_TEST(test_damaged_run)
{
    struct cluster cluster;
    prepare(&cluster);
    cluster_create_run(&cluster, "hurt", 8, "");
    cluster_create_run(&cluster, "gone", 9, "");
    cluster_end(&cluster.coordinator, SIGTERM);
    char *hurt = sp_xprintf("%s/state/runs/hurt.db", cluster.dir);
    char *gone = sp_xprintf("%s/state/runs/gone.db", cluster.dir);
    char *whole = sp_xprintf("%s/whole.db", cluster.dir), *data = NULL;
    size_t length = 0;
    struct sp_error err;
    ck_assert_int_eq(sp_read_file(hurt, 1 << 30, &data, &length, &err), SP_OK);
    damage(hurt);
    ck_assert_int_eq(rename(gone, whole), 0);
    cluster_start_coordinator(&cluster);
    /* The others go on; these say why they don't. */
    cluster_start_generator(&cluster, 0);
    cluster_start_trainer(&cluster, 0);
    cluster_iterate(&cluster, "r", SECONDS);
    ck_assert_int_ne(cluster_ctl(&cluster, NULL, "start-iteration", "hurt", NULL), 0);
    json_t *json = cluster_ctl_ok(&cluster, "events", NULL);
    char *text = json_dumps(json, 0);
    ck_assert_msg(strstr(text, "run hurt is set aside") && strstr(text, "run gone is set aside") &&
                      strstr(text, "backup"),
                  "%s", text);
    free(text);
    json_decref(json);
    ck_assert_int_ne(cluster_ctl(&cluster, &json, "doctor", NULL), 0);
    text = json_dumps(json, 0);
    ck_assert_msg(strstr(text, "run hurt is set aside"), "%s", text);
    free(text);
    json_decref(json);
    /* Mended, they are taken in again. */
    cluster_end(&cluster.coordinator, SIGTERM);
    ck_assert_int_eq(sp_write_file_durable(hurt, data, length, 0600, &err), SP_OK);
    ck_assert_int_eq(rename(whole, gone), 0);
    cluster_start_coordinator(&cluster);
    cluster_iterate(&cluster, "hurt", SECONDS);
    cluster_iterate(&cluster, "gone", SECONDS);
    free(data);
    free(hurt);
    free(gone);
    free(whole);
    cluster_close(&cluster);
}
END_TEST

static Suite *suite(void)
{
    Suite *s = suite_create("e2e/disks");
    TCase *c = tcase_create("disks");
    tcase_set_timeout(c, 200);
    tcase_add_test(c, test_trainer);
    tcase_add_test(c, test_generator);
    tcase_add_test(c, test_coordinator);
    tcase_add_test(c, test_damaged_run);
    suite_add_tcase(s, c);
    return s;
}

SPIN_CHECK_MAIN(suite())
