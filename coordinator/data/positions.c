#include "coordinator/data/positions.h"

#include <string.h>

#include "common/base/json.h"
#include "common/base/limits.h"
#include "common/base/mem.h"

#define ORIGINAL "original_max_position_embeddings"

/* The type of rotation, of transformers' 4 or 5; NULL: nothing is said. */
static const char *rotation(const json_t *config, const json_t **ret_object)
{
    static const char *const objects[] = {"rope_scaling", "rope_parameters"}, *const keys[] = {
                                                                                  "rope_type",
                                                                                  "type"};
    for (size_t i = 0; i < SP_COUNT(objects); i++) {
        const json_t *object = json_object_get(config, objects[i]);
        const json_t *full = json_object_get(object, "full_attention");
        *ret_object = json_is_object(full) ? full : object;
        for (size_t k = 0; k < SP_COUNT(keys); k++) {
            const char *type = json_string_value(json_object_get(*ret_object, keys[k]));
            if (type != NULL && strcmp(type, "default") != 0)
                return type;
        }
    }
    return NULL;
}

enum sp_err data_positions_read(const json_t *config, const char *what, struct data_positions *ret,
                                struct sp_error *err)
{
    struct data_positions p = {.count = SP_MAX_SEQUENCE_TOKENS, .field = "max_position_embeddings"};
    const json_t *object = NULL;
    const char *type = rotation(config, &object);
    if (json_object_get(config, "n_positions") != NULL) {
        p.field = "n_positions";
        p.hard = true;
        p.why = "its positions are learned";
    }
    enum sp_err rc = sp_json_opt_i64(config, p.field, 1, INT32_MAX, what, &p.count, err);
    if (rc == SP_OK && type != NULL && strcmp(type, "dynamic") == 0) {
        p.hard = true;
        p.why = "the frequencies of its rotation change there (dynamic)";
    }
    if (rc == SP_OK && type != NULL && (strcmp(type, "longrope") == 0 || strcmp(type, "su") == 0)) {
        const json_t *where = json_object_get(config, ORIGINAL) ? config : object;
        p.field = ORIGINAL;
        p.hard = true;
        p.why = "the frequencies of its rotation change there (longrope)";
        rc = sp_json_i64(where, ORIGINAL, 1, INT32_MAX, what, &p.count, err);
    }
    if (rc == SP_OK)
        *ret = p;
    return rc;
}
