/* cert: what there is to know about a certificate without speaking TLS. */
#ifndef SPIN_BASE_CERT_H
#define SPIN_BASE_CERT_H

#include <stdint.h>

#include "common/base/err.h"

/* When the first certificate in a PEM file expires, in seconds from now (below 0: it has). */
enum sp_err sp_cert_seconds_left(const char *path, int64_t *ret, struct sp_error *err) SP_MUST_USE;

#endif
