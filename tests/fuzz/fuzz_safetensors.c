/* libFuzzer target: any bytes as a safetensors file. What opens is read to the end. */
#include <stdlib.h>
#include <string.h>

#include "common/base/mem.h"
#include "common/checkpoint/hf_dir.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct ckpt_st *st;
    struct sp_error err;
    if (ckpt_st_open_memory(data, size, "fuzz", &st, &err) != SP_OK) {
        SP_ASSERT(strncmp(err.text, "fuzz: ", 6) == 0);
        return 0;
    }
    for (size_t i = 0; i < ckpt_st_count(st); i++) {
        const struct ckpt_tensor *t = ckpt_st_at(st, i);
        float *numbers = sp_xarray(t->count, sizeof(*numbers));
        (void)!ckpt_tensor_to_f32(t, numbers, &err);
        free(numbers);
    }
    ckpt_st_close(st);
    return 0;
}
