/* jinja: a strict interpreter for the part of Jinja that chat templates are written in.
 *
 * What it renders is what Jinja2 renders in the environment of transformers' apply_chat_template:
 * an immutable sandbox, trim_blocks, lstrip_blocks, no autoescape, the loopcontrols extension, the
 * `generation` tag, its own `tojson`, and the globals raise_exception, strftime_now, range, dict,
 * namespace. What it can't render exactly so is refused with the template's line and the construct,
 * when it is reached: a branch that no conversation takes may hold anything that parses.
 *
 * Templates come with models, so they are hostile: steps, memory, output and nesting have limits
 * (SP_MAX_TEMPLATE_… in common/base/limits.h). Nothing outside is reachable; the only clock is the
 * date that the caller gives.
 *
 * A compiled template never changes; any number of threads may render it. */
#ifndef SPIN_TEXT_JINJA_H
#define SPIN_TEXT_JINJA_H

#include <jansson.h>
#include <stddef.h>

#include "common/base/buf.h"
#include "common/base/err.h"

struct tok_jinja;

/* `what` names the template in messages. SP_EFORMAT for what Jinja refuses to parse,
 * SP_EUNSUPPORTED for a tag of other template languages' kind (include, extends, import, block,
 * autoescape). */
enum sp_err tok_jinja_compile(const char *text, size_t length, const char *what,
                              struct tok_jinja **ret, struct sp_error *err) SP_MUST_USE;
void tok_jinja_free(struct tok_jinja *template); /* NULL is fine */

/* Renders with the members of the object `context` as variables; appends to *ret, which is as
 * before on failure. date: "2026-07-31", what strftime_now says; NULL or "": calling it is refused.
 * SP_EINVAL where the template raises an exception of its own, SP_EUNSUPPORTED for a construct that
 * is not rendered here, SP_EFORMAT where Jinja would fail, SP_ELIMIT. */
enum sp_err tok_jinja_render(const struct tok_jinja *template, const json_t *context,
                             const char *date, struct sp_buf *ret,
                             struct sp_error *err) SP_MUST_USE;

#endif
