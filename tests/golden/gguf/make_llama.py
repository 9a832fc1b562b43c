#!/usr/bin/env python3
"""Makes two small Llama models as llama.cpp's converter writes them, and what they hold.

    bpe.gguf   byte-level tokenizer that cuts as Llama 3 does, own output matrix, frequencies
               divided as in Llama 3.1, matrices of Q8_0, F16 and BF16
    spm.gguf   SentencePiece-style tokenizer, tied embeddings, F32
    NAME.safetensors   the tensors under transformers' names, rows of q and k in its order
    NAME.jsonl         texts and their ids, as llama.cpp itself tokenizes them

usage: make_llama.py [DIRECTORY]    (needs gguf, numpy, safetensors, tokenizers, xllamacpp)

Tensors are permuted as in conversion/llama.py of llama.cpp.
"""

import json
import pathlib
import random
import sys
import urllib.request

import gguf
import numpy as np
import xllamacpp
from gguf import GGMLQuantizationType as T, quants
from safetensors.numpy import save_file
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers

HIDDEN, FFN, LAYERS, HEADS, KV_HEADS, SIZE = 32, 64, 2, 4, 2, 8
LLAMA3 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
          r"|\s*[\r\n]+|\s+(?!\S)|\s+")
CORPUS = """The trained model is the next opponent. It stops when the two can no longer be told apart.
Once upon a time there was a little tokenizer who didn't know what it'd learn, and they're all fine.
Numbers like 12345 and 3.14159, words like naïve, Ökonomie, здравствуйте and 漢字 are in it too.
The lazy dog sees the quick brown fox; the fox sees the dog; and the two of them see the model.
    indented text, and    runs of spaces   are kept as they are.
"""
TEXTS = ["", " ", "  ", "Hello world", " Hello  world ", "the trained model is the opponent", "\n",
         "a\n\nb\r\n c\t\td", "They're here, it'll do; I'D say so", "12345678 and 3.14", "naïve Ökonomie",
         "漢字かな 😀👍🏽 ❤️", "здравствуйте, мир", "<s> is no token here </s>", "x" * 40, "\u00a0\u3000wide",
         "the the the  the   the    the", "e\u0301 é", "tab\tand\x01control", "0x1F <0x41> <0x0A>",
         "ſ 'S ’s", "٣٤٥ ½ Ⅷ"]


def permute(weights, heads):
    return (weights.reshape(heads, 2, weights.shape[0] // heads // 2, *weights.shape[1:])
            .swapaxes(1, 2).reshape(weights.shape))


def llama3_factors(theta, factor=8.0, low=1.0, high=4.0, context=8192):
    out = []
    for freq in 1.0 / theta ** (np.arange(0, SIZE, 2, dtype=np.float64) / SIZE):
        length = 2 * np.pi / freq
        if length < context / high:
            out.append(1.0)
        elif length > context / low:
            out.append(factor)
        else:
            smooth = (context / length - low) / (high - low)
            out.append(1 / ((1 - smooth) / factor + smooth))
    return np.array(out, dtype=np.float32)


def tensors(rng, vocab, tied):
    """(name in GGUF, name in transformers, shape, heads to permute by)"""
    q, k = HEADS * SIZE, KV_HEADS * SIZE
    yield "token_embd", "model.embed_tokens", (vocab, HIDDEN), 0
    for i in range(LAYERS):
        a, b = f"blk.{i}.", f"model.layers.{i}."
        yield a + "attn_norm", b + "input_layernorm", (HIDDEN,), 0
        yield a + "attn_q", b + "self_attn.q_proj", (q, HIDDEN), HEADS
        yield a + "attn_k", b + "self_attn.k_proj", (k, HIDDEN), KV_HEADS
        yield a + "attn_v", b + "self_attn.v_proj", (k, HIDDEN), 0
        yield a + "attn_output", b + "self_attn.o_proj", (HIDDEN, q), 0
        yield a + "ffn_norm", b + "post_attention_layernorm", (HIDDEN,), 0
        yield a + "ffn_gate", b + "mlp.gate_proj", (FFN, HIDDEN), 0
        yield a + "ffn_up", b + "mlp.up_proj", (FFN, HIDDEN), 0
        yield a + "ffn_down", b + "mlp.down_proj", (HIDDEN, FFN), 0
    yield "output_norm", "model.norm", (HIDDEN,), 0
    if not tied:
        yield "output", "lm_head", (vocab, HIDDEN), 0


def write(out, name, vocab, types, tied, theta, add_vocab):
    rng = np.random.default_rng(11)
    writer = gguf.GGUFWriter(out / f"{name}.gguf", "llama")
    writer.add_name(f"Test {name}")
    writer.add_block_count(LAYERS)
    writer.add_context_length(16384)
    writer.add_embedding_length(HIDDEN)
    writer.add_feed_forward_length(FFN)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_rope_freq_base(theta)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(SIZE)
    writer.add_vocab_size(vocab)
    add_vocab(writer)
    expected = {}
    for i, (short, long, shape, heads) in enumerate(tensors(rng, vocab, tied)):
        data = (rng.standard_normal(shape) * 0.1).astype(np.float32)
        qtype = types[i % len(types)] if len(shape) == 2 else T.F32
        mine = permute(data, heads) if heads else data
        stored = quants.quantize(mine, qtype)
        back = quants.dequantize(stored, qtype)
        # The inverse is written out by rows: the fixture does not lean on one formula twice.
        if heads:
            order = permute(np.arange(shape[0]).reshape(-1, 1), heads)[:, 0]
            restored = np.empty_like(back)
            restored[order] = back
            back = restored
        expected[long + ".weight"] = np.ascontiguousarray(back)
        writer.add_tensor(short + ".weight", stored,
                          raw_dtype=qtype if stored.dtype == np.uint8 else None)
    if name == "bpe":
        writer.add_tensor("rope_freqs.weight", llama3_factors(theta))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    save_file(expected, out / f"{name}.safetensors")


def train_bpe():
    tok = Tokenizer(models.BPE(ignore_merges=True))
    tok.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(LLAMA3), "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    tok.train_from_iterator([CORPUS], trainers.BpeTrainer(
        vocab_size=380, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False))
    model = json.loads(tok.to_str())["model"]
    return model["vocab"], [m if isinstance(m, str) else " ".join(m) for m in model["merges"]]


def bpe(out):
    vocab, merges = train_bpe()
    tokens = sorted(vocab, key=vocab.get)
    types = [gguf.TokenType.NORMAL] * len(tokens)
    tokens += ["<|begin|>", "<|end|>", "<|turn|>", "<think>"]
    types += [gguf.TokenType.CONTROL] * 3 + [gguf.TokenType.USER_DEFINED]
    bos = len(vocab)
    while len(tokens) < 400:
        tokens.append(f"[PAD{len(tokens)}]")
        types.append(gguf.TokenType.UNUSED)

    def add(writer):
        writer.add_tokenizer_model("gpt2")
        writer.add_tokenizer_pre("llama-bpe")
        writer.add_token_list(tokens)
        writer.add_token_types(types)
        writer.add_token_merges(merges)
        writer.add_bos_token_id(bos)
        writer.add_eos_token_id(bos + 1)
        writer.add_eot_token_id(bos + 2)
        writer.add_add_bos_token(True)
        writer.add_chat_template("{{ bos_token }}{% for m in messages %}{{ m['content'] }}{% endfor %}")

    write(out, "bpe", 400, [T.Q8_0, T.F16, T.BF16], False, 500000.0, add)


def spm(out):
    """Pieces as SentencePiece has them: unknown, specials, bytes, then by score; a blank may stand
    inside a piece. Single characters come last."""
    tok = Tokenizer(models.BPE(unk_token="<unk>"))
    tok.normalizer = normalizers.Replace(" ", "▁")
    lines = ["▁" + line for line in CORPUS.split("\n")]
    tok.train_from_iterator(lines, trainers.BpeTrainer(
        vocab_size=260, special_tokens=["<unk>"], show_progress=False, max_token_length=12))
    model = json.loads(tok.to_str())["model"]
    merged = ["".join(m if isinstance(m, list) else m.split(" ")) for m in model["merges"]]
    single = [t for t in model["vocab"] if len(t) == 1]
    tokens = ["<unk>", "<s>", "</s>"] + [f"<0x{i:02X}>" for i in range(256)] + merged + single
    types = ([gguf.TokenType.UNKNOWN] + [gguf.TokenType.CONTROL] * 2 + [gguf.TokenType.BYTE] * 256
             + [gguf.TokenType.NORMAL] * (len(merged) + len(single)))
    scores = [0.0] * 259 + [-float(i) for i in range(len(merged) + len(single))]

    def add(writer):
        writer.add_tokenizer_model("llama")
        writer.add_tokenizer_pre("default")
        writer.add_token_list(tokens)
        writer.add_token_scores(scores)
        writer.add_token_types(types)
        writer.add_bos_token_id(1)
        writer.add_eos_token_id(2)
        writer.add_unk_token_id(0)
        writer.add_pad_token_id(0)
        writer.add_add_bos_token(True)
        writer.add_add_eos_token(False)

    write(out, "spm", len(tokens), [T.F32], True, 10000.0, add)


def tokenize(out, name):
    params = xllamacpp.CommonParams()
    params.model.path = str(out / f"{name}.gguf")
    params.n_ctx, params.warmup, params.port = 64, False, 18735
    server = xllamacpp.Server(params)
    rng = random.Random(5)
    pool = CORPUS + "  \n\t'\"0123456789éß漢字😀"
    texts = TEXTS + ["".join(rng.choice(pool) for _ in range(rng.randint(1, 50))) for _ in range(120)]
    texts += [" ".join(rng.choice(CORPUS.split()) for _ in range(rng.randint(1, 12))) for _ in range(60)]
    with open(out / f"{name}.jsonl", "w", encoding="utf-8") as file:
        for text in texts:
            body = {"content": text, "add_special": True, "parse_special": True}
            request = urllib.request.Request(server.listening_address + "/tokenize",
                                             json.dumps(body).encode(),
                                             {"Content-Type": "application/json"})
            ids = json.loads(urllib.request.urlopen(request).read())["tokens"]
            file.write(json.dumps({"text": text, "ids": ids}, ensure_ascii=False) + "\n")


def main():
    out = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else pathlib.Path(__file__).parent)
    bpe(out)
    spm(out)
    for name in ("bpe", "spm"):
        tokenize(out, name)


main()
