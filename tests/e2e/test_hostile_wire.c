/* Hostile bytes on the coordinator's socket, coordinators that are none, and damaged databases. */
#include <check.h>
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "common/base/buf.h"
#include "common/base/clock.h"
#include "common/base/fs.h"
#include "common/base/limits.h"
#include "common/base/mem.h"
#include "common/base/rng.h"
#include "proto/messages.h"
#include "tests/e2e/harness.h"
#include "tests/e2e/program.h"
#include "tests/unit/check_main.h"

#define SECONDS 60
#define STATE "--state-dir state "

/* ---- the bytes below nng: the SP protocol over a local socket ---- */

static const uint8_t greeting[8] = {0, 'S', 'P', 0, 0, 0x30, 0, 0}; /* of a REQ */

static int dial(const struct cluster *cluster)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    snprintf(address.sun_path, sizeof(address.sun_path), "%s/state/coordinator.sock", cluster->dir);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    ck_assert_int_ge(fd, 0);
    struct timeval wait = {.tv_sec = 2};
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &wait, sizeof(wait));
    setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &wait, sizeof(wait));
    ck_assert_msg(connect(fd, (struct sockaddr *)&address, sizeof(address)) == 0, "%s",
                  strerror(errno));
    return fd;
}

/* The peer may hang up in the middle, as it should. */
static void throw_bytes(int fd, const void *data, size_t length)
{
    for (size_t at = 0; at < length;) {
        ssize_t n = send(fd, (const char *)data + at, length - at, MSG_NOSIGNAL);
        if (n <= 0)
            return;
        at += (size_t)n;
    }
}

static void throw_frame(int fd, uint64_t claimed, const void *body, size_t length)
{
    uint8_t head[13] = {1};
    for (int i = 0; i < 8; i++)
        head[1 + i] = (uint8_t)(claimed >> (56 - 8 * i));
    memcpy(head + 9, "\x80\0\0\1", 4); /* request number, with the bit that ends the header */
    throw_bytes(fd, head, sizeof(head));
    throw_bytes(fd, body, length);
}

/* One message as a REQ socket sends it. */
static void throw_message(int fd, const void *body, size_t length)
{
    throw_bytes(fd, greeting, sizeof(greeting));
    throw_frame(fd, length + 4, body, length);
}

/* The status of the reply, -1 when none comes. */
static int reply_status(int fd)
{
    uint8_t bytes[8 + 13 + 4096];
    size_t have = 0;
    struct sp_error err;
    while (have < sizeof(bytes)) {
        ssize_t n = recv(fd, bytes + have, sizeof(bytes) - have, 0);
        if (n <= 0)
            return -1;
        have += (size_t)n;
        if (have > 21 && have >= 17 + (size_t)bytes[15] * 256 + bytes[16])
            break;
    }
    struct sp_arena *arena = sp_arena_new(4096, 1 << 20);
    struct proto_envelope envelope = {0};
    void *body = NULL;
    enum sp_err rc = proto_decode(bytes + 21, have - 21, arena, &envelope, &body, &err);
    int status = rc == SP_OK ? (int)envelope.status : -1;
    sp_arena_free(arena);
    return status;
}

static void still_well(struct cluster *cluster, const char *after)
{
    struct said said;
    int code = program_run(cluster->dir, &said, 20, SPINCTL, STATE "status");
    ck_assert_msg(code == 0, "after %s: %s", after, said.err);
}

static long resident_kib(pid_t pid)
{
    char path[64], line[256];
    long kib = 0;
    snprintf(path, sizeof(path), "/proc/%d/status", (int)pid);
    FILE *file = fopen(path, "re");
    while (file && fgets(line, sizeof(line), file)) {
        if (sscanf(line, "VmRSS: %ld", &kib) == 1)
            break;
    }
    if (file)
        fclose(file);
    return kib;
}

static void good_message(struct sp_buf *out)
{
    const struct proto_envelope envelope = {
        .version = PROTO_VERSION, .type = PROTO_ADMIN, .request_id = 7, .token = "a.b"};
    const struct proto_admin body = {.verb = "status", .run = "", .args = "{}"};
    proto_encode(&envelope, &body, out);
}

static void random_bytes(uint8_t *to, size_t length, uint32_t seed)
{
    for (size_t i = 0; i < length; i++)
        to[i] = (uint8_t)sp_rng_below(1, SP_STREAM_TEST, 0, seed, 0, (uint32_t)i, 256);
}

/* ---- frames ---- */

static void broken_framing(struct cluster *cluster)
{
    static const char huge[] = "x";
    uint8_t noise[4096];
    const uint64_t claims[] = {0, 1, 3, UINT64_MAX, 1ull << 63, 6u << 20, SP_MAX_MESSAGE + 65};
    for (uint32_t seed = 0; seed < 20; seed++) {
        int fd = dial(cluster);
        random_bytes(noise, sizeof(noise), seed);
        throw_bytes(fd, noise, 1 + (size_t)seed * 200);
        close(fd);
    }
    for (size_t length = 0; length <= sizeof(greeting); length++) {
        int fd = dial(cluster);
        throw_bytes(fd, greeting, length);
        close(fd);
    }
    for (size_t i = 0; i < SP_COUNT(claims); i++) {
        int fd = dial(cluster);
        throw_bytes(fd, greeting, sizeof(greeting));
        throw_frame(fd, claims[i], huge, 1);
        close(fd);
    }
    still_well(cluster, "broken framing");
}

/* A message over the limit, sent in full: the connection is closed, nothing is kept. */
static void too_long(struct cluster *cluster)
{
    size_t length = 6u << 20;
    uint8_t *body = sp_xalloc(length);
    memset(body, 0x81, length);
    for (int i = 0; i < 5; i++) {
        int fd = dial(cluster);
        throw_message(fd, body, length);
        ck_assert_int_eq(reply_status(fd), -1);
        close(fd);
    }
    free(body);
    still_well(cluster, "6 MiB messages");
}

/* Whole frames whose body is malformed get an answer that says so. */
static void malformed_bodies(struct cluster *cluster)
{
    static const struct {
        const char *bytes;
        size_t length;
    } bodies[] = {
        {"", 0},
        {"\xc0", 1},                                              /* nil */
        {"\x80", 1},                                              /* {} */
        {"\x93\1\2\3", 4},                                        /* an array */
        {"\xdf\xff\xff\xff\xff", 5},                              /* a map of 4 Gi entries */
        {"\xc6\xff\xff\xff\xff", 5},                              /* 4 GiB of bytes */
        {"\x81\xa1v\x01\x00", 5},                                 /* trailing byte */
        {"\x84\xa1v\xcd\x03\xe7\xa1t\x01\xa1r\x01\xa1k\xa0", 15}, /* version 999 */
        {"\x84\xa1v\x01\xa1t\xcd\x27\x0f\xa1r\x01\xa1k\xa0", 15}, /* type 9999 */
        {"\x84\xa1v\xa1x\xa1t\x01\xa1r\x01\xa1k\xa0", 14},        /* a text as version */
        {"\xc1", 1},                                              /* never used */
        {"\x91\x91\x91\x91\x91\x91\x91\x91\x91\x91\x91\x91\x91\x91\x91\x91\x91\x91\x91\xc0", 20},
    };
    for (size_t i = 0; i < SP_COUNT(bodies); i++) {
        int fd = dial(cluster);
        throw_message(fd, bodies[i].bytes, bodies[i].length);
        int status = reply_status(fd);
        ck_assert_msg(status > 0, "body %zu: status %d", i, status);
        close(fd);
    }
    still_well(cluster, "malformed bodies");
}

/* Every prefix of a good message, and every byte of it changed: an error each time, since even the
 * good one has no token that is known. */
static void half_messages(struct cluster *cluster)
{
    struct sp_buf good = SP_BUF_INIT;
    good_message(&good);
    for (size_t length = 0; length <= good.length; length++) {
        int fd = dial(cluster);
        throw_message(fd, good.data, length);
        int status = reply_status(fd);
        ck_assert_msg(status > 0, "%zu of %zu bytes: status %d", length, good.length, status);
        close(fd);
    }
    for (size_t at = 0; at < good.length; at++) {
        int fd = dial(cluster);
        char kept = good.data[at];
        good.data[at] = (char)(kept ^ (1 << at % 8));
        throw_message(fd, good.data, good.length);
        int status = reply_status(fd);
        ck_assert_msg(status > 0, "byte %zu changed: status %d", at, status);
        good.data[at] = kept;
        close(fd);
    }
    /* A frame that promises more than is sent, left open. */
    int open_fds[64];
    for (size_t i = 0; i < SP_COUNT(open_fds); i++) {
        open_fds[i] = dial(cluster);
        throw_bytes(open_fds[i], greeting, i % 9);
        if (i % 9 == 8)
            throw_frame(open_fds[i], SP_MAX_MESSAGE, good.data, good.length);
    }
    still_well(cluster, "half messages");
    for (size_t i = 0; i < SP_COUNT(open_fds); i++)
        close(open_fds[i]);
    sp_buf_deinit(&good);
}

/* An iteration runs on while all of this comes in. */
START_TEST(test_hostile_bytes_on_the_socket)
{
    struct cluster cluster;
    cluster_open(&cluster);
    cluster_write_rows(&cluster, "train.jsonl", 0, 60);
    cluster_create_run(&cluster, "r", 1, "");
    cluster_start_iteration(&cluster, "r");
    cluster_start_generator(&cluster, 0);
    cluster_start_trainer(&cluster, 0);
    long before = resident_kib(cluster.coordinator);
    broken_framing(&cluster);
    too_long(&cluster);
    malformed_bodies(&cluster);
    half_messages(&cluster);
    cluster_wait_state(&cluster, "r", "closed", SECONDS);
    long after = resident_kib(cluster.coordinator);
    ck_assert_msg(after - before < 200 * 1024, "from %ld to %ld KiB", before, after);
    ck_assert_int_eq(cluster_end(&cluster.coordinator, SIGTERM), 0);
    cluster_close(&cluster);
}
END_TEST

/* ---- a coordinator that is none ---- */

/* Listens at DIR/state2/coordinator.sock, sends `bytes` to whoever comes, and waits. */
static pid_t impostor(const struct cluster *cluster, const void *bytes, size_t length)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    snprintf(address.sun_path, sizeof(address.sun_path), "%s/false.sock", cluster->dir);
    unlink(address.sun_path);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    ck_assert(bind(fd, (struct sockaddr *)&address, sizeof(address)) == 0 && listen(fd, 16) == 0);
    pid_t pid = fork();
    if (pid == 0) {
        for (;;) {
            int peer = accept(fd, NULL, NULL);
            if (peer >= 0 && length > 0)
                throw_bytes(peer, bytes, length);
        }
    }
    close(fd);
    return pid;
}

START_TEST(test_spinctl_meets_impostors)
{
    static const char arguments[] =
        "--coordinator ipc://%s/false.sock --token-file generator.token status";
    static const struct {
        const char *bytes;
        size_t length;
        int code;
        const char *mention;
    } list[] = {
        {"", 0, 13, "no coordinator answers"},
        {"HTTP/1.1 400 Bad Request\r\n\r\n", 28, 2, "no coordinator"},
        {"\0SP\0\0\x30\0\0", 8, 2, "no coordinator"}, /* another REQ */
        {"\0SP\0\0\x10\0\0", 8, 2, "no coordinator"}, /* a PUB */
    };
    struct cluster cluster;
    struct said said;
    cluster_open(&cluster);
    char *command = sp_xprintf(arguments, cluster.dir);
    for (size_t i = 0; i < SP_COUNT(list); i++) {
        pid_t pid = impostor(&cluster, list[i].bytes, list[i].length);
        int code = program_run(cluster.dir, &said, 20, SPINCTL, command);
        kill(pid, SIGKILL);
        ck_assert_msg(code == list[i].code, "%zu: %d after %lld ms: %s", i, code,
                      (long long)said.ms, said.err);
        ck_assert_msg(strstr(said.err, list[i].mention) && strstr(said.err, "false.sock"), "%s",
                      said.err);
    }
    free(command);
    cluster_close(&cluster);
}
END_TEST

/* ---- databases ---- */

#define DATABASE "state/control.db"
#define RUN_DATABASE "state/runs/r.db"

static const struct {
    const char *damage; /* shell, in the cluster's directory */
    const char *mentions[2];
    bool set_aside; /* the others go on; what is newer is for a newer program, and it is refused */
} damages[] = {
    {"truncate -s 1000 " DATABASE, {"control.db", NULL}},
    {"truncate -s 5000 " DATABASE, {"control.db", NULL}},
    {"printf 'not a database, but a text' >" DATABASE, {"control.db", NULL}},
    {"dd if=/dev/zero of=" DATABASE " bs=16 count=1 conv=notrunc", {"control.db", NULL}},
    {"dd if=/dev/urandom of=" DATABASE " bs=4096 seek=1 count=2 conv=notrunc",
     {"control.db", NULL}},
    {"printf '\\1' | dd of=" DATABASE " bs=1 seek=61 conv=notrunc", {"control.db", "newer"}},
    {"rm " DATABASE " && mkdir " DATABASE, {"control.db", NULL}},
    {"rm " RUN_DATABASE, {"r.db", NULL}, true},
    {": >" RUN_DATABASE, {"r.db", NULL}, true},
    {"truncate -s 3000 " RUN_DATABASE, {"r.db", NULL}, true},
    {"cp " DATABASE " " RUN_DATABASE, {"r.db", NULL}, true},
    {"printf '\\1' | dd of=" RUN_DATABASE " bs=1 seek=61 conv=notrunc", {"r.db", "newer"}},
    {"dd if=/dev/urandom of=" RUN_DATABASE " bs=4096 seek=1 count=4 conv=notrunc",
     {"r.db", NULL},
     true},
    {"printf x | dd of=" RUN_DATABASE " bs=1 seek=2 conv=notrunc", {"r.db", NULL}, true},
};

/* The coordinator starts without the run and says why. */
static void check_set_aside(struct cluster *cluster, const char *damage)
{
    json_t *json;
    cluster_start_coordinator(cluster);
    ck_assert_int_ne(cluster_ctl(cluster, &json, "doctor", NULL), 0);
    char *text = json_dumps(json, 0);
    ck_assert_msg(strstr(text, "run r is set aside") != NULL && strstr(text, "r.db") != NULL,
                  "%s: %s", damage, text);
    free(text);
    json_decref(json);
    ck_assert_int_eq(cluster_end(&cluster->coordinator, SIGTERM), 0);
}

static void shell(const struct cluster *cluster, const char *command)
{
    struct said said;
    const char *const argv[] = {"/bin/sh", "-ec", command, NULL};
    int code = program_run_argv(cluster->dir, &said, 20, argv);
    ck_assert_msg(code == 0, "%s: %s", command, said.err);
}

START_TEST(test_damaged_databases)
{
    struct cluster cluster;
    struct said said;
    cluster_open(&cluster);
    cluster_write_rows(&cluster, "train.jsonl", 0, 30);
    cluster_create_run(&cluster, "r", 1, "");
    cluster_start_generator(&cluster, 0);
    cluster_start_trainer(&cluster, 0);
    cluster_iterate(&cluster, "r", SECONDS);
    json_t *before = cluster_iteration(&cluster, "r", 0);
    ck_assert_int_eq(cluster_end(&cluster.coordinator, SIGTERM), 0);
    shell(&cluster, "cp -r state kept");
    for (size_t i = 0; i < SP_COUNT(damages); i++) {
        shell(&cluster, damages[i].damage);
        if (damages[i].set_aside) {
            check_set_aside(&cluster, damages[i].damage);
            shell(&cluster, "rm -rf state && cp -r kept state");
            continue;
        }
        int code = program_run(cluster.dir, &said, 10, COORDINATOR, "--state-dir state");
        ck_assert_msg(code > 0 && code < 20, "%s: ended with %d: %s", damages[i].damage, code,
                      said.err);
        for (int m = 0; m < 2 && damages[i].mentions[m]; m++)
            ck_assert_msg(strstr(said.err, damages[i].mentions[m]) != NULL, "%s: no \"%s\" in: %s",
                          damages[i].damage, damages[i].mentions[m], said.err);
        shell(&cluster, "rm -rf state && cp -r kept state");
    }
    /* A spoilt administrator's token is made anew; a lost socket, too. */
    shell(&cluster, "echo spoilt >state/admin.token");
    cluster_start_coordinator(&cluster);
    json_t *after = cluster_iteration(&cluster, "r", 0);
    ck_assert(json_equal(before, after));
    json_decref(before);
    json_decref(after);
    ck_assert_int_eq(program_run(cluster.dir, &said, 10, COORDINATOR, "--state-dir state"), 10);
    ck_assert_msg(strstr(said.err, "in use by process") != NULL, "%s", said.err);
    cluster_close(&cluster);
}
END_TEST

static Suite *suite(void)
{
    Suite *s = suite_create("e2e/hostile_wire");
    TCase *c = tcase_create("bytes");
    tcase_set_timeout(c, 120);
    tcase_add_test(c, test_hostile_bytes_on_the_socket);
    tcase_add_test(c, test_spinctl_meets_impostors);
    tcase_add_test(c, test_damaged_databases);
    suite_add_tcase(s, c);
    return s;
}

SPIN_CHECK_MAIN(suite())
