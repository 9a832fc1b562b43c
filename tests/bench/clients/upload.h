/* upload: a checkpoint's chunks, put as a trainer or spinctl puts them: over a connection of its
 * own by proto/'s client, four at a time asked after, hashed here, hashed and synced there. A
 * thread. */
#ifndef SPIN_TESTS_BENCH_UPLOAD_H
#define SPIN_TESTS_BENCH_UPLOAD_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "proto/rpc.h"

struct upload {
    struct proto_client_options options;
    uint64_t bytes;
    /* results */
    atomic_bool running, ended;
    double seconds, worst_put_ms, cpu_seconds;
    char error[SP_ERROR_TEXT_BYTES]; /* "": none */
};

void upload_start(struct upload *upload); /* waits for nothing; `ended` tells */

#endif
