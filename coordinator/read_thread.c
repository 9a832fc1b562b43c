/* The read thread: work for generators, pairs for trainers, listings for people. */
#include <stdlib.h>

#include "common/base/clock.h"
#include "common/base/fs.h"
#include "coordinator/admin_query.h"
#include "coordinator/replies.h"
#include "coordinator/shell.h"

static json_t *check(const char *what, bool good, const char *detail)
{
    return json_pack("{s:s,s:b,s:s}", "check", what, "ok", good, "detail", detail);
}

/* What the coordinator can say about itself; spinctl adds its own side. */
static void doctor(struct shell *shell, struct job *job)
{
    json_t *checks = json_array();
    char text[128], size[32], reserve[32];
    uint64_t bytes = 0, count = 0;
    struct sp_error err;
    if (sp_disk_free(shell->settings->state_dir, &bytes, &err) == SP_OK) {
        sp_format_bytes(bytes, size, sizeof(size));
        sp_format_bytes((uint64_t)shell->settings->disk_reserve_bytes, reserve, sizeof(reserve));
        snprintf(text, sizeof(text), "%s free, %s reserved", size, reserve);
        json_array_append_new(
            checks, check("disk", bytes >= (uint64_t)shell->settings->disk_reserve_bytes, text));
    } else {
        json_array_append_new(checks, check("disk", false, err.text));
    }
    ckpt_blobs_usage(shell->blobs, &count, &bytes);
    sp_format_bytes(bytes, size, sizeof(size));
    snprintf(text, sizeof(text), "%llu blobs, %s", (unsigned long long)count, size);
    json_array_append_new(checks, check("blobs", true, text));
    json_array_append_new(checks, check("state directory on a local disk",
                                        !sp_is_network_fs(shell->settings->state_dir),
                                        shell->settings->state_dir));
    for (uint32_t i = 0; i < shell->set_aside_count; i++)
        json_array_append_new(checks, check("runs", false, shell->set_aside[i]));
    json_t *object = json_pack("{s:s,s:o}", "version", SPIN_VERSION, "checks", checks);
    job->text = json_dumps(object, JSON_COMPACT);
    json_decref(object);
}

static void query(struct coord_query *queries, struct job *job)
{
    json_t *object = NULL;
    job->rc = coord_query_run(queries, job->verb, job->run, job->args, &object, &job->err);
    if (job->rc)
        return;
    job->text = json_dumps(object, JSON_COMPACT);
    json_decref(object);
    if (!job->text)
        job->rc = sp_fail(&job->err, SP_EINTERNAL, "%s: the answer is no JSON", job->verb);
}

void *shell_read_thread(void *context)
{
    struct shell *shell = context;
    struct coord_query *queries = coord_query_new(shell->reader, shell->blobs);
    struct job *job;
    while ((job = sp_mailbox_take(shell->read_thread.box, -1)) != NULL) {
        switch (job->kind) {
        case JOB_GRANT:
            job->reply_type = PROTO_LEASE_REPLY;
            job->rc = coord_build_grant(shell->reader, &job->action, job->arena, &job->reply.lease,
                                        &job->err);
            break;
        case JOB_PAIRS:
            job->reply_type = PROTO_PAIRS_FETCH_REPLY;
            job->rc = coord_build_pairs(shell->reader, &job->action, job->arena, &job->reply.pairs,
                                        &job->err);
            break;
        case JOB_PASS:
            job->order =
                coord_pass_order(job->action.run, job->action.iteration, job->action.pass);
            break;
        case JOB_DOCTOR:
            doctor(shell, job);
            break;
        default:
            query(queries, job);
        }
        sp_mailbox_put(shell->done, job);
    }
    coord_query_free(queries);
    return NULL;
}
