/* What callers rely on beyond equal ids: bounds, flags, special tokens in users' words, streams. */
#include <pthread.h>
#include <string.h>

#include "common/base/limits.h"
#include "common/base/rng.h"
#include "common/text/tokenizer.h"
#include "tests/unit/check_main.h"

#define GOLDEN SPIN_SOURCE_ROOT "/tests/golden/text/"

static struct tok_tokenizer *load(const char *name)
{
    char path[512];
    snprintf(path, sizeof(path), GOLDEN "%s.json", name);
    struct tok_tokenizer *t = NULL;
    struct sp_error err = {0};
    ck_assert_msg(tok_load(path, &t, &err) == SP_OK, "%s", err.text);
    return t;
}

static struct tok_ids encode(const struct tok_tokenizer *t, const char *text, unsigned flags)
{
    struct tok_ids ids = TOK_IDS_INIT;
    struct sp_error err = {0};
    ck_assert_msg(tok_encode(t, text, strlen(text), flags, &ids, &err) == SP_OK, "%s", err.text);
    return ids;
}

static bool holds(const struct tok_ids *ids, int32_t id)
{
    for (size_t i = 0; i < ids->count; i++)
        if (ids->ids[i] == id)
            return true;
    return false;
}

static void expect_tokens(const struct tok_tokenizer *t, const struct tok_ids *ids,
                          const char *expected)
{
    char text[1024] = "";
    for (size_t i = 0; i < ids->count; i++) {
        strcat(text, i > 0 ? " " : "");
        strcat(text, tok_token_of(t, ids->ids[i]));
    }
    ck_assert_str_eq(text, expected);
}

START_TEST(names)
{
    struct tok_tokenizer *t = load("byte-level");
    int32_t s = tok_id_of(t, "<s>");
    ck_assert_int_gt(s, 0);
    ck_assert_str_eq(tok_token_of(t, s), "<s>");
    ck_assert(tok_is_special(t, s));
    ck_assert(!tok_is_special(t, tok_id_of(t, "time")));
    ck_assert(!tok_is_special(t, -1) && !tok_is_special(t, 1 << 30));
    ck_assert_int_eq(tok_id_of(t, "no such token"), -1);
    ck_assert_ptr_null(tok_token_of(t, -1));
    ck_assert_ptr_null(tok_token_of(t, tok_vocab_size(t)));
    ck_assert_ptr_nonnull(tok_token_of(t, tok_vocab_size(t) - 1));
    tok_free(t);
    tok_free(NULL);
}
END_TEST

START_TEST(bad_utf8)
{
    static const struct {
        const char *text;
        size_t offset;
    } bad[] = {{"\xff", 0},         {"abc\x80", 3},      {"abcdefgh\xc3", 8},
               {"\xc0\x80", 0},     {"\xed\xa0\x80", 0}, {"\xf4\x90\x80\x80", 0},
               {"ab\xe2\x82 x", 2}, {"\xf0\x9f\x99", 0}, {"\xe0\x9f\xbf", 0}};
    struct tok_tokenizer *t = load("byte-level");
    struct tok_ids ids = encode(t, "before", 0);
    size_t before = ids.count;
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        struct sp_error err = {0};
        char message[64];
        snprintf(message, sizeof(message), "at offset %zu", bad[i].offset);
        ck_assert_int_eq(tok_encode(t, bad[i].text, strlen(bad[i].text), 0, &ids, &err),
                         SP_EFORMAT);
        ck_assert_msg(strstr(err.text, message) != NULL, "%s", err.text);
        ck_assert_uint_eq(ids.count, before);
    }
    tok_ids_deinit(&ids);
    tok_free(t);
}
END_TEST

START_TEST(limits)
{
    struct tok_tokenizer *t = load("byte-level");
    struct tok_ids ids = TOK_IDS_INIT;
    struct sp_error err = {0};
    ck_assert_int_eq(tok_encode(t, "", 0, 0, &ids, &err), SP_OK);
    ck_assert_uint_eq(ids.count, 0);
    ck_assert_int_eq(tok_encode(t, "x", (size_t)SP_MAX_TEXT + 1, 0, &ids, &err), SP_ELIMIT);
    struct sp_buf out = SP_BUF_INIT;
    int32_t bad[] = {3, -1};
    ck_assert_int_eq(tok_decode(t, bad, 2, 0, &out, &err), SP_EINVAL);
    bad[1] = tok_vocab_size(t);
    ck_assert_int_eq(tok_decode(t, bad, 2, 0, &out, &err), SP_EINVAL);
    ck_assert_uint_eq(out.length, 0);
    ck_assert_int_eq(tok_decode(t, bad, 1, 0, &out, &err), SP_OK);
    sp_buf_deinit(&out);
    tok_ids_deinit(&ids);
    tok_free(t);
}
END_TEST

static void expect_no_special(const char *name)
{
    static const char *const texts[] = {"<s>",  "a<s>b",      "<mask> x",
                                        "</s>", " </s> </s>", "<|endoftext|><s></s>"};
    struct tok_tokenizer *t = load(name);
    for (size_t i = 0; i < sizeof(texts) / sizeof(texts[0]); i++) {
        struct tok_ids ids = encode(t, texts[i], TOK_NO_SPECIAL_SPLIT);
        for (size_t k = 0; k < ids.count; k++)
            ck_assert_msg(!tok_is_special(t, ids.ids[k]) || ids.ids[k] == tok_id_of(t, "<unk>"),
                          "%s: \"%s\" gives %s", name, texts[i], tok_token_of(t, ids.ids[k]));
        tok_ids_deinit(&ids);
    }
    struct tok_ids ids = encode(t, "a<s>b", 0);
    ck_assert(holds(&ids, tok_id_of(t, "<s>")));
    tok_ids_deinit(&ids);
    tok_free(t);
}

START_TEST(no_special_split)
{
    expect_no_special("byte-level");
    expect_no_special("gpt4-split");
    expect_no_special("spm");
    expect_no_special("suffix");
    expect_no_special("unigram-bytes");
}
END_TEST

/* A special token whose text merges would make is still not made from a user's words. */
START_TEST(special_by_merges)
{
    const char *json = "{\"model\": {\"type\": \"BPE\", \"ignore_merges\": %s, \"vocab\": "
                       "{\"a\": 0, \"b\": 1, \"ab\": 2}, \"merges\": [\"a b\"]}, "
                       "\"added_tokens\": [{\"id\": 2, \"content\": \"ab\", \"special\": true, "
                       "\"normalized\": false}]}";
    for (int i = 0; i < 2; i++) {
        char text[512];
        snprintf(text, sizeof(text), json, i == 0 ? "false" : "true");
        struct tok_tokenizer *t = NULL;
        struct sp_error err = {0};
        ck_assert_msg(tok_load_memory(text, strlen(text), "x", &t, &err) == SP_OK, "%s", err.text);
        struct tok_ids ids = encode(t, "ab", 0);
        expect_tokens(t, &ids, "ab");
        tok_ids_deinit(&ids);
        ids = encode(t, "ab", TOK_NO_SPECIAL_SPLIT);
        expect_tokens(t, &ids, "a b");
        tok_ids_deinit(&ids);
        tok_free(t);
    }
}
END_TEST

/* Parts are one text; only the template's special tokens count, also after normalization. */
START_TEST(parts)
{
    static const char *const names_of[] = {"byte-level", "spm", "spm-metaspace-first", "suffix"};
    for (size_t i = 0; i < sizeof(names_of) / sizeof(names_of[0]); i++) {
        struct tok_tokenizer *t = load(names_of[i]);
        struct tok_part given[] = {{.text = "<s>he", .length = 5},
                                   {.text = "llo", .length = 3, .user = true},
                                   {.text = NULL, .token = tok_id_of(t, "</s>")},
                                   {.text = "the <s> world </s>", .length = 18, .user = true},
                                   {.text = "<s>", .length = 3}};
        struct tok_ids ids = TOK_IDS_INIT;
        struct sp_error err = {0};
        ck_assert_int_eq(tok_encode_parts(t, given, 5, 0, &ids, &err), SP_OK);
        int32_t s = tok_id_of(t, "<s>"), end = tok_id_of(t, "</s>");
        size_t starts = 0, ends = 0, at_end = 0;
        for (size_t k = 0; k < ids.count; k++) {
            starts += ids.ids[k] == s;
            ends += ids.ids[k] == end;
            if (ids.ids[k] == end)
                at_end = k;
        }
        ck_assert_uint_eq(starts, 2);
        ck_assert_uint_eq(ends, 1);
        ck_assert_int_eq(ids.ids[0], s);
        ck_assert_int_eq(ids.ids[ids.count - 1], s);
        struct tok_ids whole = encode(t, "<s>hello", 0);
        ck_assert_uint_eq(whole.count, at_end);
        ck_assert_mem_eq(whole.ids, ids.ids, at_end * sizeof(int32_t));
        tok_ids_deinit(&whole);
        tok_ids_deinit(&ids);
        tok_free(t);
    }
}
END_TEST

START_TEST(go_on)
{
    struct tok_tokenizer *t = load("spm");
    struct tok_ids ids = encode(t, "qw <s>qw", 0);
    expect_tokens(t, &ids, "\u2581 <0x71> w \u2581 <s> \u2581 <0x71> w");
    tok_ids_deinit(&ids);
    ids = encode(t, "qw <s>qw", TOK_CONTINUE);
    expect_tokens(t, &ids, "<0x71> w \u2581 <s> \u2581 <0x71> w");
    tok_ids_deinit(&ids);
    tok_free(t);
    t = load("spm-metaspace-first");
    ids = encode(t, "qw", 0);
    expect_tokens(t, &ids, "\u2581 <0x71> w");
    tok_ids_deinit(&ids);
    ids = encode(t, "qw", TOK_CONTINUE);
    expect_tokens(t, &ids, "<0x71> w");
    tok_ids_deinit(&ids);
    tok_free(t);
    t = load("byte-level");
    ids = encode(t, "qw", TOK_ADD_PREFIX);
    expect_tokens(t, &ids, "<s> q w");
    tok_ids_deinit(&ids);
    ids = encode(t, "qw", TOK_ADD_SUFFIX);
    expect_tokens(t, &ids, "q w </s>");
    tok_ids_deinit(&ids);
    tok_free(t);
}
END_TEST

/* A long word takes another path through the merges than a short one. */
START_TEST(long_words)
{
    const char *json = "{\"model\": {\"type\": \"BPE\", \"vocab\": {\"a\": 0, \"aa\": 1, \"aaaa\": "
                       "2, \"b\": 3, \"ab\": 4}, \"merges\": [\"a a\", \"aa aa\", \"a b\"]}}";
    struct tok_tokenizer *t = NULL;
    struct sp_error err = {0};
    ck_assert_msg(tok_load_memory(json, strlen(json), "x", &t, &err) == SP_OK, "%s", err.text);
    char text[200];
    for (size_t n = 1; n < 190; n++) {
        memset(text, 'a', n);
        memcpy(text + n, "b", 2);
        struct tok_ids ids = encode(t, text, 0);
        size_t fours = n / 4, twos = n % 4 / 2, ones = n % 2;
        ck_assert_uint_eq(ids.count, fours + twos + 1);
        for (size_t i = 0; i < fours; i++)
            ck_assert_int_eq(ids.ids[i], 2);
        ck_assert_int_eq(ids.ids[ids.count - 1], ones == 1 ? 4 : 3);
        tok_ids_deinit(&ids);
    }
    tok_free(t);
    /* Megabytes in one word take time in proportion, not its square. */
    static const char *const names_of[] = {"byte-level", "spm", "unigram-bytes"};
    size_t length = 4 << 20;
    char *big = malloc(length);
    memset(big, 'e', length);
    for (size_t i = 0; i < 3; i++) {
        t = load(names_of[i]);
        struct tok_ids ids = TOK_IDS_INIT;
        ck_assert_int_eq(tok_encode(t, big, length, 0, &ids, &err), SP_OK);
        struct sp_buf back = SP_BUF_INIT;
        ck_assert_int_eq(tok_decode(t, ids.ids, ids.count, 0, &back, &err), SP_OK);
        ck_assert_uint_eq(back.length, length);
        sp_buf_deinit(&back);
        tok_ids_deinit(&ids);
        tok_free(t);
    }
    free(big);
}
END_TEST

/* What comes out of a stream is always whole characters, whatever the ids. */
START_TEST(streams)
{
    static const char *const names_of[] = {"byte-level", "spm", "suffix", "unigram-bytes"};
    for (uint32_t i = 0; i < 4; i++) {
        struct tok_tokenizer *t = load(names_of[i]);
        struct tok_stream *stream = tok_stream_new(t, 0);
        struct sp_buf shown = SP_BUF_INIT;
        struct sp_error err = {0};
        for (uint32_t k = 0; k < 3000; k++) {
            int32_t id =
                (int32_t)sp_rng_below(1, SP_STREAM_TEST, i, k, 0, 0, (uint64_t)tok_vocab_size(t));
            ck_assert_int_eq(tok_stream_push(stream, id, &shown, &err), SP_OK);
            struct tok_ids ids = TOK_IDS_INIT;
            if (k % 97 == 0 && shown.length > 0) /* encoding refuses what is not UTF-8 */
                ck_assert_msg(tok_encode(t, shown.data, shown.length, 0, &ids, &err) == SP_OK, "%s",
                              err.text);
            tok_ids_deinit(&ids);
        }
        ck_assert_int_eq(tok_stream_push(stream, -5, &shown, &err), SP_EINVAL);
        ck_assert_int_eq(tok_stream_finish(stream, &shown, &err), SP_OK);
        sp_buf_deinit(&shown);
        tok_stream_free(stream);
        tok_free(t);
    }
}
END_TEST

START_TEST(stream_holds_back)
{
    struct tok_tokenizer *t = load("byte-level");
    struct tok_ids ids = encode(t, "x\xf0\x9f\xa6\x99y", 0); /* a llama is four bytes */
    struct tok_stream *stream = tok_stream_new(t, 0);
    struct sp_buf shown = SP_BUF_INIT;
    struct sp_error err = {0};
    ck_assert_uint_ge(ids.count, 4);
    for (int round = 0; round < 2; round++) {
        sp_buf_clear(&shown);
        for (size_t i = 0; i < ids.count; i++) {
            ck_assert_int_eq(tok_stream_push(stream, ids.ids[i], &shown, &err), SP_OK);
            ck_assert(shown.length == 1 || shown.length == 5 || shown.length == 6);
        }
        ck_assert_str_eq(shown.data, "x\xf0\x9f\xa6\x99y");
        /* Half a character at the end of a text is shown as such. */
        for (size_t i = 0; i + 2 < ids.count; i++)
            ck_assert_int_eq(tok_stream_push(stream, ids.ids[i], &shown, &err), SP_OK);
        ck_assert_str_eq(shown.data, "x\xf0\x9f\xa6\x99yx");
        ck_assert_int_eq(tok_stream_finish(stream, &shown, &err), SP_OK);
        ck_assert_str_eq(shown.data, "x\xf0\x9f\xa6\x99yx\xef\xbf\xbd");
    }
    sp_buf_deinit(&shown);
    tok_stream_free(stream);
    tok_ids_deinit(&ids);
    tok_free(t);
}
END_TEST

static void *encode_many(void *context)
{
    const struct tok_tokenizer *t = context;
    intptr_t sum = 0;
    for (int i = 0; i < 200; i++) {
        struct tok_ids ids = TOK_IDS_INIT;
        const char *text = "Once upon a time, there was a little girl named Lily. hello wide world";
        if (tok_encode(t, text, strlen(text), 0, &ids, NULL) != SP_OK)
            return NULL;
        for (size_t k = 0; k < ids.count; k++)
            sum += ids.ids[k] * (intptr_t)(k + 1);
        tok_ids_deinit(&ids);
    }
    return (void *)sum;
}

START_TEST(threads)
{
    struct tok_tokenizer *t = load("byte-level");
    pthread_t thread[4];
    void *sums[4];
    for (int i = 0; i < 4; i++)
        ck_assert_int_eq(pthread_create(&thread[i], NULL, encode_many, t), 0);
    for (int i = 0; i < 4; i++)
        pthread_join(thread[i], &sums[i]);
    for (int i = 0; i < 4; i++)
        ck_assert_ptr_eq(sums[i], encode_many(t));
    tok_free(t);
}
END_TEST

/* Tokens that are left out, however many, do not part a word from the space before it. */
START_TEST(stream_skips_special)
{
    struct tok_tokenizer *t = NULL;
    struct sp_error err = {0};
    ck_assert_int_eq(tok_load(SPIN_SOURCE_ROOT "/tests/golden/text/spm.json", &t, &err), SP_OK);
    struct tok_stream *stream = tok_stream_new(t, TOK_SKIP_SPECIAL);
    struct tok_ids ids = TOK_IDS_INIT;
    struct sp_buf out = SP_BUF_INIT;
    ck_assert_int_eq(tok_encode(t, "time", 4, 0, &ids, &err), SP_OK);
    size_t word = ids.count;
    for (int i = 0; i < 3000; i++)
        tok_ids_append(&ids, tok_id_of(t, "<unk>"));
    ck_assert_int_eq(tok_encode(t, "the", 3, 0, &ids, &err), SP_OK);
    ck_assert_uint_gt(ids.count, word + 3000);
    for (size_t i = 0; i < ids.count; i++)
        ck_assert_int_eq(tok_stream_push(stream, ids.ids[i], &out, &err), SP_OK);
    ck_assert_int_eq(tok_stream_push(stream, 1 << 29, &out, &err), SP_EINVAL);
    ck_assert_int_eq(tok_stream_finish(stream, &out, &err), SP_OK);
    ck_assert_str_eq(out.data, "time the");
    sp_buf_deinit(&out);
    tok_ids_deinit(&ids);
    tok_stream_free(stream);
    tok_free(t);
}
END_TEST

static Suite *suite(void)
{
    Suite *s = suite_create("tokenizer");
    TCase *c = tcase_create("tokenizer");
    tcase_set_timeout(c, 20);
    tcase_add_test(c, names);
    tcase_add_test(c, bad_utf8);
    tcase_add_test(c, limits);
    tcase_add_test(c, no_special_split);
    tcase_add_test(c, special_by_merges);
    tcase_add_test(c, parts);
    tcase_add_test(c, go_on);
    tcase_add_test(c, long_words);
    tcase_add_test(c, streams);
    tcase_add_test(c, stream_holds_back);
    tcase_add_test(c, threads);
    tcase_add_test(c, stream_skips_special);
    suite_add_tcase(s, c);
    return s;
}

SPIN_CHECK_MAIN(suite())
