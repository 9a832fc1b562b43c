/* Backup, restore, remove-run: commands that concern the coordinator's machine. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "common/base/fs.h"
#include "common/base/mem.h"
#include "coordinator/spinctl/spinctl.h"

/* A coordinator on this machine may see other directories than the administrator does: a service
 * has a /tmp of its own, which goes when it stops. */
static enum sp_err check_seen(const struct ctl *ctl, const char *dir, struct sp_error *err)
{
    char *manifest = sp_path_join(dir, "manifest.json");
    bool local = strncmp(ctl->settings.url, "ipc:", 4) == 0;
    bool gone = local && access(manifest, F_OK) != 0 && errno == ENOENT;
    free(manifest);
    if (!gone)
        return SP_OK;
    return sp_fail(
        err, SP_ENOTFOUND,
        "backup: the coordinator wrote %s, but in a directory that its service alone sees "
        "and that goes with it (PrivateTmp=): name one that both see, such as "
        "/var/backups/spin/NAME",
        dir);
}

int ctl_backup(void *context)
{
    struct ctl *ctl = context;
    struct sp_error err = {0};
    char path[4096];
    json_t *reply = NULL;
    const char *dir = ctl->args[0];
    if (dir[0] != '/') {
        char here[2048];
        if (!getcwd(here, sizeof(here))) {
            sp_fail(&err, SP_EIO, "backup: no working directory: give an absolute path");
            return ctl_failed(&err);
        }
        snprintf(path, sizeof(path), "%s/%s", here, dir);
        dir = path;
    }
    ctl->patience_ms = CTL_LONG_MS;
    if (ctl_admin(ctl, "backup", "", json_pack("{s:s}", "dir", dir), &reply, &err) != SP_OK)
        return ctl_failed(&err);
    if (check_seen(ctl, dir, &err) != SP_OK) {
        json_decref(reply);
        return ctl_failed(&err);
    }
    if (ctl->json)
        ctl_print_json(reply);
    else if (!ctl->quiet)
        printf("backup in %s: %lld runs, %lld blobs, %lld bytes\n", dir,
               (long long)ctl_integer(reply, "runs", 0), (long long)ctl_integer(reply, "blobs", 0),
               (long long)ctl_integer(reply, "bytes", 0));
    json_decref(reply);
    return 0;
}

/* The program beside this one, or on the path. */
static char *coordinator_program(void)
{
    char self[4096];
    ssize_t n = readlink("/proc/self/exe", self, sizeof(self) - 1);
    if (n > 0) {
        static const char *const beside[] = {"spin-coordinator", "../spin-coordinator",
                                             "../../coordinator/spin-coordinator"};
        self[n] = '\0';
        char *slash = strrchr(self, '/');
        *slash = '\0';
        for (size_t i = 0; i < SP_COUNT(beside); i++) {
            char *path = sp_path_join(self, beside[i]);
            if (access(path, X_OK) == 0)
                return path;
            free(path);
        }
    }
    return sp_xstrdup("spin-coordinator");
}

/* The store is the coordinator's: this is its program's work, with no coordinator running. */
static int run_coordinator(struct ctl *ctl, const char *command, const char *option)
{
    struct sp_error err = {0};
    if (ctl_load_settings(ctl, &err) != SP_OK)
        return ctl_failed(&err);
    char *program = coordinator_program();
    char state[] = "--state-dir", json[] = "--json";
    char *argv[] = {program,
                    state,
                    ctl->settings.state_dir,
                    (char *)option,
                    (char *)ctl->args[0],
                    ctl->json ? json : NULL,
                    NULL};
    execvp(program, argv);
    sp_fail_errno(&err, errno, "%s: cannot run %s", command, program);
    free(program);
    return ctl_failed(&err);
}

int ctl_restore(void *context)
{
    return run_coordinator(context, "restore", "--restore");
}

int ctl_remove_run(void *context)
{
    return run_coordinator(context, "remove-run", "--remove-run");
}
