/* spin-coordinator: schedules the iterations of self-play fine-tuning runs and keeps their state.
 */
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>

#include "common/base/clock.h"
#include "common/base/daemon.h"
#include "common/base/fs.h"
#include "common/base/log.h"
#include "common/base/mem.h"
#include "common/base/rng.h"
#include "coordinator/backup.h"
#include "coordinator/remove_run.h"
#include "coordinator/shell.h"

#define RUN_FILES 7
#define FILES_BESIDE 256 /* of the process itself, and some connections */

static enum sp_err load_tokens(struct shell *shell, struct sp_error *err)
{
    struct sp_arena *arena = sp_arena_new(1 << 16, (size_t)256 << 20);
    struct store_token *list;
    size_t count = 0;
    enum sp_err rc = coord_admin_token_ensure(shell->store, sp_wall_ms(), err);
    if (!rc)
        rc = store_tokens_list(shell->store, arena, &list, &count, err);
    shell->tokens = coord_tokens_new();
    for (size_t i = 0; !rc && i < count; i++)
        coord_tokens_put(shell->tokens, &list[i]);
    sp_arena_free(arena);
    return rc;
}

/* What is wrong with one run's file must not stop the others. (A disk that fails is another matter:
 * that may pass.) */
static bool concerns_one_run(enum sp_err rc)
{
    return rc == SP_ECORRUPT || rc == SP_EFORMAT || rc == SP_ENOTFOUND;
}

/* The file stays where it is and is looked at again at the next start. */
static enum sp_err set_aside(struct shell *shell, const char *name, const struct sp_error *why,
                             struct sp_error *err)
{
    char *text = sp_xprintf("run %s is set aside until its file is mended: %s", name, why->text);
    sp_errlog("%s", text);
    struct store_event event = {.at_ms = sp_wall_ms(),
                                .iteration = -1,
                                .actor = "coordinator",
                                .kind = "damaged",
                                .text = text,
                                .detail = ""};
    store_begin(shell->store);
    enum sp_err rc = store_event_append(shell->store, NULL, &event, err);
    if (!rc)
        rc = store_commit(shell->store, err);
    shell->set_aside =
        sp_xgrow(shell->set_aside, shell->set_aside_count + 1, sizeof(*shell->set_aside));
    shell->set_aside[shell->set_aside_count++] = text;
    return rc;
}

static enum sp_err load_run(struct shell *shell, const char *name, struct sp_error *err)
{
    struct coord_loaded loaded;
    struct sp_error why = {0};
    enum sp_err rc = coord_load_run(shell->store, shell->blobs, name, &loaded, &why);
    if (!rc)
        rc = coord_load_add(shell->core, &loaded, sp_now_ms(), &why);
    if (concerns_one_run(rc))
        return set_aside(shell, name, &why, err);
    if (rc)
        *err = why;
    return rc;
}

/* Threads with connections of their own have a run's file and its log open each; they share one. */
static void look_at_files(size_t runs)
{
    struct rlimit files;
    size_t needed = FILES_BESIDE + runs * RUN_FILES;
    if (getrlimit(RLIMIT_NOFILE, &files) != 0 || files.rlim_cur >= needed)
        return;
    sp_warn("%llu files may be open at once; %zu runs and evaluations need up to %zu, and every "
            "connection one: raise LimitNOFILE= of the service (ulimit -n)",
            (unsigned long long)files.rlim_cur, runs, runs * RUN_FILES);
}

static enum sp_err load_runs(struct shell *shell, struct sp_error *err)
{
    struct sp_arena *arena = sp_arena_new(1 << 16, (size_t)256 << 20);
    const char **names;
    size_t count = 0;
    enum sp_err rc = store_runs_list(shell->store, arena, &names, &count, err);
    for (size_t i = 0; !rc && i < count; i++)
        rc = load_run(shell, names[i], err);
    sp_arena_free(arena);
    if (!rc)
        sp_info("%zu runs", count - shell->set_aside_count);
    look_at_files(count);
    return rc;
}

static enum sp_err load_holds(struct shell *shell, struct sp_error *err)
{
    struct sp_arena *arena = sp_arena_new(1 << 16, (size_t)64 << 20);
    struct store_hold *list;
    size_t count = 0;
    enum sp_err rc = store_holds_list(shell->store, arena, &list, &count, err);
    for (size_t i = 0; !rc && i < count; i++)
        coord_core_add_hold(shell->core, &list[i]);
    sp_arena_free(arena);
    return rc;
}

static enum sp_err open_all(struct shell *shell, struct sp_error *err)
{
    const char *dir = shell->settings->state_dir;
    enum sp_err rc = store_open(dir, NULL, &shell->store, err);
    if (!rc)
        rc = ckpt_blobs_open(dir, NULL, &shell->blobs, err);
    if (!rc)
        rc = ckpt_blobs_sweep(shell->blobs, err);
    if (!rc)
        rc = store_open_reader(dir, NULL, &shell->reader, err);
    if (!rc)
        rc = store_open_reader(dir, NULL, &shell->worker, err);
    if (!rc)
        rc = load_tokens(shell, err);
    if (!rc)
        rc = load_runs(shell, err);
    if (!rc)
        rc = load_holds(shell, err);
    return rc;
}

static void close_all(struct shell *shell)
{
    coord_core_free(shell->core);
    coord_tokens_free(shell->tokens);
    ckpt_blobs_close(shell->blobs);
    store_close(shell->worker);
    store_close(shell->reader);
    store_close(shell->store);
    for (uint32_t i = 0; i < shell->set_aside_count; i++)
        free(shell->set_aside[i]);
    free(shell->set_aside);
}

struct process {
    struct shell *shell;
    int argc;
    char **argv;
};

static void stop(void *context)
{
    shell_stop(((struct process *)context)->shell);
}

/* SIGHUP, on the signal thread: the command line once more, and the file that it names. */
static void reload(void *context)
{
    struct process *process = context;
    struct coord_arguments *arguments = sp_xalloc(sizeof(*arguments));
    struct sp_error err = {0};
    if (coord_parse_args(process->argc, process->argv, arguments, &err) == SP_OK) {
        shell_reload(process->shell, arguments);
        return;
    }
    sp_errlog("reload: the old settings stay: %s", err.text);
    coord_arguments_deinit(arguments);
    free(arguments);
}

static enum sp_err serve(const struct coord_settings *settings, int argc, char **argv,
                         struct sp_error *err)
{
    struct shell shell = {.settings = settings};
    struct process process = {.shell = &shell, .argc = argc, .argv = argv};
    coord_times_init(settings->time_scale, &shell.times);
    struct coord_options options = {
        .times = shell.times,
        .version = SPIN_VERSION,
        .verify_share = settings->verify_share,
        /* Enough is left for requests that are not held. */
        .max_parked = (uint32_t)SP_MIN(settings->parallel - settings->parallel / 8,
                                       (int64_t)SP_MAX_PARKED_POLLS),
    };
    sp_random_secret(&options.instance, sizeof(options.instance));
    sp_random_secret(&options.verify_seed, sizeof(options.verify_seed));
    sp_random_secret(&options.ticket_secret, sizeof(options.ticket_secret));
    shell.core = coord_core_new(&options);
    struct sp_daemon_hooks hooks = {.on_stop = stop, .on_reload = reload, .context = &process};
    shell_open_loop(&shell);
    sp_daemon_init(&hooks);
    enum sp_err rc = open_all(&shell, err);
    if (!rc)
        rc = shell_run(&shell, err);
    if (shell.fatal)
        _exit(sp_err_exit_code(shell.fatal)); /* other threads still use what would be freed */
    sp_daemon_end();
    shell_close_loop(&shell);
    close_all(&shell);
    return rc;
}

static enum sp_err restore(const struct coord_arguments *arguments, struct sp_error *err)
{
    struct coord_backup_report report;
    enum sp_err rc = coord_restore(arguments->restore, arguments->settings.state_dir, &report, err);
    if (!rc)
        printf(arguments->json ? "{\"runs\":%llu,\"blobs\":%llu,\"bytes\":%llu}\n"
                               : "restored %llu runs, %llu blobs, %llu bytes\n",
               (unsigned long long)report.runs, (unsigned long long)report.blobs,
               (unsigned long long)report.bytes);
    return rc;
}

static enum sp_err remove_run(const struct coord_arguments *arguments, struct sp_error *err)
{
    struct coord_removed removed;
    const char *name = arguments->remove_run;
    enum sp_err rc = coord_remove_run(arguments->settings.state_dir, name, &removed, err);
    if (!rc)
        printf(arguments->json ? "{\"run\":\"%s\",\"iterations\":%llu,\"evaluations\":%llu}\n"
                               : "run %s is removed (iterations: %llu, evaluations: %llu)\n",
               name, (unsigned long long)removed.iterations,
               (unsigned long long)removed.evaluations);
    return rc;
}

int main(int argc, char **argv)
{
    struct coord_arguments arguments;
    struct sp_error err = {0};
    enum sp_log_level level;
    enum sp_err rc = coord_parse_args(argc, argv, &arguments, &err);
    if (!rc)
        rc = sp_log_parse_level(arguments.settings.log_level, &level, &err);
    if (!rc) {
        sp_log_set_level(level);
        sp_log_set_name("coordinator");
        if (arguments.restore)
            rc = restore(&arguments, &err);
        else if (arguments.remove_run)
            rc = remove_run(&arguments, &err);
        else
            rc = serve(&arguments.settings, argc, argv, &err);
    }
    coord_arguments_deinit(&arguments);
    if (rc && rc != SP_ECANCELED)
        fprintf(stderr, "spin-coordinator: %s\n", err.text);
    return rc == SP_ECANCELED ? 0 : sp_err_exit_code(rc);
}
