#!/usr/bin/env python3
"""One whole iteration over daemons beside a straightforward transformers + TRL script, one after
the other in one sitting.

    iteration.py --build build --base DIR --train GSM8K.jsonl [--prompts 64] [--side ours|trl]

DIR is an instruction-tuned checkpoint in Hugging Face layout. Ours: coordinator, one generator, one
trainer, each of them free to use every core, on a socket in a temporary directory; timed from
`spinctl run` to the closed iteration: fetching the weights, sampling, scoring both answers under
the opponent, training, publishing. The script: load, generate in batches of 32, DPOTrainer with
precomputed reference log-probabilities (with one reference and the opponent's answers rejected, its
loss is SPIN's), save. Same prompts, sampling, precision (fp32), pairs a step, epochs, optimizer.

Prints the CPU time of each daemon, of its network threads apart, and one line of JSON."""
import argparse
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[3]
BATCH_PAIRS, LEARNING_RATE, BETA = 16, 5e-7, 0.1


def rows(options):
    with open(options.train, encoding="utf-8") as f:
        return [json.loads(line) for line in f][: options.prompts]


def cpu_seconds(pid):
    """Of a process, and of its threads that nng made."""
    tick = os.sysconf("SC_CLK_TCK")

    def read(path):
        with open(path) as f:
            comm, rest = f.read().split("(", 1)[1].rsplit(")", 1)
        fields = rest.split()
        return comm, (int(fields[11]) + int(fields[12])) / tick

    network = 0.0
    for task in os.listdir(f"/proc/{pid}/task"):
        try:
            comm, seconds = read(f"/proc/{pid}/task/{task}/stat")
        except OSError:
            continue
        if comm.startswith("nng"):
            network += seconds
    return read(f"/proc/{pid}/stat")[1], network


def ours(options):
    sys.path.insert(0, str(ROOT / "deploy/quickstart.d"))
    import cluster

    class Cluster(cluster.Cluster):
        def write_config(self, name, text):
            text = text.replace("slots = 16", f"slots = {options.slots}")
            return super().write_config(name, text)

    with tempfile.TemporaryDirectory() as out:
        data = pathlib.Path(out, "train.jsonl")
        data.write_text("".join(json.dumps(r) + "\n" for r in rows(options)), encoding="utf-8")
        settings = pathlib.Path(out, "run.conf")
        settings.write_text(
            f"[run]\nname = bench\niterations = 1\n[data]\ntrain = {data}\nholdout_share = 0\n"
            f"[model]\nbase = {os.path.abspath(options.base)}\n"
            f"[generate]\nmax_new_tokens = {options.new_tokens}\n"
            f"[train]\nepochs = {options.epochs}\nbatch_pairs = {BATCH_PAIRS}\nbeta = {BETA}\n"
            f"learning_rate = {LEARNING_RATE}\n", encoding="utf-8")
        c = Cluster(options.build, out, 1, quiet=True)
        try:
            c.start()
            c.spinctl("create-run", settings)
            pids = {name: d.process.pid for name, d in c.daemons.items()}
            before = {name: cpu_seconds(pid) for name, pid in pids.items()}
            start = time.monotonic()
            c.spinctl("run", "bench", "--force", "--iterations", "1")
            took = time.monotonic() - start
            after = {name: cpu_seconds(pid) for name, pid in pids.items()}
            iteration = c.spinctl("iterations", "bench")["iterations"][-1]
        finally:
            c.stop()
    cpu = {name: after[name][0] - before[name][0] for name in pids}
    network = sum(after[n][1] - before[n][1] for n in pids if n != "coordinator")
    total = sum(cpu.values())
    return {"seconds": took, "cpu_seconds": cpu, "network_threads_of_workers": network,
            "coordinator_wire_store_share": (cpu["coordinator"] + network) / total,
            "iteration": iteration}


def trl(options):
    import datasets
    import torch
    import transformers
    from trl import DPOConfig, DPOTrainer

    torch.set_num_threads(options.threads)
    transformers.set_seed(1)
    start = time.monotonic()
    tokenizer = transformers.AutoTokenizer.from_pretrained(options.base, padding_side="left")
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    model = transformers.AutoModelForCausalLM.from_pretrained(options.base, dtype=torch.float32)
    model.eval()
    data, generated = [], 0
    chats = [[{"role": "user", "content": r["question"]}] for r in rows(options)]
    for at in range(0, len(chats), 32):
        inputs = tokenizer.apply_chat_template(chats[at : at + 32], add_generation_prompt=True,
                                               return_tensors="pt", padding=True, return_dict=True)
        with torch.inference_mode():
            out = model.generate(**inputs, do_sample=True, temperature=1.0, top_k=0, top_p=1.0,
                                 max_new_tokens=options.new_tokens)
        for i, ids in enumerate(out[:, inputs["input_ids"].shape[1] :]):
            answer = tokenizer.decode(ids, skip_special_tokens=True)
            generated += int((ids != tokenizer.pad_token_id).sum())
            human = rows(options)[at + i]["answer"]
            data.append({"prompt": chats[at + i],
                         "chosen": [{"role": "assistant", "content": human}],
                         "rejected": [{"role": "assistant", "content": answer}]})
    sampled = time.monotonic() - start
    with tempfile.TemporaryDirectory() as out:
        config = DPOConfig(output_dir=out, beta=BETA, learning_rate=LEARNING_RATE,
                           num_train_epochs=options.epochs,
                           per_device_train_batch_size=options.micro_batch,
                           gradient_accumulation_steps=BATCH_PAIRS // options.micro_batch,
                           precompute_ref_log_probs=True, optim="rmsprop", warmup_steps=0,
                           gradient_checkpointing=False, bf16=False, use_cpu=True, report_to=[],
                           save_strategy="no", disable_tqdm=True, logging_steps=1,
                           max_length=None, dataloader_pin_memory=False)
        trainer = DPOTrainer(model=model, args=config, processing_class=tokenizer,
                             train_dataset=datasets.Dataset.from_list(data))
        trainer.train()
        trainer.save_model(out)
    import trl as package
    return {"seconds": time.monotonic() - start, "sampling_seconds": sampled, "tokens": generated,
            "versions": {"torch": torch.__version__, "transformers": transformers.__version__,
                         "trl": package.__version__}}


def main():
    a = argparse.ArgumentParser(description=__doc__,
                                formatter_class=argparse.RawDescriptionHelpFormatter)
    a.add_argument("--build", default="build")
    a.add_argument("--base", required=True)
    a.add_argument("--train", required=True)
    a.add_argument("--prompts", type=int, default=64)
    a.add_argument("--new-tokens", type=int, default=256)
    a.add_argument("--epochs", type=int, default=1)
    a.add_argument("--slots", type=int, default=64)
    a.add_argument("--threads", type=int, default=os.cpu_count())
    a.add_argument("--micro-batch", type=int, default=4)
    a.add_argument("--side", choices=("ours", "trl", "both"), default="both")
    options = a.parse_args()
    if options.side != "both":
        print(json.dumps((ours if options.side == "ours" else trl)(options)))
        return
    result = {}
    for side in ("ours", "trl"):  # each in a process of its own: torch's threads end with it
        command = [sys.executable, __file__, *sys.argv[1:], "--side", side]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode != 0:
            sys.exit(f"{side}: {done.stderr[-2000:]}")
        result[side] = json.loads(done.stdout.splitlines()[-1])
        print(f"{side}: {json.dumps(result[side])}", flush=True)
    result["ratio"] = result["trl"]["seconds"] / result["ours"]["seconds"]
    print(json.dumps(result))


if __name__ == "__main__":
    main()
