#!/usr/bin/env python3
"""Tokenizing beside the `tokenizers` package, one thread each, in turns: megabytes by second of processor
time. Needs `pip install tokenizers`.

    tests/bench/peers/tokenizer.py --build build --text FILE DIR [DIR ...]

DIR has a tokenizer.json. The first 10 MB of FILE (repeated when it is shorter) go through both line by
line, which suits the package best (it caches words and slows down on long texts), and with --whole as one
text. Loading is not counted. Prints a table and, as its last line, a JSON document.
"""
import argparse
import json
import os
import pathlib
import resource
import statistics
import subprocess
import time

os.environ["RAYON_NUM_THREADS"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
import tokenizers  # noqa: E402

BYTES = 10_000_000


def ours(program, directory, text, whole):
    command = [str(program), "tokenize", str(directory), "--quiet"] + ([] if whole else ["--lines"])
    seconds = []
    for piece in (b"", text):  # what starting costs is taken off
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        out = subprocess.run(command, input=piece, stdout=subprocess.PIPE, check=True).stdout
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        seconds.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return seconds[1] - seconds[0], len(out.split())


def theirs(tokenizer, text, whole):
    texts = [text.decode()] if whole else text.decode().split("\n")[:-1]
    start = time.process_time()
    ids = sum(len(tokenizer.encode(t, add_special_tokens=False).ids) for t in texts)
    return time.process_time() - start, ids


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    p.add_argument("--build", type=pathlib.Path, default=pathlib.Path("build"))
    p.add_argument("--text", type=pathlib.Path, required=True)
    p.add_argument("--whole", action="store_true")
    p.add_argument("--repeats", type=int, default=5)
    p.add_argument("directories", type=pathlib.Path, nargs="+")
    args = p.parse_args()
    text = args.text.read_bytes()
    text = (text * (BYTES // len(text) + 1))[:BYTES].decode(errors="ignore").encode() + b"\n"
    rows = []
    for directory in args.directories:
        peer = tokenizers.Tokenizer.from_file(str(directory / "tokenizer.json"))
        rates = {"spin": [], "tokenizers": []}
        for _ in range(args.repeats):
            a, n = ours(args.build / "common/spin-model/spin-model", directory, text, args.whole)
            b, m = theirs(peer, text, args.whole)
            if n != m:
                raise SystemExit(f"{directory}: {n} ids here, {m} of the package")
            rates["spin"].append(len(text) / 1e6 / a)
            rates["tokenizers"].append(len(text) / 1e6 / b)
        ratios = [x / y for x, y in zip(rates["spin"], rates["tokenizers"])]
        cells = [f"{statistics.median(v):8.2f} ({min(v):.2f}–{max(v):.2f})"
                 for v in (rates["spin"], rates["tokenizers"], ratios)]
        print(f"{directory.name:20}", *cells, flush=True)
        rows.append({"tokenizer": directory.name, **rates, "ratio": statistics.median(ratios)})
    print(json.dumps({"version": tokenizers.__version__, "bytes": len(text), "whole": args.whole,
                      "rows": rows}))


if __name__ == "__main__":
    main()
