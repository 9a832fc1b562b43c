"""deploy/quickstart's loop: data, processes, self-play, the baseline, and what came of it."""

import argparse
import json
import math
import os
import pathlib
import shutil
import sys
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

import chaos
import task
from cluster import Cluster, Failure

HERE = pathlib.Path(__file__).resolve().parent
SPIN_RATES = [5e-5, 1e-4, 2e-4, 4e-4]
SFT_RATES = [2e-4, 4e-4, 8e-4, 1.6e-3]
SPIN_EPOCHS = 2

# Settings of both arms. The learning rate is chosen for each on the validation split.
RUN = """# written by deploy/quickstart
[run]
name = {name}
mode = {mode}
seed = {seed}
iterations = {iterations}
backend = {backend}

[data]
train = ../data/train.jsonl
holdout = ../data/holdout.jsonl
eval = ../data/{eval}.jsonl
template = none
max_prompt_tokens = 64
max_sequence_tokens = 96

[model]
base = {base}

[generate]
max_new_tokens = 24

[train]
optimizer = adamw
learning_rate = {learning_rate}
beta = {beta:g}
sft_weight = 0
epochs = {epochs}
batch_pairs = 32
micro_batch_tokens = 2048
snapshot_steps = 4
guard_nats = 0

[verdict]
min_pairs = {min_pairs}
stop = false
accept_degraded = true
"""


class Sizes:
    def __init__(self, fast):
        self.train = 192 if fast else 500
        self.holdout = 100 if fast else 1000
        self.validation = 200 if fast else 400
        self.eval = 1000 if fast else 2000
        self.spin_rates = [2e-4] if fast else SPIN_RATES
        self.sft_rates = [8e-4] if fast else SFT_RATES
        self.min_pairs = 100 if fast else 1000


def wilson(share, n, z=1.959964):
    """The 95 % interval of a share (Wilson 1927)."""
    if not n:
        return (0.0, 1.0)
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    return (centre - half, centre + half)


def say(text=""):
    print(text, flush=True)


def write_data(out, seed, sizes):
    data = out / "data"
    data.mkdir(parents=True, exist_ok=True)
    (out / "runs").mkdir(exist_ok=True)
    known = set(task.problems(task.BASE_SEED, "corpus", task.BASE_ROWS))
    counts = {}
    for name in ("train", "holdout", "validation", "eval"):
        problems = task.problems(seed, name, getattr(sizes, name), exclude=known)
        known.update(problems)
        task.write_jsonl(data / f"{name}.jsonl", task.careful(problems))
        counts[name] = len(problems)
    return counts


class Loop:
    def __init__(self, cluster, options, sizes):
        self.cluster, self.options, self.sizes = cluster, options, sizes
        self.out = cluster.out

    def create(self, name, mode, rate, iterations, epochs, evaluate):
        text = RUN.format(
            name=name,
            mode=mode,
            backend=self.options.backend,
            seed=self.options.seed,
            iterations=iterations,
            base=task.base_directory(),
            eval=evaluate,
            learning_rate=f"{rate:g}",
            beta=self.options.beta,
            epochs=epochs,
            min_pairs=self.sizes.min_pairs,
        )
        path = self.out / "runs" / f"{name}.conf"
        path.write_text(text, encoding="utf-8")
        self.cluster.spinctl("create-run", path)
        return name

    def run(self, name, live=False, iterations=None):
        """All iterations of a run; what `spinctl iterations` says of them."""
        command = ["run", name, "--force"]
        if iterations:
            command += ["--iterations", iterations]
        if live:
            self.cluster.spinctl_live(*command)
        else:
            self.cluster.spinctl(*command)
        return self.cluster.spinctl("iterations", name)["iterations"]

    def choose(self, title, name, mode, rates, epochs):
        """The rate whose one iteration does best on the validation split, greedy and sampled."""
        if len(rates) == 1:
            return rates[0]
        scores = {}
        for rate in rates:
            run = self.create(f"{name}-try-{rate:g}", mode, rate, 1, epochs, "validation")
            row = self.run(run)[-1]
            scores[rate] = row["exact_match"] + row["sampled_exact_match"]
            say(f"  {title}, learning rate {rate:g}: validation exact match "
                f"{row['exact_match']:.1%}, sampled {row['sampled_exact_match']:.1%}")
        return max(rates, key=lambda rate: scores[rate])

    def spin(self):
        rate = self.choose("self-play", "spin", "spin", self.sizes.spin_rates, SPIN_EPOCHS)
        say(f"self-play: {self.options.iterations} iterations, learning rate {rate:g}")
        name = self.create("spin", "spin", rate, self.options.iterations, SPIN_EPOCHS, "eval")
        if self.options.kill:
            return rate, chaos.run_with_kills(self, name)
        return rate, self.run(name, live=not self.options.quiet)

    def baseline(self, spin_tokens):
        """Continued SFT with as many trained tokens."""
        say("baseline: continued SFT on the same answers")
        one_pass = self.run(self.create("sft-probe", "sft", 1e-4, 1, 1, "validation"))[-1]
        epochs = max(1, round(spin_tokens / max(1, one_pass["train_tokens"])))
        rate = self.choose("continued SFT", "sft", "sft", self.sizes.sft_rates, epochs)
        row = self.run(self.create("sft", "sft", rate, 1, epochs, "eval"))[-1]
        return dict(row, learning_rate=rate, epochs=epochs)


ITERATION_FIELDS = (
    "iteration loss_first_step margin_abs_max_first_step loss_last_step margin_last "
    "holdout_accuracy identical_share exact_match sampled_exact_match pairs train_tokens "
    "generated_tokens checkpoint_sha256 pairs_sha256 seconds verdict pairs_by_generator"
).split()


def summarize(options, rows, sft, rate, started):
    base = rows[0].get("base") or {}
    eval_n = rows[0].get("eval_n", 0)
    return {
        "seed": options.seed,
        "seconds": round(time.monotonic() - started, 1),
        "eval_n": eval_n,
        "generators": options.generators,
        "learning_rate": rate,
        "base": {
            "exact_match": base.get("exact_match"),
            "sampled_exact_match": base.get("sampled_exact_match"),
        },
        "sft_continued": {
            "exact_match": sft["exact_match"],
            "sampled_exact_match": sft["sampled_exact_match"],
            "train_tokens": sft["train_tokens"],
            "learning_rate": sft["learning_rate"],
            "epochs": sft["epochs"],
            "checkpoint_sha256": sft["checkpoint_sha256"],
        },
        "iterations": [{key: row.get(key) for key in ITERATION_FIELDS} for row in rows],
    }


def share(value, n):
    if value is None:
        return "      -"
    low, high = wilson(value, n)
    return f"{value:6.1%} [{low:.1%}, {high:.1%}]"


def number(value, form):
    return "-" if value is None else format(value, form)


def print_table(summary):
    n = summary["eval_n"]
    say()
    say(f"Exact match on {n} problems that were not trained on, with 95 % intervals:")
    say()
    head = (f"{'':14} {'greedy':>22} {'sampled (T = 1)':>23} {'loss first → last':>19} "
            f"{'|m| first':>9} {'margin':>7} {'held-out':>8} {'y = y′':>7} {'tok/s gen, train':>17} "
            f"{'time':>7}  verdict")
    say(head)
    say("-" * len(head))
    base, sft = summary["base"], summary["sft_continued"]
    say(f"{'base':14} {share(base['exact_match'], n):>22} "
        f"{share(base['sampled_exact_match'], n):>23}")
    for row in summary["iterations"]:
        seconds = row["seconds"] or 1
        loss = f"{number(row['loss_first_step'], '.4f')} → {number(row['loss_last_step'], '.4f')}"
        rates = f"{(row['generated_tokens'] or 0) / seconds:.0f}, " \
                f"{(row['train_tokens'] or 0) / seconds:.0f}"
        say(f"{'iteration ' + str(row['iteration']):14} {share(row['exact_match'], n):>22} "
            f"{share(row['sampled_exact_match'], n):>23} {loss:>19} "
            f"{number(row['margin_abs_max_first_step'], '.1e'):>9} "
            f"{number(row['margin_last'], '.3f'):>7} {number(row['holdout_accuracy'], '.3f'):>8} "
            f"{number(row['identical_share'], '.1%'):>7} {rates:>17} {seconds:5.1f} s  "
            f"{row['verdict']}")
    say(f"{'continued SFT':14} {share(sft['exact_match'], n):>22} "
        f"{share(sft['sampled_exact_match'], n):>23}   on the same answers, "
        f"{sft['train_tokens']:,} trained tokens (self-play: "
        f"{sum(r['train_tokens'] or 0 for r in summary['iterations']):,})")
    say()


def verdict_line(summary):
    last, base, sft = summary["iterations"][-1], summary["base"], summary["sft_continued"]
    if None in (last["exact_match"], base["exact_match"], sft["exact_match"]):
        return
    gain = 100 * (last["exact_match"] - base["exact_match"])
    sampled = 100 * (last["sampled_exact_match"] - base["sampled_exact_match"])
    ahead = last["exact_match"] - sft["exact_match"]
    side = "ahead of" if ahead > 0 else "behind"
    say(f"Self-play moved the base by {gain:+.1f} points greedy and {sampled:+.1f} sampled, with no "
        f"reward and no preference data;")
    say(f"it is {abs(100 * ahead):.1f} points {side} continued SFT on the same answers with as many "
        "trained tokens.")


def parse(arguments):
    parser = argparse.ArgumentParser(
        prog="deploy/quickstart",
        description="Runs self-play fine-tuning on a task that it makes by itself: a small model that "
        "learned from sloppy answers (the last two words of a sorted list the wrong way round, half "
        "of the time) meets a few hundred careful ones. One coordinator, generators and a trainer run "
        "as separate processes; everything is driven by spinctl. Ends with a table, summary.json and "
        "report.html.",
    )
    parser.add_argument("--out", default="out", metavar="DIR", help="where everything goes "
                        "(default: out; must not exist, or hold an earlier quickstart)")
    parser.add_argument("--generators", type=int, default=2, metavar="N", help="default: 2")
    parser.add_argument("--seed", type=int, default=1, metavar="N",
                        help="of data and run (default: 1)")
    parser.add_argument("--iterations", type=int, default=3, metavar="N", help="default: 3")
    parser.add_argument("--beta", type=float, default=5, metavar="B",
                        help="of the loss (default: 5)")
    parser.add_argument("--fast", action="store_true",
                        help="smaller, no search for learning rates: under a minute, for tests")
    parser.add_argument("--keep-running", action="store_true",
                        help="leave the processes running at the end, until Ctrl-C")
    parser.add_argument("--kill", action="store_true", help="kill each daemon with -9 in the middle "
                        "of every iteration, to see that nothing changes but the time")
    parser.add_argument("--quiet", action="store_true", help="no live progress")
    parser.add_argument("--backend", default="cpu", metavar="NAME",
                        help="cpu (default), openblas, cuda or cuda-fp32")
    parser.add_argument("--build", default=None, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.generators < 1 or options.generators > 64:
        parser.error("--generators: 1 to 64")
    if options.iterations < 1 or options.iterations > 64:
        parser.error("--iterations: 1 to 64")
    if options.seed < 0:
        parser.error("--seed: 0 or more")
    return options


def prepare(options):
    out = pathlib.Path(options.out)
    if out.exists():
        if any(out.iterdir()) and not (out / "quickstart.json").exists():
            raise Failure(f"{out} is not empty and no earlier quickstart: give another --out")
        shutil.rmtree(out)
    out.mkdir(parents=True)
    (out / "quickstart.json").write_text(json.dumps(vars(options)) + "\n", encoding="utf-8")
    return out


def run(options):
    started = time.monotonic()
    out = prepare(options)
    sizes = Sizes(options.fast)
    counts = write_data(out, options.seed, sizes)
    say(f"task: put words in order; {counts['train']} prompts with careful answers, "
        f"{counts['eval']} problems to judge by, seed {options.seed}")
    cluster = Cluster(options.build, out, options.generators, backend=options.backend)
    try:
        cluster.start()
        say(f"one coordinator, {options.generators} generators and one trainer are running; "
            f"logs in {out}/logs")
        loop = Loop(cluster, options, sizes)
        rate, rows = loop.spin()
        sft = loop.baseline(sum(row["train_tokens"] or 0 for row in rows))
        summary = summarize(options, rows, sft, rate, started)
        cluster.spinctl("export", "spin", out / "checkpoint")
        (out / "summary.json").write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
        cluster.spinctl("report", "spin", "--beside", "sft", "-o", out / "report.html")
        print_table(summary)
        verdict_line(summary)
        say(f"{out}/summary.json, {out}/report.html and the trained model {out}/checkpoint are "
            f"written ({summary['seconds']:.0f} s)")
        if options.keep_running:
            say(f"still running: SPIN_STATE_DIR={cluster.state.resolve()} spinctl status; "
                "Ctrl-C ends it")
            while True:
                time.sleep(3600)
    finally:
        cluster.stop()


def main():
    options = parse(sys.argv[1:])
    try:
        run(options)
    except Failure as failure:
        print(f"quickstart: {failure}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
