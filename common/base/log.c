#include "common/base/log.h"

#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/base/clock.h"
#include "spin_build.h"

#if HAVE_SYSTEMD
#define SD_JOURNAL_SUPPRESS_LOCATION
#include <systemd/sd-journal.h>
#endif

#define LINE_BYTES 4096
#define AGAIN_MS 30000

static _Atomic int minimum_level = SP_LOG_INFO;
static char program_name[64];
static _Thread_local uint64_t request_id;

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

static const int priorities[] = {7, 6, 4, 3};

void sp_log_set_request(uint64_t id)
{
    request_id = id;
}

/* Whether stderr is the journal's socket: systemd says which one it gave us. */
static bool is_journal(void)
{
    struct stat info;
    unsigned long long device = 0, inode = 0;
    const char *stream = getenv("JOURNAL_STREAM");
    return stream && sscanf(stream, "%llu:%llu", &device, &inode) == 2 &&
           fstat(STDERR_FILENO, &info) == 0 && info.st_dev == device && info.st_ino == inode;
}

static int put_prefix(char *line, size_t bytes, enum sp_log_level level)
{
    static const char *const levels[] = {"debug", "info ", "warn ", "error"};
    const char *colon = program_name[0] != 0 ? ": " : "";
    if (getenv("JOURNAL_STREAM") != NULL)
        return snprintf(line, bytes, "<%d>%s%s", priorities[level], program_name, colon);
    char now[32];
    sp_format_utc(sp_wall_ms(), now);
    return snprintf(line, bytes, "%s %s %s%s", now, levels[level], program_name, colon);
}

#if HAVE_SYSTEMD
static bool send_to_journal(enum sp_log_level level, const char *message)
{
    char request[48] = "SPIN_REQUEST=";
    if (request_id != 0)
        snprintf(request, sizeof(request), "SPIN_REQUEST=%016llx", (unsigned long long)request_id);
    return sd_journal_send("MESSAGE=%s", message, "PRIORITY=%d", priorities[level],
                           "SPIN_PROGRAM=%s", program_name, "%s", request, NULL) == 0;
}
#else
static bool send_to_journal(enum sp_log_level level, const char *message)
{
    (void)level;
    (void)message;
    return false;
}
#endif

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
    if (request_id != 0 && length + 32 < sizeof(line))
        length += (size_t)snprintf(line + length, sizeof(line) - length, " request=%016llx",
                                   (unsigned long long)request_id);
    for (size_t i = start; i < length; i++)
        if ((unsigned char)line[i] < 0x20 || line[i] == 0x7f)
            line[i] = ' ';
    if (is_journal() && send_to_journal(level, line + start))
        return;
    line[length++] = '\n';
    ssize_t written = write(STDERR_FILENO, line, length);
    (void)written; /* a log line that cannot be written has nowhere to be reported */
}

bool sp_log_due(int64_t *said_ms)
{
    int64_t now = sp_now_ms();
    if (*said_ms != 0 && now - *said_ms < AGAIN_MS)
        return false;
    *said_ms = now;
    return true;
}
