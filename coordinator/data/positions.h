/* positions: how long a sequence a model can hold, read from its config.json by whoever has no
 * engine. Beyond a hard end there is nothing to compute with: positions are learned, or the
 * frequencies of the rotation would change. common/model reads the same, field by field. */
#ifndef SPIN_COORDINATOR_DATA_POSITIONS_H
#define SPIN_COORDINATOR_DATA_POSITIONS_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#include "common/base/err.h"

struct data_positions {
    int64_t count;     /* of positions; SP_MAX_SEQUENCE_TOKENS where config.json says nothing */
    bool hard;         /* none is usable beyond them */
    const char *field; /* of config.json that says so; static */
    const char *why;   /* a hard end; static */
};

enum sp_err data_positions_read(const json_t *config, const char *what, struct data_positions *ret,
                                struct sp_error *err) SP_MUST_USE;

#endif
