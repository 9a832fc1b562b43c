/* daemon_cli: the command line of a daemon, from its table of settings: --config FILE, --set
 * NAME=VALUE, options that stand for one setting, --example-config, --help (with the table of
 * settings) and --version. Later options win; a file counts as standing first. A wrong command line
 * exits with 2. Main thread, at start-up. */
#ifndef SPIN_BASE_DAEMON_CLI_H
#define SPIN_BASE_DAEMON_CLI_H

#include <limits.h> /* argp.h uses UCHAR_MAX */
#include <argp.h>
#include <stddef.h>

#include "common/base/config.h"
#include "common/base/err.h"

#define SP_DAEMON_CLI_MAX_ALIASES 16

/* --state-dir=DIR for --set coordinator.state_dir=DIR */
struct sp_cli_alias {
    const char *option, *arg, *setting;
};

struct sp_daemon_cli {
    const char *doc;     /* one paragraph for --help */
    const char *example; /* an assignment that --help shows: "compute.threads=2" */
    const struct sp_config_spec *spec;
    const struct sp_cli_alias *aliases;
    size_t alias_count;
    const struct argp *more; /* the program's own options; NULL: none */
};

/* Fills *values, defaults first; `more_input` is the input of program->more. SP_OK: go on.
 * SP_ECANCELED: something was printed, exit with 0. The caller frees *values in any case
 * (sp_config_deinit). */
enum sp_err sp_daemon_cli_parse(const struct sp_daemon_cli *program, int argc, char **argv,
                                void *values, void *more_input, struct sp_error *err) SP_MUST_USE;

#endif
