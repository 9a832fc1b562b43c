/* Task files: where they are, where their data are, both to the coordinator. */
#include <libgen.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "common/base/fs.h"
#include "common/base/limits.h"
#include "common/base/mem.h"
#include "common/task/task.h"
#include "coordinator/spinctl/spinctl.h"

/* The file itself, or an installed task of that name. */
static enum sp_err find_task(const char *name, char **ret, struct sp_error *err)
{
    const char *own = getenv("SPIN_TASKS");
    const char *dirs[] = {own ? own : SPIN_TASKS_DIR, SPIN_TASKS_DIR};
    if (sp_path_exists(name)) {
        *ret = sp_xstrdup(name);
        return SP_OK;
    }
    for (size_t i = 0; i < SP_COUNT(dirs) && strchr(name, '/') == NULL; i++) {
        char *path = sp_xprintf("%s/%s.conf", dirs[i], name);
        if (sp_path_exists(path)) {
            *ret = path;
            return SP_OK;
        }
        free(path);
    }
    return sp_fail(err, SP_ENOTFOUND,
                   "task %.200s: no such file, and no installed task of that name in %s", name,
                   dirs[0]);
}

static bool is_directory(const char *path)
{
    struct stat info;
    return stat(path, &info) == 0 && S_ISDIR(info.st_mode);
}

/* file: as the task file says; data: --data, a file, or the directory that its paths start at. */
static char *data_path(const char *task_path, const char *file, const char *data)
{
    if (file[0] == '/')
        return sp_xstrdup(file);
    if (data && data[0] && !is_directory(data))
        return sp_xstrdup(data);
    if (data && data[0])
        return sp_path_join(data, file);
    char *copy = sp_xstrdup(task_path);
    char *path = sp_path_join(dirname(copy), file);
    free(copy);
    return path;
}

static enum sp_err put_one(struct ctl *ctl, const char *task_path, const char *file,
                           const char *data, const char *key, json_t *args, struct sp_error *err)
{
    char hex[SP_DIGEST_HEX];
    if (file[0] == '\0') {
        json_object_set_new(args, key, json_null());
        return SP_OK;
    }
    char *path = data_path(task_path, file, data);
    enum sp_err rc = sp_path_exists(path)
                         ? ctl_put_file(ctl, path, key, hex, err)
                         : sp_fail(err, SP_ENOTFOUND,
                                   "%s: no such file: --data names the data, or the directory at "
                                   "which %s starts",
                                   path, file);
    if (rc == SP_OK)
        json_object_set_new(args, key, json_string(hex));
    free(path);
    return rc;
}

enum sp_err ctl_put_task(struct ctl *ctl, const char *name, const char *data, int64_t limit,
                         json_t **ret, int *ret_kind, struct sp_error *err)
{
    char *path = NULL, *text = NULL;
    size_t length = 0;
    struct task *task = NULL;
    json_t *args = json_object();
    enum sp_err rc = find_task(name, &path, err);
    if (rc == SP_OK)
        rc = sp_read_file(path, SP_MAX_INI_FILE, &text, &length, err);
    if (rc == SP_OK)
        rc = task_new(text, length, path, &task, err);
    if (rc == SP_OK) {
        const struct task_settings *s = task_settings_of(task);
        char *copy = sp_xstrdup(path);
        json_object_set_new(args, "file", json_string(basename(copy)));
        json_object_set_new(args, "task", json_stringn(text, length));
        json_object_set_new(args, "limit", json_integer(limit));
        *ret_kind = s->kind;
        free(copy);
        /* --data that is a file is the problems'; examples stay where the task says. */
        bool one = data && data[0] && !is_directory(data);
        rc = put_one(ctl, path, s->file, data, "data", args, err);
        if (rc == SP_OK && s->fewshot > 0)
            rc = put_one(ctl, path, s->fewshot_file, one ? NULL : data, "fewshot", args, err);
    }
    if (rc == SP_OK)
        *ret = json_incref(args);
    json_decref(args);
    task_free(task);
    free(text);
    free(path);
    return rc;
}
