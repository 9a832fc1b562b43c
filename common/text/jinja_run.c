/* Running the statements of a template, and the limits of a rendering. */
#include <stdlib.h>

#include "common/text/jinja_internal.h"
#include "common/text/utf8.h"

#define RUN_DEPTH (4 * SP_MAX_TEMPLATE_DEPTH) /* a macro may call macros */

bool jx_fail(struct jx_run *run, enum sp_err code, const char *format, ...)
{
    if (run->rc != SP_OK)
        return false;
    va_list args;
    va_start(args, format);
    sp_failv(run->err, code, format, args);
    va_end(args);
    run->rc = sp_wrap(run->err, code, "%s:%u", run->what, run->line);
    return false;
}

bool jx_step(struct jx_run *run, uint64_t steps)
{
    run->steps += steps;
    if (run->steps > SP_MAX_TEMPLATE_STEPS)
        return jx_fail(run, SP_ELIMIT, "the rendering takes more than %d steps",
                       SP_MAX_TEMPLATE_STEPS);
    return true;
}

void *jx_take(struct jx_run *run, size_t count, size_t bytes)
{
    size_t total;
    void *taken = sp_mul_size(count, bytes, &total) && total <= SP_MAX_TEMPLATE_MEMORY
                      ? jx_memory_take(&run->memory, total)
                      : NULL;
    if (taken == NULL)
        jx_fail(run, SP_ELIMIT, "the rendering needs more than %d bytes", SP_MAX_TEMPLATE_MEMORY);
    return taken;
}

bool jx_deeper(struct jx_run *run)
{
    if (run->depth == RUN_DEPTH)
        return jx_fail(run, SP_ELIMIT, "nested more than %d deep", RUN_DEPTH);
    run->depth++;
    return true;
}

/* ---- scopes ---- */

struct jx_scope *jx_scope_new(struct jx_run *run, struct jx_scope *parent)
{
    struct jx_scope *scope = jx_take(run, 1, sizeof(*scope));
    if (scope != NULL)
        scope->parent = parent;
    return scope;
}

bool jx_define(struct jx_run *run, struct jx_scope *scope, struct jx name, struct jx value)
{
    for (uint32_t i = 0; i < scope->count; i++) {
        if (jx_same_text(scope->vars[i].name, name)) {
            scope->vars[i].value = value;
            return true;
        }
    }
    if (scope->count == scope->capacity) {
        uint32_t capacity = SP_MAX(2 * scope->capacity, 4u);
        struct jx_var *vars = jx_take(run, capacity, sizeof(*vars));
        if (vars == NULL)
            return false;
        if (scope->count > 0)
            memcpy(vars, scope->vars, scope->count * sizeof(*vars));
        scope->vars = vars;
        scope->capacity = capacity;
    }
    scope->vars[scope->count++] = (struct jx_var){.name = name, .value = value};
    return true;
}

static bool assign(struct jx_run *run, const struct jx_node *target, struct jx value);

static bool unpack(struct jx_run *run, const struct jx_node *target, struct jx value)
{
    const struct jx *items;
    size_t count;
    if (!jx_iterate(run, value, &items, &count))
        return false;
    if (count != target->count)
        return jx_fail(run, SP_EFORMAT, "%zu values for %u names", count, target->count);
    for (uint32_t i = 0; i < target->count; i++)
        if (!assign(run, target->kids[i], items[i]))
            return false;
    return true;
}

static bool assign(struct jx_run *run, const struct jx_node *target, struct jx value)
{
    if (target->kind == JX_TUPLE_OF)
        return unpack(run, target, value);
    if (target->kind == JX_NAME)
        return jx_define(run, run->scope, target->value, value);
    struct jx space;
    if (!jx_eval(run, target->a, &space))
        return false;
    if (space.type != JX_NAMESPACE)
        return jx_fail(run, SP_EFORMAT, "only a namespace has members that can be set");
    if (target->value.s[0] == '_')
        return jx_fail(run, SP_EFORMAT, "a member of a namespace that starts with _");
    return jx_dict_put(run, space.dict, target->value, value);
}

/* ---- output ---- */

static bool print(struct jx_run *run, const struct jx_node *node)
{
    struct jx v;
    return jx_eval(run, node->a, &v) && jx_str(run, v, run->out);
}

bool jx_capture(struct jx_run *run, const struct jx_node *body, struct jx_scope *scope,
                struct jx *ret)
{
    struct sp_buf text = SP_BUF_INIT, *out = run->out;
    struct jx_scope *outer = run->scope;
    if (scope == NULL)
        return false;
    run->out = &text;
    run->scope = scope;
    bool ok = jx_exec(run, body);
    run->out = out;
    run->scope = outer;
    if (!ok) {
        sp_buf_deinit(&text);
        return false;
    }
    return jx_take_buf(run, &text, ret);
}

/* ---- macros ---- */

static bool bind_parameters(struct jx_run *run, const struct jx_macro *macro,
                            const struct jx_actual *actual, struct jx_scope *scope)
{
    const struct jx_args *parameters = &macro->node->args;
    uint32_t used = 0;
    if (actual->count > parameters->keyword_count)
        return jx_fail(run, SP_EUNSUPPORTED, "the macro %.*s with more arguments than it names",
                       (int)SP_MIN(macro->name.length, 40u), macro->name.s);
    for (uint32_t i = 0; i < parameters->keyword_count; i++) {
        const struct jx_keyword *parameter = &parameters->keywords[i];
        struct jx value = jx_undefined(parameter->name.s, parameter->name.length);
        bool given = i < actual->count;
        if (given)
            value = actual->args[i];
        for (uint32_t k = 0; k < actual->keyword_count; k++) {
            if (!jx_same_text(actual->keywords[k].name, parameter->name))
                continue;
            if (given)
                return jx_fail(run, SP_EFORMAT, "the argument %.*s is given twice",
                               (int)SP_MIN(parameter->name.length, 40u), parameter->name.s);
            value = actual->keywords[k].value;
            given = true;
            used++;
        }
        if (!given && parameter->value != NULL && !jx_eval(run, parameter->value, &value))
            return false;
        if (!jx_define(run, scope, parameter->name, value))
            return false;
    }
    if (used < actual->keyword_count)
        return jx_fail(run, SP_EUNSUPPORTED, "the macro %.*s with an argument it does not name",
                       (int)SP_MIN(macro->name.length, 40u), macro->name.s);
    return true;
}

bool jx_call_macro(struct jx_run *run, const struct jx_macro *macro, const struct jx_actual *actual,
                   struct jx caller, struct jx *ret)
{
    struct jx_scope *scope = jx_scope_new(run, macro->scope), *outer = run->scope;
    if (scope == NULL || !jx_deeper(run))
        return false;
    run->scope = scope; /* a default may use the parameters before it */
    bool ok = bind_parameters(run, macro, actual, scope) &&
              (macro->caller || jx_define(run, scope, jx_word("caller"), caller)) &&
              jx_capture(run, macro->node->d, scope, ret);
    run->scope = outer;
    if (ok)
        run->depth--;
    return ok;
}

static bool make_macro(struct jx_run *run, const struct jx_node *node, struct jx name, bool caller,
                       struct jx *ret)
{
    struct jx_macro *macro = jx_take(run, 1, sizeof(*macro));
    if (macro == NULL)
        return false;
    *macro = (struct jx_macro){.name = name, .node = node, .scope = run->scope, .caller = caller};
    *ret = (struct jx){.type = JX_MACRO, .macro = macro};
    return true;
}

static bool run_call_block(struct jx_run *run, const struct jx_node *node)
{
    struct jx callee, caller, text;
    struct jx_actual actual;
    if (!make_macro(run, node, jx_word("caller"), true, &caller) ||
        !jx_eval(run, node->a->a, &callee) || !jx_eval_args(run, &node->a->args, &actual))
        return false;
    if (callee.type != JX_MACRO)
        return jx_fail(run, SP_EUNSUPPORTED, "a call block of a %s", jx_type_name(callee));
    return jx_call_macro(run, callee.macro, &actual, caller, &text) && jx_str(run, text, run->out);
}

/* ---- tags ---- */

/* The output of a body, in a scope of its own, through the tag's filters. */
static bool filtered_body(struct jx_run *run, const struct jx_node *body,
                          const struct jx_node *filters, struct jx *ret)
{
    struct jx hole = run->hole, text;
    if (!jx_capture(run, body, jx_scope_new(run, run->scope), &text))
        return false;
    run->hole = text;
    bool ok = jx_eval(run, filters, ret);
    run->hole = hole;
    return ok;
}

static bool run_if(struct jx_run *run, const struct jx_node *node)
{
    for (uint32_t i = 0; i < node->count; i += 2) {
        struct jx test;
        if (!jx_eval(run, node->kids[i], &test))
            return false;
        if (jx_truth(test))
            return jx_exec(run, node->kids[i + 1]);
    }
    return node->d == NULL || jx_exec(run, node->d);
}

/* The items that pass the test of `for … if …`. */
static bool choose_items(struct jx_run *run, const struct jx_node *node, struct jx_scope *scope,
                         const struct jx **items, size_t *count)
{
    struct jx *chosen = jx_take(run, *count + 1, sizeof(*chosen));
    size_t kept = 0;
    if (chosen == NULL)
        return false;
    for (size_t i = 0; i < *count; i++) {
        struct jx test;
        run->scope = scope;
        scope->count = 0;
        if (!assign(run, node->a, (*items)[i]) || !jx_eval(run, node->c, &test))
            return false;
        if (jx_truth(test))
            chosen[kept++] = (*items)[i];
    }
    *items = chosen;
    *count = kept;
    return true;
}

static bool run_loop(struct jx_run *run, const struct jx_node *node, struct jx_scope *scope,
                     const struct jx *items, size_t count)
{
    struct jx_loop *loop = jx_take(run, 1, sizeof(*loop));
    if (loop == NULL)
        return false;
    *loop = (struct jx_loop){.count = count, .items = items};
    for (size_t i = 0; i < count && !run->leaving; i++) {
        loop->index = i;
        scope->count = 0;
        run->scope = scope;
        if (!jx_step(run, 1) ||
            !jx_define(run, scope, jx_word("loop"), (struct jx){.type = JX_LOOP, .loop = loop}) ||
            !assign(run, node->a, items[i]) || !jx_exec(run, node->d))
            return false;
        run->continuing = false;
    }
    run->leaving = false;
    return true;
}

static bool run_for(struct jx_run *run, const struct jx_node *node)
{
    struct jx sequence;
    const struct jx *items;
    size_t count;
    struct jx_scope *outer = run->scope, *scope = jx_scope_new(run, outer);
    if (scope == NULL || !jx_eval(run, node->b, &sequence) ||
        !jx_iterate(run, sequence, &items, &count))
        return false;
    bool ok = (node->c == NULL || choose_items(run, node, scope, &items, &count)) &&
              run_loop(run, node, scope, items, count);
    run->scope = outer;
    if (!ok || count > 0 || node->count == 0)
        return ok;
    run->scope = jx_scope_new(run, outer);
    ok = run->scope != NULL && jx_exec(run, node->kids[0]);
    run->scope = outer;
    return ok;
}

static bool run_with(struct jx_run *run, const struct jx_node *node)
{
    struct jx_scope *outer = run->scope, *scope = jx_scope_new(run, outer);
    bool ok = scope != NULL;
    for (uint32_t i = 0; i < node->count && ok; i += 2) {
        struct jx value;
        run->scope = outer;
        ok = jx_eval(run, node->kids[i + 1], &value);
        run->scope = scope;
        ok = ok && assign(run, node->kids[i], value);
    }
    run->scope = scope;
    ok = ok && jx_exec(run, node->d);
    run->scope = outer;
    return ok;
}

static bool run_body(struct jx_run *run, const struct jx_node *body)
{
    for (uint32_t i = 0; i < body->count && !run->leaving && !run->continuing; i++)
        if (!jx_exec(run, body->kids[i]))
            return false;
    return true;
}

static bool exec_inner(struct jx_run *run, const struct jx_node *node)
{
    struct jx v;
    switch (node->kind) {
    case JX_BODY:
        return run_body(run, node);
    case JX_PRINT:
        return print(run, node);
    case JX_SET:
        return jx_eval(run, node->b, &v) && assign(run, node->a, v);
    case JX_SET_BLOCK:
        return filtered_body(run, node->c, node->b, &v) && assign(run, node->a, v);
    case JX_FILTER_BLOCK:
        return filtered_body(run, node->d, node->b, &v) && jx_str(run, v, run->out);
    case JX_FOR:
        return run_for(run, node);
    case JX_IF:
        return run_if(run, node);
    case JX_MACRO_TAG:
        return make_macro(run, node, node->value, false, &v) &&
               jx_define(run, run->scope, node->value, v);
    case JX_CALL_BLOCK:
        return run_call_block(run, node);
    case JX_WITH:
        return run_with(run, node);
    case JX_GENERATION:
        return jx_capture(run, node->d, jx_scope_new(run, run->scope), &v) &&
               jx_str(run, v, run->out);
    case JX_BREAK:
        run->leaving = true;
        return true;
    case JX_CONTINUE:
        run->continuing = true;
        return true;
    default:
        return jx_fail(run, SP_EINTERNAL, "no statement");
    }
}

bool jx_exec(struct jx_run *run, const struct jx_node *node)
{
    if (!jx_deeper(run) || !jx_step(run, 1))
        return false;
    run->line = node->line;
    if (!exec_inner(run, node))
        return false;
    run->depth--;
    return true;
}

/* ---- the whole ---- */

enum sp_err tok_jinja_compile(const char *text, size_t length, const char *what,
                              struct tok_jinja **ret, struct sp_error *err)
{
    if (length > SP_MAX_CONFIG_JSON)
        return sp_fail(err, SP_ELIMIT, "%s: the template has more than %d bytes", what,
                       SP_MAX_CONFIG_JSON);
    if (tok_utf8_check(text, length) < length)
        return sp_fail(err, SP_EFORMAT, "%s: the template is not UTF-8 at byte %zu", what,
                       tok_utf8_check(text, length));
    struct tok_jinja *template = sp_xalloc(sizeof(*template));
    template->what = sp_xstrdup(what);
    template->arena = sp_arena_new(1 << 16, SP_MAX_TEMPLATE_MEMORY);
    struct jx_parser p = {.what = what, .memory = {.arena = template->arena}, .err = err};
    if (jx_lex(&p, text, length))
        template->body = jx_parse_template(&p);
    free(p.tokens);
    if (template->body == NULL) {
        tok_jinja_free(template);
        return p.rc;
    }
    *ret = template;
    return SP_OK;
}

void tok_jinja_free(struct tok_jinja *template)
{
    if (template == NULL)
        return;
    sp_arena_free(template->arena);
    free(template->what);
    free(template);
}

static bool define_context(struct jx_run *run, const json_t *context)
{
    const char *name;
    json_t *member;
    json_object_foreach((json_t *)context, name, member)
    {
        struct jx value;
        if (!jx_from_json(run, member, &value) || !jx_define(run, run->scope, jx_word(name), value))
            return false;
    }
    return true;
}

enum sp_err tok_jinja_render(const struct tok_jinja *template, const json_t *context,
                             const char *date, struct sp_buf *ret, struct sp_error *err)
{
    size_t before = ret->length;
    struct jx_run run = {.what = template->what,
                         .memory = {.arena = sp_arena_new(1 << 16, SP_MAX_TEMPLATE_MEMORY)},
                         .out = ret,
                         .date = date,
                         .line = 1,
                         .hole = jx_none(),
                         .err = err};
    struct jx_scope *variables = jx_scope_new(&run, NULL);
    run.scope = variables;
    if (variables != NULL && define_context(&run, context) &&
        (run.scope = jx_scope_new(&run, variables)) != NULL)
        (void)jx_exec(&run, template->body);
    sp_arena_free(run.memory.arena);
    if (run.rc != SP_OK)
        ret->length = before;
    return run.rc;
}
