#include "coordinator/tokens.h"

#include <stdlib.h>
#include <string.h>

#include "common/base/fs.h"
#include "common/base/hash.h"
#include "common/base/log.h"
#include "common/base/mem.h"
#include "common/base/names.h"

#define ADMIN_FILE "admin.token"

/* ---- making ---- */

static const char *const role_names[] = {
    [PROTO_ROLE_ADMIN] = "admin",
    [PROTO_ROLE_TRAINER] = "trainer",
    [PROTO_ROLE_GENERATOR] = "generator",
    [PROTO_ROLE_READONLY] = "readonly",
};

const char *coord_role_name(uint32_t role)
{
    return role < SP_COUNT(role_names) ? role_names[role] : NULL;
}

enum sp_err coord_role_parse(const char *name, uint32_t *ret, struct sp_error *err)
{
    for (uint32_t role = PROTO_ROLE_ADMIN; role < SP_COUNT(role_names); role++) {
        if (strcmp(name, role_names[role]) == 0) {
            *ret = role;
            return SP_OK;
        }
    }
    return sp_fail(err, SP_EINVAL,
                   "role \"%.40s\": give one of admin, trainer, generator, readonly", name);
}

static void hex_of(const uint8_t *bytes, size_t count, char *ret)
{
    static const char digits[] = "0123456789abcdef";
    for (size_t i = 0; i < count; i++) {
        ret[2 * i] = digits[bytes[i] >> 4];
        ret[2 * i + 1] = digits[bytes[i] & 15];
    }
    ret[2 * count] = '\0';
}

/* base64url without padding (RFC 4648, section 5) */
static void base64url(const uint8_t *bytes, size_t count, char *ret)
{
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    uint32_t held = 0;
    int bits = 0;
    for (size_t i = 0; i < count; i++) {
        held = held << 8 | bytes[i];
        for (bits += 8; bits >= 6; bits -= 6)
            *ret++ = digits[held >> (bits - 6) & 63];
    }
    if (bits > 0)
        *ret++ = digits[held << (6 - bits) & 63];
    *ret = '\0';
}

static enum sp_err check_name(const char *name, struct sp_error *err)
{
    size_t length = strlen(name);
    bool good = length >= 1 && length <= COORD_TOKEN_NAME_MAX;
    for (size_t i = 0; i < length && good; i++)
        good = name[i] >= 0x20 && name[i] < 0x7f;
    if (good)
        return SP_OK;
    return sp_fail(err, SP_EINVAL, "name of a token: give 1 to %d printable ASCII characters",
                   COORD_TOKEN_NAME_MAX);
}

static enum sp_err check_runs(const char *runs, struct sp_error *err)
{
    char *copy = sp_xstrdup(runs), *rest = copy;
    enum sp_err rc = SP_OK;
    for (char *name; rc == SP_OK && runs[0] && (name = strsep(&rest, ",")) != NULL;) {
        if (!sp_run_name_is_good(name))
            rc = sp_fail(err, SP_EINVAL,
                         "runs of a token: \"%.80s\" is not a run's name: give names separated by "
                         "commas, or none for every run",
                         name);
    }
    free(copy);
    return rc;
}

enum sp_err coord_token_mint(uint32_t role, const char *name, const char *runs, int64_t now_ms,
                             int64_t expires_ms, char ret_text[COORD_TOKEN_TEXT_BYTES],
                             char ret_id[COORD_TOKEN_ID_CHARS + 1], struct store_token *ret,
                             struct sp_error *err)
{
    if (coord_role_name(role) == NULL)
        return sp_fail(err, SP_EINVAL, "role %u of a token does not exist", role);
    enum sp_err rc = check_name(name, err);
    if (rc == SP_OK)
        rc = check_runs(runs, err);
    if (rc == SP_OK && expires_ms != 0 && expires_ms <= now_ms)
        rc = sp_fail(err, SP_EINVAL, "a token that has expired already is of no use");
    if (rc != SP_OK)
        return rc;
    uint8_t id[COORD_TOKEN_ID_CHARS / 2], secret[32];
    sp_random_secret(id, sizeof(id));
    sp_random_secret(secret, sizeof(secret));
    hex_of(id, sizeof(id), ret_id);
    memcpy(ret_text, ret_id, COORD_TOKEN_ID_CHARS);
    ret_text[COORD_TOKEN_ID_CHARS] = '.';
    char *text = ret_text + COORD_TOKEN_ID_CHARS + 1;
    base64url(secret, sizeof(secret), text);
    *ret = (struct store_token){.id = ret_id,
                                .role = role,
                                .name = name,
                                .runs = runs,
                                .created_ms = now_ms,
                                .expires_ms = expires_ms};
    sp_sha256_of(text, COORD_TOKEN_SECRET_CHARS, &ret->secret_sha);
    return SP_OK;
}

/* ---- checking ---- */

struct coord_tokens {
    struct store_token *rows; /* [ids.count] strings owned */
    struct sp_names ids;      /* of row n: n + 1; one a worker, so there may be thousands */
};

struct coord_tokens *coord_tokens_new(void)
{
    return sp_xalloc(sizeof(struct coord_tokens));
}

static void free_row(struct store_token *row)
{
    free((char *)row->id);
    free((char *)row->name);
    free((char *)row->runs);
}

void coord_tokens_free(struct coord_tokens *tokens)
{
    if (tokens == NULL)
        return;
    for (uint32_t i = 0; i < tokens->ids.count; i++)
        free_row(&tokens->rows[i]);
    sp_names_deinit(&tokens->ids);
    free(tokens->rows);
    free(tokens);
}

/* Ids are public: how long the search takes tells nothing. */
static struct store_token *find(const struct coord_tokens *tokens, const char *id, size_t length)
{
    uint32_t number = sp_names_find(&tokens->ids, id, length);
    return number ? &tokens->rows[number - 1] : NULL;
}

void coord_tokens_put(struct coord_tokens *tokens, const struct store_token *token)
{
    struct store_token *row = find(tokens, token->id, strlen(token->id));
    struct store_token copy = *token;
    copy.id = sp_xstrdup(token->id);
    copy.name = sp_xstrdup(token->name);
    copy.runs = sp_xstrdup(token->runs);
    if (row) {
        free_row(row);
    } else {
        uint32_t number = sp_names_add(&tokens->ids, token->id);
        tokens->rows = sp_xgrow(tokens->rows, number, sizeof(*tokens->rows));
        row = &tokens->rows[number - 1];
    }
    *row = copy;
}

bool coord_tokens_revoke(struct coord_tokens *tokens, const char *id, int64_t now_ms)
{
    struct store_token *row = find(tokens, id, strlen(id));
    if (row && row->revoked_ms == 0)
        row->revoked_ms = now_ms;
    return row != NULL;
}

enum sp_err coord_tokens_check(const struct coord_tokens *tokens, const char *text, int64_t now_ms,
                               const struct store_token **ret, struct sp_error *err)
{
    const char *dot = strchr(text, '.');
    size_t id_length = dot ? (size_t)(dot - text) : 0;
    const struct store_token *row = dot ? find(tokens, text, id_length) : NULL;
    /* The secret is hashed and compared even for an unknown id, so that time tells nothing. */
    struct sp_digest sha, none = {{0}};
    const char *secret = dot ? dot + 1 : "";
    sp_sha256_of(secret, strnlen(secret, 256), &sha);
    bool same = sp_equal_constant_time(sha.bytes, row ? row->secret_sha.bytes : none.bytes,
                                       SP_DIGEST_BYTES);
    if (row == NULL || !same)
        return sp_fail(err, SP_EDENIED,
                       "%s: `spinctl token create` on the coordinator's machine makes one",
                       text[0] ? "this token is not known here" : "no token given");
    if (row->revoked_ms != 0)
        return sp_fail(err, SP_EDENIED, "token %s (%s) is revoked", row->id, row->name);
    if (row->expires_ms != 0 && now_ms >= row->expires_ms)
        return sp_fail(err, SP_EDENIED, "token %s (%s) has expired", row->id, row->name);
    *ret = row;
    return SP_OK;
}

bool coord_role_may_send(uint32_t role, enum proto_type type)
{
    bool trainer = role == PROTO_ROLE_TRAINER, generator = role == PROTO_ROLE_GENERATOR;
    switch (type) {
    case PROTO_ADMIN:
    case PROTO_BLOB_GET: /* of a generator: what its leases need (blob_thread.c) */
        return coord_role_name(role) != NULL;
    case PROTO_HELLO:
    case PROTO_RENEW:
    case PROTO_BLOB_SOURCES:
        return trainer || generator;
    case PROTO_LEASE:
    case PROTO_LEASE_RETURN:
    case PROTO_SUBMIT:
        return generator;
    case PROTO_BLOB_MISSING:
    case PROTO_BLOB_PUT:
        return trainer || role == PROTO_ROLE_ADMIN;
    case PROTO_TRAINER_LEASE:
    case PROTO_TRAINER_RENEW:
    case PROTO_TRAINER_RELEASE:
    case PROTO_PAIRS_FETCH:
    case PROTO_STEPS_REPORT:
    case PROTO_REFS_SUBMIT:
    case PROTO_PUBLISH_BEGIN:
    case PROTO_PUBLISH_COMMIT:
        return trainer;
    default:
        return false;
    }
}

bool coord_role_may_verb(uint32_t role, const char *verb)
{
    static const char *const reading[] = {"ping",
                                          "status",
                                          "runs",
                                          "why",
                                          "events",
                                          "workers",
                                          "iterations",
                                          "pairs",
                                          "data",
                                          "checkpoints",
                                          "checkpoint",
                                          "steps",
                                          "settings",
                                          "evaluations",
                                          "evaluation",
                                          "evaluation-items",
                                          "evaluation-compare"};
    if (role == PROTO_ROLE_ADMIN)
        return true;
    if (role == PROTO_ROLE_TRAINER || role == PROTO_ROLE_GENERATOR)
        return strcmp(verb, "ping") == 0;
    if (role != PROTO_ROLE_READONLY)
        return false;
    for (size_t i = 0; i < SP_COUNT(reading); i++) {
        if (strcmp(verb, reading[i]) == 0)
            return true;
    }
    return false;
}

bool coord_token_allows_run(const struct store_token *token, const char *run)
{
    if (token->runs[0] == '\0' || run == NULL || run[0] == '\0')
        return true;
    size_t length = strlen(run);
    for (const char *at = token->runs; at; at = strchr(at, ',')) {
        at += *at == ',';
        if (strncmp(at, run, length) == 0 && (at[length] == ',' || at[length] == '\0'))
            return true;
    }
    return false;
}

/* ---- the administrator's own ---- */

/* Whether the file holds an admin token that is still good; a file that cannot be read is not. */
static enum sp_err file_is_good(struct store *store, const char *path, int64_t now_ms,
                                bool *ret_good, struct sp_error *err)
{
    char *text = NULL;
    size_t length = 0;
    *ret_good = false;
    if (!sp_path_exists(path) || sp_read_secret(path, 4096, &text, &length, NULL) != SP_OK)
        return SP_OK;
    text[strcspn(text, "\r\n")] = '\0';
    struct sp_arena *arena = sp_arena_new(4096, 16 << 20);
    struct store_token *rows = NULL;
    size_t count = 0;
    enum sp_err rc = store_tokens_list(store, arena, &rows, &count, err);
    struct coord_tokens *tokens = coord_tokens_new();
    for (size_t i = 0; i < count && rc == SP_OK; i++)
        coord_tokens_put(tokens, &rows[i]);
    const struct store_token *found = NULL;
    if (rc == SP_OK && coord_tokens_check(tokens, text, now_ms, &found, NULL) == SP_OK)
        *ret_good = found->role == PROTO_ROLE_ADMIN;
    coord_tokens_free(tokens);
    sp_arena_free(arena);
    free(text);
    return rc;
}

enum sp_err coord_admin_token_ensure(struct store *store, int64_t now_ms, struct sp_error *err)
{
    char *path = sp_path_join(store_dir(store), ADMIN_FILE);
    bool good = false;
    enum sp_err rc = file_is_good(store, path, now_ms, &good, err);
    if (rc == SP_OK && !good) {
        char text[COORD_TOKEN_TEXT_BYTES + 1], id[COORD_TOKEN_ID_CHARS + 1];
        struct store_token token;
        rc = coord_token_mint(PROTO_ROLE_ADMIN, "administrator", "", now_ms, 0, text, id, &token,
                              err);
        /* The row first: a token in the file that the store does not know would be of no use, a row
         * without a file only takes space. */
        store_begin(store);
        if (rc == SP_OK)
            rc = store_token_put(store, &token, err);
        if (rc == SP_OK)
            rc = store_commit(store, err);
        else
            store_rollback(store);
        strcat(text, "\n");
        if (rc == SP_OK)
            rc = sp_write_file_durable(path, text, strlen(text), 0600, err);
        if (rc == SP_OK)
            sp_info("administrator's token %s written to %s", id, path);
    }
    free(path);
    return rc;
}
