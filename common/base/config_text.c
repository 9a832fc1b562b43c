/* The texts that are made from a table of settings: example file, --help, manual, Markdown. */
#include "common/base/config.h"

#include <stdlib.h>
#include <string.h>

#include "common/base/config_value.h"
#include "common/base/mem.h"

static const char *kind_text(enum sp_setting_kind kind)
{
    switch (kind) {
    case SP_SET_I64:
        return "whole number";
    case SP_SET_F64:
        return "number";
    case SP_SET_BOOL:
        return "boolean";
    case SP_SET_STR:
        return "text";
    case SP_SET_ENUM:
        return "choice";
    case SP_SET_BYTES:
        return "size";
    case SP_SET_MS:
        return "duration";
    case SP_SET_LIST:
        return "number or list by iteration";
    }
    return "";
}

/* "whole number, 1 to 64 tokens" */
static char *type_and_range(const struct sp_setting *setting)
{
    struct sp_buf range = SP_BUF_INIT, text = SP_BUF_INIT;
    sp_buf_reserve(&range, 0);
    sp_setting_describe_range(setting, &range);
    bool says_all = setting->kind == SP_SET_ENUM || setting->kind == SP_SET_BOOL;
    sp_buf_printf(&text, "%s%s%s", says_all ? "" : kind_text(setting->kind),
                  range.length > 0 && !says_all ? ", " : "", range.data);
    if (range.length == 0 && setting->units != NULL && *setting->units != 0)
        sp_buf_printf(&text, ", %s", setting->units);
    sp_buf_deinit(&range);
    return sp_buf_detach(&text);
}

static bool starts_section(const struct sp_config_spec *spec, size_t i)
{
    return i == 0 || strcmp(spec->settings[i].section, spec->settings[i - 1].section) != 0;
}

#define WRAP_COLUMNS 76 /* --help passes through argp, which wraps again at 79 */

/* Words of text in lines of at most WRAP_COLUMNS behind `prefix`. */
static void put_wrapped(struct sp_buf *out, const char *prefix, const char *text)
{
    size_t column = 0;
    for (const char *p = text; *p != 0;) {
        p += strspn(p, " ");
        size_t word = strcspn(p, " ");
        if (word == 0)
            break;
        if (column > 0 && column + 1 + word > WRAP_COLUMNS) {
            sp_buf_putc(out, '\n');
            column = 0;
        }
        sp_buf_puts(out, column == 0 ? prefix : " ");
        column += (column == 0 ? strlen(prefix) : 1) + word;
        sp_buf_append(out, p, word);
        p += word;
    }
    sp_buf_putc(out, '\n');
}

void sp_config_example(const struct sp_config_spec *spec, struct sp_buf *out)
{
    sp_buf_printf(out,
                  "# %s. Lines that begin with # are comments; what is commented out below\n"
                  "# is the default.\n",
                  spec->title);
    for (size_t i = 0; i < spec->count; i++) {
        const struct sp_setting *s = &spec->settings[i];
        if (starts_section(spec, i))
            sp_buf_printf(out, "\n[%s]\n", s->section);
        char *type = type_and_range(s);
        char *prose = sp_xprintf("%s (%s)", s->help, type);
        put_wrapped(out, "# ", prose);
        sp_buf_printf(out, "#%s =%s%s\n", s->name, *s->default_value ? " " : "", s->default_value);
        free(prose);
        free(type);
    }
}

void sp_config_help(const struct sp_config_spec *spec, struct sp_buf *out)
{
    for (size_t i = 0; i < spec->count; i++) {
        const struct sp_setting *s = &spec->settings[i];
        if (starts_section(spec, i))
            sp_buf_printf(out, "%s[%s]\n", i > 0 ? "\n" : "", s->section);
        char *type = type_and_range(s);
        sp_buf_printf(out, "  %s = %s  (%s)\n", s->name,
                      *s->default_value ? s->default_value : "\"\"", type);
        put_wrapped(out, "      ", s->help);
        free(type);
    }
}

/* mdoc: a leading period or quote would be a request, a backslash an escape. */
static void put_mdoc(struct sp_buf *out, const char *text)
{
    if (*text == '.' || *text == '\'')
        sp_buf_puts(out, "\\&");
    for (; *text != 0; text++)
        sp_buf_puts(out, *text == '\\' ? "\\e" : *text == '-' ? "\\-" : (char[2]){*text, 0});
}

void sp_config_man(const struct sp_config_spec *spec, struct sp_buf *out)
{
    for (size_t i = 0; i < spec->count; i++) {
        const struct sp_setting *s = &spec->settings[i];
        if (starts_section(spec, i)) {
            if (i > 0)
                sp_buf_puts(out, ".El\n");
            sp_buf_printf(out, ".Ss Section [%s]\n.Bl -tag -width Ds\n", s->section);
        }
        char *type = type_and_range(s);
        sp_buf_printf(out, ".It Va %s\n", s->name);
        put_mdoc(out, s->help);
        sp_buf_puts(out, "\n.Pq ");
        put_mdoc(out, type);
        sp_buf_puts(out, "\nDefault:\n");
        if (*s->default_value != 0) {
            sp_buf_puts(out, ".Ql ");
            put_mdoc(out, s->default_value);
            sp_buf_puts(out, " .\n");
        } else {
            sp_buf_puts(out, "empty.\n");
        }
        free(type);
    }
    if (spec->count > 0)
        sp_buf_puts(out, ".El\n");
}

static void put_markdown(struct sp_buf *out, const char *text)
{
    for (; *text != 0; text++)
        sp_buf_puts(out, *text == '|' ? "\\|" : (char[2]){*text, 0});
}

void sp_config_markdown(const struct sp_config_spec *spec, struct sp_buf *out)
{
    for (size_t i = 0; i < spec->count; i++) {
        const struct sp_setting *s = &spec->settings[i];
        if (starts_section(spec, i))
            sp_buf_printf(out,
                          "%s### [%s]\n\n| setting | default | values | what it is |\n"
                          "| --- | --- | --- | --- |\n",
                          i > 0 ? "\n" : "", s->section);
        char *type = type_and_range(s);
        sp_buf_printf(out, "| `%s` | ", s->name);
        if (*s->default_value != 0) {
            sp_buf_putc(out, '`');
            put_markdown(out, s->default_value);
            sp_buf_putc(out, '`');
        } else {
            sp_buf_puts(out, "empty");
        }
        sp_buf_puts(out, " | ");
        put_markdown(out, type);
        sp_buf_puts(out, " | ");
        put_markdown(out, s->help);
        sp_buf_puts(out, " |\n");
        free(type);
    }
}
