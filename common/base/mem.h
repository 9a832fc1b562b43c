/* mem: checked sizes and allocation.
 *
 * Small control allocations (sp_xalloc family) abort the process when memory is gone: nothing in
 * this system is lost by a death, and no code path limps on half-made. Large blocks whose size
 * follows from a file, a peer or a setting use sp_alloc_block, which returns NULL.
 * Any thread. */
#ifndef SPIN_BASE_MEM_H
#define SPIN_BASE_MEM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* false on overflow; *ret untouched then */
bool sp_mul_size(size_t a, size_t b, size_t *ret);
bool sp_add_size(size_t a, size_t b, size_t *ret);

void *sp_xalloc(size_t bytes);                   /* zeroed; bytes 0 gives a unique pointer */
void *sp_xarray(size_t count, size_t elem_bytes); /* zeroed; aborts on overflow */
void *sp_xgrow(void *old, size_t count, size_t elem_bytes); /* realloc; new part not zeroed */
char *sp_xstrdup(const char *text);
char *sp_xstrndup(const char *text, size_t length);
char *sp_xprintf(const char *format, ...) __attribute__((format(printf, 1, 2)));
void *sp_xmemdup(const void *data, size_t bytes);

/* 64-byte aligned (2 MiB aligned and advised for huge pages from 4 MiB up), zeroed; NULL when
 * there is no memory or count × elem_bytes overflows. Free with sp_free_block. */
void *sp_alloc_block(size_t count, size_t elem_bytes);
void sp_free_block(void *block);

#define SP_COUNT(array) (sizeof(array) / sizeof((array)[0]))
#define SP_MIN(a, b) ((a) < (b) ? (a) : (b))
#define SP_MAX(a, b) ((a) > (b) ? (a) : (b))
/* An assert for bugs: never compiled out, prints the place and aborts. */
#define SP_ASSERT(condition)                                                                       \
    do {                                                                                           \
        if (__builtin_expect(!(condition), 0))                                                     \
            sp_assert_failed(#condition, __FILE__, __LINE__);                                      \
    } while (0)
void sp_assert_failed(const char *condition, const char *file, int line) __attribute__((noreturn));

#endif
