#!/usr/bin/env python3
"""Makes chat.jsonl: templates as models carry them, rendered by Jinja2 as transformers does.

    python3 tests/golden/text/make_chat_fixture.py

A row: the template's name here, its Jinja text, conversations with what they render to (the prompt
with the header of the answer; and with the answer behind it), and the ids of the latter by
chat-tokenizer.json, a tokenizer of bytes and special tokens that is made here too.
"""
import json
import os

from jinja2.sandbox import ImmutableSandboxedEnvironment
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

TEMPLATES = {
    "chatml": "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n' + "
              "message['content'] + '<|im_end|>' + '\n'}}{% endfor %}{% if add_generation_prompt %}"
              "{{ '<|im_start|>assistant\n' }}{% endif %}",
    "zephyr": "{% for message in messages %}\n{% if message['role'] == 'user' %}\n{{ '<|user|>\n' + "
              "message['content'] + eos_token }}\n{% elif message['role'] == 'system' %}\n"
              "{{ '<|system|>\n' + message['content'] + eos_token }}\n"
              "{% elif message['role'] == 'assistant' %}\n{{ '<|assistant|>\n'  + "
              "message['content'] + eos_token }}\n{% endif %}\n{% if loop.last and "
              "add_generation_prompt %}\n{{ '<|assistant|>' }}\n{% endif %}\n{% endfor %}",
    "llama2": "{% if messages[0]['role'] == 'system' %}{% set loop_messages = messages[1:] %}"
              "{% set system_message = messages[0]['content'] %}{% else %}{% set loop_messages = "
              "messages %}{% set system_message = false %}{% endif %}{% for message in "
              "loop_messages %}{% if loop.index0 == 0 and system_message != false %}{% set content "
              "= '<<SYS>>\\n' + system_message + '\\n<</SYS>>\\n\\n' + message['content'] %}"
              "{% else %}{% set content = message['content'] %}{% endif %}{% if message['role'] == "
              "'user' %}{{ bos_token + '[INST] ' + content.strip() + ' [/INST]' }}{% elif "
              "message['role'] == 'assistant' %}{{ ' '  + content.strip() + ' ' + eos_token }}"
              "{% endif %}{% endfor %}",
    "llama3": "{% set loop_messages = messages %}{% for message in loop_messages %}{% set content = "
              "'<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n'+ "
              "message['content'] | trim + '<|eot_id|>' %}{% if loop.index0 == 0 %}{% set content "
              "= bos_token + content %}{% endif %}{{ content }}{% endfor %}{% if "
              "add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}"
              "{% endif %}",
    "mistral": "{%- if messages[0]['role'] == 'system' %}{%- set system_message = "
               "messages[0]['content'] %}{%- set loop_messages = messages[1:] %}{%- else %}{%- set "
               "loop_messages = messages %}{%- endif %}{{- bos_token }}{%- for message in "
               "loop_messages %}{%- if message['role'] == 'user' %}{%- if loop.first and "
               "system_message is defined %}{{- '[INST] ' + system_message + '\\n\\n' + "
               "message['content'] + ' [/INST]' }}{%- else %}{{- '[INST] ' + message['content'] + "
               "' [/INST]' }}{%- endif %}{%- elif message['role'] == 'assistant' %}{{- ' ' + "
               "message['content'] + eos_token}}{%- endif %}{%- endfor %}",
    "gemma": "{{ bos_token }}{% for message in messages %}{% if (message['role'] == 'assistant') %}"
             "{% set role = 'model' %}{% else %}{% set role = message['role'] %}{% endif %}"
             "{{ '<start_of_turn>' + role + '\n' + message['content'] | trim + '<end_of_turn>\n' }}"
             "{% endfor %}{% if add_generation_prompt %}{{'<start_of_turn>model\n'}}{% endif %}",
    "phi3": "{% for message in messages %}{% if message['role'] == 'system' %}{{'<|system|>\n' + "
            "message['content'] + '<|end|>\n'}}{% elif message['role'] == 'user' %}{{'<|user|>\n' + "
            "message['content'] + '<|end|>\n'}}{% elif message['role'] == 'assistant' %}"
            "{{'<|assistant|>\n' + message['content'] + '<|end|>\n'}}{% endif %}{% endfor %}{% if "
            "add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}",
    "qwen2": "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
             "{{ '<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n' }}{% endif %}"
             "{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}"
             "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}",
    "smollm2": "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
               "{{ '<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by "
               "Hugging Face<|im_end|>\n' }}{% endif %}{{'<|im_start|>' + message['role'] + '\n' + "
               "message['content'] + '<|im_end|>' + '\n'}}{% endfor %}{% if add_generation_prompt %}"
               "{{ '<|im_start|>assistant\n' }}{% endif %}",
    "qwen": "{%- if messages[0]['role'] == 'system' %}{{- '<|im_start|>system\\n' + "
            "messages[0]['content'] + '<|im_end|>\\n' }}{%- else %}{{- '<|im_start|>system\\nYou are "
            "Qwen, created by Alibaba Cloud. You are a helpful assistant.<|im_end|>\\n' }}"
            "{%- endif %}{%- for message in messages %}{%- if (message.role == \"user\") or "
            "(message.role == \"system\" and not loop.first) or (message.role == \"assistant\") %}"
            "{{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>' + '\\n' }}"
            "{%- endif %}{%- endfor %}{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' "
            "}}{%- endif %}",
    "vicuna": "{% if messages[0]['role'] == 'system' %}{{ messages[0]['content'] + ' ' }}{% set "
              "loop_messages = messages[1:] %}{% else %}{{ 'A chat between a curious user and an "
              "artificial intelligence assistant. The assistant gives helpful, detailed, and polite "
              "answers to the user\\'s questions. ' }}{% set loop_messages = messages %}{% endif %}"
              "{% for message in loop_messages %}{% if message['role'] == 'user' %}{{ 'USER: ' + "
              "message['content'] + ' ' }}{% else %}{{ 'ASSISTANT: ' + message['content'] + "
              "eos_token }}{% endif %}{% endfor %}{% if add_generation_prompt %}{{ 'ASSISTANT:' }}"
              "{% endif %}",
    "alpaca": "{% if messages[0]['role'] == 'system' %}{{ messages[0]['content'] + '\n\n' }}{% set "
              "loop_messages = messages[1:] %}{% else %}{{ 'Below is an instruction that describes a "
              "task. Write a response that appropriately completes the request.\n\n' }}{% set "
              "loop_messages = messages %}{% endif %}{% for message in loop_messages %}{% if "
              "message['role'] == 'user' %}{{ '### Instruction:\n' + message['content'] + '\n\n' }}"
              "{% else %}{{ '### Response:\n' + message['content'] + eos_token + '\n\n' }}{% endif %}"
              "{% endfor %}{% if add_generation_prompt %}{{ '### Response:\n' }}{% endif %}",
    "instruction": "{% for message in messages %}{% if message['role'] == 'user' %}{{ "
                   "'### Instruction: ' + message['content'] + '\n\n' }}{% else %}{{ "
                   "'### Response: ' + message['content'] + eos_token + '\n\n' }}{% endif %}"
                   "{% endfor %}{% if add_generation_prompt %}{{ '### Response: ' }}{% endif %}",
}
SYSTEM, USER, ANSWER = ({"role": "system", "content": "Be brief. é"},
                        {"role": "user", "content": " What is 2+2?\n"},
                        {"role": "assistant", "content": "  It is 4. "})
MORE = {"role": "user", "content": "And <s>3</s> + 3?"}
CONVERSATIONS = [[USER], [SYSTEM, USER], [USER, ANSWER, MORE], [SYSTEM, USER, ANSWER, MORE]]
NO_SYSTEM = ("gemma", "instruction")  # their Jinja has no place for it


SPECIAL = ["<s>", "</s>", "<|begin_of_text|>", "<bos>", "<|im_start|>", "<|im_end|>", "<|eot_id|>",
           "<|start_header_id|>", "<|end_header_id|>", "<start_of_turn>", "<end_of_turn>", "<|user|>",
           "<|assistant|>", "<|system|>", "<|end|>"]


def make_tokenizer(path):
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({c: i for i, c in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(s, special=True, normalized=False) for s in SPECIAL])
    with open(path, "w", encoding="utf-8") as out:
        out.write(tokenizer.to_str() + "\n")
    return tokenizer


def main():
    env = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    here = os.path.dirname(os.path.abspath(__file__))
    tokenizer = make_tokenizer(os.path.join(here, "chat-tokenizer.json"))
    with open(os.path.join(here, "chat.jsonl"), "w", encoding="utf-8") as out:
        for name, jinja in TEMPLATES.items():
            template = env.from_string(jinja)
            bos = {"llama3": "<|begin_of_text|>", "gemma": "<bos>"}.get(name, "<s>")
            cases = []
            for turns in CONVERSATIONS:
                if name in NO_SYSTEM and turns[0] is SYSTEM:
                    continue
                render = lambda m, header: template.render(
                    messages=m, add_generation_prompt=header, bos_token=bos, eos_token="</s>")
                cases.append({"turns": turns, "prompt": render(turns, True),
                              "answer": ANSWER["content"],
                              "whole": render(turns + [ANSWER], False)})
                if MORE not in turns:  # its special tokens would be recognised here
                    cases[-1]["ids"] = tokenizer.encode(cases[-1]["whole"]).ids
            row = {"name": name, "jinja": jinja, "bos": bos, "cases": cases}
            out.write(json.dumps(row, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
