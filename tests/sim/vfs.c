#include "tests/sim/vfs.h"

#include <fcntl.h>
#include <sqlite3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/base/buf.h"
#include "common/base/fs.h"
#include "common/base/mem.h"
#include "common/base/rng.h"

#define SECTOR 512

/* A write or, with data NULL, a truncation that is not certain yet. */
struct op {
    uint64_t at; /* offset, or the new length */
    uint8_t *data;
    size_t length;
};

/* A file by its path, open or not. */
struct entry {
    struct entry *next;
    char *path;
    int refs; /* open handles */
    bool
        log; /* a write-ahead log or a journal: its sync makes the names of its directory certain */
    bool new_name;
    struct sp_buf now; /* what programs see; empty while refs is 0 and nothing is uncertain */
    struct op *ops;
    size_t op_count, op_capacity;
};

/* A deletion that may not have reached the disk. */
struct ghost {
    struct ghost *next;
    char *path;
    char *data;
    size_t length;
};

struct sim_vfs {
    sqlite3_vfs base; /* first: SQLite's pointer is ours */
    sqlite3_vfs *real;
    char name[40];
    uint64_t seed, draws, operations, lost;
    uint64_t left; /* operations until the power goes; UINT64_MAX: never */
    bool off, ignore_sync;
    enum sim_vfs_trouble trouble;
    struct entry *entries;
    struct ghost *ghosts;
};

struct file {
    sqlite3_file base;
    struct sim_vfs *vfs;
    struct entry *entry; /* NULL: a temporary file, passed through */
    sqlite3_file *real;  /* behind this struct */
};

static uint32_t draw(struct sim_vfs *vfs, uint32_t bound)
{
    uint64_t n = vfs->draws++;
    return (uint32_t)sp_rng_below(vfs->seed, SP_STREAM_TEST, 0, (uint32_t)n, (uint32_t)(n >> 32), 1,
                                  bound);
}

/* Counts an operation; false when there is no power for it (any more). */
static bool powered(struct sim_vfs *vfs)
{
    if (vfs->off)
        return false;
    vfs->operations++;
    if (vfs->left == 0)
        vfs->off = true;
    else if (vfs->left != UINT64_MAX)
        vfs->left--;
    return !vfs->off;
}

/* ---- entries ---- */

static struct entry *find(struct sim_vfs *vfs, const char *path)
{
    for (struct entry *e = vfs->entries; e; e = e->next) {
        if (strcmp(e->path, path) == 0)
            return e;
    }
    return NULL;
}

static void drop_ops(struct entry *e)
{
    for (size_t i = 0; i < e->op_count; i++)
        free(e->ops[i].data);
    e->op_count = 0;
}

static void drop_entry(struct sim_vfs *vfs, struct entry *e)
{
    struct entry **at = &vfs->entries;
    while (*at != e)
        at = &(*at)->next;
    *at = e->next;
    drop_ops(e);
    free(e->ops);
    sp_buf_deinit(&e->now);
    free(e->path);
    free(e);
}

static void drop_ghost(struct sim_vfs *vfs, const char *path)
{
    for (struct ghost **at = &vfs->ghosts; *at; at = &(*at)->next) {
        struct ghost *g = *at;
        if (strcmp(g->path, path) != 0)
            continue;
        *at = g->next;
        free(g->path);
        free(g->data);
        free(g);
        return;
    }
}

static bool same_directory(const char *a, const char *b)
{
    size_t n = (size_t)(strrchr(a, '/') - a);
    return n == (size_t)(strrchr(b, '/') - b) && strncmp(a, b, n) == 0;
}

static void names_are_certain(struct sim_vfs *vfs, const char *path)
{
    for (struct entry *e = vfs->entries; e; e = e->next)
        e->new_name = e->new_name && !same_directory(e->path, path);
    for (struct ghost *g = vfs->ghosts, *next; g; g = next) {
        next = g->next;
        if (same_directory(g->path, path))
            drop_ghost(vfs, g->path);
    }
}

static void apply(struct sp_buf *buf, const struct op *op)
{
    uint64_t end = op->data ? op->at + op->length : op->at;
    if (end > buf->length) {
        size_t more = end - buf->length;
        sp_buf_reserve(buf, more);
        memset(buf->data + buf->length, 0, more);
        buf->length = end;
    }
    if (op->data)
        memcpy(buf->data + op->at, op->data, op->length);
    else
        buf->length = op->at;
}

static void record(struct entry *e, uint64_t at, const void *data, size_t length)
{
    if (e->op_count == e->op_capacity) {
        e->op_capacity = e->op_capacity ? e->op_capacity * 2 : 32;
        e->ops = sp_xgrow(e->ops, e->op_capacity, sizeof(*e->ops));
    }
    e->ops[e->op_count++] =
        (struct op){.at = at, .data = data ? sp_xmemdup(data, length) : NULL, .length = length};
}

/* To the real file, bypassing SQLite. */
static void write_real(int fd, const struct op *op)
{
    if (op->data)
        SP_ASSERT(pwrite(fd, op->data, op->length, (off_t)op->at) == (ssize_t)op->length);
    else
        SP_ASSERT(ftruncate(fd, (off_t)op->at) == 0);
}

static void flush(struct entry *e)
{
    int fd = e->op_count ? open(e->path, O_RDWR | O_CLOEXEC) : -1;
    for (size_t i = 0; i < e->op_count && fd >= 0; i++)
        write_real(fd, &e->ops[i]);
    if (fd >= 0)
        close(fd);
    drop_ops(e);
}

/* ---- file methods ---- */

#define SELF(f) struct file *self = (struct file *)(f)
#define REAL(self) ((self)->real->pMethods)

static int file_close(sqlite3_file *f)
{
    SELF(f);
    if (self->entry && --self->entry->refs == 0 && self->entry->op_count == 0) {
        if (self->entry->new_name)
            sp_buf_clear(&self->entry->now);
        else
            drop_entry(self->vfs, self->entry);
    }
    return REAL(self)->xClose(self->real);
}

static int file_read(sqlite3_file *f, void *to, int bytes, sqlite3_int64 at)
{
    SELF(f);
    if (self->entry == NULL)
        return REAL(self)->xRead(self->real, to, bytes, at);
    if (self->vfs->off)
        return SQLITE_IOERR_READ;
    const struct sp_buf *now = &self->entry->now;
    size_t have = (uint64_t)at < now->length ? SP_MIN((size_t)bytes, now->length - (size_t)at) : 0;
    if (have)
        memcpy(to, now->data + at, have);
    memset((char *)to + have, 0, (size_t)bytes - have);
    return have == (size_t)bytes ? SQLITE_OK : SQLITE_IOERR_SHORT_READ;
}

static int file_write(sqlite3_file *f, const void *from, int bytes, sqlite3_int64 at)
{
    SELF(f);
    if (self->entry == NULL)
        return REAL(self)->xWrite(self->real, from, bytes, at);
    if (self->vfs->trouble == SIM_VFS_FULL)
        return SQLITE_FULL;
    bool was_off = self->vfs->off, good = powered(self->vfs);
    if (!was_off) { /* the write in which the power went may be there in part */
        record(self->entry, (uint64_t)at, from, (size_t)bytes);
        apply(&self->entry->now, &self->entry->ops[self->entry->op_count - 1]);
    }
    return good ? SQLITE_OK : SQLITE_IOERR_WRITE;
}

static int file_truncate(sqlite3_file *f, sqlite3_int64 length)
{
    SELF(f);
    if (self->entry == NULL)
        return REAL(self)->xTruncate(self->real, length);
    bool was_off = self->vfs->off, good = powered(self->vfs);
    if (!was_off) {
        record(self->entry, (uint64_t)length, NULL, 0);
        apply(&self->entry->now, &self->entry->ops[self->entry->op_count - 1]);
    }
    return good ? SQLITE_OK : SQLITE_IOERR_TRUNCATE;
}

/* The real file is not synced: this process will live. Like SQLite's own, the sync of a log makes
 * the names of its directory certain. */
static int file_sync(sqlite3_file *f, int flags)
{
    SELF(f);
    if (self->entry == NULL)
        return REAL(self)->xSync(self->real, flags);
    if (self->vfs->trouble == SIM_VFS_SYNC_FAILS || !powered(self->vfs))
        return SQLITE_IOERR_FSYNC;
    if (self->vfs->ignore_sync)
        return SQLITE_OK;
    flush(self->entry);
    if (self->entry->log)
        names_are_certain(self->vfs, self->entry->path);
    return SQLITE_OK;
}

static int file_size(sqlite3_file *f, sqlite3_int64 *ret)
{
    SELF(f);
    if (self->entry == NULL)
        return REAL(self)->xFileSize(self->real, ret);
    *ret = (sqlite3_int64)self->entry->now.length;
    return SQLITE_OK;
}

static int file_lock(sqlite3_file *f, int level)
{
    SELF(f);
    return REAL(self)->xLock(self->real, level);
}

static int file_unlock(sqlite3_file *f, int level)
{
    SELF(f);
    return REAL(self)->xUnlock(self->real, level);
}

static int file_reserved(sqlite3_file *f, int *ret)
{
    SELF(f);
    return REAL(self)->xCheckReservedLock(self->real, ret);
}

/* Hints about the size, and mapping, would go past what is kept here. */
static int file_control(sqlite3_file *f, int op, void *argument)
{
    SELF(f);
    if (op == SQLITE_FCNTL_SIZE_HINT || op == SQLITE_FCNTL_MMAP_SIZE ||
        op == SQLITE_FCNTL_CHUNK_SIZE)
        return SQLITE_NOTFOUND;
    return REAL(self)->xFileControl(self->real, op, argument);
}

static int file_sector(sqlite3_file *f)
{
    SELF(f);
    return REAL(self)->xSectorSize(self->real);
}

static int file_traits(sqlite3_file *f)
{
    SELF(f);
    return REAL(self)->xDeviceCharacteristics(self->real);
}

static int shm_map(sqlite3_file *f, int page, int bytes, int extend, void volatile **ret)
{
    SELF(f);
    return REAL(self)->xShmMap(self->real, page, bytes, extend, ret);
}

static int shm_lock(sqlite3_file *f, int offset, int n, int flags)
{
    SELF(f);
    return REAL(self)->xShmLock(self->real, offset, n, flags);
}

static void shm_barrier(sqlite3_file *f)
{
    SELF(f);
    REAL(self)->xShmBarrier(self->real);
}

static int shm_unmap(sqlite3_file *f, int delete)
{
    SELF(f);
    return REAL(self)->xShmUnmap(self->real, delete);
}

static const sqlite3_io_methods methods = {
    .iVersion = 2,
    .xClose = file_close,
    .xRead = file_read,
    .xWrite = file_write,
    .xTruncate = file_truncate,
    .xSync = file_sync,
    .xFileSize = file_size,
    .xLock = file_lock,
    .xUnlock = file_unlock,
    .xCheckReservedLock = file_reserved,
    .xFileControl = file_control,
    .xSectorSize = file_sector,
    .xDeviceCharacteristics = file_traits,
    .xShmMap = shm_map,
    .xShmLock = shm_lock,
    .xShmBarrier = shm_barrier,
    .xShmUnmap = shm_unmap,
};

/* ---- the VFS ---- */

static struct entry *open_entry(struct sim_vfs *vfs, const char *path, int flags, bool existed)
{
    struct entry *e = find(vfs, path);
    if (e == NULL) {
        e = sp_xalloc(sizeof(*e));
        e->path = sp_xstrdup(path);
        e->next = vfs->entries;
        vfs->entries = e;
    }
    if (e->refs++ == 0 && e->op_count == 0) {
        char *data = NULL;
        size_t length = 0;
        sp_buf_clear(&e->now);
        if (sp_read_file(path, SIZE_MAX / 2, &data, &length, NULL) == SP_OK)
            sp_buf_append(&e->now, data, length);
        free(data);
        e->log = flags & (SQLITE_OPEN_WAL | SQLITE_OPEN_MAIN_JOURNAL);
        e->new_name = e->new_name || !existed;
    }
    return e;
}

static int vfs_open(sqlite3_vfs *base, const char *path, sqlite3_file *f, int flags, int *ret_flags)
{
    struct sim_vfs *vfs = (struct sim_vfs *)base;
    SELF(f);
    self->base.pMethods = NULL;
    self->vfs = vfs;
    self->entry = NULL;
    self->real = (sqlite3_file *)(self + 1);
    if (vfs->off)
        return SQLITE_CANTOPEN;
    bool existed = path && sp_path_exists(path);
    int rc = vfs->real->xOpen(vfs->real, path, self->real, flags, ret_flags);
    if (rc != SQLITE_OK)
        return rc;
    if (path && !(flags & (SQLITE_OPEN_DELETEONCLOSE | SQLITE_OPEN_TEMP_DB)))
        self->entry = open_entry(vfs, path, flags, existed);
    self->base.pMethods = &methods;
    return SQLITE_OK;
}

static int vfs_delete(sqlite3_vfs *base, const char *path, int sync_directory)
{
    struct sim_vfs *vfs = (struct sim_vfs *)base;
    if (!powered(vfs))
        return SQLITE_IOERR_DELETE;
    struct entry *e = find(vfs, path);
    bool certain = e == NULL || !e->new_name;
    if (e && e->refs == 0)
        drop_entry(vfs, e);
    drop_ghost(vfs, path);
    if (!sync_directory && certain) {
        struct ghost *g = sp_xalloc(sizeof(*g));
        if (sp_read_file(path, SIZE_MAX / 2, &g->data, &g->length, NULL) == SP_OK) {
            g->path = sp_xstrdup(path);
            g->next = vfs->ghosts;
            vfs->ghosts = g;
        } else {
            free(g);
        }
    }
    return vfs->real->xDelete(vfs->real, path, 0);
}

static int vfs_access(sqlite3_vfs *base, const char *path, int flags, int *ret)
{
    struct sim_vfs *vfs = (struct sim_vfs *)base;
    return vfs->real->xAccess(vfs->real, path, flags, ret);
}

static int vfs_full_path(sqlite3_vfs *base, const char *path, int bytes, char *ret)
{
    struct sim_vfs *vfs = (struct sim_vfs *)base;
    return vfs->real->xFullPathname(vfs->real, path, bytes, ret);
}

struct sim_vfs *sim_vfs_new(uint64_t seed)
{
    struct sim_vfs *vfs = sp_xalloc(sizeof(*vfs));
    vfs->real = sqlite3_vfs_find(NULL);
    vfs->seed = seed;
    vfs->left = UINT64_MAX;
    snprintf(vfs->name, sizeof(vfs->name), "sim-%p", (void *)vfs);
    vfs->base = *vfs->real;
    vfs->base.pNext = NULL;
    vfs->base.zName = vfs->name;
    vfs->base.szOsFile = (int)sizeof(struct file) + vfs->real->szOsFile;
    vfs->base.xOpen = vfs_open;
    vfs->base.xDelete = vfs_delete;
    vfs->base.xAccess = vfs_access;
    vfs->base.xFullPathname = vfs_full_path;
    SP_ASSERT(sqlite3_vfs_register(&vfs->base, 0) == SQLITE_OK);
    return vfs;
}

void sim_vfs_free(struct sim_vfs *vfs)
{
    sqlite3_vfs_unregister(&vfs->base);
    while (vfs->entries) {
        SP_ASSERT(vfs->entries->refs == 0);
        drop_entry(vfs, vfs->entries);
    }
    while (vfs->ghosts)
        drop_ghost(vfs, vfs->ghosts->path);
    free(vfs);
}

const char *sim_vfs_name(const struct sim_vfs *vfs)
{
    return vfs->name;
}

void sim_vfs_power_off_after(struct sim_vfs *vfs, uint64_t operations)
{
    vfs->left = operations;
}

void sim_vfs_power_off(struct sim_vfs *vfs)
{
    vfs->off = true;
}

bool sim_vfs_is_off(const struct sim_vfs *vfs)
{
    return vfs->off;
}

uint64_t sim_vfs_operations(const struct sim_vfs *vfs)
{
    return vfs->operations;
}

uint64_t sim_vfs_lost(const struct sim_vfs *vfs)
{
    return vfs->lost;
}

void sim_vfs_revive(struct sim_vfs *vfs)
{
    for (struct entry *e = vfs->entries; e; e = e->next)
        flush(e);
    vfs->off = false;
    vfs->left = UINT64_MAX;
}

void sim_vfs_set_trouble(struct sim_vfs *vfs, enum sim_vfs_trouble trouble)
{
    vfs->trouble = trouble;
}

void sim_vfs_ignore_sync(struct sim_vfs *vfs, bool ignore)
{
    vfs->ignore_sync = ignore;
}

/* ---- the loss ---- */

/* Sectors of a write, each there or not. */
static void tear(struct sim_vfs *vfs, int fd, const struct op *op)
{
    for (size_t done = 0; done < op->length;) {
        size_t piece = SP_MIN(op->length - done, SECTOR - (size_t)((op->at + done) % SECTOR));
        struct op part = {.at = op->at + done, .data = op->data + done, .length = piece};
        if (draw(vfs, 2))
            write_real(fd, &part);
        done += piece;
    }
}

static void lose(struct sim_vfs *vfs, struct entry *e)
{
    int fd = e->op_count ? open(e->path, O_RDWR | O_CLOEXEC) : -1;
    for (size_t i = 0; i < e->op_count && fd >= 0; i++) {
        uint32_t fate = draw(vfs, 3);
        if (fate == 0)
            write_real(fd, &e->ops[i]);
        else if (fate == 1 && e->ops[i].data)
            tear(vfs, fd, &e->ops[i]);
        vfs->lost += fate != 0;
    }
    if (fd >= 0)
        close(fd);
    if (e->new_name && draw(vfs, 2))
        (void)unlink(e->path);
}

void sim_vfs_restart(struct sim_vfs *vfs)
{
    while (vfs->entries) {
        struct entry *e = vfs->entries;
        SP_ASSERT(e->refs == 0);
        char *shm = sp_xprintf("%s-shm", e->path);
        lose(vfs, e);
        (void)unlink(shm); /* memory */
        free(shm);
        drop_entry(vfs, e);
    }
    while (vfs->ghosts) {
        struct ghost *g = vfs->ghosts;
        if (draw(vfs, 2) && !sp_path_exists(g->path)) {
            int fd = open(g->path, O_CREAT | O_WRONLY | O_CLOEXEC, 0600);
            SP_ASSERT(fd >= 0 && write(fd, g->data, g->length) == (ssize_t)g->length);
            close(fd);
        }
        drop_ghost(vfs, g->path);
    }
    vfs->off = false;
    vfs->left = UINT64_MAX;
}
