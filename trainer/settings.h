/* settings: the configuration of spin-trainer, from one table. Main thread; read-only afterwards.
 */
#ifndef SPIN_TRAINER_SETTINGS_H
#define SPIN_TRAINER_SETTINGS_H

#include "common/worker/settings.h"

struct train_settings {
    struct worker_settings worker;
    int64_t prefetch_batches; /* fetched ahead of the step in work */
    int64_t report_ms;        /* metrics wait at most this long for company */
    int64_t stop_ms;          /* to hand the lease back after SIGTERM */
    int64_t score_pairs;      /* scored and handed in at once (score_by = trainer) */
};

extern const struct sp_config_spec train_settings_spec;

#endif
