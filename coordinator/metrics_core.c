/* What the core has to tell about runs, workers and leases. */
#include "coordinator/core_internal.h"

static void run_metrics(const struct coord_run *run, int64_t now_ms, struct coord_metrics *m)
{
    const struct coord_iteration *it = run->iteration;
    const char *name = run->info.name;
    if (!it)
        return;
    const struct coord_set *train = &it->sets[PROTO_SET_TRAIN];
    coord_metric(m, METRIC_ITERATION, it->number, "run", name, NULL);
    for (int s = 0; s < COORD_STATE_COUNT; s++)
        coord_metric(m, METRIC_STATE, (int)it->state == s, "run", name, "spin_iteration_state",
                     coord_state_name((enum coord_state)s), NULL);
    coord_metric(m, METRIC_STATE_SECONDS, (double)(now_ms - it->since_ms) / 1000, "run", name,
                 NULL);
    coord_metric(m, METRIC_PAIRS, train->count, "run", name, NULL);
    coord_metric(m, METRIC_PAIRS_DONE, train->stored + train->skipped, "run", name, NULL);
    coord_metric(m, METRIC_PAIR_RATE, coord_rate_per_s(&it->pair_rate, now_ms), "run", name, NULL);
    coord_metric(m, METRIC_STEPS, (double)it->steps_total, "run", name, NULL);
    coord_metric(m, METRIC_STEPS_DONE, (double)it->step, "run", name, NULL);
    if (it->step == 0)
        return;
    coord_metric(m, METRIC_LOSS, it->last_step.loss, "run", name, NULL);
    coord_metric(m, METRIC_MARGIN, it->last_step.margin, "run", name, NULL);
    coord_metric(m, METRIC_ACCURACY, it->last_step.accuracy, "run", name, NULL);
}

enum { ALIVE, SILENT, CORDONED, QUARANTINED, WORKER_STATES };

static void worker_metrics(const struct coord_core *core, int64_t now_ms, struct coord_metrics *m)
{
    static const char *const roles[] = {"generator", "trainer"};
    static const char *const states[] = {"alive", "silent", "cordoned", "quarantined"};
    uint32_t counts[2][WORKER_STATES] = {{0}};
    uint64_t tokens = 0;
    for (uint32_t i = 0; i < core->worker_count; i++) {
        const struct coord_worker *worker = core->workers[i];
        bool silent = now_ms - worker->seen_ms >= core->options.times.worker_gone_ms;
        const struct coord_hold *hold = core_hold(core, worker->name);
        int state = hold     ? (hold->kind == STORE_HOLD_CORDONED ? CORDONED : QUARANTINED)
                    : silent ? SILENT
                             : ALIVE;
        counts[worker->role == PROTO_ROLE_TRAINER][state]++;
        tokens += worker->tokens_generated;
    }
    for (int r = 0; r < 2; r++) {
        for (int s = 0; s < WORKER_STATES; s++)
            coord_metric(m, METRIC_WORKERS, counts[r][s], "role", roles[r], "state", states[s],
                         NULL);
    }
    coord_metric(m, METRIC_TOKENS_GENERATED, (double)tokens, NULL);
}

static void swarm_metrics(const struct coord_core *core, int64_t now_ms, struct coord_metrics *m)
{
    static const char *const outcomes[SWARM_OUTCOMES] = {NULL, "absent", "silent", "poisoned"};
    struct coord_swarm_counts counts = coord_swarms_counts(core->sources.swarms);
    coord_metric(m, METRIC_BLOB_PEERS, (double)counts.from_peers, NULL);
    for (int i = SWARM_ABSENT; i < SWARM_OUTCOMES; i++)
        coord_metric(m, METRIC_BLOB_FAILURES, (double)counts.failures[i], "outcome", outcomes[i],
                     NULL);
    coord_metric(m, METRIC_BLOB_GIVERS, coord_swarms_givers(core->sources.swarms, now_ms), NULL);
}

void coord_core_metrics(const struct coord_core *core, int64_t now_ms, struct coord_metrics *m)
{
    uint32_t leases = 0;
    for (uint32_t i = 0; i < core->lease_count; i++)
        leases += !core->leases[i]->lapsed;
    coord_metric(m, METRIC_HELD, core->parked_count, NULL);
    coord_metric(m, METRIC_GRANTS, (double)core->grants, NULL);
    coord_metric(m, METRIC_LEASES, leases, NULL);
    coord_metric(m, METRIC_ALARMS, (double)core->alarms, NULL);
    worker_metrics(core, now_ms, m);
    swarm_metrics(core, now_ms, m);
    for (uint32_t i = 0; i < core->run_count; i++)
        run_metrics(core->runs[i], now_ms, m);
}
