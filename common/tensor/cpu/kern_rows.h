/* kern_rows: softmax, log-sum-exp and what sampling needs, over one row. Included by kern_body.h
 * only. */

static void k_softmax(float *s, size_t base, size_t n, size_t from, size_t to, float scale,
                      float *ret_max, float *ret_sum)
{
    ptrdiff_t lo = (ptrdiff_t)from - (ptrdiff_t)base, hi = (ptrdiff_t)to - (ptrdiff_t)base;
    vf scalev = v_set1(scale), maxv = v_set1(-INFINITY);
    for (size_t i = 0; i < n; i += 16) {
        ptrdiff_t at = (ptrdiff_t)i;
        vf x = v_keep(v_mul(v_load(s + i), scalev), lo - at, hi - at, -INFINITY);
        v_store(s + i, x);
        maxv = v_max(x, maxv);
    }
    float max = v_maximum(maxv);
    vf shift = v_set1(max), sum = v_zero();
    for (size_t i = 0; i < n; i += 16) {
        ptrdiff_t at = (ptrdiff_t)i;
        vf p = v_keep(v_exp(v_sub(v_load(s + i), shift)), lo - at, hi - at, 0.0f);
        v_store(s + i, p);
        sum = v_add(sum, p);
    }
    *ret_max = max;
    *ret_sum = v_sum(sum);
}

static void k_softmax_bwd(float *s, float *dp, size_t base, size_t n, size_t from, size_t to,
                          float scale, float lse, float dsum)
{
    ptrdiff_t lo = (ptrdiff_t)from - (ptrdiff_t)base, hi = (ptrdiff_t)to - (ptrdiff_t)base;
    vf scalev = v_set1(scale), lsev = v_set1(lse), dsumv = v_set1(dsum);
    for (size_t i = 0; i < n; i += 16) {
        ptrdiff_t at = (ptrdiff_t)i;
        vf x = v_sub(v_mul(v_load(s + i), scalev), lsev);
        vf p = v_keep(v_exp(x), lo - at, hi - at, 0.0f);
        vf d = v_mul(v_mul(p, v_sub(v_load(dp + i), dsumv)), scalev);
        v_store(s + i, p);
        v_store(dp + i, v_keep(d, lo - at, hi - at, 0.0f));
    }
}

static float k_row_max(const float *x, size_t n, int32_t *ret_index)
{
    vf best = v_set1(-INFINITY), where = v_zero(), index = v_iota(), step = v_set1(16.0f);
    for (size_t i = 0; i < n; i += 16) {
        vf v = n - i < 16 ? v_keep(v_loadn(x + i, n - i), 0, (ptrdiff_t)(n - i), -INFINITY)
                          : v_load(x + i);
        where = v_select_gt(v, best, index, where);
        best = v_select_gt(v, best, v, best);
        index = v_add(index, step);
    }
    float values[16], places[16];
    v_store(values, best);
    v_store(places, where);
    float max = values[0], place = places[0];
    for (int l = 1; l < 16; l++)
        if (values[l] > max || (values[l] == max && places[l] < place)) {
            max = values[l];
            place = places[l];
        }
    if (ret_index)
        *ret_index = (int32_t)place;
    return max;
}

static float k_row_sum_exp(const float *x, size_t n, float shift, float scale)
{
    vf shiftv = v_set1(shift), scalev = v_set1(scale), sum = v_zero();
    size_t i = 0;
    for (; i + 16 <= n; i += 16)
        sum = v_add(sum, v_exp(v_mul(v_sub(v_load(x + i), shiftv), scalev)));
    if (i < n) {
        vf p = v_exp(v_mul(v_sub(v_loadn(x + i, n - i), shiftv), scalev));
        sum = v_add(sum, v_keep(p, 0, (ptrdiff_t)(n - i), 0.0f));
    }
    return v_sum(sum);
}

static void k_row_exp(float *y, const float *x, size_t n, float shift, float scale)
{
    vf shiftv = v_set1(shift), scalev = v_set1(scale);
    for (size_t i = 0; i < n; i += 16) {
        size_t m = n - i < 16 ? n - i : 16;
        v_storen(y + i, v_exp(v_mul(v_sub(v_loadn(x + i, m), shiftv), scalev)), m);
    }
}

static void k_row_softmax_scaled(float *x, size_t n, float lse, float factor)
{
    vf lsev = v_set1(lse), factorv = v_set1(factor);
    for (size_t i = 0; i < n; i += 16) {
        size_t m = n - i < 16 ? n - i : 16;
        v_storen(x + i, v_mul(v_exp(v_sub(v_loadn(x + i, m), lsev)), factorv), m);
    }
}
