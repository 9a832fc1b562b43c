/* expression: regular expressions that users write for answers, with the meaning that Python's `re`
 * gives them (characters are Unicode), for results that are compared with those of a harness in
 * Python. An expression never changes after it is compiled: any thread. Nothing blocks.
 *
 * What Python and PCRE2 read differently (\Z, named groups of repeated names) is left to PCRE2. */
#ifndef SPIN_TEXT_EXPRESSION_H
#define SPIN_TEXT_EXPRESSION_H

#include <stdbool.h>
#include <stddef.h>

#include "common/base/buf.h"
#include "common/base/err.h"

struct tok_expression;

/* SP_EFORMAT with the place of the fault; `what` prefixes the message. */
enum sp_err tok_expression_compile(const char *source, const char *what,
                                   struct tok_expression **ret, struct sp_error *err) SP_MUST_USE;
void tok_expression_free(struct tok_expression *expression); /* NULL is fine */

/* re.findall(text)[select] (−1: the last one). Of a match with one group that group, with several
 * the first that is not empty, else the whole match; appended to *ret. *ret_found = false: there is
 * no such match, or all its groups are empty. text is UTF-8. SP_ELIMIT: the expression backtracks
 * without end. */
enum sp_err tok_expression_find(const struct tok_expression *expression, const char *text,
                                size_t length, int select, struct sp_buf *ret, bool *ret_found,
                                struct sp_error *err) SP_MUST_USE;
/* re.sub(expression, "", text); appended to *ret. */
enum sp_err tok_expression_remove(const struct tok_expression *expression, const char *text,
                                  size_t length, struct sp_buf *ret,
                                  struct sp_error *err) SP_MUST_USE;

/* Lower case, character by character. Appended. Text that is not UTF-8 is copied. */
void tok_lower(const char *text, size_t length, struct sp_buf *ret);
/* str.strip() of Python: white space of Unicode at both ends. */
void tok_strip(const char **text, size_t *length);
/* str.rstrip() */
void tok_strip_end(const char *text, size_t *length);

#endif
