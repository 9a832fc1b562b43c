/* usage: what this process takes of the machine, from the kernel. */
#include <math.h>
#include <stdio.h>
#include <sys/sysinfo.h>
#include <time.h>
#include <unistd.h>

#include "common/base/mem.h"
#include "common/tensor/cpu/cpu.h"

static uint64_t nanoseconds(clockid_t clock)
{
    struct timespec t;
    clock_gettime(clock, &t);
    return (uint64_t)t.tv_sec * 1000000000 + (uint64_t)t.tv_nsec;
}

/* Share of the threads' time since the call before. */
static double share_used(struct tn_cpu *cpu)
{
    uint64_t used = nanoseconds(CLOCK_PROCESS_CPUTIME_ID), wall = nanoseconds(CLOCK_MONOTONIC);
    uint64_t used_before = atomic_exchange(&cpu->used_ns, used);
    uint64_t wall_before = atomic_exchange(&cpu->wall_ns, wall);
    if (wall_before == 0 || wall <= wall_before || used < used_before)
        return (double)NAN;
    double share = (double)(used - used_before) / (double)(wall - wall_before) / cpu->threads;
    return SP_MIN(share, 1.0);
}

/* Second number of /proc/self/statm: resident pages. */
static uint64_t resident_pages(void)
{
    unsigned long long size, resident = 0;
    FILE *file = fopen("/proc/self/statm", "re");
    if (!file)
        return 0;
    if (fscanf(file, "%llu %llu", &size, &resident) != 2)
        resident = 0;
    fclose(file);
    return resident;
}

/* MemAvailable of /proc/meminfo; where that is hidden, what the kernel calls free. */
static uint64_t memory_available(void)
{
    char line[256];
    unsigned long long kib = 0;
    FILE *file = fopen("/proc/meminfo", "re");
    if (file == NULL) {
        struct sysinfo info;
        return sysinfo(&info) == 0 ? (uint64_t)(info.freeram + info.bufferram) * info.mem_unit : 0;
    }
    while (fgets(line, sizeof(line), file) != NULL)
        if (sscanf(line, "MemAvailable: %llu kB", &kib) == 1)
            break;
    fclose(file);
    return kib * 1024;
}

void tn_cpu_usage(struct tn_backend *backend, struct tn_usage *ret)
{
    struct tn_cpu *cpu = tn_cpu_of(backend);
    uint64_t page = (uint64_t)sysconf(_SC_PAGESIZE);
    *ret = (struct tn_usage){.memory_used = resident_pages() * page,
                             .memory_total = (uint64_t)sysconf(_SC_PHYS_PAGES) * page,
                             .memory_free = memory_available(),
                             .busy = share_used(cpu)};
}
