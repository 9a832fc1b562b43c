/* Commands that only look. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/clock.h"
#include "common/base/mem.h"
#include "coordinator/spinctl/spinctl.h"

#define COLUMNS(c) c, sizeof(c) / sizeof(c[0])

/* Asks, prints JSON, or the rows under `key` as a table. */
static int list(struct ctl *ctl, const char *verb, const char *run, json_t *args, const char *key,
                const struct ctl_column *columns, size_t count)
{
    struct sp_error err = {0};
    json_t *reply = NULL;
    if (ctl_admin(ctl, verb, run, args, &reply, &err) != SP_OK)
        return ctl_failed(&err);
    if (ctl->json)
        ctl_print_json(reply);
    else
        ctl_print_table(json_object_get(reply, key), columns, count);
    json_decref(reply);
    return 0;
}

static const char *run_or_empty(const struct ctl *ctl)
{
    return ctl->arg_count > 0 ? ctl->args[0] : "";
}

int ctl_status(void *context)
{
    static const struct ctl_column columns[] = {
        {"run", "RUN", "text"},
        {"mode", "MODE", "text"},
        {"iteration.iteration", ">ITERATION", "int"},
        {"iteration.state", "STATE", "text"},
        {"iteration.generation.pairs_done", ">PAIRS", "int"},
        {"iteration.generation.pairs_total", ">OF", "int"},
        {"iteration.training.step", ">STEP", "int"},
        {"iteration.training.steps", ">OF", "int"},
        {"iteration.training.loss", ">LOSS", "f4"},
        {"iteration.training.margin", ">MARGIN", "f4"},
        {"iteration.verdict", "VERDICT", "text"},
    };
    struct ctl *ctl = context;
    return list(ctl, "status", run_or_empty(ctl), NULL, "runs", COLUMNS(columns));
}

int ctl_why(void *context)
{
    struct ctl *ctl = context;
    struct sp_error err = {0};
    json_t *reply = NULL;
    if (ctl_admin(ctl, "why", ctl->args[0], NULL, &reply, &err) != SP_OK)
        return ctl_failed(&err);
    if (ctl->json)
        ctl_print_json(reply);
    else
        ctl_print_object(reply, 0);
    json_decref(reply);
    return 0;
}

int ctl_events(void *context)
{
    struct ctl *ctl = context;
    struct sp_error err = {0};
    int64_t after = ctl->after;
    int64_t left = ctl->limit ? ctl->limit : 100;
    for (;;) {
        json_t *reply = NULL;
        json_t *args = json_pack("{s:I, s:I}", "after", (json_int_t)after, "limit",
                                 (json_int_t)SP_MIN(left, 1000));
        if (ctl_admin(ctl, "events", run_or_empty(ctl), args, &reply, &err) != SP_OK)
            return ctl_failed(&err);
        const json_t *rows = json_object_get(reply, "events");
        for (size_t i = 0; i < json_array_size(rows); i++) {
            const json_t *row = json_array_get(rows, i);
            char when[32];
            after = ctl_integer(row, "id", after);
            if (ctl->json) {
                ctl_print_json(row);
                continue;
            }
            sp_format_utc(ctl_integer(row, "at_ms", 0), when);
            printf("%s  %-8s %-16s %s\n", when, ctl_string(row, "kind", ""),
                   ctl_string(row, "actor", ""), ctl_string(row, "text", ""));
        }
        size_t got = json_array_size(rows);
        json_decref(reply);
        if (!ctl->follow)
            return 0;
        fflush(stdout);
        if (got == 0)
            sp_sleep_ms(1000);
    }
}

int ctl_workers(void *context)
{
    static const struct ctl_column columns[] = {
        {"name", "WORKER", "text"},       {"role", "ROLE", "text"},
        {"host", "HOST", "text"},         {"alive", "ALIVE", "text"},
        {"run", "RUN", "text"},           {"leased", ">LEASED", "int"},
        {"results", ">RESULTS", "int"},   {"tokens_per_s", ">TOKENS/S", "f1"},
        {"silent_ms", ">SILENT", "ms"},   {"device", "DEVICE", "text"},
        {"activity", "ACTIVITY", "text"},
    };
    return list(context, "workers", "", NULL, "workers", COLUMNS(columns));
}

int ctl_iterations(void *context)
{
    static const struct ctl_column columns[] = {
        {"iteration", ">ITERATION", "int"},
        {"state", "STATE", "text"},
        {"pairs", ">PAIRS", "int"},
        {"loss_first_step", ">FIRST LOSS", "f4"},
        {"loss_last_step", ">LAST LOSS", "f4"},
        {"margin_last", ">MARGIN", "f4"},
        {"holdout_accuracy", ">HELD-OUT ACC", "f3"},
        {"identical_share", ">IDENTICAL", "pct"},
        {"exact_match", ">EXACT", "pct"},
        {"sampled_exact_match", ">SAMPLED", "pct"},
        {"verdict", "VERDICT", "text"},
        {"checkpoint_sha256", "CHECKPOINT", "hex12"},
        {"pairs_sha256", "PAIRS SHA-256", "hex12"},
    };
    struct ctl *ctl = context;
    return list(ctl, "iterations", ctl->args[0], NULL, "iterations", COLUMNS(columns));
}

int ctl_checkpoints(void *context)
{
    static const struct ctl_column columns[] = {
        {"digest", "CHECKPOINT", "text"},  {"run", "RUN", "text"},
        {"iteration", ">ITERATION", "int"}, {"bytes", ">SIZE", "bytes"},
        {"created_ms", "CREATED", "utc"},  {"verdict", "VERDICT", "text"},
    };
    struct ctl *ctl = context;
    return list(ctl, "checkpoints", run_or_empty(ctl), NULL, "checkpoints", COLUMNS(columns));
}

int ctl_settings_command(void *context)
{
    struct ctl *ctl = context;
    struct sp_error err = {0};
    json_t *reply = NULL;
    if (ctl_admin(ctl, "settings", ctl->args[0], NULL, &reply, &err) != SP_OK)
        return ctl_failed(&err);
    if (ctl->json)
        ctl_print_json(reply);
    else
        ctl_print_object(json_object_get(reply, "settings"), 0);
    json_decref(reply);
    return 0;
}

int ctl_steps(void *context)
{
    static const struct ctl_column columns[] = {
        {"step", ">STEP", "int"},
        {"train_epoch", ">PASS", "int"},
        {"learning_rate", ">RATE", "e"},
        {"loss", ">LOSS", "f4"},
        {"margin", ">MARGIN", "f4"},
        {"accuracy", ">ACCURACY", "f3"},
        {"reward_real", ">REWARD HUMAN", "f4"},
        {"reward_generated", ">GENERATED", "f4"},
        {"grad_norm", ">GRADIENT", "f4"},
        {"tokens", ">TOKENS", "int"},
        {"milliseconds", ">TIME", "ms"},
    };
    struct ctl *ctl = context;
    json_t *args = json_object();
    if (ctl->has_iteration)
        json_object_set_new(args, "iteration", json_integer((json_int_t)ctl->iteration));
    return list(ctl, "steps", ctl->args[0], args, "steps", COLUMNS(columns));
}

static void print_pair(const json_t *pair)
{
    printf("prompt %lld, sample %lld, iteration %lld, position %lld\n",
           (long long)ctl_integer(pair, "prompt", 0), (long long)ctl_integer(pair, "sample", 0),
           (long long)ctl_integer(pair, "source_iteration", 0),
           (long long)ctl_integer(pair, "position", 0));
    printf("  prompt     %s\n", ctl_string(pair, "prompt_text", ""));
    printf("  human      %s   [%.3f]\n", ctl_string(pair, "real_text", ""),
           ctl_number(pair, "ref_real", 0));
    printf("  generated  %s   [%.3f, %s]\n", ctl_string(pair, "generated_text", ""),
           ctl_number(pair, "ref_generated", 0), ctl_string(pair, "finish", ""));
}

/* Pages through everything that was asked for, so that a listing can be longer than a message. */
int ctl_pairs(void *context)
{
    struct ctl *ctl = context;
    struct sp_error err = {0};
    int64_t left = ctl->limit ? ctl->limit : (ctl->jsonl || ctl->json ? INT64_MAX : 20);
    int64_t offset = ctl->offset;
    json_t *all = json_array();
    int code = 0;
    while (left > 0) {
        json_t *reply = NULL;
        json_t *args = json_pack("{s:I, s:I}", "offset", (json_int_t)offset, "limit",
                                 (json_int_t)SP_MIN(left, 200));
        if (ctl->has_iteration)
            json_object_set_new(args, "iteration", json_integer((json_int_t)ctl->iteration));
        if (ctl->set_name)
            json_object_set_new(args, "set", json_string(ctl->set_name));
        if (ctl_admin(ctl, "pairs", ctl->args[0], args, &reply, &err) != SP_OK) {
            code = ctl_failed(&err);
            break;
        }
        const json_t *rows = json_object_get(reply, "pairs");
        size_t count = json_array_size(rows);
        for (size_t i = 0; i < count; i++) {
            json_t *row = json_array_get(rows, i);
            if (ctl->jsonl)
                ctl_print_json(row);
            else if (ctl->json)
                json_array_append(all, row);
            else
                print_pair(row);
        }
        offset += (int64_t)count;
        left -= (int64_t)count;
        json_decref(reply);
        if (count == 0)
            break;
    }
    if (ctl->json && !ctl->jsonl && code == 0) {
        json_t *document = json_pack("{s:O}", "pairs", all);
        ctl_print_json(document);
        json_decref(document);
    }
    json_decref(all);
    return code;
}
