/* padding: compiles only when no kernel's arguments have bytes that belong to no member: a pass is
 * taken for the one before when its arguments are the same memory (device_pass.h), and such bytes
 * hold anything. */
#include <stddef.h>
#include <stdint.h>

#pragma GCC diagnostic error "-Wpadded"
#include "common/tensor/cuda/fast.h"
#include "common/tensor/cuda/flash.h"
#include "common/tensor/cuda/flash_bwd.h"
#include "common/tensor/cuda/kernels.h"
#include "common/tensor/cuda/optimizers.h"
#include "common/tensor/cuda/products_typed.h"
