/* Patterns: literal strings and regular expressions. The expressions of tokenizer.json are written
 * for Oniguruma (Ruby syntax); they are rewritten here for PCRE2 where the two differ. */
#define PCRE2_CODE_UNIT_WIDTH 8
#include <ctype.h>
#include <pcre2.h>
#include <stdlib.h>
#include <string.h>

#include "common/text/internal.h"

/* White_Space without U+180E, which PCRE2's \s still has; and what Oniguruma calls a word
 * character: letters, marks, digits, connectors, other alphabetic characters and the numbers of
 * Latin-1. (Characters that are younger than PCRE2's tables are unassigned there, so no letters.)
 */
#define SPACES                                                                                     \
    "\\x{9}-\\x{d}\\x{20}\\x{85}\\x{a0}\\x{1680}\\x{2000}-\\x{200a}\\x{2028}\\x{2029}\\x{202f}"    \
    "\\x{205f}\\x{3000}"
#define WORDS                                                                                      \
    "\\p{L}\\p{M}\\p{Nd}\\p{Nl}\\p{Pc}\\xb2\\xb3\\xb9\\xbc-\\xbe\\x{24b6}-\\x{24e9}\\x{1f130}-"    \
    "\\x{1f149}"                                                                                   \
    "\\x{1f150}-\\x{1f169}\\x{1f170}-\\x{1f189}"
#define HEX "0-9A-Fa-f"

/* A search needs little; an expression that backtracks without end must not eat the machine. */
#define JIT_STACK_START (32 * 1024)
#define JIT_STACK_LIMIT (8 * 1024 * 1024)
#define MATCH_LIMIT 50000000

struct tok_regex {
    pcre2_code *code;
    pcre2_match_context *context;
    bool jit;
};

struct tok_matcher {
    const struct tok_pattern *pattern;
    pcre2_match_data *data; /* NULL for a literal */
    pcre2_jit_stack *stack; /* own, because matching happens on many threads */
    pcre2_match_context *context;
    const char *text;
    size_t length, from; /* of the text; where the search goes on */
    bool found;          /* the last match ended at `from` */
};

/* The rewriting of one expression. */
struct rewrite {
    const char *source;
    size_t length, at;
    bool in_class;
    const char *what;
    struct sp_buf out;
    struct sp_error *err;
};

static enum sp_err refuse(struct rewrite *rw, const char *construct)
{
    return sp_fail(rw->err, SP_EUNSUPPORTED, "%s: %s is not supported in the expression %.*s",
                   rw->what, construct, (int)SP_MIN(rw->length, (size_t)300), rw->source);
}

static void put_class(struct rewrite *rw, const char *members, bool negated)
{
    if (rw->in_class)
        sp_buf_puts(&rw->out, members);
    else
        sp_buf_printf(&rw->out, negated ? "[^%s]" : "[%s]", members);
}

/* \p{Han} is a script for Oniguruma; for PCRE2 it would be the script extensions. */
static enum sp_err rewrite_property(struct rewrite *rw)
{
    static const char *const plain[] = {
        "Any",         "Alphabetic",           "Lowercase", "Uppercase", "Emoji",
        "White_Space", "Extended_Pictographic"};
    const char *brace = rw->source + rw->at;
    if (rw->at >= rw->length || *brace != '{') {
        sp_buf_putc(&rw->out, brace[-1]); /* \pL is a property for PCRE2 only */
        return SP_OK;
    }
    const char *close = memchr(brace, '}', rw->length - rw->at);
    if (close == NULL)
        return refuse(rw, "an unclosed \\p{");
    const char *name = brace + 1;
    size_t n = (size_t)(close - name);
    bool script = n > 2 && *name != '^';
    for (size_t i = 0; i < SP_COUNT(plain); i++)
        if (strlen(plain[i]) == n && memcmp(plain[i], name, n) == 0)
            script = false;
    sp_buf_printf(&rw->out, "\\%c{%s%.*s}", brace[-1], script ? "sc:" : "", (int)n, name);
    rw->at += n + 2;
    return SP_OK;
}

static enum sp_err rewrite_escape(struct rewrite *rw)
{
    if (rw->at + 1 >= rw->length)
        return refuse(rw, "a backslash at the end");
    char c = rw->source[rw->at + 1];
    rw->at += 2;
    if (rw->in_class && strchr("SWHR", c) != NULL)
        return refuse(rw, "a negated class within a class");
    switch (c) {
    case 's':
    case 'S':
        put_class(rw, SPACES, c == 'S');
        return SP_OK;
    case 'w':
    case 'W':
        put_class(rw, WORDS, c == 'W');
        return SP_OK;
    case 'h':
    case 'H':
        put_class(rw, HEX, c == 'H');
        return SP_OK;
    case 'p':
    case 'P':
        return rewrite_property(rw);
    case 'b':
        if (rw->in_class)
            break;
        sp_buf_puts(&rw->out,
                    "(?:(?<=[" WORDS "])(?![" WORDS "])|(?<![" WORDS "])(?=[" WORDS "]))");
        return SP_OK;
    case 'B':
    case 'G':
    case 'K':
    case 'R':
    case 'X':
    case 'y':
    case 'Y':
    case 'g':
    case 'k':
    case 'M':
    case 'C':
        return refuse(rw, "one of \\B \\G \\K \\R \\X \\g \\k");
    case 'u':
        if (rw->at + 4 > rw->length)
            return refuse(rw, "a \\u without four digits");
        sp_buf_printf(&rw->out, "\\x{%.4s}", rw->source + rw->at);
        rw->at += 4;
        return SP_OK;
    default:
        break;
    }
    sp_buf_putc(&rw->out, '\\');
    sp_buf_putc(&rw->out, c);
    return SP_OK;
}

/* A quantifier {n,m}; Ruby reads {n,m}+ as a repetition, PCRE2 as possessive. */
static enum sp_err rewrite_brace(struct rewrite *rw)
{
    size_t end = rw->at + 1;
    while (end < rw->length && (isdigit((unsigned char)rw->source[end]) || rw->source[end] == ','))
        end++;
    if (end < rw->length && rw->source[end] == '}' && end + 1 < rw->length &&
        rw->source[end + 1] == '+')
        return refuse(rw, "{n,m}+");
    sp_buf_putc(&rw->out, '{');
    rw->at++;
    return SP_OK;
}

/* (?m: lets the dot match a newline in Ruby; that flag is called s in PCRE2. */
static void rewrite_group(struct rewrite *rw)
{
    sp_buf_putc(&rw->out, '(');
    rw->at++;
    if (rw->at >= rw->length || rw->source[rw->at] != '?')
        return;
    size_t end = rw->at + 1;
    while (end < rw->length && strchr("imx-", rw->source[end]) != NULL)
        end++;
    if (end >= rw->length || (rw->source[end] != ':' && rw->source[end] != ')'))
        return;
    for (; rw->at < end; rw->at++)
        sp_buf_putc(&rw->out, rw->source[rw->at] == 'm' ? 's' : rw->source[rw->at]);
}

static enum sp_err rewrite_class_char(struct rewrite *rw, char c)
{
    if (c == '[')
        return refuse(rw, "a class within a class");
    if (c == '&' && rw->at + 1 < rw->length && rw->source[rw->at + 1] == '&')
        return refuse(rw, "an intersection of classes");
    if (c == ']')
        rw->in_class = false;
    sp_buf_putc(&rw->out, c);
    rw->at++;
    return SP_OK;
}

static enum sp_err rewrite_all(struct rewrite *rw)
{
    enum sp_err rc = SP_OK;
    while (rc == SP_OK && rw->at < rw->length) {
        char c = rw->source[rw->at];
        if (c == '\\') {
            rc = rewrite_escape(rw);
        } else if (rw->in_class) {
            rc = rewrite_class_char(rw, c);
        } else if (c == '{') {
            rc = rewrite_brace(rw);
        } else if (c == '(') {
            rewrite_group(rw);
        } else {
            sp_buf_putc(&rw->out, c);
            rw->at++;
            if (c == '[') {
                rw->in_class = true;
                if (rw->at < rw->length && rw->source[rw->at] == '^') {
                    sp_buf_putc(&rw->out, '^');
                    rw->at++;
                }
            }
        }
    }
    return rc;
}

enum sp_err tok_regex_compile(const char *source, size_t length, const char *what,
                              struct tok_regex **ret, struct sp_error *err)
{
    struct rewrite rw = {.source = source, .length = length, .what = what, .err = err};
    enum sp_err rc = rewrite_all(&rw);
    if (rc != SP_OK) {
        sp_buf_deinit(&rw.out);
        return rc;
    }
    int number;
    PCRE2_SIZE where;
    pcre2_compile_context *options = pcre2_compile_context_create(NULL);
    SP_ASSERT(options != NULL);
    pcre2_set_newline(options, PCRE2_NEWLINE_LF);
    pcre2_code *code =
        pcre2_compile((PCRE2_SPTR)(rw.out.data ? rw.out.data : ""), rw.out.length,
                      PCRE2_UTF | PCRE2_UCP | PCRE2_MULTILINE, &number, &where, options);
    pcre2_compile_context_free(options);
    sp_buf_deinit(&rw.out);
    if (code == NULL) {
        PCRE2_UCHAR message[128];
        pcre2_get_error_message(number, message, sizeof(message));
        return sp_fail(err, SP_EFORMAT, "%s: the expression %.*s: %s", what,
                       (int)SP_MIN(length, (size_t)300), source, (const char *)message);
    }
    struct tok_regex *regex = sp_xalloc(sizeof(*regex));
    regex->code = code;
    regex->context = pcre2_match_context_create(NULL);
    SP_ASSERT(regex->context != NULL);
    pcre2_set_match_limit(regex->context, MATCH_LIMIT);
    regex->jit = pcre2_jit_compile(code, PCRE2_JIT_COMPLETE) == 0;
    *ret = regex;
    return SP_OK;
}

void tok_regex_free(struct tok_regex *regex)
{
    if (regex == NULL)
        return;
    pcre2_match_context_free(regex->context);
    pcre2_code_free(regex->code);
    free(regex);
}

void tok_pattern_deinit(struct tok_pattern *pattern)
{
    free(pattern->text);
    tok_regex_free(pattern->regex);
    *pattern = (struct tok_pattern){0};
}

struct tok_matcher *tok_matcher_new(const struct tok_pattern *pattern)
{
    struct tok_matcher *matcher = sp_xalloc(sizeof(*matcher));
    matcher->pattern = pattern;
    if (pattern->regex != NULL) {
        matcher->data = pcre2_match_data_create_from_pattern(pattern->regex->code, NULL);
        matcher->context = pcre2_match_context_copy(pattern->regex->context);
        SP_ASSERT(matcher->data != NULL && matcher->context != NULL);
    }
    return matcher;
}

void tok_matcher_free(struct tok_matcher *matcher)
{
    if (matcher == NULL)
        return;
    if (matcher->data != NULL)
        pcre2_match_data_free(matcher->data);
    if (matcher->context != NULL)
        pcre2_match_context_free(matcher->context);
    if (matcher->stack != NULL)
        pcre2_jit_stack_free(matcher->stack);
    free(matcher);
}

static int match(struct tok_matcher *matcher)
{
    const struct tok_regex *regex = matcher->pattern->regex;
    PCRE2_SPTR text = (PCRE2_SPTR)matcher->text;
    if (!regex->jit)
        return pcre2_match(regex->code, text, matcher->length, matcher->from, PCRE2_NO_UTF_CHECK,
                           matcher->data, matcher->context);
    int n = pcre2_jit_match(regex->code, text, matcher->length, matcher->from, PCRE2_NO_UTF_CHECK,
                            matcher->data, matcher->context);
    if (n == PCRE2_ERROR_JIT_STACKLIMIT && matcher->stack == NULL) {
        /* The 32 KiB of machine stack that PCRE2 takes by itself were too little. */
        matcher->stack = pcre2_jit_stack_create(JIT_STACK_START, JIT_STACK_LIMIT, NULL);
        SP_ASSERT(matcher->stack != NULL);
        pcre2_jit_stack_assign(matcher->context, NULL, matcher->stack);
        n = pcre2_jit_match(regex->code, text, matcher->length, matcher->from, PCRE2_NO_UTF_CHECK,
                            matcher->data, matcher->context);
    }
    return n;
}

/* As tok_matcher_next, but for empty matches. */
static int find(struct tok_matcher *matcher, size_t *ret_start, size_t *ret_end,
                struct sp_error *err)
{
    const struct tok_pattern *pattern = matcher->pattern;
    size_t length = matcher->length, from = matcher->from;
    if (from > length)
        return 0;
    if (pattern->regex == NULL) {
        const char *text = matcher->text;
        const char *hit = from < length && pattern->length > 0
                              ? memmem(text + from, length - from, pattern->text, pattern->length)
                              : NULL;
        if (hit == NULL)
            return 0;
        *ret_start = (size_t)(hit - text);
        *ret_end = *ret_start + pattern->length;
        return 1;
    }
    int n = match(matcher);
    if (n == PCRE2_ERROR_NOMATCH)
        return 0;
    if (n < 0) {
        PCRE2_UCHAR message[128];
        pcre2_get_error_message(n, message, sizeof(message));
        sp_fail(err, SP_ELIMIT, "the tokenizer's expression gives up at byte %zu of the text: %s",
                from, (const char *)message);
        return -1;
    }
    const PCRE2_SIZE *range = pcre2_get_ovector_pointer(matcher->data);
    *ret_start = range[0];
    *ret_end = range[1];
    return 1;
}

void tok_matcher_begin(struct tok_matcher *matcher, const char *text, size_t length)
{
    matcher->text = text;
    matcher->length = length;
    matcher->from = 0;
    matcher->found = false;
}

int tok_matcher_next(struct tok_matcher *matcher, size_t *ret_start, size_t *ret_end,
                     struct sp_error *err)
{
    size_t start = 0, end = 0;
    int n;
    while ((n = find(matcher, &start, &end, err)) == 1 && matcher->found && start == end &&
           end == matcher->from) {
        matcher->from +=
            end < matcher->length ? tok_utf8_length((unsigned char)matcher->text[end]) : 1;
        matcher->found = false;
    }
    if (n != 1)
        return n;
    matcher->from = end;
    matcher->found = true;
    *ret_start = start;
    *ret_end = end;
    return 1;
}
