/* serve: gives the chunks in this worker's cache of weights to other workers of the cluster, who
 * show a ticket of the coordinator's (proto/ticket.h). One thread with a loop of its own, which
 * reads, hashes and sends; it knows nothing of what the process works on. */
#ifndef SPIN_WORKER_SERVE_H
#define SPIN_WORKER_SERVE_H

#include "common/worker/link.h"

struct worker_server;
/* Listens on `url`. link: lends its TLS files, and knows the key; it outlives the server. What the
 * cache has now is named in the first hello. */
enum sp_err worker_server_start(struct worker_link *link, const struct worker_settings *settings,
                                const char *url, uint32_t slots, struct worker_server **ret,
                                struct sp_error *err) SP_MUST_USE;
/* At the end of the process: what is being sent has a second. NULL is fine. */
void worker_server_stop(struct worker_server *server);

#endif
