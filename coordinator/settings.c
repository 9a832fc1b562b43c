#include "coordinator/settings.h"

#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/daemon_cli.h"
#include "common/base/limits.h"
#include "common/base/log.h"
#include "common/base/mem.h"

#define AT(field) offsetof(struct coord_settings, field)

static const struct sp_setting table[] = {
    {"coordinator", "state_dir", SP_SET_STR, AT(state_dir), "/var/lib/spin", 0, 0, "", "",
     "Directory of databases, blobs, lock, socket and administrator's token, on a local disk."},
    {"coordinator", "listen", SP_SET_STR, AT(listen), "", 0, 0, "", "",
     "Further addresses, separated by spaces: ipc:///PATH or tls+tcp://HOST:PORT; the socket in "
     "the "
     "state directory is always there."},
    {"coordinator", "log_level", SP_SET_STR, AT(log_level), "info", 0, 0, "", "",
     "debug, info, warn or error."},
    {"coordinator", "parallel", SP_SET_I64, AT(parallel), "4096", 64, 8192, "requests", "",
     "Requests in work at once on one address; every waiting worker holds one."},
    {"coordinator", "disk_reserve", SP_SET_BYTES, AT(disk_reserve_bytes), "256 MiB", 0, 1e15,
     "bytes", "", "Below this much free space nothing is accepted and runs pause."},
    {"coordinator", "keep_last", SP_SET_I64, AT(keep_last), "3", 0, 1e6, "checkpoints", "",
     "`spinctl gc` lets go of a run's checkpoints but the newest of this many, the base, the one "
     "that the next iteration starts from, those in use and those pinned; 0: of none."},
    {"coordinator", "verify_share", SP_SET_F64, AT(verify_share), "0.02", 0, 1, "", "",
     "Share of every generator's answers that another one of the same numerics class makes again; "
     "where their bits differ a third decides, and the liar is quarantined. 0: none."},
    {"coordinator", "time_scale", SP_SET_F64, AT(time_scale), "1", 0.001, 100, "", "",
     "Factor of every time-out; for tests."},
    {"tls", "ca", SP_SET_STR, AT(tls_ca), "", 0, 0, "", "",
     "PEM file of the authority that signs the peers' certificates."},
    {"tls", "cert", SP_SET_STR, AT(tls_cert), "", 0, 0, "", "",
     "PEM file with the coordinator's certificate and key."},
    {"http", "listen", SP_SET_STR, AT(http_listen), COORD_HTTP_DEFAULT, 0, 0, "", "",
     "Address and port of /healthz, /readyz and /metrics; empty: none. Where other machines can "
     "reach it, it speaks TLS with the certificate above and wants a token of role readonly."},
    {"http", "require_token", SP_SET_BOOL, AT(http_token), "no", 0, 1, "", "",
     "Want the token (Authorization: Bearer id.secret) on the loopback address, too."},
};

const struct sp_config_spec coord_settings_spec = {
    .title = "spin-coordinator",
    .settings = table,
    .count = SP_COUNT(table),
    .struct_bytes = sizeof(struct coord_settings),
};

static const struct sp_cli_alias aliases[] = {
    {"state-dir", "DIR", "coordinator.state_dir"},
};

enum { OPT_LISTEN = 256, OPT_RESTORE, OPT_REMOVE_RUN, OPT_JSON };

static const struct argp_option own_options[] = {
    {"listen", OPT_LISTEN, "URL", 0, "One more address to listen on; may be given several times",
     0},
    {"restore", OPT_RESTORE, "BACKUP", 0,
     "Make the state directory, which must be missing or empty, from a backup, and exit", 0},
    {"remove-run", OPT_REMOVE_RUN, "RUN", 0,
     "Take a run out of the state directory, where no coordinator may run, and exit", 0},
    {"json", OPT_JSON, NULL, 0, "With --restore or --remove-run: report in JSON", 0},
    {0},
};

struct own_arguments {
    const char *restore, *remove_run;
    struct sp_buf listen; /* URLs of --listen, separated by spaces */
    bool json;
};

static error_t parse_own(int key, char *value, struct argp_state *state)
{
    struct own_arguments *args = state->input;
    switch (key) {
    case OPT_LISTEN:
        sp_buf_printf(&args->listen, "%s%s", args->listen.length ? " " : "", value);
        return 0;
    case OPT_RESTORE:
        args->restore = value;
        return 0;
    case OPT_REMOVE_RUN:
        args->remove_run = value;
        return 0;
    case OPT_JSON:
        args->json = true;
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

static const struct argp own_argp = {.options = own_options, .parser = parse_own};

static const struct sp_daemon_cli cli = {
    .doc = "Schedules the iterations of self-play fine-tuning runs and keeps all of their state. "
           "Generators and trainers dial it; spinctl drives it.",
    .example = "coordinator.parallel=256",
    .spec = &coord_settings_spec,
    .aliases = aliases,
    .alias_count = SP_COUNT(aliases),
    .more = &own_argp,
};

enum sp_err coord_parse_args(int argc, char **argv, struct coord_arguments *ret,
                             struct sp_error *err)
{
    struct own_arguments own = {0};
    *ret = (struct coord_arguments){0};
    struct coord_settings *settings = &ret->settings;
    enum sp_err rc = sp_daemon_cli_parse(&cli, argc, argv, settings, &own, err);
    if (!rc && own.listen.length > 0) {
        char *all = sp_xprintf("%s %s", settings->listen, own.listen.data);
        free(settings->listen);
        settings->listen = all;
    }
    if (!rc && settings->state_dir[0] == '\0')
        rc = sp_fail(err, SP_EINVAL, "[coordinator] state_dir: empty");
    if (!rc && own.restore)
        ret->restore = sp_xstrdup(own.restore);
    if (!rc && own.remove_run)
        ret->remove_run = sp_xstrdup(own.remove_run);
    if (!rc && own.restore && own.remove_run)
        rc = sp_fail(err, SP_EINVAL, "--restore, --remove-run: give one of them");
    ret->json = own.json;
    sp_buf_deinit(&own.listen);
    return rc;
}

static void keep_text(char **next, const char *old, const char *name)
{
    if (strcmp(*next, old) == 0)
        return;
    sp_warn("%s: takes effect at the next start", name);
    free(*next);
    *next = sp_xstrdup(old);
}

void coord_settings_keep(struct coord_settings *next, const struct coord_settings *old)
{
    keep_text(&next->state_dir, old->state_dir, "[coordinator] state_dir");
    keep_text(&next->listen, old->listen, "[coordinator] listen");
    if (next->parallel != old->parallel)
        sp_warn("[coordinator] parallel: takes effect at the next start");
    if (next->time_scale != old->time_scale)
        sp_warn("[coordinator] time_scale: takes effect at the next start");
    next->parallel = old->parallel;
    next->time_scale = old->time_scale;
}

void coord_arguments_deinit(struct coord_arguments *arguments)
{
    sp_config_deinit(&coord_settings_spec, &arguments->settings);
    free(arguments->restore);
    free(arguments->remove_run);
    arguments->restore = NULL;
}
