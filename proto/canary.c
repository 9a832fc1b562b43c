#include "proto/canary.h"

#include <nng/nng.h>
#include <nng/protocol/reqrep0/rep.h>
#include <nng/protocol/reqrep0/req.h>
#include <nng/supplemental/util/platform.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stddef.h>

#include "common/base/clock.h"
#include "common/base/log.h"

#define URL "inproc://canary"
#define PAUSE_MS 1000
#define LIMIT_MS 15000
#define STRIDE_MS 200 /* more between two looks is not the canary's silence */

static atomic_uint_least64_t rounds;

static void *sing(void *argument)
{
    (void)argument;
    for (;;) {
        nng_socket here, there;
        if (nng_rep0_open(&here) == 0) {
            if (nng_req0_open(&there) == 0) {
                if (nng_listen(here, URL, NULL, 0) == 0)
                    (void)nng_dial(there, URL, NULL, 0);
                nng_close(there);
            }
            nng_close(here);
        }
        atomic_fetch_add(&rounds, 1);
        sp_sleep_ms(PAUSE_MS);
    }
    return NULL;
}

void proto_canary_start(void)
{
    pthread_t thread;
    /* nng starts itself at its first call, which two threads must not make at once. */
    (void)nng_clock();
    if (pthread_create(&thread, NULL, sing, NULL) == 0)
        pthread_detach(thread);
    else
        sp_warn("no thread to watch the network library with");
}

uint64_t proto_canary_rounds(void)
{
    return atomic_load(&rounds);
}

bool proto_canary_is_silent(struct proto_silence *silence, uint64_t now_rounds, int64_t now_ms)
{
    int64_t passed = now_ms - silence->looked_ms;
    silence->looked_ms = now_ms;
    if (now_rounds != silence->rounds) {
        silence->rounds = now_rounds;
        silence->silent_ms = 0;
        return false;
    }
    silence->silent_ms += passed < STRIDE_MS ? passed : STRIDE_MS;
    return silence->silent_ms > LIMIT_MS;
}
