/* settings: what spin-coordinator can be told, and its command line. Main thread only. */
#ifndef SPIN_COORDINATOR_SETTINGS_H
#define SPIN_COORDINATOR_SETTINGS_H

#include <stdint.h>

#include "common/base/config.h"

#define COORD_MAX_LISTENERS 16
#define COORD_HTTP_DEFAULT "127.0.0.1:7071"

struct coord_settings {
    char *state_dir;
    char *listen; /* URLs, separated by spaces or commas, beside the socket in state_dir */
    char *log_level;
    int64_t parallel; /* requests in work at once, held ones included */
    int64_t disk_reserve_bytes;
    int64_t keep_last;   /* checkpoints of a run that `spinctl gc` keeps; 0: all */
    double verify_share; /* of the answers that another generator makes again */
    double time_scale;
    char *tls_ca, *tls_cert;
    char *http_listen; /* "": no pages for monitoring */
    bool http_token;   /* also on the loopback address */
};
extern const struct sp_config_spec coord_settings_spec;

struct coord_arguments {
    struct coord_settings settings;
    char *restore;    /* --restore BACKUP: make the state directory from it and exit; NULL: no */
    char *remove_run; /* --remove-run RUN, likewise */
    bool json;        /* --json: the two report in JSON */
};

/* SP_OK: go on. SP_ECANCELED: something was printed, exit with 0. */
enum sp_err coord_parse_args(int argc, char **argv, struct coord_arguments *ret,
                             struct sp_error *err) SP_MUST_USE;
/* What cannot change while the program runs (directories, addresses, sizes) becomes as in `old`;
 * says in the log what would need a restart. */
void coord_settings_keep(struct coord_settings *next, const struct coord_settings *old);
void coord_arguments_deinit(struct coord_arguments *arguments);

#endif
