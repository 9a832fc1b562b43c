/* usage: NVIDIA's management library, which comes with the driver and is loaded when it is there.
 * Its header comes with a package of its own, so the three functions are declared here, as
 * https://docs.nvidia.com/deploy/nvml-api has them. */
#include <dlfcn.h>
#include <math.h>
#include <pthread.h>
#include <stdbool.h>
#include <string.h>

#include "common/tensor/cuda/device_state.h"

struct nvml_utilization {
    unsigned gpu, memory; /* per cent */
};

static struct {
    int (*init)(void);
    int (*by_bus)(const char *bus, void **ret);
    int (*utilization)(void *device, struct nvml_utilization *ret);
    void *device; /* NULL: not there */
} nvml;
static pthread_once_t nvml_once = PTHREAD_ONCE_INIT;

/* A function pointer is not an object pointer in C: its bytes are copied. */
static bool find(void *library, const char *name, void *ret)
{
    void *found = dlsym(library, name);
    memcpy(ret, &found, sizeof(found));
    return found != NULL;
}

static void load(void)
{
    char bus[32];
    void *library = dlopen("libnvidia-ml.so.1", RTLD_NOW | RTLD_LOCAL);
    if (!library)
        return;
    bool found = find(library, "nvmlInit_v2", &nvml.init) &&
                 find(library, "nvmlDeviceGetHandleByPciBusId_v2", &nvml.by_bus) &&
                 find(library, "nvmlDeviceGetUtilizationRates", &nvml.utilization);
    if (!found || nvml.init() != 0 || cudaDeviceGetPCIBusId(bus, sizeof(bus), 0) != cudaSuccess ||
        nvml.by_bus(bus, &nvml.device) != 0)
        nvml.device = NULL;
}

void device_usage(struct device *device, struct device_usage *ret)
{
    size_t free_bytes, total;
    struct nvml_utilization busy;
    *ret = (struct device_usage){.own = atomic_load(&device->memory.own),
                                 .own_peak = atomic_load(&device->memory.own_peak),
                                 .busy = (double)NAN};
    if (cudaMemGetInfo(&free_bytes, &total) == cudaSuccess) {
        ret->memory_free = free_bytes;
        ret->memory_total = total;
    }
    pthread_once(&nvml_once, load);
    if (nvml.device && nvml.utilization(nvml.device, &busy) == 0)
        ret->busy = (double)busy.gpu / 100.0;
}
