#include "common/tensor/backend.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/mem.h"
#include "common/tensor/cpu/cpu.h"
#include "common/tensor/module.h"

static enum sp_err unknown(const char *name, struct sp_error *err)
{
    return sp_fail(err, SP_EUNSUPPORTED,
                   "backend %s: the known ones are cpu, openblas, cuda and cuda-fp32",
                   name ? name : "(none)");
}

/* The backends of the module "cuda". */
static bool is_cuda(const char *name)
{
    return name && (strcmp(name, "cuda") == 0 || strcmp(name, "cuda-fp32") == 0);
}

static enum sp_err open_from_module(const char *name, const struct tn_backend_options *options,
                                    struct tn_backend **ret, struct sp_error *err)
{
    const struct tn_module *module;
    enum sp_err rc = tn_module_load("cuda", options ? options->module_path : NULL, &module, err);
    if (rc == SP_OK)
        rc = module->open(name, options, ret, err);
    return rc == SP_OK ? SP_OK : sp_wrap(err, rc, "backend %s", name);
}

enum sp_err tn_open(const char *name, const struct tn_backend_options *options,
                    struct tn_backend **ret, struct sp_error *err)
{
    if (name && strcmp(name, "cpu") == 0)
        return tn_cpu_open(options, ret, err);
    if (name && strcmp(name, "openblas") == 0)
        return tn_openblas_open(options, ret, err);
    if (is_cuda(name))
        return open_from_module(name, options, ret, err);
    return unknown(name, err);
}

void tn_close(struct tn_backend *backend)
{
    if (backend)
        backend->ops->close(backend);
}

enum sp_err tn_store_weights(struct tn_backend *backend, enum tn_dtype dtype, struct sp_error *err)
{
    if (dtype != TN_F32 && (dtype != TN_BF16 || strcmp(backend->name, "cuda") != 0))
        return sp_fail(err, SP_EUNSUPPORTED,
                       "backend %s stores parameters as f32 only; for bf16 use backend = cuda",
                       backend->name);
    backend->weights = dtype;
    return SP_OK;
}

#define PIECE ((size_t)1 << 20) /* numbers converted at a time */

void tn_put(struct tn_backend *b, void *to, enum tn_dtype dtype, const float *from_host, size_t n)
{
    if (dtype == TN_F32) {
        b->ops->upload(b, to, from_host, n * sizeof(float));
        return;
    }
    uint16_t *piece = sp_xarray(SP_MIN(n, PIECE) + 1, sizeof(*piece));
    for (size_t i = 0; i < n; i += PIECE) {
        size_t here = SP_MIN(n - i, PIECE);
        for (size_t j = 0; j < here; j++)
            piece[j] = sp_f32_to_bf16(from_host[i + j]);
        b->ops->upload(b, tn_at(to, dtype, i), piece, here * sizeof(*piece));
    }
    free(piece);
}

void tn_get(struct tn_backend *b, float *to_host, const void *from, enum tn_dtype dtype, size_t n)
{
    if (dtype == TN_F32) {
        b->ops->download(b, to_host, from, n * sizeof(float));
        return;
    }
    uint16_t *piece = sp_xarray(SP_MIN(n, PIECE) + 1, sizeof(*piece));
    for (size_t i = 0; i < n; i += PIECE) {
        size_t here = SP_MIN(n - i, PIECE);
        b->ops->download(b, piece, tn_const_at(from, dtype, i), here * sizeof(*piece));
        for (size_t j = 0; j < here; j++)
            to_host[i + j] = sp_bf16_to_f32(piece[j]);
    }
    free(piece);
}

double tn_probe(struct tn_backend *backend)
{
    return backend->ops->probe(backend);
}

double tn_bandwidth(struct tn_backend *backend)
{
    return backend->ops->bandwidth ? backend->ops->bandwidth(backend) : 0.0;
}

void tn_usage(struct tn_backend *backend, struct tn_usage *ret)
{
    backend->ops->usage(backend, ret);
}

enum sp_err tn_numerics_class(const char *name, char ret[TN_CLASS_BYTES], struct sp_error *err)
{
    const struct tn_module *module;
    enum sp_err rc = SP_OK;
    if (name && strcmp(name, "cpu") == 0)
        snprintf(ret, TN_CLASS_BYTES, "cpu r%d", TN_NUMERICS_REVISION);
    else if (name && strcmp(name, "openblas") == 0)
        tn_openblas_class(ret);
    else if (is_cuda(name)) {
        rc = tn_module_load("cuda", NULL, &module, err);
        if (rc == SP_OK)
            rc = module->numerics_class(name, ret, err);
        if (rc != SP_OK)
            return sp_wrap(err, rc, "backend %s", name);
    } else
        return unknown(name, err);
    return rc;
}
