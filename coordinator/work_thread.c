/* The work thread: what takes seconds or minutes; and the backup thread, which may take longer. */
#include <stdlib.h>
#include <string.h>

#include "common/base/clock.h"
#include "common/base/json.h"
#include "common/base/mem.h"
#include "coordinator/create_run.h"
#include "coordinator/evaluation.h"
#include "coordinator/judge.h"
#include "coordinator/shell.h"

static bool is_stopping(void *context)
{
    struct shell *shell = context;
    return atomic_load(&shell->stopping);
}

/* Whether the run is there; then job says whether it is the one that is asked for. */
static bool is_there(struct shell *shell, struct job *job, const char *name)
{
    struct store_run *run = NULL;
    struct sp_error ignored;
    if (store_run_open(shell->worker, name, &run, &ignored) != SP_OK)
        return false;
    job->existing = true;
    job->rc = coord_create_run_same(run, job->args, &job->text, &job->err);
    return true;
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
    char *name = NULL;
    job->rc = coord_create_run_name(job->args, &name, &job->err);
    /* The token was checked against the request's run. */
    if (!job->rc && strcmp(name, job->run) != 0)
        job->rc =
            sp_fail(&job->err, SP_EINVAL, "create-run: run %.64s is asked for, its settings say %s",
                    job->run, name);
    if (!job->rc && !is_there(shell, job, name)) {
        free(job->run);
        job->run = NULL;
        job->rc = coord_create_run(&request, &job->run, &job->text, &job->err);
        /* Asked for twice: the store takes the first one's run over while this one begins. */
        if (job->rc == SP_EEXIST && !is_there(shell, job, name))
            job->rc =
                sp_fail(&job->err, SP_EUNAVAIL, "run %s is being created by another request", name);
    }
    free(name);
}

static void judge(struct shell *shell, struct coord_query *query, struct job *job)
{
    struct coord_judgement judgement = {0};
    if (job->action.run->settings.mode == RUN_MODE_EVALUATE)
        job->rc =
            coord_evaluation_score(shell->worker, query, job->action.run, &judgement, &job->err);
    else
        job->rc = coord_judge(shell->worker, query, job->action.run, job->action.iteration,
                              &judgement, &job->err);
    if (job->rc)
        return;
    job->verdict = judgement.verdict;
    job->accepted = judgement.accepted;
    job->text = judgement.text;
    job->pairs_sha256 = judgement.pairs_sha256;
}

/* Asked for by somebody (args), or by a run's settings (the first one that is missing). */
static void evaluate(struct shell *shell, struct coord_query *query, struct job *job)
{
    struct coord_evaluate request = {
        .store = shell->worker,
        .query = query,
        .blobs = shell->blobs,
        .state_dir = shell->settings->state_dir,
        .now_ms = job->at_ms,
        .cancelled = is_stopping,
        .context = shell,
    };
    json_t *args = NULL;
    char *name = NULL;
    bool made = false;
    if (job->args)
        job->rc = sp_json_parse(job->args, strlen(job->args), "evaluate", &args, &job->err);
    else
        job->rc = coord_evaluation_missing(&request, job->action.run->name, &args, &job->err);
    const char *of = json_string_value(json_object_get(args, "of"));
    /* The token was checked against the request's run. */
    if (!job->rc && job->args && (!of || strcmp(of, job->run) != 0))
        job->rc = sp_fail(&job->err, SP_EINVAL, "evaluate: \"of\" is not the request's run");
    if (!job->rc && args)
        job->rc = coord_evaluate(&request, args, &name, &made, &job->err);
    json_decref(args);
    if (job->rc || !name)
        return;
    free(job->run);
    job->run = name;
    job->existing = !made;
    json_t *reply = json_pack("{s:s,s:b}", "evaluation", name, "existing", !made);
    job->text = json_dumps(reply, JSON_COMPACT);
    json_decref(reply);
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
            job->rc = coord_collect(
                shell->blobs, job->refs, job->action.roots, job->action.root_count, sp_now_ms(),
                shell->times.collect_grace_ms, job->action.dry_run, &job->collected, &job->err);
            break;
        case JOB_EVALUATE:
            evaluate(shell, query, job);
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

void *shell_backup_thread(void *context)
{
    struct shell *shell = context;
    struct job *job;
    while ((job = sp_mailbox_take(shell->backup_thread.box, -1)) != NULL) {
        struct coord_backup_report report;
        job->rc = coord_backup_end(job->backup, is_stopping, shell, &report, &job->err);
        if (!job->rc) {
            json_t *object =
                json_pack("{s:s,s:I,s:I,s:I}", "dir", job->text, "runs", (json_int_t)report.runs,
                          "blobs", (json_int_t)report.blobs, "bytes", (json_int_t)report.bytes);
            free(job->text);
            job->text = json_dumps(object, JSON_COMPACT);
            json_decref(object);
        }
        sp_mailbox_put(shell->done, job);
    }
    return NULL;
}
