/* data_internal: what the files of coordinator/data share. */
#ifndef SPIN_COORDINATOR_DATA_INTERNAL_H
#define SPIN_COORDINATOR_DATA_INTERNAL_H

#include "coordinator/data/data.h"

/* Buffers of one row, kept from row to row. */
struct data_scratch {
    struct tok_ids prompt, real, rejected;
    struct tok_ids sample; /* the prompt that answers are sampled behind; empty: `prompt` */
    struct tok_ids again;  /* the prompt as it stands before the rejected answer */
};
void data_scratch_deinit(struct data_scratch *scratch);
enum sp_err data_render(const struct data_rows *rows, const struct tok_row *row,
                        struct data_scratch *scratch, struct sp_error *err) SP_MUST_USE;
/* setting: "[data] train", for messages. */
enum sp_err data_open(struct data_rows *rows, const char *path, const char *name,
                      const char *setting, struct tok_dataset **ret,
                      struct sp_error *err) SP_MUST_USE;
void data_close(struct data_rows *rows, struct tok_dataset *dataset);
/* Progress and cancellation. */
enum sp_err data_step(struct data_rows *rows, const struct tok_dataset *dataset, uint64_t row,
                      struct sp_error *err) SP_MUST_USE;
uint64_t data_hash_ids(const struct tok_ids *ids);
/* Whether prompt and answer are within the limits; DATA_REASONS: they are. */
enum data_reason data_left_out(const struct data_rows *rows, enum data_split split,
                               const struct data_scratch *scratch);

/* given.c: the answers that the files of later iterations give, each to the training prompt of its
 * row. After the training file was read, before data_report. */
enum sp_err data_given_run(struct data_rows *rows, struct sp_error *err) SP_MUST_USE;

#endif
