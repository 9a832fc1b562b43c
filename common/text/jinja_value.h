/* jinja_value: the values of the template interpreter. Not for other files than its own. */
#ifndef SPIN_TEXT_JINJA_VALUE_H
#define SPIN_TEXT_JINJA_VALUE_H

#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#include "common/base/arena.h"
#include "common/base/limits.h"
#include "common/base/mem.h"
#include "common/text/jinja.h"

/* ---- values ---- */

enum jx_type {
    JX_UNDEFINED, /* s, length: what is undefined, for messages */
    JX_NONE,
    JX_BOOL,
    JX_INT,
    JX_FLOAT,
    JX_STRING,
    JX_LIST,
    JX_DICT,
    JX_NAMESPACE,
    JX_LOOP,
    JX_MACRO,
    JX_METHOD,
    JX_FUNCTION,
};

struct jx_list;
struct jx_dict;
struct jx_loop;
struct jx_macro;
struct jx_method;

/* A value; what it points to lives in the arena of the template or of the rendering, and never
 * changes but for the members of a namespace. */
struct jx {
    enum jx_type type : 8;
    bool markup : 1; /* STRING: went through `safe`: + escapes the other side */
    uint32_t length; /* STRING, UNDEFINED: bytes */
    union {
        bool b;
        int64_t i;
        double f;
        const char *s; /* UTF-8, not terminated */
        struct jx_list *list;
        struct jx_dict *dict; /* DICT, NAMESPACE */
        struct jx_loop *loop;
        struct jx_macro *macro;
        struct jx_method *method;
        const struct jx_function *function;
    };
};

enum jx_list_kind {
    JX_PLAIN, /* list */
    JX_TUPLE,
    JX_RANGE,     /* what range() gives */
    JX_VIEW,      /* keys(), items(), values() of a dict: iterated, counted, nothing else */
    JX_GENERATOR, /* of map, select …: iterated once, nothing else */
};
struct jx_list {
    enum jx_list_kind kind;
    bool spent;   /* GENERATOR */
    bool failing; /* GENERATOR: what it is of can't be gone over, which shows when it is used */
    size_t count;
    struct jx *items;
};
struct jx_dict {
    size_t count, capacity;
    struct jx *keys, *values;
};
struct jx_loop {
    size_t index, count;
    const struct jx *items;
    uint32_t depth;
    struct jx *changed; /* what changed() saw last; NULL: nothing yet */
};
struct jx_method {
    struct jx self;
    struct jx name;
};

static inline struct jx jx_none(void)
{
    return (struct jx){.type = JX_NONE};
}
static inline struct jx jx_bool(bool b)
{
    return (struct jx){.type = JX_BOOL, .b = b};
}
static inline struct jx jx_int(int64_t i)
{
    return (struct jx){.type = JX_INT, .i = i};
}
static inline struct jx jx_float(double f)
{
    return (struct jx){.type = JX_FLOAT, .f = f};
}
static inline struct jx jx_text(const char *s, size_t length)
{
    return (struct jx){.type = JX_STRING, .s = s, .length = (uint32_t)length};
}
static inline struct jx jx_word(const char *s)
{
    return jx_text(s, strlen(s));
}
static inline bool jx_is(struct jx v, const char *word)
{
    return v.length == strlen(word) && memcmp(v.s, word, v.length) == 0;
}
static inline bool jx_same_text(struct jx a, struct jx b)
{
    return a.length == b.length && memcmp(a.s, b.s, a.length) == 0;
}
static inline bool jx_is_number(struct jx v) /* Python's bool is an int */
{
    return v.type == JX_BOOL || v.type == JX_INT || v.type == JX_FLOAT;
}
static inline bool jx_is_integer(struct jx v)
{
    return v.type == JX_BOOL || v.type == JX_INT;
}
static inline int64_t jx_integer(struct jx v)
{
    return v.type == JX_BOOL ? v.b : v.i;
}
static inline bool jx_is_plain_list(struct jx v) /* list or tuple */
{
    return v.type == JX_LIST && v.list->kind <= JX_TUPLE;
}
static inline double jx_number(struct jx v)
{
    return v.type == JX_FLOAT ? v.f : (double)jx_integer(v);
}

#endif
