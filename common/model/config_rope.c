/* config_rope: how positions turn queries and keys, from config.json and back. transformers 4
 * writes rope_theta and rope_scaling, 5 writes rope_parameters (by kind of layer where there are
 * two). */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/json.h"
#include "common/base/limits.h"
#include "common/base/mem.h"
#include "common/model/arch.h"
#include "common/model/dmath.h"

static const struct {
    const char *name;
    enum model_rope_type type;
} types[] = {
    {"default", MODEL_ROPE_DEFAULT},   {"linear", MODEL_ROPE_LINEAR},
    {"llama3", MODEL_ROPE_LLAMA3},     {"dynamic", MODEL_ROPE_DYNAMIC},
    {"longrope", MODEL_ROPE_LONGROPE}, {"su", MODEL_ROPE_LONGROPE},
    {"yarn", MODEL_ROPE_YARN},
};

/* What is read on the way to a config: of one kind of layer. */
struct rope {
    double theta, partial;
    struct model_rope_scaling scaling;
};

static enum sp_err read_type(const json_t *object, const char *key, const char *what,
                             enum model_rope_type *ret, struct sp_error *err)
{
    const char *type = NULL;
    enum sp_err rc = sp_json_opt_str(object, "type", what, &type, err);
    if (rc == SP_OK)
        rc = sp_json_opt_str(object, "rope_type", what, &type, err);
    if (rc != SP_OK)
        return rc;
    for (size_t i = 0; type && i < SP_COUNT(types); i++)
        if (strcmp(types[i].name, type) == 0) {
            *ret = types[i].type;
            return SP_OK;
        }
    return sp_fail(err, SP_EUNSUPPORTED,
                   "%s: %s of type \"%.40s\" is not supported; supported: default, linear, llama3, "
                   "dynamic, longrope, yarn",
                   what, key, type ? type : "");
}

/* Angles stay below what model_sincos reduces exactly: frequencies may grow by a few times only. */
#define LOWEST_SHORT_FACTOR 0.2

static enum sp_err read_positive(const json_t *object, const char *key, const char *what,
                                 double *ret, struct sp_error *err)
{
    double value;
    enum sp_err rc = sp_json_f64(object, key, what, &value, err);
    if (rc != SP_OK)
        return rc;
    if (!(value > 0 && value <= 1e12))
        return sp_fail(err, SP_EFORMAT, "%s: field \"%s\": %g is not between 0 and 1e12", what, key,
                       value);
    *ret = value;
    return SP_OK;
}

static enum sp_err read_original(const json_t *json, const json_t *object, const char *what,
                                 int32_t *ret, struct sp_error *err)
{
    static const char key[] = "original_max_position_embeddings";
    int64_t value;
    /* Phi-3 writes it beside the other fields, which then holds. */
    enum sp_err rc = sp_json_i64(json_object_get(json, key) ? json : object, key, 1, INT32_MAX,
                                 what, &value, err);
    if (rc == SP_OK)
        *ret = (int32_t)value;
    return rc;
}

static enum sp_err read_factors(const json_t *object, const char *key, const char *what,
                                int32_t *ret_n, double *to, struct sp_error *err)
{
    const json_t *list = json_object_get(object, key);
    size_t n = json_array_size(list);
    if (n == 0 || n > MODEL_MAX_ROPE_FACTORS)
        return sp_fail(err, SP_EFORMAT, "%s: field \"%s\": expected a list of 1 to %d numbers",
                       what, key, MODEL_MAX_ROPE_FACTORS);
    for (size_t i = 0; i < n; i++) {
        double value = json_number_value(json_array_get(list, i));
        if (!(value >= LOWEST_SHORT_FACTOR && value <= 1e6))
            return sp_fail(err, SP_EFORMAT,
                           "%s: field \"%s\": element %zu is not a number between 0.2 and 1e6",
                           what, key, i);
        to[i] = value;
    }
    *ret_n = (int32_t)n;
    return SP_OK;
}

static enum sp_err read_longrope(const json_t *json, const json_t *object, const char *what,
                                 const struct model_config *c, struct model_rope_scaling *s,
                                 struct sp_error *err)
{
    enum sp_err rc = read_original(json, object, what, &s->original, err);
    if (rc == SP_OK)
        rc = read_factors(object, "short_factor", what, &s->n_short, s->short_factor, err);
    if (rc == SP_OK && json_is_array(json_object_get(object, "long_factor")))
        rc = read_factors(object, "long_factor", what, &s->n_long, s->long_factor, err);
    if (rc == SP_OK && s->n_long > 0 && s->n_long != s->n_short)
        rc = sp_fail(err, SP_EFORMAT, "%s: field \"long_factor\": %d numbers, expected %d", what,
                     s->n_long, s->n_short);
    if (rc != SP_OK)
        return rc;
    double positions = (double)c->max_positions;
    int64_t exact;
    if (sp_json_i64(json, "max_position_embeddings", 1, INT32_MAX, what, &exact, NULL) == SP_OK)
        positions = (double)exact;
    s->factor = positions / s->original;
    if (json_object_get(object, "factor") &&
        (rc = read_positive(object, "factor", what, &s->factor, err)))
        return rc;
    s->attention_factor = s->factor <= 1 || s->original < 2
                              ? 1
                              : sqrt(1 + model_log(s->factor) / model_log(s->original));
    const json_t *given = json_object_get(object, "attention_factor");
    if (given && !json_is_null(given))
        rc = read_positive(object, "attention_factor", what, &s->attention_factor, err);
    return rc;
}

static double yarn_scale(double factor, double m)
{
    return factor <= 1 ? 1 : 0.1 * m * model_log(factor) + 1;
}

/* A number of zero counts as absent, as in transformers. */
static enum sp_err read_yarn(const json_t *json, const json_t *object, const char *what,
                             const struct model_config *c, struct model_rope_scaling *s,
                             struct sp_error *err)
{
    double above = 0, below = 0, given = 0;
    const struct {
        const char *key;
        double *to;
    } numbers[] = {{"beta_fast", &s->beta_fast},
                   {"beta_slow", &s->beta_slow},
                   {"mscale", &above},
                   {"mscale_all_dim", &below},
                   {"attention_factor", &given}};
    for (size_t i = 0; i < SP_COUNT(numbers); i++) {
        enum sp_err rc = sp_json_opt_f64(object, numbers[i].key, what, numbers[i].to, err);
        if (rc != SP_OK)
            return rc;
        if (!(*numbers[i].to >= 0 && *numbers[i].to <= 1e6))
            return sp_fail(err, SP_EFORMAT, "%s: field \"%s\": %g is not between 0 and 1e6", what,
                           numbers[i].key, *numbers[i].to);
    }
    /* Of Phi-3, where the name means another thing. */
    if (json_object_get(object, "short_factor"))
        return sp_fail(err, SP_EUNSUPPORTED, "%s: yarn with a short_factor is not supported", what);
    s->truncate = true;
    enum sp_err rc = sp_json_opt_bool(object, "truncate", what, &s->truncate, err);
    if (rc == SP_OK)
        rc = read_original(json, object, what, &s->original, err);
    if (rc == SP_ENOTFOUND) {
        s->original = c->context;
        rc = SP_OK;
    }
    if (rc != SP_OK)
        return rc;
    s->beta_fast = s->beta_fast > 0 ? s->beta_fast : 32;
    s->beta_slow = s->beta_slow > 0 ? s->beta_slow : 1;
    if (s->beta_fast < s->beta_slow)
        return sp_fail(err, SP_EFORMAT, "%s: beta_fast %g is below beta_slow %g", what,
                       s->beta_fast, s->beta_slow);
    s->attention_factor = given > 0 ? given
                          : above > 0 && below > 0
                              ? yarn_scale(s->factor, above) / yarn_scale(s->factor, below)
                              : yarn_scale(s->factor, 1);
    return SP_OK;
}

/* Nothing in it that would change the angles in a way that is not built. */
static enum sp_err check_keys(const json_t *object, enum model_rope_type type, const char *key,
                              const char *what, struct sp_error *err)
{
    static const char *const yarn[] = {"beta_fast", "beta_slow", "mscale", "mscale_all_dim",
                                       "truncate"};
    static const char *const known[] = {
        "type",        "rope_type",       "rope_theta",       "partial_rotary_factor",
        "factor",      "low_freq_factor", "high_freq_factor", "original_max_position_embeddings",
        "long_factor", "short_factor",    "attention_factor"};
    const char *name;
    json_t *value;
    json_object_foreach((json_t *)(uintptr_t)object, name, value)
    {
        bool found = json_is_null(value);
        for (size_t i = 0; !found && i < SP_COUNT(known); i++)
            found = strcmp(known[i], name) == 0;
        for (size_t i = 0; type == MODEL_ROPE_YARN && !found && i < SP_COUNT(yarn); i++)
            found = strcmp(yarn[i], name) == 0;
        if (!found)
            return sp_fail(err, SP_EUNSUPPORTED, "%s: field \"%s.%.80s\" is not supported", what,
                           key, name);
    }
    return SP_OK;
}

static enum sp_err read_scaling(const json_t *json, const json_t *object, const char *key,
                                const char *what, const struct model_config *c,
                                struct model_rope_scaling *ret, struct sp_error *err)
{
    struct model_rope_scaling s = {0};
    if (!json_is_object(object))
        return sp_fail(err, SP_EFORMAT, "%s: field \"%s\": expected an object or null", what, key);
    enum sp_err rc = read_type(object, key, what, &s.type, err);
    if (rc == SP_OK)
        rc = check_keys(object, s.type, key, what, err);
    if (rc == SP_OK && s.type == MODEL_ROPE_LONGROPE)
        rc = read_longrope(json, object, what, c, &s, err);
    else if (rc == SP_OK && s.type != MODEL_ROPE_DEFAULT)
        rc = read_positive(object, "factor", what, &s.factor, err);
    if (rc == SP_OK && s.type == MODEL_ROPE_YARN)
        rc = read_yarn(json, object, what, c, &s, err);
    if (rc == SP_OK && s.type == MODEL_ROPE_LLAMA3 &&
        ((rc = read_positive(object, "low_freq_factor", what, &s.low_freq, err)) ||
         (rc = read_positive(object, "high_freq_factor", what, &s.high_freq, err)) ||
         (rc = read_original(json, object, what, &s.original, err))))
        return rc;
    if (rc == SP_OK && s.type == MODEL_ROPE_LLAMA3 && s.high_freq <= s.low_freq)
        return sp_fail(err, SP_EFORMAT, "%s: high_freq_factor %g is not above low_freq_factor %g",
                       what, s.high_freq, s.low_freq);
    /* longrope's scales cos and sin only, and below 1 it doesn't. */
    if (rc == SP_OK && s.type != MODEL_ROPE_DEFAULT && s.type != MODEL_ROPE_LONGROPE &&
        s.factor < 1)
        return sp_fail(err, SP_EFORMAT, "%s: field \"factor\": %g is below 1", what, s.factor);
    if (s.type == MODEL_ROPE_DYNAMIC)
        s.original = c->max_positions;
    if (rc == SP_OK)
        *ret = s;
    return rc;
}

static enum sp_err read_object(const json_t *json, const json_t *object, const char *key,
                               const char *what, const struct model_config *c, struct rope *rope,
                               struct sp_error *err)
{
    enum sp_err rc = read_scaling(json, object, key, what, c, &rope->scaling, err);
    if (rc == SP_OK)
        rc = sp_json_opt_f64(object, "rope_theta", what, &rope->theta, err);
    if (rc == SP_OK)
        rc = sp_json_opt_f64(object, "partial_rotary_factor", what, &rope->partial, err);
    return rc;
}

static enum sp_err read_all(const json_t *json, const struct model_arch *arch, const char *what,
                            const struct model_config *c, struct rope *global, struct rope *local,
                            struct sp_error *err)
{
    static const struct {
        const char *key;
        bool partial, local;
    } numbers[] = {{"rope_theta", false, false},
                   {"rotary_emb_base", false, false},
                   {"rope_local_base_freq", false, true},
                   {"rotary_pct", true, false},
                   {"partial_rotary_factor", true, false}};
    static const char *const keys[] = {"rope_scaling", "rope_parameters"};
    for (size_t i = 0; i < SP_COUNT(numbers); i++) {
        struct rope *rope = numbers[i].local ? local : global;
        enum sp_err rc = sp_json_opt_f64(json, numbers[i].key, what,
                                         numbers[i].partial ? &rope->partial : &rope->theta, err);
        if (rc != SP_OK)
            return rc;
    }
    for (size_t i = 0; i < SP_COUNT(keys); i++) {
        const json_t *object = json_object_get(json, keys[i]), *full, *sliding;
        enum sp_err rc = SP_OK;
        if (!object || json_is_null(object))
            continue;
        full = json_object_get(object, "full_attention");
        sliding = json_object_get(object, "sliding_attention");
        if (!full && !sliding)
            rc = read_object(json, object, keys[i], what, c, global, err);
        else if (arch->local_theta <= 0)
            rc = sp_fail(err, SP_EUNSUPPORTED,
                         "%s: %s by kind of layer is not supported in a %s "
                         "model",
                         what, keys[i], arch->model_type);
        if (rc == SP_OK && full)
            rc = read_object(json, full, keys[i], what, c, global, err);
        if (rc == SP_OK && sliding)
            rc = read_object(json, sliding, keys[i], what, c, local, err);
        if (rc != SP_OK)
            return rc;
    }
    return SP_OK;
}

static enum sp_err check_theta(double theta, const char *what, struct sp_error *err)
{
    if (!(theta >= 1 && theta <= 1e12))
        return sp_fail(err, SP_EFORMAT, "%s: rope_theta %g is not between 1 and 1e12", what, theta);
    return SP_OK;
}

enum sp_err model_config_parse_rope(const json_t *json, const struct model_arch *arch,
                                    const char *what, struct model_config *c, struct sp_error *err)
{
    struct rope global = {.theta = arch->rope_theta, .partial = arch->partial};
    struct rope local = {.theta = arch->local_theta, .partial = arch->partial};
    if (arch->rope_theta <= 0)
        return SP_OK;
    enum sp_err rc = read_all(json, arch, what, c, &global, &local, err);
    if (rc == SP_OK)
        rc = check_theta(global.theta, what, err);
    if (rc == SP_OK && arch->local_theta > 0)
        rc = check_theta(local.theta, what, err);
    if (rc != SP_OK)
        return rc;
    if (arch->local_theta > 0 && local.scaling.type != MODEL_ROPE_DEFAULT)
        return sp_fail(err, SP_EUNSUPPORTED,
                       "%s: rope_parameters of sliding_attention: only type "
                       "default is supported",
                       what);
    if (global.scaling.type == MODEL_ROPE_YARN && global.theta <= 1)
        return sp_fail(err, SP_EFORMAT, "%s: rope_theta %g with yarn; it has to be above 1", what,
                       global.theta);
    double size = floor(c->head_size * global.partial);
    if (global.partial != 1 && !arch->may_turn_partly)
        return sp_fail(err, SP_EUNSUPPORTED,
                       "%s: partial_rotary_factor %g is not supported in a %s model", what,
                       global.partial, arch->model_type);
    if (!(global.partial > 0 && global.partial <= 1) || size < 2 || fmod(size, 2) != 0)
        return sp_fail(err, SP_EUNSUPPORTED,
                       "%s: partial_rotary_factor %g of a head of %d: the part that turns must be "
                       "even and not empty",
                       what, global.partial, c->head_size);
    c->rotary = (int32_t)size == c->head_size ? 0 : (int32_t)size;
    c->rope_theta = global.theta;
    c->local_theta = arch->local_theta > 0 ? local.theta : 0;
    c->scaling = global.scaling;
    if (c->scaling.type == MODEL_ROPE_LONGROPE && c->scaling.n_short != (int32_t)size / 2)
        return sp_fail(err, SP_EFORMAT, "%s: field \"short_factor\": %d numbers, expected %d", what,
                       c->scaling.n_short, (int32_t)size / 2);
    if (c->scaling.type == MODEL_ROPE_LONGROPE)
        c->max_positions = SP_MIN(c->max_positions, c->scaling.original);
    return SP_OK;
}

static json_t *factors_json(int32_t n, const double *values)
{
    json_t *list = json_array();
    for (int32_t i = 0; i < n; i++)
        json_array_append_new(list, json_real(values[i]));
    return list;
}

/* A share of the head that gives back `rotary` when it is multiplied and rounded down, also after
 * it was written with 15 digits: 10 / 14 would give 9. */
static double share(int32_t rotary, int32_t head)
{
    char text[32];
    double plain = (double)rotary / head;
    snprintf(text, sizeof(text), "%.15g", plain);
    bool exact = floor(head * plain) == rotary && floor(head * strtod(text, NULL)) == rotary;
    return exact ? plain : (rotary + 0.5) / head;
}

static json_t *write_object(const struct model_config *c, const struct model_arch *arch,
                            double theta, const struct model_rope_scaling *s)
{
    const char *name = "default";
    for (size_t i = SP_COUNT(types); i-- > 0;)
        if (types[i].type == s->type)
            name = types[i].name;
    json_t *object = json_pack("{s:s, s:f}", "rope_type", name, "rope_theta", theta);
    SP_ASSERT(object);
    if (arch->partial < 1 || c->rotary)
        json_object_set_new(object, "partial_rotary_factor",
                            json_real(c->rotary ? share(c->rotary, c->head_size) : 1));
    if (s->type != MODEL_ROPE_DEFAULT)
        json_object_set_new(object, "factor", json_real(s->factor));
    if (s->type == MODEL_ROPE_LLAMA3) {
        json_object_set_new(object, "low_freq_factor", json_real(s->low_freq));
        json_object_set_new(object, "high_freq_factor", json_real(s->high_freq));
    }
    if (s->type == MODEL_ROPE_LLAMA3 || s->type == MODEL_ROPE_LONGROPE ||
        s->type == MODEL_ROPE_YARN)
        json_object_set_new(object, "original_max_position_embeddings", json_integer(s->original));
    if (s->type == MODEL_ROPE_LONGROPE || s->type == MODEL_ROPE_YARN)
        json_object_set_new(object, "attention_factor", json_real(s->attention_factor));
    if (s->type == MODEL_ROPE_YARN) {
        json_object_set_new(object, "beta_fast", json_real(s->beta_fast));
        json_object_set_new(object, "beta_slow", json_real(s->beta_slow));
        json_object_set_new(object, "truncate", json_boolean(s->truncate));
    }
    if (s->type == MODEL_ROPE_LONGROPE) {
        json_object_set_new(object, "short_factor", factors_json(s->n_short, s->short_factor));
        if (s->n_long > 0)
            json_object_set_new(object, "long_factor", factors_json(s->n_long, s->long_factor));
    }
    return object;
}

void model_config_write_rope(json_t *json, const struct model_config *c,
                             const struct model_arch *arch)
{
    static const struct model_rope_scaling plain = {0};
    if (arch->rope_theta <= 0)
        return;
    if (c->local_theta > 0) {
        json_object_set_new(json, "rope_parameters",
                            json_pack("{s:o, s:o}", "full_attention",
                                      write_object(c, arch, c->rope_theta, &c->scaling),
                                      "sliding_attention",
                                      write_object(c, arch, c->local_theta, &plain)));
        return;
    }
    json_object_set_new(json, "rope_theta", json_real(c->rope_theta));
    if (c->scaling.type == MODEL_ROPE_LONGROPE)
        json_object_set_new(json, "original_max_position_embeddings",
                            json_integer(c->scaling.original));
    json_t *object = write_object(c, arch, c->rope_theta, &c->scaling);
    if (arch->partial < 1 || c->rotary) {
        json_object_set_new(json, "rope_parameters", object);
        return;
    }
    /* The form of transformers 4, which 5 reads too. */
    json_object_del(object, "rope_theta");
    if (c->scaling.type == MODEL_ROPE_DEFAULT) {
        json_object_set_new(json, "rope_scaling", json_null());
        json_decref(object);
    } else {
        json_object_set_new(json, "rope_scaling", object);
    }
}
