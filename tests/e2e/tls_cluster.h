/* tls_cluster: a cluster whose coordinator also listens with TLS and for monitoring on all
 * addresses, with certificates of two authorities: certs/ is its own, others/ a stranger's. One
 * thread. */
#ifndef SPIN_TESTS_E2E_TLS_CLUSTER_H
#define SPIN_TESTS_E2E_TLS_CLUSTER_H

#include "tests/e2e/harness.h"
#include "tests/e2e/program.h"

#define MAKE_CERTIFICATES SPIN_SOURCE_ROOT "/deploy/tls/make-certificates"

struct tls_cluster {
    struct cluster cluster;
    int port, http;
    char url[64];
};

void tls_cluster_open(struct tls_cluster *tls); /* closed by cluster_close */
/* What deploy/tls/make-certificates makes of the arguments. */
void tls_cluster_make(struct tls_cluster *tls, const char *arguments);
/* Named by its role, with settings in ROLE.conf, `more` ("": none) at their end, and its log in
 * ROLE.log. */
pid_t tls_cluster_start_worker(struct tls_cluster *tls, const char *program, const char *role,
                               const char *more);
/* Over TLS, with these options alone; the exit code. */
int tls_cluster_spinctl(struct tls_cluster *tls, struct said *said, const char *options);
/* The same as the administrator, with the certificate in file `cert`. */
int tls_cluster_admin(struct tls_cluster *tls, struct said *said, const char *cert,
                      const char *options);

int free_port(void); /* on loopback, of nobody at the moment */
int dial(int port);  /* connected to loopback, tried for 10 s; reads wait 10 s */

#endif
