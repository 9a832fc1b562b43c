/* `spin-model convert`: between GGUF files and checkpoint directories, and between data types.
 * Tensors are read and written one at a time. */
#include "common/spin-model/convert.h"

#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>

#include "common/base/fs.h"
#include "common/base/json.h"
#include "common/base/limits.h"
#include "common/base/mem.h"
#include "common/checkpoint/gguf_vocab.h"
#include "common/text/tokenizer.h"

/* ---- tensors, one at a time ---- */

double convert_largest(enum ckpt_dtype dtype)
{
    /* Half-way to the next step above the largest number: what rounds down to it. */
    return dtype == CKPT_F16 ? 65519.99 : dtype == CKPT_BF16 ? 0x1.fefffep127 : INFINITY;
}

static enum sp_err check_numbers(const struct convert_source *source, const float *numbers,
                                 size_t count, struct sp_error *err)
{
    for (size_t i = 0; i < count; i++) {
        if (!isfinite(numbers[i]))
            return sp_fail(err, SP_ENUMERIC, "element %zu is not a finite number", i);
        if (fabs((double)numbers[i]) > source->largest)
            return sp_fail(err, SP_ENUMERIC,
                           "element %zu is %g, more than %s can hold; choose --dtype BF16 or F32",
                           i, (double)numbers[i], source->type);
    }
    return SP_OK;
}

static enum sp_err fill(void *context, const struct ckpt_array *array, float *to,
                        struct sp_error *err)
{
    struct convert_source *source = context;
    struct convert *c = source->convert;
    float *first = source->changed ? c->scratch : to;
    enum sp_err rc = SP_OK;
    size_t count = 1;
    for (int32_t i = 0; i < array->dims; i++)
        count *= (size_t)array->shape[i];
    if (source->is_table)
        model_gguf_table(&c->config, source->table, first);
    else if (source->quantized != NULL)
        ckpt_gguf_to_f32(source->quantized->type, source->quantized->data,
                         count / ckpt_gguf_block_elements(source->quantized->type), first);
    else
        rc = ckpt_tensor_to_f32(source->tensor, first, err);
    if (rc == SP_OK)
        rc = check_numbers(source, first, count, err);
    /* The caller names what is written; what was read may be called otherwise. */
    if (rc != SP_OK && source->tensor != NULL)
        return sp_wrap(err, rc, "from %s of checkpoint %s", source->tensor->name, c->tool->dir);
    if (rc == SP_OK && source->changed && c->gguf)
        model_gguf_to_stored(source->changed, first, first + count, to);
    else if (rc == SP_OK && source->changed)
        model_gguf_from_stored(source->changed, first, first + count, to);
    c->done += count;
    sp_progress_set(c->progress, c->done);
    return rc;
}

const struct model_gguf_tensor *convert_changed(const struct model_gguf_tensor *tensor)
{
    bool plain = tensor->tensor.storage == MODEL_STORED_PLAIN;
    return plain && tensor->dealt == 0 && !tensor->plus_one ? NULL : tensor;
}

void convert_reserve(struct convert *convert, size_t count)
{
    convert->arrays = sp_xarray(count, sizeof(*convert->arrays));
    convert->sources = sp_xarray(count, sizeof(*convert->sources));
}

void convert_add(struct convert *convert, const char *name, int32_t dims, const int64_t *shape,
                 struct convert_source source)
{
    size_t at = convert->count++;
    convert->sources[at] = source;
    convert->sources[at].convert = convert;
    convert->arrays[at] = (struct ckpt_array){
        .name = name, .dims = dims, .fill = fill, .fill_context = &convert->sources[at]};
    for (int32_t i = 0; i < dims; i++)
        convert->arrays[at].shape[i] = shape[i];
}

enum sp_err convert_ready(struct convert *convert, struct sp_error *err)
{
    uint64_t total = 0;
    size_t largest = 0;
    for (size_t i = 0; i < convert->count; i++) {
        size_t count = 1;
        for (int32_t d = 0; d < convert->arrays[i].dims; d++)
            count *= (size_t)convert->arrays[i].shape[d];
        total += count;
        if (convert->sources[i].changed)
            largest = SP_MAX(largest, count);
    }
    if (largest > 0 && (convert->scratch = sp_alloc_block(2 * largest, sizeof(float))) == NULL)
        return sp_fail(err, SP_ENOMEM, "no memory for a tensor of %zu elements", largest);
    convert->progress = sp_progress_new("convert", total, "elements");
    return SP_OK;
}

void convert_deinit(struct convert *convert)
{
    sp_progress_free(convert->progress);
    sp_free_block(convert->scratch);
    free(convert->arrays);
    free(convert->sources);
    free(convert->tensors);
    ckpt_gguf_close(convert->gguf);
    ckpt_close(convert->ckpt);
}

/* ---- into a checkpoint directory ---- */

static enum sp_err put_json(const char *dir, const char *name, json_t *value, struct sp_error *err)
{
    char *path = sp_path_join(dir, name);
    char *text = json_dumps(value, JSON_INDENT(2) | JSON_REAL_PRECISION(9));
    SP_ASSERT(text != NULL);
    enum sp_err rc = sp_write_file_durable(path, text, strlen(text), 0666, err);
    free(text);
    free(path);
    return rc;
}

static json_t *generation_of(const struct model_config *config)
{
    static const char *const keys[] = {"bos_token_id", "eos_token_id", "pad_token_id"};
    json_t *all = model_config_to_json(config), *generation = json_object();
    for (size_t i = 0; i < SP_COUNT(keys); i++)
        if (json_object_get(all, keys[i]))
            json_object_set(generation, keys[i], json_object_get(all, keys[i]));
    json_decref(all);
    return generation;
}

/* The tokenizer's files and generation_config.json, into a directory that is copied later. What the
 * tokenizer says is tried at once: it has to load here. */
static enum sp_err make_side_files(struct convert *c, const char *dir, struct sp_error *err)
{
    json_t *tokenizer = NULL, *config = NULL, *generation = generation_of(&c->config);
    struct tok_tokenizer *loaded = NULL;
    struct ckpt_vocab vocab;
    enum sp_err rc;
    if (c->tool->tokenizer != NULL) {
        rc = tool_copy_tokenizer(c->tool->tokenizer, dir, err);
    } else {
        rc = ckpt_vocab_ids(c->gguf, c->config.vocab, c->config.context, &vocab, err);
        if (rc == SP_OK)
            rc = ckpt_vocab_from_gguf(c->gguf, &vocab, &tokenizer, &config, err);
        if (rc == SP_OK)
            rc = put_json(dir, "tokenizer.json", tokenizer, err);
        if (rc == SP_OK)
            rc = put_json(dir, "tokenizer_config.json", config, err);
    }
    if (rc == SP_OK)
        rc = put_json(dir, "generation_config.json", generation, err);
    if (rc == SP_OK)
        rc = tok_load(dir, &loaded, err);
    if (rc == SP_OK && tok_vocab_size(loaded) > c->config.vocab)
        rc = sp_fail(err, SP_EINVAL, "the tokenizer has %d ids, the embedding table %d rows",
                     tok_vocab_size(loaded), c->config.vocab);
    tok_free(loaded);
    json_decref(tokenizer);
    json_decref(config);
    json_decref(generation);
    return rc;
}

static enum sp_err save_side_by_side(struct convert *c, const char *side, enum ckpt_dtype dtype,
                                     struct sp_error *err)
{
    c->config.dtype = dtype == CKPT_F16 ? TN_F16 : dtype == CKPT_BF16 ? TN_BF16 : TN_F32;
    json_t *config = model_config_to_json(&c->config);
    char *text = json_dumps(config, JSON_INDENT(2) | JSON_SORT_KEYS | JSON_REAL_PRECISION(15));
    struct ckpt_save_options options = {.dtype = dtype, .template_dir = side, .config_json = text};
    enum sp_err rc = make_side_files(c, side, err);
    if (rc == SP_OK)
        rc = ckpt_save(c->tool->out, c->arrays, c->count, &options, err);
    free(text);
    json_decref(config);
    return rc;
}

/* What all matrices have in common, else F32: de-quantized numbers are kept exactly. */
static enum ckpt_dtype dtype_of_gguf(const struct ckpt_gguf *gguf)
{
    size_t f16 = 0, bf16 = 0, matrices = 0;
    for (size_t i = 0; i < ckpt_gguf_count(gguf); i++) {
        const struct ckpt_gguf_tensor *t = ckpt_gguf_at(gguf, i);
        matrices += t->dims > 1;
        f16 += t->dims > 1 && t->type == CKPT_GGUF_F16;
        bf16 += t->dims > 1 && t->type == CKPT_GGUF_BF16;
    }
    return f16 == matrices ? CKPT_F16 : bf16 == matrices ? CKPT_BF16 : CKPT_F32;
}

static enum sp_err gguf_to_hf(struct convert *c, enum ckpt_dtype *dtype, struct sp_error *err)
{
    size_t count;
    enum sp_err rc = model_gguf_read(c->gguf, &c->config, err);
    if (rc != SP_OK)
        return rc;
    if (c->tool->dtype == NULL)
        *dtype = dtype_of_gguf(c->gguf);
    model_gguf_tensors(&c->config, &c->tensors, &count);
    convert_reserve(c, count);
    for (size_t i = 0; i < count; i++)
        convert_add(
            c, c->tensors[i].tensor.name, c->tensors[i].dims, c->tensors[i].stored,
            (struct convert_source){.quantized = ckpt_gguf_find(c->gguf, c->tensors[i].name),
                                    .changed = convert_changed(&c->tensors[i]),
                                    .largest = convert_largest(*dtype),
                                    .type = ckpt_dtype_name(*dtype)});
    rc = convert_ready(c, err);
    if (rc != SP_OK)
        return rc;
    const char *base = getenv("TMPDIR");
    char *side = sp_xprintf("%s/spin-model-XXXXXX", base != NULL ? base : "/tmp");
    if (mkdtemp(side) == NULL) {
        rc = sp_fail_errno(err, errno, "%s", side);
    } else {
        rc = save_side_by_side(c, side, *dtype, err);
        (void)!sp_remove_tree(side, NULL);
    }
    free(side);
    return rc;
}

static enum sp_err hf_to_hf(struct convert *c, enum ckpt_dtype *dtype, struct sp_error *err)
{
    static const char embed[] = "model.embed_tokens.weight", head[] = "lm_head.weight";
    size_t count = ckpt_count(c->ckpt);
    if (c->tool->dtype == NULL && count > 0)
        *dtype = ckpt_at(c->ckpt, 0)->dtype;
    if (*dtype != CKPT_F32 && *dtype != CKPT_F16 && *dtype != CKPT_BF16)
        *dtype = CKPT_F32;
    convert_reserve(c, count);
    for (size_t i = 0; i < count; i++) {
        const struct ckpt_tensor *t = ckpt_at(c->ckpt, i);
        convert_add(c, t->name, t->dims, t->shape,
                    (struct convert_source){.tensor = t,
                                            .largest = convert_largest(*dtype),
                                            .type = ckpt_dtype_name(*dtype)});
    }
    struct ckpt_save_options options = {.dtype = *dtype, .template_dir = c->tool->dir};
    /* A tied table that is stored once keeps its second name. */
    const struct ckpt_tensor *table = ckpt_find(c->ckpt, embed);
    struct ckpt_meta alias;
    if (table != NULL && table == ckpt_find(c->ckpt, head)) {
        bool has_embed = strcmp(table->name, embed) == 0;
        alias = (struct ckpt_meta){has_embed ? head : embed, has_embed ? embed : head};
        options.meta = &alias;
        options.meta_count = 1;
    }
    enum sp_err rc = convert_ready(c, err);
    if (rc == SP_OK)
        rc = ckpt_save(c->tool->out, c->arrays, c->count, &options, err);
    return rc;
}

/* ---- the command ---- */

/* What the narrower numbers cost, on answers that the model was not trained on. */
static enum sp_err score(struct convert *c, const char *dir, double *ret, struct sp_error *err)
{
    if (c->tool->held_out == NULL)
        return SP_OK;
    enum sp_err rc = tool_mean_logprob(c->tool, dir, c->tool->held_out, ret, &c->scored, err);
    return rc == SP_OK ? SP_OK : sp_wrap(err, rc, "--held-out");
}

static enum sp_err report(const struct convert *c, const char *format, const char *dtype,
                          struct sp_error *err)
{
    uint64_t parameters = 0;
    for (size_t i = 0; i < c->count; i++) {
        uint64_t count = 1;
        for (int32_t d = 0; d < c->arrays[i].dims; d++)
            count *= (uint64_t)c->arrays[i].shape[d];
        parameters += count;
    }
    if (c->inexact > 0)
        fprintf(stderr,
                "spin-model: note: for %zu tokens the tokenizer's merges leave out a way that "
                "llama.cpp takes; some words may be cut differently there\n",
                c->inexact);
    if (c->tool->json) {
        json_t *all =
            json_pack("{s:s, s:s, s:s, s:I, s:I, s:I}", "path", c->tool->out, "format", format,
                      "dtype", dtype, "tensors", (json_int_t)c->count, "parameters",
                      (json_int_t)parameters, "inexact_tokens", (json_int_t)c->inexact);
        if (c->scored > 0)
            json_object_set_new(all, "held_out",
                                json_pack("{s:I, s:f, s:f, s:f}", "tokens", (json_int_t)c->scored,
                                          "before", c->before, "after", c->after, "change",
                                          c->after - c->before));
        return tool_print_json(all, err);
    }
    printf("%s: %s, %zu tensors with %" PRIu64 " parameters as %s\n", c->tool->out, format,
           c->count, parameters, dtype);
    if (c->scored > 0)
        printf("held-out answers, %" PRIu64
               " tokens: mean log-probability %.6f before, %.6f after: "
               "%+.6f a token\n",
               c->scored, c->before, c->after, c->after - c->before);
    return SP_OK;
}

static enum sp_err wants_gguf(const struct tool *tool, bool *ret, struct sp_error *err)
{
    size_t length = strlen(tool->out);
    if (tool->to == NULL)
        *ret = length > 5 && strcasecmp(tool->out + length - 5, ".gguf") == 0;
    else if (strcmp(tool->to, "gguf") == 0 || strcmp(tool->to, "hf") == 0)
        *ret = tool->to[0] == 'g';
    else
        return sp_fail(err, SP_EINVAL, "--to %s: gguf or hf", tool->to);
    return SP_OK;
}

/* A directory is a checkpoint, a file has to be GGUF. */
static enum sp_err open_input(struct convert *c, struct sp_error *err)
{
    struct stat st;
    if (stat(c->tool->dir, &st) != 0)
        return sp_fail_errno(err, errno, "%s", c->tool->dir);
    if (S_ISDIR(st.st_mode))
        return ckpt_open(c->tool->dir, &c->ckpt, err);
    return ckpt_gguf_open(c->tool->dir, &c->gguf, err);
}

static enum sp_err convert(struct convert *c, bool to_gguf, struct sp_error *err)
{
    enum ckpt_dtype dtype = CKPT_F32;
    enum ckpt_gguf_type type = CKPT_GGUF_F32;
    enum sp_err rc = SP_OK;
    if (!to_gguf && c->tool->dtype != NULL) {
        rc = ckpt_dtype_parse(c->tool->dtype, &dtype, err);
        if (rc == SP_OK && dtype != CKPT_F32 && dtype != CKPT_F16 && dtype != CKPT_BF16)
            rc = SP_EUNSUPPORTED;
        if (rc != SP_OK)
            return sp_fail(err, SP_EINVAL, "--dtype %s: a directory's weights are F32, F16 or BF16",
                           c->tool->dtype);
    }
    rc = open_input(c, err);
    if (rc != SP_OK)
        return rc;
    if (to_gguf && c->gguf != NULL)
        return sp_fail(err, SP_EINVAL,
                       "%s: is a GGUF file already; convert it to a directory first", c->tool->dir);
    if (c->tool->held_out != NULL && (to_gguf || c->gguf != NULL))
        return sp_fail(err, SP_EINVAL, "--held-out: IN and OUT have to be directories");
    rc = score(c, c->tool->dir, &c->before, err);
    if (rc != SP_OK)
        return rc;
    if (to_gguf)
        rc = convert_to_gguf(c, &type, err);
    else
        rc = c->gguf != NULL ? gguf_to_hf(c, &dtype, err) : hf_to_hf(c, &dtype, err);
    sp_progress_free(c->progress);
    c->progress = NULL;
    if (rc == SP_OK)
        rc = score(c, c->tool->out, &c->after, err);
    if (rc != SP_OK)
        return rc;
    return report(c, to_gguf ? "gguf" : "hf",
                  to_gguf ? ckpt_gguf_type_name(type) : ckpt_dtype_name(dtype), err);
}

enum sp_err tool_convert(struct tool *tool, struct sp_error *err)
{
    struct convert c = {.tool = tool};
    bool to_gguf = false;
    enum sp_err rc = wants_gguf(tool, &to_gguf, err);
    if (rc == SP_OK && sp_path_exists(tool->out))
        rc = sp_fail(err, SP_EEXIST, "%s: it exists already; choose another name or remove it",
                     tool->out);
    if (rc == SP_OK)
        rc = convert(&c, to_gguf, err);
    convert_deinit(&c);
    return rc;
}
