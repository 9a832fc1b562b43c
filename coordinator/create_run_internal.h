/* create_run_internal: the parts of create-run. One thread: the work thread of one request. */
#ifndef SPIN_COORDINATOR_CREATE_RUN_INTERNAL_H
#define SPIN_COORDINATOR_CREATE_RUN_INTERNAL_H

#include <jansson.h>

#include "common/checkpoint/manifest.h"
#include "coordinator/create_run.h"
#include "coordinator/data/data.h"

/* ---- arguments ---- */

/* Datasets, in the order of enum data_split; then those with given answers for iterations 1 …. */
#define CREATE_FILES (DATA_SPLITS + DATA_GIVEN)
extern const char *const create_file_names[CREATE_FILES]; /* "train", …, "generated_3" */

struct create_args {
    json_t *json; /* owned */
    struct run_settings settings;
    struct sp_digest base;
    bool has_data[CREATE_FILES];
    struct sp_digest data[CREATE_FILES]; /* SHA-256 of each one's manifest */
    const json_t *tasks; /* array, as ctl_put_task makes its elements; NULL: none; in json */
};
enum sp_err create_args_parse(const char *text, struct create_args *ret,
                              struct sp_error *err) SP_MUST_USE;
void create_args_deinit(struct create_args *args);

/* ---- blobs ---- */

/* A manifest out of the blobs, all of whose chunks are there; `what` is for messages. */
enum sp_err create_manifest(struct ckpt_blobs *blobs, const char *what,
                            const struct sp_digest *sha256, struct ckpt_manifest *ret,
                            struct sp_error *err) SP_MUST_USE;

bool create_is_weights(const char *path);

/* ---- the base model ---- */

struct create_base {
    struct ckpt_manifest manifest;
    struct data_model model;
};
/* Puts everything but weights into `dir` (made here) and loads it. */
enum sp_err create_base_load(struct ckpt_blobs *blobs, const struct create_args *args,
                             const char *dir, struct create_base *ret,
                             struct sp_error *err) SP_MUST_USE;
void create_base_deinit(struct create_base *base);

#endif
