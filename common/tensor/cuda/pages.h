/* pages: which pages of a pool the slots of a paged cache have. A page holds PAGES_POSITIONS
 * positions of all layers; several slots may have the same one, which counts them. Nothing here
 * knows a device: who moves numbers is told what to copy. One thread; aborts on indices that
 * aren't there.
 *
 * Promises: with a pool of slots × per_slot pages every taking succeeds. With a smaller one it may
 * fail, unless the page was promised to the slot (pages_promise). A promise is for pages that the
 * slot lacks; a page that it shares and then writes to is not covered. */
#ifndef SPIN_TENSOR_CUDA_PAGES_H
#define SPIN_TENSOR_CUDA_PAGES_H

#include <stdbool.h>
#include <stdint.h>

#define PAGES_POSITIONS 64

struct pages;

struct pages *pages_new(int32_t slots, int32_t per_slot, int32_t pages);
void pages_free(struct pages *pool); /* NULL is fine */

/* Pages that are free and promised to nobody. */
int32_t pages_room(const struct pages *pool);
/* The page of a slot's positions from index × PAGES_POSITIONS on; -1: none. */
int32_t pages_at(const struct pages *pool, int32_t slot, int32_t index);
/* Whether the slot has its first n pages. */
bool pages_has(const struct pages *pool, int32_t slot, int32_t n);
/* (slots, per_slot): all pages_at, for the device. */
const int32_t *pages_table(const struct pages *pool);

/* Makes the slot's page at index one that no other slot has: *ret_page. It may be a new one; then
 * *ret_old is the one before, whose numbers are to be copied, or -1. false: no page is left. */
bool pages_own(struct pages *pool, int32_t slot, int32_t index, int32_t *ret_page, int32_t *ret_old)
    __attribute__((warn_unused_result));
/* The first n pages of `to` become those of `from`, which has them; its later ones stay. */
void pages_share(struct pages *pool, int32_t from, int32_t to, int32_t n);
/* The slot gives up its pages from index on, and all promises. */
void pages_drop(struct pages *pool, int32_t slot, int32_t index);
/* Promises that the slot can have pages 0 … n - 1; a former promise ends. false: there is no room,
 * and nothing has changed. */
bool pages_promise(struct pages *pool, int32_t slot, int32_t n) __attribute__((warn_unused_result));

#endif
