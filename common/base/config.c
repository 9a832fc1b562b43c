#include "common/base/config.h"

#include <ini.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/config_value.h"
#include "common/base/fs.h"
#include "common/base/limits.h"
#include "common/base/mem.h"
#include "common/base/utf8.h"

#define LINE_MAX_BYTES 65536

double sp_list_at(const struct sp_f64_list *list, int64_t i)
{
    SP_ASSERT(list->count > 0 && i >= 0);
    return list->values[SP_MIN(i, (int64_t)list->count - 1)];
}

void sp_config_init(const struct sp_config_spec *spec, void *values)
{
    memset(values, 0, spec->struct_bytes);
    for (size_t i = 0; i < spec->count; i++) {
        struct sp_error err;
        if (sp_setting_parse(&spec->settings[i], spec->settings[i].default_value, values, &err) !=
            SP_OK)
            sp_assert_failed(err.text, spec->settings[i].name, 0); /* the table itself is wrong */
    }
}

static char **string_at(const struct sp_setting *setting, void *values)
{
    return (char **)(void *)((char *)values + setting->offset);
}

void sp_config_deinit(const struct sp_config_spec *spec, void *values)
{
    for (size_t i = 0; i < spec->count; i++) {
        if (spec->settings[i].kind != SP_SET_STR)
            continue;
        char **slot = string_at(&spec->settings[i], values);
        free(*slot);
        *slot = NULL;
    }
}

/* Changes are made to a copy and take effect together, so that a bad file changes nothing. */
static void *stage(const struct sp_config_spec *spec, const void *values)
{
    void *copy = sp_xmemdup(values, spec->struct_bytes);
    for (size_t i = 0; i < spec->count; i++) {
        if (spec->settings[i].kind == SP_SET_STR) {
            char **slot = string_at(&spec->settings[i], copy);
            *slot = *slot != NULL ? sp_xstrdup(*slot) : NULL;
        }
    }
    return copy;
}

static void unstage(const struct sp_config_spec *spec, void *copy, void *values, bool commit)
{
    sp_config_deinit(spec, commit ? values : copy);
    if (commit)
        memcpy(values, copy, spec->struct_bytes);
    free(copy);
}

/* Levenshtein distance; names are short and the table is small. */
static size_t distance(const char *a, const char *b)
{
    size_t row[65];
    size_t n = SP_MIN(strlen(b), SP_COUNT(row) - 1);
    for (size_t j = 0; j <= n; j++)
        row[j] = j;
    for (size_t i = 0; a[i] != 0 && i < 64; i++) {
        size_t diagonal = row[0];
        row[0] = i + 1;
        for (size_t j = 0; j < n; j++) {
            size_t replaced = diagonal + (a[i] != b[j]);
            diagonal = row[j + 1];
            row[j + 1] = SP_MIN(replaced, SP_MIN(row[j], diagonal) + 1);
        }
    }
    return row[n];
}

static const char *nearest_name(const struct sp_config_spec *spec, const char *section,
                                const char *name)
{
    const char *best = NULL;
    size_t best_distance = SIZE_MAX;
    for (size_t i = 0; i < spec->count; i++) {
        if (section != NULL && strcmp(spec->settings[i].section, section) != 0)
            continue;
        size_t d = distance(name, spec->settings[i].name);
        if (d < best_distance) {
            best_distance = d;
            best = spec->settings[i].name;
        }
    }
    return best;
}

static bool has_section(const struct sp_config_spec *spec, const char *section,
                        const char **ret_nearest)
{
    size_t best = SIZE_MAX;
    for (size_t i = 0; i < spec->count; i++) {
        size_t d = distance(section, spec->settings[i].section);
        if (d < best) {
            best = d;
            *ret_nearest = spec->settings[i].section;
        }
        if (strcmp(spec->settings[i].section, section) == 0)
            return true;
    }
    return false;
}

static const struct sp_setting *find_setting(const struct sp_config_spec *spec, const char *section,
                                             const char *name)
{
    for (size_t i = 0; i < spec->count; i++)
        if (strcmp(spec->settings[i].section, section) == 0 &&
            strcmp(spec->settings[i].name, name) == 0)
            return &spec->settings[i];
    return NULL;
}

static enum sp_err unknown_name(const struct sp_config_spec *spec, const char *section,
                                const char *name, struct sp_error *err)
{
    for (size_t i = 0; i < spec->count; i++)
        if (strcmp(spec->settings[i].name, name) == 0)
            return sp_fail(err, SP_EFORMAT,
                           "[%.64s] %.64s: unknown setting here; it belongs in [%s]", section, name,
                           spec->settings[i].section);
    return sp_fail(err, SP_EFORMAT, "[%.64s] %.64s: unknown setting; did you mean \"%s\"?", section,
                   name, nearest_name(spec, section, name));
}

struct ini_run {
    const struct sp_config_spec *spec;
    void *values;
    const char *cursor, *end;
    int line;
    int *first_line; /* by setting: where it was given, 0 if not yet */
    enum sp_err rc;
    struct sp_error *err;
};

/* fgets over memory; counts lines, because the handler is not told where it is. */
static char *read_line(char *out, int bytes, void *stream)
{
    struct ini_run *run = stream;
    if (run->cursor >= run->end)
        return NULL;
    const char *newline = memchr(run->cursor, '\n', (size_t)(run->end - run->cursor));
    size_t length = (size_t)((newline != NULL ? newline + 1 : run->end) - run->cursor);
    length = SP_MIN(length, (size_t)bytes - 1);
    memcpy(out, run->cursor, length);
    out[length] = 0;
    run->cursor += length;
    run->line++;
    return out;
}

static int handle(void *user, const char *section, const char *name, const char *value)
{
    struct ini_run *run = user;
    const struct sp_config_spec *spec = run->spec;
    if (*section == 0) {
        run->rc = sp_fail(run->err, SP_EFORMAT, "%.64s: stands before the first [section]", name);
        return 0;
    }
    const struct sp_setting *setting = find_setting(spec, section, name);
    if (setting == NULL) {
        run->rc = unknown_name(spec, section, name, run->err);
        return 0;
    }
    int *first_line = &run->first_line[setting - spec->settings];
    if (*first_line != 0) {
        run->rc = sp_fail(run->err, SP_EFORMAT, "[%s] %s: given twice, first in line %d", section,
                          name, *first_line);
        return 0;
    }
    *first_line = run->line;
    enum sp_err rc = sp_setting_parse(setting, value, run->values, run->err);
    if (rc != SP_OK)
        run->rc = sp_wrap(run->err, rc, "[%s] %s", section, name);
    return rc == SP_OK;
}

/* What inih would pass over in silence: NUL bytes, over-long lines, text behind a section's
 * bracket, a section that nobody reads. Message without the line number, which is *ret_line. */
static enum sp_err check_lines(const struct sp_config_spec *spec, const char *text, size_t length,
                               int *ret_line, struct sp_error *err)
{
    const char *p = text, *end = text + length;
    for (*ret_line = 1; p < end; ++*ret_line) {
        const char *newline = memchr(p, '\n', (size_t)(end - p));
        const char *stop = newline != NULL ? newline : end;
        size_t bytes = (size_t)(stop - p);
        if (bytes > LINE_MAX_BYTES)
            return sp_fail(err, SP_EFORMAT, "the line has %zu bytes, the limit is %d", bytes,
                           LINE_MAX_BYTES);
        if (memchr(p, 0, bytes) != NULL)
            return sp_fail(err, SP_EFORMAT, "a NUL byte; is this a text file?");
        if (!sp_is_utf8(p, bytes))
            return sp_fail(err, SP_EFORMAT, "the line is not valid UTF-8");
        while (p < stop && (*p == ' ' || *p == '\t'))
            p++;
        while (stop > p && (stop[-1] == ' ' || stop[-1] == '\t' || stop[-1] == '\r'))
            stop--;
        if (p < stop && *p == '[') {
            char section[64] = "";
            if (stop[-1] != ']' || memchr(p, ']', (size_t)(stop - p)) != stop - 1)
                return sp_fail(err, SP_EFORMAT, "a section is one [name] alone on its line: %.*s",
                               (int)SP_MIN(stop - p, 80), p);
            size_t n = SP_MIN((size_t)(stop - p) - 2, sizeof(section) - 1);
            memcpy(section, p + 1, n);
            const char *nearest = "";
            if (!has_section(spec, section, &nearest))
                return sp_fail(err, SP_EFORMAT, "unknown section [%s]; did you mean [%s]?", section,
                               nearest);
        }
        p = newline != NULL ? newline + 1 : end;
    }
    return SP_OK;
}

/* Debian's library takes these at run time. Set once for the process. */
static void set_ini_options(void)
{
    ini_use_stack = false;
    ini_allow_realloc = false;
    ini_max_line = LINE_MAX_BYTES + 8;
    ini_initial_alloc = LINE_MAX_BYTES + 8;
    ini_allow_multiline = false;       /* an indented line is a line */
    ini_allow_inline_comments = false; /* " ;" may stand in a value; comments have own lines */
    ini_stop_on_first_error = true;
}

enum sp_err sp_config_parse(const struct sp_config_spec *spec, const char *text, size_t length,
                            const char *what, void *values, struct sp_error *err)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, set_ini_options);
    int line = 0;
    enum sp_err rc = check_lines(spec, text, length, &line, err);
    if (rc != SP_OK)
        return sp_wrap(err, rc, "%s:%d", what, line);
    struct ini_run run = {.spec = spec, .cursor = text, .end = text + length, .err = err};
    run.values = stage(spec, values);
    run.first_line = sp_xarray(spec->count, sizeof(int));
    int result = ini_parse_stream(read_line, &run, handle, &run);
    if (run.rc == SP_OK && result != 0)
        run.rc =
            sp_fail(err, SP_EFORMAT, "expected \"name = value\", \"[section]\" or a # comment");
    if (run.rc != SP_OK)
        sp_wrap(err, run.rc, "%s:%d", what, run.line);
    unstage(spec, run.values, values, run.rc == SP_OK);
    free(run.first_line);
    return run.rc;
}

enum sp_err sp_config_load(const struct sp_config_spec *spec, const char *path, void *values,
                           struct sp_error *err)
{
    char *text;
    size_t length;
    enum sp_err rc = sp_read_file(path, SP_MAX_INI_FILE, &text, &length, err);
    if (rc != SP_OK)
        return rc;
    rc = sp_config_parse(spec, text, length, path, values, err);
    free(text);
    return rc;
}

static const struct sp_setting *find_for_assignment(const struct sp_config_spec *spec,
                                                    const char *name, size_t length,
                                                    size_t *ret_matches)
{
    const struct sp_setting *found = NULL;
    *ret_matches = 0;
    for (size_t i = 0; i < spec->count; i++) {
        const struct sp_setting *s = &spec->settings[i];
        size_t section = strlen(s->section);
        if (length > section && name[section] == '.' && memcmp(name, s->section, section) == 0 &&
            strlen(s->name) == length - section - 1 &&
            memcmp(s->name, name + section + 1, length - section - 1) == 0) {
            *ret_matches = 1;
            return s;
        }
        if (strlen(s->name) == length && memcmp(s->name, name, length) == 0) {
            found = s;
            ++*ret_matches;
        }
    }
    return found;
}

enum sp_err sp_config_set(const struct sp_config_spec *spec, const char *assignment, void *values,
                          struct sp_error *err)
{
    size_t length = strcspn(assignment, "=");
    const char *value = assignment + length + 1;
    if (assignment[length] == 0 || length == 0)
        return sp_fail(err, SP_EINVAL, "\"%.80s\": expected section.name=value", assignment);
    while (length > 0 && assignment[length - 1] == ' ')
        length--;
    value += strspn(value, " ");
    size_t matches;
    const struct sp_setting *s = find_for_assignment(spec, assignment, length, &matches);
    char name[65] = "";
    memcpy(name, assignment, SP_MIN(length, sizeof(name) - 1));
    if (s == NULL) {
        const char *dot = strrchr(name, '.');
        const char *nearest = nearest_name(spec, NULL, dot != NULL ? dot + 1 : name);
        return sp_fail(err, SP_EINVAL, "%s: unknown setting; did you mean \"%s\"?", name, nearest);
    }
    if (matches > 1)
        return sp_fail(err, SP_EINVAL, "%s: in more than one section; write section.%s=…", name,
                       name);
    enum sp_err rc = sp_setting_parse(s, value, values, err);
    return rc == SP_OK ? SP_OK : sp_wrap(err, rc, "%s.%s", s->section, s->name);
}

static json_t *value_to_json(const struct sp_setting *setting, const void *values)
{
    const void *at = (const char *)values + setting->offset;
    struct sp_buf text = SP_BUF_INIT;
    json_t *result = NULL;
    switch (setting->kind) {
    case SP_SET_I64:
    case SP_SET_BYTES:
    case SP_SET_MS:
        return json_integer(*(const int64_t *)at);
    case SP_SET_F64:
        return json_real(*(const double *)at);
    case SP_SET_BOOL:
        return json_boolean(*(const bool *)at);
    case SP_SET_STR:
    case SP_SET_ENUM:
        sp_buf_reserve(&text, 0);
        sp_setting_format(setting, values, &text);
        result = json_string(text.data);
        sp_buf_deinit(&text);
        break;
    case SP_SET_LIST:
        result = json_array();
        for (int32_t i = 0; i < ((const struct sp_f64_list *)at)->count; i++)
            json_array_append_new(result, json_real(((const struct sp_f64_list *)at)->values[i]));
        break;
    }
    return result;
}

json_t *sp_config_to_json(const struct sp_config_spec *spec, const void *values)
{
    json_t *object = json_object();
    for (size_t i = 0; i < spec->count; i++) {
        char *key = sp_xprintf("%s.%s", spec->settings[i].section, spec->settings[i].name);
        SP_ASSERT(json_object_set_new(object, key, value_to_json(&spec->settings[i], values)) == 0);
        free(key);
    }
    return object;
}

static enum sp_err list_from_json(const struct sp_setting *setting, const json_t *value,
                                  struct sp_f64_list *ret, struct sp_error *err)
{
    struct sp_f64_list list = {0};
    size_t count = json_array_size(value);
    if (!json_is_array(value) || count == 0 || count > SP_LIST_MAX)
        return sp_fail(err, SP_EFORMAT, "expected an array of 1 to %d numbers", SP_LIST_MAX);
    for (size_t i = 0; i < count; i++) {
        const json_t *element = json_array_get(value, i);
        if (!json_is_number(element))
            return sp_fail(err, SP_EFORMAT, "element %zu is not a number", i);
        list.values[i] = json_number_value(element);
        enum sp_err rc = sp_setting_check(setting, list.values[i], err);
        if (rc != SP_OK)
            return rc;
    }
    list.count = (int32_t)count;
    *ret = list;
    return SP_OK;
}

static enum sp_err value_from_json(const struct sp_setting *setting, const json_t *value,
                                   void *values, struct sp_error *err)
{
    void *at = (char *)values + setting->offset;
    enum sp_err rc = SP_OK;
    switch (setting->kind) {
    case SP_SET_I64:
    case SP_SET_BYTES:
    case SP_SET_MS:
        if (!json_is_integer(value))
            return sp_fail(err, SP_EFORMAT, "expected an integer");
        rc = sp_setting_check(setting, (double)json_integer_value(value), err);
        if (rc == SP_OK)
            *(int64_t *)at = json_integer_value(value);
        return rc;
    case SP_SET_F64:
        if (!json_is_number(value))
            return sp_fail(err, SP_EFORMAT, "expected a number");
        rc = sp_setting_check(setting, json_number_value(value), err);
        if (rc == SP_OK)
            *(double *)at = json_number_value(value);
        return rc;
    case SP_SET_BOOL:
        if (!json_is_boolean(value))
            return sp_fail(err, SP_EFORMAT, "expected true or false");
        *(bool *)at = json_is_true(value);
        return SP_OK;
    case SP_SET_STR:
    case SP_SET_ENUM:
        if (!json_is_string(value))
            return sp_fail(err, SP_EFORMAT, "expected a string");
        return sp_setting_parse(setting, json_string_value(value), values, err);
    case SP_SET_LIST:
        return list_from_json(setting, value, at, err);
    }
    return rc;
}

enum sp_err sp_config_from_json(const struct sp_config_spec *spec, const json_t *object,
                                void *values, struct sp_error *err)
{
    if (!json_is_object(object))
        return sp_fail(err, SP_EFORMAT, "%s: not a JSON object", spec->title);
    void *copy = stage(spec, values);
    enum sp_err rc = SP_OK;
    for (size_t i = 0; i < spec->count && rc == SP_OK; i++) {
        char *key = sp_xprintf("%s.%s", spec->settings[i].section, spec->settings[i].name);
        const json_t *value = json_object_get(object, key);
        rc = value != NULL ? value_from_json(&spec->settings[i], value, copy, err)
                           : sp_fail(err, SP_EFORMAT, "missing");
        if (rc != SP_OK)
            sp_wrap(err, rc, "%s: field \"%s\"", spec->title, key);
        free(key);
    }
    if (rc == SP_OK && json_object_size(object) != spec->count) {
        const char *key;
        json_t *value;
        json_object_foreach((json_t *)(uintptr_t)object, key, value)
        {
            const char *dot = strrchr(key, '.');
            size_t matches = 0;
            if (dot == NULL || find_for_assignment(spec, key, strlen(key), &matches) == NULL) {
                rc = sp_fail(err, SP_EFORMAT, "%s: unknown field \"%.80s\"", spec->title, key);
                break;
            }
        }
        if (rc == SP_OK)
            rc = sp_fail(err, SP_EFORMAT, "%s: unknown fields", spec->title);
    }
    unstage(spec, copy, values, rc == SP_OK);
    return rc;
}
