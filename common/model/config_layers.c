/* config_layers: which layers have a window, which don't turn, from config.json and back. */
#include <string.h>

#include "common/base/json.h"
#include "common/base/mem.h"
#include "common/model/arch.h"

static enum sp_err opt_i32(const json_t *json, const char *key, int64_t max, const char *what,
                           int32_t *ret, struct sp_error *err)
{
    int64_t value = *ret;
    enum sp_err rc = sp_json_opt_i64(json, key, 1, max, what, &value, err);
    if (rc == SP_OK)
        *ret = (int32_t)value;
    return rc;
}

/* The list `key` of one entry a layer; NULL in *ret where it is absent or null. */
static enum sp_err find_list(const json_t *json, const char *key, const struct model_config *c,
                             const char *what, const json_t **ret, struct sp_error *err)
{
    const json_t *list = json_object_get(json, key);
    *ret = NULL;
    if (!list || json_is_null(list))
        return SP_OK;
    if (!json_is_array(list) || json_array_size(list) != (size_t)c->layers)
        return sp_fail(err, SP_EFORMAT,
                       "%s: field \"%s\": expected a list of %d entries, one a "
                       "layer",
                       what, key, c->layers);
    *ret = list;
    return SP_OK;
}

static enum sp_err parse_nope(const json_t *json, const char *what, struct model_config *c,
                              struct sp_error *err)
{
    const json_t *list;
    int32_t interval = 4;
    enum sp_err rc = find_list(json, "no_rope_layers", c, what, &list, err);
    if (rc == SP_OK)
        rc = opt_i32(json, "no_rope_layer_interval", INT32_MAX, what, &interval, err);
    if (rc != SP_OK)
        return rc;
    for (int32_t l = 0; l < c->layers; l++) {
        bool turns = (l + 1) % interval != 0;
        if (list) {
            const json_t *entry = json_array_get(list, (size_t)l);
            json_int_t value = json_integer_value(entry);
            if (!json_is_integer(entry) || value < 0 || value > 1)
                return sp_fail(err, SP_EFORMAT,
                               "%s: field \"no_rope_layers\": entry %d is neither "
                               "0 nor 1",
                               what, l);
            turns = value == 1;
        }
        if (!turns)
            c->layer_bits[l] |= MODEL_LAYER_NOPE;
    }
    return SP_OK;
}

/* Whether a layer has a window where layer_types doesn't say. */
static bool windowed_by_rule(const struct model_arch *arch, const struct model_config *c,
                             int32_t pattern, int32_t max_window_layers, int32_t l)
{
    if (arch->window == MODEL_WINDOW_ALWAYS)
        return true;
    if (arch->window == MODEL_WINDOW_MIXED)
        return (l + 1) % pattern != 0;
    return arch->nope ? (c->layer_bits[l] & MODEL_LAYER_NOPE) != 0 : l >= max_window_layers;
}

/* A list of kinds that the model has no use for may only say what holds anyway. */
static enum sp_err check_unused_types(const json_t *json, const struct model_arch *arch,
                                      const char *what, struct sp_error *err)
{
    size_t l;
    json_t *entry;
    json_array_foreach(json_object_get(json, "layer_types"), l, entry)
    {
        const char *type = json_string_value(entry);
        if (!type || strcmp(type, "full_attention") != 0)
            return sp_fail(err, SP_EUNSUPPORTED,
                           "%s: field \"layer_types\": entry %zu, \"%.40s\", is not supported in a "
                           "%s model without a window",
                           what, l, type ? type : "", arch->model_type);
    }
    return SP_OK;
}

static enum sp_err parse_types(const json_t *json, const struct model_arch *arch, const char *what,
                               struct model_config *c, struct sp_error *err)
{
    const json_t *list;
    int32_t pattern = SP_MAX(arch->window_pattern, 1), full_layers = 28;
    enum sp_err rc;
    if ((rc = find_list(json, "layer_types", c, what, &list, err)) ||
        (rc = opt_i32(json, "_sliding_window_pattern", INT32_MAX, what, &pattern, err)) ||
        (rc = opt_i32(json, "sliding_window_pattern", INT32_MAX, what, &pattern, err)))
        return rc;
    int64_t value = full_layers;
    rc = sp_json_opt_i64(json, "max_window_layers", 0, INT32_MAX, what, &value, err);
    full_layers = (int32_t)value;
    for (int32_t l = 0; rc == SP_OK && l < c->layers; l++) {
        bool windowed = windowed_by_rule(arch, c, pattern, full_layers, l);
        if (list) {
            const char *type = json_string_value(json_array_get(list, (size_t)l));
            bool full = type && strcmp(type, "full_attention") == 0;
            if (!type || (!full && strcmp(type, "sliding_attention") != 0))
                return sp_fail(err, SP_EUNSUPPORTED,
                               "%s: field \"layer_types\": entry %d, "
                               "\"%.40s\", is not supported: full_attention or sliding_attention",
                               what, l, type ? type : "");
            if (full && arch->window == MODEL_WINDOW_ALWAYS)
                return sp_fail(err, SP_EUNSUPPORTED,
                               "%s: field \"layer_types\": entry %d, \"%s\", is not supported in a "
                               "%s model with a window",
                               what, l, type, arch->model_type);
            windowed = !full;
        }
        if (!windowed)
            c->layer_bits[l] |= MODEL_LAYER_FULL;
        else if (c->local_theta > 0)
            c->layer_bits[l] |= MODEL_LAYER_LOCAL;
    }
    return rc;
}

enum sp_err model_config_parse_layers(const json_t *json, const struct model_arch *arch,
                                      const char *what, struct model_config *c,
                                      struct sp_error *err)
{
    enum sp_err rc = SP_OK;
    bool asked = false;
    if (arch->nope && (rc = parse_nope(json, what, c, err)))
        return rc;
    if (arch->window == MODEL_WINDOW_NEVER)
        return check_unused_types(json, arch, what, err);
    if (arch->window == MODEL_WINDOW_ASKED) {
        rc = sp_json_opt_bool(json, "use_sliding_window", what, &asked, err);
        if (rc != SP_OK)
            return rc;
        if (!asked)
            return check_unused_types(json, arch, what, err);
    }
    if (arch->window == MODEL_WINDOW_MIXED || !json_object_get(json, "sliding_window"))
        c->window = arch->window_size;
    rc = opt_i32(json, "sliding_window", INT32_MAX, what, &c->window, err);
    if (rc == SP_OK && c->window > 0)
        rc = parse_types(json, arch, what, c, err);
    return rc;
}

void model_config_write_layers(json_t *json, const struct model_config *c,
                               const struct model_arch *arch)
{
    if (arch->window != MODEL_WINDOW_NEVER)
        json_object_set_new(json, "sliding_window",
                            c->window ? json_integer(c->window) : json_null());
    if (arch->window == MODEL_WINDOW_ASKED)
        json_object_set_new(json, "use_sliding_window", json_boolean(c->window > 0));
    if (arch->nope) {
        json_t *list = json_array();
        for (int32_t l = 0; l < c->layers; l++)
            json_array_append_new(list, json_integer(c->layer_bits[l] & MODEL_LAYER_NOPE ? 0 : 1));
        json_object_set_new(json, "no_rope_layers", list);
    }
    if (c->window > 0 && arch->window > MODEL_WINDOW_ALWAYS) {
        json_t *list = json_array();
        for (int32_t l = 0; l < c->layers; l++)
            json_array_append_new(list, json_string(c->layer_bits[l] & MODEL_LAYER_FULL
                                                        ? "full_attention"
                                                        : "sliding_attention"));
        json_object_set_new(json, "layer_types", list);
    }
}
