#include "common/base/log.h"

#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/base/clock.h"

#define LINE_BYTES 4096

static _Atomic int minimum_level = SP_LOG_INFO;
static char program_name[64];

void sp_log_set_level(enum sp_log_level level)
{
    atomic_store(&minimum_level, (int)level);
}

bool sp_log_shows(enum sp_log_level level)
{
    return (int)level >= atomic_load(&minimum_level);
}

enum sp_err sp_log_parse_level(const char *name, enum sp_log_level *ret, struct sp_error *err)
{
    static const char *const names[] = {"debug", "info", "warn", "error"};
    for (int i = 0; i < 4; i++) {
        if (strcmp(name, names[i]) == 0) {
            *ret = (enum sp_log_level)i;
            return SP_OK;
        }
    }
    return sp_fail(err, SP_EINVAL, "log level \"%s\": expected debug, info, warn or error", name);
}

void sp_log_set_name(const char *name)
{
    snprintf(program_name, sizeof(program_name), "%s", name);
}

static int put_prefix(char *line, size_t bytes, enum sp_log_level level)
{
    static const char *const levels[] = {"debug", "info ", "warn ", "error"};
    static const int priorities[] = {7, 6, 4, 3};
    const char *colon = program_name[0] != 0 ? ": " : "";
    if (getenv("JOURNAL_STREAM") != NULL)
        return snprintf(line, bytes, "<%d>%s%s", priorities[level], program_name, colon);
    char now[32];
    sp_format_utc(sp_wall_ms(), now);
    return snprintf(line, bytes, "%s %s %s%s", now, levels[level], program_name, colon);
}

void sp_log(enum sp_log_level level, const char *format, ...)
{
    if (!sp_log_shows(level))
        return;
    char line[LINE_BYTES];
    size_t start = (size_t)put_prefix(line, sizeof(line), level);
    va_list args;
    va_start(args, format);
    int n = vsnprintf(line + start, sizeof(line) - start - 1, format, args);
    va_end(args);
    if (n < 0)
        return;
    size_t length = strlen(line);
    for (size_t i = start; i < length; i++)
        if ((unsigned char)line[i] < 0x20 || line[i] == 0x7f)
            line[i] = ' ';
    line[length++] = '\n';
    ssize_t written = write(STDERR_FILENO, line, length);
    (void)written; /* a log line that cannot be written has nowhere to be reported */
}
