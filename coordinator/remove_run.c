#include "coordinator/remove_run.h"

#include <stdlib.h>
#include <string.h>

#include "common/base/fs.h"
#include "common/base/json.h"
#include "common/base/log.h"
#include "common/base/mem.h"
#include "coordinator/evaluation.h"
#include "coordinator/iteration_sm.h"
#include "coordinator/store/store_run.h"

static enum sp_err check_at_end(struct store_run *run, const char *name, uint64_t *ret_iterations,
                                struct sp_error *err)
{
    struct sp_arena *arena = sp_arena_new(1 << 16, (size_t)256 << 20);
    struct store_iteration *list = NULL;
    size_t count = 0;
    enum sp_err rc = store_iterations_list(run, arena, &list, &count, err);
    for (size_t i = 0; rc == SP_OK && i < count; i++) {
        if (coord_state_is_open((enum coord_state)list[i].state))
            rc = sp_fail(err, SP_ESTATE,
                         "remove-run: iteration %u of run %s is %s: start the coordinator, "
                         "`spinctl cancel %s`, stop it, and try again",
                         list[i].iteration, name, coord_state_name((enum coord_state)list[i].state),
                         name);
    }
    *ret_iterations = count;
    sp_arena_free(arena);
    return rc;
}

/* Whether `name` is an evaluation of a checkpoint of run `of`. One that can't be read is none: it
 * can be removed by its own name. */
static bool is_evaluation_of(struct store *store, struct sp_arena *arena, const char *name,
                             const char *of)
{
    struct store_run *run = NULL;
    struct store_run_info info;
    struct sp_error err;
    json_t *data = NULL;
    if (!coord_is_evaluation(name))
        return false;
    enum sp_err rc = store_run_open(store, name, &run, &err);
    if (rc == SP_OK)
        rc = store_run_info(run, arena, &info, &err);
    if (rc == SP_OK)
        rc = sp_json_parse(info.data, strlen(info.data), name, &data, &err);
    if (rc != SP_OK)
        sp_warn("remove-run: %s stays (`spinctl remove-run %s` takes it out): %s", name, name,
                err.text);
    const char *found =
        json_string_value(json_object_get(json_object_get(data, "evaluation"), "of"));
    bool is = found && strcmp(found, of) == 0;
    json_decref(data);
    return is;
}

/* Before the run itself: while that is there, all of it may be asked for again. */
static enum sp_err remove_evaluations(struct store *store, const char *of, uint64_t *ret_count,
                                      struct sp_error *err)
{
    struct sp_arena *arena = sp_arena_new(1 << 16, (size_t)1 << 30);
    const char **names = NULL;
    size_t count = 0;
    enum sp_err rc = store_runs_list(store, arena, &names, &count, err);
    for (size_t i = 0; rc == SP_OK && i < count; i++) {
        if (!is_evaluation_of(store, arena, names[i], of))
            continue;
        rc = store_run_remove(store, names[i], err);
        *ret_count += rc == SP_OK;
    }
    sp_arena_free(arena);
    return rc;
}

enum sp_err coord_remove_run(const char *state_dir, const char *name, struct coord_removed *ret,
                             struct sp_error *err)
{
    struct store *store = NULL;
    struct store_run *run = NULL;
    struct sp_error damage;
    *ret = (struct coord_removed){0};
    char *control = sp_path_join(state_dir, "control.db");
    bool is_state = sp_path_exists(control); /* else opening would make one */
    free(control);
    if (!is_state)
        return sp_fail(err, SP_ENOTFOUND,
                       "remove-run: %s is no state directory: control.db is missing", state_dir);
    enum sp_err rc = store_open(state_dir, NULL, &store, err);
    if (rc != SP_OK)
        return sp_wrap(err, rc, "remove-run, beside which no coordinator may run");
    enum sp_err open = store_run_open(store, name, &run, &damage);
    if (open == SP_OK)
        rc = check_at_end(run, name, &ret->iterations, err);
    else if (open != SP_ENOTFOUND)
        sp_warn("remove-run: %s", damage.text);
    if (rc == SP_OK)
        rc = remove_evaluations(store, name, &ret->evaluations, err);
    if (rc == SP_OK)
        rc = store_run_remove(store, name, err);
    store_close(store);
    return rc;
}
