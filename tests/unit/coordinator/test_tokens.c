/* Tokens: minting, checking, what a role may do. */
#include "coordinator/tokens.h"

#include <sys/stat.h>
#include <unistd.h>

#include "tests/unit/coordinator/store_fixture.h"

static struct store_token mint(uint32_t role, const char *runs, int64_t expires_ms, char *text,
                               char *id)
{
    struct fx fx = {0};
    struct store_token token;
    OK(coord_token_mint(role, "gen-1", runs, 1000, expires_ms, text, id, &token, &fx.err));
    return token;
}

START_TEST(test_mint)
{
    char text[COORD_TOKEN_TEXT_BYTES], id[COORD_TOKEN_ID_CHARS + 1];
    char text2[COORD_TOKEN_TEXT_BYTES], id2[COORD_TOKEN_ID_CHARS + 1];
    struct store_token token = mint(PROTO_ROLE_GENERATOR, "a,b", 0, text, id);
    mint(PROTO_ROLE_GENERATOR, "a,b", 0, text2, id2);
    ck_assert_uint_eq(strlen(text), COORD_TOKEN_TEXT_BYTES - 1);
    ck_assert_uint_eq(strlen(id), COORD_TOKEN_ID_CHARS);
    ck_assert_str_ne(id, id2);
    ck_assert_str_ne(text + 17, text2 + 17);
    struct sp_digest sha;
    sp_sha256_of(text + 17, strlen(text + 17), &sha);
    ck_assert(sp_digest_equal(&sha, &token.secret_sha));
    ck_assert_ptr_null(strchr(text + 17, '+'));
    ck_assert_ptr_null(strchr(text + 17, '/'));
}
END_TEST

START_TEST(test_mint_refuses)
{
    struct fx fx = {0};
    struct store_token token;
    char text[COORD_TOKEN_TEXT_BYTES], id[COORD_TOKEN_ID_CHARS + 1];
    static const struct {
        uint32_t role;
        const char *name, *runs;
        int64_t expires_ms;
    } bad[] = {
        {0, "x", "", 0},    {9, "x", "", 0},     {1, "", "", 0},    {1, "a\nb", "", 0},
        {1, "x", "a/b", 0}, {1, "x", "a,,b", 0}, {1, "x", "a,", 0}, {1, "x", "", 999},
    };
    for (size_t i = 0; i < SP_COUNT(bad); i++)
        FAILS(SP_EINVAL, coord_token_mint(bad[i].role, bad[i].name, bad[i].runs, 1000,
                                          bad[i].expires_ms, text, id, &token, &fx.err));
    uint32_t role = 0;
    FAILS(SP_EINVAL, coord_role_parse("root", &role, &fx.err));
    OK(coord_role_parse("readonly", &role, &fx.err));
    ck_assert_uint_eq(role, PROTO_ROLE_READONLY);
    ck_assert_ptr_null(coord_role_name(0));
}
END_TEST

START_TEST(test_check)
{
    struct fx fx = {0};
    char text[COORD_TOKEN_TEXT_BYTES], id[COORD_TOKEN_ID_CHARS + 1];
    char old_text[COORD_TOKEN_TEXT_BYTES], old_id[COORD_TOKEN_ID_CHARS + 1];
    struct coord_tokens *tokens = coord_tokens_new();
    struct store_token token = mint(PROTO_ROLE_TRAINER, "a,bc", 0, text, id);
    struct store_token old = mint(PROTO_ROLE_TRAINER, "", 2000, old_text, old_id);
    const struct store_token *found = NULL;
    FAILS(SP_EDENIED, coord_tokens_check(tokens, text, 1000, &found, &fx.err));
    coord_tokens_put(tokens, &token);
    coord_tokens_put(tokens, &old);
    OK(coord_tokens_check(tokens, text, 1000, &found, &fx.err));
    ck_assert_str_eq(found->id, id);
    ck_assert(coord_token_allows_run(found, "a") && coord_token_allows_run(found, "bc"));
    ck_assert(coord_token_allows_run(found, ""));
    ck_assert(!coord_token_allows_run(found, "b") && !coord_token_allows_run(found, "bcd"));
    OK(coord_tokens_check(tokens, old_text, 1999, &found, &fx.err));
    ck_assert(coord_token_allows_run(found, "anything"));
    FAILS(SP_EDENIED, coord_tokens_check(tokens, old_text, 2000, &found, &fx.err));
    ck_assert_ptr_nonnull(strstr(fx.err.text, "expired"));
    ck_assert(coord_tokens_revoke(tokens, id, 1500));
    ck_assert(!coord_tokens_revoke(tokens, "nobody", 1500));
    FAILS(SP_EDENIED, coord_tokens_check(tokens, text, 1600, &found, &fx.err));
    ck_assert_ptr_nonnull(strstr(fx.err.text, "revoked"));
    coord_tokens_free(tokens);
}
END_TEST

/* Malformed and wrong tokens: no crash, and the same words whether the id is known or not. */
START_TEST(test_wrong)
{
    struct fx fx = {0};
    char text[COORD_TOKEN_TEXT_BYTES], id[COORD_TOKEN_ID_CHARS + 1];
    struct coord_tokens *tokens = coord_tokens_new();
    struct store_token token = mint(PROTO_ROLE_ADMIN, "", 0, text, id);
    coord_tokens_put(tokens, &token);
    char wrong_secret[COORD_TOKEN_TEXT_BYTES], wrong_id[COORD_TOKEN_TEXT_BYTES];
    memcpy(wrong_secret, text, sizeof(text));
    memcpy(wrong_id, text, sizeof(text));
    wrong_secret[30] = wrong_secret[30] == 'A' ? 'B' : 'A';
    wrong_id[3] = wrong_id[3] == '0' ? '1' : '0';
    char *longer = sp_xprintf("%sx", text), *endless = sp_xalloc(100001);
    memset(endless, 'a', 100000);
    const char *bad[] = {wrong_secret, wrong_id, id, ".", "..", text + 17, longer, endless, "\x01"};
    const struct store_token *found = NULL;
    char first[SP_ERROR_TEXT_BYTES] = "";
    for (size_t i = 0; i < SP_COUNT(bad); i++) {
        FAILS(SP_EDENIED, coord_tokens_check(tokens, bad[i], 5000, &found, &fx.err));
        if (i == 0)
            strcpy(first, fx.err.text);
        ck_assert_str_eq(fx.err.text, first);
    }
    FAILS(SP_EDENIED, coord_tokens_check(tokens, "", 5000, &found, &fx.err));
    ck_assert_ptr_nonnull(strstr(fx.err.text, "no token given"));
    free(longer);
    free(endless);
    coord_tokens_free(tokens);
}
END_TEST

START_TEST(test_roles)
{
    static const enum proto_type trainer_only[] = {PROTO_TRAINER_LEASE, PROTO_PAIRS_FETCH,
                                                   PROTO_STEPS_REPORT,  PROTO_REFS_SUBMIT,
                                                   PROTO_PUBLISH_BEGIN, PROTO_PUBLISH_COMMIT};
    for (size_t i = 0; i < SP_COUNT(trainer_only); i++) {
        ck_assert(coord_role_may_send(PROTO_ROLE_TRAINER, trainer_only[i]));
        ck_assert(!coord_role_may_send(PROTO_ROLE_GENERATOR, trainer_only[i]));
        ck_assert(!coord_role_may_send(PROTO_ROLE_READONLY, trainer_only[i]));
    }
    ck_assert(coord_role_may_send(PROTO_ROLE_GENERATOR, PROTO_SUBMIT));
    ck_assert(!coord_role_may_send(PROTO_ROLE_TRAINER, PROTO_SUBMIT));
    ck_assert(!coord_role_may_send(PROTO_ROLE_GENERATOR, PROTO_BLOB_PUT));
    ck_assert(!coord_role_may_send(PROTO_ROLE_READONLY, PROTO_BLOB_PUT));
    ck_assert(!coord_role_may_send(0, PROTO_ADMIN));
    ck_assert(!coord_role_may_send(PROTO_ROLE_ADMIN, PROTO_LEASE_REPLY));
    ck_assert(coord_role_may_verb(PROTO_ROLE_ADMIN, "cancel"));
    ck_assert(coord_role_may_verb(PROTO_ROLE_READONLY, "status"));
    static const char *const changing[] = {"create-run",   "start-iteration", "start",  "cancel",
                                           "token-create", "token-list",      "backup", "skip"};
    for (size_t i = 0; i < SP_COUNT(changing); i++) {
        ck_assert(!coord_role_may_verb(PROTO_ROLE_READONLY, changing[i]));
        ck_assert(!coord_role_may_verb(PROTO_ROLE_GENERATOR, changing[i]));
        ck_assert(!coord_role_may_verb(PROTO_ROLE_TRAINER, changing[i]));
    }
    ck_assert(coord_role_may_verb(PROTO_ROLE_GENERATOR, "ping"));
}
END_TEST

START_TEST(test_admin_file)
{
    struct fx fx = fx_new(NULL);
    char *path = sp_path_join(fx.dir, "admin.token");
    char *first = NULL, *second = NULL;
    size_t length = 0;
    struct stat info;
    OK(coord_admin_token_ensure(fx.store, 1000, &fx.err));
    OK(sp_read_file(path, 4096, &first, &length, &fx.err));
    ck_assert_uint_eq(length, COORD_TOKEN_TEXT_BYTES);
    ck_assert_int_eq(stat(path, &info), 0);
    ck_assert_int_eq(info.st_mode & 0777, 0600);
    OK(coord_admin_token_ensure(fx.store, 1001, &fx.err)); /* again: the same one */
    OK(sp_read_file(path, 4096, &second, &length, &fx.err));
    ck_assert_str_eq(first, second);
    free(second);
    first[16] = '\0';
    store_begin(fx.store);
    OK(store_token_revoke(fx.store, first, 2000, &fx.err));
    OK(store_commit(fx.store, &fx.err));
    OK(coord_admin_token_ensure(fx.store, 3000, &fx.err)); /* revoked: a new one */
    OK(sp_read_file(path, 4096, &second, &length, &fx.err));
    ck_assert(strncmp(first, second, 16) != 0);
    ck_assert_int_eq(unlink(path), 0);
    OK(coord_admin_token_ensure(fx.store, 4000, &fx.err));
    ck_assert(sp_path_exists(path));
    free(first);
    free(second);
    free(path);
    fx_free(&fx);
}
END_TEST

static Suite *suite(void)
{
    Suite *s = suite_create("tokens");
    TCase *t = tcase_create("tokens");
    tcase_add_test(t, test_mint);
    tcase_add_test(t, test_mint_refuses);
    tcase_add_test(t, test_check);
    tcase_add_test(t, test_wrong);
    tcase_add_test(t, test_roles);
    tcase_add_test(t, test_admin_file);
    suite_add_tcase(s, t);
    return s;
}

SPIN_CHECK_MAIN(suite())
