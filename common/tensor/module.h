/* module: backends in shared objects of their own, loaded when somebody asks for them, so that
 * programs depend on no device's libraries. A module is spin-NAME.so in one folder: the
 * module_path of the options, else SPIN_MODULE_PATH, else the folder it was installed to. It
 * exports one object, struct tn_module, under the name TN_MODULE_SYMBOL, and is of exactly the
 * version of the program that loads it: what they share is a struct of functions and no protocol.
 * Compute thread or main; a module is never unloaded. */
#ifndef SPIN_TENSOR_MODULE_H
#define SPIN_TENSOR_MODULE_H

#include <stdint.h>

#include "common/base/err.h"
#include "common/tensor/backend.h"

#define TN_MODULE_SYMBOL "spin_tensor_module"
/* Raise it when the meaning of what is in backend.h changes and its size doesn't. */
#define TN_MODULE_INTERFACE 3

struct tn_module {
    /* These three stay at their place in every version, so that another one can be told. */
    uint32_t interface;  /* TN_MODULE_INTERFACE */
    uint32_t ops_bytes;  /* sizeof(struct tn_ops) */
    const char *version; /* SPIN_VERSION */

    /* Like tn_open and tn_numerics_class; `name` is one of the module's backends. */
    enum sp_err (*open)(const char *name, const struct tn_backend_options *options,
                        struct tn_backend **ret, struct sp_error *err);
    enum sp_err (*numerics_class)(const char *name, char ret[TN_CLASS_BYTES], struct sp_error *err);
};

/* path: an absolute folder, NULL or "" as above. SP_ENOTFOUND: there is none; SP_EINVAL: the folder
 * isn't absolute; SP_EUNSUPPORTED: it can't be loaded; SP_EVERSION: it is of another version. */
enum sp_err tn_module_load(const char *name, const char *path, const struct tn_module **ret,
                           struct sp_error *err) SP_MUST_USE;

#endif
