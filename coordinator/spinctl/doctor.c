/* doctor: what the coordinator says about itself, and what can be seen from here. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "common/base/fs.h"
#include "common/base/mem.h"
#include "coordinator/spinctl/spinctl.h"

static void add(json_t *checks, const char *what, bool good, const char *detail)
{
    json_array_append_new(
        checks, json_pack("{s:s, s:b, s:s}", "check", what, "ok", good, "detail", detail));
}

static void check_version(const json_t *reply, json_t *checks)
{
    char text[256];
    const char *version = ctl_string(reply, "version", "?");
    bool same = strcmp(version, SPIN_VERSION) == 0;
    snprintf(text, sizeof(text), "coordinator %.60s, spinctl %s%s", version, SPIN_VERSION,
             same ? "" : ": install the same version on both machines");
    add(checks, "version", same, text);
}

static void check_token_file(const struct ctl *ctl, json_t *checks)
{
    struct stat info;
    char *path = ctl_token_path(ctl);
    char text[512];
    if (stat(path, &info) != 0)
        snprintf(text, sizeof(text), "%.400s: it is gone", path);
    else if (info.st_mode & 077)
        snprintf(text, sizeof(text), "%.400s can be read by others: chmod 600", path);
    else
        snprintf(text, sizeof(text), "%.400s", path);
    add(checks, "token file", stat(path, &info) == 0 && !(info.st_mode & 077), text);
    free(path);
}

static void check_role(const json_t *workers, const char *role, const char *remedy, json_t *checks)
{
    int alive = 0, silent = 0;
    char text[256];
    for (size_t i = 0; i < json_array_size(workers); i++) {
        const json_t *worker = json_array_get(workers, i);
        if (strcmp(ctl_string(worker, "role", ""), role) != 0)
            continue;
        if (json_is_true(json_object_get(worker, "alive")))
            alive++;
        else
            silent++;
    }
    snprintf(text, sizeof(text), "%d connected, %d silent%s%s", alive, silent, alive ? "" : ": ",
             alive ? "" : remedy);
    add(checks, role, alive > 0, text);
}

static enum sp_err check_workers(struct ctl *ctl, json_t *checks, struct sp_error *err)
{
    json_t *reply = NULL;
    enum sp_err rc = ctl_admin(ctl, "workers", "", NULL, &reply, err);
    if (rc != SP_OK)
        return rc;
    const json_t *workers = json_object_get(reply, "workers");
    check_role(workers, "generator", "systemctl start spin-generator@0, or look at its log",
               checks);
    check_role(workers, "trainer", "systemctl start spin-trainer, or look at its log", checks);
    json_decref(reply);
    return SP_OK;
}

int ctl_doctor(void *context)
{
    static const struct ctl_column columns[] = {
        {"check", "CHECK", "text"}, {"ok", "GOOD", "text"}, {"detail", "DETAIL", "text"}};
    struct ctl *ctl = context;
    struct sp_error err = {0};
    json_t *reply = NULL;
    enum sp_err rc = ctl_admin(ctl, "doctor", "", NULL, &reply, &err);
    json_t *checks = json_object_get(reply, "checks");
    if (rc == SP_OK) {
        check_version(reply, checks);
        check_token_file(ctl, checks);
        rc = check_workers(ctl, checks, &err);
    }
    int bad = 0;
    for (size_t i = 0; i < json_array_size(checks); i++)
        bad += !json_is_true(json_object_get(json_array_get(checks, i), "ok"));
    if (rc == SP_OK && ctl->json)
        ctl_print_json(reply);
    else if (rc == SP_OK)
        ctl_print_table(checks, columns, SP_COUNT(columns));
    json_decref(reply);
    return rc != SP_OK ? ctl_failed(&err) : bad ? 1 : 0;
}
