/* link: a worker's standing with the coordinator. It says hello, knows the worker id that the
 * coordinator gave, and says hello again, naming the leases that are held, when the coordinator no
 * longer knows it (after a restart).
 *
 * One link per process, shared by its network threads (a small lock inside: one hello at a time);
 * one peer (a connection) per thread. Everything here blocks on the network: never call it on the
 * compute thread while work is waiting there. */
#ifndef SPIN_WORKER_LINK_H
#define SPIN_WORKER_LINK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/base/err.h"
#include "common/base/hash.h"
#include "common/checkpoint/materialise.h"
#include "common/worker/settings.h"
#include "proto/messages.h"
#include "proto/rpc.h"

struct worker_identity {
    enum proto_role role;
    const char *name, *device, *numerics_class; /* borrowed for the life of the link */
    uint32_t slots;
};

struct worker_link;
/* on_lost (NULL: none) hears of leases that a hello found to be gone; on the thread that said it.
 */
typedef void worker_on_lost(void *context, const uint64_t *leases, uint32_t count);

enum sp_err worker_link_new(const struct worker_settings *settings,
                            const struct worker_identity *identity, worker_on_lost *on_lost,
                            void *context, struct worker_link **ret,
                            struct sp_error *err) SP_MUST_USE;
void worker_link_free(struct worker_link *link); /* after its peers; NULL is fine */

/* Leases named in a hello, with what they are about, so that a coordinator that was started again
 * can take them up. *lease is copied. */
void worker_link_hold(struct worker_link *link, const struct proto_claim *lease);
void worker_link_drop(struct worker_link *link, uint64_t lease);
/* *ret: malloc'd, may be NULL when there are none. */
uint32_t worker_link_held(struct worker_link *link, uint64_t **ret);
uint32_t worker_link_renew_ms(struct worker_link *link); /* as the coordinator asked; > 0 */
uint32_t worker_link_poll_ms(struct worker_link *link);

struct worker_peer;
enum sp_err worker_peer_open(struct worker_link *link, struct worker_peer **ret,
                             struct sp_error *err) SP_MUST_USE;
void worker_peer_close(struct worker_peer *peer); /* NULL is fine */
/* Any thread: the call in progress and all later ones end with SP_ECANCELED. */
void worker_peer_cancel(struct worker_peer *peer);
/* Any thread: wakes a blocked call (SP_ECANCELED) and leaves the peer usable. */
void worker_peer_interrupt(struct worker_peer *peer);

/* on: the peer's thread is the one that tells systemd's watchdog that the daemon lives, and it does
 * so while it waits for the network. By that thread only. */
void worker_peer_watchdog(struct worker_peer *peer, bool on);

/* While calls go through `client`, which the peer's thread owns, too: it is woken by cancel and
 * interrupt of the peer as the peer's own is. NULL: no more. */
void worker_peer_watch(struct worker_peer *peer, struct proto_client *client);
bool worker_peer_is_cancelled(void *peer); /* as proto_client_options.cancelled wants it */
const struct worker_settings *worker_peer_settings(const struct worker_peer *peer);
struct worker_link *worker_peer_link(const struct worker_peer *peer);

/* ---- giving chunks of weights to others (serve.h) ---- */

/* Before the first hello: where others reach this worker; borrowed for the life of the link. */
void worker_link_serve(struct worker_link *link, const char *url, const char *name, uint32_t slots);
/* It has this checkpoint: named in every hello from now on. The 16 newest are kept. */
void worker_link_gives(struct worker_link *link, const struct sp_digest *manifest, uint32_t chunks);
bool worker_link_is_server(const struct worker_link *link);
/* Whether the coordinator knows blob_sources. */
bool worker_link_has_sources(struct worker_link *link);
/* What tickets are checked with; false: none yet. */
bool worker_link_ticket_key(struct worker_link *link, struct sp_digest *ret_key,
                            uint64_t *ret_now_ms);

/* The first hello of a daemon, and its readiness. What no waiting mends (a token, a certificate, an
 * address) comes back as an error; a coordinator that does not answer is waited for, as a daemon
 * that is ready: its service is up, and its status says what it waits for. */
enum sp_err worker_join(struct worker_peer *peer, struct sp_error *err) SP_MUST_USE;
/* Says hello if that has not happened yet. */
enum sp_err worker_hello(struct worker_peer *peer, struct sp_error *err) SP_MUST_USE;
/* A request whose body begins with worker_id (filled in here). An unknown worker says hello and
 * asks again. Otherwise as proto_call. */
enum sp_err worker_call(struct worker_peer *peer, enum proto_type type, void *body,
                        int64_t give_up_ms, const void **ret_reply,
                        struct sp_error *err) SP_MUST_USE;
/* A request without worker_id (blobs). */
enum sp_err worker_call_plain(struct worker_peer *peer, enum proto_type type, const void *body,
                              const void **ret_reply, struct sp_error *err) SP_MUST_USE;

/* The checkpoint's directory from the cache, fetched where it is missing: manifest first, verified
 * against both digests, then chunk by chunk. progress may be NULL (materialise.h). */
enum sp_err worker_fetch_checkpoint(struct worker_peer *peer, struct ckpt_cache *cache,
                                    const struct sp_digest *checkpoint,
                                    const struct sp_digest *manifest, ckpt_progress_fn progress,
                                    void *progress_context, struct ckpt_cache_ref **ret,
                                    struct sp_error *err) SP_MUST_USE;

#endif
