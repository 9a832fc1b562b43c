#!/usr/bin/env python3
"""Opens what tests/e2e/test_smollm2.c left in SPIN_SMOLLM2_OUT: the trained checkpoint in transformers and
its GGUF file in llama.cpp, which have to say the same.

usage: check_trained.py DIRECTORY     (needs numpy, torch, transformers, llama-cpp-python)

Prints the largest difference of a log-probability over a prompt, and both greedy answers; exits 1 when
the answers differ or a difference is above 1e-3.
"""

import pathlib
import sys

import llama_cpp
import numpy as np
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

QUESTION = "Tom has 3 apples and buys 4 more. How many apples does he have?"
TOKENS = 24


def main():
    folder = pathlib.Path(sys.argv[1])
    tokenizer = AutoTokenizer.from_pretrained(folder / "trained")
    text = tokenizer.apply_chat_template([{"role": "user", "content": QUESTION}], tokenize=False,
                                         add_generation_prompt=True)
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    model = AutoModelForCausalLM.from_pretrained(folder / "trained", dtype=torch.float32).eval()
    with torch.no_grad():
        ours = torch.log_softmax(model(torch.tensor([ids])).logits[0].double(), -1)
        answer = model.generate(torch.tensor([ids]), max_new_tokens=TOKENS, do_sample=False)
    answer = answer[0, len(ids):].tolist()
    other = llama_cpp.Llama(str(folder / "trained.gguf"), n_ctx=512, logits_all=True, verbose=False,
                            flash_attn=False, type_k=llama_cpp.GGML_TYPE_F32,
                            type_v=llama_cpp.GGML_TYPE_F32)
    assert other.tokenize(text.encode(), add_bos=False, special=True) == ids
    other.eval(ids)
    theirs = torch.log_softmax(torch.tensor(np.array(other.scores[: len(ids)])).double(), -1)
    worst, again = (ours - theirs).abs().max().item(), []
    while len(again) < len(answer):
        again.append(int(other.scores[other.n_tokens - 1].argmax()))
        other.eval([again[-1]])
    print(f"log-probabilities differ by {worst:.2g} over {len(ids)} tokens")
    print("transformers:", repr(tokenizer.decode(answer)))
    print("llama.cpp:   ", repr(tokenizer.decode(again)))
    sys.exit(not (worst < 1e-3 and answer == again))


main()
