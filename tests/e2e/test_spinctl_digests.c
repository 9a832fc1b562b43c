/* What an outsider computes again from what spinctl prints and writes, with nothing but
 * docs/formats.md and sha256sum; and the live picture. */
#include <check.h>
#include <pty.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "common/base/clock.h"
#include "common/base/json.h"
#include "common/base/mem.h"
#include "tests/e2e/harness.h"
#include "tests/e2e/program.h"
#include "tests/unit/check_main.h"

#define SECONDS 60
#define PICTURE_COLUMNS 56
#define PICTURE_ROWS 14

/* ---- pairs ---- */

static void put_u32(FILE *file, uint32_t value)
{
    for (int i = 0; i < 4; i++)
        fputc((int)(value >> (8 * i) & 255), file);
}

static void put_ids(FILE *file, const json_t *pair, const char *key)
{
    const json_t *ids = json_object_get(pair, key);
    ck_assert_msg(json_is_array(ids), "no %s", key);
    put_u32(file, (uint32_t)json_array_size(ids));
    for (size_t i = 0; i < json_array_size(ids); i++)
        put_u32(file, (uint32_t)json_integer_value(json_array_get(ids, i)));
}

/* The bits as printed; the number beside them must be the same value. */
static void put_bits(FILE *file, const json_t *pair, const char *key)
{
    char bits_key[64];
    float value;
    snprintf(bits_key, sizeof(bits_key), "%s_bits", key);
    uint32_t bits = (uint32_t)strtoul(cluster_text(pair, bits_key), NULL, 16);
    memcpy(&value, &bits, sizeof(value));
    if (json_is_null(json_object_get(pair, key)))
        ck_assert(value != value); /* JSON has no NaN */
    else
        ck_assert(value == (float)cluster_number(pair, key));
    put_u32(file, bits);
}

static void put_pair(FILE *file, const json_t *pair, int64_t position)
{
    ck_assert_int_eq((int64_t)cluster_number(pair, "position"), position);
    put_u32(file, (uint32_t)cluster_number(pair, "source_iteration"));
    put_u32(file, (uint32_t)cluster_number(pair, "prompt"));
    put_u32(file, (uint32_t)cluster_number(pair, "sample"));
    put_ids(file, pair, "prompt_ids");
    put_ids(file, pair, "real_ids");
    put_ids(file, pair, "generated_ids");
    put_u32(file, (uint32_t)cluster_number(pair, "finish_code"));
    put_bits(file, pair, "ref_real");
    put_bits(file, pair, "ref_generated");
}

/* The first word that a shell command prints. */
static void word_of(struct cluster *cluster, const char *command, char ret[128])
{
    struct said said;
    const char *const argv[] = {"/bin/sh", "-c", command, NULL};
    int code = program_run_argv(cluster->dir, &said, 20, argv);
    ck_assert_msg(code == 0 && sscanf(said.out, "%100s", ret) == 1, "%s: %s", command, said.err);
}

/* pairs_sha256 from `spinctl pairs --jsonl`, whose lines stand in DIR/pairs.jsonl afterwards. */
static int64_t digest_of_pairs(struct cluster *cluster, int iteration, char ret[128])
{
    char word[128], line[65536], path[256];
    char *command =
        sp_xprintf("%s/%s --state-dir state pairs r --iteration %d --jsonl >pairs.jsonl "
                   "&& wc -l <pairs.jsonl",
                   SPIN_BUILD_ROOT, SPINCTL, iteration);
    word_of(cluster, command, word);
    free(command);
    snprintf(path, sizeof(path), "%s/pairs.jsonl", cluster->dir);
    FILE *lines = fopen(path, "re");
    snprintf(path, sizeof(path), "%s/pairs.bin", cluster->dir);
    FILE *file = fopen(path, "we");
    ck_assert(lines && file);
    fwrite("spin-pairs 1\n\0\0\0", 1, 16, file);
    int64_t position = 0;
    while (fgets(line, sizeof(line), lines)) {
        struct sp_error err;
        json_t *pair = NULL;
        ck_assert_int_eq(sp_json_parse(line, strlen(line), "line", &pair, &err), SP_OK);
        put_pair(file, pair, position++);
        json_decref(pair);
    }
    fclose(lines);
    fclose(file);
    word_of(cluster, "sha256sum pairs.bin", ret);
    return position;
}

START_TEST(test_digests_from_outside)
{
    static const char exported[] =
        "for f in $(ls exported | grep -v provenance.json); do echo \"$(sha256sum <exported/$f | "
        "cut "
        "-d' ' -f1) $(stat -c %s exported/$f) $f\"; done | LC_ALL=C sort | sha256sum";
    struct cluster cluster;
    struct said said;
    char digest[128], other[128];
    cluster_open(&cluster);
    cluster_write_rows(&cluster, "train.jsonl", 0, 250);
    cluster_create_run(&cluster, "r", 5, "train.epochs=1");
    cluster_start_generator(&cluster, 0);
    cluster_start_trainer(&cluster, 0);
    for (int i = 0; i < 2; i++) {
        cluster_iterate(&cluster, "r", SECONDS);
        json_t *row = cluster_iteration(&cluster, "r", i);
        int64_t pairs = digest_of_pairs(&cluster, i, digest);
        /* The second iteration replays the first one's pairs; more than a page either way. */
        ck_assert_int_eq(pairs, (int64_t)cluster_number(row, "pairs"));
        ck_assert_int_gt(pairs, 200);
        ck_assert_str_eq(digest, cluster_text(row, "pairs_sha256"));
        word_of(&cluster,
                "printf x | dd of=pairs.bin bs=1 seek=700 conv=notrunc 2>dd.log; sha256sum "
                "pairs.bin",
                other);
        ck_assert_str_ne(digest, other);
        char *command = sp_xprintf("--state-dir state export r:%d exported", i);
        ck_assert_int_eq(program_run(cluster.dir, &said, 20, SPINCTL, command), 0);
        word_of(&cluster, exported, digest);
        ck_assert_str_eq(digest, cluster_text(row, "checkpoint_sha256"));
        ck_assert_int_eq(program_run(cluster.dir, &said, 20, SPIN_MODEL, "info exported"), 0);
        word_of(&cluster, "rm -r exported && echo done", other);
        free(command);
        json_decref(row);
    }
    cluster_close(&cluster);
}
END_TEST

/* ---- skip ---- */

START_TEST(test_a_skipped_prompt_is_left_out)
{
    struct cluster cluster;
    char digest[128];
    cluster_open(&cluster);
    cluster_write_rows(&cluster, "train.jsonl", 0, 30);
    cluster_create_run(&cluster, "r", 5, "");
    cluster_start_iteration(&cluster, "r");
    struct said said;
    ck_assert_int_eq(program_run(cluster.dir, &said, 20, SPINCTL, "--state-dir state skip r 4"), 0);
    ck_assert_str_eq(said.out, "r: prompt 4 is taken out of iteration 0\n");
    cluster_start_generator(&cluster, 0);
    cluster_start_trainer(&cluster, 0);
    cluster_wait_state(&cluster, "r", "closed", SECONDS);
    json_t *json = cluster_ctl_ok(&cluster, "pairs", "r", NULL);
    const json_t *pairs = json_object_get(json, "pairs");
    int skipped = 0;
    for (size_t i = 0; i < json_array_size(pairs); i++) {
        const json_t *pair = json_array_get(pairs, i);
        if (!json_is_true(json_object_get(pair, "skipped")))
            continue;
        skipped++;
        ck_assert_int_eq((int)cluster_number(pair, "prompt"), 4);
        ck_assert(!json_is_true(json_object_get(pair, "stored")));
    }
    ck_assert_int_eq(skipped, 1);
    json_decref(json);
    json = cluster_iteration(&cluster, "r", 0);
    ck_assert_int_gt(digest_of_pairs(&cluster, 0, digest), 20);
    ck_assert_str_eq(digest, cluster_text(json, "pairs_sha256"));
    json_decref(json);
    cluster_close(&cluster);
}
END_TEST

/* ---- run stops by itself ---- */

START_TEST(test_run_stops_at_a_verdict)
{
    static const char harmful[] = "train.learning_rate=0.05 verdict.accept_degraded=false "
                                  "run.iterations=4 data.holdout_share=0.3";
    struct cluster cluster;
    struct said said;
    cluster_open(&cluster);
    cluster_write_rows(&cluster, "train.jsonl", 0, 60);
    cluster_create_run(&cluster, "r", 5, harmful);
    cluster_start_generator(&cluster, 0);
    cluster_start_trainer(&cluster, 0);
    ck_assert_int_eq(program_run(cluster.dir, &said, SECONDS, SPINCTL, "--state-dir state run r"),
                     0);
    ck_assert_msg(strstr(said.out, "closed: degraded") != NULL, "%s", said.out);
    json_t *json = cluster_ctl_ok(&cluster, "iterations", "r", NULL);
    size_t made = json_array_size(json_object_get(json, "iterations"));
    ck_assert_uint_lt(made, 4);
    json_decref(json);
    /* Asked again, it stays where it is and says why; --force goes on. */
    ck_assert_int_eq(program_run(cluster.dir, &said, SECONDS, SPINCTL, "--state-dir state run r"),
                     0);
    ck_assert_msg(strstr(said.err, "degraded") && strstr(said.err, "--force"), "%s", said.err);
    ck_assert_ptr_null(strstr(said.out, "closed:"));
    ck_assert_int_eq(program_run(cluster.dir, &said, SECONDS, SPINCTL,
                                 "--state-dir state run r --force --iterations 4"),
                     0);
    ck_assert_ptr_nonnull(strstr(said.out, "iteration 3 closed"));
    cluster_close(&cluster);
}
END_TEST

/* ---- watch ---- */

/* No line of the picture is wider than the terminal, and no picture taller. */
static void check_picture(const char *text)
{
    int column = 0, rows = 0;
    for (const char *at = text; *at; at++) {
        if (*at == '\x1b') {
            at += strcspn(at, "ABCDHJKm");
            if (*at == 'A')
                rows = 0;
            if (*at == '\0')
                break;
        } else if (*at == '\n') {
            ck_assert_int_le(column, PICTURE_COLUMNS);
            ck_assert_int_lt(++rows, PICTURE_ROWS);
            column = 0;
        } else if (*at != '\r') {
            column += ((unsigned char)*at & 0xC0) != 0x80;
            ck_assert((unsigned char)*at >= 0x20);
        }
    }
}

START_TEST(test_the_live_picture_keeps_to_the_screen)
{
    struct cluster cluster;
    struct winsize size = {.ws_row = PICTURE_ROWS, .ws_col = PICTURE_COLUMNS};
    char text[65536];
    size_t length = 0;
    int master = -1;
    cluster_open(&cluster);
    cluster_write_rows(&cluster, "train.jsonl", 0, 60);
    cluster_create_run(&cluster, "r", 5, "");
    pid_t pid = forkpty(&master, NULL, NULL, &size);
    if (pid == 0) {
        if (chdir(cluster.dir) == 0)
            execl(SPIN_BUILD_ROOT "/" SPINCTL, "spinctl", "--state-dir", "state", "watch", "r",
                  NULL);
        _exit(127);
    }
    /* The first picture is there before there is anything to show. */
    do {
        ssize_t n = read(master, text + length, sizeof(text) - 1 - length);
        ck_assert_int_gt((int)n, 0);
        length += (size_t)n;
        text[length] = '\0';
    } while (!strstr(text, "no iteration yet"));
    cluster_start_generator(&cluster, 0);
    cluster_start_trainer(&cluster, 0);
    cluster_iterate(&cluster, "r", SECONDS);
    sp_sleep_ms(1500);
    ck_assert_int_eq(waitpid(pid, NULL, WNOHANG), 0); /* it stays when the iteration is over */
    kill(pid, SIGINT);
    for (ssize_t n; (n = read(master, text + length, sizeof(text) - 1 - length)) > 0;)
        length += (size_t)n;
    text[length] = '\0';
    waitpid(pid, NULL, 0);
    close(master);
    check_picture(text);
    static const char *const wanted[] = {
        "no iteration yet", "iteration 0", "closed",      "generation", "training",
        "evaluation",       "tokens/s",    "generator-0", "trainer-0",  "█"};
    for (size_t i = 0; i < SP_COUNT(wanted); i++)
        ck_assert_msg(strstr(text, wanted[i]) != NULL, "no \"%s\" in: %s", wanted[i], text);
    cluster_close(&cluster);
}
END_TEST

static Suite *suite(void)
{
    Suite *s = suite_create("e2e/spinctl_digests");
    TCase *c = tcase_create("outside");
    tcase_set_timeout(c, 120);
    tcase_add_test(c, test_digests_from_outside);
    tcase_add_test(c, test_a_skipped_prompt_is_left_out);
    tcase_add_test(c, test_run_stops_at_a_verdict);
    tcase_add_test(c, test_the_live_picture_keeps_to_the_screen);
    suite_add_tcase(s, c);
    return s;
}

SPIN_CHECK_MAIN(suite())
