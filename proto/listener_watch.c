#include "proto/listener_watch.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "common/base/clock.h"
#include "common/base/mem.h"

/* A listener that lives answers within moments. */
#define ANSWER_MS 500
/* How long an error that is most likely our own is left alone, at first and at most. */
#define ECHO_MIN_MS 500
#define ECHO_MAX_MS 30000
#define GREETING_BYTES 8

struct proto_watch {
    char *url;
    uint64_t known; /* errors that were looked into */
    int fd;         /* of the probe; -1: not connected */
    int64_t since_ms; /* when the probe began; 0: none is under way */
    size_t received;  /* bytes, of this connection */
    int64_t echo_ms, echo_until_ms; /* 0: nothing of ours can be among the errors */
};

struct proto_watch *proto_watch_new(const char *url)
{
    struct proto_watch *watch = sp_xalloc(sizeof(*watch));
    watch->url = sp_xstrdup(url);
    watch->fd = -1;
    return watch;
}

const char *proto_watch_url(const struct proto_watch *watch)
{
    return watch->url;
}

static void hang_up(struct proto_watch *watch)
{
    if (watch->fd >= 0)
        close(watch->fd);
    watch->fd = -1;
}

void proto_watch_free(struct proto_watch *watch)
{
    if (watch == NULL)
        return;
    hang_up(watch);
    free(watch->url);
    free(watch);
}

/* ---- what nng counts ---- */

static uint64_t errors_of(nng_listener listener)
{
    nng_stat *root = NULL;
    uint64_t errors = 0;
    if (nng_stats_get(&root) != 0)
        return 0;
    for (nng_stat *scope = nng_stat_child(root); scope != NULL; scope = nng_stat_next(scope)) {
        uint64_t id = 0, other = 0;
        if (strncmp(nng_stat_name(scope), "listener", 8) != 0)
            continue;
        for (nng_stat *stat = nng_stat_child(scope); stat != NULL; stat = nng_stat_next(stat)) {
            if (strcmp(nng_stat_name(stat), "id") == 0)
                id = nng_stat_value(stat);
            else if (strcmp(nng_stat_name(stat), "other") == 0)
                other = nng_stat_value(stat);
        }
        if (id == (uint64_t)nng_listener_id(listener))
            errors = other;
    }
    nng_stats_free(root);
    return errors;
}

/* ---- the request from within ---- */

/* nng's greeting (protocol req) and a message: its kind, its length, the number of a request, and
 * MessagePack's nil, which is no envelope and answered with an error. The dead greet, too. */
static const char question[] = "\0SP\0\0\x30\0\0" /* greeting */
                               "\1\0\0\0\0\0\0\0\5" "\x80\0\0\1" "\xc0";
#define NIL 0xc0
#define QUESTION_BYTES (sizeof(question) - 1)

/* A plain socket, for closing one of nng's waits for nng. It greets at once: a peer that goes away
 * without is what kills listeners. A queue that is full takes nobody, and is tried again. */
static void probe_connect(struct proto_watch *watch)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    const char *path = watch->url + strlen("ipc://");
    if (strlen(path) >= sizeof(address.sun_path))
        return;
    strcpy(address.sun_path, path);
    watch->received = 0;
    watch->fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (watch->fd >= 0 &&
        (connect(watch->fd, (struct sockaddr *)&address, sizeof(address)) != 0 ||
         send(watch->fd, question, QUESTION_BYTES, MSG_NOSIGNAL) != (ssize_t)QUESTION_BYTES))
        hang_up(watch);
}

enum probe { PROBE_NONE, PROBE_WAITS, PROBE_ANSWERED, PROBE_IN_VAIN };

static enum probe probe_look(struct proto_watch *watch)
{
    char answer[256];
    if (watch->since_ms == 0)
        return PROBE_NONE;
    if (watch->fd < 0)
        probe_connect(watch);
    ssize_t n = watch->fd >= 0 ? recv(watch->fd, answer, sizeof(answer), 0) : 0;
    watch->received += n > 0 ? (size_t)n : 0;
    if (watch->received > GREETING_BYTES)
        return PROBE_ANSWERED;
    return sp_now_ms() - watch->since_ms < ANSWER_MS ? PROBE_WAITS : PROBE_IN_VAIN;
}

/* nng counts the end of our question, too, once and a little later: looking into that at once would
 * never end. One error alone is looked into later and later; two are not both ours. */
static bool is_to_be_looked_into(struct proto_watch *watch, uint64_t news)
{
    int64_t now_ms = sp_now_ms();
    if (news == 0 || (news == 1 && now_ms < watch->echo_until_ms))
        return false;
    bool echo = news == 1 && watch->echo_ms > 0;
    watch->echo_ms = echo ? SP_MIN(2 * watch->echo_ms, (int64_t)ECHO_MAX_MS) : ECHO_MIN_MS;
    watch->echo_until_ms = now_ms + watch->echo_ms;
    return true;
}

bool proto_watch_is_dead(struct proto_watch *watch, nng_listener listener)
{
    enum probe probe = probe_look(watch);
    if (probe == PROBE_WAITS)
        return false;
    hang_up(watch);
    watch->since_ms = 0;
    if (probe == PROBE_IN_VAIN) {
        watch->known = 0; /* the next listener starts from there */
        watch->echo_ms = watch->echo_until_ms = 0;
        return true;
    }
    uint64_t errors = errors_of(listener);
    uint64_t news = errors > watch->known ? errors - watch->known : 0;
    if (!is_to_be_looked_into(watch, news))
        return false;
    watch->since_ms = sp_now_ms();
    probe_connect(watch);
    watch->known = errors; /* those from now on are new, even if they come before the answer */
    return false;
}

bool proto_watch_is_question(const void *body, size_t bytes)
{
    return bytes == 1 && *(const uint8_t *)body == NIL;
}
