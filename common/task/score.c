/* What answers are worth. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/mem.h"
#include "common/task/internal.h"

static json_t *numbers(const double *values, size_t n)
{
    json_t *list = json_array();
    for (size_t i = 0; i < n; i++)
        json_array_append_new(list, json_real(values[i]));
    return list;
}

/* The first of the largest. */
static size_t best_of(const double *values, const double *divisors, size_t n)
{
    size_t best = 0;
    for (size_t i = 1; i < n; i++) {
        if (values[i] / divisors[i] > values[best] / divisors[best])
            best = i;
    }
    return best;
}

static size_t characters(const char *text)
{
    size_t n = 0;
    for (; *text != '\0'; text++)
        n += ((unsigned char)*text & 0xc0) != 0x80;
    return n;
}

/* ---- choice ---- */

static json_t *score_choice(const struct task *task, const json_t *meta, const double *lls,
                            size_t n)
{
    const json_t *choices = json_object_get(meta, "choices");
    size_t gold = (size_t)json_integer_value(json_object_get(meta, "gold"));
    double one[TASK_MAX_CHOICES], chars[TASK_MAX_CHOICES], bytes[TASK_MAX_CHOICES];
    for (size_t i = 0; i < n; i++) {
        const char *choice = json_string_value(json_array_get(choices, i));
        one[i] = 1;
        chars[i] = (double)characters(choice ? choice : "");
        bytes[i] = (double)strlen(choice ? choice : "");
    }
    size_t raw = best_of(lls, one, n);
    json_t *metrics = json_pack("{s:f}", "acc", raw == gold ? 1.0 : 0.0);
    /* With the choice in the context its own length says nothing. */
    if (!task->settings.partial) {
        json_object_set_new(metrics, "acc_norm",
                            json_real(best_of(lls, chars, n) == gold ? 1.0 : 0.0));
        json_object_set_new(metrics, "acc_bytes",
                            json_real(best_of(lls, bytes, n) == gold ? 1.0 : 0.0));
    }
    return json_pack("{s:o,s:I,s:o}", "metrics", metrics, "chosen", (json_int_t)raw,
                     "loglikelihoods", numbers(lls, n));
}

/* ---- truthfulqa ---- */

static json_t *score_truthfulqa(const json_t *meta, const double *lls, size_t n)
{
    const json_t *mc1 = json_object_get(meta, "mc1"), *mc2 = json_object_get(meta, "mc2");
    size_t best = 0, i;
    double best_ll = -INFINITY, right = 0, all = 0;
    bool best_is_right = false;
    json_t *pair;
    json_array_foreach((json_t *)mc1, i, pair)
    {
        size_t at = (size_t)json_integer_value(json_array_get(pair, 0));
        if (at < n && lls[at] > best_ll) {
            best = at;
            best_ll = lls[at];
            best_is_right = json_integer_value(json_array_get(pair, 1)) == 1;
        }
    }
    json_array_foreach((json_t *)mc2, i, pair)
    {
        size_t at = (size_t)json_integer_value(json_array_get(pair, 0));
        double p = at < n ? exp(lls[at]) : 0;
        all += p;
        right += json_integer_value(json_array_get(pair, 1)) == 1 ? p : 0;
    }
    return json_pack("{s:{s:f,s:f},s:I,s:o}", "metrics", "mc1", best_is_right ? 1.0 : 0.0, "mc2",
                     all > 0 ? right / all : 0.0, "chosen", (json_int_t)best, "loglikelihoods",
                     numbers(lls, n));
}

/* ---- likelihood ---- */

static json_t *score_likelihood(const json_t *meta, double ll)
{
    double tokens = json_number_value(json_object_get(meta, "tokens"));
    return json_pack("{s:{s:f,s:f},s:[f]}", "metrics", "loglikelihood", ll, "nll_token",
                     tokens > 0 ? -ll / tokens : 0.0, "loglikelihoods", ll);
}

/* ---- generate ---- */

static void keep_without(const char *set, struct sp_buf *text)
{
    size_t kept = 0;
    for (size_t i = 0; i < text->length; i++) {
        if (strchr(set, text->data[i]) == NULL || text->data[i] == '\0')
            text->data[kept++] = text->data[i];
    }
    text->length = kept;
    text->data[kept] = '\0';
}

/* What is compared: without what the task ignores. *text is replaced. */
static enum sp_err normalize(const struct task *task, struct sp_buf *text, struct sp_error *err)
{
    static const char punctuation[] = "!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~";
    enum sp_err rc = SP_OK;
    for (size_t i = 0; i < task->ignore_count && rc == SP_OK; i++) {
        struct sp_buf out = SP_BUF_INIT;
        sp_buf_reserve(&out, 1);
        rc = tok_expression_remove(task->ignore[i], text->data, text->length, &out, err);
        sp_buf_deinit(text);
        *text = out;
    }
    if (rc == SP_OK && task->settings.ignore_case) {
        struct sp_buf out = SP_BUF_INIT;
        sp_buf_reserve(&out, 1);
        tok_lower(text->data, text->length, &out);
        sp_buf_deinit(text);
        *text = out;
    }
    if (rc == SP_OK && task->settings.ignore_punctuation)
        keep_without(punctuation, text);
    if (rc == SP_OK && task->settings.ignore_numbers)
        keep_without("0123456789", text);
    return rc;
}

/* Whether a result equals the target. */
static enum sp_err equals(const struct task *task, const char *result, size_t length,
                          const char *target, bool *ret, struct sp_error *err)
{
    struct sp_buf a = SP_BUF_INIT, b = SP_BUF_INIT;
    sp_buf_reserve(&a, 1);
    sp_buf_reserve(&b, 1);
    sp_buf_append(&a, result, length);
    sp_buf_puts(&b, target);
    enum sp_err rc = normalize(task, &a, err);
    if (rc == SP_OK)
        rc = normalize(task, &b, err);
    if (rc == SP_OK)
        *ret = a.length == b.length && memcmp(a.data, b.data, a.length) == 0;
    sp_buf_deinit(&a);
    sp_buf_deinit(&b);
    return rc;
}

/* One pattern over the answer: its result and whether it is right, under `name` in *ret. */
static enum sp_err match(const struct task *task, const struct tok_expression *expression,
                         int64_t select, const char *name, const char *answer, const char *target,
                         json_t *ret, struct sp_error *err)
{
    struct sp_buf found = SP_BUF_INIT;
    bool any = true, right = false;
    sp_buf_reserve(&found, 1);
    enum sp_err rc = SP_OK;
    if (expression != NULL)
        rc =
            tok_expression_find(expression, answer, strlen(answer), (int)select, &found, &any, err);
    else
        sp_buf_puts(&found, answer);
    const char *text = any ? found.data : "[invalid]";
    size_t length = strlen(text);
    if (expression != NULL)
        tok_strip(&text, &length);
    if (rc == SP_OK)
        rc = equals(task, text, length, target, &right, err);
    if (rc == SP_OK) {
        char *metric = sp_xprintf("exact_match%s%s", name[0] ? "_" : "", name);
        json_object_set_new(json_object_get(ret, "metrics"), metric, json_real(right ? 1.0 : 0.0));
        json_object_set_new(json_object_get(ret, "results"), metric, json_stringn(text, length));
        free(metric);
    }
    sp_buf_deinit(&found);
    return rc;
}

static enum sp_err score_generate(const struct task *task, const json_t *meta, const char *text,
                                  json_t **ret, struct sp_error *err)
{
    const struct task_settings *s = &task->settings;
    const char *target = json_string_value(json_object_get(meta, "target"));
    char *answer = sp_xstrdup(text);
    for (size_t i = 0; i < json_array_size(task->stop); i++) {
        const char *stop = json_string_value(json_array_get(task->stop, i));
        char *hit = stop[0] ? strstr(answer, stop) : NULL;
        if (hit != NULL)
            *hit = '\0';
    }
    json_t *scored = json_pack("{s:{},s:{},s:s}", "metrics", "results", "answer", answer);
    enum sp_err rc = scored ? SP_OK : sp_fail(err, SP_EFORMAT, "an answer is no UTF-8");
    bool plain = task->strict == NULL && task->flexible == NULL;
    if (rc == SP_OK && (task->strict != NULL || plain))
        rc = match(task, task->strict, s->strict_select, plain ? "" : "strict", answer, target,
                   scored, err);
    if (rc == SP_OK && task->flexible != NULL)
        rc = match(task, task->flexible, s->flexible_select, "flexible", answer, target, scored,
                   err);
    free(answer);
    if (rc == SP_OK)
        *ret = scored;
    else
        json_decref(scored);
    return rc;
}

enum sp_err task_score(const struct task *task, const json_t *meta, const double *loglikelihoods,
                       size_t count, const char *text, json_t **ret, struct sp_error *err)
{
    size_t n = json_array_size(json_object_get(meta, "choices"));
    switch (task->settings.kind) {
    case TASK_GENERATE:
        return score_generate(task, meta, text, ret, err);
    case TASK_LIKELIHOOD:
        if (count != 1)
            return sp_fail(err, SP_ECORRUPT, "%zu log-likelihoods of one target", count);
        *ret = score_likelihood(meta, loglikelihoods[0]);
        return SP_OK;
    case TASK_SHEET:
        *ret = json_pack("{s:{},s:s}", "metrics", "answer", text);
        return *ret ? SP_OK : sp_fail(err, SP_EFORMAT, "an answer is no UTF-8");
    default:
        if (count != n || n == 0 || n > TASK_MAX_CHOICES)
            return sp_fail(err, SP_ECORRUPT, "%zu log-likelihoods of %zu choices", count, n);
        *ret = task->settings.kind == TASK_CHOICE ? score_choice(task, meta, loglikelihoods, count)
                                                  : score_truthfulqa(meta, loglikelihoods, count);
        return SP_OK;
    }
}
