/* hash: SHA-256 (OpenSSL), digests as 64 lower-case hex characters, and constant-time compare.
 * Any thread; a `struct sp_sha256` belongs to one. */
#ifndef SPIN_BASE_HASH_H
#define SPIN_BASE_HASH_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/base/err.h"

#define SP_DIGEST_BYTES 32
#define SP_DIGEST_HEX 65 /* with the NUL */

struct sp_digest {
    uint8_t bytes[SP_DIGEST_BYTES];
};

struct sp_sha256; /* opaque running hash */
struct sp_sha256 *sp_sha256_new(void);
void sp_sha256_update(struct sp_sha256 *hash, const void *data, size_t length);
void sp_sha256_final(struct sp_sha256 *hash, struct sp_digest *ret); /* resets for reuse */
void sp_sha256_free(struct sp_sha256 *hash);

void sp_sha256_of(const void *data, size_t length, struct sp_digest *ret);
/* HMAC-SHA-256 (RFC 2104). */
void sp_hmac_sha256(const void *key, size_t key_length, const void *data, size_t length,
                    struct sp_digest *ret);
/* Streams a file; SP_EIO or SP_ENOTFOUND with the path in the message. ret_bytes may be NULL. */
enum sp_err sp_sha256_file(const char *path, struct sp_digest *ret, uint64_t *ret_bytes,
                           struct sp_error *err) SP_MUST_USE;

void sp_digest_hex(const struct sp_digest *digest, char ret[SP_DIGEST_HEX]);
/* Exactly 64 lower-case hex characters, else SP_EFORMAT. */
enum sp_err sp_digest_parse(const char *hex, struct sp_digest *ret, struct sp_error *err)
    SP_MUST_USE;
bool sp_digest_equal(const struct sp_digest *a, const struct sp_digest *b);
bool sp_digest_is_zero(const struct sp_digest *digest);
/* Time does not depend on where the bytes differ. */
bool sp_equal_constant_time(const void *a, const void *b, size_t length);
/* n bytes from the system's random source (getrandom); aborts if there is none. For tokens only:
 * nothing that decides a result may use it. */
void sp_random_secret(void *ret, size_t n);

#endif
