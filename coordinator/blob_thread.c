/* The blob thread: chunks in and out, what is missing of a manifest, verifying a publication. */
#include <stdlib.h>
#include <string.h>

#include "common/base/fs.h"
#include "common/base/limits.h"
#include "common/base/mem.h"
#include "coordinator/shell.h"

#define MAX_ASKED 100000

static void blob_get(struct shell *shell, struct job *job)
{
    const struct proto_blob_get *ask = proto_request_body(job->request);
    uint8_t *data = NULL;
    size_t length = 0;
    job->reply_type = PROTO_BLOB_GET_REPLY;
    job->rc = ckpt_blobs_get(shell->blobs, &ask->sha256, &data, &length, &job->err);
    if (job->rc)
        return;
    job->blob = data;
    job->reply.blob_get.data = (struct proto_bytes){.data = data, .length = (uint32_t)length};
}

static void blob_put(struct shell *shell, struct job *job)
{
    const struct proto_blob_put *put = proto_request_body(job->request);
    job->reply_type = PROTO_BLOB_PUT_REPLY;
    job->reply.blob_put.existed = ckpt_blobs_has(shell->blobs, &put->sha256);
    job->rc = ckpt_blobs_put(shell->blobs, &put->sha256, put->data.data, put->data.length,
                             &job->err);
}

/* Collects the digests that are not stored; the list has room for every one asked. */
struct missing {
    struct shell *shell;
    uint8_t *list;
    uint32_t bytes;
};

static void ask(struct missing *missing, const struct sp_digest *digest)
{
    if (ckpt_blobs_has(missing->shell->blobs, digest))
        return;
    memcpy(missing->list + missing->bytes, digest->bytes, SP_DIGEST_BYTES);
    missing->bytes += SP_DIGEST_BYTES;
}

static void blob_missing(struct shell *shell, struct job *job)
{
    const struct proto_blob_missing *body = proto_request_body(job->request);
    uint32_t count = body->digests.length / SP_DIGEST_BYTES;
    job->reply_type = PROTO_BLOB_MISSING_REPLY;
    if (body->digests.length % SP_DIGEST_BYTES != 0 || count > MAX_ASKED) {
        job->rc = sp_fail(&job->err, SP_EFORMAT, "blob_missing: digests: %u bytes",
                          body->digests.length);
        return;
    }
    struct missing missing = {.shell = shell};
    missing.list = sp_arena_alloc(job->arena, count, SP_DIGEST_BYTES);
    for (uint32_t i = 0; i < count; i++) {
        struct sp_digest digest;
        memcpy(digest.bytes, body->digests.data + (size_t)i * SP_DIGEST_BYTES, SP_DIGEST_BYTES);
        ask(&missing, &digest);
    }
    job->reply.blob_missing.missing =
        (struct proto_bytes){.data = missing.list, .length = missing.bytes};
}

/* The answer to publish_begin. The manifest itself is stored here: it names what is to come. */
static void publish_missing(struct shell *shell, struct job *job)
{
    struct proto_bytes text = job->action.manifest_text;
    struct ckpt_manifest manifest = CKPT_MANIFEST_INIT;
    struct sp_digest digest;
    job->reply_type = PROTO_PUBLISH_BEGIN_REPLY;
    job->rc = ckpt_manifest_parse((const char *)text.data, text.length, &manifest, &job->err);
    if (!job->rc)
        job->rc = ckpt_blobs_put_new(shell->blobs, text.data, text.length, &digest, &job->err);
    if (!job->rc) {
        struct missing missing = {.shell = shell};
        missing.list = sp_arena_alloc(job->arena, manifest.chunk_count, SP_DIGEST_BYTES);
        for (size_t f = 0; f < manifest.count; f++) {
            for (uint32_t c = 0; c < manifest.files[f].chunk_count; c++)
                ask(&missing, &manifest.files[f].chunks[c]);
        }
        job->reply.publish_begin.missing =
            (struct proto_bytes){.data = missing.list, .length = missing.bytes};
    }
    ckpt_manifest_deinit(&manifest);
}

/* Every chunk is read and hashed, and each file as a whole. */
static enum sp_err verify_file(struct shell *shell, const struct ckpt_manifest_file *file,
                               struct job *job)
{
    struct sp_sha256 *hash = sp_sha256_new();
    enum sp_err rc = SP_OK;
    uint64_t bytes = 0;
    for (uint32_t c = 0; !rc && c < file->chunk_count; c++) {
        uint8_t *data = NULL;
        size_t length = 0;
        rc = ckpt_blobs_get(shell->blobs, &file->chunks[c], &data, &length, &job->err);
        if (!rc && length != ckpt_chunk_bytes(file, c))
            rc = sp_fail(&job->err, SP_ECORRUPT, "chunk %u has %zu bytes, expected %u", c, length,
                         ckpt_chunk_bytes(file, c));
        if (!rc) {
            sp_sha256_update(hash, data, length);
            bytes += length;
            job->blobs[job->blob_count++] = file->chunks[c];
        }
        free(data);
    }
    struct sp_digest digest;
    sp_sha256_final(hash, &digest);
    sp_sha256_free(hash);
    if (!rc && (bytes != file->bytes || !sp_digest_equal(&digest, &file->sha256)))
        rc = sp_fail(&job->err, SP_ECORRUPT, "the file is not what the manifest says");
    return rc ? sp_wrap(&job->err, rc, "%s", file->path) : SP_OK;
}

static void verify(struct shell *shell, struct job *job)
{
    struct ckpt_manifest manifest = CKPT_MANIFEST_INIT;
    uint8_t *text = NULL;
    size_t length = 0;
    job->rc = ckpt_blobs_get(shell->blobs, &job->action.manifest, &text, &length, &job->err);
    if (!job->rc)
        job->rc = ckpt_manifest_parse((const char *)text, length, &manifest, &job->err);
    free(text);
    if (!job->rc && !sp_digest_equal(&manifest.digest, &job->action.checkpoint))
        job->rc = sp_fail(&job->err, SP_ECORRUPT, "the manifest is not the checkpoint's");
    if (!job->rc) {
        job->blobs = sp_xarray(manifest.chunk_count + 1, sizeof(*job->blobs));
        job->blobs[job->blob_count++] = job->action.manifest;
    }
    for (size_t f = 0; !job->rc && f < manifest.count; f++)
        job->rc = verify_file(shell, &manifest.files[f], job);
    job->bytes = manifest.bytes;
    ckpt_manifest_deinit(&manifest);
}

void *shell_blob_thread(void *context)
{
    struct shell *shell = context;
    struct job *job;
    while ((job = sp_mailbox_take(shell->blob_thread.box, -1)) != NULL) {
        switch (job->kind) {
        case JOB_BLOB_GET:
            blob_get(shell, job);
            break;
        case JOB_BLOB_PUT:
            blob_put(shell, job);
            break;
        case JOB_BLOB_MISSING:
            blob_missing(shell, job);
            break;
        case JOB_MISSING:
            publish_missing(shell, job);
            break;
        case JOB_VERIFY:
            verify(shell, job);
            break;
        default:
            job->rc = sp_disk_free(shell->settings->state_dir, &job->disk_free, &job->err);
        }
        sp_mailbox_put(shell->done, job);
    }
    return NULL;
}
