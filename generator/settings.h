/* settings: the configuration of spin-generator, from one table. Main thread; read-only afterwards.
 */
#ifndef SPIN_GENERATOR_SETTINGS_H
#define SPIN_GENERATOR_SETTINGS_H

#include "common/worker/settings.h"

struct gen_settings {
    struct worker_settings worker;
    char *serve;           /* where chunks of weights are given to others; "": nowhere */
    char *serve_as;        /* what they dial; "": serve */
    char *serve_name;      /* name in the certificate; "": the host of serve_as */
    int64_t serve_slots;   /* chunks given at once */
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

/* After worker_settings_finish: what follows from other settings here. */
enum sp_err gen_settings_finish(struct gen_settings *settings, struct sp_error *err) SP_MUST_USE;

#endif
