/* A module of another version (FAKE_INTERFACE), or with FAKE_NAME of no version at all: what the
 * tests of module.c load. */
#include "common/tensor/module.h"

#ifndef FAKE_NAME
#define FAKE_NAME spin_tensor_module
#endif

extern const struct tn_module FAKE_NAME;
const struct tn_module FAKE_NAME = {
    .interface = TN_MODULE_INTERFACE,
    .ops_bytes = sizeof(struct tn_ops) + FAKE_MORE,
    .version = "0.0.1",
};
