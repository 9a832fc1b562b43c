/* mailbox: a bounded queue of pointers between threads, and nothing else between threads.
 *
 * The receiver is either a thread that blocks (sp_mailbox_take) or a loop that is woken through a
 * callback (`wake`, called on the sender's thread, typically uv_async_send) and then drains with
 * sp_mailbox_try_take until NULL. Ownership of an item passes with it. */
#ifndef SPIN_BASE_MAILBOX_H
#define SPIN_BASE_MAILBOX_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct sp_mailbox;

struct sp_mailbox *sp_mailbox_new(size_t capacity, void (*wake)(void *context), void *context);
void sp_mailbox_free(struct sp_mailbox *box); /* the items left are the caller's: drain first */
/* false when full or closed: the item stays the caller's. Never blocks. */
bool sp_mailbox_try_put(struct sp_mailbox *box, void *item);
/* Waits while full; false when closed. */
bool sp_mailbox_put(struct sp_mailbox *box, void *item);
void *sp_mailbox_try_take(struct sp_mailbox *box); /* NULL when empty */
/* Waits up to timeout_ms (-1: for ever); NULL on timeout or when closed and empty. */
void *sp_mailbox_take(struct sp_mailbox *box, int64_t timeout_ms);
void sp_mailbox_close(struct sp_mailbox *box); /* wakes everyone; later puts fail */
size_t sp_mailbox_count(struct sp_mailbox *box);

#endif
