/* kern_panels: the products of decoding, C(m × panels·nr) = X·B with X as it lies (rows `s`
 * elements apart) and B packed in panels. Included by kern_avx2.c, kern_avx512.c and the files
 * pairs_*.c, which say how B is read, what an element of X (K_ELEMENT) and what a lane is; the
 * sequence of operations of an output is that of the other products.
 *
 * Rows of X are reached from a base pointer for every four of them: one pointer a row would need
 * more registers than there are. Two panels at a time fill the multiply-add units where rows are
 * few: an output's chain waits for its last link. */

#define X_0 x0[0]
#define X_1 x0[s]
#define X_2 x0[2 * s]
#define X_3 x0[s3]
#define X_4 x4[0]
#define X_5 x4[s]
#define X_6 x4[2 * s]
#define X_7 x4[s3]
#define X_8 x8[0]
#define X_9 x8[s]
#define X_10 x8[2 * s]
#define X_11 x8[s3]
#define X_12 x12[0]
#define X_13 x12[s]

#define PANEL_STEP(i)                                                                              \
    {                                                                                              \
        K_VEC x = K_SET1(X_##i);                                                                   \
        c##i##_0 = K_FMA(x, b0, c##i##_0);                                                         \
        c##i##_1 = K_FMA(x, b1, c##i##_1);                                                         \
    }
#define PAIR_STEP(i)                                                                               \
    {                                                                                              \
        K_VEC x = K_SET1(X_##i);                                                                   \
        c##i##_0 = K_FMA(x, b0, c##i##_0);                                                         \
        c##i##_1 = K_FMA(x, b1, c##i##_1);                                                         \
        d##i##_0 = K_FMA(x, b2, d##i##_0);                                                         \
        d##i##_1 = K_FMA(x, b3, d##i##_1);                                                         \
    }
#define PAIR_ZERO(i) ZERO(i) K_VEC d##i##_0 = K_ZERO, d##i##_1 = K_ZERO;
#define PAIR_LOAD(i)                                                                               \
    LOAD(i)                                                                                        \
    d##i##_0 = K_LOADU(c + i * ldc + K_NR);                                                        \
    d##i##_1 = K_LOADU(c + i * ldc + K_NR + K_NR / 2);
#define PAIR_STORE(i)                                                                              \
    STORE(i)                                                                                       \
    K_STOREU(c + i * ldc + K_NR, d##i##_0);                                                        \
    K_STOREU(c + i * ldc + K_NR + K_NR / 2, d##i##_1);

#ifndef K_INNER /* one element of each row */
#define K_INNER(m, READ, STEP_) READ() ROWS_##m(STEP_)
#endif
#define PANELS(name, m, READ, ZERO_, LOAD_, STEP_, STORE_)                                         \
    static void name##_##m(size_t depth, const K_ELEMENT *x0, size_t s, const uint8_t *b,          \
                           size_t step, size_t panel, size_t ahead, float *c, size_t ldc,          \
                           bool load)                                                              \
    {                                                                                              \
        const K_ELEMENT *x4 = x0 + 4 * s, *x8 = x4 + 4 * s, *x12 = x8 + 4 * s;                     \
        size_t s3 = 3 * s;                                                                         \
        (void)x4, (void)x8, (void)x12, (void)s3, (void)panel;                                      \
        ROWS_##m(ZERO_) if (load)                                                                  \
        {                                                                                          \
            ROWS_##m(LOAD_)                                                                        \
        }                                                                                          \
        for (size_t k = 0; k < depth; k++, x0++, x4++, x8++, x12++, b += step) {                   \
            K_INNER(m, READ, STEP_)                                                                \
        }                                                                                          \
        ROWS_##m(STORE_)                                                                           \
    }
#define ONE(name, m, READ) PANELS(name, m, READ, ZERO, LOAD, PANEL_STEP, STORE)
#define TWO(name, m, READ) PANELS(name, m, READ, PAIR_ZERO, PAIR_LOAD, PAIR_STEP, PAIR_STORE)

typedef void panels_fn(size_t, const K_ELEMENT *, size_t, const uint8_t *, size_t, size_t, size_t,
                       float *, size_t, bool);
