#include "tests/unit/proto/rpc_fixture.h"

#include <arpa/inet.h>
#include <check.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "common/base/clock.h"
#include "common/base/fs.h"
#include "common/base/mem.h"

static void answer_lease(struct proto_request *request)
{
    const struct proto_lease *lease = proto_request_body(request);
    const struct proto_lease_reply reply = {.lease_id = lease->request_id + 1, .run = lease->run};
    proto_reply(request, PROTO_LEASE_REPLY, &reply);
}

static void answer_parked(struct fixture *f)
{
    for (int i = 0; i < f->parked_count; i++)
        answer_lease(f->parked[i]);
    f->parked_count = 0;
    atomic_store(&f->parked_now, 0);
}

static void answer_blob_get(struct proto_request *request)
{
    const struct proto_blob_get *get = proto_request_body(request);
    uint32_t bytes;
    memcpy(&bytes, get->sha256.bytes, sizeof(bytes));
    uint8_t *data = sp_xalloc(bytes);
    memset(data, 0xab, bytes);
    const struct proto_blob_get_reply reply = {.data = {.data = data, .length = bytes}};
    proto_reply(request, PROTO_BLOB_GET_REPLY, &reply);
    free(data);
}

static void answer_blob_put(struct proto_request *request)
{
    const struct proto_blob_put *put = proto_request_body(request);
    struct sp_digest digest;
    sp_sha256_of(put->data.data, put->data.length, &digest);
    const struct proto_blob_put_reply reply = {.existed = sp_digest_equal(&digest, &put->sha256)};
    proto_reply(request, PROTO_BLOB_PUT_REPLY, &reply);
}

static void on_request(struct proto_request *request, void *context)
{
    struct fixture *f = context;
    atomic_fetch_add(&f->requests, 1);
    const struct proto_envelope *envelope = proto_request_envelope(request);
    switch (envelope->type) {
    case PROTO_HELLO: {
        const struct proto_hello *hello = proto_request_body(request);
        /* The text goes through the request's arena, which must live as long as the reply. */
        const struct proto_hello_reply reply = {
            .worker_id = hello->instance + 1,
            .version = sp_arena_strdup(proto_request_arena(request), envelope->token),
        };
        proto_reply(request, PROTO_HELLO_REPLY, &reply);
        return;
    }
    case PROTO_LEASE:
        ck_assert_int_lt(f->parked_count, FIXTURE_PARKED);
        f->parked[f->parked_count++] = request;
        atomic_store(&f->parked_now, f->parked_count);
        return;
    case PROTO_BLOB_GET:
        answer_blob_get(request);
        return;
    case PROTO_BLOB_PUT:
        answer_blob_put(request);
        return;
    case PROTO_RENEW:
        if (atomic_fetch_sub(&f->busy, 1) > 0) {
            proto_reply_error(request, SP_EUNAVAIL, 20, "busy");
        } else {
            const struct proto_renew_reply reply = {0};
            proto_reply(request, PROTO_RENEW_REPLY, &reply);
        }
        return;
    case PROTO_ADMIN: {
        const struct proto_admin *admin = proto_request_body(request);
        proto_reply_error(request, SP_ESTATE, 0, "cannot %s", admin->verb);
        return;
    }
    default:
        proto_reply_error(request, SP_EUNSUPPORTED, 0, "not here");
    }
}

static void on_closed(void *context)
{
    struct fixture *f = context;
    atomic_store(&f->closed, true);
    uv_close((uv_handle_t *)&f->command, NULL);
}

static void on_command(uv_async_t *async)
{
    struct fixture *f = async->data;
    if (atomic_exchange(&f->release, false))
        answer_parked(f);
    if (atomic_load(&f->reload)) {
        struct sp_error err = {0};
        enum sp_err rc = proto_server_reload(f->server, &f->tls, &err);
        ck_assert_msg(rc == SP_OK, "%s", err.text);
        atomic_store(&f->reload, false);
    }
    if (atomic_exchange(&f->stop, false)) {
        f->malformed = proto_server_malformed(f->server);
        f->questions = proto_server_questions(f->server);
        proto_server_close(f->server, on_closed, f);
        answer_parked(f);
    }
}

static void loop_thread(void *argument)
{
    struct fixture *f = argument;
    uv_run(&f->loop, UV_RUN_DEFAULT);
}

void fixture_dir(struct fixture *f)
{
    memset(f, 0, sizeof(*f));
    strcpy(f->dir, "/tmp/spin-rpc-XXXXXX");
    ck_assert_ptr_nonnull(mkdtemp(f->dir));
    snprintf(f->url, sizeof(f->url), "ipc://%s/socket", f->dir);
    f->parallel = 8;
}

void fixture_start(struct fixture *f)
{
    struct sp_error err = {0};
    ck_assert_int_eq(uv_loop_init(&f->loop), 0);
    ck_assert_int_eq(uv_async_init(&f->loop, &f->command, on_command), 0);
    f->command.data = f;
    atomic_store(&f->closed, false);
    enum sp_err rc =
        proto_server_start(&f->loop, f->url, &f->tls, f->parallel, on_request, f, &f->server, &err);
    ck_assert_msg(rc == SP_OK, "%s", err.text);
    ck_assert_int_eq(uv_thread_create(&f->thread, loop_thread, f), 0);
}

void fixture_stop(struct fixture *f)
{
    atomic_store(&f->stop, true);
    uv_async_send(&f->command);
    uv_thread_join(&f->thread);
    ck_assert(atomic_load(&f->closed));
    ck_assert_int_eq(uv_loop_close(&f->loop), 0);
}

void fixture_release(struct fixture *f)
{
    atomic_store(&f->release, true);
    uv_async_send(&f->command);
}

void fixture_reload(struct fixture *f)
{
    atomic_store(&f->reload, true);
    uv_async_send(&f->command);
    while (atomic_load(&f->reload))
        sp_sleep_ms(1);
}

void fixture_remove(struct fixture *f)
{
    ck_assert_int_eq(sp_remove_tree(f->dir, NULL), SP_OK);
}

int fixture_free_port(void)
{
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    struct sockaddr_in address = {.sin_family = AF_INET};
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t length = sizeof(address);
    ck_assert_int_eq(bind(fd, (struct sockaddr *)&address, length), 0);
    ck_assert_int_eq(getsockname(fd, (struct sockaddr *)&address, &length), 0);
    close(fd);
    return ntohs(address.sin_port);
}

char *fixture_path(const struct fixture *f, const char *name)
{
    return sp_path_join(f->dir, name);
}

void fixture_certificates(struct fixture *f)
{
    static const char script[] =
        "exec >/dev/null 2>&1; set -e; umask 077; cd '%s'\n"
        "new='-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes'\n"
        "echo 'subjectAltName=DNS:localhost' > san\n"
        "for ca in ca other-ca; do\n"
        "  openssl req -x509 $new -keyout $ca.key -out $ca.pem -subj /CN=$ca -days 2\n"
        "done\n"
        "sign() {\n"
        "  openssl req $new -keyout $1.key -out $1.csr -subj /CN=$1\n"
        "  openssl x509 -req -in $1.csr -CA $2.pem -CAkey $2.key -CAcreateserial -days 2 \\\n"
        "    -extfile san -out $1.crt\n"
        "  cat $1.crt $1.key > $1.pem\n"
        "}\n"
        "sign node ca; sign stranger other-ca\n";
    char *command = sp_xprintf(script, f->dir);
    ck_assert_msg(system(command) == 0, "openssl could not make certificates");
    free(command);
    snprintf(f->url, sizeof(f->url), "tls+tcp://127.0.0.1:%d", fixture_free_port());
}
