/* Commands that change a run, and tokens. */
#include <stdio.h>
#include <string.h>

#include "common/base/config.h"
#include "coordinator/spinctl/spinctl.h"

/* Sends a verb about RUN and prints what became of it. */
static int simple(struct ctl *ctl, const char *verb, json_t *args)
{
    struct sp_error err = {0};
    json_t *reply = NULL;
    if (ctl_admin(ctl, verb, ctl->args[0], args, &reply, &err) != SP_OK)
        return ctl_failed(&err);
    if (ctl->json)
        ctl_print_json(reply);
    else if (!ctl->quiet)
        printf("%s: iteration %lld is %s\n", ctl->args[0],
               (long long)ctl_integer(reply, "iteration", 0),
               ctl_string(reply, "state", "?"));
    json_decref(reply);
    return 0;
}

int ctl_pause(void *context)
{
    return simple(context, "pause", NULL);
}

int ctl_resume(void *context)
{
    return simple(context, "resume", NULL);
}

int ctl_retry(void *context)
{
    return simple(context, "retry", NULL);
}

int ctl_cancel(void *context)
{
    return simple(context, "cancel", NULL);
}

int ctl_start(void *context)
{
    struct ctl *ctl = context;
    return simple(ctl, "start", json_pack("{s:b}", "fresh", ctl->fresh));
}

int ctl_skip(void *context)
{
    struct ctl *ctl = context;
    int64_t prompt;
    if (!ctl_whole(ctl->args[1], &prompt) || prompt < 0) {
        struct sp_error err;
        sp_fail(&err, SP_EINVAL,
                "skip: PROMPT is the prompt's number, as `spinctl why %s` names it", ctl->args[0]);
        return ctl_failed(&err);
    }
    struct sp_error err = {0};
    json_t *args = json_pack("{s:I}", "prompt", (json_int_t)prompt), *reply = NULL;
    if (ctl_admin(ctl, "skip", ctl->args[0], args, &reply, &err) != SP_OK)
        return ctl_failed(&err);
    if (ctl->json)
        ctl_print_json(reply);
    else if (!ctl->quiet)
        printf("%s: prompt %lld is taken out of iteration %lld\n", ctl->args[0],
               (long long)prompt, (long long)ctl_integer(reply, "iteration", 0));
    json_decref(reply);
    return 0;
}

int ctl_priority(void *context)
{
    struct ctl *ctl = context;
    struct sp_error err = {0};
    json_t *reply = NULL;
    int64_t priority;
    if (!ctl_whole(ctl->args[1], &priority) || priority < -1000 || priority > 1000) {
        sp_fail(&err, SP_EINVAL, "priority: \"%.20s\": a whole number from -1000 to 1000",
                ctl->args[1]);
        return ctl_failed(&err);
    }
    if (ctl_admin(ctl, "priority", ctl->args[0], json_pack("{s:i}", "priority", (int)priority),
                  &reply, &err) != SP_OK)
        return ctl_failed(&err);
    if (ctl->json)
        ctl_print_json(reply);
    json_decref(reply);
    return 0;
}

static int hold(struct ctl *ctl, const char *verb)
{
    struct sp_error err = {0};
    json_t *reply = NULL;
    if (ctl_admin(ctl, verb, "", json_pack("{s:s}", "worker", ctl->args[0]), &reply, &err) != SP_OK)
        return ctl_failed(&err);
    const char *kind = ctl_string(reply, "hold", "");
    if (ctl->json)
        ctl_print_json(reply);
    else if (!ctl->quiet)
        printf("%s %s%s\n", ctl->args[0], kind[0] ? "is " : "gets work again", kind);
    json_decref(reply);
    return 0;
}

int ctl_cordon(void *context)
{
    return hold(context, "cordon");
}

int ctl_drain(void *context)
{
    return hold(context, "drain");
}

int ctl_quarantine(void *context)
{
    return hold(context, "quarantine");
}

int ctl_uncordon(void *context)
{
    return hold(context, "uncordon");
}

/* "30 d", "12 h", "90 min": how long a token is valid. */
static enum sp_err parse_validity(const char *text, int64_t *ret_ms, struct sp_error *err)
{
    struct sp_error detail;
    if (sp_parse_ms(text, ret_ms, &detail) != SP_OK || *ret_ms <= 0)
        return sp_fail(err, SP_EINVAL,
                       "token create: --expires: \"%.40s\" is not a duration: say \"30 d\", "
                       "\"12 h\" or \"90 min\"",
                       text);
    return SP_OK;
}

static int token_create(struct ctl *ctl)
{
    struct sp_error err = {0};
    json_t *reply = NULL;
    int64_t valid_ms = 0;
    if (!ctl->role) {
        sp_fail(&err, SP_EINVAL, "token create: give --role admin, trainer, generator or readonly");
        return ctl_failed(&err);
    }
    if (ctl->expires && parse_validity(ctl->expires, &valid_ms, &err) != SP_OK)
        return ctl_failed(&err);
    json_t *args = json_pack("{s:s, s:s, s:s, s:I}", "role", ctl->role, "name",
                             ctl->name ? ctl->name : ctl->role, "runs", ctl->runs ? ctl->runs : "",
                             "valid_ms", (json_int_t)valid_ms);
    if (ctl_admin(ctl, "token-create", "", args, &reply, &err) != SP_OK)
        return ctl_failed(&err);
    if (ctl->json)
        ctl_print_json(reply);
    else
        printf("%s\n", ctl_string(reply, "token", ""));
    if (!ctl->json && !ctl->quiet)
        fprintf(stderr, "This is shown once. Put it into the file that token_file names, mode "
                        "0600.\n");
    json_decref(reply);
    return 0;
}

static int token_list(struct ctl *ctl)
{
    static const struct ctl_column columns[] = {
        {"id", "ID", "text"},
        {"role", "ROLE", "text"},
        {"name", "NAME", "text"},
        {"runs", "RUNS", "text"},
        {"created_ms", "CREATED", "utc"},
        {"expires_ms", "EXPIRES", "utc"},
        {"revoked", "REVOKED", "text"},
    };
    struct sp_error err = {0};
    json_t *reply = NULL;
    if (ctl_admin(ctl, "token-list", "", NULL, &reply, &err) != SP_OK)
        return ctl_failed(&err);
    if (ctl->json)
        ctl_print_json(reply);
    else
        ctl_print_table(json_object_get(reply, "tokens"), columns,
                        sizeof(columns) / sizeof(columns[0]));
    json_decref(reply);
    return 0;
}

int ctl_token(void *context)
{
    struct ctl *ctl = context;
    struct sp_error err = {0};
    const char *action = ctl->args[0];
    if (strcmp(action, "create") == 0 && ctl->arg_count == 1)
        return token_create(ctl);
    if (strcmp(action, "list") == 0 && ctl->arg_count == 1)
        return token_list(ctl);
    if (strcmp(action, "revoke") != 0 || ctl->arg_count != 2) {
        sp_fail(&err, SP_EINVAL, "token: say create, list, or revoke ID");
        return ctl_failed(&err);
    }
    json_t *reply = NULL;
    if (ctl_admin(ctl, "token-revoke", "", json_pack("{s:s}", "id", ctl->args[1]), &reply, &err) !=
        SP_OK)
        return ctl_failed(&err);
    if (ctl->json)
        ctl_print_json(reply);
    else if (!ctl->quiet)
        printf("token %s is revoked\n", ctl->args[1]);
    json_decref(reply);
    return 0;
}
