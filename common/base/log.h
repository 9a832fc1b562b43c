/* log: one line to stderr per record: time, level, message, then key=value fields. Under systemd
 * (JOURNAL_STREAM set) lines carry a <N> priority prefix and no time; where stderr is the journal,
 * records have the fields PRIORITY, SPIN_PROGRAM and SPIN_REQUEST. The level is the program's
 * one mutable global beside the signal flag. Any thread; a line is written by one write(2). */
#ifndef SPIN_BASE_LOG_H
#define SPIN_BASE_LOG_H

#include <stdbool.h>
#include <stdint.h>

#include "common/base/err.h"

enum sp_log_level { SP_LOG_DEBUG, SP_LOG_INFO, SP_LOG_WARN, SP_LOG_ERROR };

void sp_log_set_level(enum sp_log_level level);
bool sp_log_shows(enum sp_log_level level); /* whether a line of it is written */
enum sp_err sp_log_parse_level(const char *name, enum sp_log_level *ret, struct sp_error *err)
    SP_MUST_USE; /* debug, info, warn, error */
/* Put before every line, e.g. "generator 2"; copied. Call once, before threads start. */
void sp_log_set_name(const char *name);
/* The request that this thread is about from now on; 0: none. Lines end in " request=…", the same
 * number in the logs of the asker and of the answerer; the journal has it as SPIN_REQUEST. */
void sp_log_set_request(uint64_t id);
void sp_log(enum sp_log_level level, const char *format, ...) __attribute__((format(printf, 2, 3)));

#define sp_debug(...) sp_log(SP_LOG_DEBUG, __VA_ARGS__)
#define sp_info(...) sp_log(SP_LOG_INFO, __VA_ARGS__)
#define sp_warn(...) sp_log(SP_LOG_WARN, __VA_ARGS__)
#define sp_errlog(...) sp_log(SP_LOG_ERROR, __VA_ARGS__)

/* For a failure that repeats: true the first time and then twice a minute. *said_ms starts at 0,
 * and the caller puts 0 there again when all is well. */
bool sp_log_due(int64_t *said_ms);

#endif
