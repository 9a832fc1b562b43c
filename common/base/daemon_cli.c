#include "common/base/daemon_cli.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/buf.h"
#include "common/base/mem.h"

enum { OPT_SET = 1000, OPT_EXAMPLE, OPT_ALIAS };

struct arguments {
    const struct sp_daemon_cli *program;
    void *more_input;
    const char *config;
    struct sp_buf assignments; /* NUL-terminated "name=value", one after another */
    bool example;
};

static void assign(struct arguments *args, const char *setting, const char *value)
{
    if (setting)
        sp_buf_printf(&args->assignments, "%s=%s", setting, value);
    else
        sp_buf_puts(&args->assignments, value);
    sp_buf_putc(&args->assignments, '\0');
}

static error_t parse_option(int key, char *value, struct argp_state *state)
{
    struct arguments *args = state->input;
    size_t alias = (size_t)key - OPT_ALIAS;
    if (key >= OPT_ALIAS && alias < args->program->alias_count) {
        assign(args, args->program->aliases[alias].setting, value);
        return 0;
    }
    switch (key) {
    case ARGP_KEY_INIT:
        if (args->program->more)
            state->child_inputs[0] = args->more_input;
        return 0;
    case 'c':
        args->config = value;
        return 0;
    case OPT_SET:
        assign(args, NULL, value);
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

static enum sp_err apply(const struct arguments *args, void *values, struct sp_error *err)
{
    const struct sp_config_spec *spec = args->program->spec;
    enum sp_err rc = SP_OK;
    if (args->config)
        rc = sp_config_load(spec, args->config, values, err);
    for (size_t at = 0; rc == SP_OK && at < args->assignments.length;) {
        const char *assignment = args->assignments.data + at;
        rc = sp_config_set(spec, assignment, values, err);
        if (rc != SP_OK)
            rc = sp_wrap(err, rc, "command line");
        at += strlen(assignment) + 1;
    }
    return rc;
}

static void print_example(const struct sp_config_spec *spec)
{
    struct sp_buf text = SP_BUF_INIT;
    sp_config_example(spec, &text);
    fwrite(text.data, 1, text.length, stdout);
    sp_buf_deinit(&text);
}

/* Texts that the options point to; they live until argp is done. */
struct option_table {
    struct argp_option options[SP_DAEMON_CLI_MAX_ALIASES + 4];
    char *docs[SP_DAEMON_CLI_MAX_ALIASES + 1];
    size_t docs_count;
};

static const char *keep(struct option_table *table, char *owned)
{
    return table->docs[table->docs_count++] = owned;
}

static void fill_options(const struct sp_daemon_cli *program, struct option_table *table)
{
    assert(program->alias_count <= SP_DAEMON_CLI_MAX_ALIASES);
    struct argp_option *o = table->options;
    *o++ = (struct argp_option){"config", 'c', "FILE", 0, "Read settings from FILE (INI)", 0};
    *o++ =
        (struct argp_option){"set",
                             OPT_SET,
                             "NAME=VALUE",
                             0,
                             keep(table, sp_xprintf("Set one setting, e.g. %s", program->example)),
                             0};
    for (size_t i = 0; i < program->alias_count; i++) {
        const struct sp_cli_alias *alias = &program->aliases[i];
        *o++ = (struct argp_option){
            alias->option,
            OPT_ALIAS + (int)i,
            alias->arg,
            0,
            keep(table, sp_xprintf("The same as --set %s=%s", alias->setting, alias->arg)),
            0};
    }
    *o++ = (struct argp_option){
        "example-config", OPT_EXAMPLE, NULL, 0, "Print a commented configuration file and exit", 0};
    *o = (struct argp_option){0};
}

enum sp_err sp_daemon_cli_parse(const struct sp_daemon_cli *program, int argc, char **argv,
                                void *values, void *more_input, struct sp_error *err)
{
    sp_config_init(program->spec, values);
    struct arguments args = {.program = program, .more_input = more_input};
    struct option_table table = {.docs_count = 0};
    fill_options(program, &table);
    char *doc = sp_xprintf("%s\v ", program->doc);
    struct argp_child children[] = {{.argp = program->more}, {0}};
    struct argp argp = {.options = table.options,
                        .parser = parse_option,
                        .doc = doc,
                        .children = program->more ? children : NULL,
                        .help_filter = help_filter};
    argp_err_exit_status = sp_err_exit_code(SP_EINVAL);
    argp_program_version = SPIN_VERSION;
    enum sp_err rc = SP_OK;
    if (argp_parse(&argp, argc, argv, 0, NULL, &args) != 0) {
        rc = sp_fail(err, SP_EINVAL, "bad command line");
    } else if (args.example) {
        print_example(program->spec);
        rc = SP_ECANCELED;
    } else {
        rc = apply(&args, values, err);
    }
    sp_buf_deinit(&args.assignments);
    for (size_t i = 0; i < table.docs_count; i++)
        free(table.docs[i]);
    free(doc);
    return rc;
}
