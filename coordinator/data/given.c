/* compat = uclaml: the data of later iterations. Its rows are those of the training file with other
 * generated answers, in any order: each is found by its prompt. */
#include <stdio.h>
#include <stdlib.h>

#include "common/base/mem.h"
#include "coordinator/data/data_internal.h"

struct known {
    uint64_t hash;
    uint32_t index;
    bool taken; /* by a row of the file in work */
};

static int compare_known(const void *a, const void *b)
{
    const struct known *x = a, *y = b;
    if (x->hash != y->hash)
        return x->hash < y->hash ? -1 : 1;
    return x->index < y->index ? -1 : x->index > y->index;
}

/* The first training prompt of this hash that no row has taken, or NULL. */
static struct known *find(struct known *known, uint64_t count, uint64_t hash)
{
    uint64_t low = 0, high = count;
    while (low < high) {
        uint64_t middle = low + (high - low) / 2;
        if (known[middle].hash < hash)
            low = middle + 1;
        else
            high = middle;
    }
    while (low < count && known[low].hash == hash && known[low].taken)
        low++;
    return low < count && known[low].hash == hash ? &known[low] : NULL;
}

static enum sp_err take_row(struct data_rows *rows, uint32_t iteration, const struct tok_row *row,
                            struct known *known, struct data_scratch *scratch, struct sp_error *err)
{
    enum sp_err rc = data_render(rows, row, scratch, err);
    if (rc != SP_OK)
        return rc;
    struct known *at = find(known, rows->counts[DATA_TRAIN].used, data_hash_ids(&scratch->prompt));
    bool fits = data_left_out(rows, DATA_TRAIN, scratch) == DATA_REASONS;
    if (at == NULL || !fits || scratch->rejected.count == 0) {
        rows->unmatched[iteration]++;
        return SP_OK;
    }
    at->taken = true;
    rows->given[iteration]++;
    return rows->add_given != NULL
               ? rows->add_given(rows->add_context, iteration, at->index, &scratch->rejected, err)
               : SP_OK;
}

static enum sp_err read_file(struct data_rows *rows, uint32_t iteration, struct known *known,
                             struct sp_error *err)
{
    char setting[32];
    const char *name = rows->given_names[iteration - 1];
    struct tok_dataset *dataset = NULL;
    struct data_scratch scratch = {0};
    snprintf(setting, sizeof(setting), "[data] generated_%u", iteration);
    enum sp_err rc =
        data_open(rows, rows->given_paths[iteration - 1], name, setting, &dataset, err);
    for (uint64_t i = 0; rc == SP_OK; i++) {
        struct tok_row row;
        bool more = false;
        rc = tok_dataset_next(dataset, &row, &more, err);
        if (rc != SP_OK || !more)
            break;
        rc = take_row(rows, iteration, &row, known, &scratch, err);
        if (rc != SP_OK)
            sp_wrap(err, rc, "%s:%llu", name, (unsigned long long)row.line);
        else
            rc = data_step(rows, dataset, i, err);
    }
    data_scratch_deinit(&scratch);
    data_close(rows, dataset);
    return rc;
}

enum sp_err data_given_run(struct data_rows *rows, struct sp_error *err)
{
    uint64_t n = rows->counts[DATA_TRAIN].used;
    struct known *known = sp_xarray(n + 1, sizeof(*known));
    for (uint64_t i = 0; i < n; i++)
        known[i] =
            (struct known){.hash = rows->counts[DATA_TRAIN].prompt_hashes[i], .index = (uint32_t)i};
    qsort(known, n, sizeof(*known), compare_known);
    enum sp_err rc = SP_OK;
    for (uint32_t iteration = 1; iteration <= DATA_GIVEN && rc == SP_OK; iteration++) {
        if (rows->given_paths[iteration - 1] == NULL)
            continue;
        for (uint64_t i = 0; i < n; i++)
            known[i].taken = false;
        rc = read_file(rows, iteration, known, err);
    }
    free(known);
    return rc;
}
