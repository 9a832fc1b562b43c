/* libFuzzer target: any bytes as a settings file of each program, as an assignment of a command
 * line, and as the JSON that a run freezes. What is read is written and read again, and must be the
 * same. */
#include <stdlib.h>
#include <string.h>

#include "common/base/json.h"
#include "common/base/mem.h"
#include "coordinator/settings.h"
#include "generator/settings.h"
#include "proto/run_settings.h"
#include "trainer/settings.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void same_again(const struct sp_config_spec *spec, const void *values)
{
    struct sp_error err = {.code = SP_OK, .text = ""};
    void *again = sp_xalloc(spec->struct_bytes);
    json_t *one = sp_config_to_json(spec, values);
    sp_config_init(spec, again);
    SP_ASSERT(sp_config_from_json(spec, one, again, &err) == SP_OK);
    json_t *two = sp_config_to_json(spec, again);
    SP_ASSERT(json_equal(one, two));
    json_decref(one);
    json_decref(two);
    sp_config_deinit(spec, again);
    free(again);
}

static void use(const struct sp_config_spec *spec, const char *text, size_t size)
{
    struct sp_error err = {.code = SP_OK, .text = ""};
    json_t *json = NULL;
    for (int way = 0; way < 3; way++) {
        void *values = sp_xalloc(spec->struct_bytes);
        sp_config_init(spec, values);
        enum sp_err rc = SP_EINVAL;
        if (way == 0)
            rc = sp_config_parse(spec, text, size, "fuzz", values, &err);
        else if (way == 1 && strlen(text) == size)
            rc = sp_config_set(spec, text, values, &err);
        else if (way == 2 && sp_json_parse(text, size, "fuzz", &json, &err) == SP_OK)
            rc = sp_config_from_json(spec, json, values, &err);
        if (rc == SP_OK)
            same_again(spec, values);
        sp_config_deinit(spec, values);
        free(values);
    }
    json_decref(json);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char *text = sp_xalloc(size + 1);
    if (size > 0)
        memcpy(text, data, size);
    use(&run_settings_spec, text, size);
    use(&coord_settings_spec, text, size);
    use(&gen_settings_spec, text, size);
    use(&train_settings_spec, text, size);
    free(text);
    return 0;
}
