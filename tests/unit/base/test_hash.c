#include "common/base/hash.h"

#include <string.h>

#include "common/base/fs.h"
#include "common/base/mem.h"
#include "tests/unit/check_main.h"

/* FIPS 180-2, appendix B, and the empty message. */
static const struct {
    const char *text, *hex;
} vectors[] = {
    {"", "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"},
    {"abc", "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"},
    {"abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq",
     "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1"},
};
#define MILLION_A "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0"

START_TEST(known_answers)
{
    struct sp_digest digest;
    char hex[SP_DIGEST_HEX];
    sp_sha256_of(vectors[_i].text, strlen(vectors[_i].text), &digest);
    sp_digest_hex(&digest, hex);
    ck_assert_str_eq(hex, vectors[_i].hex);
}
END_TEST

/* RFC 4231, cases 2 and 6: a short key, and one that is longer than a block. */
START_TEST(hmac_known_answers)
{
    struct sp_digest digest;
    char hex[SP_DIGEST_HEX];
    uint8_t key[131];
    sp_hmac_sha256("Jefe", 4, "what do ya want for nothing?", 28, &digest);
    sp_digest_hex(&digest, hex);
    ck_assert_str_eq(hex, "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843");
    memset(key, 0xaa, sizeof(key));
    sp_hmac_sha256(key, sizeof(key), "Test Using Larger Than Block-Size Key - Hash Key First", 54,
                   &digest);
    sp_digest_hex(&digest, hex);
    ck_assert_str_eq(hex, "60e431591ee0b67f0d8a26aacbf5b77f8e0bc6213728c5140546040f0ee37f54");
}
END_TEST

START_TEST(pieces_equal_the_whole)
{
    struct sp_sha256 *hash = sp_sha256_new();
    char piece[1000];
    memset(piece, 'a', sizeof(piece));
    char hex[SP_DIGEST_HEX];
    struct sp_digest digest;
    for (int round = 0; round < 2; round++) { /* final makes it new again */
        for (int i = 0; i < 1000; i++)
            sp_sha256_update(hash, piece, sizeof(piece));
        sp_sha256_final(hash, &digest);
        sp_digest_hex(&digest, hex);
        ck_assert_str_eq(hex, MILLION_A);
    }
    sp_sha256_free(hash);
    sp_sha256_free(NULL);
}
END_TEST

START_TEST(files_are_streamed)
{
    char path[] = "/tmp/spin-hash-XXXXXX";
    int fd = mkstemp(path);
    ck_assert_int_ge(fd, 0);
    char piece[1000];
    memset(piece, 'a', sizeof(piece));
    for (int i = 0; i < 1000; i++)
        ck_assert_int_eq(write(fd, piece, sizeof(piece)), (ssize_t)sizeof(piece));
    close(fd);
    struct sp_digest digest;
    struct sp_error err = {0};
    uint64_t bytes = 0;
    char hex[SP_DIGEST_HEX];
    ck_assert_int_eq(sp_sha256_file(path, &digest, &bytes, &err), SP_OK);
    sp_digest_hex(&digest, hex);
    ck_assert_str_eq(hex, MILLION_A);
    ck_assert_uint_eq(bytes, 1000000);
    unlink(path);
    ck_assert_int_eq(sp_sha256_file(path, &digest, NULL, &err), SP_ENOTFOUND);
    ck_assert_msg(strstr(err.text, path) != NULL, "%s", err.text);
    ck_assert_int_eq(sp_sha256_file("/tmp", &digest, NULL, &err), SP_EIO);
}
END_TEST

START_TEST(hex_is_parsed_strictly)
{
    struct sp_digest digest, zero = {{0}};
    struct sp_error err = {0};
    ck_assert_int_eq(sp_digest_parse(vectors[1].hex, &digest, &err), SP_OK);
    ck_assert_uint_eq(digest.bytes[0], 0xba);
    ck_assert_uint_eq(digest.bytes[31], 0xad);
    static const char *const bad[] = {
        "",
        "ba78",
        "BA7816BF8F01CFEA414140DE5DAE2223B00361A396177A9CB410FF61F20015AD",
        "ga7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad",
        "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad0",
        " a7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad",
    };
    for (size_t i = 0; i < SP_COUNT(bad); i++) {
        struct sp_digest untouched = digest;
        ck_assert_int_eq(sp_digest_parse(bad[i], &untouched, &err), SP_EFORMAT);
        ck_assert(sp_digest_equal(&untouched, &digest));
    }
    ck_assert(!sp_digest_is_zero(&digest));
    ck_assert(sp_digest_is_zero(&zero));
    ck_assert(!sp_digest_equal(&zero, &digest));
}
END_TEST

START_TEST(secrets_differ_and_compare)
{
    uint8_t a[300], b[300];
    sp_random_secret(a, sizeof(a));
    sp_random_secret(b, sizeof(b));
    ck_assert_mem_ne(a, b, sizeof(a));
    memcpy(b, a, sizeof(a));
    ck_assert(sp_equal_constant_time(a, b, sizeof(a)));
    b[299] ^= 1;
    ck_assert(!sp_equal_constant_time(a, b, sizeof(a)));
    ck_assert(sp_equal_constant_time(a, b, 299));
    b[0] ^= 1;
    ck_assert(!sp_equal_constant_time(a, b, 299)); /* the first byte counts like the last */
    ck_assert(sp_equal_constant_time(a, b, 0));
}
END_TEST

static Suite *suite(void)
{
    Suite *s = suite_create("hash");
    TCase *t = tcase_create("all");
    tcase_add_loop_test(t, known_answers, 0, (int)SP_COUNT(vectors));
    tcase_add_test(t, hmac_known_answers);
    tcase_add_test(t, pieces_equal_the_whole);
    tcase_add_test(t, files_are_streamed);
    tcase_add_test(t, hex_is_parsed_strictly);
    tcase_add_test(t, secrets_differ_and_compare);
    suite_add_tcase(s, t);
    return s;
}

SPIN_CHECK_MAIN(suite())
