/* jinja_tree: a template as tokens and as a tree, and the parser that makes it. Not for other files
 * than those of the interpreter. */
#ifndef SPIN_TEXT_JINJA_TREE_H
#define SPIN_TEXT_JINJA_TREE_H

#include "common/text/jinja_value.h"

/* ---- the tree of a template ---- */

enum jx_op {
    JX_ADD,
    JX_SUB,
    JX_MUL,
    JX_DIV,
    JX_FLOORDIV,
    JX_MOD,
    JX_POW,
    JX_EQ,
    JX_NE,
    JX_LT,
    JX_LE,
    JX_GT,
    JX_GE,
    JX_IN,
    JX_NOT_IN,
};
enum jx_kind {
    /* expressions */
    JX_CONST,
    JX_NAME,
    JX_LIST_OF,
    JX_TUPLE_OF,
    JX_DICT_OF,
    JX_ATTR,
    JX_ITEM,
    JX_SLICE,
    JX_CALL,
    JX_FILTER,
    JX_TEST,
    JX_NOT,
    JX_AND,
    JX_OR,
    JX_NEG,
    JX_POS,
    JX_BINARY,
    JX_CONCAT,
    JX_COMPARE,
    JX_COND,
    JX_HOLE,
    JX_NS_ATTR,
    /* statements */
    JX_BODY,
    JX_PRINT,
    JX_SET,
    JX_SET_BLOCK,
    JX_FOR,
    JX_IF,
    JX_MACRO_TAG,
    JX_CALL_BLOCK,
    JX_FILTER_BLOCK,
    JX_WITH,
    JX_GENERATION,
    JX_BREAK,
    JX_CONTINUE,
};
struct jx_keyword {
    struct jx name;
    struct jx_node *value;
};
struct jx_args {
    struct jx_node **args;
    struct jx_keyword *keywords;
    uint32_t count, keyword_count;
    bool stars; /* has *args or **kwargs */
};
/* One form for all kinds; the parser says at each what a, b, c, d and kids are. */
struct jx_node {
    enum jx_kind kind;
    enum jx_op op;
    bool flag;
    uint32_t line;
    struct jx value; /* a constant, or the name of a variable, attribute, filter, test, macro */
    struct jx_node *a, *b, *c, *d;
    struct jx_node **kids;
    uint32_t count;
    struct jx_args args; /* CALL, FILTER, TEST; parameters and defaults of a macro */
};

struct tok_jinja {
    char *what;             /* owned */
    struct sp_arena *arena; /* of tree and constants */
    struct jx_node *body;
};

/* ---- memory ---- */

/* Small allocations out of an arena's larger ones. */
struct jx_memory {
    struct sp_arena *arena; /* borrowed */
    char *at;
    size_t left;
};
/* Zeroed, 16-byte aligned; NULL beyond the arena's limit. */
void *jx_memory_take(struct jx_memory *memory, size_t bytes);

/* ---- lexer (jinja_lex.c) and parser (jinja_parse.c, jinja_parse_tags.c) ---- */

enum jx_token_type {
    JX_T_DATA,
    JX_T_BLOCK_BEGIN,
    JX_T_BLOCK_END,
    JX_T_PRINT_BEGIN,
    JX_T_PRINT_END,
    JX_T_NAME,
    JX_T_CONST,
    JX_T_OPERATOR, /* op: its characters */
    JX_T_END,
};
struct jx_token {
    enum jx_token_type type;
    uint32_t line;
    char op[3];
    struct jx value; /* DATA, NAME: a string; CONST */
};
struct jx_parser {
    const char *what;
    struct jx_memory memory;
    struct sp_error *err;
    enum sp_err rc;
    struct jx_token *tokens; /* owned */
    size_t count, capacity, at;
    uint32_t depth, loops;
};
/* Cuts the text into p->tokens. false: p->rc and *p->err are set; so with all of these. */
bool jx_lex(struct jx_parser *p, const char *text, size_t length);
bool jx_parse_fail(struct jx_parser *p, uint32_t line, enum sp_err code, const char *format, ...)
    __attribute__((format(printf, 4, 5)));
void *jx_parser_take(struct jx_parser *p, size_t bytes); /* NULL: failed */
struct jx_node *jx_new_node(struct jx_parser *p, enum jx_kind kind, uint32_t line);
bool jx_add_kid(struct jx_parser *p, struct jx_node *node, struct jx_node *kid);
bool jx_enter(struct jx_parser *p); /* one level deeper; p->depth-- leaves it */
static inline struct jx_token *jx_peek(struct jx_parser *p)
{
    return &p->tokens[p->at];
}
bool jx_at_op(struct jx_parser *p, const char *op);
bool jx_at_name(struct jx_parser *p, const char *name);
bool jx_skip_op(struct jx_parser *p, const char *op);
bool jx_skip_name(struct jx_parser *p, const char *name);
bool jx_expect_op(struct jx_parser *p, const char *op);
/* What stands at the parser's place, for messages. */
const char *jx_describe(struct jx_parser *p, char text[64]);
/* Lists in the arena double; their capacity is the power of two at or above their count. */
void *jx_grow(struct jx_parser *p, void *list, uint32_t count, size_t bytes);
/* NULL: failed. */
struct jx_node *jx_parse_primary(struct jx_parser *p);
struct jx_node *jx_parse_postfix(struct jx_parser *p, struct jx_node *node);
struct jx_node *jx_parse_filter_expr(struct jx_parser *p, struct jx_node *node);
struct jx_node *jx_parse_expression(struct jx_parser *p);
struct jx_node *jx_parse_or(struct jx_parser *p); /* without `a if b else c` */
/* Several with commas between them are a tuple. end: a name that ends it, or NULL. */
struct jx_node *jx_parse_tuple(struct jx_parser *p, bool condexpr, bool parens, const char *end);
struct jx_node *jx_parse_target(struct jx_parser *p, const char *end, bool members);
struct jx_node *jx_parse_filters(struct jx_parser *p, struct jx_node *node, bool first);
struct jx_node *jx_parse_template(struct jx_parser *p);

#endif
