/* attend: what attention over packed segments, its backward and attention over the cache share.
 *
 * A packed segment is two sequences of logical positions: the prompt with branch a, and the prompt
 * with branch b (whose queries are the rows of b alone). Keys are laid out by logical position, K
 * in blocks of nr keys transposed, V as rows; so a sequence, a branch of a pair and a slot of the
 * cache look the same to the code below, and give the same bits. */
#ifndef SPIN_TENSOR_ATTEND_H
#define SPIN_TENSOR_ATTEND_H

#include "common/tensor/cpu/cpu.h"

struct tn_sequence {
    int32_t row, prompt;        /* first row and length of the prompt */
    int32_t branch_row, branch; /* first row and length of the branch */
    int32_t first_query;        /* logical position of the first query: 0, or prompt */
};

static inline int32_t tn_sequence_keys(const struct tn_sequence *s)
{
    return s->prompt + s->branch;
}
static inline int32_t tn_sequence_row(const struct tn_sequence *s, int32_t position)
{
    return position < s->prompt ? s->row + position : s->branch_row + position - s->prompt;
}
/* Fills one or two; returns how many. */
static inline int32_t tn_segment_sequences(const struct tn_segment *g, struct tn_sequence ret[2])
{
    int32_t branch = g->row + g->prompt;
    ret[0] = (struct tn_sequence){g->row, g->prompt, branch, g->a, 0};
    ret[1] = (struct tn_sequence){g->row, g->prompt, branch + g->a, g->b, g->prompt};
    return g->b > 0 ? 2 : 1;
}

/* First key that the query at `position` sees. */
static inline int32_t tn_window_start(int32_t position, int32_t window)
{
    return window > 0 && position >= window ? position - window + 1 : 0;
}

struct tn_attend_keys {
    const float *k; /* [block][C][nr] */
    const float *v; /* [position][padded] */
};

struct tn_query {
    const float *q;
    float *out;
    float *lse;       /* or NULL */
    int32_t position; /* logical */
};

/* Attention of at most mr queries to one head's keys. scratch: tn_attend_floats. */
void tn_attend(const struct tn_kern *kern, const struct tn_query *queries, int32_t m, int32_t C,
               const struct tn_attend_keys *keys, float scale, int32_t window, float softcap,
               float *scratch);
size_t tn_attend_floats(const struct tn_kern *kern, int32_t keys, int32_t C);

/* Copies rows [0, keys) of one head, `from` being its first column of row 0, by logical position:
 * transposed in blocks of nr, and as rows of `padded` floats, zero above C. Either may be NULL. */
void tn_pack_blocks(const struct tn_kern *kern, float *to, const float *from, size_t stride,
                    const struct tn_sequence *s, int32_t C);
void tn_pack_rows(float *to, size_t padded, const float *from, size_t stride,
                  const struct tn_sequence *s, int32_t C);

#endif
