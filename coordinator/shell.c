#include "coordinator/shell.h"

#include <stdlib.h>
#include <string.h>

#include "common/base/clock.h"
#include "common/base/daemon.h"
#include "common/base/log.h"
#include "common/base/mem.h"

#define MAILBOX_JOBS 65536
#define JOB_ARENA_FIRST (64 << 10)
#define JOB_ARENA_LIMIT ((size_t)128 << 20)
#define WATCHDOG_MS 1000

struct job *job_new(struct shell *shell, enum job_kind kind, struct proto_request *request)
{
    struct job *job = sp_xalloc(sizeof(*job));
    job->kind = kind;
    job->shell = shell;
    job->request = request;
    job->at_ms = sp_wall_ms();
    job->start_ns = sp_now_ns();
    if (kind == JOB_GRANT || kind == JOB_PAIRS || kind == JOB_BLOB_MISSING || kind == JOB_MISSING)
        job->arena = sp_arena_new(JOB_ARENA_FIRST, JOB_ARENA_LIMIT);
    return job;
}

void job_free(struct job *job)
{
    sp_arena_free(job->arena);
    free(job->action.positions);
    free(job->action.roots);
    coord_refs_free(job->refs);
    coord_backup_free(job->backup);
    free(job->verb);
    free(job->actor);
    free(job->run);
    free(job->args);
    free(job->text);
    free(job->blob);
    free(job->blobs);
    free(job->verdict);
    free(job->order);
    coord_loaded_deinit(&job->loaded);
    free(job);
}

static struct job_thread *thread_of(struct shell *shell, enum job_kind kind)
{
    if (kind <= JOB_BACKUP)
        return &shell->store_thread;
    if (kind <= JOB_DOCTOR)
        return &shell->read_thread;
    if (kind <= JOB_DISK)
        return &shell->blob_thread;
    if (kind <= JOB_COLLECT)
        return &shell->work_thread;
    return &shell->backup_thread;
}

void shell_send(struct shell *shell, struct job *job)
{
    /* Jobs are bounded by the requests in work: the mailbox cannot be full for long. */
    if (!sp_mailbox_put(thread_of(shell, job->kind)->box, job))
        job_free(job);
}

/* ---- actions of the core ---- */

static struct proto_request *take_request(struct shell *shell, uint64_t handle)
{
    struct proto_request *request = coord_map_get(&shell->requests, handle);
    SP_ASSERT(request);
    coord_map_remove(&shell->requests, handle);
    return request;
}

static void send_action(struct shell *shell, struct coord_action *action, enum job_kind kind)
{
    struct proto_request *request = action->handle ? take_request(shell, action->handle) : NULL;
    struct job *job = job_new(shell, kind, request);
    job->action = *action;
    action->positions = NULL;
    action->roots = NULL;
    shell_send(shell, job);
}

static void execute(struct shell *shell, struct coord_action *action)
{
    struct job *job;
    struct proto_request *request;
    switch (action->kind) {
    case COORD_DO_REPLY:
        request = take_request(shell, action->handle);
        if (action->type == PROTO_SUBMIT_REPLY)
            coord_histogram_add(&shell->counters.submit,
                                (double)proto_request_age_ns(request) / 1e9);
        proto_reply(request, action->type, &action->body);
        return;
    case COORD_DO_REPLY_ERROR:
        proto_reply_error(take_request(shell, action->handle), action->status,
                          action->retry_after_ms, "%s", action->text);
        return;
    case COORD_DO_WRITE:
        job = job_new(shell, JOB_WRITE, NULL);
        job->write = action->write;
        shell_send(shell, job);
        return;
    case COORD_DO_GRANT:
        return send_action(shell, action, JOB_GRANT);
    case COORD_DO_PAIRS:
        return send_action(shell, action, JOB_PAIRS);
    case COORD_DO_MISSING:
        return send_action(shell, action, JOB_MISSING);
    case COORD_DO_VERIFY:
        return send_action(shell, action, JOB_VERIFY);
    case COORD_DO_JUDGE:
        return send_action(shell, action, JOB_JUDGE);
    case COORD_DO_ORDER:
        return send_action(shell, action, action->gap ? JOB_ORDER : JOB_PASS);
    case COORD_DO_COLLECT:
        return send_action(shell, action, JOB_REFS);
    case COORD_DO_EVALUATE:
        job = job_new(shell, JOB_EVALUATE, NULL);
        job->action = *action;
        job->due = true;
        shell_send(shell, job);
        return;
    case COORD_DO_LOG:
        sp_log((enum sp_log_level)action->level, "%s", action->text);
        return;
    }
}

void shell_execute(struct shell *shell)
{
    for (size_t i = 0; i < shell->actions.count; i++)
        execute(shell, &shell->actions.items[i]);
    coord_actions_clear(&shell->actions);
}

void shell_event(struct shell *shell, const struct coord_event *event)
{
    coord_step(shell->core, event, sp_now_ms(), &shell->actions);
    shell_execute(shell);
}

/* ---- the loop ---- */

static void on_timer(uv_timer_t *timer)
{
    struct shell *shell = timer->data;
    shell->tick_due = true;
}

/* Behind the input of this turn of the loop, so that a renewal that has come in is seen before its
 * lease expires. */
static void on_check(uv_check_t *check)
{
    struct shell *shell = check->data;
    if (!shell->tick_due || shell->closing)
        return;
    shell->tick_due = false;
    shell_event(shell, &(struct coord_event){.kind = COORD_EV_TICK});
    int64_t now = sp_now_ms();
    if (now >= shell->next_disk_ms) {
        shell->next_disk_ms = now + shell->times.disk_check_ms;
        shell_send(shell, job_new(shell, JOB_DISK, NULL));
    }
    if (proto_canary_is_silent(&shell->silence, proto_canary_rounds(), now)) {
        shell->fatal = sp_fail(&shell->fatal_err, SP_EINTERNAL,
                               "the network library closes no connections any more: starting anew");
        sp_errlog("%s", shell->fatal_err.text);
        uv_stop(&shell->loop);
    }
    if (now >= shell->next_watchdog_ms) {
        shell->next_watchdog_ms = now + WATCHDOG_MS;
        sp_daemon_watchdog();
    }
}

static void drain(struct shell *shell)
{
    struct job *job;
    while ((job = sp_mailbox_try_take(shell->done)) != NULL)
        shell_finished(shell, job);
    if (shell->fatal)
        uv_stop(&shell->loop);
}

static void on_wake(uv_async_t *async)
{
    drain(async->data);
}

static void wake_loop(void *context)
{
    struct shell *shell = context;
    uv_async_send(&shell->wake);
}

static void on_server_closed(void *context)
{
    struct shell *shell = context;
    if (--shell->servers_open == 0)
        uv_stop(&shell->loop);
}

static void close_servers(struct shell *shell)
{
    shell->closing = true;
    coord_http_close(shell->http);
    shell->http = NULL;
    for (uint32_t i = 0; i < shell->server_count; i++)
        proto_server_close(shell->servers[i], on_server_closed, shell);
}

static void on_stop(uv_async_t *async)
{
    struct shell *shell = async->data;
    if (shell->closing)
        return;
    sp_info("stopping: %zu requests in work", shell->requests.count);
    sp_daemon_stopping_notify();
    close_servers(shell);
    coord_drain(shell->core, &shell->actions);
    shell_execute(shell);
}

void shell_stop(void *context)
{
    struct shell *shell = context;
    atomic_store(&shell->stopping, true);
    uv_async_send(&shell->stop);
}

static void on_reload(uv_async_t *async);

static enum sp_err listen_on(struct shell *shell, const char *url, struct sp_error *err)
{
    struct proto_tls tls = {.ca_file = shell->settings->tls_ca,
                            .cert_file = shell->settings->tls_cert};
    if (shell->server_count == COORD_MAX_LISTENERS)
        return sp_fail(err, SP_ELIMIT, "more than %d addresses to listen on", COORD_MAX_LISTENERS);
    enum sp_err rc =
        proto_server_start(&shell->loop, url, &tls, (uint32_t)shell->settings->parallel,
                           shell_on_request, shell, &shell->servers[shell->server_count], err);
    if (rc)
        return rc;
    shell->server_count++;
    shell->servers_open++;
    sp_info("listening on %s", url);
    return SP_OK;
}

static enum sp_err listen_on_all(struct shell *shell, struct sp_error *err)
{
    char *path = realpath(shell->settings->state_dir, NULL);
    char *own = sp_xprintf("ipc://%s/coordinator.sock", path ? path : shell->settings->state_dir);
    free(path);
    enum sp_err rc = listen_on(shell, own, err);
    free(own);
    char *list = sp_xstrdup(shell->settings->listen), *rest = list, *url;
    while (!rc && (url = strsep(&rest, " ,")) != NULL) {
        if (url[0] != '\0')
            rc = listen_on(shell, url, err);
    }
    free(list);
    return rc;
}

/* The pages for monitoring. They are no reason not to serve workers: where another program has the
 * port that nobody asked for, there are none. */
static enum sp_err listen_http(struct shell *shell, struct sp_error *err)
{
    const struct coord_settings *settings = shell->settings;
    const char *address = settings->http_listen;
    bool loopback = false;
    if (address[0] == '\0')
        return SP_OK;
    enum sp_err rc = coord_http_is_loopback(address, &loopback, err);
    if (!rc && !loopback && settings->tls_cert[0] == '\0')
        rc = sp_fail(err, SP_EINVAL,
                     "[http] listen: %s: other machines can reach this address: set [tls] cert, or "
                     "listen on 127.0.0.1",
                     address);
    if (rc)
        return rc;
    shell->http_needs_token = !loopback || settings->http_token;
    struct coord_http_options options = {.address = address,
                                         .cert_file = loopback ? NULL : settings->tls_cert,
                                         .answer = shell_http_answer,
                                         .context = shell};
    rc = coord_http_start(&shell->loop, &options, &shell->http, err);
    if (rc == SP_ESTATE && strcmp(address, COORD_HTTP_DEFAULT) == 0) {
        sp_warn("%s: no pages for monitoring", err->text);
        return SP_OK;
    }
    if (!rc)
        sp_info("pages for monitoring on http%s://%s", loopback ? "" : "s", address);
    return rc;
}

/* ---- SIGHUP ---- */

void shell_reload(struct shell *shell, struct coord_arguments *arguments)
{
    struct coord_arguments *missed = atomic_exchange(&shell->reloaded, arguments);
    if (missed) {
        coord_arguments_deinit(missed);
        free(missed);
    }
    uv_async_send(&shell->reload);
}

static void reload_listeners(struct shell *shell)
{
    const struct coord_settings *settings = shell->settings;
    struct proto_tls tls = {.ca_file = settings->tls_ca, .cert_file = settings->tls_cert};
    struct sp_error err;
    for (uint32_t i = 0; i < shell->server_count; i++) {
        if (proto_server_reload(shell->servers[i], &tls, &err) != SP_OK)
            sp_errlog("reload: the old certificate stays: %s", err.text);
    }
    coord_http_close(shell->http);
    shell->http = NULL;
    if (listen_http(shell, &err) != SP_OK)
        sp_errlog("reload: no pages for monitoring: %s", err.text);
}

static void on_reload(uv_async_t *async)
{
    struct shell *shell = async->data;
    struct coord_arguments *next = atomic_exchange(&shell->reloaded, NULL);
    enum sp_log_level level;
    struct sp_error err;
    if (!next)
        return;
    shell->old = sp_xgrow(shell->old, shell->old_count + 1, sizeof(*shell->old));
    shell->old[shell->old_count++] = next;
    coord_settings_keep(&next->settings, shell->settings);
    shell->settings = &next->settings;
    coord_set_verify_share(shell->core, next->settings.verify_share);
    if (sp_log_parse_level(next->settings.log_level, &level, &err) == SP_OK)
        sp_log_set_level(level);
    else
        sp_errlog("reload: %s", err.text);
    if (!shell->closing)
        reload_listeners(shell);
    sp_info("settings and certificates are read again");
}

/* name: what `top -H` shows */
static void start_thread(struct shell *shell, struct job_thread *thread, const char *name,
                         void *(*run)(void *))
{
    thread->box = sp_mailbox_new(MAILBOX_JOBS, NULL, NULL);
    SP_ASSERT(pthread_create(&thread->thread, NULL, run, shell) == 0);
    pthread_setname_np(thread->thread, name);
    thread->started = true;
}

/* Each thread works off what is in its mailbox, then ends. */
static void end_thread(struct shell *shell, struct job_thread *thread)
{
    if (!thread->started)
        return;
    sp_mailbox_close(thread->box);
    pthread_join(thread->thread, NULL);
    struct job *job;
    while ((job = sp_mailbox_try_take(thread->box)) != NULL)
        job_free(job);
    sp_mailbox_free(thread->box);
}

void shell_open_loop(struct shell *shell)
{
    uv_loop_init(&shell->loop);
    uv_async_init(&shell->loop, &shell->wake, on_wake);
    uv_async_init(&shell->loop, &shell->stop, on_stop);
    uv_async_init(&shell->loop, &shell->reload, on_reload);
    uv_timer_init(&shell->loop, &shell->timer);
    uv_check_init(&shell->loop, &shell->check);
    shell->wake.data = shell->stop.data = shell->reload.data = shell;
    shell->timer.data = shell->check.data = shell;
    uint64_t tick_ms = (uint64_t)shell->times.tick_ms;
    uv_timer_start(&shell->timer, on_timer, tick_ms, tick_ms);
    uv_check_start(&shell->check, on_check);
}

void shell_close_loop(struct shell *shell)
{
    uv_close((uv_handle_t *)&shell->wake, NULL);
    uv_close((uv_handle_t *)&shell->stop, NULL);
    uv_close((uv_handle_t *)&shell->reload, NULL);
    uv_close((uv_handle_t *)&shell->timer, NULL);
    uv_close((uv_handle_t *)&shell->check, NULL);
    uv_run(&shell->loop, UV_RUN_DEFAULT);
    uv_loop_close(&shell->loop);
}

enum sp_err shell_run(struct shell *shell, struct sp_error *err)
{
    shell->done = sp_mailbox_new(MAILBOX_JOBS, wake_loop, shell);
    start_thread(shell, &shell->store_thread, "store", shell_store_thread);
    start_thread(shell, &shell->read_thread, "read", shell_read_thread);
    start_thread(shell, &shell->blob_thread, "blob", shell_blob_thread);
    start_thread(shell, &shell->work_thread, "work", shell_work_thread);
    start_thread(shell, &shell->backup_thread, "backup", shell_backup_thread);
    proto_canary_start();
    shell->started_ms = sp_now_ms();
    enum sp_err rc = listen_on_all(shell, err);
    if (!rc)
        rc = listen_http(shell, err);
    if (!rc)
        sp_daemon_ready();
    else
        close_servers(shell); /* those before the one that could not be opened */
    if (shell->servers_open > 0)
        uv_run(&shell->loop, UV_RUN_DEFAULT);
    if (shell->fatal) {
        *err = shell->fatal_err;
        return shell->fatal; /* the process ends here, without waiting for anybody */
    }
    atomic_store(&shell->stopping, true);
    end_thread(shell, &shell->store_thread);
    end_thread(shell, &shell->read_thread);
    end_thread(shell, &shell->blob_thread);
    end_thread(shell, &shell->work_thread);
    end_thread(shell, &shell->backup_thread);
    struct job *job;
    while ((job = sp_mailbox_try_take(shell->done)) != NULL)
        job_free(job);
    sp_mailbox_free(shell->done);
    for (size_t i = 0; i < shell->old_count; i++) {
        coord_arguments_deinit(shell->old[i]);
        free(shell->old[i]);
    }
    free(shell->old);
    coord_actions_deinit(&shell->actions);
    coord_map_deinit(&shell->requests);
    return rc;
}
