#include "proto/transport.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/un.h>
#include <unistd.h>

#include "common/base/cert.h"
#include "common/base/fs.h"
#include "common/base/mem.h"

#define SCHEME_IPC "ipc://"
#define SCHEME_TLS "tls+tcp://"
#define SCHEME_TCP "tcp://"

static bool starts_with(const char *text, const char *prefix)
{
    return strncmp(text, prefix, strlen(prefix)) == 0;
}

bool proto_url_is_tls(const char *url)
{
    return starts_with(url, SCHEME_TLS);
}

/* Behind "://": "host:port", "[::1]:port". */
static const char *authority(const char *url)
{
    return strstr(url, "://") + 3;
}

char *proto_url_host(const char *url)
{
    const char *host = authority(url);
    if (*host == '[')
        return sp_xstrndup(host + 1, strcspn(host + 1, "]"));
    return sp_xstrndup(host, strcspn(host, ":/"));
}

static enum sp_err check_port(const char *url, struct sp_error *err)
{
    const char *colon = strrchr(authority(url), ':');
    const char *digits = colon != NULL ? colon + 1 : "";
    size_t length = strspn(digits, "0123456789");
    if (length == 0 || length > 5 || digits[length] != 0 || atoi(digits) > 65535 ||
        colon == authority(url))
        return sp_fail(err, SP_EINVAL, "address %.200s: expected %shost:port", url,
                       proto_url_is_tls(url) ? SCHEME_TLS : SCHEME_TCP);
    return SP_OK;
}

static bool is_loopback(const char *host)
{
    return strcmp(host, "localhost") == 0 || strcmp(host, "::1") == 0 ||
           (starts_with(host, "127.") && strspn(host, "0123456789.") == strlen(host));
}

static bool is_given(const char *text)
{
    return text != NULL && *text != 0;
}

enum sp_err proto_check_url(const char *url, const struct proto_tls *tls, struct sp_error *err)
{
    if (starts_with(url, SCHEME_IPC)) {
        size_t length = strlen(url + strlen(SCHEME_IPC));
        size_t limit = sizeof(((struct sockaddr_un *)0)->sun_path) - 1;
        if (length == 0 || length > limit)
            return sp_fail(err, SP_EINVAL,
                           "address %.200s: the path of a local socket has 1 to %zu bytes, here "
                           "%zu: choose a shorter directory",
                           url, limit, length);
        return SP_OK;
    }
    bool secure = proto_url_is_tls(url);
    if (!secure && !starts_with(url, SCHEME_TCP))
        return sp_fail(err, SP_EINVAL,
                       "address \"%.200s\": expected ipc://PATH or "
                       "tls+tcp://HOST:PORT",
                       url);
    enum sp_err rc = check_port(url, err);
    if (rc != SP_OK)
        return rc;
    if (secure) {
        if (tls == NULL || !is_given(tls->ca_file) || !is_given(tls->cert_file))
            return sp_fail(err, SP_EINVAL,
                           "address %.200s: TLS needs a CA file and a file with "
                           "own certificate and key",
                           url);
        return SP_OK;
    }
    char *host = proto_url_host(url);
    bool loopback = is_loopback(host);
    free(host);
    if (!loopback)
        return sp_fail(err, SP_EINVAL,
                       "address %.200s: tcp:// is for loopback only: use "
                       "tls+tcp:// between machines",
                       url);
    return SP_OK;
}

static enum sp_err check_readable(const char *path, const char *what, struct sp_error *err)
{
    return access(path, R_OK) == 0 ? SP_OK : sp_fail_errno(err, errno, "%s %s", what, path);
}

enum sp_err proto_tls_config(const struct proto_tls *tls, bool server, const char *server_name,
                             nng_tls_config **ret, struct sp_error *err)
{
    char *cert_file = NULL;
    enum sp_err rc = check_readable(tls->ca_file, "TLS CA file", err);
    if (rc == SP_OK && (rc = sp_secret_path(tls->cert_file, &cert_file, err)) != SP_OK)
        rc = sp_wrap(err, rc, "TLS certificate file");
    if (rc == SP_OK)
        rc = check_readable(cert_file, "TLS certificate file", err);
    nng_tls_config *config = NULL;
    int code = 0;
    if (rc == SP_OK &&
        (code = nng_tls_config_alloc(
             &config, server ? NNG_TLS_MODE_SERVER : NNG_TLS_MODE_CLIENT)) != 0)
        rc = proto_fail_nng(err, code, "TLS");
    if (rc != SP_OK) {
        free(cert_file);
        return rc;
    }
    if ((code = nng_tls_config_ca_file(config, tls->ca_file)) != 0)
        rc = sp_fail(err, SP_EFORMAT, "TLS CA file %s: no certificate in it: %s", tls->ca_file,
                     nng_strerror(code));
    else if ((code = nng_tls_config_cert_key_file(config, cert_file, NULL)) != 0)
        rc = sp_fail(err, SP_EFORMAT,
                     "TLS certificate file %s (a certificate and its unencrypted EC P-256 or RSA "
                     "key in one PEM file): %s",
                     tls->cert_file, nng_strerror(code));
    else if ((code = nng_tls_config_auth_mode(config, NNG_TLS_AUTH_MODE_REQUIRED)) != 0)
        rc = proto_fail_nng(err, code, "TLS");
    else if (!server && (code = nng_tls_config_server_name(config, server_name)) != 0)
        rc = proto_fail_nng(err, code, "TLS server name %s", server_name);
    free(cert_file);
    if (rc == SP_OK)
        *ret = config;
    else
        nng_tls_config_free(config);
    return rc;
}

static enum sp_err code_of_nng(int nng_code)
{
    switch (nng_code) {
    case NNG_ETIMEDOUT:
        return SP_ETIMEOUT;
    case NNG_ECANCELED:
        return SP_ECANCELED;
    case NNG_ENOMEM:
        return SP_ENOMEM;
    case NNG_EPEERAUTH:
    case NNG_ECRYPTO:
    case NNG_EPERM:
        return SP_EDENIED;
    case NNG_EADDRINUSE:
        return SP_ESTATE;
    case NNG_EINVAL:
    case NNG_EADDRINVAL:
        return SP_EINVAL;
    default:
        return SP_EUNAVAIL;
    }
}

enum sp_err proto_fail_nng(struct sp_error *err, int nng_code, const char *format, ...)
{
    char prefix[512];
    va_list args;
    va_start(args, format);
    vsnprintf(prefix, sizeof(prefix), format, args);
    va_end(args);
    return sp_fail(err, code_of_nng(nng_code), "%s: %s", prefix, nng_strerror(nng_code));
}

enum sp_err proto_fail_address(struct sp_error *err, int nng_code, const char *url,
                               const char *format, ...)
{
    char prefix[512];
    va_list args;
    va_start(args, format);
    vsnprintf(prefix, sizeof(prefix), format, args);
    va_end(args);
    /* What the resolver says is a code that means something else everywhere else: "Try again". */
    bool unknown = nng_code == NNG_EAGAIN || nng_code == NNG_EADDRINVAL;
    if (!unknown || starts_with(url, SCHEME_IPC))
        return proto_fail_nng(err, nng_code, "%s", prefix);
    char *host = proto_url_host(url);
    enum sp_err rc = sp_fail(err, code_of_nng(nng_code),
                             "%s: no such address: is \"%.255s\" known to DNS or /etc/hosts, and, "
                             "to listen on, this machine's?",
                             prefix, host);
    free(host);
    return rc;
}

enum sp_err proto_fail_handshake(struct sp_error *err, const char *url, const char *server_name,
                                 const char *cert_file)
{
    struct sp_error ignored;
    int64_t left = 0;
    if (sp_cert_seconds_left(cert_file, &left, &ignored) == SP_OK && left < 0)
        return sp_fail(
            err, SP_EDENIED,
            "%s: TLS handshake failed: our certificate %s expired %lld hours ago by this "
            "machine's clock: get a new one",
            url, cert_file, (long long)(-left / 3600));
    /* The library gives one code for both ends' refusals, so the text names all of them. */
    return sp_fail(
        err, SP_EDENIED,
        "%s: TLS handshake failed: the server's certificate is not signed by our CA, or "
        "is not for the name %s, or the server's CA did not sign our certificate, or one "
        "of the two has expired, or a clock is wrong",
        url, server_name);
}
