#include "common/base/mem.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#if defined(__SANITIZE_ADDRESS__)
#define BLOCKS_FROM_MALLOC 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define BLOCKS_FROM_MALLOC 1
#endif
#endif
#ifndef BLOCKS_FROM_MALLOC
#define BLOCKS_FROM_MALLOC 0
#endif

#define BLOCK_ALIGN 64u
#define HUGE_PAGE ((size_t)2 << 20)
#define HUGE_FROM ((size_t)4 << 20)
/* The sanitizer's allocator aborts above this instead of returning NULL. */
#define MALLOC_MAX ((size_t)1 << 39)

bool sp_mul_size(size_t a, size_t b, size_t *ret)
{
    size_t product;
    if (__builtin_mul_overflow(a, b, &product))
        return false;
    *ret = product;
    return true;
}

bool sp_add_size(size_t a, size_t b, size_t *ret)
{
    size_t sum;
    if (__builtin_add_overflow(a, b, &sum))
        return false;
    *ret = sum;
    return true;
}

static void *out_of_memory(size_t bytes)
{
    fprintf(stderr, "out of memory: %zu bytes\n", bytes);
    abort();
}

void *sp_xalloc(size_t bytes)
{
    void *data = calloc(1, bytes == 0 ? 1 : bytes);
    return data != NULL ? data : out_of_memory(bytes);
}

void *sp_xarray(size_t count, size_t elem_bytes)
{
    size_t bytes;
    if (!sp_mul_size(count, elem_bytes, &bytes))
        return out_of_memory(SIZE_MAX);
    return sp_xalloc(bytes);
}

void *sp_xgrow(void *old, size_t count, size_t elem_bytes)
{
    size_t bytes;
    if (!sp_mul_size(count, elem_bytes, &bytes))
        return out_of_memory(SIZE_MAX);
    void *data = realloc(old, bytes == 0 ? 1 : bytes);
    return data != NULL ? data : out_of_memory(bytes);
}

char *sp_xstrdup(const char *text)
{
    return sp_xmemdup(text, strlen(text) + 1);
}

char *sp_xstrndup(const char *text, size_t length)
{
    size_t n = strnlen(text, length);
    char *copy = sp_xalloc(n + 1);
    memcpy(copy, text, n);
    return copy;
}

char *sp_xprintf(const char *format, ...)
{
    char *text;
    va_list args;
    va_start(args, format);
    int n = vasprintf(&text, format, args);
    va_end(args);
    return n >= 0 ? text : out_of_memory(0);
}

void *sp_xmemdup(const void *data, size_t bytes)
{
    void *copy = sp_xalloc(bytes);
    if (bytes > 0)
        memcpy(copy, data, bytes);
    return copy;
}

/* Stands in the 64 bytes before a block, so that freeing needs no size from the caller. */
struct block_header {
    void *base;
    size_t mapped_bytes; /* 0: from malloc */
};
_Static_assert(sizeof(struct block_header) <= BLOCK_ALIGN, "the header fits before the block");

static void *finish_block(void *base, uint8_t *block, size_t mapped_bytes)
{
    struct block_header *header = (struct block_header *)(void *)(block - BLOCK_ALIGN);
    header->base = base;
    header->mapped_bytes = mapped_bytes;
    return block;
}

/* Anonymous pages come zeroed and are touched only when used, so an over-large request fails here
 * or costs nothing until it is written. */
static void *map_block(size_t bytes)
{
    size_t total;
    if (!sp_add_size(bytes, 2 * HUGE_PAGE, &total))
        return NULL;
    uint8_t *base = mmap(NULL, total, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (base == MAP_FAILED)
        return NULL;
    uintptr_t first = (uintptr_t)base + BLOCK_ALIGN;
    uintptr_t aligned = (first + HUGE_PAGE - 1) & ~(uintptr_t)(HUGE_PAGE - 1);
    uint8_t *block = base + (aligned - (uintptr_t)base);
    madvise(block, bytes, MADV_HUGEPAGE); /* advice: its failure changes speed only */
    return finish_block(base, block, total);
}

void *sp_alloc_block(size_t count, size_t elem_bytes)
{
    size_t bytes, total;
    if (!sp_mul_size(count, elem_bytes, &bytes))
        return NULL;
    if (bytes >= HUGE_FROM && !BLOCKS_FROM_MALLOC)
        return map_block(bytes);
    if (!sp_add_size(bytes, BLOCK_ALIGN + HUGE_PAGE, &total) || total > MALLOC_MAX)
        return NULL;
    size_t align = bytes >= HUGE_FROM ? HUGE_PAGE : BLOCK_ALIGN;
    void *base;
    if (posix_memalign(&base, align, bytes + align) != 0)
        return NULL;
    uint8_t *block = (uint8_t *)base + align;
    memset(block, 0, bytes);
    return finish_block(base, block, 0);
}

void sp_free_block(void *block)
{
    if (block == NULL)
        return;
    struct block_header header;
    memcpy(&header, (uint8_t *)block - BLOCK_ALIGN, sizeof(header));
    if (header.mapped_bytes > 0)
        munmap(header.base, header.mapped_bytes);
    else
        free(header.base);
}

void sp_assert_failed(const char *condition, const char *file, int line)
{
    fprintf(stderr, "%s:%d: assertion failed: %s\n", file, line, condition);
    abort();
}
