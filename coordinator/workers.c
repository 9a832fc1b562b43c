/* Workers: who they are, which runs they fit. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "coordinator/core_internal.h"

struct coord_worker *core_worker(const struct coord_core *core, uint64_t id)
{
    return coord_map_get(&core->worker_by_id, id);
}

struct coord_worker *core_asker(struct coord_core *core, const struct coord_event *event,
                                uint64_t id, enum proto_role role)
{
    struct coord_worker *worker = core_worker(core, id);
    bool is_its = worker && strcmp(worker->token_id, event->who.token_id) == 0;
    if (!worker || worker->role != role || !is_its) {
        core_reply_error(core, event->handle, SP_ESTALE, 0, "unknown worker: say hello again");
        return NULL;
    }
    worker->seen_ms = core->now_ms;
    worker->spoke = true;
    coord_swarms_seen(core->sources.swarms, worker->id, core->now_ms);
    return worker;
}

static bool holds_token(const struct coord_worker *worker, const char *token_id)
{
    return worker && strcmp(worker->token_id, token_id) == 0;
}

void coord_revoke_token(struct coord_core *core, const char *token_id,
                        struct coord_actions *actions)
{
    core->out = actions;
    for (uint32_t i = 0; i < core->parked_count;) {
        const struct coord_parked *parked = &core->parked[i];
        if (parked->kind == PARKED_STATUS ||
            !holds_token(core_worker(core, parked->worker_id), token_id)) {
            i++;
            continue;
        }
        core_reply_error(core, parked->handle, SP_EDENIED, 0, "token %s is revoked", token_id);
        core_unpark(core, i);
    }
    for (uint32_t i = 0; i < core->lease_count; i++) {
        struct coord_lease *lease = core->leases[i];
        if (!lease->lapsed && holds_token(lease->worker, token_id))
            lease_lapse(core, lease, false, "is its no more: the token is revoked");
    }
    for (uint32_t i = 0; i < core->worker_count; i++) {
        if (holds_token(core->workers[i], token_id))
            coord_swarms_forget(core->sources.swarms, core->workers[i]->id);
    }
    for (uint32_t i = 0; i < core->run_count; i++) {
        const struct coord_iteration *it = core->runs[i]->iteration;
        if (it && it->holder && holds_token(core_worker(core, it->holder), token_id))
            core_trainer_lost(core, core->runs[i], "has lost its token");
    }
    core->out = NULL;
}

struct sp_digest *coord_token_manifests(const struct coord_core *core, const char *token_id,
                                        uint32_t *ret_count)
{
    struct sp_digest *list = NULL;
    uint32_t count = 0;
    for (uint32_t i = 0; i < core->lease_count; i++) {
        const struct coord_lease *lease = core->leases[i];
        bool known = !holds_token(lease->worker, token_id);
        for (uint32_t k = 0; k < count && !known; k++)
            known = sp_digest_equal(&list[k], &lease->manifest);
        if (known)
            continue;
        list = sp_xgrow(list, count + 1, sizeof(*list));
        list[count++] = lease->manifest;
    }
    *ret_count = count;
    return list;
}

/* Names are of a role: a generator and a trainer may have the same. */
static uint64_t name_key(uint32_t name, enum proto_role role)
{
    return (uint64_t)name << 8 | (uint64_t)role;
}

static struct coord_worker *find_by_name(const struct coord_core *core, enum proto_role role,
                                         const char *name)
{
    uint32_t number = sp_names_find(&core->names, name, strlen(name));
    return number ? coord_map_get(&core->worker_by_name, name_key(number, role)) : NULL;
}

static void replace(char **field, const char *text)
{
    free(*field);
    *field = sp_xstrdup(text ? text : "");
}

static bool was_replaced(const struct coord_worker *worker, uint64_t instance)
{
    uint32_t known = SP_MIN(worker->old_count, (uint32_t)COORD_OLD_INSTANCES);
    for (uint32_t i = 0; i < known; i++) {
        if (worker->old_instances[i] == instance)
            return true;
    }
    return false;
}

/* A new process under a known name: the one before is gone, or will be turned away. What it held is
 * free at once. */
static void take_over(struct coord_core *core, struct coord_worker *worker, uint64_t instance)
{
    worker->old_instances[worker->old_count++ % COORD_OLD_INSTANCES] = worker->instance;
    worker->instance = instance;
    worker->last_request = worker->last_lease = 0;
    worker->spoke = false;
    coord_map_remove(&core->worker_by_id, worker->id);
    coord_swarms_forget(core->sources.swarms, worker->id);
    for (uint32_t i = 0; i < core->run_count; i++) {
        struct coord_iteration *it = core->runs[i]->iteration;
        if (it && it->holder == worker->id)
            core_trainer_lost(core, core->runs[i], "was started again");
    }
    while (worker->first_lease)
        lease_lapse(core, worker->first_lease, true, "died with its worker");
    worker->id = ++core->next_id;
    coord_map_put(&core->worker_by_id, worker->id, worker);
}

static struct coord_worker *add_worker(struct coord_core *core, const struct proto_hello *hello)
{
    struct coord_worker *worker = sp_xalloc(sizeof(*worker));
    worker->id = ++core->next_id;
    worker->role = hello->role;
    worker->name = sp_xstrdup(hello->name);
    worker->instance = hello->instance;
    worker->activity = sp_xstrdup("");
    worker->serve = sp_xstrdup("");
    worker->serve_name = sp_xstrdup("");
    core->workers = sp_xgrow(core->workers, core->worker_count + 1, sizeof(*core->workers));
    core->workers[core->worker_count++] = worker;
    coord_map_put(&core->worker_by_id, worker->id, worker);
    coord_map_put(&core->worker_by_name, name_key(core_name(core, worker->name), worker->role),
                  worker);
    return worker;
}

void core_note_usage(struct coord_worker *worker, uint64_t memory_used, uint64_t memory_total,
                     double busy)
{
    worker->memory_used = SP_MIN(memory_used, (uint64_t)INT64_MAX);
    worker->memory_total = SP_MIN(memory_total, (uint64_t)INT64_MAX);
    worker->busy = busy >= 0 && busy <= 1 ? busy : (double)NAN;
}

static bool hello_is_good(struct coord_core *core, const struct coord_event *event)
{
    const struct proto_hello *hello = event->body;
    size_t name = strlen(hello->name);
    if (hello->role != PROTO_ROLE_TRAINER && hello->role != PROTO_ROLE_GENERATOR)
        core_reply_error(core, event->handle, SP_EINVAL, 0, "hello: role %u is no worker's",
                         hello->role);
    else if (event->who.role != PROTO_ROLE_ADMIN && event->who.role != hello->role)
        core_reply_error(core, event->handle, SP_EDENIED, 0,
                         "hello: the token is for another role than the worker's");
    else if (name == 0 || name > SP_MAX_WORKER_NAME)
        core_reply_error(core, event->handle, SP_EINVAL, 0, "hello: name: give 1 to %d characters",
                         SP_MAX_WORKER_NAME);
    else if (strlen(hello->host) > 255 || strlen(hello->device) > 255 ||
             strlen(hello->version) > 255 || strlen(hello->numerics_class) > 1023)
        core_reply_error(core, event->handle, SP_ELIMIT, 0,
                         "hello: host, device, version or numerics_class is too long");
    else if (hello->leases.count > SP_MAX_LISTED_LEASES)
        core_reply_error(core, event->handle, SP_ELIMIT, 0, "hello: %u leases, at most %d",
                         hello->leases.count, SP_MAX_LISTED_LEASES);
    else
        return true;
    return false;
}

/* Tells the worker which leases it has lost, and frees those soon that it does not name. */
static void settle_leases(struct coord_core *core, struct coord_worker *worker,
                          const struct proto_hello *hello, struct coord_action *action)
{
    struct proto_hello_reply *reply = &action->body.hello;
    action->ids = sp_xarray(hello->leases.count, sizeof(*action->ids));
    uint32_t lost = 0;
    core->lists++;
    for (uint32_t i = 0; i < hello->leases.count; i++) {
        if (!lease_mark(core, worker, hello->leases.values[i]))
            action->ids[lost++] = hello->leases.values[i];
    }
    reply->leases_lost = (struct proto_u64s){.values = action->ids, .count = lost};
    int64_t soon = core->now_ms + core->options.times.reclaim_ms;
    for (struct coord_lease *lease = worker->first_lease; lease; lease = lease->next) {
        if (lease->listed == core->lists) {
            lease->expires_ms = core->now_ms + core->options.times.lease_ms;
            lease->confirm_by_ms = COORD_NEVER;
        } else {
            lease->expires_ms = SP_MIN(lease->expires_ms, soon);
        }
    }
}

static void store_worker(struct coord_core *core, const struct coord_worker *worker)
{
    struct coord_write *write = core_write(COORD_W_WORKER, NULL);
    /* Copies: the next hello changes the worker while the store thread reads these. */
    write->worker = (struct store_worker){
        .name = sp_xstrdup(worker->name),
        .role = worker->role,
        .host = sp_xstrdup(worker->host),
        .device = sp_xstrdup(worker->device),
        .version = sp_xstrdup(worker->version),
        .numerics_class = sp_xstrdup(worker->numerics_class),
        .token_id = sp_xstrdup(worker->token_id),
    };
    core_send(core, write);
}

/* A process that was replaced comes back. The hello that replaced it may be one of a process before
 * it, dead long since, that was late on the network: nothing follows it. */
static bool may_return(struct coord_core *core, const struct coord_worker *worker,
                       const struct coord_event *event)
{
    int64_t wait_ms = worker->hello_ms + core->options.times.reclaim_ms - core->now_ms;
    if (worker->spoke)
        core_reply_error(
            core, event->handle, SP_EEXIST, 0,
            "hello: another process has taken the name \"%s\": give each worker a name "
            "of its own",
            worker->name);
    else if (wait_ms > 0)
        core_reply_error(core, event->handle, SP_EUNAVAIL, (uint32_t)wait_ms,
                         "hello: another process has taken the name \"%s\": waiting for its first "
                         "request",
                         worker->name);
    return !worker->spoke && wait_ms <= 0;
}

void core_hello(struct coord_core *core, const struct coord_event *event)
{
    const struct proto_hello *hello = event->body;
    if (!hello_is_good(core, event) || !core_sources_hello_is_good(core, event))
        return;
    struct coord_worker *worker = find_by_name(core, hello->role, hello->name);
    if (worker && strcmp(worker->token_id, event->who.token_id) != 0 &&
        core->now_ms - worker->seen_ms < core->options.times.worker_gone_ms) {
        core_reply_error(core, event->handle, SP_EEXIST, 0,
                         "hello: \"%s\" is alive with another token: give each worker a name of "
                         "its own",
                         hello->name);
        return;
    }
    if (worker && worker->instance != hello->instance) {
        if (was_replaced(worker, hello->instance) && !may_return(core, worker, event))
            return;
        take_over(core, worker, hello->instance);
    }
    if (!worker && core->worker_count >= SP_MAX_WORKERS) {
        core_reply_error(core, event->handle, SP_ELIMIT, 0, "hello: %d workers are known already",
                         SP_MAX_WORKERS);
        return;
    }
    if (!worker && core->names.count >= SP_MAX_WORKER_NAMES &&
        sp_names_find(&core->names, hello->name, strlen(hello->name)) == 0) {
        core_reply_error(core, event->handle, SP_ELIMIT, 0,
                         "hello: the coordinator has met %d names of workers: give workers names "
                         "that come again; it forgets those of the dead when it is started anew",
                         SP_MAX_WORKER_NAMES);
        return;
    }
    if (!worker)
        worker = add_worker(core, hello);
    replace(&worker->host, hello->host);
    replace(&worker->device, hello->device);
    replace(&worker->version, hello->version);
    replace(&worker->numerics_class, hello->numerics_class);
    replace(&worker->token_id, event->who.token_id);
    worker->slots = hello->slots;
    core->fit_version++;
    worker->seen_ms = worker->hello_ms = core->now_ms;
    if (worker->leases == 0)
        worker->idle_since_ms = core->now_ms;
    struct coord_action *action = core_reply(core, event->handle, PROTO_HELLO_REPLY);
    action->body.hello = (struct proto_hello_reply){
        .worker_id = worker->id,
        .coordinator_instance = core->options.instance,
        .version = core->options.version,
        .renew_ms = (uint32_t)core->options.times.renew_ms,
        .poll_ms = (uint32_t)core->options.times.poll_ms,
    };
    core_take_claims(core, worker, event);
    settle_leases(core, worker, hello, action);
    core_sources_hello(core, worker, hello, action);
    store_worker(core, worker);
    core_changed(core);
}

/* A numerics class begins with the name of the backend: "cpu r1". */
static bool has_backend(const struct coord_run *run, const struct coord_worker *worker)
{
    const char *backend = run->info.settings.backend;
    size_t length = strlen(backend);
    char next = strncmp(worker->numerics_class, backend, length) == 0
                    ? worker->numerics_class[length]
                    : 'x';
    return next == ' ' || next == '\0';
}

bool core_worker_fits(const struct coord_run *run, const struct coord_worker *worker)
{
    if (!has_backend(run, worker))
        return false;
    if (run->info.settings.numerics == RUN_NUMERICS_ANY)
        return true;
    return run->numerics_class[0] != '\0' &&
           strcmp(run->numerics_class, worker->numerics_class) == 0;
}

bool core_worker_may_fit(const struct coord_run *run, const struct coord_worker *worker)
{
    return core_worker_fits(run, worker) ||
           (run->numerics_class[0] == '\0' && has_backend(run, worker));
}

bool core_claim_class(struct coord_core *core, struct coord_run *run,
                      const struct coord_worker *worker)
{
    if (core_worker_fits(run, worker))
        return true;
    if (run->numerics_class[0] != '\0' || run->pinning || !has_backend(run, worker) ||
        run->info.settings.numerics == RUN_NUMERICS_ANY)
        return false;
    run->pinning = true;
    struct coord_write *write = core_write(COORD_W_CLASS, run);
    write->text = sp_xstrdup(worker->numerics_class);
    core_write_event(write, worker->name, "class", "numerics class: %s", worker->numerics_class);
    core_send(core, write);
    return false;
}

uint32_t core_live_generators(const struct coord_core *core, struct coord_run *run)
{
    if (run->live_version == core->fit_version &&
        core->now_ms - run->live_ms < core->options.times.tick_ms)
        return run->live;
    run->live = 0;
    run->live_ms = core->now_ms;
    run->live_version = core->fit_version;
    for (uint32_t i = 0; i < core->worker_count; i++) {
        const struct coord_worker *worker = core->workers[i];
        if (worker->role == PROTO_ROLE_GENERATOR && core_worker_fits(run, worker) &&
            !core_is_held(core, worker) &&
            core->now_ms - worker->seen_ms < core->options.times.worker_gone_ms)
            run->live++;
    }
    return run->live;
}

static bool is_holder(const struct coord_core *core, const struct coord_worker *worker)
{
    for (uint32_t i = 0; i < core->run_count; i++) {
        if (core->runs[i]->iteration && core->runs[i]->iteration->holder == worker->id)
            return true;
    }
    return false;
}

void core_worker_free(struct coord_worker *worker)
{
    free(worker->name);
    free(worker->host);
    free(worker->device);
    free(worker->version);
    free(worker->numerics_class);
    free(worker->token_id);
    free(worker->activity);
    free(worker->serve);
    free(worker->serve_name);
    free(worker);
}

void core_forget_workers(struct coord_core *core)
{
    for (uint32_t i = 0; i < core->worker_count;) {
        struct coord_worker *worker = core->workers[i];
        if (core->now_ms - worker->seen_ms < core->options.times.worker_forget_ms ||
            worker->leases > 0 || is_holder(core, worker)) {
            i++;
            continue;
        }
        for (uint32_t l = 0; l < core->lease_count; l++) {
            if (core->leases[l]->worker == worker)
                core->leases[l]->worker = NULL;
        }
        core->fit_version++;
        coord_map_remove(&core->worker_by_id, worker->id);
        coord_swarms_forget(core->sources.swarms, worker->id);
        coord_map_remove(&core->worker_by_name,
                         name_key(core_name(core, worker->name), worker->role));
        core_worker_free(worker);
        core->workers[i] = core->workers[--core->worker_count];
    }
}
