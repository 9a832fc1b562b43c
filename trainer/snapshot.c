#include "trainer/snapshot.h"

#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/base/buf.h"
#include "common/base/json.h"
#include "common/base/log.h"
#include "common/base/mem.h"
#include "common/tensor/backend.h"

#define MAGIC "spin-snapshot 2\n"
#define MAGIC_BYTES 16
#define HEAD_BYTES (MAGIC_BYTES + 4)
#define HEADER_LIMIT (64u << 20)
#define ALIGN 64
#define WRITE_BYTES (1u << 20)
#define PIECE_BYTES (4u << 20)

const char *train_identity_differs(const struct train_identity *a, const struct train_identity *b)
{
    if (strcmp(a->run, b->run) != 0)
        return "run";
    if (a->iteration != b->iteration)
        return "iteration";
    if (a->attempt != b->attempt)
        return "attempt";
    if (!sp_digest_equal(&a->plan, &b->plan))
        return "plan";
    if (!sp_digest_equal(&a->opponent, &b->opponent))
        return "opponent";
    if (!sp_digest_equal(&a->settings, &b->settings))
        return "settings";
    if (strcmp(a->numerics_class, b->numerics_class) != 0)
        return "numerics class";
    if (a->weights != b->weights)
        return "type of parameters";
    if (a->state != b->state)
        return "type of optimizer state";
    return NULL;
}

static const char *const weights_names[] = {[TN_F32] = "f32", [TN_BF16] = "bf16"};
static const char *const state_names[] = {[TN_STATE_F32] = "f32", [TN_STATE_8BIT] = "8bit"};

/* ---- header ---- */

static void put_digest(json_t *object, const char *key, const struct sp_digest *digest)
{
    char hex[SP_DIGEST_HEX];
    sp_digest_hex(digest, hex);
    json_object_set_new(object, key, json_string(hex));
}

static void put_count(json_t *object, const char *key, uint64_t value)
{
    json_object_set_new(object, key, json_integer((json_int_t)value));
}

static json_t *header_to_json(const struct train_snapshot *s)
{
    const struct train_identity *id = &s->identity;
    json_t *header = json_object();
    json_object_set_new(header, "run", json_string(id->run));
    json_object_set_new(header, "numerics_class", json_string(id->numerics_class));
    put_count(header, "iteration", id->iteration);
    put_count(header, "attempt", id->attempt);
    put_digest(header, "plan", &id->plan);
    put_digest(header, "opponent", &id->opponent);
    put_digest(header, "settings", &id->settings);
    /* Random 64-bit numbers don't fit JSON's integers; this one counts up from 1. */
    put_count(header, "fencing_epoch", s->fencing_epoch);
    put_count(header, "step", s->step);
    put_count(header, "updates", (uint64_t)s->updates);
    put_digest(header, "chain", &s->chain);
    put_count(header, "params", s->n_params);
    json_object_set_new(header, "params_type", json_string(weights_names[id->weights]));
    put_count(header, "state_bytes", s->state_bytes);
    json_object_set_new(header, "state_type", json_string(state_names[id->state]));
    json_object_set_new(header, "totals", train_totals_to_json(&s->totals));
    json_t *unreported = json_array();
    for (uint32_t i = 0; i < s->unreported_count; i++)
        json_array_append_new(unreported, train_metrics_to_json(&s->unreported[i]));
    json_object_set_new(header, "unreported", unreported);
    return header;
}

static enum sp_err get_count(const json_t *header, const char *key, uint64_t *ret,
                             struct sp_error *err)
{
    int64_t value = 0;
    enum sp_err rc = sp_json_i64(header, key, 0, INT64_MAX, "header", &value, err);
    if (rc == SP_OK)
        *ret = (uint64_t)value;
    return rc;
}

static enum sp_err get_digest(const json_t *header, const char *key, struct sp_digest *ret,
                              struct sp_error *err)
{
    const char *hex;
    enum sp_err rc = sp_json_str(header, key, "header", &hex, err);
    if (rc != SP_OK)
        return rc;
    rc = sp_digest_parse(hex, ret, err);
    return rc == SP_OK ? rc : sp_wrap(err, rc, "header: field \"%s\"", key);
}

static enum sp_err get_text(const json_t *header, const char *key, char *ret, size_t bytes,
                            struct sp_error *err)
{
    const char *text;
    enum sp_err rc = sp_json_str(header, key, "header", &text, err);
    if (rc == SP_OK && strlen(text) >= bytes)
        return sp_fail(err, SP_EFORMAT, "header: field \"%s\": too long", key);
    if (rc == SP_OK)
        snprintf(ret, bytes, "%s", text);
    return rc;
}

/* One of two names. */
static enum sp_err get_type(const json_t *header, const char *key, const char *const names[2],
                            int *ret, struct sp_error *err)
{
    const char *text;
    enum sp_err rc = sp_json_str(header, key, "header", &text, err);
    if (rc != SP_OK)
        return rc;
    for (int i = 0; i < 2; i++)
        if (strcmp(text, names[i]) == 0) {
            *ret = i;
            return SP_OK;
        }
    return sp_fail(err, SP_EFORMAT, "header: field \"%s\": \"%.20s\" is not %s or %s", key, text,
                   names[0], names[1]);
}

static enum sp_err identity_from_json(const json_t *header, struct train_identity *id,
                                      struct sp_error *err)
{
    uint64_t iteration = 0;
    int weights = 0, state = 0;
    enum sp_err rc = get_text(header, "run", id->run, sizeof(id->run), err);
    if (rc == SP_OK)
        rc =
            get_text(header, "numerics_class", id->numerics_class, sizeof(id->numerics_class), err);
    if (rc == SP_OK)
        rc = get_count(header, "iteration", &iteration, err);
    if (rc == SP_OK)
        rc = get_count(header, "attempt", &id->attempt, err);
    if (rc == SP_OK)
        rc = get_digest(header, "plan", &id->plan, err);
    if (rc == SP_OK)
        rc = get_digest(header, "opponent", &id->opponent, err);
    if (rc == SP_OK)
        rc = get_digest(header, "settings", &id->settings, err);
    if (rc == SP_OK)
        rc = get_type(header, "params_type", weights_names, &weights, err);
    if (rc == SP_OK)
        rc = get_type(header, "state_type", state_names, &state, err);
    id->iteration = (uint32_t)iteration;
    id->weights = (enum tn_dtype)weights;
    id->state = (enum tn_state)state;
    return rc;
}

static enum sp_err unreported_from_json(const json_t *header, struct train_snapshot *s,
                                        struct sp_error *err)
{
    const json_t *list = json_object_get(header, "unreported");
    if (!json_is_array(list) || json_array_size(list) > TRAIN_SNAPSHOT_UNREPORTED_MAX)
        return sp_fail(err, SP_EFORMAT, "header: field \"unreported\": no list, or too long");
    s->unreported = sp_xarray(json_array_size(list), sizeof(*s->unreported));
    for (size_t i = 0; i < json_array_size(list); i++) {
        enum sp_err rc = train_metrics_from_json(json_array_get(list, i), &s->unreported[i], err);
        if (rc != SP_OK)
            return sp_wrap(err, rc, "header: unreported step %zu", i);
        s->unreported_count++;
    }
    return SP_OK;
}

static enum sp_err header_from_json(const json_t *header, struct train_snapshot *s,
                                    struct sp_error *err)
{
    uint64_t updates = 0, params = 0, state = 0;
    enum sp_err rc = identity_from_json(header, &s->identity, err);
    if (rc == SP_OK)
        rc = get_count(header, "fencing_epoch", &s->fencing_epoch, err);
    if (rc == SP_OK)
        rc = get_count(header, "step", &s->step, err);
    if (rc == SP_OK)
        rc = get_count(header, "updates", &updates, err);
    if (rc == SP_OK)
        rc = get_digest(header, "chain", &s->chain, err);
    if (rc == SP_OK)
        rc = get_count(header, "params", &params, err);
    if (rc == SP_OK)
        rc = get_count(header, "state_bytes", &state, err);
    if (rc == SP_OK)
        rc = train_totals_from_json(json_object_get(header, "totals"), &s->totals, err);
    if (rc == SP_OK)
        rc = unreported_from_json(header, s, err);
    s->updates = (int64_t)updates;
    s->n_params = params;
    s->state_bytes = state;
    return rc;
}

/* ---- writing ---- */

struct writer {
    int fd;
    struct sp_sha256 *hash;
};

static enum sp_err write_bytes(struct writer *writer, const void *data, size_t bytes,
                               struct sp_error *err)
{
    const char *from = data;
    while (bytes > 0) {
        ssize_t n = write(writer->fd, from, SP_MIN(bytes, (size_t)WRITE_BYTES));
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return sp_fail_errno(err, errno, "write");
        if (writer->hash != NULL)
            sp_sha256_update(writer->hash, from, (size_t)n);
        from += n;
        bytes -= (size_t)n;
    }
    return SP_OK;
}

/* A backend's memory a piece at a time, the host's as it lies. */
static enum sp_err write_memory(struct writer *writer, struct tn_backend *backend, const void *from,
                                size_t bytes, struct sp_error *err)
{
    const uint8_t *bytes_from = from;
    enum sp_err rc = SP_OK;
    if (backend == NULL)
        return write_bytes(writer, from, bytes, err);
    uint8_t *piece = sp_xarray(SP_MIN(bytes, (size_t)PIECE_BYTES), 1);
    for (size_t at = 0; rc == SP_OK && at < bytes; at += PIECE_BYTES) {
        size_t here = SP_MIN(bytes - at, (size_t)PIECE_BYTES);
        backend->ops->download(backend, piece, bytes_from + at, here);
        rc = write_bytes(writer, piece, here, err);
    }
    free(piece);
    return rc;
}

static enum sp_err write_all(struct writer *writer, const struct train_snapshot *snapshot,
                             struct sp_error *err)
{
    json_t *header = header_to_json(snapshot);
    char *text = sp_json_canonical(header);
    struct sp_buf head = SP_BUF_INIT;
    size_t length = strlen(text);
    size_t padded = (HEAD_BYTES + length + ALIGN - 1) / ALIGN * ALIGN - HEAD_BYTES;
    sp_buf_append(&head, MAGIC, MAGIC_BYTES);
    sp_buf_put_u32(&head, (uint32_t)padded);
    sp_buf_append(&head, text, length);
    for (size_t i = length; i < padded; i++)
        sp_buf_putc(&head, ' ');
    enum sp_err rc = SP_OK;
    if (padded > HEADER_LIMIT)
        rc = sp_fail(err, SP_ELIMIT, "header of %zu bytes", padded);
    if (rc == SP_OK)
        rc = write_bytes(writer, head.data, head.length, err);
    if (rc == SP_OK)
        rc = write_memory(writer, snapshot->backend, snapshot->params,
                          snapshot->n_params * tn_unit(snapshot->identity.weights), err);
    if (rc == SP_OK)
        rc = write_memory(writer, snapshot->backend, snapshot->state, snapshot->state_bytes, err);
    struct sp_digest digest;
    sp_sha256_final(writer->hash, &digest);
    sp_sha256_free(writer->hash);
    writer->hash = NULL;
    if (rc == SP_OK)
        rc = write_bytes(writer, digest.bytes, sizeof(digest.bytes), err);
    if (rc == SP_OK && fsync(writer->fd) != 0)
        rc = sp_fail_errno(err, errno, "fsync");
    sp_buf_deinit(&head);
    free(text);
    json_decref(header);
    return rc;
}

static char *file_of(const char *dir, const char *run, const char *suffix)
{
    return sp_xprintf("%s/%s.%s", dir, run, suffix);
}

enum sp_err train_snapshot_write(const char *dir, const struct train_snapshot *snapshot,
                                 struct sp_error *err)
{
    const char *run = snapshot->identity.run;
    char *path = file_of(dir, run, "snapshot");
    char *previous = file_of(dir, run, "previous");
    char *temporary = file_of(dir, run, "snapshot.tmp");
    enum sp_err rc = SP_OK;
    struct writer writer = {.fd = open(temporary, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600)};
    if (writer.fd < 0) {
        rc = sp_fail_errno(err, errno, "%s", temporary);
        goto out;
    }
    writer.hash = sp_sha256_new();
    rc = write_all(&writer, snapshot, err);
    if (close(writer.fd) != 0 && rc == SP_OK)
        rc = sp_fail_errno(err, errno, "close");
    if (rc != SP_OK) {
        unlink(temporary);
        rc = sp_wrap(err, rc, "%s", temporary);
        goto out;
    }
    if (sp_path_exists(path))
        rc = sp_rename_durable(path, previous, err);
    if (rc == SP_OK)
        rc = sp_rename_durable(temporary, path, err);
out:
    free(path);
    free(previous);
    free(temporary);
    return rc == SP_OK ? rc : sp_wrap(err, rc, "snapshot");
}

/* ---- reading ---- */

static uint32_t read_u32(const uint8_t *p)
{
    return (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}

static enum sp_err check_frame(const struct sp_map *map, uint32_t *ret_header, struct sp_error *err)
{
    if (map->length < HEAD_BYTES + SP_DIGEST_BYTES)
        return sp_fail(err, SP_EFORMAT, "%zu bytes are too short for a snapshot", map->length);
    if (memcmp(map->data, MAGIC, MAGIC_BYTES - 2) != 0)
        return sp_fail(err, SP_EFORMAT, "it is no snapshot");
    if (memcmp(map->data, MAGIC, MAGIC_BYTES) != 0)
        return sp_fail(err, SP_EVERSION, "a snapshot of another version");
    size_t body = map->length - SP_DIGEST_BYTES;
    struct sp_digest digest;
    sp_sha256_of(map->data, body, &digest);
    if (memcmp(digest.bytes, map->data + body, SP_DIGEST_BYTES) != 0)
        return sp_fail(err, SP_ECORRUPT, "its bytes don't have the digest at its end");
    uint32_t header = read_u32(map->data + MAGIC_BYTES);
    if (header > HEADER_LIMIT || header > body - HEAD_BYTES || (HEAD_BYTES + header) % ALIGN != 0)
        return sp_fail(err, SP_EFORMAT, "a header of %u bytes", header);
    *ret_header = header;
    return SP_OK;
}

static enum sp_err parse(struct train_snapshot_file *file, struct sp_error *err)
{
    uint32_t header_bytes = 0;
    json_t *header = NULL;
    struct train_snapshot *s = &file->snapshot;
    enum sp_err rc = check_frame(&file->map, &header_bytes, err);
    if (rc == SP_OK)
        rc = sp_json_parse((const char *)file->map.data + HEAD_BYTES, header_bytes, "header",
                           &header, err);
    if (rc == SP_OK && !json_is_object(header))
        rc = sp_fail(err, SP_EFORMAT, "header: not an object");
    if (rc == SP_OK)
        rc = header_from_json(header, s, err);
    json_decref(header);
    if (rc != SP_OK)
        return rc;
    size_t bytes = file->map.length - HEAD_BYTES - header_bytes - SP_DIGEST_BYTES, params;
    if (!sp_mul_size(s->n_params, tn_unit(s->identity.weights), &params) || params > bytes ||
        s->state_bytes != bytes - params)
        return sp_fail(err, SP_EFORMAT,
                       "%zu bytes of numbers, the header says %zu parameters of %zu bytes and %zu "
                       "bytes of state",
                       bytes, s->n_params, tn_unit(s->identity.weights), s->state_bytes);
    s->params = file->map.data + HEAD_BYTES + header_bytes;
    s->state = file->map.data + HEAD_BYTES + header_bytes + params;
    return SP_OK;
}

enum sp_err train_snapshot_open(const char *path, struct train_snapshot_file *ret,
                                struct sp_error *err)
{
    struct train_snapshot_file file = {0};
    enum sp_err rc = sp_map_file(path, &file.map, err);
    if (rc != SP_OK)
        return rc;
    rc = parse(&file, err);
    if (rc != SP_OK) {
        train_snapshot_close(&file);
        return sp_wrap(err, rc, "snapshot %s", path);
    }
    *ret = file;
    return SP_OK;
}

void train_snapshot_close(struct train_snapshot_file *file)
{
    free(file->snapshot.unreported);
    file->snapshot = (struct train_snapshot){0};
    sp_unmap(&file->map);
}

enum sp_err train_snapshot_find(const char *dir, const struct train_identity *identity,
                                const struct train_rewind *rewind, struct train_snapshot_file *ret,
                                struct sp_error *err)
{
    static const char *const suffixes[] = {"snapshot", "previous"};
    for (size_t i = 0; i < SP_COUNT(suffixes); i++) {
        char *path = file_of(dir, identity->run, suffixes[i]);
        struct train_snapshot_file file;
        struct sp_error detail = {0};
        enum sp_err rc = train_snapshot_open(path, &file, &detail);
        if (rc == SP_OK) {
            const char *difference = train_identity_differs(&file.snapshot.identity, identity);
            const struct train_snapshot *s = &file.snapshot;
            if (!difference && s->fencing_epoch < rewind->epoch && s->step > rewind->steps)
                difference = "set of pairs, some of which were revoked";
            if (difference == NULL) {
                free(path);
                *ret = file;
                return SP_OK;
            }
            sp_info("snapshot %s is of another %s: not used", path, difference);
            train_snapshot_close(&file);
        } else if (rc != SP_ENOTFOUND) {
            sp_warn("%s: not used", detail.text);
        }
        free(path);
    }
    return sp_fail(err, SP_ENOTFOUND, "no snapshot of %s iteration %u", identity->run,
                   identity->iteration);
}

enum sp_err train_snapshot_drop(const char *dir, const char *run, struct sp_error *err)
{
    static const char *const suffixes[] = {"snapshot", "previous", "snapshot.tmp"};
    for (size_t i = 0; i < SP_COUNT(suffixes); i++) {
        char *path = file_of(dir, run, suffixes[i]);
        int failed = unlink(path) != 0 && errno != ENOENT;
        enum sp_err rc = failed ? sp_fail_errno(err, errno, "snapshot %s", path) : SP_OK;
        free(path);
        if (rc != SP_OK)
            return rc;
    }
    return sp_fsync_dir(dir, err);
}
