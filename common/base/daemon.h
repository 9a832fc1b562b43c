/* daemon: what every long-running program shares: signals, readiness, watchdog, exit.
 * sp_daemon_init blocks the signals and must run before any thread starts. */
#ifndef SPIN_BASE_DAEMON_H
#define SPIN_BASE_DAEMON_H

#include <stdbool.h>
#include <stdint.h>

/* SIGTERM and SIGINT set the stop flag and call `on_stop` from a signal thread; SIGHUP calls
 * `on_reload` (NULL: ignored); SIGPIPE is ignored. A second SIGINT or SIGTERM exits with 130. As
 * many files may be open as the hard limit says. */
struct sp_daemon_hooks {
    void (*on_stop)(void *context);
    void (*on_reload)(void *context);
    void *context;
};
void sp_daemon_init(const struct sp_daemon_hooks *hooks);
/* No hook is called any more, and none is being called: what they use may be freed. */
void sp_daemon_end(void);
bool sp_daemon_stopping(void);
/* sd_notify, when built with systemd and started by it; nothing otherwise. */
void sp_daemon_ready(void);
void sp_daemon_status(const char *format, ...) __attribute__((format(printf, 1, 2)));
void sp_daemon_watchdog(void); /* call at least once per half WatchdogSec */
void sp_daemon_stopping_notify(void);

#endif
