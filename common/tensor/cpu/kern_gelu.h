/* kern_gelu: layer norms, GELU and soft caps: what models outside the Llama line are made of.
 * Included by kern_body.h only, after kern_pointwise.h. */

static void k_affine(float *y, const float *x, float scale, float shift, size_t n)
{
    vf scalev = v_set1(scale), shiftv = v_set1(shift);
    for (size_t i = 0; i < n; i += 16) {
        size_t m = n - i < 16 ? n - i : 16;
        v_storen(y + i, v_fma(v_loadn(x + i, m), scalev, shiftv), m);
    }
}

/* x − mean, zero in lanes from m on */
static inline vf centred(const float *x, vf mean, size_t m)
{
    return v_keep(v_sub(v_loadn(x, m), mean), 0, (ptrdiff_t)m, 0.0f);
}

static void k_layernorm(float *y, float *stats, const float *x, const float *w, const float *b,
                        int32_t T, int32_t D, float eps)
{
    size_t width = (size_t)D;
    for (int32_t t = 0; t < T; t++, x += width, y += width) {
        vf sum = v_zero(), squares = v_zero();
        for (size_t i = 0; i < width; i += 16)
            sum = v_add(sum, v_loadn(x + i, width - i < 16 ? width - i : 16));
        float mean = v_sum(sum) / (float)D;
        vf meanv = v_set1(mean);
        for (size_t i = 0; i < width; i += 16) {
            vf v = centred(x + i, meanv, width - i < 16 ? width - i : 16);
            squares = v_fma(v, v, squares);
        }
        float r = 1.0f / sqrtf(v_sum(squares) / (float)D + eps);
        vf rv = v_set1(r);
        for (size_t i = 0; i < width; i += 16) {
            size_t m = width - i < 16 ? width - i : 16;
            vf v = v_mul(v_sub(v_loadn(x + i, m), meanv), rv);
            v_storen(y + i, v_fma(v, v_loadn(w + i, m), v_loadn(b + i, m)), m);
        }
        if (stats) {
            stats[2 * (size_t)t] = mean;
            stats[2 * (size_t)t + 1] = r;
        }
    }
}

/* dx += rstd·(g − mean(g) − x̂·mean(g·x̂)), g = w·dy, x̂ = (x − mean)·rstd */
static void k_layernorm_dx(float *dx, const float *dy, const float *x, const float *w,
                           const float *stats, int32_t T, int32_t D)
{
    size_t width = (size_t)D;
    for (int32_t t = 0; t < T; t++, x += width, dx += width, dy += width) {
        vf sum = v_zero(), dot = v_zero();
        vf mean = v_set1(stats[2 * (size_t)t]), rv = v_set1(stats[2 * (size_t)t + 1]);
        for (size_t i = 0; i < width; i += 16) {
            size_t m = width - i < 16 ? width - i : 16;
            vf g = v_mul(v_loadn(dy + i, m), v_loadn(w + i, m));
            sum = v_add(sum, g);
            dot = v_fma(g, v_mul(centred(x + i, mean, m), rv), dot);
        }
        vf mean_g = v_set1(v_sum(sum) / (float)D), mean_dot = v_set1(v_sum(dot) / (float)D);
        for (size_t i = 0; i < width; i += 16) {
            size_t m = width - i < 16 ? width - i : 16;
            vf g = v_sub(v_mul(v_loadn(dy + i, m), v_loadn(w + i, m)), mean_g);
            g = v_fnma(v_mul(v_sub(v_loadn(x + i, m), mean), rv), mean_dot, g);
            v_storen(dx + i, v_fma(g, rv, v_loadn(dx + i, m)), m);
        }
    }
}

static void k_layernorm_dw(float *dw, const float *dy, const float *x, const float *stats,
                           int32_t T, int32_t D, int32_t from, int32_t to)
{
    for (int32_t c = from; c < to; c += 16) {
        size_t n = to - c < 16 ? (size_t)(to - c) : 16;
        vf sum = v_loadn(dw + c, n);
        for (int32_t t = 0; t < T; t++) {
            size_t at = (size_t)t * (size_t)D + (size_t)c;
            vf v = v_sub(v_loadn(x + at, n), v_set1(stats[2 * (size_t)t]));
            sum = v_fma(v_mul(v, v_set1(stats[2 * (size_t)t + 1])), v_loadn(dy + at, n), sum);
        }
        v_storen(dw + c, sum, n);
    }
}

/* Below 0.3 the series, which keeps small numbers exact; above, 1 − 2/(e^2|x| + 1) with x's sign.
 * NaN stays NaN. */
static inline vf v_tanh(vf x)
{
    vf zero = v_zero(), q = v_mul(x, x), size = v_max(x, v_sub(zero, x));
    vf p = v_fma(v_set1(-0.008863235f), q, v_set1(0.021869488f));
    p = v_fma(p, q, v_set1(-0.053968254f));
    p = v_fma(p, q, v_set1(0.13333333f));
    p = v_fma(p, q, v_set1(-0.33333333f));
    vf small = v_fma(v_mul(p, q), x, x);
    vf e = v_exp(v_add(size, size));
    vf large = v_sub(v_set1(1.0f), v_div(v_set1(2.0f), v_add(e, v_set1(1.0f))));
    large = v_select_gt(zero, x, v_sub(zero, large), large);
    return v_select_gt(size, v_set1(0.3f), large, small);
}

/* Φ(x) by Abramowitz & Stegun 7.1.26, within 1e-7, and φ(x). */
static inline vf v_normal(vf x, vf *ret_density)
{
    vf zero = v_zero(), one = v_set1(1.0f), size = v_max(x, v_sub(zero, x));
    vf e = v_exp(v_mul(v_mul(x, x), v_set1(-0.5f)));
    /* t = 1 / (1 + p·|x|/√2) */
    vf t = v_div(one, v_fma(size, v_set1(0.23164189f), one));
    vf p = v_fma(v_set1(1.061405429f), t, v_set1(-1.453152027f));
    p = v_fma(p, t, v_set1(1.421413741f));
    p = v_fma(p, t, v_set1(-0.284496736f));
    p = v_fma(p, t, v_set1(0.254829592f));
    vf tail = v_mul(v_mul(v_mul(p, t), e), v_set1(0.5f));
    *ret_density = v_mul(e, v_set1(0.39894228f));
    return v_select_gt(x, zero, v_sub(one, tail), tail);
}

/* gelu(x), and its derivative */
static inline vf v_gelu(vf x, bool tanh, vf *ret_slope)
{
    vf one = v_set1(1.0f), half = v_set1(0.5f);
    if (!tanh) {
        vf density, share = v_normal(x, &density);
        *ret_slope = v_fma(x, density, share);
        return v_mul(x, share);
    }
    vf q = v_mul(x, x), root = v_set1(0.7978845608f);
    vf inner = v_mul(v_mul(root, x), v_fma(v_set1(0.044715f), q, one));
    vf h = v_tanh(inner), share = v_mul(half, v_add(one, h));
    vf d = v_mul(root, v_fma(v_set1(0.134145f), q, one));
    vf bend = v_mul(v_mul(half, x), v_mul(v_fnma(h, h, one), d));
    *ret_slope = v_add(share, bend);
    return v_mul(x, share);
}

static void k_gelu(float *y, const float *x, size_t n, bool tanh)
{
    for (size_t i = 0; i < n; i += 16) {
        size_t m = n - i < 16 ? n - i : 16;
        vf slope;
        v_storen(y + i, v_gelu(v_loadn(x + i, m), tanh, &slope), m);
    }
}

static void k_gelu_bwd(float *dx, const float *dy, const float *x, size_t n, bool tanh)
{
    for (size_t i = 0; i < n; i += 16) {
        size_t m = n - i < 16 ? n - i : 16;
        vf slope;
        (void)v_gelu(v_loadn(x + i, m), tanh, &slope);
        v_storen(dx + i, v_mul(v_loadn(dy + i, m), slope), m);
    }
}

static void k_geglu(float *y, const float *gu, int32_t T, int32_t F)
{
    size_t width = (size_t)F;
    for (int32_t t = 0; t < T; t++, y += width, gu += 2 * width)
        for (size_t i = 0; i < width; i += 16) {
            size_t n = width - i < 16 ? width - i : 16;
            vf slope, g = v_gelu(v_loadn(gu + i, n), true, &slope);
            v_storen(y + i, v_mul(g, v_loadn(gu + width + i, n)), n);
        }
}

static void k_geglu_bwd(float *dgu, const float *dy, const float *gu, int32_t T, int32_t F)
{
    size_t width = (size_t)F;
    for (int32_t t = 0; t < T; t++, dy += width, gu += 2 * width, dgu += 2 * width)
        for (size_t i = 0; i < width; i += 16) {
            size_t n = width - i < 16 ? width - i : 16;
            vf u = v_loadn(gu + width + i, n), d = v_loadn(dy + i, n);
            vf slope, g = v_gelu(v_loadn(gu + i, n), true, &slope);
            v_storen(dgu + i, v_mul(v_mul(d, u), slope), n);
            v_storen(dgu + width + i, v_mul(d, g), n);
        }
}

static void k_softcap(float *x, size_t n, float scale, float cap)
{
    vf scalev = v_set1(scale), capv = v_set1(cap);
    for (size_t i = 0; i < n; i += 16) {
        size_t m = n - i < 16 ? n - i : 16;
        vf v = v_div(v_mul(v_loadn(x + i, m), scalev), capv);
        v_storen(x + i, v_mul(capv, v_tanh(v)), m);
    }
}

static void k_softmax_bwd_capped(float *s, float *dp, size_t base, size_t n, size_t from, size_t to,
                                 float scale, float cap, float lse, float dsum)
{
    ptrdiff_t lo = (ptrdiff_t)from - (ptrdiff_t)base, hi = (ptrdiff_t)to - (ptrdiff_t)base;
    vf scalev = v_set1(scale), lsev = v_set1(lse), dsumv = v_set1(dsum), capv = v_set1(cap);
    for (size_t i = 0; i < n; i += 16) {
        ptrdiff_t at = (ptrdiff_t)i;
        vf h = v_tanh(v_div(v_mul(v_load(s + i), scalev), capv));
        vf p = v_keep(v_exp(v_sub(v_mul(capv, h), lsev)), lo - at, hi - at, 0.0f);
        vf slope = v_mul(v_fnma(h, h, v_set1(1.0f)), scalev);
        vf d = v_mul(v_mul(p, v_sub(v_load(dp + i), dsumv)), slope);
        v_store(s + i, p);
        v_store(dp + i, v_keep(d, lo - at, hi - at, 0.0f));
    }
}

static void k_row_softmax_scaled_capped(float *x, size_t n, float lse, float factor, float cap)
{
    vf lsev = v_set1(lse), factorv = v_set1(factor), capv = v_set1(cap);
    for (size_t i = 0; i < n; i += 16) {
        size_t m = n - i < 16 ? n - i : 16;
        vf v = v_loadn(x + i, m), share = v_div(v, capv);
        vf p = v_mul(v_exp(v_sub(v, lsev)), factorv);
        v_storen(x + i, v_mul(p, v_fnma(share, share, v_set1(1.0f))), m);
    }
}
