#!/usr/bin/env python3
"""Writes logprobs.jsonl and generate.jsonl: what Hugging Face transformers computes, in fp32, on
TinyStories-656K for 20 texts. Needs torch and transformers. The ids are those of the tokenizers
package for tokenizer.json: transformers 5 builds another tokenizer for this model's class.

    make_fixtures.py path/to/TinyStories-656K-hf
"""
import json
import os
import sys

import tokenizers
import torch
import transformers

HERE = os.path.dirname(os.path.abspath(__file__))
PROMPTS = [
    "Once upon a time", "One day, a little girl named Lily", "Tom had a big red ball.",
    "The sun was hot and", "\"Can I play with you?\" asked the cat.", "There was a tree in the park",
    "Mom said, \"It is time to eat.\"", "A small dog", "Ben and Mia went to the zoo.",
    "It was a rainy day", "The bird wanted to fly, but", "Sam found a box. Inside the box",
    "In a far away land,\nthere lived a king", "Anna likes to draw", "The frog jumped",
    "He had 3 apples and 2 pears", "Caf\u00e9, na\u00efve, \u20ac5!", "Max was sad because",
    "They all laughed and", "The moon was bright",
]
RESPONSES = [
    ", there was a boy named Tim. He liked to run.", " went to the park with her mom.",
    "He threw it up, up, up!", " the fish was cold. The end.", "\"Yes,\" said the dog. They played.",
    ". It was very tall. Birds lived in it.", "But Tim did not want to eat.",
    " ran after a cat.\n\nThe cat was fast.", "They saw a lion and a bear.", ". Sue had no hat.",
    " it was too small.", " was a toy car.", " who had a gold hat.", ". She drew a big blue house.",
    " into the water. Splash!", ". He gave 1 apple to Sue.", " \u4f60\u597d \U0001f600 ok.",
    " he lost his toy. His mom helped him find it.", " went home. They were happy.",
    " and the stars were too. Good night, moon.",
]
MAX_NEW_TOKENS = 60


def main():
    model_dir = sys.argv[1]
    tokenizer = tokenizers.Tokenizer.from_file(os.path.join(model_dir, "tokenizer.json"))
    model = transformers.AutoModelForCausalLM.from_pretrained(model_dir, dtype=torch.float32)
    model.eval()
    eos = model.config.eos_token_id
    with open(os.path.join(HERE, "logprobs.jsonl"), "w") as out:
        for prompt, response in zip(PROMPTS, RESPONSES):
            x = tokenizer.encode(prompt).ids
            y = tokenizer.encode(response, add_special_tokens=False).ids + [eos]
            ids = x + y
            with torch.no_grad():
                logits = model(torch.tensor([ids])).logits[0].double()
            logprobs = torch.log_softmax(logits, -1)
            values = [round(logprobs[i - 1, ids[i]].item(), 7) for i in range(len(x), len(ids))]
            out.write(json.dumps({"prompt": prompt, "response": response, "token_ids": ids,
                                  "logprobs": values}) + "\n")
    with open(os.path.join(HERE, "generate.jsonl"), "w") as out:
        for prompt in PROMPTS:
            x = torch.tensor([tokenizer.encode(prompt).ids])
            y = model.generate(x, do_sample=False, max_new_tokens=MAX_NEW_TOKENS)
            out.write(json.dumps({"prompt": prompt, "ids": y[0, x.shape[1]:].tolist()}) + "\n")


if __name__ == "__main__":
    main()
