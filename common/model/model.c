#include "common/model/model.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/mem.h"
#include "common/base/rng.h"
#include "common/model/dmath.h"
#include "common/model/model_impl.h"

#define QUICK_DRAWS 1048573 /* a prime: rows of matrices differ */

static const double two_pi = 6.28318530717958647693;

enum sp_err model_alloc(struct tn_backend *backend, const struct model_config *config,
                        struct model **ret, struct sp_error *err)
{
    struct model *m = sp_xalloc(sizeof(*m));
    m->backend = backend;
    m->config = *config;
    model_layout_init(&m->layout, config);
    m->params = backend->ops->alloc(backend, m->layout.count, tn_unit(backend->weights));
    if (!m->params) {
        enum sp_err rc = sp_fail(err, SP_ENOMEM, "no memory for %lld parameters (%.1f MiB)",
                                 (long long)config->n_params,
                                 (double)(m->layout.count * tn_unit(backend->weights)) / (1 << 20));
        model_free(m);
        return rc;
    }
    *ret = m;
    return SP_OK;
}

/* Four standard normal numbers from 128 random bits. Box & Muller 1958. */
static void four_normals(const uint32_t bits[4], double ret[4])
{
    for (int i = 0; i < 4; i += 2) {
        double u = ((double)bits[i] + 1) * 0x1p-32, v = (double)bits[i + 1] * 0x1p-32;
        double radius = sqrt(-2 * model_log(u)), s, c;
        model_sincos(two_pi * v, &s, &c);
        ret[i] = radius * c;
        ret[i + 1] = radius * s;
    }
}

static void init_tensor(uint64_t seed, int32_t index, double std, float *to, size_t n)
{
    for (size_t i = 0; i < n; i += 4) {
        uint32_t bits[4];
        double normal[4];
        sp_rng_draw(seed, SP_STREAM_INIT, 0, (uint32_t)index, (uint32_t)(i / 4), 0, bits);
        four_normals(bits, normal);
        for (size_t j = i; j < n && j < i + 4; j++)
            to[j] = (float)(std * normal[j - i]);
    }
}

/* Fills a matrix: all of it drawn, or `drawn` numbers repeated from another place in them for each
 * tensor. */
static void init_matrix(struct model *m, int32_t t, uint64_t seed, float *host, size_t drawn)
{
    const struct model_tensor *tensor = &m->layout.tensors[t];
    size_t n = model_tensor_count(tensor), from = (size_t)t * 7919;
    if (drawn == 0) {
        init_tensor(seed, t, m->config.init_std, host, n);
        tn_put(m->backend, model_param(m, tensor->offset), m->backend->weights, host, n);
        return;
    }
    for (size_t i = 0; i < n;) {
        size_t at = (from + i) % drawn, count = SP_MIN(n - i, drawn - at);
        tn_put(m->backend, model_param(m, tensor->offset + i), m->backend->weights, host + at,
               count);
        i += count;
    }
}

static enum sp_err new_model(struct tn_backend *backend, const struct model_config *config,
                             uint64_t seed, size_t drawn, struct model **ret, struct sp_error *err)
{
    struct model *m = NULL;
    size_t largest = drawn;
    enum sp_err rc = model_alloc(backend, config, &m, err);
    if (rc != SP_OK)
        return rc;
    for (int32_t t = 0; t < m->layout.n_tensors; t++)
        if (drawn == 0 || m->layout.tensors[t].cols == 0)
            largest = SP_MAX(largest, model_tensor_count(&m->layout.tensors[t]));
    float *host = sp_alloc_block(largest, sizeof(float));
    if (!host) {
        model_free(m);
        return sp_fail(err, SP_ENOMEM, "no memory to initialize a tensor of %zu elements", largest);
    }
    for (int32_t t = 0; t < m->layout.n_tensors; t++) {
        const struct model_tensor *tensor = &m->layout.tensors[t];
        if (tensor->cols != 0)
            continue;
        size_t n = model_tensor_count(tensor);
        for (size_t i = 0; i < n; i++)
            host[i] = tensor->first_value;
        tn_put(backend, model_param(m, tensor->offset), backend->weights, host, n);
    }
    if (drawn > 0)
        init_tensor(seed, 0, config->init_std, host, drawn);
    for (int32_t t = 0; t < m->layout.n_tensors; t++)
        if (m->layout.tensors[t].cols != 0)
            init_matrix(m, t, seed, host, drawn);
    sp_free_block(host);
    *ret = m;
    return SP_OK;
}

enum sp_err model_new(struct tn_backend *backend, const struct model_config *config, uint64_t seed,
                      struct model **ret, struct sp_error *err)
{
    return new_model(backend, config, seed, 0, ret, err);
}

enum sp_err model_new_quickly(struct tn_backend *backend, const struct model_config *config,
                              uint64_t seed, struct model **ret, struct sp_error *err)
{
    return new_model(backend, config, seed, QUICK_DRAWS, ret, err);
}

void model_free(struct model *m)
{
    if (!m)
        return;
    if (m->params)
        m->backend->ops->free(m->backend, m->params);
    if (m->grads)
        m->backend->ops->free(m->backend, m->grads);
    model_layout_deinit(&m->layout);
    free(m);
}

const struct model_config *model_get_config(const struct model *m)
{
    return &m->config;
}

struct tn_backend *model_backend(const struct model *m)
{
    return m->backend;
}

void *model_params(struct model *m, size_t *ret_n)
{
    if (ret_n)
        *ret_n = m->layout.count;
    return m->params;
}

enum sp_err model_enable_grads(struct model *m, struct sp_error *err)
{
    if (m->grads)
        return SP_OK;
    m->grads = m->backend->ops->alloc(m->backend, m->layout.count, tn_unit(m->backend->weights));
    if (!m->grads)
        return sp_fail(err, SP_ENOMEM, "no memory for %zu gradients", m->layout.count);
    return SP_OK;
}

void *model_grads(struct model *m)
{
    return m->grads;
}

void model_zero_grads(struct model *m)
{
    if (m->grads)
        m->backend->ops->zero(m->backend, m->grads, m->layout.count * tn_unit(m->backend->weights));
}

const struct model_tensor *model_tensors(const struct model *m, int32_t *ret_n)
{
    *ret_n = m->layout.n_tensors;
    return m->layout.tensors;
}

const struct model_tensor *model_find_tensor(const struct model *m, const char *name)
{
    for (int32_t t = 0; t < m->layout.n_tensors; t++)
        if (strcmp(m->layout.tensors[t].name, name) == 0)
            return &m->layout.tensors[t];
    return NULL;
}
