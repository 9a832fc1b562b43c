/* What an operator does with a running cluster: upgrade, drain, let go of old checkpoints. */
#include <check.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>

#include "common/base/clock.h"
#include "common/base/fs.h"
#include "common/base/mem.h"
#include "tests/e2e/harness.h"
#include "tests/e2e/program.h"
#include "tests/unit/check_main.h"

#define SECONDS 60

/* A state directory as the first release left it: the coordinator copies, migrates and goes on. */
START_TEST(test_upgrade)
{
    static const char *const back[] = {
        "/bin/sh", "-c",
        "sqlite3 state/control.db 'DROP TABLE holds; PRAGMA user_version=1' && "
        "sqlite3 state/runs/r.db 'ALTER TABLE checkpoints DROP COLUMN pinned; "
        "ALTER TABLE prompts DROP COLUMN sample_ids; "
        "ALTER TABLE checkpoints DROP COLUMN dropped_ms; CREATE TABLE first("
        " iteration INTEGER NOT NULL, work_set INTEGER NOT NULL, position INTEGER NOT NULL,"
        " prompt INTEGER NOT NULL, sample INTEGER NOT NULL, source_iteration INTEGER NOT NULL,"
        " ids BLOB NOT NULL, finish INTEGER NOT NULL, ref_real INTEGER NOT NULL,"
        " ref_generated INTEGER NOT NULL, trainer_real INTEGER, trainer_generated INTEGER,"
        " worker TEXT NOT NULL, at_ms INTEGER NOT NULL,"
        " PRIMARY KEY (iteration, work_set, position)) STRICT, WITHOUT ROWID; "
        "INSERT INTO first SELECT iteration, work_set, position, prompt, sample, source_iteration,"
        " coalesce((SELECT ids FROM answers WHERE id = answer), zeroblob(0)), finish, ref_real,"
        " ref_generated, trainer_real, trainer_generated, worker, at_ms FROM results; "
        "DROP TABLE results; DROP TABLE answers; ALTER TABLE first RENAME TO results; "
        "PRAGMA user_version=1'",
        NULL};
    struct cluster cluster;
    struct said said;
    char path[256];
    cluster_open(&cluster);
    cluster_write_rows(&cluster, "train.jsonl", 0, 30);
    cluster_create_run(&cluster, "r", 1, "");
    cluster_start_generator(&cluster, 0);
    cluster_start_trainer(&cluster, 0);
    cluster_iterate(&cluster, "r", SECONDS);
    cluster_end(&cluster.coordinator, SIGTERM);
    ck_assert_msg(program_run_argv(cluster.dir, &said, 20, back) == 0, "%s", said.err);
    cluster_start_coordinator(&cluster); /* the workers were there all the time */
    static const char *const copies[] = {"control.db.v1.bak", "runs/r.db.v1.bak"};
    for (size_t i = 0; i < SP_COUNT(copies); i++) {
        snprintf(path, sizeof(path), "%s/state/%s", cluster.dir, copies[i]);
        ck_assert_msg(sp_path_exists(path), "no %s", path);
    }
    cluster_iterate(&cluster, "r", SECONDS);
    json_decref(cluster_ctl_ok(&cluster, "pin", "r:0", NULL));
    cluster_close(&cluster);
}
END_TEST

/* Runs at once: the one of the higher priority is first, and one that is stuck delays nobody. */
START_TEST(test_priorities)
{
    static const char *const names[] = {"stuck", "low", "high"};
    struct cluster cluster;
    double closed[3] = {0};
    cluster_open(&cluster);
    cluster_write_rows(&cluster, "train.jsonl", 0, 30);
    for (int i = 0; i < 3; i++)
        cluster_create_run(&cluster, names[i], 1, "");
    json_decref(cluster_ctl_ok(&cluster, "priority", "stuck", "100", NULL));
    json_decref(cluster_ctl_ok(&cluster, "priority", "high", "10", NULL));
    ck_assert_int_eq(cluster_ctl(&cluster, NULL, "priority", "high", "much", NULL), 2);
    ck_assert_int_eq(cluster_ctl(&cluster, NULL, "priority", "high", "5000", NULL), 2);
    cluster_end(&cluster.coordinator, SIGKILL); /* it is remembered */
    cluster_start_coordinator(&cluster);
    for (int i = 0; i < 3; i++) {
        cluster_start_iteration(&cluster, names[i]);
        cluster_wait_state(&cluster, names[i], "running", SECONDS);
    }
    json_decref(cluster_ctl_ok(&cluster, "pause", "stuck", NULL));
    cluster_start_trainer(&cluster, 0);
    cluster_start_generator(&cluster, 0);
    for (int i = 1; i < 3; i++) {
        cluster_wait_state(&cluster, names[i], "closed", SECONDS);
        json_t *row = cluster_iteration(&cluster, names[i], 0);
        closed[i] = cluster_number(row, "closed_ms");
        json_decref(row);
    }
    ck_assert_msg(closed[2] < closed[1], "high was closed after low");
    ck_assert_str_eq(cluster_state(&cluster, "stuck"), "paused");
    cluster_close(&cluster);
}
END_TEST

static size_t dropped(struct cluster *cluster)
{
    json_t *reply = cluster_ctl_ok(cluster, "checkpoints", "r", NULL), *row;
    size_t i, count = 0;
    json_array_foreach(json_object_get(reply, "checkpoints"), i, row)
    {
        count += json_is_integer(json_object_get(row, "dropped_ms")) &&
                 json_integer_value(json_object_get(row, "dropped_ms")) > 0;
    }
    json_decref(reply);
    return count;
}

START_TEST(test_old_checkpoints_go)
{
    struct cluster cluster;
    cluster_open(&cluster);
    cluster_end(&cluster.coordinator, SIGTERM);
    cluster.set = "coordinator.keep_last=1";
    cluster_start_coordinator(&cluster);
    cluster_write_rows(&cluster, "train.jsonl", 0, 30);
    cluster_create_run(&cluster, "r", 1, "");
    cluster_start_generator(&cluster, 0);
    cluster_start_trainer(&cluster, 0);
    for (int i = 0; i < 4; i++)
        cluster_iterate(&cluster, "r", SECONDS);
    json_decref(cluster_ctl_ok(&cluster, "pin", "r:0", NULL));
    json_t *said = cluster_ctl_ok(&cluster, "gc", "--dry-run", NULL);
    int64_t would = (int64_t)cluster_number(said, "checkpoints_dropped");
    json_decref(said);
    ck_assert_uint_eq(dropped(&cluster), 0);
    said = cluster_ctl_ok(&cluster, "gc", NULL);
    ck_assert_int_eq((int64_t)cluster_number(said, "checkpoints_dropped"), would);
    ck_assert_int_ge(would, 1); /* of 0 (pinned), 1, 2, 3 (newest), less what is in use */
    json_decref(said);
    ck_assert_uint_eq(dropped(&cluster), (size_t)would);
    /* What is kept is whole; what has gone says so. */
    json_decref(cluster_ctl_ok(&cluster, "export", "r:0", "zero", NULL));
    json_decref(cluster_ctl_ok(&cluster, "export", "r:3", "three", NULL));
    int gone = 0;
    for (int i = 1; i < 3; i++) {
        char name[8], dir[8];
        snprintf(name, sizeof(name), "r:%d", i);
        snprintf(dir, sizeof(dir), "d%d", i);
        gone += cluster_ctl(&cluster, NULL, "export", name, dir, NULL) == 4;
    }
    ck_assert_int_eq(gone, (int)would);
    ck_assert_int_ne(cluster_ctl(&cluster, NULL, "gc", "extra", NULL), 0);
    cluster_iterate(&cluster, "r", SECONDS);
    cluster_close(&cluster);
}
END_TEST

/* Drained in the middle of its work, a trainer writes a snapshot and another one goes on from the
 * coordinator's pairs; a generator's leases go to the other one. */
START_TEST(test_drain)
{
    struct cluster cluster;
    cluster_open(&cluster);
    cluster_write_rows(&cluster, "train.jsonl", 0, 60);
    cluster_create_run(&cluster, "r", 1, "");
    cluster_start_generator(&cluster, 0);
    cluster_start_generator(&cluster, 1);
    cluster_start_trainer(&cluster, 0);
    cluster_start_iteration(&cluster, "r");
    cluster_wait_pairs(&cluster, "r", 1, SECONDS);
    json_decref(cluster_ctl_ok(&cluster, "drain", "generator-0", NULL));
    json_decref(cluster_ctl_ok(&cluster, "drain", "trainer-0", NULL));
    cluster_start_trainer(&cluster, 1);
    cluster_wait_state(&cluster, "r", "closed", SECONDS);
    /* Nothing went back to them, now or after a restart. */
    cluster_end(&cluster.coordinator, SIGTERM);
    cluster_start_coordinator(&cluster);
    json_t *reply = NULL, *worker;
    size_t i;
    for (size_t seen = 0; seen < 2;) {
        seen = 0;
        reply = cluster_ctl_ok(&cluster, "status", NULL);
        json_array_foreach(json_object_get(reply, "workers"), i, worker)
        {
            const char *name = cluster_text(worker, "name");
            bool held = strcmp(name, "generator-0") == 0 || strcmp(name, "trainer-0") == 0;
            ck_assert_str_eq(cluster_text(worker, "hold"), held ? "cordoned" : "");
            seen += held;
        }
        json_decref(reply);
    }
    json_decref(cluster_ctl_ok(&cluster, "uncordon", "generator-0", NULL));
    json_decref(cluster_ctl_ok(&cluster, "uncordon", "trainer-0", NULL));
    ck_assert_int_eq(cluster_ctl(&cluster, NULL, "cordon", "nobody", NULL), 4);
    cluster_close(&cluster);
}
END_TEST

/* Every connection is a file: a shell's soft limit is no limit of workers. */
START_TEST(test_files_that_may_be_open)
{
    struct cluster cluster;
    struct rlimit before, low;
    char path[64], line[256];
    unsigned long soft = 0, hard = 0;
    ck_assert_int_eq(getrlimit(RLIMIT_NOFILE, &before), 0);
    low = (struct rlimit){.rlim_cur = 256, .rlim_max = before.rlim_max};
    ck_assert_int_eq(setrlimit(RLIMIT_NOFILE, &low), 0);
    cluster_open(&cluster);
    snprintf(path, sizeof(path), "/proc/%d/limits", (int)cluster.coordinator);
    FILE *file = fopen(path, "re");
    ck_assert_ptr_nonnull(file);
    while (fgets(line, sizeof(line), file) != NULL &&
           sscanf(line, "Max open files %lu %lu", &soft, &hard) != 2)
        ;
    fclose(file);
    ck_assert_uint_eq(hard, before.rlim_max);
    ck_assert_uint_eq(soft, hard);
    cluster_close(&cluster);
    ck_assert_int_eq(setrlimit(RLIMIT_NOFILE, &before), 0);
}
END_TEST

static Suite *suite(void)
{
    Suite *s = suite_create("e2e/operations");
    TCase *c = tcase_create("operations");
    tcase_set_timeout(c, 240);
    tcase_add_test(c, test_upgrade);
    tcase_add_test(c, test_old_checkpoints_go);
    tcase_add_test(c, test_drain);
    tcase_add_test(c, test_priorities);
    tcase_add_test(c, test_files_that_may_be_open);
    suite_add_tcase(s, c);
    return s;
}

SPIN_CHECK_MAIN(suite())
