#!/usr/bin/env python3
"""Makes the fixtures of tests/unit/text/test_tokenizer_golden.c with the `tokenizers` package.

    python3 tests/golden/text/make_fixture.py [SHARED_DATA]

NAME.json is a small tokenizer made here, NAME.jsonl random texts with the ids that the package gives
them (without and with special tokens) and the text that it decodes from the latter, special tokens
left out. With SHARED_DATA also texts for tokenizers of that folder, which are not copied.
"""
import json
import os
import random
import sys

from tokenizers import Tokenizer

from compare import generated, random_text

HERE = os.path.dirname(os.path.abspath(__file__))
KEPT = ["byte-level", "gpt4 split", "falcon", "spm", "spm single unk", "spm metaspace first",
        "suffix", "prefix", "split merged_with_next True", "unigram bytes"]
SHARED = {"tinystories": "models/TinyStories-656K-hf", "gpt2": "tokenizers/gpt2-hf",
          "llama2": "tokenizers/llama2-hf-derived", "llama3": "tokenizers/llama3-hf",
          "qwen3": "tokenizers/qwen3-hf"}


def write_texts(name, tokenizer, count):
    rng = random.Random(name)
    odd = {i for i, a in tokenizer.get_added_tokens_decoder().items() if a.normalized}
    with open(os.path.join(HERE, name + ".jsonl"), "w", encoding="utf-8") as out:
        while count > 0:
            text = random_text(rng)
            if "\x00" in text or len(text) > 400:
                continue
            special = tokenizer.encode(text).ids
            row = {"text": text, "ids": tokenizer.encode(text, add_special_tokens=False).ids,
                   "special": special}
            # The package decodes normalized added tokens in a way of its own; see compare.py.
            if not odd.intersection(special):
                row["decoded"] = tokenizer.decode(special)
            out.write(json.dumps(row, ensure_ascii=False, separators=(",", ":")) + "\n")
            count -= 1


def main():
    for name, tokenizer in generated(560):
        if name in KEPT:
            name = name.replace(" ", "-").replace("_", "-").lower()
            with open(os.path.join(HERE, name + ".json"), "w", encoding="utf-8") as out:
                out.write(tokenizer.to_str() + "\n")
            write_texts(name, tokenizer, 60)
    for name, folder in SHARED.items() if len(sys.argv) > 1 else ():
        path = os.path.join(sys.argv[1], folder, "tokenizer.json")
        write_texts("shared-" + name, Tokenizer.from_file(path), 80)


if __name__ == "__main__":
    main()
