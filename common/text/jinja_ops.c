/* Operators: arithmetic, joining, comparing. */
#include <math.h>

#include "common/text/jinja_internal.h"

static bool type_error(struct jx_run *run, enum jx_op op, struct jx a, struct jx b)
{
    static const char *const signs[] = {"+", "-", "*", "/", "//", "%", "**"};
    if (a.type == JX_UNDEFINED || b.type == JX_UNDEFINED)
        return jx_undefined_error(run, a.type == JX_UNDEFINED ? a : b);
    return jx_fail(run, SP_EFORMAT, "%s %s %s", jx_type_name(a), signs[op], jx_type_name(b));
}

static bool power(struct jx_run *run, int64_t base, int64_t exponent, struct jx *ret)
{
    int64_t result = 1;
    if (exponent < 0) {
        if (base == 0)
            return jx_fail(run, SP_EFORMAT, "0 to a negative power");
        *ret = jx_float(pow((double)base, (double)exponent));
        return true;
    }
    bool over = false;
    while (exponent > 0 && !over) {
        if (exponent & 1)
            over = __builtin_mul_overflow(result, base, &result);
        exponent >>= 1;
        over = over || (exponent > 0 && __builtin_mul_overflow(base, base, &base));
    }
    *ret = jx_int(result);
    return !over || jx_fail(run, SP_EUNSUPPORTED, "a whole number above 2^63 - 1");
}

static bool integers(struct jx_run *run, enum jx_op op, int64_t a, int64_t b, struct jx *ret)
{
    int64_t result = 0;
    bool over = false;
    if ((op == JX_DIV || op == JX_FLOORDIV || op == JX_MOD) && b == 0)
        return jx_fail(run, SP_EFORMAT, "division by zero");
    if (op == JX_DIV) {
        *ret = jx_float((double)a / (double)b);
        return true;
    }
    if (op == JX_POW)
        return power(run, a, b, ret);
    if (op == JX_ADD) {
        over = __builtin_add_overflow(a, b, &result);
    } else if (op == JX_SUB) {
        over = __builtin_sub_overflow(a, b, &result);
    } else if (op == JX_MUL) {
        over = __builtin_mul_overflow(a, b, &result);
    } else if (b == -1) {
        over = op == JX_FLOORDIV && __builtin_sub_overflow((int64_t)0, a, &result);
    } else {
        int64_t rest = a % b, quotient = a / b;
        bool adjust = rest != 0 && (rest < 0) != (b < 0);
        result = op == JX_MOD ? rest + (adjust ? b : 0) : quotient - adjust;
    }
    *ret = jx_int(result);
    return !over || jx_fail(run, SP_EUNSUPPORTED, "a whole number beyond 64 bits");
}

static bool floats(struct jx_run *run, enum jx_op op, double a, double b, struct jx *ret)
{
    if ((op == JX_DIV || op == JX_FLOORDIV || op == JX_MOD) && b == 0)
        return jx_fail(run, SP_EFORMAT, "division by zero");
    double result = 0;
    switch (op) {
    case JX_ADD:
        result = a + b;
        break;
    case JX_SUB:
        result = a - b;
        break;
    case JX_MUL:
        result = a * b;
        break;
    case JX_DIV:
        result = a / b;
        break;
    case JX_POW:
        result = pow(a, b);
        if (isinf(result) && !isinf(a) && !isinf(b))
            return jx_fail(run, SP_EFORMAT, a == 0 ? "division by zero" : "** beyond any number");
        break;
    default:
        return jx_fail(run, SP_EUNSUPPORTED, "// and %% of numbers with a fraction");
    }
    *ret = jx_float(result);
    return !isnan(result) || jx_fail(run, SP_EUNSUPPORTED, "a result that is no number");
}

static bool join_texts(struct jx_run *run, struct jx a, struct jx b, struct jx *ret)
{
    bool safe = a.markup || b.markup; /* markupsafe.Markup escapes what it is joined with */
    if (safe && (!jx_escape(run, a, &a) || !jx_escape(run, b, &b)))
        return false;
    size_t length = (size_t)a.length + b.length;
    if (!jx_check_size(run, length) || !jx_step(run, 1 + length / 256))
        return false;
    char *joined = jx_take(run, length + 1, 1);
    if (joined == NULL)
        return false;
    if (a.length > 0)
        memcpy(joined, a.s, a.length);
    if (b.length > 0)
        memcpy(joined + a.length, b.s, b.length);
    *ret = jx_text(joined, length);
    ret->markup = safe;
    return true;
}

static bool join_lists(struct jx_run *run, struct jx a, struct jx b, struct jx *ret)
{
    size_t n = a.list->count, m = b.list->count;
    if (!jx_step(run, 1 + n + m) || !jx_new_list(run, a.list->kind, n + m, ret))
        return false;
    memcpy(ret->list->items, a.list->items, n * sizeof(struct jx));
    memcpy(ret->list->items + n, b.list->items, m * sizeof(struct jx));
    return true;
}

static bool repeat(struct jx_run *run, struct jx v, int64_t times, struct jx *ret)
{
    struct sp_buf out = SP_BUF_INIT;
    if (v.type == JX_STRING) {
        bool ok = true;
        for (int64_t i = 0; i < times && v.length > 0 && ok; i++)
            ok = jx_str(run, v, &out);
        if (ok)
            ok = jx_take_buf(run, &out, ret);
        else
            sp_buf_deinit(&out);
        if (ok)
            ret->markup = v.markup;
        return ok;
    }
    size_t total;
    if (times < 0)
        times = 0;
    if (!sp_mul_size(v.list->count, (size_t)times, &total) || total > SP_MAX_TEMPLATE_STEPS)
        return jx_fail(run, SP_ELIMIT, "a list of more than %d items", SP_MAX_TEMPLATE_STEPS);
    if (!jx_step(run, 1 + total) || !jx_new_list(run, v.list->kind, total, ret))
        return false;
    for (size_t i = 0; i < total; i++)
        ret->list->items[i] = v.list->items[i % v.list->count];
    return true;
}

bool jx_binary(struct jx_run *run, enum jx_op op, struct jx a, struct jx b, struct jx *ret)
{
    if (jx_is_integer(a) && jx_is_integer(b))
        return integers(run, op, jx_integer(a), jx_integer(b), ret);
    if (jx_is_number(a) && jx_is_number(b))
        return floats(run, op, jx_number(a), jx_number(b), ret);
    if (op == JX_ADD && a.type == JX_STRING && b.type == JX_STRING)
        return join_texts(run, a, b, ret);
    if (op == JX_ADD && jx_is_plain_list(a) && jx_is_plain_list(b) && a.list->kind == b.list->kind)
        return join_lists(run, a, b, ret);
    if (op == JX_MUL && (a.type == JX_STRING || jx_is_plain_list(a)) && jx_is_integer(b))
        return repeat(run, a, jx_integer(b), ret);
    if (op == JX_MUL && (b.type == JX_STRING || jx_is_plain_list(b)) && jx_is_integer(a))
        return repeat(run, b, jx_integer(a), ret);
    if (op == JX_MOD && a.type == JX_STRING)
        return jx_fail(run, SP_EUNSUPPORTED, "formatting a text with %%");
    return type_error(run, op, a, b);
}

bool jx_compare(struct jx_run *run, enum jx_op op, struct jx a, struct jx b, bool *ret)
{
    bool ok, swapped = op == JX_GT || op == JX_LE;
    if (op == JX_IN || op == JX_NOT_IN)
        ok = jx_contains(run, b, a, ret);
    else if (op == JX_EQ || op == JX_NE)
        ok = jx_equal(run, a, b, ret);
    else
        ok = jx_less(run, swapped ? b : a, swapped ? a : b, ret);
    if (op == JX_NOT_IN || op == JX_NE || op == JX_LE || op == JX_GE)
        *ret = !*ret;
    return ok;
}
