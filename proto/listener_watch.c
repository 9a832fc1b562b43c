#include "proto/listener_watch.h"

#include <nng/protocol/reqrep0/req.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/mem.h"

/* A listener that lives answers within moments. */
#define ANSWER_MS 500

enum probe { PROBE_NONE, PROBE_SENDING, PROBE_RECEIVING, PROBE_ANSWERED, PROBE_IN_VAIN };

struct proto_watch {
    char *url;
    uint64_t known;   /* errors that were looked into */
    atomic_int probe; /* enum probe; nng's threads move it on */
    nng_socket socket;
    nng_aio *aio;
};

struct proto_watch *proto_watch_new(const char *url)
{
    struct proto_watch *watch = sp_xalloc(sizeof(*watch));
    watch->url = sp_xstrdup(url);
    return watch;
}

const char *proto_watch_url(const struct proto_watch *watch)
{
    return watch->url;
}

static void probe_end(struct proto_watch *watch)
{
    if (atomic_load(&watch->probe) == PROBE_NONE)
        return;
    nng_close(watch->socket);
    nng_aio_free(watch->aio); /* waits for a callback on its way out */
    atomic_store(&watch->probe, PROBE_NONE);
}

void proto_watch_free(struct proto_watch *watch)
{
    if (watch == NULL)
        return;
    probe_end(watch);
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

static void probe_moved(void *argument)
{
    struct proto_watch *watch = argument;
    int code = nng_aio_result(watch->aio);
    if (atomic_load(&watch->probe) == PROBE_SENDING) {
        if (code == 0) {
            atomic_store(&watch->probe, PROBE_RECEIVING);
            nng_recv_aio(watch->socket, watch->aio);
            return;
        }
        nng_msg_free(nng_aio_get_msg(watch->aio));
    } else if (code == 0) {
        nng_msg_free(nng_aio_get_msg(watch->aio));
    }
    atomic_store(&watch->probe, code == 0 ? PROBE_ANSWERED : PROBE_IN_VAIN);
}

static void probe_start(struct proto_watch *watch)
{
    nng_msg *message = NULL;
    if (nng_req0_open(&watch->socket) != 0)
        return; /* no memory, no files: at the next look */
    if (nng_aio_alloc(&watch->aio, probe_moved, watch) != 0) {
        nng_close(watch->socket);
        return;
    }
    atomic_store(&watch->probe, PROBE_SENDING);
    nng_aio_set_timeout(watch->aio, ANSWER_MS);
    /* MessagePack's nil is no envelope: it is answered with an error. */
    if (nng_dial(watch->socket, watch->url, NULL, NNG_FLAG_NONBLOCK) != 0 ||
        nng_msg_alloc(&message, 0) != 0) {
        probe_end(watch);
        return;
    }
    SP_ASSERT(nng_msg_append(message, "\xc0", 1) == 0);
    nng_aio_set_msg(watch->aio, message);
    nng_send_aio(watch->socket, watch->aio);
}

bool proto_watch_is_dead(struct proto_watch *watch, nng_listener listener)
{
    int probe = atomic_load(&watch->probe);
    if (probe == PROBE_SENDING || probe == PROBE_RECEIVING)
        return false;
    if (probe != PROBE_NONE)
        probe_end(watch);
    if (probe == PROBE_IN_VAIN) {
        watch->known = 0; /* the next listener starts from there */
        return true;
    }
    uint64_t errors = errors_of(listener);
    if (errors > watch->known)
        probe_start(watch);
    /* Errors from now on are new ones, even if they come before the answer. */
    if (atomic_load(&watch->probe) != PROBE_NONE)
        watch->known = errors;
    return false;
}
