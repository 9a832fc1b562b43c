#include "coordinator/times.h"

static int64_t scaled(int64_t ms, double scale)
{
    double value = (double)ms * scale;
    return value < 1 ? 1 : (int64_t)value;
}

void coord_times_init(double scale, struct coord_times *ret)
{
#define COORD_TIMES_SET(name, ms, what) ret->name##_ms = scaled(ms, scale);
    COORD_TIMES_LIST(COORD_TIMES_SET)
#undef COORD_TIMES_SET
    /* Short already, and of no use shorter. */
    if (ret->tick_ms < 5)
        ret->tick_ms = 5;
    if (ret->busy_ms < 5)
        ret->busy_ms = 5;
}
