/* The blob thread: chunks in and out, what is missing of a manifest, verifying a publication. */
#include <stdlib.h>
#include <string.h>

#include "common/base/cert.h"
#include "common/base/fs.h"
#include "common/base/limits.h"
#include "common/base/mem.h"
#include "coordinator/shell.h"

#define MAX_ASKED 100000

/* ---- what a manifest names ---- */

#define KNOWN_MANIFESTS 16

struct known {
    struct sp_digest manifest;
    struct sp_digest *chunks; /* owned; sorted */
    size_t count;
    uint64_t used;            /* a smaller number: longer ago */
};

/* The manifests that generators load, parsed once. Blob thread only. */
struct known_manifests {
    struct known list[KNOWN_MANIFESTS];
    uint64_t clock;
};

static int compare_digests(const void *a, const void *b)
{
    return memcmp(a, b, SP_DIGEST_BYTES);
}

static enum sp_err parse_known(struct shell *shell, const struct sp_digest *digest,
                               struct known *ret, struct sp_error *err)
{
    struct ckpt_manifest manifest = CKPT_MANIFEST_INIT;
    uint8_t *text = NULL;
    size_t length = 0;
    enum sp_err rc = ckpt_blobs_get(shell->blobs, digest, &text, &length, err);
    if (!rc)
        rc = ckpt_manifest_parse((const char *)text, length, &manifest, err);
    free(text);
    if (rc)
        return rc;
    free(ret->chunks);
    *ret = (struct known){.manifest = *digest};
    ret->chunks = sp_xarray(manifest.chunk_count + 1, sizeof(*ret->chunks));
    for (size_t f = 0; f < manifest.count; f++) {
        for (uint32_t c = 0; c < manifest.files[f].chunk_count; c++)
            ret->chunks[ret->count++] = manifest.files[f].chunks[c];
    }
    qsort(ret->chunks, ret->count, sizeof(*ret->chunks), compare_digests);
    ckpt_manifest_deinit(&manifest);
    return SP_OK;
}

static const struct known *known_manifest(struct shell *shell, struct known_manifests *all,
                                          const struct sp_digest *digest)
{
    struct known *oldest = &all->list[0];
    struct sp_error ignored;
    for (size_t i = 0; i < KNOWN_MANIFESTS; i++) {
        struct known *one = &all->list[i];
        if (one->chunks && sp_digest_equal(&one->manifest, digest)) {
            one->used = ++all->clock;
            return one;
        }
        if (one->used < oldest->used)
            oldest = one;
    }
    if (parse_known(shell, digest, oldest, &ignored) != SP_OK)
        return NULL;
    oldest->used = ++all->clock;
    return oldest;
}

static bool is_needed(struct shell *shell, struct known_manifests *all, const struct job *job,
                      const struct sp_digest *digest)
{
    for (uint32_t i = 0; i < job->action.root_count; i++) {
        const struct sp_digest *root = &job->action.roots[i];
        if (sp_digest_equal(root, digest))
            return true;
        const struct known *known = known_manifest(shell, all, root);
        if (known && known->count > 0 &&
            bsearch(digest, known->chunks, known->count, sizeof(*digest), compare_digests))
            return true;
    }
    return false;
}

static void blob_get(struct shell *shell, struct known_manifests *all, struct job *job)
{
    const struct proto_blob_get *ask = proto_request_body(job->request);
    uint8_t *data = NULL;
    size_t length = 0;
    job->reply_type = PROTO_BLOB_GET_REPLY;
    if (job->limited && !is_needed(shell, all, job, &ask->sha256)) {
        /* Not SP_EDENIED: a worker whose lease was lost meanwhile goes on with another one. */
        job->rc = sp_fail(&job->err, SP_ESTALE, "blob_get: no lease of this token needs it");
        return;
    }
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

/* What the loop wants to know of the disk. */
static void look_around(struct shell *shell, struct job *job)
{
    const char *cert = shell->settings->tls_cert;
    struct sp_error ignored;
    job->rc = sp_disk_free(shell->settings->state_dir, &job->disk_free, &job->err);
    job->has_cert =
        cert[0] && sp_cert_seconds_left(cert, &job->cert_seconds_left, &ignored) == SP_OK;
}

void *shell_blob_thread(void *context)
{
    struct shell *shell = context;
    struct known_manifests manifests = {0};
    struct job *job;
    while ((job = sp_mailbox_take(shell->blob_thread.box, -1)) != NULL) {
        switch (job->kind) {
        case JOB_BLOB_GET:
            blob_get(shell, &manifests, job);
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
            look_around(shell, job);
        }
        sp_mailbox_put(shell->done, job);
    }
    for (size_t i = 0; i < KNOWN_MANIFESTS; i++)
        free(manifests.list[i].chunks);
    return NULL;
}
