#include "common/base/cert.h"

#include <openssl/pem.h>
#include <openssl/x509.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/fs.h"

#define PEM_BYTES ((size_t)1 << 20)

enum sp_err sp_cert_seconds_left(const char *path, int64_t *ret, struct sp_error *err)
{
    char *text = NULL;
    size_t length = 0;
    enum sp_err rc = sp_read_secret(path, PEM_BYTES, &text, &length, err);
    if (rc)
        return rc;
    BIO *bio = BIO_new_mem_buf(text, (int)length);
    X509 *certificate = bio ? PEM_read_bio_X509(bio, NULL, NULL, NULL) : NULL;
    int days = 0, seconds = 0;
    if (!certificate || !ASN1_TIME_diff(&days, &seconds, NULL, X509_get0_notAfter(certificate)))
        rc = sp_fail(err, SP_EFORMAT, "%s: no certificate in it", path);
    else
        *ret = (int64_t)days * 86400 + seconds;
    X509_free(certificate);
    BIO_free(bio);
    explicit_bzero(text, length); /* the key may be in the same file */
    free(text);
    return rc;
}
