/* fetch_node: a generator without an engine, for tests of how weights are spread: it joins with the
 * generator's settings, takes a lease, fetches the weights of it as a generator does, says so in
 * one line of JSON, and goes on giving chunks and renewing its lease until it is killed. */
#include <stdarg.h>
#include <stdio.h>

#include "common/base/clock.h"
#include "generator/generator.h"

static const struct worker_program program = {
    .name = "fetch_node",
    .doc = "Fetches the weights of one lease and gives them on.",
    .spec = &gen_settings_spec,
};

struct node {
    struct gen_settings settings;
    struct worker_link *link;
    struct worker_peer *peer;
    struct worker_server *server;
    struct ckpt_cache *cache;
};

static enum sp_err join_cluster(struct node *node, struct sp_error *err)
{
    const struct gen_settings *settings = &node->settings;
    const struct worker_settings *worker = &settings->worker;
    struct worker_identity identity = {
        .role = PROTO_ROLE_GENERATOR,
        .name = worker->name,
        .device = "none",
        .numerics_class = "cpu none",
        .slots = 1,
    };
    enum sp_err rc = worker_link_new(worker, &identity, NULL, NULL, &node->link, err);
    if (rc == SP_OK)
        rc = ckpt_cache_open(worker->cache_dir, (uint64_t)worker->cache_limit_bytes, &node->cache,
                             err);
    if (rc == SP_OK && settings->serve[0] != '\0') {
        worker_link_serve(node->link, settings->serve_as, settings->serve_name,
                          (uint32_t)settings->serve_slots);
        rc = worker_server_start(node->link, worker, settings->serve,
                                 (uint32_t)settings->serve_slots, &node->server, err);
    }
    if (rc == SP_OK)
        rc = worker_peer_open(node->link, &node->peer, err);
    if (rc == SP_OK)
        rc = worker_hello(node->peer, err);
    return rc;
}

/* One line to whoever started this one. */
static void say(const char *format, ...) __attribute__((format(printf, 1, 2)));
static void say(const char *format, ...)
{
    va_list args;
    va_start(args, format);
    vprintf(format, args);
    va_end(args);
    fflush(stdout);
}

static enum sp_err fetch(struct node *node, uint64_t *ret_lease, struct sp_error *err)
{
    struct proto_lease ask = {.run = node->settings.run, .max_items = 1};
    ask.wait_ms = worker_link_poll_ms(node->link);
    const struct proto_lease_reply *grant = NULL;
    while (grant == NULL || grant->lease_id == 0) {
        const void *body = NULL;
        sp_random_secret(&ask.request_id, sizeof(ask.request_id));
        enum sp_err rc = worker_call(node->peer, PROTO_LEASE, &ask, -1, &body, err);
        if (rc != SP_OK)
            return rc;
        grant = body;
    }
    *ret_lease = grant->lease_id;
    struct sp_digest checkpoint = grant->checkpoint, manifest = grant->manifest;
    struct ckpt_cache_ref *ref = NULL;
    int64_t start_ms = sp_now_ms();
    enum sp_err rc = worker_fetch_checkpoint(node->peer, node->cache, &checkpoint, &manifest, NULL,
                                             NULL, &ref, err);
    if (rc != SP_OK)
        return rc;
    say("{\"fetched\": \"%s\", \"start_ms\": %lld, \"end_ms\": %lld}\n",
        node->settings.worker.name, (long long)start_ms, (long long)sp_now_ms());
    return SP_OK; /* the reference is kept for as long as the process lives */
}

static enum sp_err renew(struct node *node, uint64_t lease, struct sp_error *err)
{
    for (;;) {
        struct proto_renew ask = {.leases = {.values = &lease, .count = 1}};
        const void *body = NULL;
        sp_sleep_ms(worker_link_renew_ms(node->link));
        enum sp_err rc = worker_call(node->peer, PROTO_RENEW, &ask, -1, &body, err);
        if (rc != SP_OK)
            return rc;
    }
}

int main(int argc, char **argv)
{
    struct node node = {0};
    struct sp_error err = {0};
    uint64_t lease = 0;
    enum sp_err rc = worker_parse_args(&program, argc, argv, &node.settings, &err);
    if (rc == SP_OK)
        rc = worker_settings_finish(&node.settings.worker, "generator", &err);
    if (rc == SP_OK)
        rc = gen_settings_finish(&node.settings, &err);
    if (rc == SP_OK)
        rc = join_cluster(&node, &err);
    if (rc == SP_OK) {
        say("{\"joined\": \"%s\"}\n", node.settings.worker.name);
        rc = fetch(&node, &lease, &err);
    }
    if (rc == SP_OK)
        rc = renew(&node, lease, &err);
    fprintf(stderr, "%s: %s\n", program.name, err.text);
    return sp_err_exit_code(rc);
}
