#include "common/tensor/backend.h"

#include <stdio.h>
#include <string.h>

#include "common/tensor/cpu/cpu.h"

static enum sp_err unknown(const char *name, struct sp_error *err)
{
    return sp_fail(err, SP_EUNSUPPORTED, "backend %s: the known ones are cpu and openblas",
                   name ? name : "(none)");
}

enum sp_err tn_open(const char *name, const struct tn_backend_options *options,
                    struct tn_backend **ret, struct sp_error *err)
{
    if (name && strcmp(name, "cpu") == 0)
        return tn_cpu_open(options, ret, err);
    if (name && strcmp(name, "openblas") == 0)
        return tn_openblas_open(options, ret, err);
    return unknown(name, err);
}

enum sp_err tn_numerics_class(const char *name, char ret[TN_CLASS_BYTES], struct sp_error *err)
{
    if (name && strcmp(name, "cpu") == 0)
        snprintf(ret, TN_CLASS_BYTES, "cpu r%d", TN_NUMERICS_REVISION);
    else if (name && strcmp(name, "openblas") == 0)
        tn_openblas_class(ret);
    else
        return unknown(name, err);
    return SP_OK;
}
