/* backup: all of a state directory that matters into another directory, and back.
 *
 * DIR/manifest.json   format, time, and SHA-256 and size of every file below; written last
 * DIR/control.db, DIR/runs/NAME.db   made on the writing connection
 * DIR/blobs/ab/<sha256>              every blob that a run refers to
 * Neither the lock, nor admin.token, nor unreferenced blobs are in it. */
#ifndef SPIN_COORDINATOR_BACKUP_H
#define SPIN_COORDINATOR_BACKUP_H

#include "common/base/err.h"
#include "common/checkpoint/blobstore.h"
#include "coordinator/store/store.h"

struct coord_backup_report {
    uint64_t runs, blobs, bytes;
};

/* In two parts, because the blobs may be many: everybody who stores something waits for the first.
 *
 * begin: store thread, outside a transaction. DIR must be missing or empty; copies the databases.
 * From here to free no collection deletes a blob.
 *
 * end: any one thread. Copies the blobs that the copies refer to; everything is fsynced before
 * manifest.json appears: a DIR without it is no backup. SP_ENOTFOUND names a missing blob.
 * cancelled (NULL: never) is asked before each. */
struct coord_backup;
enum sp_err coord_backup_begin(struct store *store, struct ckpt_blobs *blobs, const char *dir,
                               int64_t now_ms, struct coord_backup **ret,
                               struct sp_error *err) SP_MUST_USE;
enum sp_err coord_backup_end(struct coord_backup *backup, bool (*cancelled)(void *context),
                             void *context, struct coord_backup_report *ret,
                             struct sp_error *err) SP_MUST_USE;
void coord_backup_free(struct coord_backup *backup); /* NULL is fine */

/* Into a missing or empty state directory; no coordinator runs there. Verifies every digest
 * (SP_ECORRUPT names the file) and that each referenced blob is there, before anything is visible
 * under the names that a coordinator opens: control.db is put last. */
enum sp_err coord_restore(const char *dir, const char *state_dir, struct coord_backup_report *ret,
                          struct sp_error *err) SP_MUST_USE;

#endif
