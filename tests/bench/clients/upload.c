#include "tests/bench/clients/upload.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "common/base/clock.h"
#include "common/base/hash.h"
#include "common/base/limits.h"
#include "common/base/mem.h"

#define GIVE_UP_MS 120000
#define GROUP 4

/* Chunk n of a run of the program: no two are the same. */
static void fill(uint8_t *chunk, uint64_t salt, uint64_t n)
{
    for (size_t at = 0; at < SP_MAX_CHUNK; at += 4096) {
        memcpy(chunk + at, &salt, sizeof(salt));
        memcpy(chunk + at + 8, &n, sizeof(n));
    }
}

static enum sp_err put_group(struct upload *upload, struct proto_client *client, uint8_t **chunks,
                             uint64_t salt, uint64_t first, struct sp_error *err)
{
    struct sp_digest digests[GROUP];
    const void *reply = NULL;
    for (int i = 0; i < GROUP; i++) {
        fill(chunks[i], salt, first + (uint64_t)i);
        sp_sha256_of(chunks[i], SP_MAX_CHUNK, &digests[i]);
    }
    const struct proto_blob_missing ask = {
        .digests = {.data = digests[0].bytes, .length = sizeof(digests)}};
    enum sp_err rc = proto_call(client, PROTO_BLOB_MISSING, &ask, GIVE_UP_MS, &reply, err);
    const struct proto_blob_missing_reply *missing = reply;
    if (rc == SP_OK && missing->missing.length != sizeof(digests))
        rc = sp_fail(err, SP_ESTATE, "chunks that nobody has sent are there");
    for (int i = 0; i < GROUP && rc == SP_OK; i++) {
        const struct proto_blob_put put = {.sha256 = digests[i],
                                           .data = {.data = chunks[i], .length = SP_MAX_CHUNK}};
        int64_t start_ns = sp_now_ns();
        rc = proto_call(client, PROTO_BLOB_PUT, &put, GIVE_UP_MS, &reply, err);
        double ms = (double)(sp_now_ns() - start_ns) / 1e6;
        upload->worst_put_ms = SP_MAX(upload->worst_put_ms, ms);
    }
    return rc;
}

static void *run(void *argument)
{
    struct upload *upload = argument;
    struct proto_client *client = NULL;
    struct sp_error err = {0};
    uint8_t *chunks[GROUP];
    uint64_t salt;
    struct timespec cpu;
    int64_t start_ns = sp_now_ns();
    sp_random_secret(&salt, sizeof(salt));
    for (int i = 0; i < GROUP; i++) {
        chunks[i] = sp_xalloc(SP_MAX_CHUNK);
        sp_random_secret(chunks[i], SP_MAX_CHUNK);
    }
    enum sp_err rc = proto_client_open(&upload->options, &client, &err);
    for (uint64_t n = 0; rc == SP_OK && n * SP_MAX_CHUNK < upload->bytes; n += GROUP)
        rc = put_group(upload, client, chunks, salt, n, &err);
    if (rc != SP_OK)
        snprintf(upload->error, sizeof(upload->error), "%s", err.text);
    proto_client_free(client);
    for (int i = 0; i < GROUP; i++)
        free(chunks[i]);
    upload->seconds = (double)(sp_now_ns() - start_ns) / 1e9;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &cpu);
    upload->cpu_seconds = (double)cpu.tv_sec + (double)cpu.tv_nsec / 1e9;
    atomic_store(&upload->running, false);
    atomic_store(&upload->ended, true);
    return NULL;
}

void upload_start(struct upload *upload)
{
    pthread_t thread;
    atomic_store(&upload->running, true);
    SP_ASSERT(pthread_create(&thread, NULL, run, upload) == 0);
    pthread_detach(thread);
}
