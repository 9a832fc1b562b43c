/* canary: notices that nng does not clear connections away any more.
 *
 * In nng 1.5.2 the end of a send can be lost when its connection breaks at that moment. The one
 * thread that clears away what was closed then waits for it for ever, and with it everybody who
 * closes a socket; what breaks from then on is never freed. Nothing mends that but a new process.
 * So a thread opens, joins and closes a pair of sockets now and then: when it does not come back,
 * the daemon is to end and be started again. */
#ifndef SPIN_PROTO_CANARY_H
#define SPIN_PROTO_CANARY_H

#include <stdbool.h>
#include <stdint.h>

/* Once in a process; the thread lives until the end. */
void proto_canary_start(void);
uint64_t proto_canary_rounds(void); /* so far */

/* How long the canary has been silent, by somebody who looks often: a process that was stopped
 * itself, or looks late, takes that for no silence. */
struct proto_silence {
    uint64_t rounds;
    int64_t looked_ms, silent_ms;
};
/* true: for longer than any load explains. */
bool proto_canary_is_silent(struct proto_silence *silence, uint64_t rounds, int64_t now_ms);

#endif
