#!/usr/bin/env python3
"""Makes types.gguf, with a tensor of every type that is read, and types.safetensors, with what
llama.cpp's own `gguf` package (0.19.0) makes of them.

usage: make_types.py [DIRECTORY]     (needs gguf, numpy, safetensors)

Blocks are random bytes, so that every bit of a block matters; the scales, which are fp16, are drawn
from finite numbers with zeros, subnormals and negative ones among them. `…_in` tensors of
types.safetensors are fp32 and `…_out` in types.gguf what the package makes of them in a type that
is written.
"""

import pathlib
import sys

import gguf
import numpy as np
from gguf import GGMLQuantizationType as T, quants
from safetensors.numpy import save_file

# Where the fp16 numbers stand in a block.
SCALES = {
    T.Q4_0: [0], T.Q4_1: [0, 2], T.Q5_0: [0], T.Q5_1: [0, 2], T.Q8_0: [0], T.Q2_K: [80, 82],
    T.Q3_K: [108], T.Q4_K: [0, 2], T.Q5_K: [0, 2], T.Q6_K: [208], T.IQ4_NL: [0],
}


def scales(rng, count):
    values = rng.standard_normal(count).astype(np.float16)
    values[::7] = 0
    values[3::11] *= np.float16(2e-6)  # subnormal
    return values.view(np.uint8).reshape(count, 2)


def main():
    out = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else pathlib.Path(__file__).parent)
    rng = np.random.default_rng(7)
    writer = gguf.GGUFWriter(out / "types.gguf", "none")
    writer.add_uint8("a.u8", 255)
    writer.add_int8("a.i8", -128)
    writer.add_uint16("a.u16", 65535)
    writer.add_int16("a.i16", -32768)
    writer.add_uint32("a.u32", 2**32 - 1)
    writer.add_int32("a.i32", -(2**31))
    writer.add_uint64("a.u64", 2**63 - 1)
    writer.add_int64("a.i64", -(2**63))
    writer.add_float32("a.f32", 0.1)
    writer.add_float64("a.f64", 0.1)
    writer.add_bool("a.bool", True)
    writer.add_string("a.string", "é\n")
    writer.add_array("a.strings", ["", "one", "zwei", "三"])
    writer.add_array("a.ints", [1, -2, 3])
    writer.add_array("a.reals", [0.5, -0.25])
    expected = {}
    for qtype, places in SCALES.items():
        elements, size = gguf.GGML_QUANT_SIZES[qtype]
        blocks = 512 // elements
        data = rng.integers(0, 256, (blocks, size), dtype=np.uint8)
        for place in places:
            data[:, place:place + 2] = scales(rng, blocks)
        name = qtype.name.lower()
        rows = data.reshape(2, -1)
        writer.add_tensor(name, rows, raw_dtype=qtype)
        expected[name] = quants.dequantize(rows, qtype)
    # Every fp16 that is a number, and every 16th of the others.
    half = np.arange(65536, dtype=np.uint16).view(np.float16)
    half = np.ascontiguousarray(half[np.isfinite(half)][::5])
    writer.add_tensor("f16", half)
    expected["f16"] = half.astype(np.float32)
    brain = (np.arange(0, 0x7f80, 5, dtype=np.uint16)[:, None] | np.array([0, 0x8000], np.uint16))
    brain = np.ascontiguousarray(brain).reshape(2, 3, -1)
    writer.add_tensor("bf16", brain.view(np.uint8).reshape(2, 3, -1), raw_dtype=T.BF16)
    expected["bf16"] = quants.dequantize(brain.view(np.uint8), T.BF16).reshape(brain.shape)
    single = rng.standard_normal((3, 5)).astype(np.float32)
    writer.add_tensor("f32", single)
    expected["f32"] = single

    given = (rng.standard_normal((8, 64)) * np.exp2(rng.integers(-20, 4, (8, 64)))).astype(
        np.float32)
    given[0, :32] = 0
    given[1, :32] = rng.integers(-127, 128, 32)  # exactly halfway cases and whole numbers
    given[1, 0] = 127
    given[2, :32] = np.arange(32) - 15.5
    given[2, 0] = 127
    for qtype in (T.F16, T.BF16, T.Q8_0):
        name = qtype.name.lower()
        expected[name + "_in"] = given
        done = given.astype(np.float16) if qtype == T.F16 else quants.quantize(given, qtype)
        writer.add_tensor(name + "_out", done, raw_dtype=None if qtype == T.F16 else qtype)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    save_file(expected, out / "types.safetensors")


main()
