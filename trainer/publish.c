#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/base/clock.h"
#include "common/base/fs.h"
#include "common/base/json.h"
#include "common/base/limits.h"
#include "common/base/log.h"
#include "common/base/mem.h"
#include "common/checkpoint/manifest.h"
#include "trainer/session.h"

#define DRAIN_STEP_MS 20

static bool keep_going(void *context, uint64_t done, uint64_t total)
{
    return train_session_poll(context) == TRAIN_END_NONE;
}

/* Saves the weights under the trainer's directory, anew each time: the same bytes come out. */
static enum train_end save(struct train_session *session, const char *dir,
                           struct ckpt_manifest *ret)
{
    static const enum tn_dtype dtypes[] = {
        [RUN_DTYPE_F32] = TN_F32, [RUN_DTYPE_BF16] = TN_BF16, [RUN_DTYPE_F16] = TN_F16};
    enum train_end end = TRAIN_END_NONE;
    for (uint32_t tries = 0; end == TRAIN_END_NONE;) {
        struct sp_error err = {0};
        train_reporter_activity(session->reporter, "saving the checkpoint");
        enum sp_err rc = sp_remove_tree(dir, &err);
        if (rc == SP_OK)
            rc = model_save(session->model, dir, dtypes[session->settings.checkpoint_dtype],
                            ckpt_cache_ref_dir(session->weights), &err);
        if (rc == SP_OK)
            rc = ckpt_manifest_build(dir, keep_going, session, ret, &err);
        if (rc == SP_OK)
            return TRAIN_END_NONE;
        end = train_session_disk_error(session, rc, &err, &tries);
    }
    return end;
}

static enum sp_err read_chunk(const char *path, uint64_t offset, uint8_t *to, uint32_t bytes,
                              struct sp_error *err)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return sp_fail_errno(err, errno, "%s", path);
    enum sp_err rc = SP_OK;
    for (uint32_t have = 0; have < bytes && rc == SP_OK;) {
        ssize_t n = pread(fd, to + have, bytes - have, (off_t)(offset + have));
        if (n > 0)
            have += (uint32_t)n;
        else if (n == 0)
            rc = sp_fail(err, SP_EIO, "%s: shorter than it was", path);
        else if (errno != EINTR)
            rc = sp_fail_errno(err, errno, "%s", path);
    }
    close(fd);
    return rc;
}

static bool is_listed(const struct proto_bytes *digests, const struct sp_digest *digest)
{
    for (uint32_t at = 0; at + SP_DIGEST_BYTES <= digests->length; at += SP_DIGEST_BYTES)
        if (memcmp(digests->data + at, digest->bytes, SP_DIGEST_BYTES) == 0)
            return true;
    return false;
}

static enum train_end put_chunk(struct train_session *session, const char *path,
                                const struct ckpt_manifest_file *file, uint32_t chunk,
                                uint8_t *data)
{
    struct sp_error err = {0};
    uint32_t bytes = ckpt_chunk_bytes(file, chunk);
    enum sp_err rc = read_chunk(path, (uint64_t)chunk * SP_MAX_CHUNK, data, bytes, &err);
    if (rc != SP_OK)
        return train_session_error(session, rc, &err);
    struct proto_blob_put request = {.sha256 = file->chunks[chunk],
                                     .data = {.data = data, .length = bytes}};
    for (;;) {
        const void *reply;
        enum train_end end = train_session_poll(session);
        if (end != TRAIN_END_NONE)
            return end;
        rc = worker_call_plain(session->trainer->peer, PROTO_BLOB_PUT, &request, &reply, &err);
        if (rc == SP_OK)
            return TRAIN_END_NONE;
        if (rc != SP_ECANCELED)
            return train_session_error(session, rc, &err);
    }
}

static enum train_end put_missing(struct train_session *session, const char *dir,
                                  const struct ckpt_manifest *manifest,
                                  const struct proto_bytes *missing)
{
    uint8_t *data = sp_xalloc(SP_MAX_CHUNK);
    enum train_end end = TRAIN_END_NONE;
    uint64_t sent = 0;
    for (size_t f = 0; f < manifest->count && end == TRAIN_END_NONE; f++) {
        const struct ckpt_manifest_file *file = &manifest->files[f];
        char *path = sp_path_join(dir, file->path);
        for (uint32_t c = 0; c < file->chunk_count && end == TRAIN_END_NONE; c++) {
            if (!is_listed(missing, &file->chunks[c]))
                continue;
            end = put_chunk(session, path, file, c, data);
            sent += ckpt_chunk_bytes(file, c);
            train_reporter_activity(session->reporter,
                                    "publishing: %" PRIu64 " of %" PRIu64 " MiB sent", sent >> 20,
                                    manifest->bytes >> 20);
        }
        free(path);
    }
    free(data);
    return end;
}

/* Every step's metrics are in before the iteration is over. */
static enum train_end drain_metrics(struct train_session *session)
{
    train_reporter_flush(session->reporter);
    while (session->unreported_count > 0 &&
           train_reporter_acknowledged(session->reporter) < session->done) {
        enum train_end end = train_session_poll(session);
        if (end != TRAIN_END_NONE)
            return end;
        sp_sleep_ms(DRAIN_STEP_MS);
    }
    return TRAIN_END_NONE;
}

/* What the trainer has to say about the iteration. */
static char *summary(const struct train_session *session)
{
    json_t *json = train_totals_to_json(&session->totals);
    char hex[SP_DIGEST_HEX];
    sp_digest_hex(&session->chain, hex);
    json_object_set_new(json, "steps", json_integer((json_int_t)session->done));
    json_object_set_new(json, "pairs_chain", json_string(hex));
    json_object_set_new(json, "trainer", json_string(session->trainer->settings->worker.name));
    json_object_set_new(json, "numerics_class", json_string(session->identity.numerics_class));
    json_object_set_new(json, "device", json_string(session->trainer->backend->device));
    json_object_set_new(json, "version", json_string(SPIN_VERSION));
    char *text = sp_json_canonical(json);
    json_decref(json);
    return text;
}

static enum train_end begin(struct train_session *session, const struct sp_buf *text,
                            uint8_t **ret_missing, uint32_t *ret_length)
{
    struct proto_publish_begin request = {
        .run = session->identity.run,
        .iteration = session->identity.iteration,
        .epoch = session->epoch,
        .manifest = {.data = (const uint8_t *)text->data, .length = (uint32_t)text->length},
    };
    const void *body;
    enum train_end end = train_session_call(session, PROTO_PUBLISH_BEGIN, &request, &body);
    if (end != TRAIN_END_NONE)
        return end;
    const struct proto_publish_begin_reply *reply = body;
    *ret_length = reply->missing.length;
    *ret_missing = sp_xalloc(reply->missing.length);
    if (reply->missing.length > 0)
        memcpy(*ret_missing, reply->missing.data, reply->missing.length);
    return TRAIN_END_NONE;
}

static enum train_end commit(struct train_session *session, const struct ckpt_manifest *manifest,
                             const struct sp_buf *text)
{
    char *json = summary(session);
    struct proto_publish_commit request = {
        .run = session->identity.run,
        .iteration = session->identity.iteration,
        .epoch = session->epoch,
        .checkpoint = manifest->digest,
        .pairs_chain = session->chain,
        .summary = json,
    };
    sp_sha256_of(text->data, text->length, &request.manifest);
    const void *reply;
    enum train_end end = train_session_call(session, PROTO_PUBLISH_COMMIT, &request, &reply);
    free(json);
    return end;
}

enum train_end train_session_publish(struct train_session *session)
{
    char *dir = sp_xprintf("%s/%s.publish", session->trainer->dir, session->identity.run);
    struct ckpt_manifest manifest = CKPT_MANIFEST_INIT;
    struct sp_buf text = SP_BUF_INIT;
    uint8_t *missing = NULL;
    uint32_t missing_bytes = 0;
    enum train_end end = drain_metrics(session);
    if (end == TRAIN_END_NONE)
        end = save(session, dir, &manifest);
    if (end == TRAIN_END_NONE) {
        ckpt_manifest_format(&manifest, &text);
        end = begin(session, &text, &missing, &missing_bytes);
    }
    if (end == TRAIN_END_NONE) {
        struct proto_bytes list = {.data = missing, .length = missing_bytes};
        end = put_missing(session, dir, &manifest, &list);
    }
    if (end == TRAIN_END_NONE)
        end = commit(session, &manifest, &text);
    if (end == TRAIN_END_NONE) {
        char hex[SP_DIGEST_HEX];
        struct sp_error err = {0};
        sp_digest_hex(&manifest.digest, hex);
        sp_info("%s iteration %u: published checkpoint %.12s", session->identity.run,
                session->identity.iteration, hex);
        if (sp_remove_tree(dir, &err) != SP_OK)
            sp_warn("%s", err.text);
        end = TRAIN_END_PUBLISHED;
    }
    free(missing);
    sp_buf_deinit(&text);
    ckpt_manifest_deinit(&manifest);
    free(dir);
    return end;
}
