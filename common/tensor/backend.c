#include "common/tensor/backend.h"

#include <stdio.h>
#include <string.h>

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

double tn_probe(struct tn_backend *backend)
{
    return backend->ops->probe(backend);
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
