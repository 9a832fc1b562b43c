/* What comes in: who asks, may they, and who answers. Loop thread. */
#include <stdlib.h>
#include <string.h>

#include "common/base/clock.h"
#include "common/base/json.h"
#include "common/base/limits.h"
#include "common/base/log.h"
#include "common/base/mem.h"
#include "coordinator/admin_query.h"
#include "coordinator/create_run.h"
#include "coordinator/shell.h"

#define TOKEN_VALID_MAX_MS ((int64_t)36525 * 86400000) /* a hundred years */

static void to_core(struct shell *shell, struct proto_request *request,
                    const struct store_token *token)
{
    uint64_t handle = ++shell->next_handle;
    coord_map_put(&shell->requests, handle, request);
    struct coord_event event = {
        .kind = COORD_EV_REQUEST,
        .handle = handle,
        .type = proto_request_envelope(request)->type,
        .body = proto_request_body(request),
        .who = {.role = (enum proto_role)token->role, .token_id = token->id, .runs = token->runs},
    };
    shell_event(shell, &event);
}

static void reply_json(struct proto_request *request, json_t *object)
{
    char *text = json_dumps(object, JSON_COMPACT);
    struct proto_admin_reply reply = {.json = text ? text : "{}"};
    proto_reply(request, PROTO_ADMIN_REPLY, &reply);
    free(text);
    json_decref(object);
}

/* ---- tokens ---- */

static void token_create(struct shell *shell, struct proto_request *request, const json_t *args,
                         const char *actor)
{
    const char *role = "", *name = "", *runs = "";
    int64_t valid_ms = 0, now_ms = sp_wall_ms();
    uint32_t number = 0;
    struct sp_error err;
    struct job *job = job_new(shell, JOB_TOKEN_PUT, request);
    job->actor = sp_xstrdup(actor);
    enum sp_err rc = sp_json_str(args, "role", "token-create", &role, &err);
    if (!rc)
        rc = sp_json_str(args, "name", "token-create", &name, &err);
    if (!rc)
        rc = sp_json_opt_str(args, "runs", "token-create", &runs, &err);
    if (!rc)
        rc = sp_json_opt_i64(args, "valid_ms", 0, TOKEN_VALID_MAX_MS, "token-create", &valid_ms,
                             &err);
    if (!rc)
        rc = coord_role_parse(role, &number, &err);
    if (!rc) {
        job->run = sp_xstrdup(name);
        job->args = sp_xstrdup(runs);
        rc = coord_token_mint(number, job->run, job->args, now_ms, valid_ms ? now_ms + valid_ms : 0,
                              job->token_text, job->token_id, &job->token, &err);
    }
    if (rc) {
        job_free(job);
        proto_reply_error(request, rc, 0, "%s", err.text);
        return;
    }
    shell_send(shell, job);
}

static void token_revoke(struct shell *shell, struct proto_request *request, const json_t *args,
                         const char *actor)
{
    const char *id = "";
    struct sp_error err;
    enum sp_err rc = sp_json_str(args, "id", "token-revoke", &id, &err);
    if (rc) {
        proto_reply_error(request, rc, 0, "%s", err.text);
        return;
    }
    struct job *job = job_new(shell, JOB_TOKEN_REVOKE, request);
    job->actor = sp_xstrdup(actor);
    job->text = sp_xstrdup(id);
    shell_send(shell, job);
}

/* ---- other admin verbs ---- */

static void backup(struct shell *shell, struct proto_request *request, const json_t *args)
{
    const char *dir = "";
    struct sp_error err;
    enum sp_err rc = sp_json_str(args, "dir", "backup", &dir, &err);
    if (!rc && dir[0] != '/')
        rc = sp_fail(&err, SP_EINVAL, "backup: dir: give an absolute path on the coordinator");
    if (rc) {
        proto_reply_error(request, rc, 0, "%s", err.text);
        return;
    }
    struct job *job = job_new(shell, JOB_BACKUP, request);
    job->text = sp_xstrdup(dir);
    shell_send(shell, job);
}

static void pin(struct shell *shell, struct proto_request *request, const json_t *args,
                const char *actor, bool pinned)
{
    const struct proto_admin *admin = proto_request_body(request);
    const char *hex = "";
    struct sp_digest digest;
    struct sp_error err;
    enum sp_err rc = sp_json_str(args, "digest", admin->verb, &hex, &err);
    if (!rc)
        rc = sp_digest_parse(hex, &digest, &err);
    if (rc) {
        proto_reply_error(request, rc, 0, "%s", err.text);
        return;
    }
    struct job *job = job_new(shell, JOB_PIN, request);
    job->run = sp_xstrdup(admin->run);
    job->actor = sp_xstrdup(actor);
    job->digest = digest;
    job->pinned = pinned;
    shell_send(shell, job);
}

static void ping(struct shell *shell, struct proto_request *request)
{
    reply_json(request, json_pack("{s:b,s:s,s:I,s:I}", "ok", true, "version", SPIN_VERSION,
                                  "protocol", (json_int_t)PROTO_VERSION, "runs_version",
                                  (json_int_t)coord_version(shell->core)));
}

static void send_verb(struct shell *shell, struct proto_request *request, enum job_kind kind,
                      const char *actor)
{
    const struct proto_admin *admin = proto_request_body(request);
    struct job *job = job_new(shell, kind, request);
    job->verb = sp_xstrdup(admin->verb);
    job->run = sp_xstrdup(admin->run);
    job->args = sp_xstrdup(admin->args);
    job->actor = sp_xstrdup(actor);
    shell_send(shell, job);
}

static bool parse_args(struct proto_request *request, json_t **ret)
{
    const struct proto_admin *admin = proto_request_body(request);
    const char *text = admin->args[0] ? admin->args : "{}";
    struct sp_error err;
    enum sp_err rc = sp_json_parse(text, strlen(text), "args", ret, &err);
    if (!rc && json_is_object(*ret))
        return true;
    if (!rc)
        json_decref(*ret);
    proto_reply_error(request, rc ? rc : SP_EFORMAT, 0, "%s: %s", admin->verb,
                      rc ? err.text : "args: not an object");
    return false;
}

/* Without a run's name these tell of every run, or change what concerns every run. */
static bool needs_every_run(const struct proto_admin *admin)
{
    return admin->run[0] == '\0' && strcmp(admin->verb, "ping") != 0;
}

/* Verbs that read their arguments here. A reply ends the request, so nothing of it is read after.
 */
static void verb_with_args(struct shell *shell, struct proto_request *request, const char *actor)
{
    const struct proto_admin *admin = proto_request_body(request);
    bool creates = strcmp(admin->verb, "token-create") == 0;
    bool revokes = strcmp(admin->verb, "token-revoke") == 0;
    bool pins = strcmp(admin->verb, "pin") == 0, unpins = strcmp(admin->verb, "unpin") == 0;
    json_t *args = NULL;
    if (!creates && !revokes && !pins && !unpins && strcmp(admin->verb, "backup") != 0) {
        proto_reply_error(request, SP_EUNSUPPORTED, 0, "no admin verb \"%.40s\"", admin->verb);
        return;
    }
    if (!parse_args(request, &args))
        return;
    if (creates)
        token_create(shell, request, args, actor);
    else if (revokes)
        token_revoke(shell, request, args, actor);
    else if (pins || unpins)
        pin(shell, request, args, actor, pins);
    else
        backup(shell, request, args);
    json_decref(args);
}

static void admin_verb(struct shell *shell, struct proto_request *request,
                       const struct store_token *token)
{
    const struct proto_admin *admin = proto_request_body(request);
    if (!coord_role_may_verb(token->role, admin->verb))
        proto_reply_error(request, SP_EDENIED, 0, "%.40s: a token of role %s may not do this",
                          admin->verb, coord_role_name(token->role));
    else if (!coord_token_allows_run(token, admin->run))
        proto_reply_error(request, SP_EDENIED, 0, "the token is not for run %.64s", admin->run);
    else if (token->runs[0] && needs_every_run(admin))
        proto_reply_error(request, SP_EDENIED, 0,
                          "%.40s: the token is for these runs only: %.200s: name one of them",
                          admin->verb, token->runs);
    else if (coord_admin_is_live(admin->verb))
        to_core(shell, request, token);
    else if (strcmp(admin->verb, "ping") == 0)
        ping(shell, request);
    else if (strcmp(admin->verb, "create-run") == 0)
        send_verb(shell, request, JOB_CREATE_RUN, token->id);
    else if (strcmp(admin->verb, "evaluate") == 0)
        send_verb(shell, request, JOB_EVALUATE, token->id);
    else if (strcmp(admin->verb, "doctor") == 0)
        send_verb(shell, request, JOB_DOCTOR, token->id);
    else if (coord_query_knows(admin->verb))
        send_verb(shell, request, JOB_QUERY, token->id);
    else
        verb_with_args(shell, request, token->id);
}

/* A generator is given the weights that its leases name, and nothing else. */
static void blob_get(struct shell *shell, struct proto_request *request,
                     const struct store_token *token)
{
    struct job *job = job_new(shell, JOB_BLOB_GET, request);
    job->limited = token->role == PROTO_ROLE_GENERATOR;
    if (job->limited)
        job->action.roots =
            coord_token_manifests(shell->core, token->id, &job->action.root_count);
    shell_send(shell, job);
}

static bool needs_disk(enum proto_type type)
{
    return type == PROTO_SUBMIT || type == PROTO_REFS_SUBMIT || type == PROTO_BLOB_PUT ||
           type == PROTO_PUBLISH_BEGIN || type == PROTO_PUBLISH_COMMIT ||
           type == PROTO_STEPS_REPORT;
}

void shell_on_request(struct proto_request *request, void *context)
{
    struct shell *shell = context;
    const struct proto_envelope *envelope = proto_request_envelope(request);
    const struct store_token *token = NULL;
    struct sp_error err;
    if (envelope->type < PROTO_TYPE_END)
        shell->counters.requests[envelope->type]++;
    enum sp_err rc = coord_tokens_check(shell->tokens, envelope->token, sp_wall_ms(), &token, &err);
    if (rc) {
        shell->counters.denied++;
        proto_reply_error(request, rc, 0, "%s", err.text);
        return;
    }
    if (!coord_role_may_send(token->role, envelope->type)) {
        shell->counters.denied++;
        proto_reply_error(request, SP_EDENIED, 0,
                          "%s: a token of role %s may not do this: `spinctl token create` makes "
                          "one of another role",
                          proto_type_name(envelope->type), coord_role_name(token->role));
        return;
    }
    if (shell->disk_low && needs_disk(envelope->type)) {
        proto_reply_error(request, SP_EUNAVAIL, (uint32_t)shell->times.disk_retry_ms,
                          "less than disk_reserve is free on the coordinator's disk");
        return;
    }
    switch (envelope->type) {
    case PROTO_BLOB_GET:
        blob_get(shell, request, token);
        return;
    case PROTO_BLOB_PUT:
        shell_send(shell, job_new(shell, JOB_BLOB_PUT, request));
        return;
    case PROTO_BLOB_MISSING:
        shell_send(shell, job_new(shell, JOB_BLOB_MISSING, request));
        return;
    case PROTO_ADMIN:
        admin_verb(shell, request, token);
        return;
    default:
        to_core(shell, request, token);
    }
}
