"""The steps of tests/gpu/run: each is a function that prints what it does, raises Failed or Skipped,
and returns figures for results.json. They run in a process of their own, in the table's order."""
import importlib.util
import json
import math
import os
import pathlib
import shutil
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests/bench/peers"))
import gpu as peers  # noqa: E402

CUBLAS = "libcublasLt.so.13"
LN2 = math.log(2)
# Programs of BUILD/tests/gpu that never need a device.
HOST_PROGRAMS = ("fake", "pages", "ptx")
# When peers begin nothing new, or after half of what is left; what they have begun then ends within
# the rest. With less than this left they don't begin.
PEER_SECONDS = 240
# Tools that may be too slow for a program, which then counts as skipped.
SLOW_TOOLS = ("racecheck", "initcheck")
# Those that look at our kernels (gpu_…) only: what orders the threads of cublasLt's is its own. The
# others see what is written by all, and where.
OWN_KERNELS = ("racecheck", "synccheck")


class Failed(Exception):
    pass


class Skipped(Exception):
    pass


class Step:
    """slow: what is not done in time says nothing, and is no failure. alone: nothing else is at work
    beside it. least: seconds that must be left, else it is for the next time."""

    def __init__(self, name, text, run, after=(), slow=False, alone=False, least=5):
        self.name, self.text, self.run = name, text, run
        self.after, self.slow, self.alone, self.least = after, slow, alone, least


class Context:
    """Where things are, and how programs are started."""

    def __init__(self, build, out, emulated, ptx=False):
        self.build, self.out, self.emulated = pathlib.Path(build), pathlib.Path(out), emulated
        self.ptx = ptx  # the emulated device runs what nvcc made of the kernels
        self.seconds = float("inf")  # that a step has
        self.iterations = 1 if emulated else 2
        self.device = "cuda-fp32" if emulated else "cuda"

    def environment(self, **more):
        env = dict(os.environ)
        env["SPIN_MODULE_PATH"] = str(
            self.build / ("tests/gpu" if self.emulated else "common/tensor/cuda"))
        if self.ptx:
            env["SPIN_EMULATE_PTX"] = str(self.build / "common/tensor/cuda")
        env["SPIN_TEST_ROOT"] = str(ROOT)
        if (ROOT.parent / "shared/data").is_dir():
            env.setdefault("SPIN_SHARED_DATA", str(ROOT.parent / "shared/data"))
        env["CK_TAP_LOG_FILE_NAME"] = "-"
        env["CK_VERBOSITY"] = "silent"
        env.setdefault("CK_TIMEOUT_MULTIPLIER", "8")
        folders = [] if self.emulated else cublas_folders()
        if folders:
            env["LD_LIBRARY_PATH"] = ":".join(
                filter(None, [*folders, env.get("LD_LIBRARY_PATH")]))
        env.update(more)
        return env

    def run(self, *command, **more):
        """A program of the build, with its output in the step's log."""
        command = [str(c) for c in command]
        print("+", *command, flush=True)
        done = subprocess.run(command, env=self.environment(**more), check=False)
        if done.returncode != 0:
            raise Failed(f"{pathlib.Path(command[0]).name} ended with {done.returncode}")

    def python(self, script, *arguments, **more):
        self.run(sys.executable, ROOT / script, *arguments, **more)

    def program(self, relative):
        path = self.build / relative
        if not path.exists():
            raise Skipped(f"no {relative} in {self.build}")
        return path


def cublas_folders():
    """Where libcublasLt is, when the loader doesn't know by itself: what torch brings, or CUDA."""
    try:
        known = subprocess.run(["/sbin/ldconfig", "-p"], capture_output=True, text=True,
                               check=False).stdout
    except OSError:  # not there
        known = ""
    paths = os.environ.get("LD_LIBRARY_PATH", "").split(":")
    if CUBLAS in known or any(p and pathlib.Path(p, CUBLAS).exists() for p in paths):
        return []
    spec = importlib.util.find_spec("nvidia")
    folders = []
    for place in (spec.submodule_search_locations or []) if spec else []:
        folders += sorted(pathlib.Path(place).glob("*/lib"))
    for cuda in [pathlib.Path("/usr/local/cuda"), *sorted(pathlib.Path("/usr/local").glob("cuda-13*"))]:
        folders += [cuda / "lib64", cuda / "targets/x86_64-linux/lib"]
    return [str(f) for f in folders if (f / CUBLAS).exists()][:1]


# --- operations ---


def programs(c):
    """Of BUILD/tests/gpu, that test a device: NAME or, with the device in it, NAME_device."""
    found = {}
    folder = c.build / "tests/gpu"
    for path in sorted(folder.glob("gpu_*")) if folder.is_dir() else []:
        name = path.name[len("gpu_"):]
        if path.is_dir() or path.suffix or name.startswith(HOST_PROGRAMS):
            continue
        if name.endswith("_device"):
            if not c.emulated:
                found[name[:-len("_device")]] = path
        elif c.emulated or not linked_with_emulator(path, folder):
            found.setdefault(name, path)
    return found


def linked_with_emulator(path, folder):
    """Such a program tests nothing of a device; its twin with the real one does."""
    return (folder / (path.name + "_device")).exists() or b"emulated by the host" in \
        path.read_bytes()


def operation_runs(c):
    """(name, command): gpu_operations once for each backend."""
    for name, path in programs(c).items():
        if name == "operations":
            yield "operations_fp32", [path, "cuda-fp32"]
            yield "operations_bf16", [path, "cuda"]
            yield "operations_bf16_parameters", [path, "cuda-bf16"]
        else:
            yield f"op_{name}", [path]


def step_module(c):
    """Opens the device; everything else needs that."""
    path = c.program("tests/gpu/gpu_operations")
    done = subprocess.run([str(path), "cuda-fp32"], env=c.environment(), text=True,
                          stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, check=False)
    print(done.stderr)
    line = next((x for x in done.stderr.splitlines() if x.startswith("# cuda-fp32:")), None)
    if not line:
        raise Failed("the backend does not open")
    if not c.emulated and shutil.which("nvidia-smi"):
        subprocess.run(["nvidia-smi"], check=False)
    return {"device": line[len("# cuda-fp32:"):].strip()}


def unit(c, folder, names, **more):
    """In one process, as each that opens a device takes a while; and where that fails, for what it
    says, once more with one for each test."""
    failure = None
    for name in names:
        program = c.program(f"tests/unit/{folder}/test_{folder}_{name}")
        try:
            c.run(program, **more, CK_FORK="no")
        except Failed as why:
            failure = failure or why
            c.run(program, **more)
    if failure:
        raise failure


def step_optimizers(c):
    unit(c, "tensor", ["optimizers"])


def step_digests(c):
    unit(c, "spin", ["numerics"])


def step_fixtures(c):
    unit(c, "model", ["forward", "arch"], SPIN_TEST_BACKEND="cuda-fp32")


def decoder(c, backend):
    unit(c, "model", ["decoder", "decoder_queue"], SPIN_TEST_BACKEND=backend)


# --- the loop ---


def quickstart(c, name, backend, generators, *more):
    c.python("deploy/quickstart.d/main.py", "--build", c.build, "--fast", "--quiet", "--out",
             c.out / f"runs-{name}", "--iterations", c.iterations, "--backend", backend,
             "--generators", generators, *more)
    return {"first_steps": [first_step(x) for x in summary(c, name)["iterations"]]}


def summary(c, name):
    path = c.out / f"runs-{name}/summary.json"
    if not path.exists():
        raise Failed(f"{path} is missing: its step has not passed")
    return json.loads(path.read_text(encoding="utf-8"))


def first_step(iteration):
    return {k: iteration[k] for k in ("loss_first_step", "margin_abs_max_first_step")}


def same(c, one, other):
    found = [[[x["checkpoint_sha256"], x["pairs_sha256"]] for x in summary(c, n)["iterations"]]
             for n in (one, other)]
    print(f"{one}: {found[0]}\n{other}: {found[1]}")
    if found[0] != found[1] or not found[0]:
        raise Failed(f"{one} and {other} differ")


def step_loop_digests(c):
    same(c, "loop", "loop_again")
    same(c, "loop", "loop_three")


def step_loss_first_step(c):
    """The first loss of each iteration is that of margins that are zero."""
    figures = {}
    for name, beta in (("loop_beta", 0.1), ("loop", 5)):
        off = [abs(x["loss_first_step"] - LN2) for x in summary(c, name)["iterations"]]
        print(f"beta {beta}: off by {off}")
        figures[f"beta {beta}"] = off
        if not off or max(off) >= 1e-3:
            raise Failed(f"beta {beta}: the first loss is off by {max(off, default=None)}")
    return figures


def step_loop_fp32_is_cpu(c):
    quickstart(c, "cpu", "cpu", 2)
    same(c, "fp32", "cpu")


# --- speed ---


def bench(c, shape, *arguments):
    directory = peers.shape_directory(shape, c.out)
    command = [str(c.program("common/spin-model/spin-model")), "bench", directory, "--backend",
               "cuda", "--json", "--quiet", *arguments]
    print("+", *command, flush=True)
    done = subprocess.run(command, env=c.environment(), stdout=subprocess.PIPE, text=True,
                          check=False)
    if done.returncode != 0:
        raise Failed(f"spin-model bench ended with {done.returncode}")
    print(done.stdout)
    return json.loads(done.stdout)


def step_bench(c):
    return bench(c, "smollm2-135m", "--seconds", "1", "--repeats", "3")


def seven_billion(c, beside_peer, *arguments):
    """Where the step beside a peer, which measures ours, too, has not passed: there is none, it
    doesn't run here, or there was no time for it."""
    if (c.out / f"{beside_peer}.done").exists():
        raise Skipped(f"{beside_peer} has measured it")
    return bench(c, "mistral-7b", "--seconds", "0", "--repeats", "5", *arguments)


def step_words(name):
    """More options for the 7B steps, from the environment: SPIN_GPU_STEP, SPIN_GPU_DECODE."""
    return os.environ.get(name, "").split()


def step_bench_7b_step(c):
    return seven_billion(c, "peer_step", "--pairs", "512,256,256,16", "--weights", "bf16", *(
        step_words("SPIN_GPU_STEP") or ["--micro", "4", "--optimizer-state", "8bit"]))


def step_bench_7b_decode(c):
    return seven_billion(c, "peer_decode", "--sequences", "128,256,256", "--weights", "bf16", "--kv", "bf16",
                         "--activations", "bf16", *step_words("SPIN_GPU_DECODE"))


def beside(c, script, *arguments):
    if not peers.has_peer(sys.executable):
        raise Skipped(f"{sys.executable} has no torch and transformers")
    path = c.out / (pathlib.Path(script).stem + ".json")
    c.python(f"tests/bench/peers/{script}", "--build", c.build, "--scratch", c.out, "--json", path,
             "--seconds", min(PEER_SECONDS, c.seconds / 2), *arguments)
    return json.loads(path.read_text(encoding="utf-8"))


def step_peer_step(c):
    more = " ".join(["--weights bf16", *(step_words("SPIN_GPU_STEP") or ["--micro 4 --optimizer-state 8bit"])])
    return beside(c, "gpu_step.py", f"--extra={more}")


def step_peer_decode(c):
    return beside(c, "gpu_decode.py", f"--extra={' '.join(step_words('SPIN_GPU_DECODE'))}")


def gsm8k(c, iterations):
    model, data = os.environ.get("SPIN_GPU_MODEL"), os.environ.get("SPIN_GPU_GSM8K")
    if not model or not data:
        raise Skipped("SPIN_GPU_MODEL (a checkpoint) and SPIN_GPU_GSM8K (train.jsonl's folder) name "
                      "nothing")
    c.python("tests/gpu/gsm8k.py", "--build", c.build, "--model", model, "--gsm8k", data, "--out",
             c.out / "gsm8k", "--iterations", iterations, *step_words("SPIN_GPU_GSM8K_OPTIONS"))
    found = json.loads((c.out / "gsm8k/gsm8k.json").read_text(encoding="utf-8"))
    return {k: v for k, v in found.items() if k not in ("raw", "workers")}


# --- compute-sanitizer ---


def sanitizer():
    found = shutil.which("compute-sanitizer") or "/usr/local/cuda/bin/compute-sanitizer"
    if not pathlib.Path(found).exists():
        raise Skipped("no compute-sanitizer")
    return found


def watched(c, tool, command, **more):
    """The program under a tool of compute-sanitizer. What calls of CUDA return is not its business:
    the device looks at all of it itself, and libraries ask the driver for what it may not have (one
    of CUDA 13.1 does so where the driver is of 13.0), which would count as errors."""
    options = ["--tool", tool, "--error-exitcode", "9", "--print-limit", "20", "--report-api-errors",
               "no", *(["--kernel-name", "kns=gpu_"] if tool in OWN_KERNELS else [])]
    command = [str(x) for x in [sanitizer(), *options, *command]]
    print("+", *command, flush=True)
    unsupported = False
    with subprocess.Popen(command, env=c.environment(**more), text=True, errors="replace",
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:
        for line in process.stdout:
            print(line, end="", flush=True)
            unsupported |= "Device not supported" in line
    if unsupported:
        raise Skipped("compute-sanitizer does not support this device, or not on such a machine")
    if process.returncode != 0:
        raise Failed(f"compute-sanitizer ended with {process.returncode}")


def sanitize(tool, command):
    return lambda c: watched(c, tool, command)


def memcheck_unit(relative):
    # Without a process for each test, so that there is one to watch.
    return lambda c: watched(c, "memcheck", [c.program(relative)], SPIN_TEST_BACKEND="cuda-fp32",
                             CK_FORK="no")


def operation_steps(runs):
    return [Step(name, f"operations beside the plain ones: {command[0].name}",
                 lambda c, command=command: c.run(*command)) for name, command in runs] + [
        Step("optimizers", "optimizer steps of all kinds of storage", step_optimizers),
        Step("digests", "answers, scores and steps in cuda-fp32: the digest of cpu", step_digests),
        Step("fixtures", "model fixtures from transformers in cuda-fp32", step_fixtures),
        Step("decoder_fp32", "the decoder in cuda-fp32: the bits of the forward pass",
             lambda c: decoder(c, "cuda-fp32")),
        Step("decoder_bf16", "the decoder in cuda, likewise", lambda c: decoder(c, "cuda")),
    ]


def loop_steps():
    return [
        Step("loop", "quickstart in cuda, generators and trainer share the device",
             lambda c: quickstart(c, "loop", "cuda", 1)),
        Step("loop_beta", "quickstart in cuda at beta 0.1",
             lambda c: quickstart(c, "loop_beta", "cuda", 1, "--beta", "0.1")),
        Step("loop_again", "the first of these once more",
             lambda c: quickstart(c, "loop_again", "cuda", 1)),
        Step("loop_three_generators", "the same with three generators",
             lambda c: quickstart(c, "loop_three", "cuda", 3)),
        Step("loss_first_step", "within 1e-3 of ln 2 at beta 0.1 and at beta 5",
             step_loss_first_step, ("loop", "loop_beta")),
        Step("loop_digests", "pairs and checkpoints of the other three are equal", step_loop_digests,
             ("loop", "loop_again", "loop_three_generators")),
    ]


def exact_steps():
    return [
        Step("loop_fp32", "quickstart in cuda-fp32",
             lambda c: quickstart(c, "fp32", "cuda-fp32", 1)),
        Step("loop_fp32_is_cpu", "… has the bits of cpu", step_loop_fp32_is_cpu, ("loop_fp32",)),
    ]


def step_7b():
    return [
        Step("peer_step", "7B: a SPIN step beside torch, its share of the GEMM peak, peak and plan "
             "of memory", step_peer_step, alone=True, least=PEER_SECONDS),
        Step("bench_7b_step", "7B: the step alone, unless peer_step has passed", step_bench_7b_step,
             alone=True, least=90),
    ]


def decode_7b():
    return [
        Step("peer_decode", "7B: decoding beside transformers, its share of the memory roofline",
             step_peer_decode, alone=True, least=PEER_SECONDS),
        Step("bench_7b_decode", "7B: decoding alone, unless peer_decode has passed", step_bench_7b_decode,
             alone=True, least=90),
    ]


def whole_steps():
    return [
        Step("bench", "SmolLM2-135M's shape: prefill, scoring, decoding, steps", step_bench,
             alone=True),
        Step("gsm8k_0", "first iteration of self-play on GSM8K, from SPIN_GPU_MODEL and "
             "SPIN_GPU_GSM8K", lambda c: gsm8k(c, 1), alone=True),
        Step("gsm8k_1", "the second one", lambda c: gsm8k(c, 2), ("gsm8k_0",), alone=True),
    ]


def sanitizer_steps(runs, tool):
    found = [Step(f"{tool}_{name}", f"compute-sanitizer, {tool}: {command[0].name}",
                  sanitize(tool, command), slow=tool in SLOW_TOOLS) for name, command in runs]
    if tool == "memcheck":
        found += [
            Step("memcheck_decoder", "compute-sanitizer, memcheck: the decoder",
                 memcheck_unit("tests/unit/model/test_model_decoder")),
            Step("memcheck_optimizers", "compute-sanitizer, memcheck: optimizer steps",
                 memcheck_unit("tests/unit/tensor/test_tensor_optimizers"))]
    return found


def table(c):
    """What says most of the device comes first: it may be had for some minutes only. op_products is
    the longest of the operations: before those beside it, and last under the tools."""
    runs = sorted(operation_runs(c), key=lambda run: run[0] != "op_products")
    found = [Step("module", "the device opens", step_module, alone=True), *operation_steps(runs),
             *loop_steps()]
    if c.emulated:  # a device that is slow, and has no cublasLt to look at
        return found + exact_steps()
    runs = runs[1:] + runs[:1]
    found += [*step_7b(), *sanitizer_steps(runs, "memcheck"), *decode_7b(), *whole_steps(),
              *exact_steps()]
    for tool in ("synccheck", "racecheck", "initcheck"):
        found += sanitizer_steps(runs, tool)
    return found
