#include "common/base/config_value.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/mem.h"
#include "common/base/utf8.h"

struct unit {
    const char *name;
    int64_t factor;
};
static const struct unit byte_units[] = {
    {"TiB", (int64_t)1 << 40},
    {"GiB", (int64_t)1 << 30},
    {"MiB", (int64_t)1 << 20},
    {"KiB", (int64_t)1 << 10},
    {"B", 1},
};
static const struct unit time_units[] = {
    {"d", 86400000}, {"h", 3600000}, {"min", 60000}, {"s", 1000}, {"ms", 1},
};

#define VALUE(setting, values, type) ((type *)(void *)((char *)(values) + (setting)->offset))
#define CONST_VALUE(setting, values, type)                                                         \
    ((const type *)(const void *)((const char *)(values) + (setting)->offset))

/* "12", "1.5" and a unit; units are exact, so that 20 alone never means 20 of the wrong thing. */
static enum sp_err parse_amount(const char *text, const struct unit *units, size_t unit_count,
                                const char *expected, int64_t *ret, struct sp_error *err)
{
    size_t digits = strspn(text, "0123456789");
    size_t fraction = text[digits] == '.' ? 1 + strspn(text + digits + 1, "0123456789") : 0;
    const char *unit = text + digits + fraction;
    unit += strspn(unit, " \t");
    if (digits == 0 || digits > 18 || fraction == 1)
        return sp_fail(err, SP_EFORMAT, "\"%.80s\" is not %s", text, expected);
    long long whole = strtoll(text, NULL, 10);
    if (whole == 0 && *unit == 0 && fraction == 0) {
        *ret = 0;
        return SP_OK;
    }
    for (size_t i = 0; i < unit_count; i++) {
        if (strcmp(unit, units[i].name) != 0)
            continue;
        int64_t value;
        if (fraction == 0) {
            if (__builtin_mul_overflow((int64_t)whole, units[i].factor, &value))
                return sp_fail(err, SP_EFORMAT, "\"%.80s\" is too large", text);
        } else {
            double amount = strtod(text, NULL) * (double)units[i].factor;
            if (amount > 0x1p53)
                return sp_fail(err, SP_EFORMAT, "\"%.80s\" is too large", text);
            value = llround(amount);
        }
        *ret = value;
        return SP_OK;
    }
    if (*unit == 0)
        return sp_fail(err, SP_EFORMAT, "\"%.80s\" has no unit, expected %s", text, expected);
    return sp_fail(err, SP_EFORMAT, "\"%.80s\": unknown unit \"%.20s\", expected %s", text, unit,
                   expected);
}

enum sp_err sp_parse_bytes(const char *text, int64_t *ret, struct sp_error *err)
{
    /* A bare number is a number of bytes. */
    if (*text != 0 && text[strspn(text, "0123456789")] == 0 && strlen(text) <= 18) {
        *ret = strtoll(text, NULL, 10);
        return SP_OK;
    }
    return parse_amount(text, byte_units, SP_COUNT(byte_units),
                        "a size such as 512 KiB, 4 MiB or 2 GiB", ret, err);
}

enum sp_err sp_parse_ms(const char *text, int64_t *ret, struct sp_error *err)
{
    return parse_amount(text, time_units, SP_COUNT(time_units),
                        "a duration such as 500 ms, 20 s, 5 min or 2 h", ret, err);
}

static void format_amount(int64_t value, const struct unit *units, size_t count, const char *zero,
                          struct sp_buf *out)
{
    for (size_t i = 0; i < count; i++) {
        if (value != 0 && value % units[i].factor == 0) {
            sp_buf_printf(out, "%lld %s", (long long)(value / units[i].factor), units[i].name);
            return;
        }
    }
    sp_buf_puts(out, zero);
}

void sp_format_double(double value, struct sp_buf *out)
{
    char text[40];
    for (int precision = 1; precision <= 17; precision++) {
        snprintf(text, sizeof(text), "%.*g", precision, value);
        if (strtod(text, NULL) == value)
            break;
    }
    sp_buf_puts(out, text);
}

static void format_bound(const struct sp_setting *setting, double bound, struct sp_buf *out)
{
    if (setting->kind == SP_SET_BYTES && fabs(bound) < 0x1p63)
        format_amount((int64_t)bound, byte_units, SP_COUNT(byte_units), "0", out);
    else if (setting->kind == SP_SET_MS && fabs(bound) < 0x1p63)
        format_amount((int64_t)bound, time_units, SP_COUNT(time_units), "0", out);
    else if (floor(bound) == bound && fabs(bound) < 1e7)
        sp_buf_printf(out, "%.0f", bound);
    else
        sp_format_double(bound, out);
}

static bool has_range(const struct sp_setting *setting)
{
    bool number = setting->kind == SP_SET_I64 || setting->kind == SP_SET_F64 ||
                  setting->kind == SP_SET_BYTES || setting->kind == SP_SET_MS ||
                  setting->kind == SP_SET_LIST;
    return number && (setting->min != 0 || setting->max != 0);
}

void sp_setting_describe_range(const struct sp_setting *setting, struct sp_buf *out)
{
    if (setting->kind == SP_SET_ENUM) {
        sp_buf_puts(out, "one of ");
        for (const char *p = setting->choices; *p != 0; p++)
            sp_buf_puts(out, *p == '|' ? ", " : (char[2]){*p, 0});
        return;
    }
    if (setting->kind == SP_SET_BOOL)
        sp_buf_puts(out, "true or false");
    if (!has_range(setting))
        return;
    bool open_above = setting->max >= 9e15 && setting->kind != SP_SET_I64;
    sp_buf_puts(out, open_above ? "at least " : "");
    format_bound(setting, setting->min, out);
    if (!open_above) {
        sp_buf_puts(out, " to ");
        format_bound(setting, setting->max, out);
    }
    if (setting->units != NULL && *setting->units != 0 && setting->kind != SP_SET_BYTES &&
        setting->kind != SP_SET_MS)
        sp_buf_printf(out, " %s", setting->units);
}

enum sp_err sp_setting_check(const struct sp_setting *setting, double value, struct sp_error *err)
{
    if (!has_range(setting) || (value >= setting->min && value <= setting->max))
        return SP_OK;
    struct sp_buf text = SP_BUF_INIT;
    format_bound(setting, value, &text);
    sp_buf_puts(&text, " is out of range, expected ");
    sp_setting_describe_range(setting, &text);
    sp_fail(err, SP_EFORMAT, "%s", text.data);
    sp_buf_deinit(&text);
    return SP_EFORMAT;
}

static bool parse_double(const char *text, size_t length, double *ret)
{
    char copy[64];
    if (length == 0 || length >= sizeof(copy) || strspn(text, "0123456789+-.eE") < length)
        return false;
    memcpy(copy, text, length);
    copy[length] = 0;
    char *end;
    double value = strtod(copy, &end);
    if (*end != 0 || !isfinite(value))
        return false;
    *ret = value;
    return true;
}

static enum sp_err parse_list(const struct sp_setting *setting, const char *text,
                              struct sp_f64_list *ret, struct sp_error *err)
{
    struct sp_f64_list list = {0};
    for (const char *p = text;; p++) {
        p += strspn(p, " \t");
        size_t length = strcspn(p, ",");
        size_t trimmed = length;
        while (trimmed > 0 && (p[trimmed - 1] == ' ' || p[trimmed - 1] == '\t'))
            trimmed--;
        double value;
        if (!parse_double(p, trimmed, &value))
            return sp_fail(err, SP_EFORMAT,
                           "\"%.80s\" is not a number or a list such as 5e-7, 1e-7", text);
        if (list.count == SP_LIST_MAX)
            return sp_fail(err, SP_EFORMAT, "more than %d values in the list", SP_LIST_MAX);
        enum sp_err rc = sp_setting_check(setting, value, err);
        if (rc != SP_OK)
            return rc;
        list.values[list.count++] = value;
        p += length;
        if (*p == 0)
            break;
    }
    *ret = list;
    return SP_OK;
}

/* Index of text among "a|b|c", or -1. */
static int choice_index(const char *choices, const char *text)
{
    size_t length = strlen(text);
    int index = 0;
    for (const char *p = choices; length > 0; index++) {
        size_t n = strcspn(p, "|");
        if (n == length && memcmp(p, text, n) == 0)
            return index;
        if (p[n] == 0)
            break;
        p += n + 1;
    }
    return -1;
}

static enum sp_err parse_bool(const char *text, bool *ret, struct sp_error *err)
{
    static const char *const words[] = {"false", "true", "no", "yes", "off", "on", "0", "1"};
    for (size_t i = 0; i < SP_COUNT(words); i++) {
        if (strcasecmp(text, words[i]) == 0) {
            *ret = i % 2 == 1;
            return SP_OK;
        }
    }
    return sp_fail(err, SP_EFORMAT, "\"%.80s\" is not true or false", text);
}

static enum sp_err parse_i64(const char *text, int64_t *ret, struct sp_error *err)
{
    const char *digits = text + (*text == '-' || *text == '+');
    if (*digits == 0 || digits[strspn(digits, "0123456789")] != 0)
        return sp_fail(err, SP_EFORMAT, "\"%.80s\" is not a whole number", text);
    errno = 0;
    long long value = strtoll(text, NULL, 10);
    if (errno != 0)
        return sp_fail(err, SP_EFORMAT, "%.80s does not fit in 64 bits", text);
    *ret = value;
    return SP_OK;
}

static enum sp_err parse_choice(const struct sp_setting *setting, const char *text, int *ret,
                                struct sp_error *err)
{
    int index = choice_index(setting->choices, text);
    if (index >= 0) {
        *ret = index;
        return SP_OK;
    }
    struct sp_buf expected = SP_BUF_INIT;
    sp_setting_describe_range(setting, &expected);
    sp_fail(err, SP_EFORMAT, "\"%.80s\" is not %s", text, expected.data);
    sp_buf_deinit(&expected);
    return SP_EFORMAT;
}

static enum sp_err parse_string(const char *text, char **slot, struct sp_error *err)
{
    if (!sp_is_utf8(text, strlen(text)))
        return sp_fail(err, SP_EFORMAT, "the text is not valid UTF-8");
    char *copy = sp_xstrdup(text);
    free(*slot);
    *slot = copy;
    return SP_OK;
}

enum sp_err sp_setting_parse(const struct sp_setting *setting, const char *text, void *values,
                             struct sp_error *err)
{
    int64_t integer = 0;
    double number = 0;
    enum sp_err rc = SP_OK;
    switch (setting->kind) {
    case SP_SET_STR:
        return parse_string(text, VALUE(setting, values, char *), err);
    case SP_SET_BOOL:
        return parse_bool(text, VALUE(setting, values, bool), err);
    case SP_SET_ENUM:
        return parse_choice(setting, text, VALUE(setting, values, int), err);
    case SP_SET_LIST:
        return parse_list(setting, text, VALUE(setting, values, struct sp_f64_list), err);
    case SP_SET_F64:
        if (!parse_double(text, strlen(text), &number))
            return sp_fail(err, SP_EFORMAT, "\"%.80s\" is not a number", text);
        rc = sp_setting_check(setting, number, err);
        if (rc == SP_OK)
            *VALUE(setting, values, double) = number;
        return rc;
    case SP_SET_I64:
        rc = parse_i64(text, &integer, err);
        break;
    case SP_SET_BYTES:
        rc = sp_parse_bytes(text, &integer, err);
        break;
    case SP_SET_MS:
        rc = sp_parse_ms(text, &integer, err);
        break;
    }
    if (rc == SP_OK)
        rc = sp_setting_check(setting, (double)integer, err);
    if (rc == SP_OK)
        *VALUE(setting, values, int64_t) = integer;
    return rc;
}

static void format_choice(const char *choices, int index, struct sp_buf *out)
{
    const char *p = choices;
    for (; index > 0; index--)
        p += strcspn(p, "|") + 1;
    sp_buf_append(out, p, strcspn(p, "|"));
}

void sp_setting_format(const struct sp_setting *setting, const void *values, struct sp_buf *out)
{
    const struct sp_f64_list *list;
    switch (setting->kind) {
    case SP_SET_I64:
        sp_buf_printf(out, "%lld", (long long)*CONST_VALUE(setting, values, int64_t));
        break;
    case SP_SET_F64:
        sp_format_double(*CONST_VALUE(setting, values, double), out);
        break;
    case SP_SET_BOOL:
        sp_buf_puts(out, *CONST_VALUE(setting, values, bool) ? "true" : "false");
        break;
    case SP_SET_STR:
        sp_buf_puts(out, *CONST_VALUE(setting, values, char *));
        break;
    case SP_SET_ENUM:
        format_choice(setting->choices, *CONST_VALUE(setting, values, int), out);
        break;
    case SP_SET_BYTES:
        format_amount(*CONST_VALUE(setting, values, int64_t), byte_units, SP_COUNT(byte_units), "0",
                      out);
        break;
    case SP_SET_MS:
        format_amount(*CONST_VALUE(setting, values, int64_t), time_units, SP_COUNT(time_units), "0",
                      out);
        break;
    case SP_SET_LIST:
        list = CONST_VALUE(setting, values, struct sp_f64_list);
        for (int32_t i = 0; i < list->count; i++) {
            sp_buf_puts(out, i > 0 ? ", " : "");
            sp_format_double(list->values[i], out);
        }
        break;
    }
}
