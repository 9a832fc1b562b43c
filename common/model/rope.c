#include <math.h>

#include "common/base/mem.h"
#include "common/model/dmath.h"
#include "common/model/workspace_impl.h"

/* Meta's smooth passage between frequencies that stay and those that are divided, in fp32 and in
 * the order of transformers' _compute_llama3_parameters. */
static float llama3_frequency(float frequency, const struct model_rope_scaling *s)
{
    const float two_pi = 6.283185307f;
    float old = (float)s->original, low = (float)s->low_freq, high = (float)s->high_freq;
    float factor = (float)s->factor, length = two_pi / frequency;
    if (length > old / low)
        return frequency / factor;
    if (length < old / high)
        return frequency;
    float smooth = (old / length - low) / (high - low);
    return (1.0f - smooth) * frequency / factor + smooth * frequency;
}

/* Of R / 2 frequencies the one that turns so often within the original context. */
static double yarn_place(const struct model_config *c, double turns, int32_t rotary)
{
    const double two_pi = 6.283185307179586;
    return rotary * model_log(c->scaling.original / (turns * two_pi)) /
           (2 * model_log(c->rope_theta));
}

/* YaRN (arXiv 2309.00071), in fp32 and in the order of transformers' _compute_yarn_parameters. */
static float yarn_frequency(const struct model_config *c, int32_t i, int32_t rotary, float power)
{
    const struct model_rope_scaling *s = &c->scaling;
    double low = yarn_place(c, s->beta_fast, rotary), high = yarn_place(c, s->beta_slow, rotary);
    if (s->truncate) {
        low = floor(low);
        high = ceil(high);
    }
    low = SP_MAX(low, 0);
    high = SP_MIN(high, rotary - 1);
    if (low == high)
        high += 0.001;
    float ramp = ((float)i - (float)low) / (float)(high - low);
    float kept = 1.0f - SP_MIN(SP_MAX(ramp, 0.0f), 1.0f);
    return 1.0f / ((float)s->factor * power) * (1.0f - kept) + 1.0f / power * kept;
}

/* theta^(−2i/R), scaled */
static float frequency_of(const struct model_config *c, bool local, int32_t i, int32_t rotary)
{
    const struct model_rope_scaling *s = &c->scaling;
    float power =
        (float)model_pow(local ? c->local_theta : c->rope_theta, (double)(2 * i) / rotary);
    if (!local && s->type == MODEL_ROPE_LONGROPE)
        power = (float)s->short_factor[i] * power;
    if (!local && s->type == MODEL_ROPE_YARN)
        return yarn_frequency(c, i, rotary, power);
    float frequency = 1.0f / power;
    if (!local && s->type == MODEL_ROPE_LINEAR)
        return frequency / (float)s->factor;
    if (!local && s->type == MODEL_ROPE_LLAMA3)
        return llama3_frequency(frequency, s);
    return frequency;
}

int32_t model_rope_width(const struct model_config *c)
{
    if (c->traits.learned_positions)
        return 0;
    return c->rotary > 0 ? c->rotary : c->head_size;
}

void model_rope_tables(const struct model_config *c, bool local, int32_t n, float *cos, float *sin)
{
    int32_t rotary = model_rope_width(c), half = rotary / 2;
    float scale =
        local || c->scaling.attention_factor <= 0 ? 1.0f : (float)c->scaling.attention_factor;
    for (int32_t i = 0; i < half; i++) {
        float frequency = frequency_of(c, local, i, rotary);
        for (int32_t p = 0; p < n; p++) {
            float angle = (float)p * frequency;
            double s, co;
            model_sincos(angle, &s, &co);
            cos[(size_t)p * (size_t)half + (size_t)i] = (float)co * scale;
            sin[(size_t)p * (size_t)half + (size_t)i] = (float)s * scale;
        }
    }
}

bool model_rope_upload(struct tn_backend *b, const struct model_config *c, int32_t n,
                       float *const tables[MODEL_ROPE_TABLES])
{
    size_t floats = (size_t)n * (size_t)model_rope_width(c) / 2;
    if (floats == 0)
        return true;
    float *host = sp_alloc_block(2 * floats, sizeof(float));
    if (!host)
        return false;
    for (int local = 0; local < (c->local_theta > 0 ? 2 : 1); local++) {
        model_rope_tables(c, local, n, host, host + floats);
        b->ops->upload(b, tables[2 * local], host, floats * sizeof(float));
        b->ops->upload(b, tables[2 * local + 1], host + floats, floats * sizeof(float));
    }
    sp_free_block(host);
    return true;
}
