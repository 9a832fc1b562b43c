#include "common/checkpoint/manifest.h"

#include "common/base/limits.h"
#include "common/base/rng.h"
#include "tests/unit/checkpoint/scratch.h"

static struct sp_error error;

/* SHA-256 of "", of "hello" and of nothing in particular. */
#define EMPTY "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
#define HELLO "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824"
#define OTHER "00000000000000000000000000000000000000000000000000000000000000aa"
#define HEAD "spin-manifest 1\n"

static const struct {
    const char *text;
    enum sp_err code;
    const char *part;
} bad[] = {
    {"", SP_EFORMAT, "it is empty"},
    {"spin-manifest 1", SP_EFORMAT, "line 1: it ends inside a line"},
    {"spin-manifest 2\n", SP_EVERSION, "version 2, this program knows 1"},
    {"{\"files\": []}\n", SP_EFORMAT, "does not start with"},
    {HEAD "\n", SP_EFORMAT, "line 2: expected \"file"},
    {HEAD "chunk " HELLO "\n", SP_EFORMAT, "line 2: expected \"file"},
    {HEAD "file\n", SP_EFORMAT, "line 2: expected \"file"},
    {HEAD "file abc 0 x\n", SP_EFORMAT, "line 2"},
    {HEAD "file " HELLO "0 0 x\n", SP_EFORMAT, "expected \"file"},
    {HEAD "file " HELLO " 0\n", SP_EFORMAT, "expected \"file"},
    {HEAD "file " HELLO "  x\n", SP_EFORMAT, "not a plain number"},
    {HEAD "file " HELLO " -1 x\n", SP_EFORMAT, "not a plain number"},
    {HEAD "file " HELLO " 05 x\nchunk " HELLO "\n", SP_EFORMAT, "not a plain number"},
    {HEAD "file " HELLO " 5x x\nchunk " HELLO "\n", SP_EFORMAT, "not a plain number"},
    {HEAD "file " HELLO " 18446744073709551617 x\n", SP_ELIMIT, "a file of more than"},
    {HEAD "file " HELLO " 9999999999999 x\n", SP_ELIMIT, "a file of more than"},
    {HEAD "file " HELLO " 100000000000 x\n", SP_EFORMAT, "23842 chunks expected"},
    {HEAD "file " EMPTY " 0 \n", SP_EFORMAT, "not a plain relative one"},
    {HEAD "file " EMPTY " 0 ../x\n", SP_EFORMAT, "not a plain relative one"},
    {HEAD "file " EMPTY " 0 a/../x\n", SP_EFORMAT, "not a plain relative one"},
    {HEAD "file " EMPTY " 0 /etc/passwd\n", SP_EFORMAT, "not a plain relative one"},
    {HEAD "file " EMPTY " 0 a//b\n", SP_EFORMAT, "not a plain relative one"},
    {HEAD "file " EMPTY " 0 a\tb\n", SP_EFORMAT, "not a plain relative one"},
    {HEAD "file " EMPTY " 0 \xc3\xa9\n", SP_EFORMAT, "not a plain relative one"},
    {HEAD "file " EMPTY " 0 b\nfile " EMPTY " 0 a\n", SP_EFORMAT, "line 3: files are not sorted"},
    {HEAD "file " EMPTY " 0 a\nfile " EMPTY " 0 a\n", SP_EFORMAT, "line 3: files are not sorted"},
    {HEAD "file " HELLO " 5 x\n", SP_EFORMAT, "1 chunks expected"},
    {HEAD "file " HELLO " 5 x\nchunk " OTHER "\n", SP_EFORMAT, "only chunk has another digest"},
    {HEAD "file " HELLO " 5 x\nchunk zz" HELLO "\n", SP_EFORMAT, "expected \"chunk <sha256>\""},
    {HEAD "file " HELLO
          " 5 x\nchunk 2CF24DBA5FB0A30E26E83B2AC5B9E29E1B161E5C1FA7425E73043362938B9824\n",
     SP_EFORMAT, "line 3"},
    {HEAD "file " HELLO " 5 x\nchunk " HELLO "\nchunk " HELLO "\n", SP_EFORMAT,
     "line 4: expected \"file"},
    {HEAD "file " HELLO " 5 x\nfile  " HELLO " 0 y aaaaaaaaa\n", SP_EFORMAT,
     "expected \"chunk <sha256>\""},
    {HEAD "file " EMPTY " 0 a\r\n", SP_EFORMAT, "not a plain relative one"},
    {HEAD "file " HELLO " 5 x\nchunk " HELLO, SP_EFORMAT, "the text is too short"},
};

START_TEST(test_malformed)
{
    struct ckpt_manifest manifest;
    /* One byte more would be read as the text's end: the copy lets a sanitizer see it. */
    size_t n = strlen(bad[_i].text);
    char *copy = sp_xmemdup(bad[_i].text, n + 1);
    char *exact = sp_xgrow(copy, n > 0 ? n : 1, 1);
    ck_fails(ckpt_manifest_parse(exact, n, &manifest, &error), bad[_i].code, bad[_i].part);
    ck_assert_int_eq(strncmp(error.text, "manifest: ", 10), 0);
    free(exact);
}
END_TEST

START_TEST(test_malformed_big)
{
    struct ckpt_manifest manifest;
    static const char nul[] = HEAD "file " EMPTY " 0 a\0b\n";
    ck_fails(ckpt_manifest_parse(nul, sizeof(nul) - 1, &manifest, &error), SP_EFORMAT, "NUL");
    char *text = sp_xalloc(SP_MAX_MANIFEST + 2);
    memset(text, 'x', SP_MAX_MANIFEST + 1);
    ck_fails(ckpt_manifest_parse(text, SP_MAX_MANIFEST + 1, &manifest, &error), SP_ELIMIT, "limit");
    text[SP_MAX_MANIFEST - 1] = '\n';
    ck_fails(ckpt_manifest_parse(text, SP_MAX_MANIFEST, &manifest, &error), SP_EFORMAT, "line of");
    free(text);
    struct sp_buf many = SP_BUF_INIT;
    sp_buf_puts(&many, HEAD);
    for (int i = 0; i <= SP_MAX_MANIFEST_FILES; i++)
        sp_buf_printf(&many, "file " EMPTY " 0 f%06d\n", i);
    ck_fails(ckpt_manifest_parse(many.data, many.length, &manifest, &error), SP_ELIMIT,
             "more than 4096 files");
    sp_buf_deinit(&many);
}
END_TEST

START_TEST(test_round_trip)
{
    struct ckpt_manifest manifest;
    static const char text[] =
        HEAD "file " EMPTY " 0 a b\nfile " HELLO " 5 dir/x\nchunk " HELLO "\nfile " OTHER
             " 4194305 y\nchunk " HELLO "\nchunk " EMPTY "\n";
    ck_ok(ckpt_manifest_parse(text, sizeof(text) - 1, &manifest, &error));
    ck_assert_uint_eq(manifest.count, 3);
    ck_assert_uint_eq(manifest.bytes, 4194310);
    ck_assert_uint_eq(manifest.chunk_count, 3);
    ck_assert_str_eq(manifest.files[0].path, "a b");
    const struct ckpt_manifest_file *y = ckpt_manifest_find(&manifest, "y");
    ck_assert_uint_eq(ckpt_chunk_bytes(y, 0), SP_MAX_CHUNK);
    ck_assert_uint_eq(ckpt_chunk_bytes(y, 1), 1);
    ck_assert_ptr_null(ckpt_manifest_find(&manifest, "z"));
    struct sp_buf out = SP_BUF_INIT;
    ckpt_manifest_format(&manifest, &out);
    ck_assert_str_eq(out.data, text);
    sp_buf_deinit(&out);
    ckpt_manifest_deinit(&manifest);
    ck_ok(ckpt_manifest_parse(HEAD, strlen(HEAD), &manifest, &error));
    ck_assert_uint_eq(manifest.count, 0);
    ckpt_manifest_deinit(&manifest);
}
END_TEST

/* The digest is what `sort | sha256sum` says of the lines "sha256 size path". */
START_TEST(test_digest_from_outside)
{
    struct ckpt_manifest manifest;
    char *dir = scratch_new(), hex[SP_DIGEST_HEX];
    static const char *const files[] = {"b.txt", "a.txt"};
    put_text(dir, "a.txt", "hello");
    put_text(dir, "b.txt", "");
    ck_ok(ckpt_manifest_build_files(dir, files, 2, NULL, NULL, &manifest, &error));
    ck_assert_str_eq(manifest.files[0].path, "a.txt");
    static const char lines[] = HELLO " 5 a.txt\n" EMPTY " 0 b.txt\n";
    struct sp_digest want;
    sp_sha256_of(lines, sizeof(lines) - 1, &want);
    ck_assert(sp_digest_equal(&manifest.digest, &want));
    sp_digest_hex(&manifest.digest, hex);
    char *command = sp_xprintf("cd %s && for f in b.txt a.txt; do echo \"$(sha256sum < $f | cut -c "
                               "1-64) $(stat -c %%s $f) $f\"; done | LC_ALL=C sort | sha256sum | "
                               "grep -q ^%s",
                               dir, hex);
    ck_assert_int_eq(system(command), 0);
    free(command);
    ckpt_manifest_deinit(&manifest);
    scratch_free(dir);
}
END_TEST

static bool stop_at_once(void *context, uint64_t done_bytes, uint64_t total_bytes)
{
    uint64_t *seen = context;
    seen[0] = done_bytes;
    seen[1] = total_bytes;
    return false;
}

START_TEST(test_build_and_verify)
{
    char *dir = scratch_new();
    size_t length = 2 * (size_t)SP_MAX_CHUNK + 7;
    uint8_t *data = sp_xalloc(length);
    struct ckpt_manifest manifest, again;
    for (size_t i = 0; i < length; i++)
        data[i] = (uint8_t)(i * 31 + (i >> 20));
    put_file(dir, "model.safetensors", data, length);
    put_text(dir, "config.json", "{}");
    put_text(dir, "notes.txt", "not part of it");
    ck_ok(ckpt_manifest_build(dir, NULL, NULL, &manifest, &error));
    ck_assert_uint_eq(manifest.count, 2);
    ck_assert_uint_eq(manifest.files[1].chunk_count, 3);
    struct sp_digest digest;
    sp_sha256_of(data + SP_MAX_CHUNK, SP_MAX_CHUNK, &digest);
    ck_assert(sp_digest_equal(&digest, &manifest.files[1].chunks[1]));
    sp_sha256_of(data, length, &digest);
    ck_assert(sp_digest_equal(&digest, &manifest.files[1].sha256));
    struct sp_buf text = SP_BUF_INIT;
    ckpt_manifest_format(&manifest, &text);
    ck_ok(ckpt_manifest_parse(text.data, text.length, &again, &error));
    ck_assert(sp_digest_equal(&again.digest, &manifest.digest));
    sp_buf_deinit(&text);
    ckpt_manifest_deinit(&again);

    uint64_t seen[2];
    ck_ok(ckpt_manifest_verify(&manifest, dir, NULL, NULL, &error));
    ck_fails(ckpt_manifest_verify(&manifest, dir, stop_at_once, seen, &error), SP_ECANCELED, "");
    ck_assert_uint_eq(seen[0], 2);
    ck_assert_uint_eq(seen[1], length + 2);
    data[length / 2] ^= 1;
    put_file(dir, "model.safetensors", data, length);
    ck_fails(ckpt_manifest_verify(&manifest, dir, NULL, NULL, &error), SP_ECORRUPT,
             "model.safetensors: its SHA-256");
    put_file(dir, "model.safetensors", data, length - 1);
    ck_fails(ckpt_manifest_verify(&manifest, dir, NULL, NULL, &error), SP_ECORRUPT,
             "model.safetensors: 8388614 bytes");
    char *path = sp_path_join(dir, "config.json");
    ck_assert_int_eq(unlink(path), 0);
    ck_fails(ckpt_manifest_verify(&manifest, dir, NULL, NULL, &error), SP_ENOTFOUND, "config.json");
    free(path);
    free(data);
    ckpt_manifest_deinit(&manifest);
    scratch_free(dir);
}
END_TEST

START_TEST(test_build_refuses)
{
    struct ckpt_manifest manifest;
    char *dir = scratch_new();
    put_text(dir, "a", "x");
    ck_fails(
        ckpt_manifest_build_files(dir, (const char *[]){"../a"}, 1, NULL, NULL, &manifest, &error),
        SP_EINVAL, "../a");
    ck_fails(ckpt_manifest_build_files(dir, (const char *[]){"a", "a"}, 2, NULL, NULL, &manifest,
                                       &error),
             SP_EINVAL, "listed twice");
    ck_fails(
        ckpt_manifest_build_files(dir, (const char *[]){"b"}, 1, NULL, NULL, &manifest, &error),
        SP_ENOTFOUND, "/b");
    ck_fails(ckpt_manifest_build(dir, NULL, NULL, &manifest, &error), SP_ENOTFOUND,
             "model.safetensors");
    scratch_free(dir);
}
END_TEST

/* What is accepted is canonical: it formats back to the same bytes. */
START_TEST(test_mutations)
{
    static const char text[] =
        HEAD "file " EMPTY " 0 a b\nfile " HELLO " 5 dir/x\nchunk " HELLO "\nfile " OTHER
             " 4194305 y\nchunk " HELLO "\nchunk " EMPTY "\n";
    int accepted = 0;
    for (uint32_t round = 0; round < 20000; round++) {
        size_t length = sizeof(text) - 1;
        char *copy = sp_xmemdup(text, length);
        uint32_t bits[4];
        sp_rng_draw(1, SP_STREAM_TEST, 0, round, 0, 0, bits);
        static const char likely[] = "0123456789abf \n/.";
        if (bits[3] % 8 == 0)
            length = bits[0] % length;
        else if (bits[3] % 8 == 1)
            copy[bits[0] % length] ^= (char)(1u << bits[1] % 8);
        else
            copy[bits[0] % length] = likely[bits[1] % (sizeof(likely) - 1)];
        char *exact = sp_xmemdup(copy, length);
        struct ckpt_manifest manifest;
        if (ckpt_manifest_parse(exact, length, &manifest, &error) == SP_OK) {
            struct sp_buf out = SP_BUF_INIT;
            ckpt_manifest_format(&manifest, &out);
            ck_assert_uint_eq(out.length, length);
            ck_assert_mem_eq(out.data, exact, length);
            sp_buf_deinit(&out);
            ckpt_manifest_deinit(&manifest);
            accepted++;
        }
        free(exact);
        free(copy);
    }
    ck_assert_int_gt(accepted, 100);
}
END_TEST

static Suite *suite(void)
{
    Suite *s = suite_create("manifest");
    TCase *t = tcase_create("manifest");
    tcase_add_loop_test(t, test_malformed, 0, (int)SP_COUNT(bad));
    tcase_add_test(t, test_malformed_big);
    tcase_add_test(t, test_round_trip);
    tcase_add_test(t, test_digest_from_outside);
    tcase_add_test(t, test_build_and_verify);
    tcase_add_test(t, test_build_refuses);
    tcase_add_test(t, test_mutations);
    suite_add_tcase(s, t);
    return s;
}

SPIN_CHECK_MAIN(suite())
