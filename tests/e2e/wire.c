#include "tests/e2e/wire.h"

#include <check.h>
#include <stdio.h>
#include <string.h>

#include "common/base/clock.h"
#include "common/base/hash.h"

void wire_open(struct wire *wire, struct cluster *cluster, enum proto_role role, const char *name)
{
    struct sp_error err = {0};
    *wire = (struct wire){0};
    snprintf(wire->url, sizeof(wire->url), "ipc://%s/state/coordinator.sock", cluster->dir);
    snprintf(wire->token, sizeof(wire->token), "%s/%s.token", cluster->dir,
             role == PROTO_ROLE_TRAINER ? "trainer" : "generator");
    snprintf(wire->name, sizeof(wire->name), "%s", name);
    snprintf(wire->numerics_class, sizeof(wire->numerics_class), "cpu r1");
    wire->settings = (struct worker_settings){
        .url = wire->url,
        .token_file = wire->token,
        .tls_ca = "",
        .tls_cert = "",
        .tls_server_name = "",
        .connect_ms = 1000,
        .request_ms = 5000,
        .backoff_min_ms = 5,
        .backoff_max_ms = 50,
    };
    struct worker_identity identity = {
        .role = role,
        .name = wire->name,
        .device = "test",
        .numerics_class = wire->numerics_class,
        .slots = 8,
    };
    enum sp_err rc = worker_link_new(&wire->settings, &identity, NULL, NULL, &wire->link, &err);
    if (rc == SP_OK)
        rc = worker_peer_open(wire->link, &wire->peer, &err);
    ck_assert_msg(rc == SP_OK, "%s", err.text);
}

void wire_close(struct wire *wire)
{
    worker_peer_close(wire->peer);
    worker_link_free(wire->link);
}

const void *wire_call(struct wire *wire, enum proto_type type, void *body)
{
    struct sp_error err = {0};
    const void *reply = NULL;
    enum sp_err rc = worker_call(wire->peer, type, body, 20000, &reply, &err);
    ck_assert_msg(rc == SP_OK, "%s: %s", proto_type_name(type), err.text);
    return reply;
}

const struct proto_trainer_lease_reply *wire_trainer_lease(struct wire *wire)
{
    int64_t end_ms = sp_now_ms() + 20000;
    for (;;) {
        struct proto_trainer_lease request = {.wait_ms = 500};
        sp_random_secret(&request.request_id, sizeof(request.request_id));
        const struct proto_trainer_lease_reply *reply =
            wire_call(wire, PROTO_TRAINER_LEASE, &request);
        if (reply->granted)
            return reply;
        ck_assert_msg(sp_now_ms() < end_ms, "no trainer's lease was granted");
    }
}
