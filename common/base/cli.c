#include "common/base/cli.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/mem.h"

struct outer {
    const struct sp_cli_program *program;
    int rest; /* index of the subcommand in argv, 0: none */
};

static void print_commands(const struct sp_cli_program *program, FILE *out)
{
    fprintf(out, "Usage: %s [OPTION...] COMMAND [ARGUMENT...]\n%s\n\nCommands:\n", program->name,
            program->summary);
    int width = 0;
    for (size_t i = 0; i < program->command_count; i++) {
        int length = (int)(strlen(program->commands[i].name) + strlen(program->commands[i].args));
        width = SP_MAX(width, length + 1);
    }
    for (size_t i = 0; i < program->command_count; i++) {
        const struct sp_cli_command *command = &program->commands[i];
        fprintf(out, "  %s %-*s  %s\n", command->name, width - 1 - (int)strlen(command->name),
                command->args, command->summary);
    }
    fprintf(out, "\n`%s COMMAND --help` explains one.\n", program->name);
    if (program->details)
        fprintf(out, "\n%s\n", program->details);
}

static error_t parse_outer(int key, char *arg, struct argp_state *state)
{
    struct outer *outer = state->input;
    switch (key) {
    case ARGP_KEY_INIT:
        state->child_inputs[0] = outer->program->context;
        return 0;
    case '?':
        print_commands(outer->program, stdout);
        printf("\n");
        argp_state_help(state, stdout, ARGP_HELP_LONG | ARGP_HELP_EXIT_OK);
        return 0;
    case 'V':
        printf("%s %s\n", outer->program->name, SPIN_VERSION);
        exit(0);
    case ARGP_KEY_ARG:
        outer->rest = state->next - 1;
        state->next = state->argc;
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

static error_t parse_inner(int key, char *arg, struct argp_state *state)
{
    if (key == ARGP_KEY_INIT) {
        state->child_inputs[0] = state->input;
        state->child_inputs[1] = state->input;
        return 0;
    }
    return ARGP_ERR_UNKNOWN;
}

static error_t parse_nothing(int key, char *arg, struct argp_state *state)
{
    if (key == ARGP_KEY_ARG)
        argp_error(state, "unexpected argument: %s", arg);
    return ARGP_ERR_UNKNOWN;
}

static const struct argp_option no_options[] = {{0}};

static int run_command(const struct sp_cli_program *program, const struct sp_cli_command *command,
                       int argc, char **argv)
{
    char *doc = sp_xprintf("%s%s%s", command->summary, command->details ? "\v" : "",
                           command->details ? command->details : "");
    char *name = sp_xprintf("%s %s", program->name, command->name);
    struct argp own = {.options = command->options ? command->options : no_options,
                       .parser = command->parse ? command->parse : parse_nothing};
    struct argp global = {.options = program->options ? program->options : no_options,
                          .parser = program->parse};
    struct argp_child children[] = {
        {.argp = &own}, {.argp = &global, .header = "Options of every command:", .group = 10}, {0}};
    struct argp all = {
        .parser = parse_inner, .doc = doc, .args_doc = command->args, .children = children};
    argv[0] = name;
    error_t failed = argp_parse(&all, argc, argv, 0, NULL, program->context);
    int code = failed ? 2 : command->run(program->context);
    free(doc);
    free(name);
    return code;
}

static const struct sp_cli_command *find(const struct sp_cli_program *program, const char *name)
{
    for (size_t i = 0; i < program->command_count; i++)
        if (strcmp(program->commands[i].name, name) == 0)
            return &program->commands[i];
    return NULL;
}

int sp_cli_main(const struct sp_cli_program *program, int argc, char **argv)
{
    static const struct argp_option outer_options[] = {
        {"help", '?', NULL, 0, "Show the commands, or a command's help", -1},
        {"version", 'V', NULL, 0, "Show the version", -1},
        {0},
    };
    struct argp global = {.options = program->options ? program->options : no_options,
                          .parser = program->parse};
    struct argp_child children[] = {{.argp = &global}, {0}};
    struct argp argp = {.options = outer_options,
                        .parser = parse_outer,
                        .args_doc = "COMMAND [ARGUMENT...]",
                        .children = children};
    struct outer outer = {.program = program};
    argp_err_exit_status = 2;
    if (argp_parse(&argp, argc, argv, ARGP_IN_ORDER | ARGP_NO_HELP, NULL, &outer) != 0)
        return 2;
    if (outer.rest == 0) {
        print_commands(program, stderr);
        return 2;
    }
    const char *name = argv[outer.rest];
    char help_flag[] = "--help";
    char *help_argv[] = {NULL, help_flag, NULL};
    if (strcmp(name, "help") == 0) {
        const struct sp_cli_command *command =
            outer.rest + 1 < argc ? find(program, argv[outer.rest + 1]) : NULL;
        if (command)
            return run_command(program, command, 2, help_argv);
        if (outer.rest + 1 >= argc) {
            print_commands(program, stdout);
            return 0;
        }
        name = argv[outer.rest + 1];
    }
    const struct sp_cli_command *command = find(program, name);
    if (!command) {
        fprintf(stderr, "%s: unknown command \"%s\"; `%s --help` lists them\n", program->name, name,
                program->name);
        return 2;
    }
    return run_command(program, command, argc - outer.rest, argv + outer.rest);
}

int sp_cli_fail(const char *program, const struct sp_error *err)
{
    fprintf(stderr, "%s: %s\n", program, err->text);
    return sp_err_exit_code(err->code);
}
