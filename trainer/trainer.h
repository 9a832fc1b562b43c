/* trainer: the process around the training of iterations.
 *
 *     main thread       compute: owns backend, model, optimizer; snapshots and publication
 *     stream thread     fetches pairs ahead (stream.h); only while an iteration is trained
 *     reporter thread   renews the lease, hands metrics in (reporter.h); the same
 *
 * On the disk: STATE_DIR/trainer-NAME/ with the lock, snapshots and a checkpoint being published.
 */
#ifndef SPIN_TRAINER_TRAINER_H
#define SPIN_TRAINER_TRAINER_H

#include <stdatomic.h>
#include <stdbool.h>

#include "common/base/err.h"
#include "common/checkpoint/materialise.h"
#include "common/tensor/backend.h"
#include "common/worker/link.h"
#include "trainer/settings.h"

struct trainer {
    const struct train_settings *settings;
    struct tn_backend *backend;
    struct worker_link *link;
    struct worker_peer *_Atomic peer; /* the compute thread's; others only wake it */
    struct ckpt_cache *cache;
    char *dir;   /* snapshots */
    int lock_fd; /* of dir */
    atomic_bool stop;
};

void trainer_init(struct trainer *trainer, const struct train_settings *settings);
void trainer_deinit(struct trainer *trainer);
/* Main thread: trains what the coordinator has, until trainer_stop. */
enum sp_err trainer_run(struct trainer *trainer, struct tn_backend *backend,
                        struct sp_error *err) SP_MUST_USE;
/* Any thread. The iteration in work is snapshot and its lease given back. */
void trainer_stop(struct trainer *trainer);
bool trainer_stopping(const struct trainer *trainer);

#endif
