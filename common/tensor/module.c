#include "common/tensor/module.h"

#include <dlfcn.h>
#include <stdlib.h>
#include <unistd.h>

#include "common/base/mem.h"

static enum sp_err check(const char *file, const struct tn_module *module, struct sp_error *err)
{
    if (!module)
        return sp_fail(err, SP_EUNSUPPORTED, "%s is no module of spin (it has no %s)", file,
                       TN_MODULE_SYMBOL);
    if (module->interface != TN_MODULE_INTERFACE || module->ops_bytes != sizeof(struct tn_ops))
        return sp_fail(err, SP_EVERSION,
                       "%s is of spin %s, interface %u.%u; this is spin %s, interface %u.%zu: "
                       "install both from the same version",
                       file, module->version, module->interface, module->ops_bytes, SPIN_VERSION,
                       TN_MODULE_INTERFACE, sizeof(struct tn_ops));
    return SP_OK;
}

static enum sp_err load(const char *name, const char *file, const struct tn_module **ret,
                        struct sp_error *err)
{
    if (access(file, F_OK) != 0)
        return sp_fail(err, SP_ENOTFOUND,
                       "no module %s: install spin's package for %s, name its folder in "
                       "SPIN_MODULE_PATH or module_path, or use backend = cpu",
                       file, name);
    void *handle = dlopen(file, RTLD_NOW | RTLD_LOCAL);
    if (!handle)
        return sp_fail(err, SP_EUNSUPPORTED,
                       "%s: install the library that is named, or use backend = cpu", dlerror());
    const struct tn_module *module = dlsym(handle, TN_MODULE_SYMBOL);
    enum sp_err rc = check(file, module, err);
    if (rc != SP_OK) {
        dlclose(handle);
        return rc;
    }
    *ret = module; /* the handle is kept as long as the process lives */
    return SP_OK;
}

enum sp_err tn_module_load(const char *name, const char *path, const struct tn_module **ret,
                           struct sp_error *err)
{
    const char *folder = path && *path ? path : getenv("SPIN_MODULE_PATH");
    if (!folder || !*folder)
        folder = SPIN_MODULE_DIR;
    if (*folder != '/')
        return sp_fail(err, SP_EINVAL, "folder of modules \"%s\": give an absolute path", folder);
    char *file = sp_xprintf("%s/spin-%s.so", folder, name);
    enum sp_err rc = load(name, file, ret, err);
    free(file);
    return rc;
}
