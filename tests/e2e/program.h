/* program: runs one of the real programs to its end in a directory, with a time limit, and keeps
 * what it said. Nothing outlives the test. One thread. */
#ifndef SPIN_TESTS_E2E_PROGRAM_H
#define SPIN_TESTS_E2E_PROGRAM_H

#include <jansson.h>
#include <stdint.h>
#include <sys/types.h>

#define PROGRAM_TEXT 65536
#define PROGRAM_ARGS 48

struct said {
    char out[PROGRAM_TEXT], err[PROGRAM_TEXT]; /* cut at their size, terminated */
    int64_t ms;                                /* wall time */
};

#define SPINCTL "coordinator/spinctl/spinctl"
#define COORDINATOR "coordinator/spin-coordinator"
#define GENERATOR "generator/spin-generator"
#define TRAINER "trainer/spin-trainer"
#define SPIN_MODEL "common/spin-model/spin-model"

/* Runs argv (NULL-terminated; argv[0] a path below the build root, or absolute) in `dir`. Returns
 * the exit code, 128 + n when signal n ended it; fails the test when it lasts longer than
 * `seconds`. */
int program_run_argv(const char *dir, struct said *ret, int seconds, const char *const *argv);
/* The same from one text: arguments separated by spaces, "'…'" keeps spaces. */
int program_run(const char *dir, struct said *ret, int seconds, const char *program,
                const char *arguments);
/* Starts without waiting; stdout and stderr go to DIR/log. */
pid_t program_start(const char *dir, const char *log, const char *const *argv);

/* One thing that must go wrong (or well: code 0) and what must be said of it. */
struct expectation {
    const char *arguments;
    int code;
    const char *mentions[3]; /* in stderr, or in stdout where code is 0; NULL: no more */
};
/* Runs each with `program` in `dir`; every failure has a message on stderr and nothing on stdout.
 */
void program_expect(const char *dir, const char *program, const struct expectation *list,
                    size_t count);

#endif
