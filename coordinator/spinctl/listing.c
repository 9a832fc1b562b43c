/* Commands that only look. */
#include <math.h>
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
        {"iteration.verification.possible", "CHECKED", "text"}, /* by other generators */
        {"iteration.verdict", "VERDICT", "text"},
    };
    struct ctl *ctl = context;
    return list(ctl, "status", run_or_empty(ctl), NULL, "runs", COLUMNS(columns));
}

static void print_why(const char *run, const json_t *reply)
{
    const json_t *rows = json_object_get(reply, "why");
    int64_t iteration = ctl_integer(reply, "iteration", -1);
    if (iteration >= 0)
        printf("%s: iteration %lld is %s\n", run, (long long)iteration,
               ctl_string(reply, "state", "?"));
    for (size_t i = 0; i < json_array_size(rows); i++) {
        const json_t *row = json_array_get(rows, i);
        char since[32];
        sp_format_duration(ctl_integer(row, "for_ms", 0), since, sizeof(since));
        printf("  waits for ");
        ctl_print_text(ctl_string(row, "waits_for", "?"), 4);
        printf("\n    since %s, on ", since);
        ctl_print_text(ctl_string(row, "on", "?"), 4);
        printf("\n");
    }
    if (json_array_size(rows) == 0)
        printf("  waits for nothing: work is under way\n");
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
        print_why(ctl->args[0], reply);
    json_decref(reply);
    return 0;
}

static void print_event(const json_t *row)
{
    char when[32];
    sp_format_utc(ctl_integer(row, "at_ms", 0), when);
    printf("%s  %-8s ", when, ctl_string(row, "kind", ""));
    printf("%-16s ", ctl_string(row, "actor", ""));
    ctl_print_text(ctl_string(row, "text", ""), 4);
    printf("\n");
}

/* One page of events. With --json one object, or, with --follow, one line for each event. */
static enum sp_err events_page(struct ctl *ctl, int64_t limit, json_t *all, int64_t *after,
                               size_t *ret_count, struct sp_error *err)
{
    json_t *reply = NULL;
    json_t *args = json_pack("{s:I, s:I}", "after", (json_int_t)*after, "limit", (json_int_t)limit);
    enum sp_err rc = ctl_admin(ctl, "events", run_or_empty(ctl), args, &reply, err);
    if (rc != SP_OK)
        return rc;
    const json_t *rows = json_object_get(reply, "events");
    *ret_count = json_array_size(rows);
    for (size_t i = 0; i < *ret_count; i++) {
        json_t *row = json_array_get(rows, i);
        *after = ctl_integer(row, "id", *after);
        if (!ctl->json)
            print_event(row);
        else if (ctl->follow)
            ctl_print_json(row);
        else
            json_array_append(all, row);
    }
    json_decref(reply);
    fflush(stdout);
    return SP_OK;
}

/* After which event the newest `limit` begin: their ids have no gaps. */
static enum sp_err newest(struct ctl *ctl, int64_t limit, int64_t *ret_after, struct sp_error *err)
{
    json_t *reply = NULL;
    json_t *args = json_pack("{s:b, s:i}", "last", true, "limit", 1);
    enum sp_err rc = ctl_admin(ctl, "events", run_or_empty(ctl), args, &reply, err);
    const json_t *last = json_array_get(json_object_get(reply, "events"), 0);
    if (rc == SP_OK)
        *ret_after = SP_MAX(ctl_integer(last, "id", 0) - limit, (int64_t)0);
    json_decref(reply);
    return rc;
}

int ctl_events(void *context)
{
    struct ctl *ctl = context;
    struct sp_error err = {0};
    int64_t after = ctl->after, left = ctl->limit ? ctl->limit : 100;
    json_t *all = json_array();
    enum sp_err rc = SP_OK;
    if (!ctl->has_after && !ctl->follow)
        rc = newest(ctl, left, &after, &err);
    for (size_t count = 1; rc == SP_OK && (ctl->follow || (left > 0 && count > 0));) {
        rc = events_page(ctl, ctl->follow ? 1000 : SP_MIN(left, 1000), all, &after, &count, &err);
        left -= (int64_t)count;
        if (rc == SP_OK && ctl->follow && count == 0)
            sp_sleep_ms(1000);
    }
    if (rc == SP_OK && ctl->json) {
        json_t *document = json_pack("{s:O}", "events", all);
        ctl_print_json(document);
        json_decref(document);
    }
    json_decref(all);
    return rc == SP_OK ? 0 : ctl_failed(&err);
}

int ctl_workers(void *context)
{
    static const struct ctl_column columns[] = {
        {"name", "WORKER", "text"},
        {"role", "ROLE", "text"},
        {"host", "HOST", "text"},
        {"alive", "ALIVE", "text"},
        {"run", "RUN", "text"},
        {"leases", ">LEASES", "int"},
        {"results", ">RESULTS", "int"},
        {"tokens_per_s", ">TOKENS/S", "f1"},
        {"memory_used", ">MEMORY", "bytes"},
        {"memory_total", ">OF", "bytes"},
        {"busy", ">BUSY", "pct"},
        {"silent_ms", ">SILENT", "ms"},
        {"device", "DEVICE", "text"},
        {"hold", "HELD", "text"},
        {"activity", "ACTIVITY", "text"},
        {"hold_reason", "WHY HELD", "text"},
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
        {"digest", "CHECKPOINT", "text"},      {"run", "RUN", "text"},
        {"iteration", ">ITERATION", "number"}, {"bytes", ">SIZE", "bytes"},
        {"created_ms", "CREATED", "utc"},      {"verdict", "VERDICT", "text"},
        {"pinned", "PINNED", "text"},          {"dropped_ms", "LET GO OF", "utc"},
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

static void print_side(const char *label, const json_t *pair, const char *text, const char *ref)
{
    double value = ctl_number(pair, ref, NAN);
    printf("  %-9s  ", label);
    ctl_print_text(ctl_string(pair, text, ""), 13);
    if (!isnan(value))
        printf("   [%.3f]", value);
    printf("\n");
}

/* Human and generated answer under each other, where a difference is seen at once. */
static void print_pair(const json_t *pair)
{
    printf("prompt %lld, sample %lld, iteration %lld, position %lld%s%s\n",
           (long long)ctl_integer(pair, "prompt", 0), (long long)ctl_integer(pair, "sample", 0),
           (long long)ctl_integer(pair, "source_iteration", 0),
           (long long)ctl_integer(pair, "position", 0),
           json_is_true(json_object_get(pair, "skipped")) ? ", skipped" : "",
           strcmp(ctl_string(pair, "finish", ""), "length") == 0 ? ", cut at max_new_tokens" : "");
    print_side("prompt", pair, "prompt_text", "");
    print_side("human", pair, "real_text", "ref_real");
    if (json_is_true(json_object_get(pair, "stored")))
        print_side("generated", pair, "generated_text", "ref_generated");
    else
        printf("  generated  (not made yet)\n");
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
