#include "coordinator/iteration_sm.h"

#include <stdint.h>
#include <string.h>

#include "common/base/mem.h"

#define BIT(state) (1u << (state))

/* allowed[from]: the states that may follow. */
static const uint32_t allowed[COORD_STATE_COUNT] = {
    [COORD_PLANNED] =
        BIT(COORD_RUNNING) | BIT(COORD_PAUSED) | BIT(COORD_FAILED) | BIT(COORD_CANCELLED),
    [COORD_RUNNING] =
        BIT(COORD_PUBLISHING) | BIT(COORD_PAUSED) | BIT(COORD_FAILED) | BIT(COORD_CANCELLED),
    [COORD_PUBLISHING] =
        BIT(COORD_EVALUATING) | BIT(COORD_PAUSED) | BIT(COORD_FAILED) | BIT(COORD_CANCELLED),
    [COORD_EVALUATING] =
        BIT(COORD_CLOSED) | BIT(COORD_PAUSED) | BIT(COORD_FAILED) | BIT(COORD_CANCELLED),
    [COORD_CLOSED] = 0,
    [COORD_PAUSED] = BIT(COORD_PLANNED) | BIT(COORD_RUNNING) | BIT(COORD_PUBLISHING) |
                     BIT(COORD_EVALUATING) | BIT(COORD_CANCELLED),
    [COORD_FAILED] = BIT(COORD_PLANNED) | BIT(COORD_RUNNING) | BIT(COORD_PUBLISHING) |
                     BIT(COORD_EVALUATING) | BIT(COORD_CANCELLED),
    [COORD_CANCELLED] = BIT(COORD_RUNNING) | BIT(COORD_EVALUATING),
};

static const char *const names[COORD_STATE_COUNT] = {
#define COORD_STATE_NAME(name, number, text) [name] = text,
    COORD_STATE_LIST(COORD_STATE_NAME)
#undef COORD_STATE_NAME
};

const char *coord_state_name(enum coord_state state)
{
    return (unsigned)state < COORD_STATE_COUNT ? names[state] : "unknown";
}

enum sp_err coord_state_parse(const char *name, enum coord_state *ret, struct sp_error *err)
{
    for (int i = 0; i < COORD_STATE_COUNT; i++) {
        if (strcmp(names[i], name) == 0) {
            *ret = (enum coord_state)i;
            return SP_OK;
        }
    }
    return sp_fail(err, SP_EFORMAT, "\"%.40s\" is no state of an iteration", name);
}

bool coord_transition_allowed(enum coord_state from, enum coord_state to)
{
    if ((unsigned)from >= COORD_STATE_COUNT || (unsigned)to >= COORD_STATE_COUNT)
        return false;
    return (allowed[from] & BIT(to)) != 0;
}

bool coord_state_is_live(enum coord_state state)
{
    return state == COORD_PLANNED || state == COORD_RUNNING || state == COORD_PUBLISHING ||
           state == COORD_EVALUATING;
}

bool coord_state_is_open(enum coord_state state)
{
    return state != COORD_CLOSED && state != COORD_CANCELLED;
}
