#!/usr/bin/env python3
"""Makes uclaml.json: what the code of the SPIN authors trains on and samples behind, as texts and as
token ids. Needs jinja2 and tokenizers.

usage: make_uclaml_fixture.py DIR_OF_LLAMA2_TOKENIZER > uclaml.json

Source: github.com/uclaml/SPIN (Apache-2.0): DEFAULT_CHAT_TEMPLATE and apply_chat_template of
spin/alignment/data.py (run_spin.py has the same), tokenize_batch_element of spin/alignment/utils.py,
the prompt and the clean-up of spin/generate.py. Templates are rendered with the settings that
transformers uses (trim_blocks, lstrip_blocks).
"""

import json
import re
import sys

from jinja2.sandbox import ImmutableSandboxedEnvironment
from tokenizers import Tokenizer

CHAT_TEMPLATE = "{% for message in messages %}\n{% if message['role'] == 'user' %}\n{{ '<|user|>\n' + message['content'] + eos_token }}\n{% elif message['role'] == 'system' %}\n{{ '<|system|>\n' + message['content'] + eos_token }}\n{% elif message['role'] == 'assistant' %}\n{{ '<|assistant|>\n'  + message['content'] + eos_token }}\n{% endif %}\n{% if loop.last and add_generation_prompt %}\n{{ '<|assistant|>' }}\n{% endif %}\n{% endfor %}"
EOS, EOS_ID = "</s>", 2

EXAMPLES = [
    # system, prompt, human answer, what the model sampled (as decoded, special tokens in it)
    (None, "How many legs has a spider?", "Eight.", "It has eight legs.</s>"),
    (None, "Two lines\nof a question?  ", "  An answer with\n\nspace around. ", "\n\n  cut at the lim"),
    ("Be brief.", "Grüße — wie heißt du?", "Ich heiße Ada ☂.", " Ada</s></s>"),
    (None, "What is 17 + 25?", "17 + 25 = 42", "</s>"),
]


def render(messages, add_generation_prompt=False):
    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    return environment.from_string(CHAT_TEMPLATE).render(
        messages=messages, eos_token=EOS, add_generation_prompt=add_generation_prompt)


def apply_chat_template(example, assistant_prefix="<|assistant|>\n"):
    def strip_prefix(text):
        return re.sub(f"^{re.escape(assistant_prefix)}", "", text)

    prompt = [[m for m in example["real"] if m["role"] == "user"][0]]
    if example["real"][0]["role"] != "system":
        prompt.insert(0, {"role": "system", "content": ""})
        rest = 1
    else:
        prompt.insert(0, example["real"][0])
        rest = 2  # theirs is 1, which would leave the prompt in the answer
    return (render(prompt, True), strip_prefix(render(example["real"][rest:])),
            strip_prefix(render(example["generated"][rest:])))


def main():
    tokenizer = Tokenizer.from_file(f"{sys.argv[1]}/tokenizer.json")

    def ids(text):
        return tokenizer.encode(text, add_special_tokens=False).ids

    rows = []
    for system, prompt, answer, sampled in EXAMPLES:
        generated = sampled.replace(EOS, "").lstrip()
        before = ([{"role": "system", "content": system}] if system else []) + [
            {"role": "user", "content": prompt}]
        example = {"real": before + [{"role": "assistant", "content": answer}],
                   "generated": before + [{"role": "assistant", "content": generated}]}
        text_prompt, text_real, text_generated = apply_chat_template(example)
        text_sample = "### Instruction: " + prompt + "\n\n### Response: "
        rows.append({
            "system": system, "prompt": prompt, "answer": answer, "sampled": sampled,
            "generated": generated,
            "text_prompt": text_prompt, "text_real": text_real, "text_generated": text_generated,
            "text_sample": text_sample,
            "prompt_ids": ids(text_prompt), "real_ids": ids(text_real) + [EOS_ID],
            "generated_ids": ids(text_generated) + [EOS_ID], "sample_ids": ids(text_sample),
        })
    json.dump({"eos": EOS, "eos_id": EOS_ID, "rows": rows}, sys.stdout, indent=1, ensure_ascii=False)
    print()


if __name__ == "__main__":
    main()
