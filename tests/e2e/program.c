#include "tests/e2e/program.h"

#include <check.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "common/base/clock.h"
#include "common/base/mem.h"

/* out and err are open files; a negative one leaves the test's. */
static pid_t spawn(const char *dir, int out, int err, const char *const *argv)
{
    char path[512];
    pid_t parent = getpid();
    snprintf(path, sizeof(path), "%s%s%s", argv[0][0] == '/' ? "" : SPIN_BUILD_ROOT,
             argv[0][0] == '/' ? "" : "/", argv[0]);
    pid_t pid = fork();
    ck_assert_int_ge(pid, 0);
    if (pid > 0)
        return pid;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != parent)
        _exit(126);
    int in = open("/dev/null", O_RDONLY);
    dup2(in, 0);
    if (out >= 0)
        dup2(out, 1);
    if (err >= 0)
        dup2(err, 2);
    if (chdir(dir) == 0)
        execv(path, (char *const *)(uintptr_t)argv);
    dprintf(2, "%s: %s\n", path, strerror(errno));
    _exit(127);
}

/* Keeps what fits and drops the rest; false at the end of the stream. */
static bool take(int fd, char *text, size_t *length)
{
    char chunk[4096];
    ssize_t n = read(fd, chunk, sizeof(chunk));
    if (n < 0)
        return errno == EINTR;
    size_t fits = SP_MIN((size_t)n, PROGRAM_TEXT - 1 - *length);
    memcpy(text + *length, chunk, fits);
    *length += fits;
    return n > 0;
}

int program_run_argv(const char *dir, struct said *ret, int seconds, const char *const *argv)
{
    int out[2], err[2], status = 0;
    size_t out_length = 0, err_length = 0;
    *ret = (struct said){0};
    ck_assert_int_eq(pipe2(out, O_CLOEXEC), 0);
    ck_assert_int_eq(pipe2(err, O_CLOEXEC), 0);
    int64_t start_ms = sp_now_ms(), end_ms = start_ms + 1000 * (int64_t)seconds;
    pid_t pid = spawn(dir, out[1], err[1], argv);
    close(out[1]);
    close(err[1]);
    struct pollfd fds[2] = {{.fd = out[0], .events = POLLIN}, {.fd = err[0], .events = POLLIN}};
    while (fds[0].fd >= 0 || fds[1].fd >= 0) {
        int64_t left = end_ms - sp_now_ms();
        if (left <= 0) {
            kill(pid, SIGKILL);
            waitpid(pid, &status, 0);
            ck_abort_msg("%s %s … lasted longer than %d s; it said: %.500s", argv[0], argv[1],
                         seconds, ret->err);
        }
        if (poll(fds, 2, (int)left) <= 0)
            continue;
        if (fds[0].revents && !take(out[0], ret->out, &out_length))
            fds[0].fd = -1;
        if (fds[1].revents && !take(err[0], ret->err, &err_length))
            fds[1].fd = -1;
    }
    close(out[0]);
    close(err[0]);
    ck_assert_int_eq(waitpid(pid, &status, 0), pid);
    ret->ms = sp_now_ms() - start_ms;
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

/* Splits in place. */
static int split(char *text, const char **argv, int n)
{
    for (char *at = text; *at;) {
        at += strspn(at, " ");
        if (*at == '\0')
            break;
        char stop = *at == '\'' ? '\'' : ' ';
        at += stop == '\'';
        ck_assert_int_lt(n, PROGRAM_ARGS - 1);
        argv[n++] = at;
        at += strcspn(at, stop == '\'' ? "'" : " ");
        if (*at)
            *at++ = '\0';
    }
    return n;
}

int program_run(const char *dir, struct said *ret, int seconds, const char *program,
                const char *arguments)
{
    const char *argv[PROGRAM_ARGS] = {program};
    char *text = sp_xstrdup(arguments);
    int n = split(text, argv, 1);
    argv[n] = NULL;
    int code = program_run_argv(dir, ret, seconds, argv);
    free(text);
    return code;
}

pid_t program_start(const char *dir, const char *log, const char *const *argv)
{
    char path[512];
    snprintf(path, sizeof(path), "%s/%s", dir, log);
    int fd = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    ck_assert_int_ge(fd, 0);
    pid_t pid = spawn(dir, fd, fd, argv);
    close(fd);
    return pid;
}

void program_expect(const char *dir, const char *program, const struct expectation *list,
                    size_t count)
{
    for (size_t i = 0; i < count; i++) {
        const struct expectation *e = &list[i];
        struct said said;
        int code = program_run(dir, &said, 20, program, e->arguments);
        const char *text = e->code == 0 ? said.out : said.err;
        ck_assert_msg(code == e->code, "%s %s: ended with %d, expected %d: %s%s", program,
                      e->arguments, code, e->code, said.out, said.err);
        if (e->code != 0)
            ck_assert_msg(said.err[0] && !said.out[0], "%s %s: on stdout: %s", program,
                          e->arguments, said.out);
        for (int m = 0; m < 3 && e->mentions[m]; m++)
            ck_assert_msg(strstr(text, e->mentions[m]) != NULL, "%s %s: no \"%s\" in: %s", program,
                          e->arguments, e->mentions[m], text);
    }
}
