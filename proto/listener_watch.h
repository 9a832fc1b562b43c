/* listener_watch: notices that an ipc listener has stopped accepting. Within proto.
 *
 * In nng 1.5.2 a peer that connects to an ipc listener and is gone before the handshake makes the
 * accept fail with NNG_ECLOSED, which nng takes for its own listener's end: it never accepts again,
 * and whoever connects from then on waits in vain. (tcp sees NNG_ECONNRESET or NNG_ECONNSHUT there,
 * and goes on.) nng counts the error as "other", among harmless ones. So after each of these a
 * request is sent to the listener from within: no answer, and it is dead. One thread; blocks on
 * nothing. */
#ifndef SPIN_PROTO_LISTENER_WATCH_H
#define SPIN_PROTO_LISTENER_WATCH_H

#include <nng/nng.h>
#include <stdbool.h>
#include <stddef.h>

struct proto_watch;

struct proto_watch *proto_watch_new(const char *url); /* copied */
void proto_watch_free(struct proto_watch *watch);     /* NULL is fine */
const char *proto_watch_url(const struct proto_watch *watch);
/* Call it now and then. true: the listener is dead; close it, start another one and go on with
 * that. It answers any request, be it malformed. */
bool proto_watch_is_dead(struct proto_watch *watch, nng_listener listener);
/* Whether a request that is malformed is the one from within. */
bool proto_watch_is_question(const void *body, size_t bytes);

#endif
