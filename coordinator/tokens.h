/* tokens: who may ask for what. A token is "id.secret": 16 and 43 characters; the store has
 * SHA-256 of the secret only. A `struct coord_tokens` is the loop thread's copy in memory of the
 * store's rows, so that a request is checked without the disk: load it from store_tokens_list at
 * start, and put or revoke here what the store thread has committed. */
#ifndef SPIN_COORDINATOR_TOKENS_H
#define SPIN_COORDINATOR_TOKENS_H

#include <stdbool.h>
#include <stdint.h>

#include "common/base/err.h"
#include "coordinator/store/store.h"
#include "proto/messages.h"

#define COORD_TOKEN_ID_CHARS 16
#define COORD_TOKEN_SECRET_CHARS 43 /* 32 random bytes, base64url without padding */
#define COORD_TOKEN_TEXT_BYTES (COORD_TOKEN_ID_CHARS + 1 + COORD_TOKEN_SECRET_CHARS + 1)
#define COORD_TOKEN_NAME_MAX 64

/* ---- making ---- */

/* A new random token: ret_text is what its holder keeps ("id.secret", with a NUL); *ret is what the
 * store keeps, its id in ret_id, name and runs as given (borrowed). Checks the name (printable
 * ASCII, 1 to COORD_TOKEN_NAME_MAX), the role and the run names; expires_ms 0: never. Any thread.
 */
enum sp_err coord_token_mint(uint32_t role, const char *name, const char *runs, int64_t now_ms,
                             int64_t expires_ms, char ret_text[COORD_TOKEN_TEXT_BYTES],
                             char ret_id[COORD_TOKEN_ID_CHARS + 1], struct store_token *ret,
                             struct sp_error *err) SP_MUST_USE;
/* Store thread, at start, outside a transaction: STATE_DIR/admin.token (0600) holds a valid admin
 * token; makes one where it is missing, revoked, expired or not the store's. */
enum sp_err coord_admin_token_ensure(struct store *store, int64_t now_ms,
                                     struct sp_error *err) SP_MUST_USE;
/* "admin", "trainer", "generator", "readonly"; NULL for another number. */
const char *coord_role_name(uint32_t role);
enum sp_err coord_role_parse(const char *name, uint32_t *ret, struct sp_error *err) SP_MUST_USE;

/* ---- checking; one thread ---- */

struct coord_tokens;
struct coord_tokens *coord_tokens_new(void);
void coord_tokens_free(struct coord_tokens *tokens); /* NULL is fine */
/* Copies; replaces a token with the same id. */
void coord_tokens_put(struct coord_tokens *tokens, const struct store_token *token);
/* false: no such id */
bool coord_tokens_revoke(struct coord_tokens *tokens, const char *id, int64_t now_ms);
/* SP_EDENIED when it is malformed, unknown, wrong (the same text for these), revoked or expired.
 * Constant time in the secret. *ret is borrowed until the next put. */
enum sp_err coord_tokens_check(const struct coord_tokens *tokens, const char *text, int64_t now_ms,
                               const struct store_token **ret, struct sp_error *err) SP_MUST_USE;
/* Whether a role may send a message of this type; admin verbs are a second question. */
bool coord_role_may_send(uint32_t role, enum proto_type type);
/* readonly: verbs that only read; trainer and generator: "ping"; admin: all. */
bool coord_role_may_verb(uint32_t role, const char *verb);
/* Whether the token is for this run ("": a request without a run, always). */
bool coord_token_allows_run(const struct store_token *token, const char *run);

#endif
