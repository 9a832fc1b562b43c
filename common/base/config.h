/* config: settings from one table. The table (an X-macro or a static array of struct sp_setting) is
 * the only place where a setting's name, type, default, limits, units and prose stand; the INI
 * parser, --help, the man page and the example file come from it.
 *
 * Values live in a caller's struct at `offset`. Kinds and their C types:
 *   SP_SET_I64 int64_t · SP_SET_F64 double · SP_SET_BOOL bool · SP_SET_STR char * (owned, not NULL)
 *   SP_SET_ENUM int (index into choices, "a|b|c") · SP_SET_BYTES int64_t ("4 MiB") ·
 *   SP_SET_MS int64_t ("20 s", "500 ms", "5 min") · SP_SET_LIST struct sp_f64_list ("5e-7, 1e-7")
 * Not for concurrent change of one struct. */
#ifndef SPIN_BASE_CONFIG_H
#define SPIN_BASE_CONFIG_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/base/err.h"
#include "common/base/buf.h"

enum sp_setting_kind {
    SP_SET_I64,
    SP_SET_F64,
    SP_SET_BOOL,
    SP_SET_STR,
    SP_SET_ENUM,
    SP_SET_BYTES,
    SP_SET_MS,
    SP_SET_LIST,
};

#define SP_LIST_MAX 64
struct sp_f64_list {
    int32_t count;
    double values[SP_LIST_MAX];
};
/* The value for iteration i: the i-th, or the last one when the list is shorter. */
double sp_list_at(const struct sp_f64_list *list, int64_t i);

struct sp_setting {
    const char *section; /* INI section, "run", "train", … */
    const char *name;
    enum sp_setting_kind kind;
    size_t offset;             /* in the caller's struct */
    const char *default_value; /* as text, parsed like a file's; "" for an empty string */
    double min, max;           /* inclusive, for numbers and each list element; bytes and
                                  milliseconds for those kinds; both 0: no limits */
    const char *units;         /* "tokens", "ms", "" */
    const char *choices;       /* SP_SET_ENUM: "spin|sft|dpo" */
    const char *help;          /* one sentence */
};

struct sp_config_spec {
    const char *title; /* "run settings" */
    const struct sp_setting *settings;
    size_t count;
    size_t struct_bytes;
};

/* Fills *values (zeroed first) with the defaults. */
void sp_config_init(const struct sp_config_spec *spec, void *values);
void sp_config_deinit(const struct sp_config_spec *spec, void *values); /* frees strings */
/* Reads an INI file over what is there. Unknown section or name, a bad value, a value out of range,
 * a name given twice: SP_EFORMAT with "FILE:LINE: [section] name: …" and, for an unknown name, the
 * nearest known one. Lines up to 64 KiB, files up to 1 MiB. */
enum sp_err sp_config_load(const struct sp_config_spec *spec, const char *path, void *values,
                           struct sp_error *err) SP_MUST_USE;
enum sp_err sp_config_parse(const struct sp_config_spec *spec, const char *text, size_t length,
                            const char *what, void *values, struct sp_error *err) SP_MUST_USE;
/* One assignment "section.name=value" or "name=value" where the name is unique (command line). */
enum sp_err sp_config_set(const struct sp_config_spec *spec, const char *assignment, void *values,
                          struct sp_error *err) SP_MUST_USE;
/* Canonical JSON object {"section.name": value…} with every setting, sorted; and back (unknown or
 * missing keys and bad values are SP_EFORMAT). What a run freezes. New reference. */
json_t *sp_config_to_json(const struct sp_config_spec *spec, const void *values);
enum sp_err sp_config_from_json(const struct sp_config_spec *spec, const json_t *object,
                                void *values, struct sp_error *err) SP_MUST_USE;

/* Generated text: a commented example file, a table for --help, a table in mdoc for man pages, a
 * Markdown table for docs/. */
void sp_config_example(const struct sp_config_spec *spec, struct sp_buf *out);
void sp_config_help(const struct sp_config_spec *spec, struct sp_buf *out);
void sp_config_man(const struct sp_config_spec *spec, struct sp_buf *out);
void sp_config_markdown(const struct sp_config_spec *spec, struct sp_buf *out);

/* "4 MiB" → 4194304; "20 s" → 20000. */
enum sp_err sp_parse_bytes(const char *text, int64_t *ret, struct sp_error *err) SP_MUST_USE;
enum sp_err sp_parse_ms(const char *text, int64_t *ret, struct sp_error *err) SP_MUST_USE;

#endif
