#include "common/spin/pack.h"

#include <stdlib.h>
#include <string.h>

#include "common/base/mem.h"

struct spin_packer {
    int32_t max_rows;
    bool shared_prompt;
    int32_t *ids, *positions;        /* (max_rows) */
    struct tn_segment *segments;     /* (max_rows) */
    struct tn_target *targets;       /* (2 × max_rows): a row has at most two */
    uint8_t *answer;                 /* (2 × max_rows) */
    struct spin_packed_pair *packed; /* (max_rows) */
    int32_t n_rows, n_segments, n_targets, n_packed;
};

bool spin_pair_identical(const struct spin_pair *p)
{
    return p->n_real == p->n_generated &&
           memcmp(p->real, p->generated, (size_t)p->n_real * sizeof(*p->real)) == 0;
}

static int64_t pair_rows(const struct spin_pair *p, bool with_generated, bool shared_prompt)
{
    int64_t rows = (int64_t)p->n_prompt + p->n_real - 1;
    if (with_generated && p->n_generated > 0 && !spin_pair_identical(p))
        rows += (shared_prompt ? 0 : p->n_prompt) + p->n_generated - 1;
    return rows;
}

int32_t spin_pair_rows(const struct spin_pair *p, bool with_generated)
{
    int64_t rows = pair_rows(p, with_generated, true);
    return rows > INT32_MAX ? INT32_MAX : (int32_t)rows;
}

int64_t spin_packer_rows(const struct spin_packer *k, const struct spin_pair *p,
                         bool with_generated)
{
    return pair_rows(p, with_generated, k->shared_prompt);
}

enum sp_err spin_packer_new(int32_t max_rows, bool shared_prompt, struct spin_packer **ret,
                            struct sp_error *err)
{
    if (max_rows < 1)
        return sp_fail(err, SP_EINVAL, "pack: micro-batches of %d rows", max_rows);
    struct spin_packer *k = sp_xalloc(sizeof(*k));
    size_t n = (size_t)max_rows;
    k->max_rows = max_rows;
    k->shared_prompt = shared_prompt;
    k->ids = sp_alloc_block(n, sizeof(*k->ids));
    k->positions = sp_alloc_block(n, sizeof(*k->positions));
    k->segments = sp_alloc_block(n, sizeof(*k->segments));
    k->targets = sp_alloc_block(2 * n, sizeof(*k->targets));
    k->answer = sp_alloc_block(2 * n, sizeof(*k->answer));
    k->packed = sp_alloc_block(n, sizeof(*k->packed));
    if (!k->ids || !k->positions || !k->segments || !k->targets || !k->answer || !k->packed) {
        spin_packer_free(k);
        return sp_fail(err, SP_ENOMEM, "pack: no memory for micro-batches of %d rows", max_rows);
    }
    *ret = k;
    return SP_OK;
}

void spin_packer_free(struct spin_packer *k)
{
    if (!k)
        return;
    sp_free_block(k->ids);
    sp_free_block(k->positions);
    sp_free_block(k->segments);
    sp_free_block(k->targets);
    sp_free_block(k->answer);
    sp_free_block(k->packed);
    free(k);
}

static void add_rows(struct spin_packer *k, const int32_t *ids, int32_t n, int32_t position)
{
    for (int32_t i = 0; i < n; i++) {
        k->ids[k->n_rows] = ids[i];
        k->positions[k->n_rows++] = position + i;
    }
}

static void add_target(struct spin_packer *k, int32_t row, int32_t id, int answer)
{
    k->answer[k->n_targets] = (uint8_t)answer;
    k->targets[k->n_targets++] = (struct tn_target){.row = row, .id = id};
}

/* Targets of tokens 1 … n−1 of an answer whose first row is `row`. */
static void add_later_targets(struct spin_packer *k, int32_t row, const int32_t *ids, int32_t n,
                              int answer)
{
    for (int32_t i = 1; i < n; i++)
        add_target(k, row + i - 1, ids[i], answer);
}

static void add_plain(struct spin_packer *k, const struct spin_pair *p, const int32_t *ids,
                      int32_t n, int answer)
{
    struct tn_segment s = {.row = k->n_rows, .prompt = p->n_prompt, .a = n - 1, .b = 0};
    k->segments[k->n_segments++] = s;
    add_rows(k, p->prompt, p->n_prompt, 0);
    add_rows(k, ids, n - 1, p->n_prompt);
    add_target(k, s.row + s.prompt - 1, ids[0], answer);
    add_later_targets(k, s.row + s.prompt, ids, n, answer);
}

static void add_shared(struct spin_packer *k, const struct spin_pair *p)
{
    struct tn_segment s = {
        .row = k->n_rows, .prompt = p->n_prompt, .a = p->n_real - 1, .b = p->n_generated - 1};
    k->segments[k->n_segments++] = s;
    add_rows(k, p->prompt, p->n_prompt, 0);
    add_rows(k, p->real, s.a, p->n_prompt);
    add_rows(k, p->generated, s.b, p->n_prompt);
    add_target(k, s.row + s.prompt - 1, p->real[0], 0);
    add_target(k, s.row + s.prompt - 1, p->generated[0], 1);
    add_later_targets(k, s.row + s.prompt, p->real, p->n_real, 0);
    add_later_targets(k, s.row + s.prompt + s.a, p->generated, p->n_generated, 1);
}

static void add_pair(struct spin_packer *k, const struct spin_pair *p, int32_t index,
                     bool with_generated)
{
    struct spin_packed_pair *packed = &k->packed[k->n_packed++];
    bool second = with_generated && p->n_generated > 0;
    packed->pair = index;
    packed->first_target = k->n_targets;
    packed->identical = second && spin_pair_identical(p);
    if (!second || packed->identical) {
        add_plain(k, p, p->real, p->n_real, 0);
    } else if (k->shared_prompt) {
        add_shared(k, p);
    } else {
        add_plain(k, p, p->real, p->n_real, 0);
        add_plain(k, p, p->generated, p->n_generated, 1);
    }
    packed->n_targets = k->n_targets - packed->first_target;
}

bool spin_packer_next(struct spin_packer *k, const struct spin_pair *pairs, int32_t n_pairs,
                      bool with_generated, int32_t *cursor, struct spin_micro *ret)
{
    if (*cursor >= n_pairs)
        return false;
    k->n_rows = k->n_segments = k->n_targets = k->n_packed = 0;
    for (; *cursor < n_pairs; ++*cursor) {
        const struct spin_pair *p = &pairs[*cursor];
        if (k->n_rows + pair_rows(p, with_generated, k->shared_prompt) > k->max_rows)
            break;
        add_pair(k, p, *cursor, with_generated);
    }
    SP_ASSERT(k->n_packed > 0);
    *ret = (struct spin_micro){
        .batch = {.rows = k->n_rows,
                  .ids = k->ids,
                  .positions = k->positions,
                  .segments = k->segments,
                  .n_segments = k->n_segments,
                  .targets = k->targets,
                  .n_targets = k->n_targets},
        .targets = k->targets,
        .answer = k->answer,
        .pairs = k->packed,
        .n_pairs = k->n_packed,
    };
    return true;
}
