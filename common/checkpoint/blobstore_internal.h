/* blobstore_internal: what blobstore.c and blob_collect.c share. */
#ifndef SPIN_CHECKPOINT_BLOBSTORE_INTERNAL_H
#define SPIN_CHECKPOINT_BLOBSTORE_INTERNAL_H

#include <pthread.h>
#include <stdatomic.h>

#include "common/checkpoint/blobstore.h"

#define FANOUT 256

struct blob_mark {
    struct sp_digest digest;
    int64_t since_ms; /* monotonic; -1: used since, so it is no mark any more */
};

struct ckpt_blobs {
    const struct ckpt_fs *fs;
    char *root;            /* DIR/blobs */
    char *temporary;       /* DIR/blobs/tmp */
    atomic_uint next_name; /* of temporary files */
    pthread_mutex_t mutex; /* of what follows, and of rename and unlink with their counts */
    bool durable[FANOUT];  /* the directory's entry is known to be on disk */
    uint64_t count, bytes;
    struct blob_mark *marks; /* owned; sorted by digest */
    size_t mark_count;
    uint32_t holds; /* while there are any, collections delete nothing */
};

#define FS(blobs, op, ...) ((blobs)->fs->op((blobs)->fs->context, __VA_ARGS__))

char *blobs_bucket_path(const struct ckpt_blobs *blobs, unsigned bucket);           /* malloc'd */
char *blobs_path(const struct ckpt_blobs *blobs, const struct sp_digest *digest); /* malloc'd */
/* Somebody asks for this blob: a mark that it had is gone. Any thread. */
void blobs_in_use(struct ckpt_blobs *blobs, const struct sp_digest *digest);
/* Deletes when `still` (NULL: always) says so with the mutex held. */
enum sp_err blobs_delete_if(struct ckpt_blobs *blobs, const struct sp_digest *digest,
                            bool (*still)(struct ckpt_blobs *blobs, const struct sp_digest *digest),
                            bool *ret_deleted, struct sp_error *err) SP_MUST_USE;

#endif
