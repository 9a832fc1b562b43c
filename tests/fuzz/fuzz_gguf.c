/* libFuzzer target: any bytes as a GGUF file. What opens is read to the end: every tensor, the
 * model's configuration and its tokenizer; what was understood can be written again. */
#include <stdlib.h>
#include <string.h>

#include "common/base/mem.h"
#include "common/model/gguf_model.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void use_vocab(const struct ckpt_gguf *gguf, int32_t rows)
{
    struct ckpt_vocab vocab;
    struct sp_error err;
    json_t *tokenizer, *config;
    if (ckpt_vocab_ids(gguf, rows, 64, &vocab, &err) != SP_OK ||
        ckpt_vocab_from_gguf(gguf, &vocab, &tokenizer, &config, &err) != SP_OK)
        return;
    struct ckpt_gguf_meta meta = CKPT_GGUF_META_INIT;
    size_t inexact;
    (void)!ckpt_vocab_put(tokenizer, config, NULL, &vocab, &meta, &inexact, &err);
    ckpt_gguf_meta_deinit(&meta);
    json_decref(tokenizer);
    json_decref(config);
}

static void use_model(const struct ckpt_gguf *gguf)
{
    static struct model_config model;
    struct sp_error err = {.code = SP_OK, .text = ""};
    enum sp_err rc = model_gguf_read(gguf, &model, &err);
    SP_ASSERT(rc == SP_OK || strncmp(err.text, "fuzz: ", 6) == 0);
    if (rc != SP_OK)
        return;
    struct model_gguf_tensor *tensors;
    struct ckpt_gguf_meta meta = CKPT_GGUF_META_INIT;
    size_t count;
    model_gguf_tensors(&model, &tensors, &count);
    (void)!model_gguf_put(&model, "fuzz", NULL, CKPT_GGUF_F32, &meta, &err);
    ckpt_gguf_meta_deinit(&meta);
    free(tensors);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct ckpt_gguf *gguf;
    struct sp_error err;
    if (ckpt_gguf_open_memory(data, size, "fuzz", &gguf, &err) != SP_OK) {
        SP_ASSERT(strncmp(err.text, "fuzz: ", 6) == 0);
        return 0;
    }
    for (size_t i = 0; i < ckpt_gguf_count(gguf); i++) {
        const struct ckpt_gguf_tensor *t = ckpt_gguf_at(gguf, i);
        float *numbers = sp_xarray(t->count, sizeof(*numbers));
        ckpt_gguf_to_f32(t->type, t->data, t->count / ckpt_gguf_block_elements(t->type), numbers);
        free(numbers);
    }
    use_model(gguf);
    const struct ckpt_gguf_tensor *table = ckpt_gguf_find(gguf, "token_embd.weight");
    use_vocab(gguf, table && table->shape[0] <= 4096 ? (int32_t)table->shape[0] : 256);
    ckpt_gguf_close(gguf);
    return 0;
}
