/* spinctl: what its files share. One thread, blocking calls; owns nothing durable. */
#ifndef SPIN_COORDINATOR_SPINCTL_H
#define SPIN_COORDINATOR_SPINCTL_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#include "common/base/cli.h"
#include "common/base/err.h"
#include "common/base/hash.h"
#include "proto/rpc.h"
#include "proto/run_settings.h"

#define CTL_MAX_ARGS 8
/* Patience with verbs that work through all data: making a run, backing up. A coordinator that is
 * gone is noticed long before. */
#define CTL_LONG_MS 86400000

/* Where the coordinator is and how to speak to it: the settings of spinctl.conf. */
struct ctl_settings {
    char *url, *token_file, *ca_file, *cert_file, *server_name, *state_dir;
    int64_t timeout_ms;
};

struct ctl {
    struct ctl_settings settings;
    const char *config_path; /* --config, or NULL */
    bool settings_loaded;
    bool state_dir_given, timeout_given; /* on the command line */
    bool answered;                       /* the coordinator has answered this process */
    int64_t patience_ms;                 /* of the next call; 0: settings.timeout_ms */
    bool json, quiet;
    const char *args[CTL_MAX_ARGS]; /* positional arguments of the subcommand */
    int arg_count;
    /* options of subcommands; 0 or NULL when not given */
    int64_t iterations, iteration, limit, offset, after;
    bool has_after;
    bool has_iteration, fresh, follow, jsonl, force, once, no_wait, dry_run;
    const char *set_name, *role, *name, *runs, *expires, *prompt, *out, *assignments[64];
    const char *model, *csv, *beside;
    int assignment_count;
    const char *tasks[16], *data, *against, *items;
    int task_count;
    char *token;
    struct proto_client *client; /* opened at first use */
};

/* ---- connect.c ---- */
void ctl_settings_init(struct ctl *ctl);
/* Once, before the first use: file, then environment, then command line. */
enum sp_err ctl_load_settings(struct ctl *ctl, struct sp_error *err) SP_MUST_USE;
void ctl_close(struct ctl *ctl);
char *ctl_token_path(const struct ctl *ctl); /* malloc'd */
/* A request of any type; the reply lives until the next call. A coordinator that does not answer at
 * all is reported after two seconds (or --timeout), one that has answered before after `timeout`.
 */
enum sp_err ctl_call(struct ctl *ctl, enum proto_type type, const void *body, const void **ret,
                     struct sp_error *err) SP_MUST_USE;
/* An admin verb. args is stolen (may be NULL); *ret is a new reference. */
enum sp_err ctl_admin(struct ctl *ctl, const char *verb, const char *run, json_t *args,
                      json_t **ret, struct sp_error *err) SP_MUST_USE;
/* A blob by digest into `to` (at most SP_MAX_CHUNK bytes). */
enum sp_err ctl_blob(struct ctl *ctl, const struct sp_digest *digest, struct sp_buf *to,
                     struct sp_error *err) SP_MUST_USE;

/* ---- export.c ---- */
/* Arguments of the verb `checkpoint` for "RUN", "RUN:ITERATION" or a digest or the first eight or
 * more characters of one; a new reference. */
json_t *ctl_describe_checkpoint(const char *name);

/* ---- print.c ---- */
struct ctl_column {
    const char *key;    /* field of each row; "a.b" goes into objects */
    const char *header; /* ">…" right-aligned */
    const char *format; /* "text", "int", "f1", "f3", "f4", "e", "pct", "hex12", "ms", "utc",
                           "bytes", "number" (of an iteration: -1 is the base) */
};
void ctl_print_json(const json_t *value);
/* Text of others: control characters become visible, lines after the first start with `indent`
 * spaces. */
void ctl_print_text(const char *text, int indent);
void ctl_print_table(const json_t *rows, const struct ctl_column *columns, size_t count);
/* "key: value" lines of an object, nested ones indented. */
void ctl_print_object(const json_t *object, int indent);
/* "a.b" path lookup; borrowed, NULL when absent. */
const json_t *ctl_get(const json_t *object, const char *path);
double ctl_number(const json_t *object, const char *path, double otherwise);
int64_t ctl_integer(const json_t *object, const char *path, int64_t otherwise);
const char *ctl_string(const json_t *object, const char *path, const char *otherwise);

/* Whether all of `text` is a whole number of 64 bits. */
bool ctl_whole(const char *text, int64_t *ret);

/* ---- upload.c ---- */
/* A path as written in the run file: relative ones start at the run file's directory; malloc'd. */
char *ctl_resolve(const char *run_file, const char *path);
/* A run file (NULL: none) and --set over what is in *ret; not checked by run_settings_check. */
enum sp_err ctl_read_run_settings(struct ctl *ctl, const char *path, struct run_settings *ret,
                                  struct sp_error *err) SP_MUST_USE;
/* Of create-run's report: counts by split; warnings. */
void ctl_print_data_table(const json_t *report);
void ctl_print_warnings(const json_t *report);
/* A file into blobs as a manifest of one; ret_hex names it. */
enum sp_err ctl_put_file(struct ctl *ctl, const char *path, const char *label,
                         char ret_hex[SP_DIGEST_HEX], struct sp_error *err) SP_MUST_USE;

/* ---- task_file.c ---- */
/* Task file and data into blobs; *ret: {"task", "file", "data", "fewshot", "limit"}, a new
 * reference. data: --data or NULL. *ret_kind: enum task_kind. */
enum sp_err ctl_put_task(struct ctl *ctl, const char *name, const char *data, int64_t limit,
                         json_t **ret, int *ret_kind, struct sp_error *err) SP_MUST_USE;

/* ---- export.c ---- */
/* Arguments of the verb "checkpoint" for RUN, RUN:ITERATION or RUN@ITERATION (base: -1), or the
 * beginning of a digest. New reference. */
json_t *ctl_describe_checkpoint(const char *name);

/* ---- sheet.c ---- */
/* PATH.html and PATH.jsonl from the items of one or (b not NULL) two checkpoints. */
enum sp_err ctl_write_sheet(const char *path, const char *name_a, const json_t *a,
                            const char *name_b, const json_t *b, struct sp_error *err) SP_MUST_USE;

/* ---- commands: each returns an exit code ---- */
int ctl_create_run(void *context);      /* upload.c */
int ctl_dataset(void *context);         /* dataset.c */
int ctl_report(void *context);          /* report.c */
int ctl_start_iteration(void *context); /* follow.c */
int ctl_run(void *context);             /* follow.c */
int ctl_watch(void *context);           /* follow.c */
int ctl_export(void *context);          /* export.c */
int ctl_pin(void *context);             /* keep.c, and so on */
int ctl_unpin(void *context);
int ctl_gc(void *context);
int ctl_pairs(void *context);  /* listing.c */
int ctl_status(void *context); /* listing.c, and so on */
int ctl_why(void *context);
int ctl_events(void *context);
int ctl_workers(void *context);
int ctl_iterations(void *context);
int ctl_steps(void *context);
int ctl_checkpoints(void *context);
int ctl_settings_command(void *context);
int ctl_pause(void *context); /* control.c, and so on */
int ctl_resume(void *context);
int ctl_retry(void *context);
int ctl_cancel(void *context);
int ctl_start(void *context);
int ctl_skip(void *context);
int ctl_token(void *context);
int ctl_priority(void *context);
int ctl_cordon(void *context);
int ctl_drain(void *context);
int ctl_quarantine(void *context);
int ctl_uncordon(void *context);
int ctl_backup(void *context); /* local.c */
int ctl_restore(void *context);
int ctl_remove_run(void *context); /* local.c */
int ctl_doctor(void *context);     /* doctor.c */
int ctl_evaluate(void *context);   /* evaluate.c */
/* Until the evaluation of that name is closed; NULL: all of the run's, and none is due any more. A
 * coordinator that is started again meanwhile goes on with them. SP_ESTATE when one is stuck. */
enum sp_err ctl_await_evaluations(struct ctl *ctl, const char *run, const char *name,
                                  const char *label, struct sp_error *err) SP_MUST_USE;
int ctl_evaluations(void *context);

int ctl_failed(const struct sp_error *err); /* prints "spinctl: …", returns the exit code */

#endif
