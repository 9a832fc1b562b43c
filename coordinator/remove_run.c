#include "coordinator/remove_run.h"

#include <stdlib.h>
#include <string.h>

#include "common/base/fs.h"
#include "common/base/log.h"
#include "common/base/mem.h"
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

enum sp_err coord_remove_run(const char *state_dir, const char *name, uint64_t *ret_iterations,
                             struct sp_error *err)
{
    struct store *store = NULL;
    struct store_run *run = NULL;
    struct sp_error damage;
    *ret_iterations = 0;
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
        rc = check_at_end(run, name, ret_iterations, err);
    else if (open != SP_ENOTFOUND)
        sp_warn("remove-run: %s", damage.text);
    if (rc == SP_OK)
        rc = store_run_remove(store, name, err);
    store_close(store);
    return rc;
}
