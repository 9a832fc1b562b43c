/* Floating-point operations that a batch needs, whatever is really done. */
#include "common/base/mem.h"
#include "common/model/forward.h"

/* Keys that the queries of positions [from, to) see together. */
static double seen(int32_t from, int32_t to, int32_t window)
{
    double keys = 0;
    for (int32_t i = from; i < to; i++)
        keys += window > 0 ? SP_MIN(i + 1, window) : i + 1;
    return keys;
}

double model_forward_flops(const struct model_config *c, const struct tn_segment *segments,
                           int32_t n_segments, int32_t head_rows)
{
    double hc = (double)c->heads * c->head_size, kv = (double)c->kv_heads * c->head_size;
    double ffn = (double)(model_config_ffn_width(c) + c->ffn);
    double layer = 2.0 * c->hidden * (2 * hc + 2 * kv + ffn), flops = 0;
    for (int32_t i = 0; i < n_segments; i++) {
        const struct tn_segment *s = &segments[i];
        flops += layer * c->layers * ((double)s->prompt + s->a + s->b);
        for (int32_t l = 0; l < c->layers; l++) {
            int32_t w = model_config_window(c, l);
            flops += 4 * hc * (seen(0, s->prompt + s->a, w) + seen(s->prompt, s->prompt + s->b, w));
        }
    }
    return flops + 2.0 * head_rows * c->hidden * c->vocab;
}
