#include "common/base/arena.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/mem.h"

#define ALIGN 64u

struct chunk {
    struct chunk *next; /* older chunk */
    size_t capacity;    /* bytes behind the header */
    size_t used;
    uint8_t pad[ALIGN - 3 * sizeof(size_t)];
};
_Static_assert(sizeof(struct chunk) == ALIGN, "the first byte of a chunk is aligned");

struct sp_arena {
    struct chunk *newest;
    size_t first_chunk_bytes;
    size_t limit_bytes;
    size_t used; /* rounded allocations, all chunks */
};

struct sp_arena *sp_arena_new(size_t first_chunk_bytes, size_t limit_bytes)
{
    struct sp_arena *arena = sp_xalloc(sizeof(*arena));
    arena->first_chunk_bytes = first_chunk_bytes;
    arena->limit_bytes = limit_bytes;
    return arena;
}

static void free_chunks(struct chunk *chunk)
{
    while (chunk != NULL) {
        struct chunk *next = chunk->next;
        free(chunk);
        chunk = next;
    }
}

void sp_arena_free(struct sp_arena *arena)
{
    if (arena == NULL)
        return;
    free_chunks(arena->newest);
    free(arena);
}

static struct chunk *add_chunk(struct sp_arena *arena, size_t need)
{
    size_t want = arena->newest != NULL ? arena->newest->capacity : arena->first_chunk_bytes;
    if (arena->newest != NULL && want <= SIZE_MAX / 2)
        want *= 2;
    /* Growth stops at what the limit leaves; a single large request gets what it asked for. */
    want = SP_MAX(SP_MIN(want, arena->limit_bytes - arena->used), need);
    size_t total;
    void *memory;
    if (!sp_add_size(want, sizeof(struct chunk) + ALIGN, &total) ||
        posix_memalign(&memory, ALIGN, total & ~(size_t)(ALIGN - 1)) != 0)
        return NULL;
    struct chunk *chunk = memory;
    chunk->capacity = (total & ~(size_t)(ALIGN - 1)) - sizeof(struct chunk);
    chunk->used = 0;
    chunk->next = arena->newest;
    arena->newest = chunk;
    return chunk;
}

void *sp_arena_alloc(struct sp_arena *arena, size_t count, size_t elem_bytes)
{
    size_t bytes, rounded;
    if (!sp_mul_size(count, elem_bytes, &bytes) ||
        !sp_add_size(bytes == 0 ? 1 : bytes, ALIGN - 1, &rounded))
        return NULL;
    rounded &= ~(size_t)(ALIGN - 1);
    if (rounded > arena->limit_bytes - arena->used)
        return NULL;
    struct chunk *chunk = arena->newest;
    if (chunk == NULL || chunk->capacity - chunk->used < rounded)
        chunk = add_chunk(arena, rounded);
    if (chunk == NULL)
        return NULL;
    uint8_t *data = (uint8_t *)(chunk + 1) + chunk->used;
    chunk->used += rounded;
    arena->used += rounded;
    return memset(data, 0, bytes);
}

char *sp_arena_strdup(struct sp_arena *arena, const char *text)
{
    size_t bytes = strlen(text) + 1;
    char *copy = sp_arena_alloc(arena, bytes, 1);
    return copy != NULL ? memcpy(copy, text, bytes) : NULL;
}

void sp_arena_reset(struct sp_arena *arena)
{
    struct chunk *largest = NULL;
    for (struct chunk *c = arena->newest; c != NULL; c = c->next)
        if (largest == NULL || c->capacity > largest->capacity)
            largest = c;
    for (struct chunk *c = arena->newest; c != NULL;) {
        struct chunk *next = c->next;
        if (c != largest)
            free(c);
        c = next;
    }
    if (largest != NULL) {
        largest->next = NULL;
        largest->used = 0;
    }
    arena->newest = largest;
    arena->used = 0;
}

size_t sp_arena_used(const struct sp_arena *arena)
{
    return arena->used;
}
