/* The kernels, as the host runs them. */
#include "tests/gpu/emulate.h"

#include "common/tensor/cuda/attention.cu"
#include "common/tensor/cuda/attention_bwd.cu"
#include "common/tensor/cuda/fast_logits.cu"
#include "common/tensor/cuda/fast_norms.cu"
#include "common/tensor/cuda/fast_pointwise.cu"
#include "common/tensor/cuda/fast_tables.cu"
#include "common/tensor/cuda/logits.cu"
#include "common/tensor/cuda/norms.cu"
#include "common/tensor/cuda/pointwise.cu"
#include "common/tensor/cuda/products.cu"
#include "common/tensor/cuda/sample.cu"
