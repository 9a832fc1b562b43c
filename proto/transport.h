/* transport: addresses, TLS and error codes that server and client share. Inside proto/ only. */
#ifndef SPIN_PROTO_TRANSPORT_H
#define SPIN_PROTO_TRANSPORT_H

#include <nng/nng.h>
#include <nng/supplemental/tls/tls.h>
#include <stdbool.h>

#include "common/base/err.h"
#include "common/base/limits.h"
#include "proto/rpc.h"

/* A whole message with nng's own header. */
#define PROTO_WIRE_BYTES (SP_MAX_MESSAGE + 64)

/* ipc://PATH, tls+tcp://HOST:PORT (needs tls), tcp://LOOPBACK:PORT; else SP_EINVAL that says which
 * of them is missing what. */
enum sp_err proto_check_url(const char *url, const struct proto_tls *tls, struct sp_error *err)
    SP_MUST_USE;
bool proto_url_is_tls(const char *url);
/* The host of tls+tcp://HOST:PORT; malloc'd. */
char *proto_url_host(const char *url);

/* Mutual TLS with the files given. server_name: clients only. *ret is freed with
 * nng_tls_config_free. */
enum sp_err proto_tls_config(const struct proto_tls *tls, bool server, const char *server_name,
                             nng_tls_config **ret, struct sp_error *err) SP_MUST_USE;

/* "format: why" with the code that fits: SP_ETIMEOUT, SP_ECANCELED, SP_EDENIED for TLS, SP_ENOMEM,
 * SP_ESTATE for an address in use, else SP_EUNAVAIL. */
enum sp_err proto_fail_nng(struct sp_error *err, int nng_code, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
/* The same of a code that dialing or listening on `url` gave: an unknown host is named. */
enum sp_err proto_fail_address(struct sp_error *err, int nng_code, const char *url,
                               const char *format, ...) __attribute__((format(printf, 4, 5)));
/* A TLS handshake that came to nothing on the client's side. */
enum sp_err proto_fail_handshake(struct sp_error *err, const char *url, const char *server_name,
                                 const char *cert_file);

#endif
