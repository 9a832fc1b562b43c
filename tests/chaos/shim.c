/* A disk that fails when it is told to: preloaded into a daemon, its first four bytes of the file
 * that CHAOS_SHIM names say how. Only regular files fail, and not the log; and only for our own
 * programs: those that they start (a sanitizer's symbolizer) have a disk that works. */
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define SYNC_FAILS 1u
#define WRITE_FAILS 2u
#define WRITE_IS_SHORT 4u /* half of it is written, then the disk is full */
#define SYNC_WAITS_SHIFT 16 /* above: milliseconds that a sync takes longer */

static _Atomic uint32_t *order;

__attribute__((constructor)) static void start(void)
{
    const char *path = getenv("CHAOS_SHIM");
    bool ours = strncmp(program_invocation_short_name, "spin", 4) == 0;
    int fd = path && ours ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    if (fd < 0)
        return;
    void *page = mmap(NULL, 4096, PROT_READ, MAP_SHARED, fd, 0);
    if (page != MAP_FAILED)
        order = page;
    close(fd);
}

static uint32_t ordered(int fd)
{
    struct stat st;
    uint32_t what = order ? atomic_load(order) : 0;
    if (what == 0 || fd <= STDERR_FILENO || fstat(fd, &st) != 0 ||
        !(S_ISREG(st.st_mode) || S_ISDIR(st.st_mode)))
        return 0;
    return what;
}

static void wait_for_sync(uint32_t what)
{
    usleep((what >> SYNC_WAITS_SHIFT) * 1000u);
}

#define REAL(name)                                                                                 \
    static typeof(&name) real;                                                                     \
    if (!real)                                                                                     \
    *(void **)&real = dlsym(RTLD_NEXT, #name)

int fsync(int fd)
{
    REAL(fsync);
    uint32_t what = ordered(fd);
    wait_for_sync(what);
    if (what & SYNC_FAILS) {
        errno = EIO;
        return -1;
    }
    return real(fd);
}

int fdatasync(int fd)
{
    REAL(fdatasync);
    uint32_t what = ordered(fd);
    wait_for_sync(what);
    if (what & SYNC_FAILS) {
        errno = EIO;
        return -1;
    }
    return real(fd);
}

ssize_t write(int fd, const void *from, size_t bytes)
{
    REAL(write);
    uint32_t what = ordered(fd);
    if (what & WRITE_IS_SHORT && bytes > 1)
        return real(fd, from, bytes / 2);
    if (what & (WRITE_FAILS | WRITE_IS_SHORT)) {
        errno = what & WRITE_FAILS ? EIO : ENOSPC;
        return -1;
    }
    return real(fd, from, bytes);
}

/* With 64-bit offsets, as the daemons and SQLite are built, this is pwrite64. */
ssize_t pwrite(int fd, const void *from, size_t bytes, off_t at)
{
    REAL(pwrite);
    uint32_t what = ordered(fd);
    if (what & WRITE_IS_SHORT && bytes > 1)
        return real(fd, from, bytes / 2, at);
    if (what & (WRITE_FAILS | WRITE_IS_SHORT)) {
        errno = what & WRITE_FAILS ? EIO : ENOSPC;
        return -1;
    }
    return real(fd, from, bytes, at);
}
