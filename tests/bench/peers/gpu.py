"""What gpu_step.py and gpu_decode.py share: shapes, the peer in a process of its own, ours, and how
the figures of both are put beside each other. Needs torch only where a peer runs."""
import json
import os
import pathlib
import shlex
import statistics
import subprocess
import sys
import time

STARTED = time.monotonic()
SHAPES = {
    "mistral-7b": {
        "model_type": "mistral", "architectures": ["MistralForCausalLM"], "vocab_size": 32000,
        "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32,
        "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 128,
        "max_position_embeddings": 4096, "rms_norm_eps": 1e-5, "rope_theta": 10000.0,
        "sliding_window": None, "tie_word_embeddings": False, "initializer_range": 0.02,
        "bos_token_id": 1, "eos_token_id": 2, "hidden_act": "silu", "torch_dtype": "bfloat16"},
    "smollm2-135m": {
        "model_type": "llama", "architectures": ["LlamaForCausalLM"], "vocab_size": 49152,
        "hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30,
        "num_attention_heads": 9, "num_key_value_heads": 3, "max_position_embeddings": 8192,
        "rms_norm_eps": 1e-5, "rope_theta": 100000.0, "tie_word_embeddings": True,
        "initializer_range": 0.04, "bos_token_id": 1, "eos_token_id": 2, "hidden_act": "silu",
        "torch_dtype": "bfloat16"},
    "tiny": {  # for trying these programs
        "model_type": "mistral", "architectures": ["MistralForCausalLM"], "vocab_size": 1000,
        "hidden_size": 128, "intermediate_size": 384, "num_hidden_layers": 3,
        "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 32,
        "max_position_embeddings": 4096, "rms_norm_eps": 1e-5, "rope_theta": 10000.0,
        "sliding_window": None, "tie_word_embeddings": False, "initializer_range": 0.02,
        "bos_token_id": 1, "eos_token_id": 2, "hidden_act": "silu", "torch_dtype": "bfloat16"},
}


def shape_directory(shape, parent):
    """The directory with a config.json that `shape` names, or is."""
    if shape not in SHAPES:
        return os.path.abspath(shape)
    directory = pathlib.Path(parent, shape)
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "config.json").write_text(json.dumps(SHAPES[shape], indent=1), encoding="utf-8")
    return str(directory)


def common_options(parser):
    parser.add_argument("--build", default="build", help="where spin-model is: a build directory or "
                        "what tests/gpu/pack wrote")
    parser.add_argument("--shape", default="mistral-7b",
                        help=f"{', '.join(SHAPES)}, or a directory with a config.json")
    parser.add_argument("--device", default="cuda", help="the peer's: cuda or cpu")
    parser.add_argument("--backend", default="cuda", help="ours")
    parser.add_argument("--extra", default="", help="more options for spin-model bench, as one word")
    parser.add_argument("--dtype", default="bfloat16", choices=("bfloat16", "float32"),
                        help="of the peer's weights and computing")
    parser.add_argument("--turns", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3, help="of each side in a turn")
    parser.add_argument("--seconds", type=float, default=float("inf"),
                        help="begin no other setting and no other turn after so long")
    parser.add_argument("--side", choices=("both", "ours", "peer"), default="both")
    parser.add_argument("--scratch", default="out-gpu", help="where the shape is written")
    parser.add_argument("--python", default=sys.executable, help="the one that has torch")
    parser.add_argument("--json", help="write one document there")
    parser.add_argument("--serve", action="store_true")


# --- the peer's side, in its own process ---


def answer(**fields):
    print(json.dumps(fields), flush=True)


def serve(peer):
    """Commands on standard input, one a line; see class Peer below."""
    answer(**peer.describe())
    for line in sys.stdin:
        command, *arguments = json.loads(line)
        result = None
        try:
            result = getattr(peer, "do_" + command)(*arguments)
        except Exception as error:  # of torch: out of memory, what it cannot compile, …
            text = str(error).strip().splitlines()
            failed = f"{type(error).__name__}: {text[0] if text else ''}"[:300]
        if result is None:  # here nothing holds what the error's frames held
            peer.release()
            result = {"failed": failed}
        answer(**result)


class Torch:
    """Of a peer that torch runs: opening, clock, probes."""

    def __init__(self, options):
        import torch
        import transformers
        self.torch, self.transformers, self.options = torch, transformers, options
        self.device, self.dtype = options.device, getattr(torch, options.dtype)
        self.cuda = options.device == "cuda"
        transformers.logging.set_verbosity_error()
        torch.manual_seed(0)

    def describe(self):
        return {"versions": {"torch": self.torch.__version__,
                             "transformers": self.transformers.__version__,
                             "cuda": self.torch.version.cuda},
                "device": self.torch.cuda.get_device_name() if self.cuda else "cpu"}

    def make_model(self, directory):
        """Random weights, made where they stay."""
        config = self.transformers.AutoConfig.from_pretrained(directory)
        make = self.transformers.AutoModelForCausalLM.from_config
        with self.torch.device(self.device):
            model = make(config, dtype=self.dtype, attn_implementation="sdpa")
        return model.to(self.device)  # whatever was made elsewhere all the same

    def attention(self, model, name):
        if hasattr(model, "set_attn_implementation"):
            model.set_attn_implementation(name)
        else:
            model.config._attn_implementation = name

    def synchronize(self):
        if self.cuda:
            self.torch.cuda.synchronize()

    def timed(self, run):
        self.synchronize()
        start = time.perf_counter()
        run()
        self.synchronize()
        return time.perf_counter() - start

    def reset_peak(self):
        if self.cuda:
            self.torch.cuda.empty_cache()
            self.torch.cuda.reset_peak_memory_stats()

    def peak_bytes(self):
        if self.cuda:
            return self.torch.cuda.max_memory_reserved()
        with open("/proc/self/status", encoding="utf-8") as f:
            return next(int(x.split()[1]) * 1024 for x in f if x.startswith("VmHWM:"))

    def do_probe(self):
        """What the device reaches: a large product in bf16, and a copy (bytes read and written)."""
        torch = self.torch
        side, block = (8192, 2 << 30) if self.cuda else (512, 64 << 20)
        a = torch.randn(side, side, device=self.device, dtype=torch.bfloat16)
        b = torch.randn(side, side, device=self.device, dtype=torch.bfloat16)
        x = torch.ones(block // 2, device=self.device, dtype=torch.bfloat16)
        y = torch.empty_like(x)

        def best(run, inner):
            run()
            return min(self.timed(lambda: [run() for _ in range(inner)]) / inner for _ in range(5))

        c = torch.empty_like(a)
        product = best(lambda: torch.matmul(a, b, out=c), 10 if self.cuda else 1)
        copy = best(lambda: y.copy_(x), 10 if self.cuda else 1)
        del a, b, c, x, y
        self.reset_peak()
        return {"gemm_tflops": 2e-12 * side**3 / product, "gb_per_s": 2e-9 * block / copy}


# --- the driver's side ---


class Peer:
    def __init__(self, script, options, arguments):
        command = [options.python, str(script), "--serve", *arguments]
        self.process = subprocess.Popen(command, text=True, stdin=subprocess.PIPE,
                                        stdout=subprocess.PIPE)
        self.description = self.read()

    def read(self):
        line = self.process.stdout.readline()
        while line and not line.startswith("{"):
            line = self.process.stdout.readline()
        if not line:
            sys.exit(f"the peer ended with {self.process.wait()}: its last words are above")
        return json.loads(line)

    def ask(self, *command):
        self.process.stdin.write(json.dumps(command) + "\n")
        self.process.stdin.flush()
        return self.read()

    def close(self):
        self.process.stdin.close()
        self.process.wait()


def has_peer(python):
    """Whether this Python has torch and transformers."""
    code = "import importlib.util as u, sys; sys.exit(not (u.find_spec('torch') and " \
           "u.find_spec('transformers')))"
    return subprocess.run([python, "-c", code], check=False).returncode == 0


def ours(options, directory, *arguments):
    """spin-model bench as JSON; what it says of its plan goes to standard error as it is."""
    program = pathlib.Path(options.build, "common/spin-model/spin-model")
    command = [str(program), "bench", directory, "--backend", options.backend, "--json", "--quiet",
               "--seconds", "0", "--repeats", str(options.repeats), *arguments,
               *shlex.split(options.extra)]
    print("+", shlex.join(command), file=sys.stderr, flush=True)
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode != 0:
        sys.exit(f"spin-model bench ended with {done.returncode}")
    return json.loads(done.stdout)


def time_is_up(options):
    return time.monotonic() - STARTED > options.seconds


def choose(peer, options, tried):
    """The setting that was fastest, each tried once; says what each gave. Not all of them where time
    is short: one that works, and then as many as can begin in half of it."""
    best = None
    for setting in peer.ask("settings")["settings"]:
        if best is not None and time.monotonic() - STARTED > options.seconds / 2:
            tried.append({"setting": setting, "failed": "no time"})
            print(f"  {setting} is not tried: time is short", file=sys.stderr, flush=True)
            continue
        result = peer.ask("try", setting)
        tried.append({"setting": setting, **result})
        said = result.get("failed") or f"{result['seconds']:.3f} s"
        print(f"  tried {setting}: {said}", file=sys.stderr, flush=True)
        if "failed" not in result and (best is None or result["seconds"] < best[0]):
            best = result["seconds"], setting
    if best is None:
        sys.exit("no setting of the peer works here")
    return best[1]


def spread(values):
    return {"median": statistics.median(values), "lowest": min(values), "highest": max(values),
            "n": len(values)}


def line(name, unit, values, more=""):
    s = spread(values)
    print(f"{name:34} {s['median']:10.2f} {unit:8} {s['lowest']:10.2f} - {s['highest']:.2f} of "
          f"{s['n']}  {more}", flush=True)


def target(document, name, value, wanted, text):
    """A figure that has a target; printed and kept."""
    met = value >= wanted
    document.setdefault("targets", []).append({"name": name, "value": value, "wanted": wanted,
                                               "met": met})
    print(f"{text}: target {wanted:g}, {'met' if met else 'missed'}", flush=True)


def memory(document, figure, text):
    """Peak beside plan."""
    peak, plan = figure["peak_bytes"], figure.get("plan_bytes", 0)
    document["peak_bytes"], document["plan_bytes"] = peak, plan
    if plan:
        off = peak / plan - 1
        met = abs(off) <= 0.05
        document.setdefault("targets", []).append(
            {"name": f"{text}: peak beside plan", "value": off, "wanted": 0.05, "met": met})
        print(f"{text}: peak {peak / 2**30:.2f} GiB, plan {plan / 2**30:.2f} GiB, off by "
              f"{100 * off:+.1f} %: target 5 %, {'met' if met else 'missed'}", flush=True)


def write(path, document):
    if path:
        with open(path, "w", encoding="utf-8") as f:
            json.dump(document, f, indent=1)
            f.write("\n")
