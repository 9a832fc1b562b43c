/* arena: memory of one request or one step, released at once.
 * One thread at a time. sp_arena_reset keeps the largest chunk, so a steady state allocates
 * nothing. Allocation beyond `limit_bytes` returns NULL. */
#ifndef SPIN_BASE_ARENA_H
#define SPIN_BASE_ARENA_H

#include <stddef.h>

struct sp_arena;

struct sp_arena *sp_arena_new(size_t first_chunk_bytes, size_t limit_bytes);
void sp_arena_free(struct sp_arena *arena); /* NULL is fine */
/* Zeroed, 64-byte aligned. */
void *sp_arena_alloc(struct sp_arena *arena, size_t count, size_t elem_bytes);
char *sp_arena_strdup(struct sp_arena *arena, const char *text);
void sp_arena_reset(struct sp_arena *arena);
size_t sp_arena_used(const struct sp_arena *arena);

#endif
