/* Loading and saving of models as Hugging Face directories. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/half.h"
#include "common/base/mem.h"
#include "common/checkpoint/hf_dir.h"
#include "common/model/model_impl.h"

static bool all_finite(const float *x, size_t n, size_t *ret_bad)
{
    for (size_t i = 0; i < n; i++) {
        uint32_t bits;
        memcpy(&bits, &x[i], sizeof(bits));
        if ((bits & 0x7f800000u) == 0x7f800000u) {
            *ret_bad = i;
            return false;
        }
    }
    return true;
}

static enum sp_err read_tensor(struct model *m, const struct ckpt *ckpt,
                               const struct model_tensor *tensor, float *host, float *spare,
                               struct sp_error *err)
{
    char other[MODEL_FILE_NAME_BYTES];
    const char *name = model_file_name(&m->config, ckpt, tensor, other);
    int64_t shape[2];
    model_tensor_shape(tensor, shape);
    enum sp_err rc = ckpt_read_f32(ckpt, name, tensor->cols ? 2 : 1, shape, host, err);
    if (rc != SP_OK)
        return rc;
    size_t n = model_tensor_count(tensor), bad;
    if (!all_finite(host, n, &bad))
        return sp_fail(err, SP_EFORMAT, "checkpoint %s: tensor %s: element %zu is not finite",
                       ckpt_dir(ckpt), name, bad);
    if (tensor->storage != MODEL_STORED_PLAIN) {
        model_tensor_from_file(tensor, host, spare);
        host = spare;
    }
    tn_put(m->backend, model_param(m, tensor->offset), m->backend->weights, host, n);
    return SP_OK;
}

enum sp_err model_open(struct tn_backend *backend, const char *dir, struct model **ret,
                       struct sp_error *err)
{
    struct model_config config;
    struct ckpt *ckpt = NULL;
    struct model *m = NULL;
    float *host = NULL;
    size_t largest = 0;
    enum sp_err rc = model_config_load(dir, &config, err);
    if (rc == SP_OK)
        rc = ckpt_open(dir, &ckpt, err);
    /* What config.json promises is in the files before memory is taken for it. */
    if (rc == SP_OK)
        rc = model_check_tensors(&config, ckpt, err);
    if (rc == SP_OK)
        rc = model_alloc(backend, &config, &m, err);
    if (rc != SP_OK)
        goto out;
    for (int32_t t = 0; t < m->layout.n_tensors; t++)
        largest = SP_MAX(largest, model_tensor_count(&m->layout.tensors[t]));
    host = sp_alloc_block(2 * largest, sizeof(float));
    if (!host) {
        rc = sp_fail(err, SP_ENOMEM, "no memory to read a tensor of %zu elements", largest);
        goto out;
    }
    for (int32_t t = 0; rc == SP_OK && t < m->layout.n_tensors; t++)
        rc = read_tensor(m, ckpt, &m->layout.tensors[t], host, host + largest, err);
    if (rc == SP_OK) {
        *ret = m;
        m = NULL;
    }
out:
    sp_free_block(host);
    model_free(m);
    ckpt_close(ckpt);
    return rc;
}

struct saving {
    const struct model *model;
    const char *dir;
    enum tn_dtype dtype;
    float *spare; /* for tensors that lie in another order in files, or NULL */
};

/* What a dtype can't hold, and what training has ruined, must not become a checkpoint. */
static enum sp_err check_values(const struct saving *saving, const struct model_tensor *tensor,
                                const float *x, struct sp_error *err)
{
    for (size_t i = 0, n = model_tensor_count(tensor); i < n; i++) {
        float stored = saving->dtype == TN_F16    ? sp_f16_to_f32(sp_f32_to_f16(x[i]))
                       : saving->dtype == TN_BF16 ? sp_bf16_to_f32(sp_f32_to_bf16(x[i]))
                                                  : x[i];
        if (!isfinite(stored))
            return sp_fail(err, SP_ENUMERIC,
                           "save %s: tensor %s: element %zu is %g, which is not a finite "
                           "number in this dtype",
                           saving->dir, tensor->name, i, (double)x[i]);
    }
    return SP_OK;
}

/* One tensor from the block, in the order of files. */
static enum sp_err fill(void *context, const struct ckpt_array *array, float *to,
                        struct sp_error *err)
{
    const struct saving *saving = context;
    const struct model *m = saving->model;
    const struct model_tensor *tensor = model_find_tensor(m, array->name);
    SP_ASSERT(tensor);
    bool plain = tensor->storage == MODEL_STORED_PLAIN;
    float *host = plain ? to : saving->spare;
    tn_get(m->backend, host, model_param(m, tensor->offset), m->backend->weights,
           model_tensor_count(tensor));
    enum sp_err rc = check_values(saving, tensor, host, err);
    if (rc == SP_OK && !plain)
        model_tensor_to_file(tensor, host, to);
    return rc;
}

/* Room for the largest tensor that is brought into another order; false: no memory. */
static bool take_spare(struct saving *saving)
{
    const struct model_layout *l = &saving->model->layout;
    size_t largest = 0;
    for (int32_t t = 0; t < l->n_tensors; t++)
        if (l->tensors[t].storage != MODEL_STORED_PLAIN)
            largest = SP_MAX(largest, model_tensor_count(&l->tensors[t]));
    saving->spare = largest > 0 ? sp_alloc_block(largest, sizeof(float)) : NULL;
    return largest == 0 || saving->spare != NULL;
}

static enum ckpt_dtype file_dtype(enum tn_dtype dtype)
{
    return dtype == TN_BF16 ? CKPT_BF16 : dtype == TN_F16 ? CKPT_F16 : CKPT_F32;
}

enum sp_err model_save(struct model *m, const char *dir, enum tn_dtype dtype,
                       const char *template_dir, struct sp_error *err)
{
    enum sp_err rc;
    char *text = NULL;
    struct saving saving = {.model = m, .dir = dir, .dtype = dtype};
    struct ckpt_array *arrays = sp_xarray((size_t)m->layout.n_tensors, sizeof(*arrays));
    if (!take_spare(&saving)) {
        rc = sp_fail(err, SP_ENOMEM, "save %s: no memory for a copy of a tensor", dir);
        goto out;
    }
    for (int32_t t = 0; t < m->layout.n_tensors; t++) {
        const struct model_tensor *tensor = &m->layout.tensors[t];
        arrays[t] = (struct ckpt_array){.name = tensor->name,
                                        .dims = tensor->cols ? 2 : 1,
                                        .fill = fill,
                                        .fill_context = &saving};
        model_tensor_shape(tensor, arrays[t].shape);
    }
    struct ckpt_save_options options = {.dtype = file_dtype(dtype), .template_dir = template_dir};
    if (!template_dir) {
        struct model_config config = m->config;
        config.dtype = dtype;
        json_t *json = model_config_to_json(&config);
        text = json_dumps(json, JSON_INDENT(2) | JSON_SORT_KEYS);
        json_decref(json);
        SP_ASSERT(text);
        options.config_json = text;
    }
    rc = ckpt_save(dir, arrays, (size_t)m->layout.n_tensors, &options, err);
out:
    sp_free_block(saving.spare);
    free(arrays);
    free(text);
    return rc;
}
