/* cli: programs with subcommands, over argp. Global options may stand before or behind the
 * subcommand. `program --help` lists the subcommands, `program COMMAND --help` and `program help
 * COMMAND` teach one. A wrong command line exits with 2. Main thread, at start-up. */
#ifndef SPIN_BASE_CLI_H
#define SPIN_BASE_CLI_H

#include <limits.h> /* argp.h uses UCHAR_MAX */
#include <argp.h>
#include <stddef.h>

#include "common/base/err.h"

struct sp_cli_command {
    const char *name;                  /* "start-iteration" */
    const char *args;                  /* "RUN" or "CHECKPOINT DIR" */
    const char *summary;               /* one line, for the list */
    const char *details;               /* shown by --help behind the options; may be NULL */
    const struct argp_option *options; /* NULL: none of its own */
    argp_parser_t parse;               /* gets own options and arguments; NULL: takes none */
    int (*run)(void *context);         /* exit code */
};

struct sp_cli_program {
    const char *name;
    const char *summary;
    const char *details;
    const struct argp_option *options; /* global ones; NULL: none */
    argp_parser_t parse;               /* gets the global ones */
    const struct sp_cli_command *commands;
    size_t command_count;
    void *context; /* argp's state->input, and the argument of run */
};

int sp_cli_main(const struct sp_cli_program *program, int argc, char **argv);
/* "program: text" on stderr; returns the exit code that belongs to err->code. */
int sp_cli_fail(const char *program, const struct sp_error *err);

#endif
