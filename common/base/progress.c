#include "common/base/progress.h"

#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/base/clock.h"
#include "common/base/mem.h"

#define SHOW_AFTER_MS 2000
#define TERMINAL_EVERY_MS 100
#define LINE_EVERY_MS 10000
#define BAR_WIDTH 24

struct sp_progress {
    char *label;
    char *unit;
    char note[128];
    uint64_t total;
    uint64_t done;
    int64_t started_ms;
    int64_t shown_ms; /* 0: never */
    int last_width;
    bool terminal;
    bool bytes;
};

static atomic_bool progress_off;

void sp_progress_enable(bool enabled)
{
    atomic_store(&progress_off, !enabled);
}

struct sp_progress *sp_progress_new(const char *label, uint64_t total, const char *unit)
{
    struct sp_progress *progress = sp_xalloc(sizeof(*progress));
    progress->label = sp_xstrdup(label);
    progress->unit = sp_xstrdup(unit);
    progress->bytes = strcmp(unit, "bytes") == 0;
    progress->total = total;
    progress->started_ms = sp_now_ms();
    progress->terminal = isatty(STDERR_FILENO) == 1;
    return progress;
}

static void format_amount(const struct sp_progress *progress, double amount, char *ret,
                          size_t bytes)
{
    if (progress->bytes)
        snprintf(ret, bytes, "%.1f MiB", amount / (1 << 20));
    else
        snprintf(ret, bytes, amount < 10 && amount > 0 ? "%.1f" : "%.0f", amount);
}

static int format_line(const struct sp_progress *progress, int64_t now, char *line, size_t bytes)
{
    char done[48], total[48] = "", rate_text[48], bar[BAR_WIDTH + 4] = "", left[80] = "";
    double seconds = (double)(now - progress->started_ms) / 1e3;
    double rate = seconds > 0 ? (double)progress->done / seconds : 0;
    if (progress->bytes)
        format_amount(progress, (double)progress->done, done, sizeof(done));
    else
        snprintf(done, sizeof(done), "%llu", (unsigned long long)progress->done);
    format_amount(progress, rate, rate_text, sizeof(rate_text));
    if (progress->total > 0) {
        double share = (double)progress->done / (double)progress->total;
        share = share > 1 ? 1 : share;
        int full = (int)(share * BAR_WIDTH);
        bar[0] = '[';
        memset(bar + 1, '#', (size_t)full);
        memset(bar + 1 + full, '.', (size_t)(BAR_WIDTH - full));
        memcpy(bar + 1 + BAR_WIDTH, "] ", 3);
        if (progress->bytes) {
            char amount[40];
            format_amount(progress, (double)progress->total, amount, sizeof(amount));
            snprintf(total, sizeof(total), "/%s", amount);
        } else {
            snprintf(total, sizeof(total), "/%llu", (unsigned long long)progress->total);
        }
        if (rate > 0 && progress->done < progress->total) {
            char duration[48];
            double rest_ms = (double)(progress->total - progress->done) / rate * 1e3;
            sp_format_duration(rest_ms < 9e15 ? (int64_t)rest_ms : 0, duration, sizeof(duration));
            snprintf(left, sizeof(left), ", %s left", duration);
        }
    }
    const char *unit = progress->bytes ? "" : progress->unit;
    return snprintf(line, bytes, "%s %s%s%s%s%s  %s%s%s/s%s%s%s", progress->label, bar, done, total,
                    *unit ? " " : "", unit, rate_text, *unit ? " " : "", unit, left,
                    progress->note[0] ? "  " : "", progress->note);
}

static void show(struct sp_progress *progress, int64_t now)
{
    char line[512];
    int width = format_line(progress, now, line, sizeof(line));
    width = SP_MIN(width, (int)sizeof(line) - 1);
    if (progress->terminal) {
        int pad = SP_MAX(progress->last_width - width, 0);
        fprintf(stderr, "\r%s%*s", line, pad, "");
    } else {
        fprintf(stderr, "%s\n", line);
    }
    fflush(stderr);
    progress->last_width = width;
    progress->shown_ms = now;
}

static void refresh(struct sp_progress *progress)
{
    if (atomic_load(&progress_off))
        return;
    int64_t now = sp_now_ms();
    int64_t every = progress->terminal ? TERMINAL_EVERY_MS : LINE_EVERY_MS;
    if (now - progress->started_ms < SHOW_AFTER_MS || now - progress->shown_ms < every)
        return;
    show(progress, now);
}

void sp_progress_set(struct sp_progress *progress, uint64_t done)
{
    progress->done = done;
    refresh(progress);
}

void sp_progress_set_total(struct sp_progress *progress, uint64_t total)
{
    progress->total = total;
    refresh(progress);
}

void sp_progress_note(struct sp_progress *progress, const char *note)
{
    snprintf(progress->note, sizeof(progress->note), "%s", note);
    refresh(progress);
}

void sp_progress_free(struct sp_progress *progress)
{
    if (progress == NULL)
        return;
    if (progress->shown_ms != 0 && !atomic_load(&progress_off)) {
        show(progress, sp_now_ms());
        if (progress->terminal)
            fputc('\n', stderr);
    }
    free(progress->label);
    free(progress->unit);
    free(progress);
}
