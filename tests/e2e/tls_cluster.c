#include "tests/e2e/tls_cluster.h"

#include <arpa/inet.h>
#include <check.h>
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "common/base/clock.h"
#include "common/base/mem.h"

#define SECONDS 60
#define NAMES "coordinator.test generator.test trainer.test admin.test"

int free_port(void)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t length = sizeof(address);
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    ck_assert(bind(fd, (struct sockaddr *)&address, length) == 0);
    ck_assert(getsockname(fd, (struct sockaddr *)&address, &length) == 0);
    close(fd);
    return ntohs(address.sin_port);
}

int dial(int port)
{
    struct sockaddr_in address = {.sin_family = AF_INET,
                                  .sin_port = htons((uint16_t)port),
                                  .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    struct timeval wait = {.tv_sec = 10};
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &wait, sizeof(wait));
    for (int i = 0; connect(fd, (struct sockaddr *)&address, sizeof(address)) != 0; i++) {
        ck_assert_msg(i < 500, "port %d: %s", port, strerror(errno));
        sp_sleep_ms(20);
    }
    return fd;
}

void tls_cluster_make(struct tls_cluster *tls, const char *arguments)
{
    struct said said;
    int code = program_run(tls->cluster.dir, &said, 30, MAKE_CERTIFICATES, arguments);
    ck_assert_msg(code == 0, "%s", said.err);
}

void tls_cluster_open(struct tls_cluster *tls)
{
    struct cluster *cluster = &tls->cluster;
    cluster_open(cluster);
    tls_cluster_make(tls, "certs " NAMES);
    tls_cluster_make(tls, "others " NAMES);
    cluster_end(&cluster->coordinator, SIGTERM);
    tls->port = free_port();
    tls->http = free_port();
    snprintf(tls->url, sizeof(tls->url), "tls+tcp://127.0.0.1:%d", tls->port);
    cluster_write(cluster, "coordinator.conf",
                  "[coordinator]\nstate_dir = state\nlisten = %s\ntime_scale = 0.05\n"
                  "[tls]\nca = certs/ca.pem\ncert = certs/coordinator.test.pem\n"
                  "[http]\nlisten = 0.0.0.0:%d\n",
                  tls->url, tls->http);
    const char *const argv[] = {COORDINATOR, "--config", "coordinator.conf", NULL};
    cluster->coordinator = program_start(cluster->dir, "coordinator.log", argv);
    json_decref(cluster_ctl_ok(cluster, "--timeout", "20", "status", NULL));
}

pid_t tls_cluster_start_worker(struct tls_cluster *tls, const char *program, const char *role,
                               const char *more)
{
    char file[64], log[64];
    snprintf(file, sizeof(file), "%s.conf", role);
    snprintf(log, sizeof(log), "%s.log", role);
    cluster_write(&tls->cluster, file,
                  "[coordinator]\nurl = %s\ntoken_file = %s.token\ntls_ca = certs/ca.pem\n"
                  "tls_cert = certs/%s.test.pem\ntls_server_name = coordinator.test\n"
                  "[worker]\nname = %s\nstate_dir = %s-state\n[compute]\nthreads = 1\n%s",
                  tls->url, role, role, role, role, more);
    const char *const argv[] = {program, "--config", file, NULL};
    return program_start(tls->cluster.dir, log, argv);
}

int tls_cluster_spinctl(struct tls_cluster *tls, struct said *said, const char *options)
{
    char *arguments = sp_xprintf("--coordinator %s %s", tls->url, options);
    int code = program_run(tls->cluster.dir, said, SECONDS, SPINCTL, arguments);
    free(arguments);
    return code;
}

int tls_cluster_admin(struct tls_cluster *tls, struct said *said, const char *cert,
                      const char *options)
{
    char *all = sp_xprintf("--tls-server-name coordinator.test --tls-ca certs/ca.pem --tls-cert %s "
                           "--token-file state/admin.token %s",
                           cert, options);
    int code = tls_cluster_spinctl(tls, said, all);
    free(all);
    return code;
}
