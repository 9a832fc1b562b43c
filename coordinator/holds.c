/* Workers that get no work: cordoned by an administrator, or quarantined. */
#include <stdlib.h>
#include <string.h>

#include "coordinator/core_internal.h"

const struct coord_hold *core_hold(const struct coord_core *core, const char *worker)
{
    for (uint32_t i = 0; i < core->hold_count; i++) {
        if (strcmp(core->holds[i].worker, worker) == 0)
            return &core->holds[i];
    }
    return NULL;
}

bool core_is_held(const struct coord_core *core, const struct coord_worker *worker)
{
    return worker && core->hold_count > 0 && core_hold(core, worker->name) != NULL;
}

static void put(struct coord_core *core, const char *worker, enum store_hold_kind kind,
                const char *reason)
{
    uint32_t i = 0;
    core->fit_version++;
    while (i < core->hold_count && strcmp(core->holds[i].worker, worker) != 0)
        i++;
    if (i < core->hold_count) {
        free(core->holds[i].worker);
        free(core->holds[i].reason);
    } else {
        core->holds = sp_xgrow(core->holds, core->hold_count + 1, sizeof(*core->holds));
        core->hold_count++;
    }
    if (kind == STORE_HOLD_NONE) {
        core->holds[i] = core->holds[--core->hold_count];
        return;
    }
    core->holds[i] = (struct coord_hold){
        .worker = sp_xstrdup(worker), .reason = sp_xstrdup(reason), .kind = kind};
    core->distrust |= kind == STORE_HOLD_QUARANTINED;
}

void coord_core_add_hold(struct coord_core *core, const struct store_hold *hold)
{
    put(core, hold->worker, hold->kind, hold->reason);
}

void core_set_hold(struct coord_core *core, const char *worker, enum store_hold_kind kind,
                   const char *reason, const char *actor, uint64_t handle)
{
    static const char *const words[] = {"gets work again", "is cordoned", "is quarantined"};
    struct coord_write *write = core_write(COORD_W_HOLD, NULL);
    write->holder = sp_xstrdup(worker); /* a copy: what the caller has may be the hold's own */
    write->text = sp_xstrdup(kind == STORE_HOLD_NONE ? "" : reason);
    write->hold = kind;
    write->handle = handle;
    core_write_event(write, actor, kind == STORE_HOLD_QUARANTINED ? "quarantine" : "cordon",
                     "worker %s %s%s%s", worker, words[kind], write->text[0] ? ": " : "",
                     write->text);
    core_log(core, kind == STORE_HOLD_QUARANTINED ? SP_LOG_ERROR : SP_LOG_INFO, "%s",
             write->event_text);
    put(core, write->holder, kind, write->text);
    if (kind == STORE_HOLD_QUARANTINED)
        core_sources_drop(core, write->holder);
    core->work_changed = true;
    core_changed(core);
    core_send(core, write);
}

void core_take_back(struct coord_core *core, const char *worker, const char *why)
{
    for (uint32_t i = 0; i < core->lease_count; i++) {
        struct coord_lease *lease = core->leases[i];
        if (!lease->lapsed && lease->worker && strcmp(lease->worker->name, worker) == 0)
            lease_lapse(core, lease, false, why);
    }
}

void core_hold_written(struct coord_core *core, struct coord_write *write)
{
    static const char *const kinds[] = {"", "cordoned", "quarantined"};
    if (write->handle == 0)
        return;
    core_reply_json(core, write->handle,
                    json_pack("{s:s,s:s,s:s}", "worker", write->holder, "hold", kinds[write->hold],
                              "reason", write->text));
}
