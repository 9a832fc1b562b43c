#include "common/tensor/cuda/explain.h"

static enum sp_err explain_driver(const struct cuda_trouble *t, struct sp_error *err)
{
    if (t->driver == 0)
        return sp_fail(err, SP_EUNSUPPORTED,
                       "no NVIDIA driver on this machine (libcuda.so.1 is missing): install one "
                       "for CUDA %d, or use backend = cpu",
                       t->runtime / 1000);
    return sp_fail(err, SP_EUNSUPPORTED,
                   "the NVIDIA driver is of CUDA %d.%d, needed is %d.%d or later: upgrade the "
                   "driver, or use backend = cpu",
                   t->driver / 1000, t->driver % 1000 / 10, t->runtime / 1000,
                   t->runtime % 1000 / 10);
}

enum sp_err cuda_explain(const struct cuda_trouble *t, struct sp_error *err)
{
    const char *device = t->device ? t->device : "the device";
    if (t->driver == 0)
        return explain_driver(t, err);
    switch (t->code) {
    case CUDA_OLD_DRIVER:
        return explain_driver(t, err);
    case CUDA_NO_DEVICE:
        return sp_fail(err, SP_EUNSUPPORTED,
                       "no NVIDIA device is visible: see nvidia-smi, CUDA_VISIBLE_DEVICES and the "
                       "permissions of /dev/nvidia*, or use backend = cpu");
    case CUDA_NO_MEMORY:
        return sp_fail(err, SP_ENOMEM,
                       "%s has no memory left: nvidia-smi shows who has it; end that, or choose "
                       "another device with CUDA_VISIBLE_DEVICES",
                       device);
    case CUDA_NO_KERNELS:
        return sp_fail(err, SP_EUNSUPPORTED,
                       "spin-cuda.so has no kernels for %s: build it with its architecture in "
                       "-Dgpu_archs",
                       device);
    default:
        return sp_fail(err, SP_EUNSUPPORTED, "%s does not start: %s; see nvidia-smi and dmesg",
                       device, t->text);
    }
}
