/* Bytes from outside into common/checkpoint: a GGUF file where they begin with "GGUF", a
 * safetensors file else. What opens is read to the end: every tensor, and a model's shape and
 * tokenizer. */
#include <stdlib.h>
#include <string.h>

#include "common/base/mem.h"
#include "common/checkpoint/gguf_vocab.h"
#include "common/checkpoint/hf_dir.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void use_model(const struct ckpt_gguf *gguf)
{
    struct ckpt_llama llama;
    struct sp_error err;
    json_t *tokenizer, *config;
    if (ckpt_llama_from_gguf(gguf, &llama, &err) != SP_OK ||
        ckpt_vocab_from_gguf(gguf, &llama, &tokenizer, &config, &err) != SP_OK)
        return;
    /* What is made of a file can be written: a tokenizer that was read has a way back. */
    struct ckpt_gguf_meta meta = CKPT_GGUF_META_INIT;
    size_t inexact;
    (void)!ckpt_vocab_put(tokenizer, config, NULL, &llama, &meta, &inexact, &err);
    ckpt_gguf_meta_deinit(&meta);
    json_decref(tokenizer);
    json_decref(config);
    json_decref(ckpt_llama_config(&llama, CKPT_F32));
    json_decref(ckpt_llama_generation(&llama));
}

static void use_gguf(const uint8_t *data, size_t size)
{
    struct ckpt_gguf *gguf;
    struct sp_error err;
    if (ckpt_gguf_open_memory(data, size, "fuzz", &gguf, &err) != SP_OK) {
        SP_ASSERT(strncmp(err.text, "fuzz: ", 6) == 0);
        return;
    }
    for (size_t i = 0; i < ckpt_gguf_count(gguf); i++) {
        const struct ckpt_gguf_tensor *t = ckpt_gguf_at(gguf, i);
        float *numbers = sp_xarray(t->count, sizeof(*numbers));
        ckpt_gguf_to_f32(t->type, t->data, t->count / ckpt_gguf_block_elements(t->type), numbers);
        free(numbers);
    }
    use_model(gguf);
    ckpt_gguf_close(gguf);
}

static void use_safetensors(const uint8_t *data, size_t size)
{
    struct ckpt_st *st;
    struct sp_error err;
    if (ckpt_st_open_memory(data, size, "fuzz", &st, &err) != SP_OK) {
        SP_ASSERT(strncmp(err.text, "fuzz: ", 6) == 0);
        return;
    }
    for (size_t i = 0; i < ckpt_st_count(st); i++) {
        const struct ckpt_tensor *t = ckpt_st_at(st, i);
        float *numbers = sp_xarray(t->count, sizeof(*numbers));
        (void)!ckpt_tensor_to_f32(t, numbers, &err);
        free(numbers);
    }
    ckpt_st_close(st);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size >= 4 && memcmp(data, "GGUF", 4) == 0)
        use_gguf(data, size);
    else
        use_safetensors(data, size);
    return 0;
}
