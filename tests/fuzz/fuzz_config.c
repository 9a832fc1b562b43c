/* libFuzzer target: any bytes as a config.json. What is understood is written and read again, and
 * must describe the same model. */
#include <stdlib.h>
#include <string.h>

#include "common/base/json.h"
#include "common/base/mem.h"
#include "common/model/config.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct model_config first, second;
    struct sp_error err = {.code = SP_OK, .text = ""};
    json_t *json = NULL;
    if (sp_json_parse((const char *)data, size, "fuzz", &json, &err) != SP_OK)
        return 0;
    enum sp_err rc = model_config_parse(json, json, "fuzz", &first, &err);
    SP_ASSERT(rc == SP_OK || (err.code == rc && strstr(err.text, ": ") != NULL));
    json_decref(json);
    if (rc != SP_OK)
        return 0;
    json = model_config_to_json(&first);
    char *text = json_dumps(json, JSON_SORT_KEYS);
    json_decref(json);
    SP_ASSERT(sp_json_parse(text, strlen(text), "again", &json, &err) == SP_OK);
    SP_ASSERT(model_config_parse(json, NULL, "again", &second, &err) == SP_OK);
    SP_ASSERT(first.n_params == second.n_params && first.head_size == second.head_size &&
              first.rotary == second.rotary && first.window == second.window &&
              first.scaling.type == second.scaling.type && first.n_eos == second.n_eos &&
              memcmp(&first.traits, &second.traits, sizeof(first.traits)) == 0 &&
              memcmp(first.layer_bits, second.layer_bits, sizeof(first.layer_bits)) == 0);
    free(text);
    json_decref(json);
    return 0;
}
