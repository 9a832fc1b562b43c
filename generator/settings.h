/* settings: the configuration of spin-generator, from one table. Main thread; read-only afterwards.
 */
#ifndef SPIN_GENERATOR_SETTINGS_H
#define SPIN_GENERATOR_SETTINGS_H

#include "common/worker/settings.h"

struct gen_settings {
    struct worker_settings worker;
    char *run;             /* work for this run only; "": any */
    int64_t slots;         /* sequences decoded at once */
    int64_t rows_per_step; /* rows of a pass; 0: the engine's default */
    int64_t lease_items;   /* items asked for at once; 0: as many as slots */
    int64_t submit_items;  /* results in one submission */
    int64_t submit_ms;     /* a finished result waits at most this long for company */
    int64_t stop_ms;       /* to hand in results and leases after SIGTERM */
    int64_t report_ms;     /* between two lines of progress in the log */
};

extern const struct sp_config_spec gen_settings_spec;

#endif
