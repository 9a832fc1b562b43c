/* progress: a bar with rate and remaining time on a terminal, or a line every ten seconds where
 * stderr is no terminal. Shown only once the work has lasted two seconds. One thread. */
#ifndef SPIN_BASE_PROGRESS_H
#define SPIN_BASE_PROGRESS_H

#include <stdbool.h>
#include <stdint.h>

struct sp_progress;

/* total 0: unknown (a count and a rate only). unit: "pairs", "bytes" (shown as MiB), … */
struct sp_progress *sp_progress_new(const char *label, uint64_t total, const char *unit);
void sp_progress_set(struct sp_progress *progress, uint64_t done);
void sp_progress_set_total(struct sp_progress *progress, uint64_t total);
void sp_progress_note(struct sp_progress *progress, const char *note); /* text behind the bar */
void sp_progress_free(struct sp_progress *progress); /* ends the line; NULL is fine */
void sp_progress_enable(bool enabled); /* --quiet; call before threads start */

#endif
