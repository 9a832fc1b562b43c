#!/usr/bin/env python3
"""Makes the fixtures of this folder with torch and transformers, in fp32 on one thread.

    make_fixtures.py MODEL_DIR

MODEL_DIR is TinyStories-656K-hf. Written beside this script:

    tiny-llama/, tiny-mistral/  random models of a few KB (grouped queries, untied output; sliding
                                window), in Hugging Face layout
    tiny.json                   sequences and their log-probabilities under both, pairs, references
    tiny-gradients.safetensors  full gradients of one SPIN step on tiny-llama for every loss
    stories.json                20 texts with token ids and log-probabilities, greedy continuations
    stories-gradients.json      norms and samples of gradients of SPIN steps
    optimizers.json             steps of torch's RMSprop and AdamW

The tests that read them need no Python. The loss is written out here a second time, from the paper,
so that the C code is compared with autograd and not with itself.
"""
import json
import os
import shutil
import sys

import torch
from safetensors.torch import save_file
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM
from transformers import MistralConfig, MistralForCausalLM

HERE = os.path.dirname(os.path.abspath(__file__))
LOSSES = ["logistic", "hinge", "exponential", "correlation", "ipo"]
BETA, TAU = 0.3, 0.8
torch.set_num_threads(1)

# Prompt and response; what is not ASCII goes through the tokenizer's bytes.
TEXTS = [
    ("Once upon a time there was a little fox named Fred.",
     " Fred liked to run in the woods. One day he found a red ball under a tree. He was "
     "so happy that he ran home to show his mom."),
    ("Lily had a big box.",
     " She did not know what was in it. She asked her brother to help, and they opened "
     "it. It was a new hat!"),
    ("The rain came down all day.",
     " Tom sat by the window and waited. When the sun came out, he went to the park and "
     "jumped in the puddles."),
    ("One morning, a bird sang",
     " a song for the whole town. Everyone stopped to listen. The old man smiled and "
     "clapped his hands."),
    ("Mia and her dad went to the sea.",
     " They made a castle out of sand. A wave came and took it away, but Mia laughed. "
     "\"We can make it again!\" she said."),
    ("\"Where is my cat?\" asked Ben.",
     " He looked under the bed and behind the door. Then he heard a soft sound. The cat "
     "was asleep in his shoe."),
    ("There was a small boat on the lake.",
     " It was blue and very old. Nobody wanted to use it. A boy named Sam painted it and "
     "made it shine."),
    ("Anna was hungry.",
     " She took an apple from the table. It was sweet, and she gave half of it to her "
     "friend."),
    ("In the garden lived a slow snail.",
     " He wanted to see the moon. It took him all night to climb the wall, and when he "
     "got there, he was glad."),
    ("The bear was sad because he lost his honey.",
     " A bee came and said that she would help. They shared the honey and became good "
     "friends."),
    ("Max found a key.",
     " It was gold. He tried it on every door in the house. At last it opened a tiny box "
     "with a note that said: be kind."),
    ("It was cold and the snow was deep.",
     " The children made a man out of snow. They gave him a carrot for a nose and a scarf."),
    ("A girl had a kite.",
     " The wind was strong and the kite flew high. It got stuck in a tree. Her brother "
     "climbed up and got it down."),
    ("The little train was afraid of the dark tunnel.",
     " His friend said, \"Do not worry, I will go with you.\" They went in together and "
     "came out on the other side."),
    ("Grandma made soup.",
     " It was hot and it smelled good. Everyone sat at the table and ate until the pot "
     "was empty."),
    ("The dog saw a frog.",
     " The frog jumped into the water. The dog jumped too! They were both wet and they "
     "played all day."),
    ("One day, Tim broke a cup.",
     " He was scared to tell his mom. But he told her, and she hugged him. She was proud "
     "that he told the truth."),
    ("A star fell from the sky.",
     " It landed near a house. The girl in the house picked it up and put it back, very "
     "gently, with a long ladder."),
    ("Sue liked to count.",
     " She counted 1, 2, 3 ducks and 10 trees. Then she counted the clouds, but they "
     "moved too fast for her."),
    ("The café was closed.",
     " \"Oh no!\" said Zoë. She wanted a cake — a big one. So they went home and baked it."),
]


def write_json(name, value):
    with open(os.path.join(HERE, name), "w") as out:
        json.dump(value, out, separators=(",", ":"), ensure_ascii=False)
        out.write("\n")


def number(x):
    return float(f"{float(x):.7g}")


def logprobs(model, prompt, response):
    """fp32 log-probabilities of the response's tokens after the prompt."""
    ids = torch.tensor([prompt + response])
    logits = model(ids).logits[0].float()
    rows = torch.log_softmax(logits[len(prompt) - 1 : len(prompt) + len(response) - 1], -1)
    return rows.gather(1, torch.tensor(response)[:, None])[:, 0]


def loss_value(kind, m):
    if kind == "logistic":
        return torch.nn.functional.softplus(-m)
    if kind == "hinge":
        return torch.clamp(1 - m, min=0)
    if kind == "exponential":
        return torch.exp(-m)
    if kind == "correlation":
        return 1 - m
    return (m / BETA - 1 / (2 * TAU)) ** 2


def spin_loss(model, kind, pairs, sft_weight):
    """The mean over pairs of the loss of the margin, plus the mean NLL of the human tokens."""
    total, nll, tokens, margins = 0, 0, 0, []
    for p in pairs:
        real = logprobs(model, p["prompt"], p["real"]).double().sum()
        generated = logprobs(model, p["prompt"], p["generated"]).double().sum()
        m = BETA * ((real - p["ref_real"]) - (generated - p["ref_generated"]))
        margins.append(m.item())
        total = total + loss_value(kind, m)
        nll, tokens = nll - real, tokens + len(p["real"])
    return total / len(pairs) + sft_weight * nll / tokens, margins


def with_margin(model, pair, margin):
    """Chooses the references so that the pair has this margin."""
    with torch.no_grad():
        real = logprobs(model, pair["prompt"], pair["real"]).double().sum().item()
        generated = logprobs(model, pair["prompt"], pair["generated"]).double().sum().item()
    ref_generated = generated + 1.5
    ref_real = real - margin / BETA + 1.5
    f32 = lambda x: torch.tensor(x, dtype=torch.float32).item()
    return dict(pair, ref_real=f32(ref_real), ref_generated=f32(ref_generated))


def gradients(model, kind, pairs, sft_weight=0.0):
    model.zero_grad()
    loss, margins = spin_loss(model, kind, pairs, sft_weight)
    loss.backward()
    return {n: p.grad.clone() for n, p in model.named_parameters()}, loss.item(), margins


def random_model(name, config, cls):
    torch.manual_seed(11)
    model = cls(config).float().eval()
    with torch.no_grad():
        for n, p in model.named_parameters():
            if p.dim() == 1:
                p.copy_(1 + 0.3 * torch.randn_like(p))
            else:
                p.copy_(0.25 * torch.randn_like(p))
    path = os.path.join(HERE, name)
    shutil.rmtree(path, ignore_errors=True)
    model.save_pretrained(path)
    os.chmod(os.path.join(path, "model.safetensors"), 0o644)
    return model


def tiny():
    shape = dict(vocab_size=37, hidden_size=16, intermediate_size=20, num_hidden_layers=2,
                 num_attention_heads=4, num_key_value_heads=2, head_dim=6,
                 max_position_embeddings=64, rms_norm_eps=1e-5, rope_theta=500.0,
                 bos_token_id=1, eos_token_id=2, attn_implementation="eager")
    llama = random_model("tiny-llama", LlamaConfig(tie_word_embeddings=False, **shape),
                         LlamaForCausalLM)
    mistral = random_model("tiny-mistral", MistralConfig(tie_word_embeddings=True,
                                                         sliding_window=5, **shape),
                           MistralForCausalLM)
    g = torch.Generator().manual_seed(5)
    ids = lambda n: torch.randint(3, 37, (n,), generator=g).tolist()
    sequences = []
    for n_prompt, n_response in [(1, 1), (1, 9), (5, 1), (7, 12), (20, 30), (3, 40)]:
        prompt, response = ids(n_prompt), ids(n_response)
        row = {"prompt": prompt, "response": response}
        for name, model in [("llama", llama), ("mistral", mistral)]:
            with torch.no_grad():
                row[name] = [number(x) for x in logprobs(model, prompt, response)]
        sequences.append(row)
    pairs = []
    for margin, lengths in [(0.7, (6, 5, 9)), (-0.8, (4, 11, 2)), (1.7, (1, 3, 3)),
                            (-1.4, (9, 1, 7)), (0.6, (2, 8, 1))]:
        pair = dict(zip(("prompt", "real", "generated"), map(ids, lengths)))
        pairs.append(with_margin(llama, pair, margin))
    # Two answers that share a beginning, and two that are equal.
    pairs.append(with_margin(llama, {"prompt": [1, 5, 9], "real": [7, 8, 9, 2],
                                     "generated": [7, 8, 4, 4, 6]}, -0.9))
    same = {"prompt": [1, 30], "real": [7, 8, 2], "generated": [7, 8, 2]}
    real = logprobs(llama, same["prompt"], same["real"]).double().sum().float().item()
    pairs.append(dict(same, ref_real=real, ref_generated=real))
    tensors, cases = {}, []
    for kind in LOSSES:
        for sft_weight in (0.0, 0.4):
            if sft_weight and kind != "logistic":
                continue
            grads, loss, margins = gradients(llama, kind, pairs, sft_weight)
            case = f"{kind}{'-sft' if sft_weight else ''}"
            cases.append({"name": case, "loss": kind, "sft_weight": sft_weight, "value": loss,
                          "margins": margins})
            tensors.update({f"{case}/{n}": t.contiguous() for n, t in grads.items()})
    path = os.path.join(HERE, "tiny-gradients.safetensors")
    save_file(tensors, path)
    os.chmod(path, 0o644)
    write_json("tiny.json", {"beta": BETA, "tau": TAU, "sequences": sequences, "pairs": pairs,
                             "cases": cases})


def stories(model_dir):
    tokenizer = AutoTokenizer.from_pretrained(model_dir)
    model = LlamaForCausalLM.from_pretrained(model_dir, dtype=torch.float32,
                                             attn_implementation="eager").eval()
    encode = lambda text: tokenizer(text, add_special_tokens=False)["input_ids"]
    texts, greedy, pairs = [], [], []
    for prompt_text, response_text in TEXTS:
        prompt, response = [1] + encode(prompt_text), encode(response_text) + [2]
        with torch.no_grad():
            lp = logprobs(model, prompt, response)
        texts.append({"prompt_text": prompt_text, "response_text": response_text,
                      "prompt": prompt, "response": response,
                      "logprobs": [number(x) for x in lp]})
        if len(texts) <= 6:
            out = model.generate(torch.tensor([prompt]), max_new_tokens=60, do_sample=False,
                                 pad_token_id=0)[0].tolist()
            greedy.append({"prompt": prompt, "ids": out[len(prompt):]})
    # Everything in a row, for positions far from the start.
    whole = [t for row in texts for t in row["prompt"][1:] + row["response"][:-1]][:470]
    with torch.no_grad():
        lp = logprobs(model, [1], whole)
    long = {"prompt": [1], "response": whole, "logprobs": [number(x) for x in lp]}
    write_json("stories.json", {"texts": texts, "greedy": greedy, "long": long})
    for i, n in ((0, 40), (1, 25)):
        pairs.append({"prompt": texts[i]["prompt"], "real": texts[i]["response"][:n],
                      "generated": greedy[i]["ids"][: n // 2 + 3]})
    samples, cases = 32, []
    for margin in (0.7, -1.1):
        batch = [with_margin(model, p, margin * (1 + 0.1 * k)) for k, p in enumerate(pairs)]
        for kind in LOSSES:
            grads, loss, margins = gradients(model, kind, batch)
            tensors = {}
            for n, t in grads.items():
                flat = t.flatten()
                at = [(k * 2654435761) % flat.numel() for k in range(samples)]
                tensors[n] = [number(flat.norm())] + [number(flat[j]) for j in at]
            cases.append({"loss": kind, "value": loss, "margins": margins, "pairs": batch,
                          "tensors": tensors})
    write_json("stories-gradients.json", {"beta": BETA, "tau": TAU, "samples": samples,
                                          "cases": cases})


def optimizers():
    torch.manual_seed(3)
    start, grads = torch.randn(37), [torch.randn(37) * 10.0 ** (k % 3 - 1) for k in range(6)]
    cases = []
    for name, make in [
        ("rmsprop", lambda p, **kw: torch.optim.RMSprop(p, alpha=0.99, eps=1e-8, **kw)),
        ("adamw", lambda p, **kw: torch.optim.AdamW(p, betas=(0.9, 0.999), eps=1e-8, **kw)),
    ]:
        for weight_decay in (0.0, 0.1):
            for clip in (0.0, 1.0):
                w = torch.nn.Parameter(start.clone())
                optimizer = make([w], lr=0.01, weight_decay=weight_decay)
                norms = []
                for k, grad in enumerate(grads):
                    optimizer.param_groups[0]["lr"] = 0.01 * (k + 1)
                    w.grad = grad.clone()
                    if clip:
                        norms.append(torch.nn.utils.clip_grad_norm_([w], clip).item())
                    optimizer.step()
                cases.append({"name": name, "weight_decay": weight_decay, "clip": clip,
                              "norms": norms, "result": w.detach().tolist()})
    write_json("optimizers.json", {"start": start.tolist(), "grads": [g.tolist() for g in grads],
                                   "cases": cases})


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    tiny()
    stories(sys.argv[1])
    optimizers()
