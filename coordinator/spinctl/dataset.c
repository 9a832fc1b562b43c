/* dataset check: what create-run would make of a data set, without a coordinator. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/base/mem.h"
#include "common/base/progress.h"
#include "coordinator/data/data.h"
#include "coordinator/spinctl/spinctl.h"

#define BAR_WIDTH 32

/* ---- settings: the run file's, with FILE and --model in the place of its own ---- */

static void put(char **value, const char *with)
{
    free(*value);
    *value = sp_xstrdup(with);
}

/* Paths of a run file start at its directory, those of the command line where the user is. */
static void take_path(const char *config, const char *given, const char *set, char **value)
{
    char *path = given != NULL ? sp_xstrdup(given) : NULL;
    if (path == NULL && set[0] != '\0')
        path = config != NULL ? ctl_resolve(config, set) : sp_xstrdup(set);
    *value = path;
}

static enum sp_err read_settings(struct ctl *ctl, struct run_settings *s, struct sp_error *err)
{
    enum sp_err rc = ctl_read_run_settings(ctl, ctl->config_path, s, err);
    if (rc != SP_OK)
        return rc;
    const char *file = ctl->arg_count > 1 ? ctl->args[1] : NULL;
    if (s->name[0] == '\0')
        put(&s->name, "check");
    if (file == NULL && s->train[0] == '\0')
        return sp_fail(err, SP_EINVAL, "dataset check: which FILE? Name one, or --config RUN.conf");
    if (ctl->model == NULL && s->base[0] == '\0')
        return sp_fail(err, SP_EINVAL,
                       "dataset check: tokens need a model: --model DIR, or --config RUN.conf");
    if (s->train[0] == '\0')
        put(&s->train, file);
    if (s->base[0] == '\0')
        put(&s->base, ctl->model);
    return run_settings_check(s, err);
}

static void take_paths(const struct ctl *ctl, const struct run_settings *s, struct data_rows *rows)
{
    const char *const set[DATA_SPLITS] = {s->train, s->holdout, s->eval};
    for (int i = 0; i < DATA_SPLITS; i++) {
        const char *file = i == DATA_TRAIN && ctl->arg_count > 1 ? ctl->args[1] : NULL;
        take_path(ctl->config_path, file, set[i], &rows->paths[i]);
        if (rows->paths[i] != NULL)
            rows->names[i] = sp_xstrdup(file != NULL ? file : set[i]);
    }
}

/* ---- what is printed ---- */

static void print_histogram(const json_t *split)
{
    const json_t *list = json_object_get(split, "histogram");
    int64_t used = ctl_integer(split, "used", 1);
    printf("\n%s: tokens by row (mean of prompts %.1f, of answers %.1f)\n",
           ctl_string(split, "split", ""), ctl_number(split, "prompt_tokens_mean", 0),
           ctl_number(split, "response_tokens_mean", 0));
    printf("  %13s  %-*s  %s\n", "tokens", BAR_WIDTH + 10, "prompts", "answers");
    for (size_t i = 0; i < json_array_size(list); i++) {
        const json_t *row = json_array_get(list, i);
        static const char *const keys[] = {"prompts", "responses"};
        printf("  %5lld – %5lld", (long long)ctl_integer(row, "from", 0),
               (long long)ctl_integer(row, "to", 0));
        for (int k = 0; k < 2; k++) {
            int64_t count = ctl_integer(row, keys[k], 0);
            int width = (int)((count * BAR_WIDTH + used - 1) / used);
            printf("  %9lld ", (long long)count);
            for (int w = 0; w < (k == 0 ? BAR_WIDTH : width); w++)
                fputs(w < width ? "█" : " ", stdout);
        }
        printf("\n");
    }
}

static void print_left_out(const json_t *splits)
{
    for (size_t i = 0; i < json_array_size(splits); i++) {
        const json_t *split = json_array_get(splits, i);
        const json_t *list = json_object_get(split, "left_out");
        for (size_t k = 0; k < json_array_size(list); k++) {
            const json_t *one = json_array_get(list, k);
            printf("left out of %s: %lld rows: %s (first: line %lld)\n",
                   ctl_string(split, "split", ""), (long long)ctl_integer(one, "rows", 0),
                   ctl_string(one, "what", ""), (long long)ctl_integer(one, "first_line", 0));
        }
        if (ctl_integer(split, "limited", 0) > 0)
            printf("left out of %s: %lld rows behind its limit\n", ctl_string(split, "split", ""),
                   (long long)ctl_integer(split, "limited", 0));
    }
}

static void print_duplicates(const json_t *same)
{
    printf("prompts that were there before: %lld in train, %lld in holdout, %lld in eval; train's "
           "prompts in holdout: %lld, in eval: %lld\n",
           (long long)ctl_integer(same, "train", 0), (long long)ctl_integer(same, "holdout", 0),
           (long long)ctl_integer(same, "eval", 0),
           (long long)ctl_integer(same, "holdout_in_train", 0),
           (long long)ctl_integer(same, "eval_in_train", 0));
}

/* Tokens side by side, those that the loss counts on lines of their own with a mark before them. */
static void print_example(const json_t *example, size_t number, const char *name)
{
    const json_t *tokens = json_object_get(example, "tokens");
    bool colour = isatty(STDOUT_FILENO) == 1;
    printf("\nexample %zu (%s:%lld): %lld prompt tokens without loss, %lld answer tokens with it\n",
           number, name, (long long)ctl_integer(example, "line", 0),
           (long long)ctl_integer(example, "prompt_tokens", 0),
           (long long)ctl_integer(example, "response_tokens", 0));
    int before = -1;
    for (size_t i = 0; i < json_array_size(tokens); i++) {
        const json_t *token = json_array_get(tokens, i);
        int loss = json_is_true(json_object_get(token, "loss"));
        if (loss != before)
            printf("%s%s%s", before < 0 ? "" : "\n", loss ? "  loss | " : "       | ",
                   !colour ? ""
                   : loss  ? "\033[1;32m"
                           : "\033[0;2m");
        before = loss;
        for (const char *at = ctl_string(token, "text", ""); *at; at++) {
            if (*at == '\n')
                printf("↵\n%s", loss ? "  loss | " : "       | ");
            else if ((unsigned char)*at < 0x20 || *at == 0x7f)
                printf("\\x%02x", (unsigned char)*at);
            else
                putchar(*at);
        }
    }
    printf("%s\n", colour ? "\033[0m" : "");
}

static void print_all(const json_t *report, const char *name)
{
    const json_t *splits = json_object_get(report, "splits");
    const json_t *examples = json_object_get(report, "examples");
    printf("format %s, template %s, end token %lld\n\n", ctl_string(report, "format", "?"),
           ctl_string(report, "template", "?"), (long long)ctl_integer(report, "end_id", -1));
    ctl_print_data_table(report);
    print_left_out(splits);
    print_duplicates(json_object_get(report, "duplicates"));
    printf("human answers above max_new_tokens: %.2f %%\n",
           100 * ctl_number(report, "answers_over_max_new_share", 0));
    ctl_print_warnings(report);
    for (size_t i = 0; i < json_array_size(splits); i++)
        if (ctl_integer(json_array_get(splits, i), "used", 0) > 0)
            print_histogram(json_array_get(splits, i));
    for (size_t i = 0; i < json_array_size(examples); i++)
        print_example(json_array_get(examples, i), i + 1, name);
}

/* ---- the command ---- */

static bool show_progress(void *context, uint64_t done, uint64_t total)
{
    sp_progress_set_total(context, total);
    sp_progress_set(context, done);
    return false;
}

static enum sp_err check(struct ctl *ctl, const struct run_settings *s, json_t **ret,
                         struct sp_error *err)
{
    struct data_model model = {0};
    char *dir = NULL;
    take_path(ctl->config_path, ctl->model, s->base, &dir);
    struct data_rows rows = {.settings = s, .model = &model, .step = show_progress};
    take_paths(ctl, s, &rows);
    enum sp_err rc = data_model_load(dir, s, &model, err);
    if (rc != SP_OK)
        sp_wrap(err, rc, "[model] base: %s", dir);
    struct sp_progress *progress = sp_progress_new("checking", 0, "bytes");
    rows.step_context = progress;
    if (rc == SP_OK)
        rc = data_rows_run(&rows, err);
    sp_progress_free(progress);
    if (rc == SP_OK) {
        *ret = data_report(&rows);
        json_object_set_new(*ret, "file", json_string(rows.names[DATA_TRAIN]));
        json_object_set_new(*ret, "examples", data_examples(&rows));
    }
    data_rows_deinit(&rows);
    data_model_deinit(&model);
    free(dir);
    return rc;
}

int ctl_dataset(void *context)
{
    struct ctl *ctl = context;
    struct sp_error err = {0};
    struct run_settings settings;
    json_t *report = NULL;
    enum sp_err rc = SP_OK;
    sp_config_init(&run_settings_spec, &settings);
    if (strcmp(ctl->args[0], "check") != 0)
        rc = sp_fail(&err, SP_EINVAL, "dataset: \"%.40s\": the one thing to do is check",
                     ctl->args[0]);
    if (rc == SP_OK)
        rc = read_settings(ctl, &settings, &err);
    if (rc == SP_OK)
        rc = check(ctl, &settings, &report, &err);
    if (rc == SP_OK && ctl->json)
        ctl_print_json(report);
    else if (rc == SP_OK)
        print_all(report, ctl_string(report, "file", ""));
    sp_config_deinit(&run_settings_spec, &settings);
    json_decref(report);
    return rc == SP_OK ? 0 : ctl_failed(&err);
}
