#include <string.h>

#include "common/base/limits.h"
#include "common/base/log.h"
#include "common/worker/link.h"
#include "common/worker/sources.h"

static enum sp_err fetch_chunk(void *context, const struct sp_digest *digest, uint32_t bytes,
                               uint8_t *to, struct sp_error *err)
{
    struct worker_peer *peer = ((const struct worker_target *)context)->peer;
    struct proto_blob_get request = {.sha256 = *digest};
    const void *body;
    enum sp_err rc = worker_call_plain(peer, PROTO_BLOB_GET, &request, &body, err);
    if (rc != SP_OK)
        return rc;
    const struct proto_blob_get_reply *reply = body;
    if (reply->data.length != bytes) {
        char hex[SP_DIGEST_HEX];
        sp_digest_hex(digest, hex);
        return sp_fail(err, SP_ECORRUPT, "chunk %.12s: %u bytes came, expected %u", hex,
                       reply->data.length, bytes);
    }
    memcpy(to, reply->data.data, bytes);
    return SP_OK;
}

static enum sp_err fetch_manifest(struct worker_peer *peer, const struct sp_digest *checkpoint,
                                  const struct sp_digest *digest, struct ckpt_manifest *ret,
                                  struct sp_error *err)
{
    struct proto_blob_get request = {.sha256 = *digest};
    const void *body;
    enum sp_err rc = worker_call_plain(peer, PROTO_BLOB_GET, &request, &body, err);
    if (rc != SP_OK)
        return sp_wrap(err, rc, "manifest");
    const struct proto_blob_get_reply *reply = body;
    struct sp_digest sum;
    sp_sha256_of(reply->data.data, reply->data.length, &sum);
    if (!sp_digest_equal(&sum, digest))
        return sp_fail(err, SP_ECORRUPT, "manifest: its bytes don't have the digest asked for");
    struct ckpt_manifest manifest = CKPT_MANIFEST_INIT;
    rc = ckpt_manifest_parse((const char *)reply->data.data, reply->data.length, &manifest, err);
    if (rc != SP_OK)
        return sp_wrap(err, rc, "manifest");
    if (!sp_digest_equal(&manifest.digest, checkpoint)) {
        ckpt_manifest_deinit(&manifest);
        return sp_fail(err, SP_ECORRUPT, "manifest: it is that of another checkpoint");
    }
    *ret = manifest;
    return SP_OK;
}

enum sp_err worker_fetch_checkpoint(struct worker_peer *peer, struct ckpt_cache *cache,
                                    const struct sp_digest *checkpoint,
                                    const struct sp_digest *manifest, ckpt_progress_fn progress,
                                    void *progress_context, struct ckpt_cache_ref **ret,
                                    struct sp_error *err)
{
    char hex[SP_DIGEST_HEX];
    sp_digest_hex(checkpoint, hex);
    struct sp_error ignored;
    struct worker_target target = {.peer = peer, .checkpoint = *checkpoint, .manifest = *manifest};
    if (ckpt_cache_find(cache, checkpoint, ret, &ignored) == SP_OK) {
        worker_announce(&target, worker_peer_settings(peer)->cache_dir);
        return SP_OK;
    }
    struct ckpt_manifest parsed = CKPT_MANIFEST_INIT;
    enum sp_err rc = fetch_manifest(peer, checkpoint, manifest, &parsed, err);
    if (rc != SP_OK)
        return sp_wrap(err, rc, "checkpoint %.12s", hex);
    sp_info("fetching checkpoint %.12s: %llu bytes in %zu files", hex,
            (unsigned long long)parsed.bytes, parsed.count);
    struct ckpt_source source = {
        .fetch = fetch_chunk, .ahead = worker_fetch_ahead, .context = &target};
    rc = ckpt_cache_get_from(cache, &parsed, &source, progress, progress_context, ret, err);
    ckpt_manifest_deinit(&parsed);
    if (rc != SP_OK)
        return sp_wrap(err, rc, "checkpoint %.12s", hex);
    worker_announce(&target, worker_peer_settings(peer)->cache_dir);
    return SP_OK;
}
