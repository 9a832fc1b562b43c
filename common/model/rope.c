#include "common/model/dmath.h"
#include "common/model/workspace_impl.h"

void model_rope_tables(double theta, int32_t head_size, int32_t n, float *cos, float *sin)
{
    int32_t half = head_size / 2;
    for (int32_t i = 0; i < half; i++) {
        float power = (float)model_pow(theta, (double)(2 * i) / head_size);
        float frequency = 1.0f / power;
        for (int32_t p = 0; p < n; p++) {
            float angle = (float)p * frequency;
            double s, c;
            model_sincos(angle, &s, &c);
            cos[(size_t)p * (size_t)half + (size_t)i] = (float)c;
            sin[(size_t)p * (size_t)half + (size_t)i] = (float)s;
        }
    }
}
