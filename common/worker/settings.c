#include "common/worker/settings.h"

#include <argp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/base/buf.h"
#include "common/base/fs.h"
#include "common/base/mem.h"

#define TOKEN_FILE_BYTES 4096
#define HOST_NAME_BYTES 256

static void set_string(char **slot, char *owned)
{
    free(*slot);
    *slot = owned;
}

enum sp_err worker_settings_finish(struct worker_settings *settings, const char *role,
                                   struct sp_error *err)
{
    if (settings->state_dir[0] == '\0')
        return sp_fail(err, SP_EINVAL, "[worker] state_dir: empty");
    if (settings->url[0] == '\0')
        set_string(&settings->url, sp_xprintf("ipc://%s/coordinator.sock", settings->state_dir));
    if (settings->name[0] == '\0') {
        char host[HOST_NAME_BYTES] = "";
        gethostname(host, sizeof(host) - 1);
        set_string(&settings->name, sp_xprintf("%s-%s", role, host));
    }
    if (settings->cache_dir[0] == '\0')
        set_string(&settings->cache_dir, sp_path_join(settings->state_dir, "cache"));
    if (settings->token_file[0] == '\0')
        set_string(&settings->token_file, sp_xprintf("%s/%s.token", settings->state_dir, role));
    if (settings->backoff_max_ms < settings->backoff_min_ms)
        return sp_fail(err, SP_EINVAL, "[coordinator] backoff_max: below backoff_min");
    if (strncmp(settings->url, "tls+tcp://", 10) == 0 && settings->tls_ca[0] == '\0')
        return sp_fail(err, SP_EINVAL,
                       "[coordinator] tls_ca: %s needs the authority's certificate (and tls_cert, "
                       "tls_server_name)",
                       settings->url);
    return SP_OK;
}

enum sp_err worker_read_token(const struct worker_settings *settings, char **ret,
                              struct sp_error *err)
{
    const char *path = settings->token_file;
    char *text = NULL;
    size_t length = 0;
    enum sp_err rc = sp_read_file(path, TOKEN_FILE_BYTES, &text, &length, err);
    if (rc != SP_OK)
        return sp_wrap(err, rc, "token (make one with `spinctl token create > FILE`)");
    text[strcspn(text, "\r\n \t")] = '\0';
    if (strchr(text, '.') == NULL) {
        free(text);
        return sp_fail(err, SP_EFORMAT,
                       "token: %s: no token (id.secret) on its first line: make one with `spinctl "
                       "token create`",
                       path);
    }
    *ret = text;
    return SP_OK;
}

/* ---- command line ---- */

enum { OPT_SET = 256, OPT_STATE_DIR, OPT_URL, OPT_TOKEN, OPT_NAME, OPT_EXAMPLE };

static const struct argp_option options[] = {
    {"config", 'c', "FILE", 0, "Read settings from FILE (INI)", 0},
    {"set", OPT_SET, "NAME=VALUE", 0, "Set one setting, e.g. compute.threads=2", 0},
    {"state-dir", OPT_STATE_DIR, "DIR", 0, "The same as --set worker.state_dir=DIR", 0},
    {"coordinator", OPT_URL, "URL", 0, "The same as --set coordinator.url=URL", 0},
    {"token-file", OPT_TOKEN, "FILE", 0, "The same as --set coordinator.token_file=FILE", 0},
    {"name", OPT_NAME, "NAME", 0, "The same as --set worker.name=NAME", 0},
    {"example-config", OPT_EXAMPLE, NULL, 0, "Print a commented configuration file and exit", 0},
    {0},
};

struct arguments {
    const struct worker_program *program;
    const char *config;
    struct sp_buf assignments; /* NUL-terminated "name=value" one after another */
    bool example;
    enum sp_err rc;
    struct sp_error *err;
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
        assign(args, "worker.state_dir=", value);
        return 0;
    case OPT_URL:
        assign(args, "coordinator.url=", value);
        return 0;
    case OPT_TOKEN:
        assign(args, "coordinator.token_file=", value);
        return 0;
    case OPT_NAME:
        assign(args, "worker.name=", value);
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
    const struct arguments *args = input;
    struct sp_buf out = SP_BUF_INIT;
    sp_buf_puts(&out, "Settings (FILE or --set):\n");
    sp_config_help(args->program->spec, &out);
    return sp_buf_detach(&out);
}

static enum sp_err apply(struct arguments *args, void *values, struct sp_error *err)
{
    const struct sp_config_spec *spec = args->program->spec;
    if (args->config != NULL) {
        enum sp_err rc = sp_config_load(spec, args->config, values, err);
        if (rc != SP_OK)
            return rc;
    }
    for (size_t at = 0; at < args->assignments.length;) {
        const char *assignment = args->assignments.data + at;
        enum sp_err rc = sp_config_set(spec, assignment, values, err);
        if (rc != SP_OK)
            return sp_wrap(err, rc, "command line");
        at += strlen(assignment) + 1;
    }
    return SP_OK;
}

enum sp_err worker_parse_args(const struct worker_program *program, int argc, char **argv,
                              void *values, struct sp_error *err)
{
    sp_config_init(program->spec, values);
    struct arguments args = {.program = program};
    char *doc = sp_xprintf("%s\v ", program->doc);
    struct argp argp = {
        .options = options, .parser = parse_option, .doc = doc, .help_filter = help_filter};
    argp_err_exit_status = sp_err_exit_code(SP_EINVAL);
    argp_program_version = SPIN_VERSION;
    enum sp_err rc = SP_OK;
    if (argp_parse(&argp, argc, argv, 0, NULL, &args) != 0) {
        rc = sp_fail(err, SP_EINVAL, "bad command line");
        goto out;
    }
    if (args.example) {
        struct sp_buf text = SP_BUF_INIT;
        sp_config_example(program->spec, &text);
        fwrite(text.data, 1, text.length, stdout);
        sp_buf_deinit(&text);
        rc = SP_ECANCELED;
        goto out;
    }
    rc = apply(&args, values, err);
out:
    sp_buf_deinit(&args.assignments);
    free(doc);
    return rc;
}
