/* The administrator: starts one iteration after the other, and in some simulations pauses, resumes,
 * cancels and starts again. An iteration that paused or failed by itself has said why: it is put
 * back to work. */
#include <stdio.h>
#include <string.h>

#include "tests/sim/sim.h"

#define LOOK_MS 700

static void watch(struct sim *sim, void *context, uint64_t value);

static void send_verb(struct sim *sim, const char *verb, const char *args,
                      void (*done)(struct sim *, struct sim_call *, enum sp_err, const char *,
                                   const void *))
{
    struct proto_admin *admin = sim_alloc(sim, sizeof(*admin));
    *admin = (struct proto_admin){.verb = verb, .run = WORLD_RUN, .args = args};
    sim_trace(sim, "admin: %s %s", verb, args);
    sim_call(sim, &sim->admin, PROTO_ADMIN, admin, 3000, done, NULL);
}

static void started(struct sim *sim, struct sim_call *call, enum sp_err status, const char *text,
                    const void *reply)
{
    (void)call;
    (void)reply;
    if (status != SP_OK)
        sim_fail(sim, "start-iteration %u: %s", sim->iteration, text);
    sim_after(sim, LOOK_MS, watch, NULL, 0);
}

/* The state may have changed by itself meanwhile: a refusal is as good. */
static void moved(struct sim *sim, struct sim_call *call, enum sp_err status, const char *text,
                  const void *reply)
{
    (void)call;
    (void)reply;
    if (status != SP_OK && status != SP_ESTATE)
        sim_fail(sim, "admin: %s", text);
    sim_after(sim, LOOK_MS, watch, NULL, 0);
}

static void start_iteration(struct sim *sim)
{
    sim_disturb_iteration(sim);
    char *args = sim_alloc(sim, 40);
    snprintf(args, 40, "{\"iteration\": %u}", sim->iteration);
    send_verb(sim, "start-iteration", args, started);
}

static void watch(struct sim *sim, void *context, uint64_t value)
{
    (void)context;
    (void)value;
    uint32_t number;
    const char *reason;
    enum coord_state state =
        sim->core ? coord_iteration_state(sim->core, WORLD_RUN, &number, &reason) : COORD_RUNNING;
    bool chaos = sim->faults.admin && sim->now < sim->faults.until_ms && sim_draw(sim, 12) == 0;
    if (!sim->core) {
        sim_after(sim, LOOK_MS, watch, NULL, 0);
    } else if (number > sim->iteration) {
        sim_fail(sim, "iteration %u was started, %u is the newest that was asked for", number,
                 sim->iteration);
    } else if (state == COORD_CLOSED && number == sim->iteration) {
        sim_check_closed(sim, number);
        if (++sim->iteration == sim->iterations)
            sim->ended = true;
        else
            start_iteration(sim);
    } else if (state == COORD_PAUSED || state == COORD_FAILED) {
        if (reason[0] == '\0')
            sim_fail(sim, "iteration %u is %s without a reason", number, coord_state_name(state));
        send_verb(sim, state == COORD_PAUSED ? "resume" : "retry", "{}", moved);
    } else if (state == COORD_CANCELLED) {
        send_verb(sim, "start", "{}", moved);
    } else if (chaos) {
        send_verb(sim, sim_draw(sim, 2) ? "pause" : "cancel", "{}", moved);
    } else {
        sim_after(sim, LOOK_MS, watch, NULL, 0);
    }
}

void sim_admin_start(struct sim *sim)
{
    start_iteration(sim);
}
