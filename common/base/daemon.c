#include "common/base/daemon.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <sys/resource.h>
#include <unistd.h>

#include "common/base/mem.h"
#include "spin_build.h"

#if HAVE_SYSTEMD
#include <systemd/sd-daemon.h>
#define NOTIFY(text) ((void)sd_notify(0, text))
#else
#define NOTIFY(text) ((void)(text))
#endif

#define EXIT_SECOND_SIGNAL 130

static atomic_bool stopping;
static pthread_t waiter; /* the signal thread */
static pthread_mutex_t hooks_lock = PTHREAD_MUTEX_INITIALIZER; /* held while one is called */
static struct sp_daemon_hooks hooks;

static sigset_t daemon_signals(void)
{
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGINT);
    sigaddset(&set, SIGHUP);
    return set;
}

static void *signal_thread(void *argument)
{
    sigset_t set = daemon_signals();
    (void)argument;
    for (;;) {
        int signal_number;
        if (sigwait(&set, &signal_number) != 0)
            continue;
        if (signal_number != SIGHUP && atomic_exchange(&stopping, true))
            _exit(EXIT_SECOND_SIGNAL);
        pthread_mutex_lock(&hooks_lock);
        void (*hook)(void *) = signal_number == SIGHUP ? hooks.on_reload : hooks.on_stop;
        if (hook != NULL)
            hook(hooks.context);
        pthread_mutex_unlock(&hooks_lock);
    }
    return NULL;
}

/* A library that starts threads before main (OpenBLAS does) leaves the signals open in them; what
 * such a thread gets goes to the one that waits for it. */
static void forward(int signal_number)
{
    int saved = errno;
    pthread_kill(waiter, signal_number);
    errno = saved;
}

/* A shell's soft limit is what select() can take; every connection of a daemon is a file. */
static void raise_files(void)
{
    struct rlimit files;
    if (getrlimit(RLIMIT_NOFILE, &files) == 0 && files.rlim_cur < files.rlim_max) {
        files.rlim_cur = files.rlim_max;
        (void)setrlimit(RLIMIT_NOFILE, &files);
    }
}

static void set_hooks(const struct sp_daemon_hooks *wanted)
{
    pthread_mutex_lock(&hooks_lock);
    hooks = *wanted;
    pthread_mutex_unlock(&hooks_lock);
}

void sp_daemon_init(const struct sp_daemon_hooks *wanted)
{
    set_hooks(wanted);
    raise_files();
    signal(SIGPIPE, SIG_IGN);
    sigset_t set = daemon_signals();
    SP_ASSERT(pthread_sigmask(SIG_BLOCK, &set, NULL) == 0);
    SP_ASSERT(pthread_create(&waiter, NULL, signal_thread, NULL) == 0);
    pthread_detach(waiter);
    struct sigaction action = {.sa_handler = forward, .sa_flags = SA_RESTART};
    sigaction(SIGTERM, &action, NULL);
    sigaction(SIGINT, &action, NULL);
    sigaction(SIGHUP, &action, NULL);
}

void sp_daemon_end(void)
{
    set_hooks(&(struct sp_daemon_hooks){0});
}

bool sp_daemon_stopping(void)
{
    return atomic_load(&stopping);
}

void sp_daemon_ready(void)
{
    NOTIFY("READY=1");
}

void sp_daemon_status(const char *format, ...)
{
    char text[512] = "STATUS=";
    va_list args;
    va_start(args, format);
    vsnprintf(text + 7, sizeof(text) - 7, format, args);
    va_end(args);
    for (char *p = text; *p != 0; p++)
        if (*p == '\n')
            *p = ' ';
    NOTIFY(text);
}

void sp_daemon_watchdog(void)
{
    NOTIFY("WATCHDOG=1");
}

void sp_daemon_stopping_notify(void)
{
    NOTIFY("STOPPING=1");
}
