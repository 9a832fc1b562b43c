#include "tests/unit/checkpoint/sim_disk.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/mem.h"
#include "common/base/rng.h"

struct file {
    uint8_t *data;
    size_t length;
    uint8_t *safe; /* as of the last fsync */
    size_t safe_length;
    bool synced; /* data is what is safe */
    bool is_dir;
};

/* A path as the program sees it, and as the disk has it. Files are never freed before the end. */
struct name {
    char *path;
    struct file *now;
    struct file *safe;
};

struct handle {
    struct file *file;
    size_t place;
    bool open;
};

struct sim_disk {
    struct ckpt_fs fs;
    uint64_t seed;
    uint32_t draws;
    uint32_t fault_rate;
    uint64_t until_off; /* UINT64_MAX: never */
    bool off, no_file_fsync, no_dir_fsync;
    struct name *names;
    size_t name_count;
    struct file **files;
    size_t file_count;
    struct handle *handles;
    size_t handle_count;
};

static uint32_t draw(struct sim_disk *disk, uint32_t bound)
{
    return (uint32_t)sp_rng_below(disk->seed, SP_STREAM_TEST, 1, disk->draws++, 0, 0, bound);
}

/* The toll that every operation pays. */
static int toll(struct sim_disk *disk)
{
    if (disk->off)
        return -ESHUTDOWN;
    if (disk->until_off != UINT64_MAX && disk->until_off-- == 0) {
        disk->off = true;
        return -ESHUTDOWN;
    }
    if (disk->fault_rate > 0 && draw(disk, disk->fault_rate) == 0)
        return draw(disk, 2) == 0 ? -EIO : -ENOSPC;
    return 0;
}

static struct name *find(struct sim_disk *disk, const char *path)
{
    for (size_t i = 0; i < disk->name_count; i++)
        if (strcmp(disk->names[i].path, path) == 0)
            return &disk->names[i];
    return NULL;
}

static struct name *find_or_add(struct sim_disk *disk, const char *path)
{
    struct name *name = find(disk, path);
    if (name != NULL)
        return name;
    disk->names = sp_xgrow(disk->names, disk->name_count + 1, sizeof(*disk->names));
    name = &disk->names[disk->name_count++];
    *name = (struct name){.path = sp_xstrdup(path)};
    return name;
}

static struct file *new_file(struct sim_disk *disk, bool is_dir)
{
    struct file *file = sp_xalloc(sizeof(*file));
    file->is_dir = is_dir;
    file->synced = is_dir;
    disk->files = sp_xgrow(disk->files, disk->file_count + 1, sizeof(struct file *));
    disk->files[disk->file_count++] = file;
    return file;
}

/* true when `path` lies directly in `dir` */
static bool is_in(const char *path, const char *dir)
{
    size_t n = strlen(dir);
    return strncmp(path, dir, n) == 0 && path[n] == '/' && strchr(path + n + 1, '/') == NULL;
}

static bool parent_exists(struct sim_disk *disk, const char *path)
{
    const char *slash = strrchr(path, '/');
    char *dir = sp_xstrndup(path, (size_t)(slash - path));
    struct name *name = find(disk, dir);
    free(dir);
    return name != NULL && name->now != NULL && name->now->is_dir;
}

static int new_handle(struct sim_disk *disk, struct file *file)
{
    disk->handles = sp_xgrow(disk->handles, disk->handle_count + 1, sizeof(*disk->handles));
    disk->handles[disk->handle_count] = (struct handle){.file = file, .open = true};
    return (int)disk->handle_count++;
}

static int sim_create(void *fs, const char *path)
{
    struct sim_disk *disk = fs;
    int bad = toll(disk);
    if (bad != 0)
        return bad;
    if (!parent_exists(disk, path))
        return -ENOENT;
    struct name *name = find_or_add(disk, path);
    if (name->now != NULL)
        return -EEXIST;
    name->now = new_file(disk, false);
    return new_handle(disk, name->now);
}

static int sim_open(void *fs, const char *path)
{
    struct sim_disk *disk = fs;
    int bad = toll(disk);
    if (bad != 0)
        return bad;
    struct name *name = find(disk, path);
    if (name == NULL || name->now == NULL)
        return -ENOENT;
    return new_handle(disk, name->now);
}

static ssize_t sim_read(void *fs, int handle, void *to, size_t bytes)
{
    struct sim_disk *disk = fs;
    int bad = toll(disk);
    if (bad != 0)
        return bad;
    struct handle *h = &disk->handles[handle];
    SP_ASSERT(h->open);
    size_t n = SP_MIN(bytes, h->file->length - SP_MIN(h->place, h->file->length));
    if (n > 1)
        n = 1 + draw(disk, (uint32_t)n); /* reads may be short */
    if (n > 0)
        memcpy(to, h->file->data + h->place, n);
    h->place += n;
    return (ssize_t)n;
}

static ssize_t sim_write(void *fs, int handle, const void *from, size_t bytes)
{
    struct sim_disk *disk = fs;
    int bad = toll(disk);
    if (bad != 0)
        return bad;
    struct handle *h = &disk->handles[handle];
    SP_ASSERT(h->open && bytes > 0);
    size_t n = 1 + draw(disk, (uint32_t)bytes); /* writes may be short */
    h->file->data = sp_xgrow(h->file->data, h->place + n, 1);
    memcpy(h->file->data + h->place, from, n);
    h->place += n;
    h->file->length = h->place;
    h->file->synced = false;
    return (ssize_t)n;
}

static int sim_fsync(void *fs, int handle)
{
    struct sim_disk *disk = fs;
    int bad = toll(disk);
    if (bad != 0 || disk->no_file_fsync)
        return bad;
    struct file *file = disk->handles[handle].file;
    free(file->safe);
    file->safe = sp_xmemdup(file->data ? file->data : (uint8_t *)"", file->length);
    file->safe_length = file->length;
    file->synced = true;
    return 0;
}

static int sim_close(void *fs, int handle)
{
    struct sim_disk *disk = fs;
    SP_ASSERT(disk->handles[handle].open);
    disk->handles[handle].open = false; /* also where the power is off: no leak to report */
    return toll(disk);
}

static int sim_rename(void *fs, const char *from, const char *to)
{
    struct sim_disk *disk = fs;
    int bad = toll(disk);
    if (bad != 0)
        return bad;
    if (!parent_exists(disk, to))
        return -ENOENT;
    struct name *target = find_or_add(disk, to), *source = find(disk, from);
    if (source == NULL || source->now == NULL)
        return -ENOENT;
    target->now = source->now;
    source->now = NULL;
    return 0;
}

static int sim_unlink(void *fs, const char *path)
{
    struct sim_disk *disk = fs;
    int bad = toll(disk);
    if (bad != 0)
        return bad;
    struct name *name = find(disk, path);
    if (name == NULL || name->now == NULL)
        return -ENOENT;
    name->now = NULL;
    return 0;
}

static int sim_mkdir(void *fs, const char *path)
{
    struct sim_disk *disk = fs;
    int bad = toll(disk);
    if (bad != 0)
        return bad;
    if (!parent_exists(disk, path))
        return -ENOENT;
    struct name *name = find_or_add(disk, path);
    if (name->now != NULL)
        return -EEXIST;
    name->now = new_file(disk, true);
    return 0;
}

static int sim_fsync_dir(void *fs, const char *path)
{
    struct sim_disk *disk = fs;
    int bad = toll(disk);
    if (bad != 0 || disk->no_dir_fsync)
        return bad;
    struct name *dir = find(disk, path);
    if (dir == NULL || dir->now == NULL)
        return -ENOENT;
    for (size_t i = 0; i < disk->name_count; i++)
        if (is_in(disk->names[i].path, path))
            disk->names[i].safe = disk->names[i].now;
    return 0;
}

static int sim_size(void *fs, const char *path, uint64_t *ret_bytes)
{
    struct sim_disk *disk = fs;
    int bad = toll(disk);
    if (bad != 0)
        return bad;
    struct name *name = find(disk, path);
    if (name == NULL || name->now == NULL)
        return -ENOENT;
    *ret_bytes = name->now->length;
    return 0;
}

static int sim_list(void *fs, const char *path, int (*each)(void *arg, const char *name), void *arg)
{
    struct sim_disk *disk = fs;
    int bad = toll(disk);
    if (bad != 0)
        return bad;
    struct name *dir = find(disk, path);
    if (dir == NULL || dir->now == NULL)
        return -ENOENT;
    for (size_t i = 0; i < disk->name_count; i++)
        if (disk->names[i].now != NULL && is_in(disk->names[i].path, path) &&
            each(arg, strrchr(disk->names[i].path, '/') + 1) != 0)
            break;
    return 0;
}

struct sim_disk *sim_disk_new(uint64_t seed)
{
    struct sim_disk *disk = sp_xalloc(sizeof(*disk));
    disk->seed = seed;
    disk->until_off = UINT64_MAX;
    disk->fs = (struct ckpt_fs){
        .context = disk,
        .create = sim_create,
        .open = sim_open,
        .read = sim_read,
        .write = sim_write,
        .fsync = sim_fsync,
        .close = sim_close,
        .rename = sim_rename,
        .unlink = sim_unlink,
        .mkdir = sim_mkdir,
        .fsync_dir = sim_fsync_dir,
        .size = sim_size,
        .list = sim_list,
    };
    struct name *root = find_or_add(disk, "/state");
    root->now = root->safe = new_file(disk, true);
    return disk;
}

void sim_disk_free(struct sim_disk *disk)
{
    for (size_t i = 0; i < disk->name_count; i++)
        free(disk->names[i].path);
    for (size_t i = 0; i < disk->file_count; i++) {
        free(disk->files[i]->data);
        free(disk->files[i]->safe);
        free(disk->files[i]);
    }
    free(disk->names);
    free(disk->files);
    free(disk->handles);
    free(disk);
}

const struct ckpt_fs *sim_disk_fs(struct sim_disk *disk)
{
    return &disk->fs;
}

void sim_disk_set_fault_rate(struct sim_disk *disk, uint32_t one_of)
{
    disk->fault_rate = one_of;
}

void sim_disk_power_off_after(struct sim_disk *disk, uint64_t operations)
{
    disk->until_off = operations;
}

bool sim_disk_is_off(const struct sim_disk *disk)
{
    return disk->off;
}

/* Unsynced bytes come out as what was safe, cut anywhere, as zeros, as garbage, or whole. */
static void lose_bytes(struct sim_disk *disk, struct file *file)
{
    if (file->synced)
        return;
    switch (draw(disk, 5)) {
    case 0:
        file->length = file->safe_length;
        if (file->length > 0)
            memcpy(file->data, file->safe, file->length);
        break;
    case 1:
        file->length = draw(disk, (uint32_t)file->length + 1);
        break;
    case 2:
        if (file->length > 0)
            memset(file->data, 0, file->length);
        break;
    case 3:
        for (size_t i = file->length > 0 ? draw(disk, (uint32_t)file->length) : 0; i < file->length;
             i++)
            file->data[i] ^= 0x5a;
        break;
    default:
        break;
    }
    file->synced = true;
    free(file->safe);
    file->safe = sp_xmemdup(file->data ? file->data : (uint8_t *)"", file->length);
    file->safe_length = file->length;
}

void sim_disk_restart(struct sim_disk *disk)
{
    for (size_t i = 0; i < disk->file_count; i++)
        lose_bytes(disk, disk->files[i]);
    for (size_t i = 0; i < disk->name_count; i++) {
        struct name *name = &disk->names[i];
        if (name->now != name->safe && draw(disk, 2) == 0)
            name->now = name->safe;
        name->safe = name->now;
    }
    /* What was in a directory that is gone is gone. */
    for (bool again = true; again;) {
        again = false;
        for (size_t i = 0; i < disk->name_count; i++) {
            struct name *name = &disk->names[i];
            if (name->now != NULL && strcmp(name->path, "/state") != 0 &&
                !parent_exists(disk, name->path)) {
                name->now = name->safe = NULL;
                again = true;
            }
        }
    }
    for (size_t i = 0; i < disk->handle_count; i++)
        disk->handles[i].open = false;
    disk->off = false;
    disk->until_off = UINT64_MAX;
}

void sim_disk_flip(struct sim_disk *disk, const char *path)
{
    struct name *name = find(disk, path);
    SP_ASSERT(name != NULL && name->now != NULL && name->now->length > 0);
    name->now->data[name->now->length / 2] ^= 1;
}

void sim_disk_ignore_fsync(struct sim_disk *disk, bool files, bool directories)
{
    disk->no_file_fsync = files;
    disk->no_dir_fsync = directories;
}
