#include "common/checkpoint/partial.h"

#include "common/base/limits.h"
#include "common/checkpoint/blobstore.h"
#include "tests/unit/checkpoint/scratch.h"

#define WEIGHTS (2 * (size_t)SP_MAX_CHUNK + 100)

static struct sp_error error;
static char *dir, *from, *cache_dir;
static struct ckpt_blobs *blobs;
static struct ckpt_manifest manifest;
static struct sp_digest sha256; /* of the manifest's text */

/* Five chunks: config.json, three of the weights, tokenizer.json. */
static void setup(void)
{
    dir = scratch_new();
    from = sp_path_join(dir, "from");
    cache_dir = sp_path_join(dir, "cache");
    ck_ok(ckpt_blobs_open(dir, NULL, &blobs, &error));
    uint8_t *data = sp_xalloc(WEIGHTS);
    for (size_t i = 0; i < WEIGHTS; i++)
        data[i] = (uint8_t)(i * 31 + (i >> 20));
    ck_ok(sp_mkdir_p(from, 0777, &error));
    put_file(from, "model.safetensors", data, WEIGHTS);
    put_text(from, "config.json", "{}");
    put_text(from, "tokenizer.json", "[1]");
    ck_ok(ckpt_blobs_put_dir(blobs, from, NULL, NULL, &manifest, &error));
    ck_assert_uint_eq(manifest.chunk_count, 5);
    struct sp_buf text = SP_BUF_INIT;
    ckpt_manifest_format(&manifest, &text);
    sp_sha256_of(text.data, text.length, &sha256);
    sp_buf_deinit(&text);
    free(data);
}

static void teardown(void)
{
    ckpt_manifest_deinit(&manifest);
    ckpt_blobs_close(blobs);
    scratch_free(dir);
    free(from);
    free(cache_dir);
}

static void put(struct ckpt_partial *partial, uint64_t index)
{
    struct sp_digest digest;
    uint32_t bytes;
    uint8_t *data = sp_xalloc(SP_MAX_CHUNK);
    ck_ok(ckpt_partial_chunk(partial, index, &digest, &bytes, &error));
    ck_ok(ckpt_blobs_fetch(blobs, &digest, bytes, data, &error));
    ck_ok(ckpt_partial_put(partial, index, data, bytes, &error));
    free(data);
}

/* Out of order, over two attempts, with a wrong chunk between. */
START_TEST(any_order)
{
    char *at = sp_path_join(dir, "to.partial");
    uint8_t wrong[100] = {0};
    ck_ok(sp_mkdir_p(at, 0777, &error));
    struct ckpt_partial *partial = ckpt_partial_open(&manifest, at);
    ck_assert_uint_eq(ckpt_partial_chunks(partial), 5);
    ck_assert_uint_eq(ckpt_partial_missing(partial), 5);
    put(partial, 3);
    put(partial, 1);
    put(partial, 1);
    ck_assert_uint_eq(ckpt_partial_missing(partial), 3);
    ck_fails(ckpt_partial_put(partial, 2, wrong, sizeof(wrong), &error), SP_ECORRUPT,
             "model.safetensors: chunk 2 of 3");
    ck_fails(ckpt_partial_put(partial, 5, wrong, sizeof(wrong), &error), SP_EINVAL, "5 of 5");
    ck_assert_uint_eq(ckpt_partial_missing(partial), 3);
    ck_assert_uint_eq(ckpt_partial_have(partial)[0], 0x0a);
    ckpt_partial_close(partial);
    /* A later attempt sees what is there, and not what is damaged. */
    put_text(at, "config.json", "[]");
    partial = ckpt_partial_open(&manifest, at);
    ck_assert_uint_eq(ckpt_partial_have(partial)[0], 0x0a);
    put(partial, 0);
    put(partial, 4);
    put(partial, 2);
    ck_assert_uint_eq(ckpt_partial_missing(partial), 0);
    ckpt_partial_close(partial);
    ck_ok(ckpt_manifest_verify(&manifest, at, NULL, NULL, &error));
    free(at);
}
END_TEST

struct tally {
    int fetched;
    bool stop;
    struct ckpt_giver *giver;
};

static enum sp_err fetch(void *context, const struct sp_digest *digest, uint32_t bytes, uint8_t *to,
                         struct sp_error *err)
{
    struct tally *tally = context;
    tally->fetched++;
    return ckpt_blobs_fetch(blobs, digest, bytes, to, err);
}

/* Three of five chunks come ahead; what is there is given to others meanwhile. */
static enum sp_err ahead(void *context, struct ckpt_partial *partial, struct sp_error *err)
{
    struct tally *tally = context;
    const uint8_t *data;
    uint32_t bytes;
    put(partial, 4);
    put(partial, 2);
    put(partial, 3);
    ck_ok(ckpt_giver_read(tally->giver, &manifest.digest, &sha256, 3, &data, &bytes, &error));
    ck_assert_uint_eq(bytes, 100);
    ck_fails(ckpt_giver_read(tally->giver, &manifest.digest, &sha256, 1, &data, &bytes, &error),
             SP_ENOTFOUND, "chunk 1 is not here");
    return tally->stop ? sp_fail(err, SP_ECANCELED, "stopped") : SP_OK;
}

static void count(void *context, const struct sp_digest *manifest_sha256, uint32_t chunks)
{
    ck_assert(sp_digest_equal(manifest_sha256, &sha256));
    ck_assert_uint_eq(chunks, 5);
    ++*(int *)context;
}

START_TEST(through_the_cache)
{
    struct ckpt_cache *cache;
    struct ckpt_cache_ref *ref = NULL;
    struct ckpt_giver *giver = ckpt_giver_new(cache_dir); /* before there is one */
    struct tally tally = {.giver = giver, .stop = true};
    struct ckpt_source source = {.fetch = fetch, .ahead = ahead, .context = &tally};
    const uint8_t *data;
    uint32_t bytes;
    int held = 0;
    ckpt_giver_each(giver, count, &held);
    ck_ok(ckpt_cache_open(cache_dir, 0, &cache, &error));
    ck_fails(ckpt_cache_get_from(cache, &manifest, &source, NULL, NULL, &ref, &error),
             SP_ECANCELED, "stopped");
    ckpt_giver_each(giver, count, &held);
    ck_assert_int_eq(held, 0); /* nothing complete yet */
    tally = (struct tally){.giver = giver};
    ck_ok(ckpt_cache_get_from(cache, &manifest, &source, NULL, NULL, &ref, &error));
    ck_assert_int_eq(tally.fetched, 2);
    ckpt_giver_each(giver, count, &held);
    ck_assert_int_eq(held, 1);
    for (uint64_t i = 0; i < 5; i++)
        ck_ok(ckpt_giver_read(giver, &manifest.digest, &sha256, i, &data, &bytes, &error));
    /* Nothing beyond the manifest, of another one, or of another checkpoint. */
    struct sp_digest other = sha256;
    other.bytes[0] ^= 1;
    ck_fails(ckpt_giver_read(giver, &manifest.digest, &sha256, 5, &data, &bytes, &error),
             SP_ENOTFOUND, "chunk 5");
    ck_fails(ckpt_giver_read(giver, &manifest.digest, &other, 0, &data, &bytes, &error),
             SP_ENOTFOUND, "chunk 0");
    ck_fails(ckpt_giver_read(giver, &other, &sha256, 0, &data, &bytes, &error), SP_ENOTFOUND,
             "chunk 0");
    /* Damaged bytes are not given. */
    put_text(ckpt_cache_ref_dir(ref), "config.json", "[]");
    ck_fails(ckpt_giver_read(giver, &manifest.digest, &sha256, 0, &data, &bytes, &error),
             SP_ENOTFOUND, "chunk 0");
    ckpt_cache_release(ref);
    ckpt_cache_close(cache);
    ckpt_giver_free(giver);
}
END_TEST

static Suite *suite(void)
{
    Suite *s = suite_create("partial");
    TCase *t = tcase_create("partial");
    tcase_add_checked_fixture(t, setup, teardown);
    tcase_add_test(t, any_order);
    tcase_add_test(t, through_the_cache);
    suite_add_tcase(s, t);
    return s;
}

SPIN_CHECK_MAIN(suite())
