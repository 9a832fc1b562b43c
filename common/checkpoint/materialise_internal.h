/* materialise_internal: one chunk in a file, as materialise.c and partial.c read and write it. Not
 * for other folders. */
#ifndef SPIN_CHECKPOINT_MATERIALISE_INTERNAL_H
#define SPIN_CHECKPOINT_MATERIALISE_INTERNAL_H

#include <stdbool.h>

#include "common/checkpoint/manifest.h"

/* Chunk k of `file`, read from its place in fd into `to` (SP_MAX_CHUNK bytes); false: it is not
 * there, or has other bytes. */
bool ckpt_have_chunk(int fd, const struct ckpt_manifest_file *file, uint32_t k, uint8_t *to);
/* Opens DIR/PATH for reading and writing, made where needed with the directories above it. */
enum sp_err ckpt_open_partial(const char *dir, const char *path, int *ret_fd,
                              struct sp_error *err) SP_MUST_USE;
enum sp_err ckpt_write_chunk(int fd, const struct ckpt_manifest_file *file, uint32_t k,
                             const void *data, struct sp_error *err) SP_MUST_USE;

#endif
