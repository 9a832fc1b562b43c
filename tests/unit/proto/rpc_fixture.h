/* A server on a loop thread of its own, whose answers are chosen by the request; and temporary
 * directories, ports and certificates for it. One per test. */
#ifndef SPIN_TESTS_RPC_FIXTURE_H
#define SPIN_TESTS_RPC_FIXTURE_H

#include <stdatomic.h>
#include <stdint.h>
#include <uv.h>

#include "common/base/mailbox.h"
#include "proto/rpc.h"

#define FIXTURE_PARKED 64

/* What it answers:
 *   hello         worker_id = instance + 1, version = the token it came with
 *   lease         never by itself: the request is parked until `release` or the end
 *   blob_get      as many bytes as the first four bytes of the digest say, little-endian
 *   blob_put      existed = true when the data's digest is the one given
 *   renew         SP_EUNAVAIL with retry_after 20 ms while `busy` counts down, then an answer
 *   admin         SP_ESTATE "cannot VERB" */
struct fixture {
    char dir[64];
    char url[160];
    uv_loop_t loop;
    uv_thread_t thread;
    uv_async_t command; /* wakes the loop to obey `release`, `reload` and `stop` */
    atomic_bool release, reload, stop;
    atomic_int requests, busy;
    struct proto_server *server;
    struct proto_request *parked[FIXTURE_PARKED];
    int parked_count; /* loop thread only */
    atomic_int parked_now;
    atomic_bool closed;
    uint64_t malformed, questions; /* of the server, once it has stopped */
    uint32_t parallel;
    struct proto_tls tls;
};

void fixture_dir(struct fixture *f);     /* makes dir; url = ipc in it */
void fixture_start(struct fixture *f);   /* listens on url */
void fixture_stop(struct fixture *f);    /* answers what is parked, closes, joins */
void fixture_remove(struct fixture *f);  /* removes dir */
void fixture_reload(struct fixture *f);  /* the server takes the files that f->tls names now */
void fixture_release(struct fixture *f); /* answers what is parked */
int fixture_free_port(void);
/* In dir: ca.pem, node.pem (DNS name "localhost"), and other-ca.pem, stranger.pem (signed by it).
 */
void fixture_certificates(struct fixture *f);
char *fixture_path(const struct fixture *f, const char *name); /* malloc'd */

#endif
