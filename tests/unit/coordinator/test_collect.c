/* Which checkpoints retention lets go of, and which blobs a collection deletes, on a real store and
 * real blobs. */
#include "coordinator/collect.h"
#include "tests/unit/coordinator/store_fixture.h"

static struct fx fx;
static struct ckpt_blobs *blobs;

static void open_all(void)
{
    fx = fx_new("r");
    OK(ckpt_blobs_open(fx.dir, NULL, &blobs, &fx.err));
}

static void close_all(void)
{
    ckpt_blobs_close(blobs);
    fx_free(&fx);
}

START_TEST(retention_keeps_what_it_should)
{
    struct store_checkpoint list[8];
    for (int i = 0; i < 8; i++) {
        list[i] = (struct store_checkpoint){.iteration = i - 1};
        list[i].manifest.bytes[0] = (uint8_t)(i + 1);
    }
    list[2].pinned = true;
    list[3].dropped_ms = 1;
    /* Of -1 (base), 0, 1 (pinned), 2 (gone), 3 (in use), 4, 5, 6 the newest three stay. */
    bool expected[8] = {false, true, false, false, false, false, false, false};
    for (size_t i = 0; i < 8; i++)
        ck_assert_msg(coord_retention(list, 8, i, 3, &list[4].manifest, 1) == expected[i],
                      "checkpoint %zu", i);
    ck_assert(coord_retention(list, 8, 4, 3, NULL, 0));  /* nothing uses it any more */
    ck_assert(!coord_retention(list, 8, 1, 0, NULL, 0)); /* 0: all stay */
    /* One that is gone already does not count as one of the newest. */
    list[7].dropped_ms = 1;
    ck_assert(!coord_retention(list, 8, 4, 3, NULL, 0));
}
END_TEST

/* A checkpoint of one file with one chunk; returns the manifest's digest. */
static struct sp_digest publish(int32_t iteration, struct sp_digest *ret_chunk,
                                struct sp_digest *ret_digest)
{
    char dir[128], path[160], text[32];
    snprintf(dir, sizeof(dir), "%s/source-%d", fx.dir, iteration);
    OK(sp_mkdir_p(dir, 0700, &fx.err));
    snprintf(path, sizeof(path), "%s/config.json", dir);
    snprintf(text, sizeof(text), "{\"n\":%d}", iteration);
    OK(sp_write_file_durable(path, text, strlen(text), 0600, &fx.err));
    struct ckpt_manifest manifest = CKPT_MANIFEST_INIT;
    OK(ckpt_blobs_put_file(blobs, path, "config.json", NULL, NULL, &manifest, &fx.err));
    struct sp_buf out = SP_BUF_INIT;
    ckpt_manifest_format(&manifest, &out);
    struct sp_digest sha;
    OK(ckpt_blobs_put_new(blobs, out.data, out.length, &sha, &fx.err));
    struct store_checkpoint row = {.digest = manifest.digest,
                                   .manifest = sha,
                                   .iteration = iteration,
                                   .bytes = 1,
                                   .provenance = "{}"};
    *ret_chunk = manifest.files[0].chunks[0];
    *ret_digest = manifest.digest;
    char owner[SP_DIGEST_HEX];
    sp_digest_hex(&manifest.digest, owner);
    struct sp_digest both[2] = {sha, *ret_chunk};
    store_begin(fx.store);
    OK(store_checkpoint_put(fx.run, &row, &fx.err));
    OK(store_blob_refs_add(fx.run, owner, both, 2, &fx.err));
    OK(store_commit(fx.store, &fx.err));
    sp_buf_deinit(&out);
    ckpt_manifest_deinit(&manifest);
    return sha;
}

static struct ckpt_collected collect(int64_t now_ms, const struct sp_digest *roots, uint32_t count)
{
    struct coord_refs *refs = NULL;
    struct ckpt_collected out;
    OK(coord_refs_load(fx.store, &refs, &fx.err));
    OK(coord_collect(blobs, refs, roots, count, now_ms, 1000, false, &out, &fx.err));
    coord_refs_free(refs);
    return out;
}

static uint32_t retain(uint32_t keep_last, const struct sp_digest *roots, uint32_t count, bool dry)
{
    uint32_t dropped = 0;
    store_begin(fx.store);
    OK(coord_retain(fx.store, keep_last, roots, count, 77, dry, &dropped, &fx.err));
    OK(store_commit(fx.store, &fx.err));
    return dropped;
}

/* Without taking the mark away, as asking the store would. */
static bool on_disk(const struct sp_digest *digest)
{
    char hex[SP_DIGEST_HEX], path[256];
    sp_digest_hex(digest, hex);
    snprintf(path, sizeof(path), "%s/blobs/%.2s/%s", fx.dir, hex, hex);
    return sp_path_exists(path);
}

START_TEST(nothing_to_mark)
{
    struct sp_digest chunk, digest;
    ck_assert_uint_eq(collect(0, NULL, 0).waiting, 0); /* no blob at all */
    publish(0, &chunk, &digest);
    struct ckpt_collected out = collect(100, NULL, 0);
    ck_assert_uint_eq(out.waiting + out.deleted, 0);
}
END_TEST

START_TEST(marked_waited_deleted)
{
    struct sp_digest chunk[4], digest[4], manifest[4];
    for (int i = 0; i < 4; i++)
        manifest[i] = publish(i, &chunk[i], &digest[i]);
    ck_assert_uint_eq(collect(0, NULL, 0).waiting, 0);
    store_begin(fx.store);
    OK(store_checkpoint_pin(fx.run, &digest[1], true, &fx.err));
    OK(store_commit(fx.store, &fx.err));
    /* 0 is the opponent of a lease, 1 is pinned, 3 is the newest: only 2 goes. */
    ck_assert_uint_eq(retain(1, &manifest[0], 1, true), 1);
    ck_assert_uint_eq(retain(1, &manifest[0], 1, false), 1);
    ck_assert_uint_eq(retain(1, &manifest[0], 1, false), 0);
    store_begin(fx.store);
    FAILS(SP_ESTATE, store_checkpoint_pin(fx.run, &digest[2], true, &fx.err));
    store_rollback(fx.store);
    struct ckpt_collected out = collect(10, &manifest[0], 1);
    ck_assert_uint_eq(out.waiting, 2);
    ck_assert_uint_eq(out.deleted, 0);
    ck_assert_uint_eq(collect(1009, &manifest[0], 1).deleted, 0);
    ck_assert(on_disk(&chunk[2]));
    out = collect(1010, &manifest[0], 1);
    ck_assert_uint_eq(out.deleted, 2);
    ck_assert(!on_disk(&chunk[2]) && !on_disk(&manifest[2]));
    for (int i = 0; i < 4; i++)
        ck_assert(i == 2 || (on_disk(&chunk[i]) && on_disk(&manifest[i])));
    /* The lease is over: nothing else holds the opponent. */
    ck_assert_uint_eq(retain(1, NULL, 0, false), 1);
    ck_assert_uint_eq(collect(2000, NULL, 0).deleted, 0);
    ck_assert_uint_eq(collect(3000, NULL, 0).deleted, 2);
    ck_assert(!on_disk(&chunk[0]) && on_disk(&chunk[1]) && on_disk(&chunk[3]));
}
END_TEST

/* What a root's manifest names stays, though no row refers to it: an upload under way, a lease. */
START_TEST(roots_hold_their_chunks)
{
    struct sp_digest chunk, digest, manifest = publish(0, &chunk, &digest);
    char owner[SP_DIGEST_HEX];
    sp_digest_hex(&digest, owner);
    store_begin(fx.store);
    OK(store_blob_refs_drop(fx.run, owner, &fx.err));
    OK(store_commit(fx.store, &fx.err));
    for (int64_t now = 0; now < 10000; now += 1000)
        ck_assert_uint_eq(collect(now, &manifest, 1).deleted, 0);
    ck_assert_uint_eq(collect(10000, NULL, 0).deleted, 0);
    ck_assert_uint_eq(collect(11000, NULL, 0).deleted, 2);
    ck_assert(!on_disk(&chunk) && !on_disk(&manifest));
}
END_TEST

START_TEST(who_asks_takes_the_mark_away)
{
    struct sp_digest put, asked, got, left;
    uint8_t *data;
    size_t length;
    OK(ckpt_blobs_put_new(blobs, "put", 3, &put, &fx.err));
    OK(ckpt_blobs_put_new(blobs, "asked", 5, &asked, &fx.err));
    OK(ckpt_blobs_put_new(blobs, "got", 3, &got, &fx.err));
    OK(ckpt_blobs_put_new(blobs, "left", 4, &left, &fx.err));
    ck_assert_uint_eq(collect(0, NULL, 0).waiting, 4);
    OK(ckpt_blobs_put(blobs, &put, "put", 3, &fx.err));
    ck_assert(ckpt_blobs_has(blobs, &asked));
    OK(ckpt_blobs_get(blobs, &got, &data, &length, &fx.err));
    free(data);
    ck_assert_uint_eq(collect(5000, NULL, 0).deleted, 1);
    ck_assert(on_disk(&put) && on_disk(&asked) && on_disk(&got) && !on_disk(&left));
    ck_assert_uint_eq(collect(5999, NULL, 0).deleted, 0);
    ck_assert_uint_eq(collect(6000, NULL, 0).deleted, 3);
}
END_TEST

static Suite *suite(void)
{
    Suite *s = suite_create("collect");
    TCase *t = tcase_create("collect");
    tcase_add_checked_fixture(t, open_all, close_all);
    tcase_add_test(t, retention_keeps_what_it_should);
    tcase_add_test(t, nothing_to_mark);
    tcase_add_test(t, marked_waited_deleted);
    tcase_add_test(t, roots_hold_their_chunks);
    tcase_add_test(t, who_asks_takes_the_mark_away);
    suite_add_tcase(s, t);
    return s;
}

SPIN_CHECK_MAIN(suite())
