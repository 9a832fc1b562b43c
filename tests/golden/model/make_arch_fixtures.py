#!/usr/bin/env python3
"""Makes the fixtures of arch/ with torch and transformers 5, in fp32 on one thread.

    make_arch_fixtures.py [NAME ...]       makes those (default: all)
    make_arch_fixtures.py --more DIR       makes the other shapes below in DIR, for
                                           SPIN_ARCH_DIR=DIR test_model_arch; they are not committed
    make_arch_fixtures.py --check DIR      loads DIR/NAME for every fixture in transformers (what
                                           test_arch saved with SPIN_ARCH_SAVE_DIR=DIR) and compares
                                           logits and tensors with the fixture's

For each NAME a folder of

    config.json, model.safetensors  a random model of a few 10 KB, as transformers saves it
    golden.json                     log-probabilities of sequences, pairs with their references,
                                    64 greedy ids whose top two logits differ by more than 1e-3
    gradients.safetensors           of one SPIN step (logistic loss) over the pairs, |margin| > 0.5
"""
import json
import math
import os
import shutil
import sys

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM
import transformers as T

HERE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "arch")
BETA = 0.3
VOCAB = 37
torch.set_num_threads(1)

SHAPE = dict(vocab_size=VOCAB, hidden_size=16, intermediate_size=20, num_hidden_layers=2,
             num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=96,
             bos_token_id=1, eos_token_id=2, pad_token_id=0, attn_implementation="eager")


def shape(**changes):
    return dict(SHAPE, **changes)


MODELS = {
    # Llama 3's scaled frequencies, in the form of transformers 5; biases everywhere
    "llama3": lambda: T.LlamaForCausalLM(T.LlamaConfig(**shape(
        attention_bias=True, mlp_bias=True, tie_word_embeddings=False, head_dim=8,
        rope_parameters={"rope_type": "llama3", "rope_theta": 100.0, "factor": 4.0,
                         "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                         "original_max_position_embeddings": 32}))),
    # the form of transformers 4: see OLD_FORM
    "llama-linear": lambda: T.LlamaForCausalLM(T.LlamaConfig(**shape(
        rope_parameters={"rope_type": "linear", "rope_theta": 300.0, "factor": 2.5}))),
    "llama-dynamic": lambda: T.LlamaForCausalLM(T.LlamaConfig(**shape(
        rope_parameters={"rope_type": "dynamic", "rope_theta": 300.0, "factor": 4.0}))),
    "qwen2": lambda: T.Qwen2ForCausalLM(T.Qwen2Config(**shape(
        num_hidden_layers=3, use_sliding_window=True, sliding_window=6, max_window_layers=2,
        rope_parameters={"rope_type": "default", "rope_theta": 500.0}))),
    "qwen3": lambda: T.Qwen3ForCausalLM(T.Qwen3Config(**shape(
        head_dim=6, tie_word_embeddings=True,
        rope_parameters={"rope_type": "default", "rope_theta": 500.0}))),
    # frequencies that stay, that are divided, and between both
    "qwen3-yarn": lambda: T.Qwen3ForCausalLM(T.Qwen3Config(**shape(
        head_dim=16, num_attention_heads=2, num_key_value_heads=1,
        rope_parameters={"rope_type": "yarn", "rope_theta": 1000.0, "factor": 4.0,
                         "original_max_position_embeddings": 64, "beta_fast": 6.0,
                         "beta_slow": 0.5}))),
    "smollm3": lambda: T.SmolLM3ForCausalLM(T.SmolLM3Config(**shape(
        num_hidden_layers=5,
        rope_parameters={"rope_type": "default", "rope_theta": 500.0}))),
    "phi3": lambda: T.Phi3ForCausalLM(T.Phi3Config(**shape(
        sliding_window=9, tie_word_embeddings=False,
        rope_parameters={"rope_type": "default", "rope_theta": 500.0}))),
    "phi3-longrope": lambda: T.Phi3ForCausalLM(T.Phi3Config(**shape(
        hidden_size=32, max_position_embeddings=384, original_max_position_embeddings=96,
        tie_word_embeddings=False,
        rope_parameters={"rope_type": "longrope", "rope_theta": 500.0,
                         "partial_rotary_factor": 0.75, "short_factor": [1.0, 1.3, 1.7],
                         "long_factor": [2.0, 4.0, 8.0],
                         "original_max_position_embeddings": 96}))),
    "gemma2": lambda: T.Gemma2ForCausalLM(T.Gemma2Config(**shape(
        num_hidden_layers=3, head_dim=6, query_pre_attn_scalar=10, sliding_window=7,
        attn_logit_softcapping=3.0, final_logit_softcapping=6.0,
        rope_parameters={"rope_type": "default", "rope_theta": 500.0}))),
    "gemma3": lambda: T.Gemma3ForCausalLM(T.Gemma3TextConfig(**shape(
        num_hidden_layers=4, head_dim=6, query_pre_attn_scalar=10, sliding_window=7,
        layer_types=["sliding_attention", "sliding_attention", "full_attention",
                     "sliding_attention"],
        rope_parameters={"full_attention": {"rope_type": "linear", "rope_theta": 900.0,
                                            "factor": 4.0},
                         "sliding_attention": {"rope_type": "default", "rope_theta": 50.0}}))),
    "gemma2-even": lambda: T.Gemma2ForCausalLM(T.Gemma2Config(**shape(
        num_hidden_layers=3, head_dim=6, query_pre_attn_scalar=6, sliding_window=7,
        attn_logit_softcapping=3.0, final_logit_softcapping=6.0,
        rope_parameters={"rope_type": "default", "rope_theta": 500.0}))),
    "gemma3-third": lambda: T.Gemma3ForCausalLM(T.Gemma3TextConfig(**shape(
        num_hidden_layers=4, head_dim=6, query_pre_attn_scalar=6, sliding_window=7,
        layer_types=["sliding_attention", "sliding_attention", "full_attention",
                     "sliding_attention"],
        rope_parameters={"full_attention": {"rope_type": "default", "rope_theta": 900.0}, "sliding_attention": {
                             "rope_type": "default", "rope_theta": 50.0}}))),
    "gpt2": lambda: T.GPT2LMHeadModel(T.GPT2Config(
        vocab_size=VOCAB, n_embd=16, n_layer=2, n_head=4, n_positions=96, n_inner=20,
        bos_token_id=1, eos_token_id=2, attn_implementation="eager")),
    "gpt-neox": lambda: T.GPTNeoXForCausalLM(T.GPTNeoXConfig(
        **{k: v for k, v in shape(hidden_size=32).items() if k != "num_key_value_heads"},
        rope_parameters={"rope_type": "default", "rope_theta": 500.0,
                         "partial_rotary_factor": 0.25})),
    "gpt-neox-serial": lambda: T.GPTNeoXForCausalLM(T.GPTNeoXConfig(
        **{k: v for k, v in shape().items() if k != "num_key_value_heads"},
        use_parallel_residual=False,
        rope_parameters={"rope_type": "default", "rope_theta": 500.0,
                         "partial_rotary_factor": 0.5})),
}

def neox(**changes):
    return T.GPTNeoXForCausalLM(T.GPTNeoXConfig(
        **{k: v for k, v in shape(**changes).items() if k != "num_key_value_heads"}))


def default(theta, **more):
    return dict({"rope_type": "default", "rope_theta": theta}, **more)


# Shapes that the fixtures leave out: odd numbers of heads, one head of keys for all, heads that do not
# fill the hidden size, biases, tied and untied, windows in other places, other rotations.
ODD = dict(hidden_size=18, num_attention_heads=3, num_key_value_heads=1)
MORE = {
    "llama-odd": lambda: T.LlamaForCausalLM(T.LlamaConfig(**shape(
        **ODD, head_dim=10, attention_bias=True, tie_word_embeddings=False,
        rope_parameters=default(300.0)))),
    "llama-mlp-bias": lambda: T.LlamaForCausalLM(T.LlamaConfig(**shape(
        num_key_value_heads=4, mlp_bias=True, tie_word_embeddings=True, intermediate_size=7,
        rope_parameters=default(300.0)))),
    "llama3-old": lambda: T.LlamaForCausalLM(T.LlamaConfig(**shape(
        num_attention_heads=2, num_key_value_heads=1, rope_parameters={
            "rope_type": "llama3", "rope_theta": 1000.0, "factor": 8.0, "low_freq_factor": 1.0,
            "high_freq_factor": 2.5, "original_max_position_embeddings": 24}))),
    "llama-longrope": lambda: T.LlamaForCausalLM(T.LlamaConfig(**shape(
        max_position_embeddings=600, rope_parameters={
            "rope_type": "longrope", "rope_theta": 300.0, "factor": 2.0, "short_factor": [1.0, 1.5],
            "long_factor": [2.0, 3.0], "original_max_position_embeddings": 300}))),
    "llama-yarn": lambda: T.LlamaForCausalLM(T.LlamaConfig(**shape(
        head_dim=12, rope_parameters={
            "rope_type": "yarn", "rope_theta": 500.0, "factor": 8.0, "mscale": 0.7,
            "mscale_all_dim": 1.0, "truncate": False, "original_max_position_embeddings": 300}))),
    "mistral-odd": lambda: T.MistralForCausalLM(T.MistralConfig(**shape(
        **ODD, head_dim=4, sliding_window=5, tie_word_embeddings=False,
        rope_parameters=default(300.0)))),
    "mistral-full": lambda: T.MistralForCausalLM(T.MistralConfig(**shape(
        sliding_window=None, tie_word_embeddings=True, rope_parameters=default(300.0)))),
    "qwen2-full": lambda: T.Qwen2ForCausalLM(T.Qwen2Config(**shape(
        **ODD, tie_word_embeddings=True, sliding_window=4, use_sliding_window=False,
        rope_parameters=default(300.0)))),
    "qwen2-mixed": lambda: T.Qwen2ForCausalLM(T.Qwen2Config(**shape(
        num_hidden_layers=3, use_sliding_window=True, sliding_window=3,
        layer_types=["sliding_attention", "full_attention", "sliding_attention"],
        rope_parameters={"rope_type": "dynamic", "rope_theta": 300.0, "factor": 2.0}))),
    "qwen3-bias": lambda: T.Qwen3ForCausalLM(T.Qwen3Config(**shape(
        **ODD, head_dim=8, attention_bias=True, tie_word_embeddings=False, num_hidden_layers=3,
        use_sliding_window=True, sliding_window=5, max_window_layers=1,
        rope_parameters=default(300.0)))),
    "smollm3-window": lambda: T.SmolLM3ForCausalLM(T.SmolLM3Config(**shape(
        num_hidden_layers=4, no_rope_layer_interval=3, use_sliding_window=True, sliding_window=6,
        attention_bias=True, mlp_bias=True, tie_word_embeddings=False,
        rope_parameters=default(300.0)))),
    "smollm3-list": lambda: T.SmolLM3ForCausalLM(T.SmolLM3Config(**shape(
        **ODD, num_hidden_layers=3, no_rope_layers=[0, 1, 0], rope_parameters=default(300.0)))),
    "phi3-partial": lambda: T.Phi3ForCausalLM(T.Phi3Config(**shape(
        hidden_size=24, num_attention_heads=3, num_key_value_heads=3, sliding_window=None,
        tie_word_embeddings=True, rope_parameters=default(300.0, partial_rotary_factor=0.5)))),
    # llama.cpp takes the long factors from its shortest context on, 256
    "phi3-longer": lambda: T.Phi3ForCausalLM(T.Phi3Config(**shape(
        hidden_size=32, max_position_embeddings=900, original_max_position_embeddings=300,
        tie_word_embeddings=False, sliding_window=None,
        rope_parameters={"rope_type": "longrope", "rope_theta": 500.0,
                         "partial_rotary_factor": 0.75, "short_factor": [1.0, 1.3, 1.7],
                         "long_factor": [2.0, 4.0, 8.0],
                         "original_max_position_embeddings": 300}))),
    "gemma3-even": lambda: T.Gemma3ForCausalLM(T.Gemma3TextConfig(**shape(
        num_hidden_layers=7, head_dim=6, query_pre_attn_scalar=6, sliding_window=7,
        rope_parameters={"full_attention": {"rope_type": "linear", "rope_theta": 900.0,
                                            "factor": 4.0},
                         "sliding_attention": default(10000.0)}))),
    "gemma2-plain": lambda: T.Gemma2ForCausalLM(T.Gemma2Config(**shape(
        **ODD, head_dim=8, query_pre_attn_scalar=7, sliding_window=500, num_hidden_layers=3,
        attention_bias=True, attn_logit_softcapping=None, final_logit_softcapping=None,
        tie_word_embeddings=False, rope_parameters=default(300.0)))),
    "gemma3-pattern": lambda: T.Gemma3ForCausalLM(T.Gemma3TextConfig(**shape(
        **ODD, head_dim=8, query_pre_attn_scalar=8, sliding_window=4, num_hidden_layers=7,
        attention_bias=True, final_logit_softcapping=5.0, tie_word_embeddings=False,
        rope_parameters={"full_attention": default(900.0), "sliding_attention": default(40.0)}))),
    "gpt2-untied": lambda: T.GPT2LMHeadModel(T.GPT2Config(
        vocab_size=VOCAB, n_embd=18, n_layer=3, n_head=3, n_positions=96, n_inner=None,
        activation_function="gelu_pytorch_tanh", tie_word_embeddings=False, bos_token_id=1,
        eos_token_id=2, attn_implementation="eager")),
    "neox-plain": lambda: neox(hidden_size=18, num_attention_heads=3, attention_bias=False,
                               tie_word_embeddings=True, use_parallel_residual=False,
                               rope_parameters=default(300.0, partial_rotary_factor=1.0)),
    "neox-linear": lambda: neox(hidden_size=32, num_attention_heads=2, rope_parameters={
        "rope_type": "linear", "factor": 3.0, "rope_theta": 300.0, "partial_rotary_factor": 0.25}),
}

# config.json rewritten as transformers 4 wrote it; must load to the same model.
OLD_FORM = {
    "llama-linear": {"rope_theta": 300.0, "rope_scaling": {"type": "linear", "factor": 2.5}},
    "gpt-neox": {"rotary_emb_base": 500.0, "rotary_pct": 0.25},
    "llama3-old": {"rope_theta": 1000.0, "rope_scaling": {
        "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 2.5,
        "original_max_position_embeddings": 24}},
}


def number(x):
    return float(f"{float(x):.7g}")


def logprobs(model, prompt, response):
    logits = model(torch.tensor([prompt + response])).logits[0].float()
    rows = torch.log_softmax(logits[len(prompt) - 1 : len(prompt) + len(response) - 1], -1)
    return rows.gather(1, torch.tensor(response)[:, None])[:, 0]


def randomize(model, seed):
    g = torch.Generator().manual_seed(seed)
    plus_one = "Gemma" in type(model).__name__
    with torch.no_grad():
        for name, p in model.named_parameters():
            noise = torch.randn(p.shape, generator=g)
            if p.dim() > 1:
                p.copy_(0.25 * noise)
            elif name.endswith("bias") or plus_one:
                p.copy_(0.3 * noise)
            else:
                p.copy_(1 + 0.3 * noise)
    return model.float().eval()


def with_margin(model, pair, margin):
    with torch.no_grad():
        real = logprobs(model, pair["prompt"], pair["real"]).double().sum().item()
        generated = logprobs(model, pair["prompt"], pair["generated"]).double().sum().item()
    f32 = lambda x: torch.tensor(x, dtype=torch.float32).item()
    return dict(pair, ref_real=f32(real - margin / BETA + 1.5), ref_generated=f32(generated + 1.5))


def spin_gradients(model, pairs):
    model.zero_grad()
    total, margins = 0, []
    for p in pairs:
        real = logprobs(model, p["prompt"], p["real"]).double().sum()
        generated = logprobs(model, p["prompt"], p["generated"]).double().sum()
        m = BETA * ((real - p["ref_real"]) - (generated - p["ref_generated"]))
        margins.append(m.item())
        total = total + torch.nn.functional.softplus(-m)
    (total / len(pairs)).backward()
    return {n: p.grad.clone() for n, p in model.named_parameters()}, margins


def greedy(model, prompt, n=64):
    ids, gap = list(prompt), math.inf
    with torch.no_grad():
        for _ in range(n):
            top = torch.topk(model(torch.tensor([ids])).logits[0, -1], 2)
            gap = min(gap, (top.values[0] - top.values[1]).item())
            ids.append(top.indices[0].item())
    return ids[len(prompt):], gap


def save(name, model):
    path = os.path.join(HERE, name)
    shutil.rmtree(path, ignore_errors=True)
    model.save_pretrained(path)
    os.chmod(os.path.join(path, "model.safetensors"), 0o644)
    generation = os.path.join(path, "generation_config.json")
    if os.path.exists(generation):
        os.remove(generation)
    if name in OLD_FORM:
        file = os.path.join(path, "config.json")
        config = json.load(open(file))
        del config["rope_parameters"]
        config.update(OLD_FORM[name])
        with open(file, "w") as out:
            json.dump(config, out, indent=2)
            out.write("\n")
    return path


def stored_names(path):
    with safe_open(os.path.join(path, "model.safetensors"), "pt") as f:
        return {n: f.get_tensor(n) for n in f.keys()}


def make(name):
    g = torch.Generator().manual_seed(5)
    ids = lambda n: torch.randint(3, VOCAB, (n,), generator=g).tolist()
    for seed in range(11, 60):
        model = randomize(dict(MODELS, **MORE)[name](), seed)
        prompt = [1, 5, 9, 20]
        answer, gap = greedy(model, prompt)
        if gap > 2e-3 and len(set(answer)) > 6:
            break
    else:
        sys.exit(f"{name}: no seed gives greedy ids that are clear")
    path = save(name, model)
    again = AutoModelForCausalLM.from_pretrained(path, attn_implementation="eager").eval()
    sequences = []
    for n_prompt, n_response in [(1, 9), (7, 12), (20, 30), (3, 80)]:
        p, r = ids(n_prompt), ids(n_response)
        with torch.no_grad():
            lp = logprobs(model, p, r)
            assert torch.equal(lp, logprobs(again, p, r)), name
        sequences.append({"prompt": p, "response": r, "logprobs": [number(x) for x in lp]})
    pairs = []
    for margin, lengths in [(0.7, (6, 5, 9)), (-0.8, (4, 11, 2)), (-1.4, (9, 1, 7))]:
        pair = dict(zip(("prompt", "real", "generated"), map(ids, lengths)))
        pairs.append(with_margin(model, pair, margin))
    grads, margins = spin_gradients(model, pairs)
    assert min(abs(m) for m in margins) > 0.5
    # Files may call a tensor otherwise than the module does.
    stored, renamed = stored_names(path), {}
    for n, t in grads.items():
        key = n if n in stored else next(
            k for k, v in stored.items()
            if k not in grads and torch.equal(v, dict(model.named_parameters())[n]))
        renamed[key] = t.contiguous()
    save_file(renamed, os.path.join(path, "gradients.safetensors"))
    os.chmod(os.path.join(path, "gradients.safetensors"), 0o644)
    with open(os.path.join(path, "golden.json"), "w") as out:
        json.dump({"beta": BETA, "sequences": sequences, "pairs": pairs, "margins": margins,
                   "greedy": {"prompt": prompt, "ids": answer, "gap": number(gap)}}, out,
                  separators=(",", ":"))
        out.write("\n")
    print(f"{name}: seed {seed}, smallest gap {gap:.4f}, {len(set(answer))} different ids")


def check(folder):
    """Every saved model against its fixture: tensors bit for bit, logits equal."""
    for name in sorted(os.listdir(os.environ.get("SPIN_ARCH_DIR", HERE))):
        ours, theirs = os.path.join(folder, name), os.path.join(
            os.environ.get("SPIN_ARCH_DIR", HERE), name)
        a, b = stored_names(ours), stored_names(theirs)
        same = sum(n in a and torch.equal(a[n], b[n]) for n in b)
        load = lambda p: AutoModelForCausalLM.from_pretrained(
            p, attn_implementation="eager", dtype=torch.float32, output_loading_info=True)
        (x, info), (y, _) = load(ours), load(theirs)
        ids = torch.tensor([[1] + list(range(3, 36)) * 2])
        with torch.no_grad():
            worst = (x.eval()(ids).logits - y.eval()(ids).logits).abs().max().item()
        loading = {k: v for k, v in info.items() if v}
        print(f"{name}: {same} of {len(b)} tensors equal, logits differ by {worst:g} {loading}")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--check"]:
        check(sys.argv[2])
    elif sys.argv[1:2] == ["--more"]:
        HERE = os.path.abspath(sys.argv[2])
        for fixture in MORE:
            make(fixture)
    else:
        for fixture in sys.argv[1:] or MODELS:
            make(fixture)
