/* evaluation_internal: what the files of evaluation share. */
#ifndef SPIN_COORDINATOR_EVALUATION_INTERNAL_H
#define SPIN_COORDINATOR_EVALUATION_INTERNAL_H

#include "common/text/chat.h"
#include "coordinator/create_run_internal.h"
#include "coordinator/evaluation.h"

/* An evaluation that is being made. */
struct evaluation {
    const struct coord_evaluate *request;
    const json_t *args;
    char *name; /* owned */
    struct task *task;
    struct run_settings settings;
    struct create_base base;
    struct task_encoder encoder;
    json_t *rows;    /* owned */
    json_t *answers; /* to the turn before, by problem; owned; NULL: none */
    struct store_builder *builder;
    uint32_t counts[STORE_SPLITS];
    int64_t longest; /* tokens of an item */
    uint64_t cut;    /* problems whose context lost its beginning */
    uint64_t problems;
};

/* evaluation_rows.c: reads the data, renders, stores. */
enum sp_err evaluation_read(struct evaluation *e, struct sp_error *err) SP_MUST_USE;
enum sp_err evaluation_add_rows(struct evaluation *e, struct sp_error *err) SP_MUST_USE;

#endif
