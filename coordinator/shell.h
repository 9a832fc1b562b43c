/* shell: what stands around the core in the daemon: sockets, timers, threads, and the jobs that go
 * between them.
 *
 *   loop thread   sockets, timers, core, tokens; touches no disk
 *   store thread  the writing connection; everything that waits goes into one transaction, replies
 *                 leave after COMMIT; a failed COMMIT ends the process
 *   read thread   a reading connection: work for generators, pairs, orders of passes, listings
 *   blob thread   hashes, writes and reads blobs
 *   work thread   a reading connection of its own: create-run, evaluations, verdicts, the order by
 *                 gap
 *   backup thread copies blobs for a backup
 *
 * A job is made by the loop, worked on by one thread, and comes back to the loop. */
#ifndef SPIN_COORDINATOR_SHELL_H
#define SPIN_COORDINATOR_SHELL_H

#include <pthread.h>
#include <stdatomic.h>
#include <uv.h>

#include "common/base/mailbox.h"
#include "common/checkpoint/blobstore.h"
#include "coordinator/backup.h"
#include "coordinator/collect.h"
#include "coordinator/core.h"
#include "coordinator/http.h"
#include "coordinator/load.h"
#include "coordinator/map.h"
#include "coordinator/settings.h"
#include "coordinator/tokens.h"
#include "proto/canary.h"
#include "proto/rpc.h"

enum job_kind {
    /* store thread */
    JOB_WRITE,
    JOB_TOKEN_PUT,
    JOB_TOKEN_REVOKE,
    JOB_ADOPT,
    JOB_REFS,
    JOB_PIN,
    JOB_BACKUP,
    /* read thread */
    JOB_GRANT,
    JOB_PAIRS,
    JOB_PASS,
    JOB_QUERY,
    JOB_DOCTOR,
    /* blob thread */
    JOB_BLOB_GET,
    JOB_BLOB_PUT,
    JOB_BLOB_MISSING,
    JOB_MISSING,
    JOB_VERIFY,
    JOB_DISK,
    /* work thread */
    JOB_CREATE_RUN,
    JOB_JUDGE,
    JOB_EVALUATE,
    JOB_ORDER,
    JOB_COLLECT,
    /* backup thread */
    JOB_BACKUP_BLOBS,
    /* the store thread has given up: the process ends */
    JOB_FATAL,
};

struct job {
    enum job_kind kind;
    struct shell *shell;
    struct proto_request *request; /* that it answers, or NULL */
    struct sp_arena *arena;        /* for the reply; owned; NULL: none needed */
    struct coord_action action;    /* that it came from, where it came from one; owns positions */
    const struct coord_write *write;
    struct coord_write_result result;
    enum proto_type reply_type;
    union {
        struct proto_lease_reply lease;
        struct proto_pairs_fetch_reply pairs;
        struct proto_blob_get_reply blob_get;
        struct proto_blob_missing_reply blob_missing;
        struct proto_blob_put_reply blob_put;
        struct proto_publish_begin_reply publish_begin;
        struct proto_admin_reply admin;
    } reply;
    enum sp_err rc;
    struct sp_error err;
    /* admin verbs; owned */
    char *verb, *run, *args, *text;
    char *actor;                   /* id of the token that asked, for the audit */
    void *blob;                    /* BLOB_GET: malloc'd */
    bool limited;                  /* BLOB_GET: to what action.roots name */
    struct coord_loaded loaded;    /* ADOPT */
    bool existing;                 /* CREATE_RUN, EVALUATE: the run is there already */
    bool due;                      /* EVALUATE, ADOPT: the core asked for it, action says what */
    struct store_token token;      /* TOKEN_PUT: strings in token_text, run, args */
    char token_text[COORD_TOKEN_TEXT_BYTES];
    char token_id[COORD_TOKEN_ID_CHARS + 1];
    /* VERIFY */
    struct sp_digest *blobs;
    uint32_t blob_count;
    uint64_t bytes;
    /* JUDGE */
    char *verdict;
    bool accepted;
    struct sp_digest pairs_sha256;
    /* ORDER */
    uint32_t *order;
    /* REFS, COLLECT */
    struct coord_refs *refs;
    struct ckpt_collected collected;
    uint32_t dropped;              /* checkpoints */
    struct coord_backup *backup;   /* BACKUP, BACKUP_BLOBS */
    /* PIN */
    struct sp_digest digest;
    bool pinned;
    /* DISK */
    uint64_t disk_free;
    bool has_cert;
    int64_t cert_seconds_left;
    int64_t start_ns;              /* monotonic, when it was made */
    int64_t commit_ns;             /* how long the commit took; the first job of a batch has it */
    int64_t at_ms;                 /* wall clock when it was made */
};

/* For /metrics. */
struct shell_counters {
    uint64_t requests[PROTO_TYPE_END]; /* by type */
    uint64_t denied;
    uint64_t blob_bytes; /* sent */
    struct coord_histogram submit, lease, commit;
};

struct job_thread {
    pthread_t thread;
    struct sp_mailbox *box;
    bool started;
};

struct shell {
    _Atomic(const struct coord_settings *) settings; /* another one after SIGHUP */
    _Atomic(struct coord_arguments *) reloaded;      /* read, not yet taken over */
    struct coord_arguments **old; /* settings that threads may still look at */
    size_t old_count;
    struct coord_times times;
    uv_loop_t loop;
    uv_async_t wake, stop, reload;
    uv_timer_t timer;
    uv_check_t check;
    struct proto_server *servers[COORD_MAX_LISTENERS];
    uint32_t server_count, servers_open;
    struct coord_core *core;
    struct coord_tokens *tokens;
    struct coord_map requests;     /* handle → struct proto_request */
    uint64_t next_handle;
    struct coord_actions actions;
    struct sp_mailbox *done;       /* finished jobs */
    struct job_thread store_thread, read_thread, blob_thread, work_thread, backup_thread;
    struct store *store;           /* store thread's */
    struct store *reader;          /* read thread's */
    struct store *worker;          /* work thread's */
    struct ckpt_blobs *blobs;      /* any thread's */
    char **set_aside;              /* a line for each run whose file is damaged; set once */
    uint32_t set_aside_count;
    bool tick_due, closing;
    atomic_bool stopping;          /* asked by long work */
    bool disk_low;
    uint64_t disk_free;
    bool has_cert;                 /* cert_seconds_left is known */
    int64_t cert_seconds_left;
    struct coord_http *http;       /* NULL: none */
    bool http_needs_token;
    struct shell_counters counters;
    int64_t started_ms;
    int64_t next_disk_ms, next_watchdog_ms;
    struct proto_silence silence;
    enum sp_err fatal;
    struct sp_error fatal_err;
};

/* ---- shell.c ---- */
/* Before any thread starts; the loop's settings are in shell->times. */
void shell_open_loop(struct shell *shell);
void shell_close_loop(struct shell *shell);
/* Runs until SIGTERM or a fatal error. The state directory's store, readers and blobs are open. */
enum sp_err shell_run(struct shell *shell, struct sp_error *err) SP_MUST_USE;
void shell_stop(void *shell); /* any thread */
/* Settings as they are now (SIGHUP): takes over what can change while running, and the certificate
 * files. Takes the arguments over. Any thread. */
void shell_reload(struct shell *shell, struct coord_arguments *arguments);
void shell_event(struct shell *shell, const struct coord_event *event);
/* Does what the core has put into shell->actions. */
void shell_execute(struct shell *shell);
/* Sends a job to its thread. */
void shell_send(struct shell *shell, struct job *job);
struct job *job_new(struct shell *shell, enum job_kind kind, struct proto_request *request);
void job_free(struct job *job);

/* ---- requests.c: what comes in ---- */
void shell_on_request(struct proto_request *request, void *shell);

/* ---- finished.c: what comes back ---- */
void shell_finished(struct shell *shell, struct job *job); /* frees it */

/* ---- http_pages.c ---- */
void shell_http_answer(void *shell, const char *path, const char *authorization,
                       struct coord_http_reply *reply);

/* ---- threads ---- */
void *shell_store_thread(void *shell);
void *shell_read_thread(void *shell);
void *shell_blob_thread(void *shell);
void *shell_work_thread(void *shell);
void *shell_backup_thread(void *shell);

#endif
