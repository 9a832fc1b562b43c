#!/usr/bin/env python3
"""Holds `spin-model convert` to llama.cpp for every family: small random models of transformers go to
GGUF, where llama.cpp has to compute the same, and back, where transformers has to.

usage: check_families.py SPIN_MODEL DIRECTORY [NAME ...]
       (needs torch, transformers, llama-cpp-python; the models of ../model/make_arch_fixtures.py)

Prints for each model the largest difference of a log-probability in llama.cpp and, after the way
back, of a logit in transformers; or why it can't be written as GGUF. llama.cpp's GELU is the tanh
form by a table of fp16 numbers, so families with a GELU differ more; greedy tokens are
compared, too. Exits 1 when a difference is above its bound.
"""

import json
import os
import pathlib
import shutil
import subprocess
import sys

import llama_cpp
import numpy as np
import torch
from transformers import AutoModelForCausalLM

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "model"))
import make_arch_fixtures as fixtures  # noqa: E402

LENGTH, TOKENS = 40, 24
GELU = ("gemma", "gpt", "neox")


def run(*command):
    done = subprocess.run([str(c) for c in command], capture_output=True, text=True)
    return done.returncode, done.stderr.strip()


def with_llama_cpp(path, ids, tokens):
    """Log-probabilities (LENGTH, V) of the ids' rows, and greedy ids behind them."""
    model = llama_cpp.Llama(str(path), n_ctx=128, logits_all=True, verbose=False, n_threads=1,
                            n_threads_batch=1, flash_attn=False, type_k=llama_cpp.GGML_TYPE_F32,
                            type_v=llama_cpp.GGML_TYPE_F32)
    model.eval(ids)
    logits = torch.tensor(np.array(model.scores[: len(ids)]))
    last, answer = logits[-1], []
    for _ in range(tokens):
        answer.append(int(last.argmax()))
        model.eval([answer[-1]])
        last = torch.tensor(np.array(model.scores[model.n_tokens - 1]))
    model.close()
    return torch.log_softmax(logits.double(), -1), answer


def with_transformers(model, ids, tokens):
    with torch.no_grad():
        logits = model(torch.tensor([ids])).logits[0].double()
        answer, all_ids = [], list(ids)
        for _ in range(tokens):
            answer.append(int(model(torch.tensor([all_ids])).logits[0, -1].argmax()))
            all_ids.append(answer[-1])
    return torch.log_softmax(logits, -1), answer


def check(tool, work, name, tokenizer):
    # Models whose name has "phi3" in it must have some tokens of Phi-3, says llama.cpp.
    path = name.replace("phi3", "phi-small")
    folder, file, back = work / path, work / f"{path}.gguf", work / f"{path}-back"
    for path in (folder, back):
        shutil.rmtree(path, ignore_errors=True)
    file.unlink(missing_ok=True)
    model = fixtures.randomize(dict(fixtures.MODELS, **fixtures.MORE)[name](), 23)
    model.save_pretrained(folder)
    for item in tokenizer.glob("token*.json"):
        shutil.copy(item, folder)
    code, message = run(tool, "convert", folder, file)
    if code:
        print(f"{name}: refused: {message}")
        return True
    code, message = run(tool, "convert", file, back)
    assert code == 0, message
    vocab = model.config.vocab_size
    # A window that GGUF has no word for has shortened the context.
    config = json.load(open(back / "config.json"))
    length = min(LENGTH, config.get("max_position_embeddings") or config["n_positions"])
    if name == "phi3":  # llama.cpp leaves out the window of Phi-3
        length = model.config.sliding_window
    ids = torch.randint(3, vocab, (length,), generator=torch.Generator().manual_seed(3)).tolist()
    tokens = TOKENS if length == LENGTH else 0
    ours, greedy = with_transformers(model, ids, tokens)
    theirs, answer = with_llama_cpp(file, ids, tokens)
    difference = (ours - theirs).abs().max().item()
    same = sum(a == b for a, b in zip(greedy, answer))
    again = AutoModelForCausalLM.from_pretrained(back, attn_implementation="eager",
                                                 dtype=torch.float32).eval()
    with torch.no_grad():
        there = model(torch.tensor([ids])).logits
        returned = (again(torch.tensor([ids])).logits - there).abs().max().item()
    bound = 0.05 if name.startswith(GELU) else 2e-3
    good = difference < bound and returned < 1e-5
    print(f"{name}: llama.cpp {difference:.2g}, {same} of {tokens} greedy tokens; back {returned:.2g}"
          f"{'' if good else '   TOO MUCH'}", flush=True)
    return good


def main():
    tool, work = pathlib.Path(sys.argv[1]).resolve(), pathlib.Path(sys.argv[2])
    work.mkdir(parents=True, exist_ok=True)
    tokenizer = work / "tokenizer"
    shutil.rmtree(tokenizer, ignore_errors=True)
    code, message = run(tool, "convert", HERE / "spm.gguf", tokenizer)
    assert code == 0, message
    fixtures.VOCAB = json.load(open(tokenizer / "config.json"))["vocab_size"]
    fixtures.SHAPE["vocab_size"] = fixtures.VOCAB
    torch.manual_seed(0)
    good = True
    names = [*fixtures.MODELS, *fixtures.MORE]
    # Its frequencies change at 96 positions, and llama.cpp has no context below 256.
    names.remove("phi3-longrope")
    for name in sys.argv[3:] or names:
        try:
            good &= check(tool, work, name, tokenizer)
        except ValueError as error:
            print(f"{name}: {error}")
            good = False
    sys.exit(not good)


os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
main()
