/* kern_pointwise: norms, rotations, activations, optimizer steps. Included by kern_body.h only. */

static void k_add(float *y, const float *x, size_t n)
{
    size_t i = 0;
    for (; i + 16 <= n; i += 16)
        v_store(y + i, v_add(v_load(y + i), v_load(x + i)));
    if (i < n)
        v_storen(y + i, v_add(v_loadn(y + i, n - i), v_loadn(x + i, n - i)), n - i);
}

static void k_exp(float *y, const float *x, size_t n)
{
    size_t i = 0;
    for (; i + 16 <= n; i += 16)
        v_store(y + i, v_exp(v_load(x + i)));
    if (i < n)
        v_storen(y + i, v_exp(v_loadn(x + i, n - i)), n - i);
}

static float k_dot(const float *a, const float *b, size_t n)
{
    vf sum = v_zero();
    size_t i = 0;
    for (; i + 16 <= n; i += 16)
        sum = v_fma(v_load(a + i), v_load(b + i), sum);
    if (i < n)
        sum = v_fma(v_loadn(a + i, n - i), v_loadn(b + i, n - i), sum);
    return v_sum(sum);
}

static void k_rmsnorm(float *y, float *rstd, const float *x, const float *w, int32_t T, int32_t D,
                      float eps)
{
    size_t width = (size_t)D, full = width & ~(size_t)15, rest = width - full;
    for (int32_t t = 0; t < T; t++, x += width, y += width) {
        float r = 1.0f / sqrtf(k_dot(x, x, width) / (float)D + eps);
        vf rv = v_set1(r);
        for (size_t i = 0; i < full; i += 16)
            v_store(y + i, v_mul(v_mul(v_load(x + i), rv), v_load(w + i)));
        if (rest) {
            vf v = v_mul(v_mul(v_loadn(x + full, rest), rv), v_loadn(w + full, rest));
            v_storen(y + full, v, rest);
        }
        if (rstd)
            rstd[t] = r;
    }
}

/* dx += rstd·(w·dy − x·rstd²/D·Σ w·dy·x) */
static void k_rmsnorm_dx(float *dx, const float *dy, const float *x, const float *w,
                         const float *rstd, int32_t T, int32_t D)
{
    size_t width = (size_t)D, full = width & ~(size_t)15, rest = width - full;
    for (int32_t t = 0; t < T; t++, x += width, dx += width, dy += width) {
        vf sum = v_zero();
        for (size_t i = 0; i < full; i += 16)
            sum = v_fma(v_mul(v_load(dy + i), v_load(w + i)), v_load(x + i), sum);
        if (rest)
            sum = v_fma(v_mul(v_loadn(dy + full, rest), v_loadn(w + full, rest)),
                        v_loadn(x + full, rest), sum);
        float r = rstd[t];
        vf rv = v_set1(r), scale = v_set1(v_sum(sum) * r * r / (float)D);
        for (size_t i = 0; i < full; i += 16) {
            vf inner = v_mul(v_load(dy + i), v_load(w + i));
            inner = v_fnma(scale, v_load(x + i), inner);
            v_store(dx + i, v_fma(inner, rv, v_load(dx + i)));
        }
        if (rest) {
            vf inner = v_mul(v_loadn(dy + full, rest), v_loadn(w + full, rest));
            inner = v_fnma(scale, v_loadn(x + full, rest), inner);
            v_storen(dx + full, v_fma(inner, rv, v_loadn(dx + full, rest)), rest);
        }
    }
}

static void k_rmsnorm_dw(float *dw, const float *dy, const float *x, const float *rstd, int32_t T,
                         int32_t D, int32_t from, int32_t to)
{
    for (int32_t c = from; c < to; c += 16) {
        size_t n = to - c < 16 ? (size_t)(to - c) : 16;
        vf sum = v_loadn(dw + c, n);
        for (int32_t t = 0; t < T; t++) {
            size_t at = (size_t)t * (size_t)D + (size_t)c;
            sum = v_fma(v_mul(v_loadn(x + at, n), v_set1(rstd[t])), v_loadn(dy + at, n), sum);
        }
        v_storen(dw + c, sum, n);
    }
}

static inline void rope_lanes(float *lo, float *hi, const float *cos, const float *sin, size_t n,
                              vf sign)
{
    vf a = v_loadn(lo, n), b = v_loadn(hi, n);
    vf c = v_loadn(cos, n), s = v_mul(v_loadn(sin, n), sign);
    v_storen(lo, v_fnma(b, s, v_mul(a, c)), n);
    v_storen(hi, v_fma(a, s, v_mul(b, c)), n);
}

static void k_rope(float *x, int32_t T, int32_t heads, int32_t C, int32_t stride,
                   const int32_t *positions, const float *cos, const float *sin, bool inverse,
                   int32_t rotary)
{
    size_t half = (size_t)rotary / 2;
    vf sign = v_set1(inverse ? -1.0f : 1.0f);
    for (int32_t t = 0; t < T; t++) {
        const float *c = cos + (size_t)positions[t] * half, *s = sin + (size_t)positions[t] * half;
        for (int32_t h = 0; h < heads; h++) {
            float *lo = x + (size_t)t * (size_t)stride + (size_t)h * (size_t)C;
            for (size_t i = 0; i < half; i += 16)
                rope_lanes(lo + i, lo + half + i, c + i, s + i, half - i < 16 ? half - i : 16,
                           sign);
        }
    }
}

static inline vf v_sigmoid(vf g)
{
    return v_div(v_set1(1.0f), v_add(v_set1(1.0f), v_exp(v_sub(v_zero(), g))));
}

static void k_swiglu(float *y, const float *gu, int32_t T, int32_t F)
{
    size_t width = (size_t)F;
    for (int32_t t = 0; t < T; t++, y += width, gu += 2 * width)
        for (size_t i = 0; i < width; i += 16) {
            size_t n = width - i < 16 ? width - i : 16;
            vf g = v_loadn(gu + i, n), u = v_loadn(gu + width + i, n);
            v_storen(y + i, v_mul(v_mul(g, v_sigmoid(g)), u), n);
        }
}

static void k_swiglu_bwd(float *dgu, const float *dy, const float *gu, int32_t T, int32_t F)
{
    size_t width = (size_t)F;
    vf one = v_set1(1.0f);
    for (int32_t t = 0; t < T; t++, dy += width, gu += 2 * width, dgu += 2 * width)
        for (size_t i = 0; i < width; i += 16) {
            size_t n = width - i < 16 ? width - i : 16;
            vf g = v_loadn(gu + i, n), u = v_loadn(gu + width + i, n), d = v_loadn(dy + i, n);
            vf s = v_sigmoid(g);
            /* silu'(g) = s·(1 + g·(1 − s)) */
            vf slope = v_mul(s, v_fma(g, v_sub(one, s), one));
            v_storen(dgu + i, v_mul(v_mul(d, u), slope), n);
            v_storen(dgu + width + i, v_mul(d, v_mul(g, s)), n);
        }
}

static double k_sum_squares(const float *x, size_t n)
{
    double lane[16] = {0};
    size_t i = 0;
    for (; i + 16 <= n; i += 16)
        for (int l = 0; l < 16; l++)
            lane[l] += (double)x[i + (size_t)l] * (double)x[i + (size_t)l];
    for (int l = 0; i < n; i++, l++)
        lane[l] += (double)x[i] * (double)x[i];
    for (int width = 8; width > 0; width /= 2)
        for (int l = 0; l < width; l++)
            lane[l] += lane[l + width];
    return lane[0];
}

static void k_rmsprop(float *w, const float *g, float *v, size_t n, const struct tn_rmsprop *o)
{
    vf lr = v_set1(o->lr), alpha = v_set1(o->alpha), rest = v_set1(1.0f - o->alpha);
    vf eps = v_set1(o->eps), decay = v_set1(o->weight_decay), scale = v_set1(o->g_scale);
    for (size_t i = 0; i < n; i += 16) {
        size_t m = n - i < 16 ? n - i : 16;
        vf wi = v_loadn(w + i, m), gi = v_mul(v_loadn(g + i, m), scale);
        gi = v_fma(decay, wi, gi);
        vf vi = v_fma(v_mul(gi, gi), rest, v_mul(alpha, v_loadn(v + i, m)));
        v_storen(v + i, vi, m);
        vf step = v_div(v_mul(lr, gi), v_add(v_sqrt(vi), eps));
        v_storen(w + i, v_sub(wi, step), m);
    }
}

static void k_adamw(float *w, const float *g, float *m, float *v, size_t n,
                    const struct tn_adamw *o, float correction1, float correction2)
{
    vf b1 = v_set1(o->beta1), b2 = v_set1(o->beta2), scale = v_set1(o->g_scale);
    vf r1 = v_set1(1.0f - o->beta1), r2 = v_set1(1.0f - o->beta2), eps = v_set1(o->eps);
    vf keep = v_set1(1.0f - o->lr * o->weight_decay), rate = v_set1(o->lr / correction1);
    vf root2 = v_set1(sqrtf(correction2));
    for (size_t i = 0; i < n; i += 16) {
        size_t k = n - i < 16 ? n - i : 16;
        vf gi = v_mul(v_loadn(g + i, k), scale);
        vf mi = v_fma(gi, r1, v_mul(b1, v_loadn(m + i, k)));
        vf vi = v_fma(v_mul(gi, gi), r2, v_mul(b2, v_loadn(v + i, k)));
        v_storen(m + i, mi, k);
        v_storen(v + i, vi, k);
        vf step = v_div(v_mul(rate, mi), v_add(v_div(v_sqrt(vi), root2), eps));
        v_storen(w + i, v_sub(v_mul(v_loadn(w + i, k), keep), step), k);
    }
}
