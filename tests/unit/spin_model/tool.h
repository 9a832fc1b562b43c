/* What the tests of spin-model share: a scratch directory for each test, and the program run in it.
 */
#ifndef SPIN_TESTS_SPIN_MODEL_TOOL_H
#define SPIN_TESTS_SPIN_MODEL_TOOL_H

#include <sys/wait.h>

#include "tests/unit/checkpoint/scratch.h"

static char *dir;

static void setup(void)
{
    dir = scratch_new();
}

static void teardown(void)
{
    scratch_free(dir);
}

/* `spin-model ARGUMENTS` in the scratch directory; its exit status. Output in .out and .err. */
static int tool(const char *arguments)
{
    char *command = sp_xprintf("cd %s && " SPIN_MODEL " %s > .out 2> .err", dir, arguments);
    int status = system(command);
    free(command);
    ck_assert(WIFEXITED(status));
    return WEXITSTATUS(status);
}

static void works(const char *arguments)
{
    int status = tool(arguments);
    char *errors = get_text(dir, ".err");
    ck_assert_msg(status == 0, "%s: status %d: %s", arguments, status, errors);
    free(errors);
}

#endif
