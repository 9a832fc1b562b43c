#include "coordinator/settings.h"

#include <argp.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/limits.h"
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
    {"coordinator", "parallel", SP_SET_I64, AT(parallel), "1024", 64, 8192, "requests", "",
     "Requests in work at once on one address; every waiting worker holds one."},
    {"coordinator", "disk_reserve", SP_SET_BYTES, AT(disk_reserve_bytes), "256 MiB", 0, 1e15,
     "bytes", "", "Below this much free space nothing is accepted and runs pause."},
    {"coordinator", "time_scale", SP_SET_F64, AT(time_scale), "1", 0.001, 100, "", "",
     "Factor of every time-out; for tests."},
    {"tls", "ca", SP_SET_STR, AT(tls_ca), "", 0, 0, "", "",
     "PEM file of the authority that signs the peers' certificates."},
    {"tls", "cert", SP_SET_STR, AT(tls_cert), "", 0, 0, "", "",
     "PEM file with the coordinator's certificate and key."},
};

const struct sp_config_spec coord_settings_spec = {
    .title = "spin-coordinator",
    .settings = table,
    .count = SP_COUNT(table),
    .struct_bytes = sizeof(struct coord_settings),
};

enum { OPT_SET = 256, OPT_STATE_DIR, OPT_LISTEN, OPT_EXAMPLE, OPT_RESTORE, OPT_JSON };

static const struct argp_option options[] = {
    {"config", 'c', "FILE", 0, "Read settings from FILE (INI)", 0},
    {"set", OPT_SET, "NAME=VALUE", 0, "Set one setting, e.g. coordinator.parallel=256", 0},
    {"state-dir", OPT_STATE_DIR, "DIR", 0, "The same as --set coordinator.state_dir=DIR", 0},
    {"listen", OPT_LISTEN, "URL", 0, "One more address to listen on; may be given several times",
     0},
    {"restore", OPT_RESTORE, "BACKUP", 0,
     "Make the state directory, which must be missing or empty, from a backup, and exit", 0},
    {"json", OPT_JSON, NULL, 0, "With --restore: report in JSON", 0},
    {"example-config", OPT_EXAMPLE, NULL, 0, "Print a commented configuration file and exit", 0},
    {0},
};

struct arguments {
    const char *config, *restore;
    struct sp_buf assignments; /* NUL-terminated "name=value", one after another */
    struct sp_buf listen;      /* URLs of --listen, separated by spaces */
    bool example, json;
};

static void assign(struct arguments *args, const char *name, const char *value)
{
    sp_buf_printf(&args->assignments, "%s%s", name, value);
    sp_buf_putc(&args->assignments, '\0');
}

static error_t parse_option(int key, char *value, struct argp_state *state)
{
    struct arguments *args = state->input;
    switch (key) {
    case 'c':
        args->config = value;
        return 0;
    case OPT_SET:
        assign(args, "", value);
        return 0;
    case OPT_STATE_DIR:
        assign(args, "coordinator.state_dir=", value);
        return 0;
    case OPT_LISTEN:
        sp_buf_printf(&args->listen, "%s%s", args->listen.length ? " " : "", value);
        return 0;
    case OPT_RESTORE:
        args->restore = value;
        return 0;
    case OPT_JSON:
        args->json = true;
        return 0;
    case OPT_EXAMPLE:
        args->example = true;
        return 0;
    case ARGP_KEY_ARG:
        argp_error(state, "unexpected argument: %s", value);
        return EINVAL;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

/* The table of settings below the options. */
static char *help_filter(int key, const char *text, void *input)
{
    if (key != ARGP_KEY_HELP_POST_DOC || input == NULL)
        return (char *)text;
    struct sp_buf out = SP_BUF_INIT;
    sp_buf_puts(&out, "Settings (FILE or --set):\n");
    sp_config_help(&coord_settings_spec, &out);
    return sp_buf_detach(&out);
}

static enum sp_err apply(const struct arguments *args, struct coord_settings *settings,
                         struct sp_error *err)
{
    enum sp_err rc = SP_OK;
    if (args->config)
        rc = sp_config_load(&coord_settings_spec, args->config, settings, err);
    for (size_t at = 0; !rc && at < args->assignments.length;) {
        const char *assignment = args->assignments.data + at;
        rc = sp_config_set(&coord_settings_spec, assignment, settings, err);
        if (rc)
            rc = sp_wrap(err, rc, "command line");
        at += strlen(assignment) + 1;
    }
    if (!rc && args->listen.length > 0) {
        char *all = sp_xprintf("%s %s", settings->listen, args->listen.data);
        free(settings->listen);
        settings->listen = all;
    }
    if (!rc && settings->state_dir[0] == '\0')
        rc = sp_fail(err, SP_EINVAL, "[coordinator] state_dir: empty");
    return rc;
}

static void print_example(void)
{
    struct sp_buf text = SP_BUF_INIT;
    sp_config_example(&coord_settings_spec, &text);
    fwrite(text.data, 1, text.length, stdout);
    sp_buf_deinit(&text);
}

enum sp_err coord_parse_args(int argc, char **argv, struct coord_arguments *ret,
                             struct sp_error *err)
{
    struct arguments args = {0};
    struct argp argp = {
        .options = options,
        .parser = parse_option,
        .doc = "Schedules the iterations of self-play fine-tuning runs and keeps all of their "
               "state. Generators and trainers dial it; spinctl drives it.\v ",
        .help_filter = help_filter,
    };
    *ret = (struct coord_arguments){0};
    sp_config_init(&coord_settings_spec, &ret->settings);
    argp_err_exit_status = sp_err_exit_code(SP_EINVAL);
    argp_program_version = SPIN_VERSION;
    enum sp_err rc = SP_OK;
    if (argp_parse(&argp, argc, argv, 0, NULL, &args) != 0) {
        rc = sp_fail(err, SP_EINVAL, "bad command line");
    } else if (args.example) {
        print_example();
        rc = SP_ECANCELED;
    } else {
        rc = apply(&args, &ret->settings, err);
    }
    if (!rc && args.restore)
        ret->restore = sp_xstrdup(args.restore);
    ret->json = args.json;
    sp_buf_deinit(&args.assignments);
    sp_buf_deinit(&args.listen);
    return rc;
}

void coord_arguments_deinit(struct coord_arguments *arguments)
{
    sp_config_deinit(&coord_settings_spec, &arguments->settings);
    free(arguments->restore);
    arguments->restore = NULL;
}
