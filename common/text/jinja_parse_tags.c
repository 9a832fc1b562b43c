/* Tags of a template: the statements of Jinja2's parser.py (3.1), loopcontrols' break and continue,
 * and transformers' generation. */
#include <stdlib.h>

#include "common/text/jinja_internal.h"

static bool at_tuple_end(struct jx_parser *p, const char *end)
{
    enum jx_token_type type = jx_peek(p)->type;
    return type == JX_T_PRINT_END || type == JX_T_BLOCK_END || jx_at_op(p, ")") ||
           (end != NULL && jx_at_name(p, end));
}

/* One item: an expression, or where something is assigned to. */
typedef struct jx_node *(*parse_item)(struct jx_parser *p, bool members);

static struct jx_node *with_condexpr(struct jx_parser *p, bool members)
{
    (void)members;
    return jx_parse_expression(p);
}

static struct jx_node *without_condexpr(struct jx_parser *p, bool members)
{
    (void)members;
    return jx_parse_or(p);
}

static struct jx_node *parse_several(struct jx_parser *p, parse_item item, bool parens,
                                     const char *end, bool members)
{
    char seen[64];
    struct jx_node *tuple = jx_new_node(p, JX_TUPLE_OF, jx_peek(p)->line);
    bool comma = false;
    if (tuple == NULL)
        return NULL;
    while (!at_tuple_end(p, end)) {
        if (!jx_add_kid(p, tuple, item(p, members)))
            return NULL;
        if (!jx_skip_op(p, ","))
            break;
        comma = true;
    }
    if (comma || (tuple->count == 0 && parens))
        return tuple;
    if (tuple->count == 1)
        return tuple->kids[0];
    jx_parse_fail(p, jx_peek(p)->line, SP_EFORMAT, "expected an expression, found %s",
                  jx_describe(p, seen));
    return NULL;
}

struct jx_node *jx_parse_tuple(struct jx_parser *p, bool condexpr, bool parens, const char *end)
{
    return parse_several(p, condexpr ? with_condexpr : without_condexpr, parens, end, false);
}

/* A name; with `members`, name.name for a namespace, too. */
static struct jx_node *parse_one_target(struct jx_parser *p, bool members)
{
    char seen[64];
    if (jx_skip_op(p, "(")) {
        if (!jx_enter(p))
            return NULL;
        struct jx_node *inner = parse_several(p, parse_one_target, true, NULL, members);
        p->depth--;
        return inner != NULL && jx_expect_op(p, ")") ? inner : NULL;
    }
    if (jx_peek(p)->type != JX_T_NAME) {
        jx_parse_fail(p, jx_peek(p)->line, SP_EFORMAT, "expected a name to assign to, found %s",
                      jx_describe(p, seen));
        return NULL;
    }
    struct jx_node *node = jx_new_node(p, JX_NAME, jx_peek(p)->line);
    if (node == NULL)
        return NULL;
    node->value = jx_peek(p)->value;
    p->at++;
    if (!members || !jx_skip_op(p, "."))
        return node;
    if (jx_peek(p)->type != JX_T_NAME) {
        jx_parse_fail(p, node->line, SP_EFORMAT, "expected a name behind the dot, found %s",
                      jx_describe(p, seen));
        return NULL;
    }
    struct jx_node *member = jx_new_node(p, JX_NS_ATTR, node->line);
    if (member == NULL)
        return NULL;
    member->a = node;
    member->value = jx_peek(p)->value;
    p->at++;
    return member;
}

struct jx_node *jx_parse_target(struct jx_parser *p, const char *end, bool members)
{
    return parse_several(p, parse_one_target, false, end, members);
}

/* ---- bodies ---- */

static struct jx_node *parse_statement(struct jx_parser *p);

static bool at_end_tag(struct jx_parser *p, const char *ends)
{
    struct jx name = jx_peek(p)->value;
    if (jx_peek(p)->type != JX_T_NAME)
        return false;
    for (const char *at = ends; *at != 0; at += *at == ' ') {
        size_t n = strcspn(at, " ");
        if (n == name.length && memcmp(at, name.s, n) == 0)
            return true;
        at += n;
    }
    return false;
}

static bool expect_block_end(struct jx_parser *p)
{
    char seen[64];
    if (jx_peek(p)->type != JX_T_BLOCK_END)
        return jx_parse_fail(p, jx_peek(p)->line, SP_EFORMAT, "expected %%}, found %s",
                             jx_describe(p, seen));
    p->at++;
    return true;
}

static bool parse_print(struct jx_parser *p, struct jx_node *body)
{
    char seen[64];
    struct jx_node *node = jx_new_node(p, JX_PRINT, jx_peek(p)->line);
    p->at++;
    if (node == NULL || (node->a = jx_parse_tuple(p, true, false, NULL)) == NULL)
        return false;
    if (jx_peek(p)->type != JX_T_PRINT_END)
        return jx_parse_fail(p, jx_peek(p)->line, SP_EFORMAT, "expected }}, found %s",
                             jx_describe(p, seen));
    p->at++;
    return jx_add_kid(p, body, node);
}

/* Up to one of the tags `ends` (names with spaces between), where the parser then stands; NULL: to
 * the template's end. */
static struct jx_node *parse_until(struct jx_parser *p, const char *ends)
{
    struct jx_node *body = jx_new_node(p, JX_BODY, jx_peek(p)->line);
    while (body != NULL && jx_peek(p)->type != JX_T_END) {
        struct jx_token *token = jx_peek(p);
        if (token->type == JX_T_DATA) {
            struct jx_node *node = jx_new_node(p, JX_PRINT, token->line);
            if (node == NULL || (node->a = jx_new_node(p, JX_CONST, token->line)) == NULL)
                return NULL;
            node->a->value = token->value;
            p->at++;
            if (!jx_add_kid(p, body, node))
                return NULL;
        } else if (token->type == JX_T_PRINT_BEGIN) {
            if (!parse_print(p, body))
                return NULL;
        } else {
            p->at++;
            if (ends != NULL && at_end_tag(p, ends))
                return body;
            if (!jx_add_kid(p, body, parse_statement(p)) || !expect_block_end(p))
                return NULL;
        }
    }
    if (ends != NULL && body != NULL)
        jx_parse_fail(p, body->line, SP_EFORMAT, "a tag that is open here needs {%% %s %%}", ends);
    return ends == NULL ? body : NULL;
}

/* The body of a tag, from its %} to one of the `ends`. */
static struct jx_node *parse_body(struct jx_parser *p, const char *ends)
{
    jx_skip_op(p, ":");
    if (!expect_block_end(p) || !jx_enter(p))
        return NULL;
    struct jx_node *body = parse_until(p, ends);
    p->depth--;
    return body;
}

/* The same, and the end tag's name is passed. */
static struct jx_node *parse_closed_body(struct jx_parser *p, const char *end)
{
    struct jx_node *body = parse_body(p, end);
    p->at += body != NULL;
    return body;
}

/* ---- tags ---- */

/* a: target; SET: b the value; SET_BLOCK: b filters, c the body. */
static struct jx_node *parse_set(struct jx_parser *p, struct jx_node *node)
{
    if ((node->a = jx_parse_target(p, NULL, true)) == NULL)
        return NULL;
    if (jx_skip_op(p, "=")) {
        node->kind = JX_SET;
        return (node->b = jx_parse_tuple(p, true, false, NULL)) != NULL ? node : NULL;
    }
    node->kind = JX_SET_BLOCK;
    struct jx_node *hole = jx_new_node(p, JX_HOLE, node->line);
    if (hole == NULL || (node->b = jx_parse_filters(p, hole, false)) == NULL)
        return NULL;
    return (node->c = parse_closed_body(p, "endset")) != NULL ? node : NULL;
}

/* a: target, b: what is gone over, c: the test or NULL, d: body, kids[0]: else. */
static struct jx_node *parse_for(struct jx_parser *p, struct jx_node *node)
{
    char seen[64];
    node->kind = JX_FOR;
    if ((node->a = jx_parse_target(p, "in", false)) == NULL)
        return NULL;
    if (!jx_skip_name(p, "in")) {
        jx_parse_fail(p, node->line, SP_EFORMAT, "for: expected \"in\", found %s",
                      jx_describe(p, seen));
        return NULL;
    }
    if ((node->b = jx_parse_tuple(p, false, false, "recursive")) == NULL)
        return NULL;
    if (jx_skip_name(p, "if") && (node->c = jx_parse_expression(p)) == NULL)
        return NULL;
    if (jx_at_name(p, "recursive")) {
        jx_parse_fail(p, node->line, SP_EUNSUPPORTED, "for … recursive");
        return NULL;
    }
    p->loops++;
    node->d = parse_body(p, "endfor else");
    p->loops--;
    if (node->d == NULL)
        return NULL;
    if (jx_skip_name(p, "else"))
        return jx_add_kid(p, node, parse_closed_body(p, "endfor")) ? node : NULL;
    p->at++;
    return node;
}

/* kids: test, body, test, body …, and d: else or NULL. */
static struct jx_node *parse_if(struct jx_parser *p, struct jx_node *node)
{
    node->kind = JX_IF;
    for (;;) {
        if (!jx_add_kid(p, node, jx_parse_tuple(p, false, false, NULL)) ||
            !jx_add_kid(p, node, parse_body(p, "elif else endif")))
            return NULL;
        if (jx_skip_name(p, "elif"))
            continue;
        if (jx_skip_name(p, "else"))
            return (node->d = parse_closed_body(p, "endif")) != NULL ? node : NULL;
        p->at++;
        return node;
    }
}

/* Parameters as keywords of node->args; their values are the defaults or NULL. */
static bool parse_signature(struct jx_parser *p, struct jx_node *node)
{
    struct jx_args *args = &node->args;
    size_t capacity = 0;
    p->at++;
    while (!jx_at_op(p, ")")) {
        char seen[64];
        if (args->keyword_count > 0 && !jx_expect_op(p, ","))
            return false;
        if (jx_peek(p)->type != JX_T_NAME)
            return jx_parse_fail(p, node->line, SP_EFORMAT, "expected a parameter, found %s",
                                 jx_describe(p, seen));
        if (args->keyword_count == capacity) {
            capacity = capacity == 0 ? 4 : 2 * capacity;
            struct jx_keyword *more = jx_parser_take(p, capacity * sizeof(*more));
            if (more == NULL)
                return false;
            if (args->keyword_count > 0)
                memcpy(more, args->keywords, args->keyword_count * sizeof(*more));
            args->keywords = more;
        }
        struct jx_keyword *parameter = &args->keywords[args->keyword_count++];
        parameter->name = jx_peek(p)->value;
        p->at++;
        if (jx_skip_op(p, "=")) {
            if ((parameter->value = jx_parse_expression(p)) == NULL)
                return false;
        } else if (args->keyword_count > 1 && args->keywords[args->keyword_count - 2].value) {
            return jx_parse_fail(p, node->line, SP_EFORMAT,
                                 "a parameter without default behind one with it");
        }
    }
    p->at++;
    return true;
}

/* value: name; args: parameters; d: body. Loops outside do not reach into it. */
static struct jx_node *parse_macro(struct jx_parser *p, struct jx_node *node)
{
    char seen[64];
    uint32_t loops = p->loops;
    node->kind = JX_MACRO_TAG;
    if (jx_peek(p)->type != JX_T_NAME) {
        jx_parse_fail(p, node->line, SP_EFORMAT, "macro: expected a name, found %s",
                      jx_describe(p, seen));
        return NULL;
    }
    node->value = jx_peek(p)->value;
    p->at++;
    if (!jx_at_op(p, "(")) {
        jx_expect_op(p, "(");
        return NULL;
    }
    if (!parse_signature(p, node))
        return NULL;
    p->loops = 0;
    node->d = parse_closed_body(p, "endmacro");
    p->loops = loops;
    return node->d != NULL ? node : NULL;
}

/* args: parameters; a: the call; d: body. */
static struct jx_node *parse_call_block(struct jx_parser *p, struct jx_node *node)
{
    uint32_t loops = p->loops;
    node->kind = JX_CALL_BLOCK;
    if (jx_at_op(p, "(") && !parse_signature(p, node))
        return NULL;
    if ((node->a = jx_parse_expression(p)) == NULL)
        return NULL;
    if (node->a->kind != JX_CALL) {
        jx_parse_fail(p, node->line, SP_EFORMAT, "call: expected a call");
        return NULL;
    }
    p->loops = 0;
    node->d = parse_closed_body(p, "endcall");
    p->loops = loops;
    return node->d != NULL ? node : NULL;
}

/* kids: target, value, …; d: body. */
static struct jx_node *parse_with(struct jx_parser *p, struct jx_node *node)
{
    node->kind = JX_WITH;
    while (jx_peek(p)->type != JX_T_BLOCK_END) {
        if (node->count > 0 && !jx_expect_op(p, ","))
            return NULL;
        if (!jx_add_kid(p, node, jx_parse_target(p, NULL, false)) || !jx_expect_op(p, "=") ||
            !jx_add_kid(p, node, jx_parse_expression(p)))
            return NULL;
    }
    return (node->d = parse_closed_body(p, "endwith")) != NULL ? node : NULL;
}

static struct jx_node *parse_loop_control(struct jx_parser *p, struct jx_node *node, bool stop)
{
    node->kind = stop ? JX_BREAK : JX_CONTINUE;
    if (p->loops > 0)
        return node;
    jx_parse_fail(p, node->line, SP_EFORMAT, "%s outside of a loop", stop ? "break" : "continue");
    return NULL;
}

static struct jx_node *parse_filter_block(struct jx_parser *p, struct jx_node *node)
{
    struct jx_node *hole = jx_new_node(p, JX_HOLE, node->line);
    node->kind = JX_FILTER_BLOCK;
    if (hole == NULL || (node->b = jx_parse_filters(p, hole, true)) == NULL)
        return NULL;
    return (node->d = parse_closed_body(p, "endfilter")) != NULL ? node : NULL;
}

static struct jx_node *parse_generation(struct jx_parser *p, struct jx_node *node)
{
    uint32_t loops = p->loops;
    node->kind = JX_GENERATION;
    p->loops = 0; /* its body is that of a call block */
    node->d = parse_closed_body(p, "endgeneration");
    p->loops = loops;
    return node->d != NULL ? node : NULL;
}

static struct jx_node *parse_statement(struct jx_parser *p)
{
    char seen[64];
    struct jx_node *node = jx_new_node(p, JX_BODY, jx_peek(p)->line);
    if (node == NULL)
        return NULL;
    if (jx_skip_name(p, "set"))
        return parse_set(p, node);
    if (jx_skip_name(p, "for"))
        return parse_for(p, node);
    if (jx_skip_name(p, "if"))
        return parse_if(p, node);
    if (jx_skip_name(p, "macro"))
        return parse_macro(p, node);
    if (jx_skip_name(p, "call"))
        return parse_call_block(p, node);
    if (jx_skip_name(p, "filter"))
        return parse_filter_block(p, node);
    if (jx_skip_name(p, "with"))
        return parse_with(p, node);
    if (jx_skip_name(p, "generation"))
        return parse_generation(p, node);
    if (jx_at_name(p, "break") || jx_at_name(p, "continue")) {
        bool stop = jx_at_name(p, "break");
        p->at++;
        return parse_loop_control(p, node, stop);
    }
    static const char *const others[] = {"include", "import", "from",       "extends",
                                         "block",   "print",  "autoescape", "do"};
    bool jinja = false;
    for (size_t i = 0; i < SP_COUNT(others); i++)
        jinja = jinja || jx_at_name(p, others[i]);
    jx_parse_fail(p, node->line, jinja ? SP_EUNSUPPORTED : SP_EFORMAT,
                  jinja ? "the tag %s is not supported here" : "no tag is named %s",
                  jx_describe(p, seen));
    return NULL;
}

struct jx_node *jx_parse_template(struct jx_parser *p)
{
    return parse_until(p, NULL);
}
