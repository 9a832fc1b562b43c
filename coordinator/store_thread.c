/* The store thread: what waits goes into one transaction, then it commits, then the replies leave.
 */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include "common/base/clock.h"
#include "common/base/log.h"
#include "common/base/mem.h"
#include "coordinator/backup.h"
#include "coordinator/shell.h"
#include "coordinator/uclaml.h"

#define BATCH_JOBS 1024
#define BATCH_ARENA ((size_t)1 << 30)

struct batch {
    struct shell *shell;
    struct sp_arena *arena;
    struct job *jobs[BATCH_JOBS];
    uint32_t count;
    struct coord_uclaml *uclaml;
};

/* Nothing of this batch was acknowledged. The process ends, opens the store again, and goes on from
 * what is durable. */
static void give_up(struct shell *shell, enum sp_err rc, const struct sp_error *err)
{
    struct job *job = job_new(shell, JOB_FATAL, NULL);
    job->rc = rc;
    job->err = *err;
    sp_errlog("the store has failed: %s", err->text);
    sp_mailbox_put(shell->done, job);
}

/* Refusals that change nothing (of verbs with arguments from people) leave the batch usable. */
static bool is_refusal(const struct job *job)
{
    return job->kind != JOB_WRITE &&
           (job->rc == SP_ENOTFOUND || job->rc == SP_EEXIST || job->rc == SP_EINVAL ||
            job->rc == SP_ESTATE || job->rc == SP_ELIMIT);
}

/* Who did what, in the log of events that belongs to no run. */
static void audit(struct store *store, struct job *job, const char *kind, const char *format, ...)
    __attribute__((format(printf, 4, 5)));
static void audit(struct store *store, struct job *job, const char *kind, const char *format, ...)
{
    char text[512];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof(text), format, args);
    va_end(args);
    struct store_event event = {.at_ms = job->at_ms,
                                .iteration = -1,
                                .actor = job->actor ? job->actor : "coordinator",
                                .kind = kind,
                                .text = text,
                                .detail = ""};
    if (!job->rc)
        job->rc = store_event_append(store, NULL, &event, &job->err);
}

static enum sp_err pin(struct store *store, struct job *job)
{
    struct store_run *run;
    char hex[SP_DIGEST_HEX];
    sp_digest_hex(&job->digest, hex);
    enum sp_err rc = store_run_open(store, job->run, &run, &job->err);
    if (!rc)
        rc = store_checkpoint_pin(run, &job->digest, job->pinned, &job->err);
    job->rc = rc;
    audit(store, job, "pin", "checkpoint %.12s of run %.64s is %s", hex, job->run,
          job->pinned ? "pinned" : "not pinned any more");
    return job->rc;
}

static void apply(struct batch *batch, struct job *job)
{
    struct store *store = batch->shell->store;
    struct coord_write write;
    switch (job->kind) {
    case JOB_WRITE:
        write = *job->write;
        write.rewrite = coord_uclaml_rewrite;
        write.rewrite_context = batch->uclaml;
        job->rc =
            coord_write_apply(store, &write, job->at_ms, batch->arena, &job->result, &job->err);
        break;
    case JOB_TOKEN_PUT:
        job->rc = store_token_put(store, &job->token, &job->err);
        audit(store, job, "token", "token %s (%s) of role %s is created", job->token.id,
              job->token.name, coord_role_name(job->token.role));
        break;
    case JOB_TOKEN_REVOKE:
        job->rc = store_token_revoke(store, job->text, job->at_ms, &job->err);
        audit(store, job, "token", "token %.64s is revoked", job->text);
        break;
    case JOB_ADOPT:
        job->rc = store_run_adopt(store, job->run, &job->err);
        audit(store, job, "run", "run %s is created", job->run);
        break;
    case JOB_REFS:
        job->rc = SP_OK;
        if (job->action.retain)
            job->rc = coord_retain(store, (uint32_t)batch->shell->settings->keep_last,
                                   job->action.roots, job->action.root_count, job->at_ms,
                                   job->action.dry_run, &job->dropped, &job->err);
        if (job->dropped > 0 && !job->action.dry_run)
            audit(store, job, "gc", "%u checkpoints are let go of", job->dropped);
        break;
    case JOB_PIN:
        job->rc = pin(store, job);
        break;
    default:
        job->rc = sp_fail(&job->err, SP_EINTERNAL, "job %d on the store thread", (int)job->kind);
    }
}

static bool run_batch(struct batch *batch)
{
    struct shell *shell = batch->shell;
    struct sp_error err;
    sp_arena_reset(batch->arena);
    int64_t begin_ns = sp_now_ns();
    store_begin(shell->store);
    for (uint32_t i = 0; i < batch->count; i++) {
        struct job *job = batch->jobs[i];
        apply(batch, job);
        if (job->rc && !is_refusal(job)) {
            give_up(shell, job->rc, &job->err);
            return false;
        }
    }
    enum sp_err rc = store_commit(shell->store, &err);
    if (rc) {
        give_up(shell, rc, &err);
        return false;
    }
    batch->jobs[0]->commit_ns = SP_MAX(sp_now_ns() - begin_ns, (int64_t)1);
    for (uint32_t i = 0; i < batch->count; i++) {
        struct job *job = batch->jobs[i];
        if (job->kind == JOB_ADOPT && !job->rc)
            job->rc = coord_load_run(shell->store, shell->blobs, job->run, &job->loaded, &job->err);
        if (job->kind == JOB_REFS && !job->rc)
            job->rc = coord_refs_load(shell->store, &job->refs, &job->err);
        sp_mailbox_put(shell->done, job);
    }
    return true;
}

void *shell_store_thread(void *context)
{
    struct shell *shell = context;
    struct batch *batch = sp_xalloc(sizeof(*batch));
    batch->shell = shell;
    batch->arena = sp_arena_new(1 << 20, BATCH_ARENA);
    batch->uclaml = coord_uclaml_new(shell->blobs);
    struct job *next;
    bool good = true;
    while (good && (next = sp_mailbox_take(shell->store_thread.box, -1)) != NULL) {
        struct job *alone = NULL;
        batch->count = 0;
        while (next) {
            if (next->kind == JOB_BACKUP) {
                alone = next;
                break;
            }
            batch->jobs[batch->count++] = next;
            next = batch->count < BATCH_JOBS ? sp_mailbox_try_take(shell->store_thread.box) : NULL;
        }
        if (batch->count > 0)
            good = run_batch(batch);
        if (good && alone) {
            alone->rc = coord_backup_begin(shell->store, shell->blobs, alone->text, alone->at_ms,
                                           &alone->backup, &alone->err);
            sp_mailbox_put(shell->done, alone);
        }
    }
    sp_arena_free(batch->arena);
    coord_uclaml_free(batch->uclaml);
    free(batch);
    return NULL;
}
