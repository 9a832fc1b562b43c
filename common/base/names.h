/* names: texts that are known by small numbers, 1, 2, … in the order in which they came; found by
 * hash, so that thousands of workers cost no more than one. Grows, never shrinks. One thread. */
#ifndef SPIN_BASE_NAMES_H
#define SPIN_BASE_NAMES_H

#include <stddef.h>
#include <stdint.h>

struct sp_names {
    char **texts;        /* [count], owned; of number n: texts[n − 1] */
    uint32_t count;
    uint32_t *slots;     /* [slot_count] numbers by hash; 0: free */
    uint32_t slot_count; /* a power of two, or 0 */
};

void sp_names_deinit(struct sp_names *names);
uint32_t sp_names_add(struct sp_names *names, const char *text); /* the same for equals */
/* 0: not known. The text needs no terminator. */
uint32_t sp_names_find(const struct sp_names *names, const char *text, size_t length);

#endif
