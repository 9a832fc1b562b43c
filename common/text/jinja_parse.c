/* Values of a template and what follows them (members, calls, filters, tests): the grammar of
 * Jinja2's parser.py (3.1), rule by rule. */
#include "common/text/jinja_internal.h"

/* ---- literals ---- */

/* Items up to `close`, commas between them and perhaps behind; `pairs`: key and value. */
static struct jx_node *parse_items(struct jx_parser *p, enum jx_kind kind, const char *close)
{
    struct jx_node *node = jx_new_node(p, kind, jx_peek(p)->line);
    if (node == NULL)
        return NULL;
    p->at++;
    while (!jx_at_op(p, close)) {
        if (node->count > 0 && !jx_expect_op(p, ","))
            return NULL;
        if (jx_at_op(p, close))
            break;
        if (!jx_add_kid(p, node, jx_parse_expression(p)))
            return NULL;
        if (kind == JX_DICT_OF &&
            (!jx_expect_op(p, ":") || !jx_add_kid(p, node, jx_parse_expression(p))))
            return NULL;
    }
    p->at++;
    return node;
}

static struct jx_node *constant(struct jx_parser *p, struct jx value)
{
    struct jx_node *node = jx_new_node(p, JX_CONST, jx_peek(p)->line);
    if (node != NULL)
        node->value = value;
    p->at++;
    return node;
}

/* Strings that stand side by side are one. */
static struct jx_node *parse_strings(struct jx_parser *p)
{
    struct jx_node *node = constant(p, jx_peek(p)->value);
    while (node != NULL && jx_peek(p)->type == JX_T_CONST && jx_peek(p)->value.type == JX_STRING) {
        struct jx more = jx_peek(p)->value;
        char *joined = jx_parser_take(p, (size_t)node->value.length + more.length + 1);
        if (joined == NULL)
            return NULL;
        memcpy(joined, node->value.s, node->value.length);
        memcpy(joined + node->value.length, more.s, more.length);
        node->value = jx_text(joined, (size_t)node->value.length + more.length);
        p->at++;
    }
    return node;
}

static struct jx_node *parse_name(struct jx_parser *p)
{
    struct jx name = jx_peek(p)->value;
    if (jx_is(name, "true") || jx_is(name, "True"))
        return constant(p, jx_bool(true));
    if (jx_is(name, "false") || jx_is(name, "False"))
        return constant(p, jx_bool(false));
    if (jx_is(name, "none") || jx_is(name, "None"))
        return constant(p, jx_none());
    struct jx_node *node = constant(p, name);
    if (node != NULL)
        node->kind = JX_NAME;
    return node;
}

struct jx_node *jx_parse_primary(struct jx_parser *p)
{
    const struct jx_token *token = jx_peek(p);
    char seen[64];
    if (token->type == JX_T_NAME)
        return parse_name(p);
    if (token->type == JX_T_CONST)
        return token->value.type == JX_STRING ? parse_strings(p) : constant(p, token->value);
    if (jx_skip_op(p, "(")) {
        struct jx_node *node = jx_parse_tuple(p, true, true, NULL);
        return node != NULL && jx_expect_op(p, ")") ? node : NULL;
    }
    if (jx_at_op(p, "["))
        return parse_items(p, JX_LIST_OF, "]");
    if (jx_at_op(p, "{"))
        return parse_items(p, JX_DICT_OF, "}");
    jx_parse_fail(p, token->line, SP_EFORMAT, "expected an expression, found %s",
                  jx_describe(p, seen));
    return NULL;
}

/* ---- what follows a value ---- */

static bool parse_keyword(struct jx_parser *p, struct jx_args *args)
{
    struct jx_keyword keyword = {.name = jx_peek(p)->value};
    p->at += 2;
    keyword.value = jx_parse_expression(p);
    if (keyword.value == NULL)
        return false;
    args->keywords = jx_grow(p, args->keywords, args->keyword_count, sizeof(keyword));
    if (args->keywords == NULL)
        return false;
    args->keywords[args->keyword_count++] = keyword;
    return true;
}

static bool parse_argument(struct jx_parser *p, struct jx_args *args)
{
    if (jx_skip_op(p, "*") || jx_skip_op(p, "**")) {
        args->stars = true;
        return jx_parse_expression(p) != NULL;
    }
    const struct jx_token *next = jx_peek(p) + 1;
    if (jx_peek(p)->type == JX_T_NAME && next->type == JX_T_OPERATOR && strcmp(next->op, "=") == 0)
        return parse_keyword(p, args);
    if (args->keyword_count > 0)
        return jx_parse_fail(p, jx_peek(p)->line, SP_EFORMAT, "an argument behind a named one");
    struct jx_node *value = jx_parse_expression(p);
    if (value == NULL)
        return false;
    void *list = jx_grow(p, args->args, args->count, sizeof(value));
    if (list == NULL)
        return false;
    args->args = list;
    args->args[args->count++] = value;
    return true;
}

static bool parse_call_args(struct jx_parser *p, struct jx_args *args)
{
    p->at++;
    for (bool first = true; !jx_at_op(p, ")"); first = false) {
        if (!first && !jx_expect_op(p, ","))
            return false;
        if (jx_at_op(p, ")"))
            break;
        if (!parse_argument(p, args))
            return false;
    }
    p->at++;
    return true;
}

static struct jx_node *parse_call(struct jx_parser *p, struct jx_node *callee)
{
    struct jx_node *node = jx_new_node(p, JX_CALL, jx_peek(p)->line);
    if (node == NULL || !parse_call_args(p, &node->args))
        return NULL;
    node->a = callee;
    return node;
}

/* a[b], a[b:c:d]: the parts of a slice in b, c, d of a SLICE node. */
static struct jx_node *parse_subscript(struct jx_parser *p, struct jx_node *object)
{
    uint32_t line = jx_peek(p)->line;
    p->at++;
    struct jx_node *parts[3] = {NULL, NULL, NULL};
    bool slice = false;
    for (int i = 0; i < 3; i++) {
        if (!jx_at_op(p, ":") && !jx_at_op(p, "]") && (parts[i] = jx_parse_expression(p)) == NULL)
            return NULL;
        if (i == 2 || !jx_skip_op(p, ":"))
            break;
        slice = true;
    }
    if (!slice && parts[0] == NULL) {
        jx_parse_fail(p, line, SP_EFORMAT, "nothing between [ and ]");
        return NULL;
    }
    if (jx_at_op(p, ",")) {
        jx_parse_fail(p, line, SP_EUNSUPPORTED, "an index with a comma");
        return NULL;
    }
    struct jx_node *node = jx_new_node(p, slice ? JX_SLICE : JX_ITEM, line);
    if (node == NULL || !jx_expect_op(p, "]"))
        return NULL;
    node->a = object;
    node->b = parts[0];
    node->c = parts[1];
    node->d = parts[2];
    return node;
}

static struct jx_node *parse_member(struct jx_parser *p, struct jx_node *object)
{
    uint32_t line = jx_peek(p)->line;
    char seen[64];
    p->at++;
    const struct jx_token *token = jx_peek(p);
    bool number = token->type == JX_T_CONST && token->value.type == JX_INT;
    if (token->type != JX_T_NAME && !number) {
        jx_parse_fail(p, line, SP_EFORMAT, "expected a name behind the dot, found %s",
                      jx_describe(p, seen));
        return NULL;
    }
    struct jx_node *node = jx_new_node(p, number ? JX_ITEM : JX_ATTR, line);
    if (node == NULL)
        return NULL;
    node->a = object;
    node->value = token->value;
    if (number)
        return (node->b = constant(p, token->value)) != NULL ? node : NULL;
    p->at++;
    return node;
}

struct jx_node *jx_parse_postfix(struct jx_parser *p, struct jx_node *node)
{
    for (uint32_t links = 0; node != NULL; links++) {
        if (links == SP_MAX_TEMPLATE_DEPTH) {
            jx_parse_fail(p, node->line, SP_ELIMIT, "more than %d members in a row",
                          SP_MAX_TEMPLATE_DEPTH);
            return NULL;
        }
        if (jx_at_op(p, "."))
            node = parse_member(p, node);
        else if (jx_at_op(p, "["))
            node = parse_subscript(p, node);
        else if (jx_at_op(p, "("))
            node = parse_call(p, node);
        else
            break;
    }
    return node;
}

/* The name of a filter or test, which may have dots. */
static bool parse_dotted(struct jx_parser *p, struct jx *ret)
{
    char seen[64];
    if (jx_peek(p)->type != JX_T_NAME)
        return jx_parse_fail(p, jx_peek(p)->line, SP_EFORMAT, "expected a name, found %s",
                             jx_describe(p, seen));
    *ret = jx_peek(p)->value;
    p->at++;
    if (jx_at_op(p, "."))
        return jx_parse_fail(p, jx_peek(p)->line, SP_EFORMAT,
                             "no filter or test is named \"%.*s.…\"", (int)SP_MIN(ret->length, 40u),
                             ret->s);
    return true;
}

struct jx_node *jx_parse_filters(struct jx_parser *p, struct jx_node *node, bool first)
{
    while (first || jx_at_op(p, "|")) {
        p->at += !first;
        first = false;
        struct jx_node *filter = jx_new_node(p, JX_FILTER, jx_peek(p)->line);
        if (filter == NULL || !parse_dotted(p, &filter->value))
            return NULL;
        if (jx_at_op(p, "(") && !parse_call_args(p, &filter->args))
            return NULL;
        filter->a = node;
        node = filter;
    }
    return node;
}

static bool starts_test_argument(struct jx_parser *p)
{
    const struct jx_token *token = jx_peek(p);
    if (token->type == JX_T_NAME)
        return !jx_at_name(p, "else") && !jx_at_name(p, "or") && !jx_at_name(p, "and");
    return token->type == JX_T_CONST || jx_at_op(p, "[") || jx_at_op(p, "{");
}

static struct jx_node *parse_test(struct jx_parser *p, struct jx_node *value)
{
    struct jx_node *node = jx_new_node(p, JX_TEST, jx_peek(p)->line);
    p->at++;
    bool negated = jx_skip_name(p, "not");
    if (node == NULL || !parse_dotted(p, &node->value))
        return NULL;
    node->a = value;
    if (jx_at_op(p, "(")) {
        if (!parse_call_args(p, &node->args))
            return NULL;
    } else if (starts_test_argument(p)) {
        if (jx_at_name(p, "is")) {
            jx_parse_fail(p, node->line, SP_EFORMAT, "tests can't be chained with is");
            return NULL;
        }
        struct jx_node *argument = jx_parse_postfix(p, jx_parse_primary(p));
        node->args.args = jx_parser_take(p, sizeof(argument));
        if (argument == NULL || node->args.args == NULL)
            return NULL;
        node->args.args[node->args.count++] = argument;
    }
    if (!negated)
        return node;
    struct jx_node *not = jx_new_node(p, JX_NOT, node->line);
    if (not != NULL)
        not ->a = node;
    return not ;
}

struct jx_node *jx_parse_filter_expr(struct jx_parser *p, struct jx_node *node)
{
    for (uint32_t links = 0; node != NULL; links++) {
        if (links == SP_MAX_TEMPLATE_DEPTH) {
            jx_parse_fail(p, node->line, SP_ELIMIT, "more than %d filters in a row",
                          SP_MAX_TEMPLATE_DEPTH);
            return NULL;
        }
        if (jx_at_op(p, "|"))
            node = jx_parse_filters(p, node, false);
        else if (jx_at_name(p, "is"))
            node = parse_test(p, node);
        else if (jx_at_op(p, "("))
            node = parse_call(p, node);
        else
            break;
    }
    return node;
}
