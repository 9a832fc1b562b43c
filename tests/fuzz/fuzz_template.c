/* Bytes from outside into the template interpreter: a chat template, and behind its first NUL byte,
 * if it has one, the JSON of its variables. Beyond not crashing: what is rendered is UTF-8, it is
 * the same twice, and a template that is refused is refused with its line. */
#include <stdlib.h>
#include <string.h>

#include "common/base/json.h"
#include "common/base/limits.h"
#include "common/base/mem.h"
#include "common/text/jinja.h"
#include "common/text/utf8.h"

int LLVMFuzzerInitialize(int *argc, char ***argv);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static json_t *usual; /* variables where none are given */

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    static const char text[] =
        "{\"messages\": [{\"role\": \"system\", \"content\": \" s\\n\"}, {\"role\": \"user\", "
        "\"content\": \"H\u00e9 <x>\", \"n\": [1, 2.5, null, true]}, {\"role\": \"assistant\", "
        "\"content\": \"a</think>b\"}], \"tools\": null, \"add_generation_prompt\": true, "
        "\"bos_token\": \"<s>\", \"eos_token\": \"</s>\", \"d\": {\"b\": 1, \"A\": \"x\"}}";
    SP_ASSERT(sp_json_parse(text, sizeof(text) - 1, "usual", &usual, NULL) == SP_OK);
    return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const uint8_t *cut = size > 0 ? memchr(data, 0, size) : NULL;
    size_t length = cut != NULL ? (size_t)(cut - data) : size;
    struct tok_jinja *template = NULL;
    struct sp_error err = {0};
    json_t *context = NULL;
    if (cut != NULL &&
        (sp_json_parse((const char *)cut + 1, size - length - 1, "fuzz", &context, NULL) != SP_OK ||
         !json_is_object(context))) {
        json_decref(context);
        return 0;
    }
    enum sp_err rc =
        tok_jinja_compile(size > 0 ? (const char *)data : "", length, "fuzz", &template, &err);
    if (rc == SP_OK) {
        struct sp_buf first = SP_BUF_INIT, second = SP_BUF_INIT;
        const json_t *variables = context != NULL ? context : usual;
        rc = tok_jinja_render(template, variables, "2026-07-31", &first, &err);
        SP_ASSERT(tok_jinja_render(template, variables, "2026-07-31", &second, NULL) == rc);
        SP_ASSERT(first.length == second.length && first.length <= SP_MAX_TEMPLATE_OUTPUT);
        SP_ASSERT(first.length == 0 || memcmp(first.data, second.data, first.length) == 0);
        SP_ASSERT(tok_utf8_check(first.data, first.length) == first.length);
        sp_buf_deinit(&first);
        sp_buf_deinit(&second);
    }
    SP_ASSERT(rc == SP_OK || strncmp(err.text, "fuzz:", 5) == 0);
    tok_jinja_free(template);
    json_decref(context);
    return 0;
}
