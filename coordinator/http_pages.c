/* The pages of the monitoring port: who may see them, and what they say. Loop thread. */
#include <string.h>

#include "common/base/clock.h"
#include "common/base/mem.h"
#include "coordinator/shell.h"

#define TYPE_METRICS "application/openmetrics-text; version=1.0.0; charset=utf-8"

/* ---- metrics ---- */

static void thread_metrics(struct shell *shell, struct coord_metrics *m)
{
    const struct {
        const char *name;
        struct sp_mailbox *box;
    } queues[] = {
        {"store", shell->store_thread.box},
        {"read", shell->read_thread.box},
        {"blob", shell->blob_thread.box},
        {"work", shell->work_thread.box},
        {"loop", shell->done},
    };
    for (size_t i = 0; i < SP_COUNT(queues); i++)
        coord_metric(m, METRIC_QUEUE, (double)sp_mailbox_count(queues[i].box), "thread",
                     queues[i].name, NULL);
}

static void request_metrics(struct shell *shell, struct coord_metrics *m)
{
    const struct shell_counters *c = &shell->counters;
    for (uint32_t type = 0; type < SP_COUNT(c->requests); type++) {
        if (c->requests[type] > 0)
            coord_metric(m, METRIC_REQUESTS, (double)c->requests[type], "type",
                         proto_type_name((enum proto_type)type), NULL);
    }
    coord_metric(m, METRIC_DENIED, (double)c->denied, NULL);
    uint64_t malformed = 0;
    for (uint32_t i = 0; i < shell->server_count; i++)
        malformed += proto_server_malformed(shell->servers[i]);
    coord_metric(m, METRIC_MALFORMED, (double)malformed, NULL);
    coord_metric(m, METRIC_IN_WORK, (double)shell->requests.count, NULL);
    coord_metric_histogram(m, METRIC_SUBMIT_SECONDS, &c->submit);
    coord_metric_histogram(m, METRIC_LEASE_SECONDS, &c->lease);
    coord_metric_histogram(m, METRIC_COMMIT_SECONDS, &c->commit);
}

static bool is_ready(const struct shell *shell)
{
    return !shell->closing && !shell->disk_low && !shell->fatal;
}

static void metrics_page(struct shell *shell, struct coord_http_reply *reply)
{
    struct coord_metrics m = {0};
    uint64_t count = 0, bytes = 0;
    char protocol[16];
    snprintf(protocol, sizeof(protocol), "%d", PROTO_VERSION);
    coord_metric(&m, METRIC_BUILD, 1, "version", SPIN_VERSION, "protocol", protocol, NULL);
    coord_metric(&m, METRIC_UPTIME, (double)(sp_now_ms() - shell->started_ms) / 1000, NULL);
    coord_metric(&m, METRIC_READY, is_ready(shell), NULL);
    request_metrics(shell, &m);
    thread_metrics(shell, &m);
    coord_core_metrics(shell->core, sp_now_ms(), &m);
    coord_metric(&m, METRIC_DISK_FREE, (double)shell->disk_free, NULL);
    coord_metric(&m, METRIC_DISK_RESERVE, (double)shell->settings->disk_reserve_bytes, NULL);
    ckpt_blobs_usage(shell->blobs, &count, &bytes);
    coord_metric(&m, METRIC_BLOBS, (double)count, NULL);
    coord_metric(&m, METRIC_BLOB_BYTES, (double)bytes, NULL);
    coord_metric(&m, METRIC_BLOB_SENT, (double)shell->counters.blob_bytes, NULL);
    if (shell->has_cert)
        coord_metric(&m, METRIC_CERT_DAYS, (double)shell->cert_seconds_left / 86400, NULL);
    coord_metric(&m, METRIC_HTTP_CONNECTIONS, coord_http_connections(shell->http), NULL);
    coord_metrics_finish(&m, &reply->body);
    reply->status = 200;
    reply->type = TYPE_METRICS;
}

/* ---- who may ---- */

/* "Bearer id.secret" of a token that may read. */
static bool is_allowed(struct shell *shell, const char *authorization)
{
    static const char scheme[] = "Bearer ";
    const struct store_token *token = NULL;
    if (!shell->http_needs_token)
        return true;
    if (!authorization || strncmp(authorization, scheme, sizeof(scheme) - 1) != 0)
        return false;
    if (coord_tokens_check(shell->tokens, authorization + sizeof(scheme) - 1, sp_wall_ms(), &token,
                           NULL) != SP_OK)
        return false;
    /* The figures are of every run. */
    return token->runs[0] == '\0' &&
           (token->role == PROTO_ROLE_READONLY || token->role == PROTO_ROLE_ADMIN);
}

static void text_page(struct coord_http_reply *reply, unsigned status, const char *text)
{
    reply->status = status;
    sp_buf_puts(&reply->body, text);
}

void shell_http_answer(void *context, const char *path, const char *authorization,
                       struct coord_http_reply *reply)
{
    struct shell *shell = context;
    reply->type = "text/plain; charset=utf-8";
    if (!is_allowed(shell, authorization)) {
        shell->counters.denied++;
        text_page(reply, 401, "a token of role readonly is needed\n");
    } else if (strcmp(path, "/healthz") == 0) {
        text_page(reply, 200, "ok\n");
    } else if (strcmp(path, "/readyz") == 0) {
        text_page(reply, is_ready(shell) ? 200 : 503,
                  is_ready(shell)   ? "ready\n"
                  : shell->disk_low ? "the disk is nearly full\n"
                                    : "stopping\n");
    } else if (strcmp(path, "/metrics") == 0) {
        metrics_page(shell, reply);
    } else {
        text_page(reply, 404, "pages: /healthz /readyz /metrics\n");
    }
}
