/* Publication: begin, list what is missing, put (blob messages, not seen here), commit, verify. */
#include <stdlib.h>
#include <string.h>

#include "coordinator/core_internal.h"

/* The holder's iteration, when a publication may go on now; NULL: answered. */
static struct coord_run *ready_to_publish(struct coord_core *core, const struct coord_event *event,
                                          uint64_t worker_id, const char *name, uint32_t iteration,
                                          uint64_t epoch)
{
    struct coord_run *run = core_fenced(core, event, worker_id, name, iteration, epoch);
    if (!run)
        return NULL;
    struct coord_iteration *it = run->iteration;
    if (it->pending) {
        core_reply_busy(core, event->handle);
        return NULL;
    }
    if (it->state == COORD_PAUSED) {
        core_reply_error(core, event->handle, SP_EUNAVAIL,
                         (uint32_t)core->options.times.retry_after_ms, "iteration %u is paused",
                         it->number);
        return NULL;
    }
    if (it->state != COORD_RUNNING && it->state != COORD_PUBLISHING) {
        core_reply_error(core, event->handle, SP_ESTATE, 0, "iteration %u is %s", it->number,
                         coord_state_name(it->state));
        return NULL;
    }
    return run;
}

void core_publish_begin(struct coord_core *core, const struct coord_event *event)
{
    const struct proto_publish_begin *begin = event->body;
    struct coord_run *run = ready_to_publish(core, event, begin->worker_id, begin->run,
                                             begin->iteration, begin->epoch);
    if (!run)
        return;
    struct coord_iteration *it = run->iteration;
    const struct coord_set *train = &it->sets[PROTO_SET_TRAIN];
    if (begin->manifest.length == 0 || begin->manifest.length > SP_MAX_MANIFEST) {
        core_reply_error(core, event->handle, SP_ELIMIT, 0, "publish_begin: manifest of %u bytes",
                         begin->manifest.length);
        return;
    }
    if (!set_complete(train)) {
        core_reply_error(core, event->handle, SP_ESTATE, 0,
                         "publish_begin: %u of %u pairs are stored: the iteration is not trained",
                         train->stored + train->skipped, train->count);
        return;
    }
    if (verify_blocks(core, run, false)) {
        core_reply_error(core, event->handle, SP_EUNAVAIL,
                         (uint32_t)core->options.times.retry_after_ms,
                         "publish_begin: answers are being checked by other workers");
        return;
    }
    /* Few microseconds for the manifests that there are; 4 ms for the longest that is allowed. */
    sp_sha256_of(begin->manifest.data, begin->manifest.length, &it->upload);
    if (it->state == COORD_PUBLISHING) {
        struct coord_action *action = core_action(core, COORD_DO_MISSING);
        action->handle = event->handle;
        action->run = &run->info;
        action->iteration = it->number;
        action->manifest_text = begin->manifest;
        return;
    }
    struct coord_worker *worker = core_worker(core, it->holder);
    struct coord_write *write =
        iteration_move(core, run, COORD_PUBLISHING, worker ? worker->name : "trainer", NULL);
    write->follow = FOLLOW_MISSING;
    write->handle = event->handle;
    write->manifest_text = begin->manifest;
    core_send(core, write);
}

/* The same commit once more, after its reply was lost. */
static bool is_done(const struct coord_core *core, const struct proto_publish_commit *commit)
{
    const struct coord_run *run = core_run(core, commit->run);
    const struct coord_iteration *it = run ? run->iteration : NULL;
    return it && it->number == commit->iteration && it->epoch == commit->epoch &&
           !sp_digest_is_zero(&it->checkpoint) &&
           sp_digest_equal(&it->checkpoint, &commit->checkpoint);
}

void core_publish_commit(struct coord_core *core, const struct coord_event *event)
{
    const struct proto_publish_commit *commit = event->body;
    if (core_worker(core, commit->worker_id) && is_done(core, commit)) {
        core_reply(core, event->handle, PROTO_PUBLISH_COMMIT_REPLY)->body.publish_commit.ok = true;
        return;
    }
    struct coord_run *run = ready_to_publish(core, event, commit->worker_id, commit->run,
                                             commit->iteration, commit->epoch);
    if (!run)
        return;
    struct coord_iteration *it = run->iteration;
    if (it->state != COORD_PUBLISHING) {
        core_reply_error(core, event->handle, SP_ESTATE, 0, "publish_commit: begin first");
        return;
    }
    if (strlen(commit->summary) > SP_MAX_CONFIG_JSON) {
        core_reply_error(core, event->handle, SP_ELIMIT, 0, "publish_commit: summary: %zu bytes",
                         strlen(commit->summary));
        return;
    }
    if (it->verifying) {
        core_reply_busy(core, it->publish->handle);
        it->publish->handle = event->handle;
        return;
    }
    struct coord_worker *worker = core_worker(core, it->holder);
    struct coord_write *write = core_write(COORD_W_PUBLISHED, run);
    write->checkpoint = commit->checkpoint;
    write->manifest = commit->manifest;
    write->chain = commit->pairs_chain;
    write->text = sp_xstrdup(commit->summary);
    write->epoch = it->epoch;
    write->follow = FOLLOW_COMMIT;
    write->handle = event->handle;
    char hex[SP_DIGEST_HEX];
    sp_digest_hex(&commit->checkpoint, hex);
    core_write_event(write, worker ? worker->name : "trainer", "state",
                     "iteration %u: publishing -> evaluating: checkpoint %s", it->number, hex);
    it->publish = write;
    it->verifying = true;
    struct coord_action *action = core_action(core, COORD_DO_VERIFY);
    action->run = &run->info;
    action->iteration = it->number;
    action->attempt = it->attempt;
    action->checkpoint = commit->checkpoint;
    action->manifest = commit->manifest;
}
