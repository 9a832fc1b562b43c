/* jinja_internal: what the files of the template interpreter share. Not for other files. */
#ifndef SPIN_TEXT_JINJA_INTERNAL_H
#define SPIN_TEXT_JINJA_INTERNAL_H

#include "common/text/jinja_tree.h"

/* ---- a rendering (jinja_run.c, jinja_eval.c) ---- */

struct jx_var {
    struct jx name, value;
};
struct jx_scope {
    struct jx_scope *parent;
    struct jx_var *vars;
    uint32_t count, capacity;
};
struct jx_macro {
    struct jx name;
    const struct jx_node *node; /* parameters; body in d */
    struct jx_scope *scope;     /* where it was defined */
    bool caller;                /* the body of a call block */
};
struct jx_run {
    const char *what;
    struct jx_memory memory;
    struct sp_buf *out; /* where output goes now */
    struct jx_scope *scope;
    struct jx hole; /* what the filter of a block is applied to */
    const char *date;
    uint64_t steps;
    uint32_t depth, line, loop_depth;
    bool leaving, continuing; /* after break, continue */
    enum sp_err rc;
    struct sp_error *err;
};
/* false: run->rc and *run->err are set; so with all that return bool unless it says otherwise. */
bool jx_fail(struct jx_run *run, enum sp_err code, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
bool jx_step(struct jx_run *run, uint64_t steps);
void *jx_take(struct jx_run *run, size_t count, size_t bytes); /* zeroed; NULL: failed */
bool jx_deeper(struct jx_run *run);                            /* run->depth-- comes back */
bool jx_define(struct jx_run *run, struct jx_scope *scope, struct jx name, struct jx value);
struct jx_scope *jx_scope_new(struct jx_run *run, struct jx_scope *parent);
bool jx_exec(struct jx_run *run, const struct jx_node *node);
/* Runs a body with its output in a buffer of its own; *ret: the text. */
bool jx_capture(struct jx_run *run, const struct jx_node *body, struct jx_scope *scope,
                struct jx *ret);
bool jx_eval(struct jx_run *run, const struct jx_node *node, struct jx *ret);

/* Arguments of a call, evaluated. */
struct jx_actual {
    struct jx *args;
    uint32_t count;
    struct jx_var *keywords;
    uint32_t keyword_count;
};
bool jx_eval_args(struct jx_run *run, const struct jx_args *args, struct jx_actual *ret);
/* Puts arguments in the order of `names` ("width first blank"), each given at most once; those that
 * are missing stay as they are in ret. what: for messages. */
bool jx_bind(struct jx_run *run, const char *what, const struct jx_actual *actual,
             const char *names, struct jx *ret);
bool jx_call(struct jx_run *run, struct jx callee, const struct jx_actual *actual, struct jx *ret);
bool jx_call_macro(struct jx_run *run, const struct jx_macro *macro, const struct jx_actual *actual,
                   struct jx caller, struct jx *ret);
bool jx_binary(struct jx_run *run, enum jx_op op, struct jx a, struct jx b, struct jx *ret);
bool jx_compare(struct jx_run *run, enum jx_op op, struct jx a, struct jx b, bool *ret);
bool jx_attribute(struct jx_run *run, struct jx object, struct jx name, struct jx *ret);
bool jx_item(struct jx_run *run, struct jx object, struct jx key, struct jx *ret);

/* ---- values (jinja_value.c, jinja_json.c) ---- */

const char *jx_type_name(struct jx v); /* Python's */
bool jx_truth(struct jx v);
struct jx jx_undefined(const char *name, size_t length);
bool jx_undefined_error(struct jx_run *run, struct jx v); /* always false */
bool jx_equal(struct jx_run *run, struct jx a, struct jx b, bool *ret);
bool jx_less(struct jx_run *run, struct jx a, struct jx b, bool *ret); /* a < b */
bool jx_contains(struct jx_run *run, struct jx container, struct jx v, bool *ret);
/* NULL: not there, or run->rc is set. */
struct jx *jx_dict_find(struct jx_run *run, const struct jx_dict *dict, struct jx key);
bool jx_dict_put(struct jx_run *run, struct jx_dict *dict, struct jx key, struct jx value);
bool jx_new_dict(struct jx_run *run, struct jx *ret);
bool jx_new_list(struct jx_run *run, enum jx_list_kind kind, size_t count, struct jx *ret);
bool jx_copy_text(struct jx_run *run, const char *s, size_t length, struct jx *ret);
bool jx_take_buf(struct jx_run *run, struct sp_buf *buf, struct jx *ret); /* frees buf */
/* What a `for` goes over; characters of a string, keys of a dict. */
bool jx_iterate(struct jx_run *run, struct jx v, const struct jx **ret, size_t *ret_count);
bool jx_length(struct jx_run *run, struct jx v, int64_t *ret);
/* Appends str(v), or repr(v). */
bool jx_str(struct jx_run *run, struct jx v, struct sp_buf *out);
bool jx_repr(struct jx_run *run, struct jx v, struct sp_buf *out);
void jx_float_text(double f, struct sp_buf *out);
bool jx_to_string(struct jx_run *run, struct jx v, struct jx *ret);
bool jx_check_size(struct jx_run *run, size_t bytes); /* of a text that is being made */
bool jx_from_json(struct jx_run *run, const json_t *value, struct jx *ret);
bool jx_tojson(struct jx_run *run, struct jx v, const struct jx_actual *actual, struct jx *ret);

/* ---- strings (jinja_string.c) ---- */

bool jx_python_space(uint32_t code); /* str.isspace */
size_t jx_char_count(struct jx v);
size_t jx_char_offset(struct jx v, size_t chars); /* bytes */
/* chars: NULL for white space. */
struct jx jx_strip(struct jx v, const struct jx *chars, bool left, bool right);
bool jx_change_case(struct jx_run *run, struct jx v, const char *how, struct jx *ret);
bool jx_replace(struct jx_run *run, struct jx v, struct jx old, struct jx new, int64_t most,
                struct jx *ret);
struct jx jx_part(struct jx v, size_t from, size_t to); /* bytes */
bool jx_one_text(struct jx_run *run, const char *what, const struct jx_actual *actual,
                 struct jx *ret); /* the one argument of a method */
/* The last place of `what` in v[0..end); -1: none. */
int64_t jx_find_last(struct jx v, size_t end, struct jx what);
bool jx_split(struct jx_run *run, struct jx v, const struct jx_actual *actual, bool right,
              struct jx *ret);
bool jx_partition(struct jx_run *run, struct jx v, const struct jx_actual *actual, bool last,
                  struct jx *ret);
bool jx_split_lines(struct jx_run *run, struct jx v, bool keep_ends, struct jx *ret);
/* Whether str has such a method, and whether it is one of those that are rendered here. */
bool jx_string_method_known(struct jx name);
bool jx_string_method(struct jx_run *run, struct jx self, struct jx name,
                      const struct jx_actual *actual, struct jx *ret);

/* ---- filters, tests, functions ---- */

bool jx_filter(struct jx_run *run, struct jx name, struct jx v, const struct jx_actual *actual,
               struct jx *ret);
/* Filters of sequences; *ret_known false when the name is none of them. */
bool jx_list_filter(struct jx_run *run, struct jx name, struct jx v, const struct jx_actual *actual,
                    struct jx *ret, bool *ret_known);
bool jx_test(struct jx_run *run, struct jx name, struct jx v, const struct jx_actual *actual,
             bool *ret);
/* str(v) for HTML, which is then safe; what is safe already stays as it is. */
bool jx_escape(struct jx_run *run, struct jx v, struct jx *ret);
bool jx_is_filter_name(struct jx name); /* Jinja's */
bool jx_is_test_name(struct jx name);
struct jx_function {
    const char *name;
    bool (*call)(struct jx_run *run, const struct jx_actual *actual, struct jx *ret);
};
/* A global of the environment; NULL: none. */
const struct jx_function *jx_global(struct jx name);
/* Methods of dicts and of the loop variable. */
bool jx_dict_method(struct jx_run *run, struct jx self, struct jx name,
                    const struct jx_actual *actual, struct jx *ret);
bool jx_loop_method(struct jx_run *run, struct jx self, struct jx name,
                    const struct jx_actual *actual, struct jx *ret);

#endif
