/* internal: what the files of common/task share. */
#ifndef SPIN_TASK_INTERNAL_H
#define SPIN_TASK_INTERNAL_H

#include "common/task/task.h"
#include "common/text/expression.h"

struct task {
    struct task_settings settings;
    json_t *columns, *choices, *labels, *stop; /* lists; NULL: none given */
    struct tok_expression *strict, *flexible;  /* NULL: none */
    struct tok_expression **ignore;
    size_t ignore_count;
    json_t *examples; /* array of rows, or NULL */
};

/* ---- field.c ---- */
/* The value at a path: `a.b` goes into objects, through every element of a list, `a.0` takes an
 * element; NULL where there is none. New reference. */
json_t *task_field(const json_t *row, const char *path);
/* Text of a string, number or boolean; SP_EFORMAT for others. */
enum sp_err task_field_text(const json_t *value, const char *path, struct sp_buf *ret,
                            struct sp_error *err) SP_MUST_USE;
/* Appends the template with the row's fields in it. */
enum sp_err task_fill(const char *template, const json_t *row, struct sp_buf *ret,
                      struct sp_error *err) SP_MUST_USE;
/* HellaSwag's cleaning; *text is replaced. */
void task_clean_text(char **text);

/* ---- render.c, truthfulqa.c ---- */
/* One more request: the context is `prefix` and `context`, the continuation `delimiter` and
 * `continuation` (NULL: none). */
void task_add_request(struct task_question *question, const char *prefix, const char *context,
                      const char *delimiter, const char *continuation);
enum sp_err task_ask_truthfulqa(const struct task *task, const json_t *row, const char *prefix,
                                struct task_question *question, struct sp_error *err) SP_MUST_USE;

/* ---- layout.c ---- */
/* A row of a known other layout becomes one of the published one. Takes row, returns a reference.
 */
json_t *task_row_published(json_t *row);

#endif
