/* What comes back from the threads. Loop thread. */
#include <stdlib.h>
#include <string.h>

#include "common/base/clock.h"
#include "common/base/log.h"
#include "common/base/mem.h"
#include "coordinator/shell.h"

static void reply_error(struct job *job)
{
    proto_reply_error(job->request, job->rc, 0, "%s", job->err.text);
}

/* The reply that the thread has made, or its error. */
static void reply_made(struct job *job)
{
    if (job->rc)
        reply_error(job);
    else
        proto_reply(job->request, job->reply_type, &job->reply);
}

/* A disk that takes nothing now may do so later: whoever has something to store asks again. */
static void reply_stored(struct shell *shell, struct job *job)
{
    if (job->rc == SP_EIO) {
        sp_warn("%s", job->err.text);
        proto_reply_error(job->request, SP_EUNAVAIL, (uint32_t)shell->times.disk_retry_ms, "%s",
                          job->err.text);
    } else {
        reply_made(job);
    }
}

static void reply_text(struct job *job)
{
    job->reply.admin.json = job->text;
    job->reply_type = PROTO_ADMIN_REPLY;
    reply_made(job);
}

static void written(struct shell *shell, const struct job *job)
{
    struct coord_event event = {
        .kind = COORD_EV_WRITTEN, .write_id = job->write->id, .result = job->result};
    shell_event(shell, &event);
}

/* verified, judged or ordered */
static void outside_work(struct shell *shell, const struct job *job, enum coord_event_kind kind)
{
    struct coord_event event = {
        .kind = kind,
        .run = job->action.run->name,
        .iteration = job->action.iteration,
        .attempt = job->action.attempt,
        .status = job->rc,
        .text = job->rc ? job->err.text : job->text,
        .accepted = job->accepted,
        .verdict = job->verdict,
        .bytes = job->bytes,
        .order = job->order,
        .more = job->run != NULL,
        .gap = job->action.gap,
        .pass = job->action.pass,
        .blobs = job->blobs,
        .blob_count = job->blob_count,
        .pairs_sha256 = job->pairs_sha256,
    };
    shell_event(shell, &event);
}

static void token_put(struct shell *shell, struct job *job)
{
    if (job->rc)
        return reply_error(job);
    coord_tokens_put(shell->tokens, &job->token);
    json_t *object = json_pack(
        "{s:s,s:s,s:s,s:s,s:s,s:o}", "id", job->token.id, "token", job->token_text, "role",
        coord_role_name(job->token.role), "name", job->token.name, "runs", job->token.runs,
        "expires_ms",
        job->token.expires_ms ? json_integer((json_int_t)job->token.expires_ms) : json_null());
    job->text = json_dumps(object, JSON_COMPACT);
    json_decref(object);
    reply_text(job);
}

static void token_revoked(struct shell *shell, struct job *job)
{
    if (job->rc)
        return reply_error(job);
    coord_tokens_revoke(shell->tokens, job->text, job->at_ms);
    coord_revoke_token(shell->core, job->text, &shell->actions);
    shell_execute(shell);
    json_t *object = json_pack("{s:s,s:b}", "id", job->text, "revoked", true);
    free(job->text);
    job->text = json_dumps(object, JSON_COMPACT);
    json_decref(object);
    reply_text(job);
}

/* The run's file is finished: the store takes it over, then the core. */
static void created(struct shell *shell, struct job *job)
{
    if (job->due && (job->rc || job->existing || !job->run))
        return outside_work(shell, job, COORD_EV_EVALUATED);
    if (job->rc || job->existing)
        return reply_text(job);
    struct job *adopt = job_new(shell, JOB_ADOPT, job->request);
    adopt->run = job->run;
    adopt->text = job->text;
    adopt->actor = job->actor;
    adopt->due = job->due;
    adopt->action = job->action;
    job->run = job->text = job->actor = NULL;
    shell_send(shell, adopt);
}

static void adopted(struct shell *shell, struct job *job)
{
    if (!job->rc && !coord_find_run(shell->core, job->run))
        job->rc = coord_load_add(shell->core, &job->loaded, sp_now_ms(), &job->err);
    if (!job->rc)
        sp_info("run %s is created", job->run);
    if (job->due)
        outside_work(shell, job, COORD_EV_EVALUATED);
    else
        reply_text(job);
}

/* References are known: the next step is on another thread. */
static void collect(struct shell *shell, struct job *job)
{
    struct job *next = job_new(shell, JOB_COLLECT, job->request);
    next->action = job->action;
    next->refs = job->refs;
    next->dropped = job->dropped;
    job->action.roots = NULL;
    job->refs = NULL;
    shell_send(shell, next);
}

static void collected(struct shell *shell, struct job *job)
{
    const struct ckpt_collected *c = &job->collected;
    shell_event(shell, &(struct coord_event){.kind = COORD_EV_COLLECTED});
    if (job->rc)
        sp_warn("collection of blobs: %s", job->err.text);
    else if (c->deleted > 0)
        sp_info("%llu blobs that nothing refers to are deleted: %llu bytes",
                (unsigned long long)c->deleted, (unsigned long long)c->deleted_bytes);
    if (!job->request)
        return;
    if (job->rc)
        return reply_error(job);
    json_t *object = json_pack(
        "{s:b,s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:I}", "dry_run", job->action.dry_run,
        "checkpoints_dropped", (json_int_t)job->dropped, "blobs_kept", (json_int_t)c->kept,
        "bytes_kept", (json_int_t)c->kept_bytes, "blobs_unreferenced", (json_int_t)c->waiting,
        "bytes_unreferenced", (json_int_t)c->waiting_bytes, "blobs_deleted",
        (json_int_t)c->deleted, "bytes_deleted", (json_int_t)c->deleted_bytes, "grace_ms",
        (json_int_t)shell->times.collect_grace_ms);
    job->text = json_dumps(object, JSON_COMPACT);
    json_decref(object);
    reply_text(job);
}

static void pinned(struct job *job)
{
    char hex[SP_DIGEST_HEX];
    if (job->rc)
        return reply_error(job);
    sp_digest_hex(&job->digest, hex);
    json_t *object = json_pack("{s:s,s:s,s:b}", "run", job->run, "digest", hex, "pinned",
                               job->pinned);
    job->text = json_dumps(object, JSON_COMPACT);
    json_decref(object);
    reply_text(job);
}

static void disk_checked(struct shell *shell, const struct job *job)
{
    bool low = job->rc == SP_OK &&
               job->disk_free < (uint64_t)shell->settings->disk_reserve_bytes;
    if (low != shell->disk_low)
        sp_warn(low ? "less than disk_reserve is free: nothing is accepted until there is more"
                    : "there is room on the disk again");
    shell->disk_low = low;
    shell->disk_free = job->disk_free;
    shell->has_cert = job->has_cert;
    shell->cert_seconds_left = job->cert_seconds_left;
    coord_set_disk_low(shell->core, low);
}

void shell_finished(struct shell *shell, struct job *job)
{
    if (job->commit_ns > 0)
        coord_histogram_add(&shell->counters.commit, (double)job->commit_ns / 1e9);
    switch (job->kind) {
    case JOB_WRITE:
        written(shell, job);
        break;
    case JOB_TOKEN_PUT:
        token_put(shell, job);
        break;
    case JOB_TOKEN_REVOKE:
        token_revoked(shell, job);
        break;
    case JOB_ADOPT:
        adopted(shell, job);
        break;
    case JOB_REFS:
        if (job->rc)
            collected(shell, job);
        else
            collect(shell, job);
        break;
    case JOB_COLLECT:
        collected(shell, job);
        break;
    case JOB_PIN:
        pinned(job);
        break;
    case JOB_BACKUP:
        if (job->rc == SP_OK) {
            job->kind = JOB_BACKUP_BLOBS;
            return shell_send(shell, job);
        }
        reply_error(job);
        break;
    case JOB_BACKUP_BLOBS:
    case JOB_QUERY:
    case JOB_DOCTOR:
        reply_text(job);
        break;
    case JOB_CREATE_RUN:
    case JOB_EVALUATE:
        created(shell, job);
        break;
    case JOB_GRANT:
        coord_histogram_add(&shell->counters.lease, (double)(sp_now_ns() - job->start_ns) / 1e9);
        reply_made(job);
        break;
    case JOB_BLOB_GET:
        if (job->rc == SP_OK)
            shell->counters.blob_bytes += job->reply.blob_get.data.length;
        reply_made(job);
        break;
    case JOB_PAIRS:
    case JOB_BLOB_MISSING:
        reply_made(job);
        break;
    case JOB_BLOB_PUT:
    case JOB_MISSING:
        reply_stored(shell, job);
        break;
    case JOB_VERIFY:
        outside_work(shell, job, COORD_EV_VERIFIED);
        break;
    case JOB_JUDGE:
        outside_work(shell, job, COORD_EV_JUDGED);
        break;
    case JOB_ORDER:
    case JOB_PASS:
        outside_work(shell, job, COORD_EV_ORDERED);
        break;
    case JOB_DISK:
        disk_checked(shell, job);
        break;
    case JOB_FATAL:
        shell->fatal = job->rc;
        shell->fatal_err = job->err;
        break;
    }
    job_free(job);
}
