/* base_model: the two things that a coordinator needs to know of a model: how many ids there are
 * and which of them end an answer. Read from the blobs of its manifest; blocks on the disk. */
#ifndef SPIN_COORDINATOR_BASE_MODEL_H
#define SPIN_COORDINATOR_BASE_MODEL_H

#include <stdint.h>

#include "common/checkpoint/blobstore.h"

#define COORD_MAX_STOP_IDS 64

/* vocab_size of config.json; eos_token_id (a number or a list) of generation_config.json, or of
 * config.json where that has none. SP_EFORMAT names file and field. */
enum sp_err coord_base_model(struct ckpt_blobs *blobs, const struct sp_digest *manifest,
                             int32_t *ret_vocab, int32_t ret_stop_ids[COORD_MAX_STOP_IDS],
                             uint32_t *ret_stop_count, struct sp_error *err) SP_MUST_USE;

#endif
