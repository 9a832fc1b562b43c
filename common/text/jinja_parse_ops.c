/* What the parts of the parser share, and its operators: the grammar of Jinja2's parser.py (3.1).
 */
#include <stdio.h>

#include "common/text/jinja_internal.h"

void *jx_memory_take(struct jx_memory *memory, size_t bytes)
{
    bytes = (bytes + 15) & ~(size_t)15;
    if (bytes > 1024)
        return sp_arena_alloc(memory->arena, 1, bytes);
    if (memory->left < bytes) {
        memory->at = sp_arena_alloc(memory->arena, 1, 8192);
        memory->left = memory->at != NULL ? 8192 : 0;
        if (memory->at == NULL)
            return NULL;
    }
    void *taken = memory->at;
    memory->at += bytes;
    memory->left -= bytes;
    return taken;
}

bool jx_parse_fail(struct jx_parser *p, uint32_t line, enum sp_err code, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    sp_failv(p->err, code, format, args);
    va_end(args);
    p->rc = sp_wrap(p->err, code, "%s:%u", p->what, line);
    return false;
}

void *jx_parser_take(struct jx_parser *p, size_t bytes)
{
    void *taken = jx_memory_take(&p->memory, bytes);
    if (taken == NULL)
        jx_parse_fail(p, p->count > p->at ? jx_peek(p)->line : 1, SP_ELIMIT,
                      "the template needs more than %d bytes", SP_MAX_TEMPLATE_MEMORY);
    return taken;
}

struct jx_node *jx_new_node(struct jx_parser *p, enum jx_kind kind, uint32_t line)
{
    struct jx_node *node = jx_parser_take(p, sizeof(*node));
    if (node != NULL) {
        node->kind = kind;
        node->line = line;
    }
    return node;
}

/* Lists in the arena double; their capacity is the power of two at or above their count. */
void *jx_grow(struct jx_parser *p, void *list, uint32_t count, size_t bytes)
{
    if (count != 0 && (count & (count - 1)) != 0)
        return list;
    void *larger = jx_parser_take(p, (count == 0 ? 1 : 2 * (size_t)count) * bytes);
    if (larger != NULL && count > 0)
        memcpy(larger, list, count * bytes);
    return larger;
}

bool jx_add_kid(struct jx_parser *p, struct jx_node *node, struct jx_node *kid)
{
    if (kid == NULL)
        return false;
    void *kids = jx_grow(p, node->kids, node->count, sizeof(kid));
    if (kids == NULL)
        return false;
    node->kids = kids;
    node->kids[node->count++] = kid;
    return true;
}

bool jx_enter(struct jx_parser *p)
{
    if (p->depth == SP_MAX_TEMPLATE_DEPTH)
        return jx_parse_fail(p, jx_peek(p)->line, SP_ELIMIT, "nested more than %d deep",
                             SP_MAX_TEMPLATE_DEPTH);
    p->depth++;
    return true;
}

bool jx_at_op(struct jx_parser *p, const char *op)
{
    return jx_peek(p)->type == JX_T_OPERATOR && strcmp(jx_peek(p)->op, op) == 0;
}

bool jx_at_name(struct jx_parser *p, const char *name)
{
    return jx_peek(p)->type == JX_T_NAME && jx_is(jx_peek(p)->value, name);
}

bool jx_skip_op(struct jx_parser *p, const char *op)
{
    bool there = jx_at_op(p, op);
    p->at += there;
    return there;
}

bool jx_skip_name(struct jx_parser *p, const char *name)
{
    bool there = jx_at_name(p, name);
    p->at += there;
    return there;
}

const char *jx_describe(struct jx_parser *p, char text[64])
{
    static const char *const names[] = {
        [JX_T_DATA] = "text",
        [JX_T_BLOCK_BEGIN] = "{%",
        [JX_T_BLOCK_END] = "%}",
        [JX_T_PRINT_BEGIN] = "{{",
        [JX_T_PRINT_END] = "}}",
        [JX_T_CONST] = "a constant",
        [JX_T_END] = "the template's end",
    };
    const struct jx_token *token = jx_peek(p);
    if (token->type == JX_T_NAME)
        snprintf(text, 64, "\"%.*s\"", SP_MIN((int)token->value.length, 40), token->value.s);
    else
        snprintf(text, 64, "%s", token->type == JX_T_OPERATOR ? token->op : names[token->type]);
    return text;
}

bool jx_expect_op(struct jx_parser *p, const char *op)
{
    char seen[64];
    if (jx_skip_op(p, op))
        return true;
    return jx_parse_fail(p, jx_peek(p)->line, SP_EFORMAT, "expected %s, found %s", op,
                         jx_describe(p, seen));
}

/* ---- operators, from the strongest to the weakest ---- */

static struct jx_node *parse_unary(struct jx_parser *p, bool filters)
{
    struct jx_node *node = NULL;
    if (!jx_enter(p))
        return NULL;
    if (jx_at_op(p, "-") || jx_at_op(p, "+")) {
        node = jx_new_node(p, jx_at_op(p, "-") ? JX_NEG : JX_POS, jx_peek(p)->line);
        p->at++;
        if (node != NULL && (node->a = parse_unary(p, false)) == NULL)
            node = NULL;
    } else {
        node = jx_parse_primary(p);
    }
    if (node != NULL)
        node = jx_parse_postfix(p, node);
    if (node != NULL && filters)
        node = jx_parse_filter_expr(p, node);
    p->depth--;
    return node;
}

struct operator_name {
    const char *text;
    enum jx_op op;
};

/* left (op right)*, to the left; `next` parses an operand. */
static struct jx_node *parse_chain(struct jx_parser *p, const struct operator_name *names,
                                   size_t count, struct jx_node *(*next)(struct jx_parser *))
{
    struct jx_node *left = next(p);
    for (uint32_t links = 0; left != NULL;) {
        size_t i = 0;
        while (i < count && !jx_at_op(p, names[i].text))
            i++;
        if (i == count)
            break;
        struct jx_node *node = jx_new_node(p, JX_BINARY, jx_peek(p)->line);
        if (++links == SP_MAX_TEMPLATE_DEPTH)
            jx_parse_fail(p, left->line, SP_ELIMIT, "more than %d operators in a row",
                          SP_MAX_TEMPLATE_DEPTH);
        p->at++;
        if (node == NULL || links == SP_MAX_TEMPLATE_DEPTH)
            return NULL;
        node->op = names[i].op;
        node->a = left;
        node->b = next(p);
        left = node->b != NULL ? node : NULL;
    }
    return left;
}

static struct jx_node *parse_operand(struct jx_parser *p)
{
    return parse_unary(p, true);
}

static struct jx_node *parse_pow(struct jx_parser *p)
{
    static const struct operator_name names[] = {{"**", JX_POW}};
    return parse_chain(p, names, SP_COUNT(names), parse_operand);
}

static struct jx_node *parse_product(struct jx_parser *p)
{
    static const struct operator_name names[] = {
        {"*", JX_MUL}, {"/", JX_DIV}, {"//", JX_FLOORDIV}, {"%", JX_MOD}};
    return parse_chain(p, names, SP_COUNT(names), parse_pow);
}

static struct jx_node *parse_concat(struct jx_parser *p)
{
    struct jx_node *first = parse_product(p);
    if (first == NULL || !jx_at_op(p, "~"))
        return first;
    struct jx_node *node = jx_new_node(p, JX_CONCAT, first->line);
    if (node == NULL || !jx_add_kid(p, node, first))
        return NULL;
    while (jx_skip_op(p, "~"))
        if (!jx_add_kid(p, node, parse_product(p)))
            return NULL;
    return node;
}

static struct jx_node *parse_sum(struct jx_parser *p)
{
    static const struct operator_name names[] = {{"+", JX_ADD}, {"-", JX_SUB}};
    return parse_chain(p, names, SP_COUNT(names), parse_concat);
}

static bool comparison(struct jx_parser *p, enum jx_op *ret)
{
    static const struct operator_name names[] = {{"==", JX_EQ}, {"!=", JX_NE}, {"<", JX_LT},
                                                 {"<=", JX_LE}, {">", JX_GT},  {">=", JX_GE}};
    for (size_t i = 0; i < SP_COUNT(names); i++)
        if (jx_skip_op(p, names[i].text)) {
            *ret = names[i].op;
            return true;
        }
    if (jx_skip_name(p, "in")) {
        *ret = JX_IN;
        return true;
    }
    const struct jx_token *next = jx_peek(p) + 1;
    if (!jx_at_name(p, "not") || next->type != JX_T_NAME || !jx_is(next->value, "in"))
        return false;
    p->at += 2;
    *ret = JX_NOT_IN;
    return true;
}

/* a: the first; kids: COMPARE nodes with op and their right side in a. */
static struct jx_node *parse_compare(struct jx_parser *p)
{
    struct jx_node *first = parse_sum(p), *node = NULL;
    enum jx_op op;
    while (first != NULL && comparison(p, &op)) {
        if (node == NULL && (node = jx_new_node(p, JX_COMPARE, first->line)) == NULL)
            return NULL;
        struct jx_node *side = jx_new_node(p, JX_COMPARE, first->line);
        if (side == NULL || (side->a = parse_sum(p)) == NULL || !jx_add_kid(p, node, side))
            return NULL;
        side->op = op;
        node->a = first;
    }
    return node != NULL ? node : first;
}

static struct jx_node *parse_not(struct jx_parser *p)
{
    if (!jx_at_name(p, "not"))
        return parse_compare(p);
    struct jx_node *node = jx_new_node(p, JX_NOT, jx_peek(p)->line);
    if (node == NULL || !jx_enter(p))
        return NULL;
    p->at++;
    node->a = parse_not(p);
    p->depth--;
    return node->a != NULL ? node : NULL;
}

/* Operands of `and` and `or` are kids. */
static struct jx_node *parse_words(struct jx_parser *p, const char *word, enum jx_kind kind,
                                   struct jx_node *(*next)(struct jx_parser *))
{
    struct jx_node *first = next(p), *node = NULL;
    while (first != NULL && jx_skip_name(p, word)) {
        if (node == NULL) {
            node = jx_new_node(p, kind, first->line);
            if (node == NULL || !jx_add_kid(p, node, first))
                return NULL;
        }
        if (!jx_add_kid(p, node, next(p)))
            return NULL;
    }
    return node != NULL ? node : first;
}

static struct jx_node *parse_and(struct jx_parser *p)
{
    return parse_words(p, "and", JX_AND, parse_not);
}

struct jx_node *jx_parse_or(struct jx_parser *p)
{
    if (!jx_enter(p))
        return NULL;
    struct jx_node *node = parse_words(p, "or", JX_OR, parse_and);
    p->depth--;
    return node;
}

/* a if b else c */
struct jx_node *jx_parse_expression(struct jx_parser *p)
{
    if (!jx_enter(p))
        return NULL;
    struct jx_node *value = jx_parse_or(p);
    for (uint32_t links = 0; value != NULL && jx_skip_name(p, "if"); links++) {
        struct jx_node *node = jx_new_node(p, JX_COND, value->line);
        if (links == SP_MAX_TEMPLATE_DEPTH)
            jx_parse_fail(p, value->line, SP_ELIMIT, "more than %d ifs in a row",
                          SP_MAX_TEMPLATE_DEPTH);
        if (node == NULL || links == SP_MAX_TEMPLATE_DEPTH || (node->b = jx_parse_or(p)) == NULL)
            return NULL;
        node->a = value;
        if (jx_skip_name(p, "else") && (node->c = jx_parse_expression(p)) == NULL)
            return NULL;
        value = node;
    }
    p->depth--;
    return value;
}
