"""A tiny random model with a byte-level tokenizer, made by spin-model."""

import json
import subprocess

MODEL = {"model_type": "llama", "architectures": ["LlamaForCausalLM"], "vocab_size": 258,
         "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
         "num_attention_heads": 2, "num_key_value_heads": 1, "max_position_embeddings": 96,
         "rms_norm_eps": 1e-5, "tie_word_embeddings": True, "initializer_range": 0.1,
         "bos_token_id": 256, "eos_token_id": 257, "torch_dtype": "float32"}


def tokenizer():
    """A token for each byte, and two special ones."""
    vocab, spare = {}, 256
    for byte in range(256):
        shown = 33 <= byte <= 126 or 161 <= byte <= 172 or byte >= 174
        vocab[chr(byte if shown else spare)] = byte
        spare += not shown
    added = [{"id": 256 + i, "content": text, "single_word": False, "lstrip": False,
              "rstrip": False, "normalized": False, "special": True}
             for i, text in enumerate(("<s>", "</s>"))]
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True,
             "use_regex": True}
    return {"version": "1.0", "added_tokens": added, "normalizer": None, "pre_tokenizer": level,
            "post_processor": None, "decoder": level,
            "model": {"type": "BPE", "dropout": None, "unk_token": None, "vocab": vocab,
                      "merges": []}}


def make_model(directory, build, **changes):
    """DIRECTORY/base; changes: of its config.json."""
    (directory / "config.json").write_text(json.dumps({**MODEL, **changes}), encoding="utf-8")
    (directory / "tokenizer.json").write_text(json.dumps(tokenizer()), encoding="utf-8")
    subprocess.run([build / "common/spin-model/spin-model", "init", "--config", "config.json",
                    "--tokenizer", "tokenizer.json", "--seed", "3", "base"],
                   cwd=directory, check=True, capture_output=True)
