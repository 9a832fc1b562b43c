#include "common/base/hash.h"

#include <errno.h>
#include <fcntl.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <unistd.h>

#include "common/base/mem.h"

#define FILE_BUFFER_BYTES ((size_t)1 << 20)

struct sp_sha256 {
    EVP_MD_CTX *context;
};

struct sp_sha256 *sp_sha256_new(void)
{
    struct sp_sha256 *hash = sp_xalloc(sizeof(*hash));
    hash->context = EVP_MD_CTX_new();
    SP_ASSERT(hash->context != NULL);
    SP_ASSERT(EVP_DigestInit_ex(hash->context, EVP_sha256(), NULL) == 1);
    return hash;
}

void sp_sha256_update(struct sp_sha256 *hash, const void *data, size_t length)
{
    SP_ASSERT(EVP_DigestUpdate(hash->context, data, length) == 1);
}

void sp_sha256_final(struct sp_sha256 *hash, struct sp_digest *ret)
{
    SP_ASSERT(EVP_DigestFinal_ex(hash->context, ret->bytes, NULL) == 1);
    SP_ASSERT(EVP_DigestInit_ex(hash->context, EVP_sha256(), NULL) == 1);
}

void sp_sha256_free(struct sp_sha256 *hash)
{
    if (hash == NULL)
        return;
    EVP_MD_CTX_free(hash->context);
    free(hash);
}

void sp_sha256_of(const void *data, size_t length, struct sp_digest *ret)
{
    SP_ASSERT(EVP_Digest(data, length, ret->bytes, NULL, EVP_sha256(), NULL) == 1);
}

void sp_hmac_sha256(const void *key, size_t key_length, const void *data, size_t length,
                    struct sp_digest *ret)
{
    SP_ASSERT(HMAC(EVP_sha256(), key, (int)key_length, data, length, ret->bytes, NULL) != NULL);
}

enum sp_err sp_sha256_file(const char *path, struct sp_digest *ret, uint64_t *ret_bytes,
                           struct sp_error *err)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return sp_fail_errno(err, errno, "%s", path);
    posix_fadvise(fd, 0, 0, POSIX_FADV_SEQUENTIAL);
    struct sp_sha256 *hash = sp_sha256_new();
    uint8_t *buffer = sp_xalloc(FILE_BUFFER_BYTES);
    uint64_t total = 0;
    enum sp_err rc = SP_OK;
    for (;;) {
        ssize_t n = read(fd, buffer, FILE_BUFFER_BYTES);
        if (n == 0)
            break;
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0) {
            rc = sp_fail_errno(err, errno, "%s", path);
            goto out;
        }
        sp_sha256_update(hash, buffer, (size_t)n);
        total += (uint64_t)n;
    }
    sp_sha256_final(hash, ret);
    if (ret_bytes != NULL)
        *ret_bytes = total;
out:
    free(buffer);
    sp_sha256_free(hash);
    close(fd);
    return rc;
}

void sp_digest_hex(const struct sp_digest *digest, char ret[SP_DIGEST_HEX])
{
    static const char digits[] = "0123456789abcdef";
    for (int i = 0; i < SP_DIGEST_BYTES; i++) {
        ret[2 * i] = digits[digest->bytes[i] >> 4];
        ret[2 * i + 1] = digits[digest->bytes[i] & 15];
    }
    ret[SP_DIGEST_HEX - 1] = 0;
}

static int hex_value(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

enum sp_err sp_digest_parse(const char *hex, struct sp_digest *ret, struct sp_error *err)
{
    struct sp_digest digest;
    size_t length = strnlen(hex, SP_DIGEST_HEX);
    if (length != SP_DIGEST_HEX - 1)
        return sp_fail(err, SP_EFORMAT, "a digest has 64 hexadecimal characters: \"%.70s\"", hex);
    for (int i = 0; i < SP_DIGEST_BYTES; i++) {
        int high = hex_value(hex[2 * i]), low = hex_value(hex[2 * i + 1]);
        if (high < 0 || low < 0)
            return sp_fail(err, SP_EFORMAT, "a digest has only 0-9 and a-f: \"%.70s\"", hex);
        digest.bytes[i] = (uint8_t)(high << 4 | low);
    }
    *ret = digest;
    return SP_OK;
}

bool sp_digest_equal(const struct sp_digest *a, const struct sp_digest *b)
{
    return memcmp(a->bytes, b->bytes, SP_DIGEST_BYTES) == 0;
}

bool sp_digest_is_zero(const struct sp_digest *digest)
{
    static const struct sp_digest zero;
    return sp_digest_equal(digest, &zero);
}

bool sp_equal_constant_time(const void *a, const void *b, size_t length)
{
    const volatile uint8_t *x = a, *y = b;
    uint8_t difference = 0;
    for (size_t i = 0; i < length; i++)
        difference |= (uint8_t)(x[i] ^ y[i]);
    return difference == 0;
}

void sp_random_secret(void *ret, size_t n)
{
    uint8_t *p = ret;
    while (n > 0) {
        ssize_t got = getrandom(p, n, 0);
        if (got < 0 && errno == EINTR)
            continue;
        SP_ASSERT(got > 0);
        p += got;
        n -= (size_t)got;
    }
}
