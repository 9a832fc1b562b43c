/* libFuzzer target: any bytes as training data, in every format. Rows that come are whole. */
#include <string.h>

#include "common/base/mem.h"
#include "common/base/utf8.h"
#include "common/text/dataset.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void read_all(const uint8_t *data, size_t size, enum tok_format format)
{
    struct tok_dataset *dataset;
    struct tok_row row;
    struct sp_error err = {.code = SP_OK, .text = ""};
    bool more = true;
    enum sp_err rc = tok_dataset_open_memory(data, size, "fuzz", format, &dataset, &err);
    SP_ASSERT(rc == SP_OK || (err.code == rc && strncmp(err.text, "fuzz", 4) == 0));
    if (rc != SP_OK)
        return;
    for (uint64_t index = 0; rc == SP_OK && more; index++) {
        rc = tok_dataset_next(dataset, &row, &more, &err);
        SP_ASSERT(rc == SP_OK || (err.code == rc && err.text[0] != 0));
        if (rc != SP_OK || !more)
            break;
        SP_ASSERT(row.index == index && row.turn_count >= 1 && row.response[0] != '\0');
        for (size_t t = 0; t < row.turn_count; t++)
            SP_ASSERT(row.turns[t].content != NULL);
    }
    tok_dataset_close(dataset);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    for (int format = 0; format < TOK_FORMAT_COUNT; format++)
        read_all(data, size, (enum tok_format)format);
    return 0;
}
