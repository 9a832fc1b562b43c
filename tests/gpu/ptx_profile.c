/* What launches would cost a device: by kernel, instructions that its warps execute, matrix
 * products among them, passes over the banks of shared memory, and sectors of 32 bytes of global
 * memory. */
#include <stdlib.h>
#include <string.h>

#include "common/base/mem.h"
#include "tests/gpu/ptx_machine.h"

enum { BANKS = 32, SECTOR = 32, WORST = 3, KINDS = 12 };

/* Passes of the lanes [first, first + n): of each bank, words that are not the same. */
static uint64_t passes(const uint64_t *address, uint32_t lanes, size_t bytes, uint32_t first,
                       uint32_t n)
{
    uint64_t words[PTX_LANES * 4], most = 0;
    uint32_t of_bank[BANKS] = {0};
    size_t n_words = 0;
    for (uint32_t lane = first; lane < first + n; lane++)
        for (size_t i = 0; i < (bytes + 3) / 4 && lanes >> lane & 1; i++) {
            uint64_t word = address[lane] / 4 + i;
            size_t seen = 0;
            while (seen < n_words && words[seen] != word)
                seen++;
            if (seen < n_words)
                continue;
            words[n_words++] = word;
            of_bank[word % BANKS]++;
            most = SP_MAX(most, of_bank[word % BANKS]);
        }
    return most;
}

void ptx_count_shared(struct ptx_op *op, const uint64_t *address, uint32_t lanes, size_t bytes)
{
    uint32_t n = bytes <= 4 ? 32 : bytes == 8 ? 16 : 8; /* lanes that go at once */
    for (uint32_t first = 0; first < PTX_LANES; first += n) {
        uint64_t many = passes(address, lanes, bytes, first, n);
        op->passes += many;
        op->least += many > 0;
    }
}

void ptx_count_global(struct ptx_op *op, const uint64_t *address, uint32_t lanes, size_t bytes)
{
    uint64_t sectors[PTX_LANES], least = 0;
    size_t n = 0;
    PTX_EACH(lanes, lane)
    {
        uint64_t sector = address[lane] / SECTOR;
        size_t seen = 0;
        while (seen < n && sectors[seen] != sector)
            seen++;
        if (seen == n)
            sectors[n++] = sector;
        least += bytes;
    }
    op->passes += n;
    op->least += (least + SECTOR - 1) / SECTOR;
}

/* --- the report --- */

static int by_waste(const void *a, const void *b)
{
    const struct ptx_op *const *x = a, *const *y = b;
    uint64_t waste_x = (*x)->passes - SP_MIN((*x)->least, (*x)->passes);
    uint64_t waste_y = (*y)->passes - SP_MIN((*y)->least, (*y)->passes);
    return waste_x < waste_y ? 1 : waste_x > waste_y ? -1 : 0;
}

#define NAME(text, name, ...) [PTX_##name] = text,
static const char *const names[PTX_CODES] = {
    PTX_NAMED(NAME)[PTX_PACK_B32] = "mov.b32 {}",
    [PTX_PACK_B64] = "mov.b64 {}",
    [PTX_UNPACK_B32] = "mov.b32 {}",
    [PTX_UNPACK_B64] = "mov.b64 {}",
    [PTX_LD] = "ld",
    [PTX_ST] = "st",
    [PTX_BRA] = "bra",
};

/* The instructions that are most of it. */
static void report_mix(const struct ptx_kernel *k, uint64_t times, FILE *to)
{
    uint64_t of[PTX_CODES] = {0};
    for (size_t i = 0; i < k->n_ops; i++)
        of[k->ops[i].code] += k->ops[i].times;
    fprintf(to, "   ");
    for (int i = 0; i < KINDS; i++) {
        int most = 0;
        for (int code = 1; code < PTX_CODES; code++)
            most = of[code] > of[most] ? code : most;
        fprintf(to, " %.20s %.0f %%%s", names[most], 100.0 * (double)of[most] / (double)times,
                i + 1 < KINDS ? "," : "\n");
        of[most] = 0;
    }
}

static void report_kernel(const struct ptx_kernel *k, FILE *to)
{
    uint64_t times = 0, mma = 0, passes[2] = {0}, least[2] = {0};
    const struct ptx_op **ops = sp_xarray(k->n_ops, sizeof(*ops));
    for (size_t i = 0; i < k->n_ops; i++) {
        const struct ptx_op *op = ops[i] = &k->ops[i];
        bool global = op->space == PTX_GLOBAL;
        times += op->times;
        mma += op->code == PTX_MMA ? op->times : 0;
        passes[global] += op->passes;
        least[global] += op->least;
    }
    fprintf(to, "%-22s %9llu %12llu %9llu %7.1f %11llu %6.2f %11llu %6.2f\n", k->name,
            (unsigned long long)k->launches, (unsigned long long)times, (unsigned long long)mma,
            (double)k->lane_ops / (double)SP_MAX(times, 1), (unsigned long long)passes[0],
            (double)passes[0] / (double)SP_MAX(least[0], 1), (unsigned long long)passes[1],
            (double)passes[1] / (double)SP_MAX(least[1], 1));
    report_mix(k, SP_MAX(times, 1), to);
    qsort(ops, k->n_ops, sizeof(*ops), by_waste);
    for (size_t i = 0; i < WORST && i < k->n_ops; i++)
        if (ops[i]->passes > ops[i]->least + ops[i]->least / 4)
            fprintf(to, "    %s: %llu passes over %s memory, %llu at least\n", ops[i]->source,
                    (unsigned long long)ops[i]->passes,
                    ops[i]->space == PTX_GLOBAL ? "global" : "shared",
                    (unsigned long long)ops[i]->least);
    free(ops);
}

void ptx_report(const struct ptx *ptx, FILE *to)
{
    fprintf(to, "%-22s %9s %12s %9s %7s %11s %6s %11s %6s\n", "kernel", "launches", "instructions",
            "mma", "lanes", "shared", "ratio", "sectors", "ratio");
    for (size_t i = 0; i < ptx->n_kernels; i++)
        if (ptx->kernels[i].launches > 0)
            report_kernel(&ptx->kernels[i], to);
}
