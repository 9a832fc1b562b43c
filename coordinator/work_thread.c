/* The work thread: what takes seconds or minutes. */
#include <stdlib.h>
#include <string.h>

#include "common/base/clock.h"
#include "common/base/mem.h"
#include "coordinator/create_run.h"
#include "coordinator/judge.h"
#include "coordinator/shell.h"

static bool is_stopping(void *context)
{
    struct shell *shell = context;
    return atomic_load(&shell->stopping);
}

static void create_run(struct shell *shell, struct job *job)
{
    struct coord_create_run request = {
        .state_dir = shell->settings->state_dir,
        .blobs = shell->blobs,
        .args = job->args,
        .now_ms = job->at_ms,
        .cancelled = is_stopping,
        .context = shell,
    };
    struct store_run *run = NULL;
    char *name = NULL;
    job->rc = coord_create_run_name(job->args, &name, &job->err);
    /* The token was checked against the request's run. */
    if (!job->rc && strcmp(name, job->run) != 0)
        job->rc =
            sp_fail(&job->err, SP_EINVAL, "create-run: run %.64s is asked for, its settings say %s",
                    job->run, name);
    if (job->rc) {
        free(name);
        return;
    }
    struct sp_error ignored;
    if (store_run_open(shell->worker, name, &run, &ignored) == SP_OK) {
        job->existing = true;
        job->rc = coord_create_run_same(run, job->args, &job->text, &job->err);
        free(name);
        return;
    }
    free(name);
    free(job->run);
    job->run = NULL;
    job->rc = coord_create_run(&request, &job->run, &job->text, &job->err);
}

static void judge(struct shell *shell, struct coord_query *query, struct job *job)
{
    struct coord_judgement judgement = {0};
    job->rc = coord_judge(shell->worker, query, job->action.run, job->action.iteration, &judgement,
                          &job->err);
    if (job->rc)
        return;
    job->verdict = judgement.verdict;
    job->accepted = judgement.accepted;
    job->text = judgement.text;
    job->pairs_sha256 = judgement.pairs_sha256;
}

void *shell_work_thread(void *context)
{
    struct shell *shell = context;
    struct coord_query *query = coord_query_new(shell->worker, shell->blobs);
    struct job *job;
    while ((job = sp_mailbox_take(shell->work_thread.box, -1)) != NULL) {
        switch (job->kind) {
        case JOB_CREATE_RUN:
            create_run(shell, job);
            break;
        case JOB_JUDGE:
            judge(shell, query, job);
            break;
        case JOB_COLLECT:
            job->rc = coord_collect(shell->blobs, job->refs, job->action.roots,
                                    job->action.root_count, sp_now_ms(),
                                    shell->times.collect_grace_ms, job->action.dry_run,
                                    &job->collected, &job->err);
            break;
        default:
            job->rc = coord_gap_order(shell->worker, job->action.run, job->action.iteration,
                                      &job->order, &job->err);
        }
        sp_mailbox_put(shell->done, job);
    }
    coord_query_free(query);
    return NULL;
}
