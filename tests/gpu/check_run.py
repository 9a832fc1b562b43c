#!/usr/bin/env python3
"""tests/gpu/run with made-up steps: what it does side by side, one after the other, and not at all.
Prints TAP."""
import json
import pathlib
import shutil
import subprocess
import sys
import tempfile

HERE = pathlib.Path(__file__).resolve().parent
STEPS = r'''
import pathlib
import time

ROOT = pathlib.Path("/")


class Failed(Exception):
    pass


class Skipped(Exception):
    pass


class Context:
    def __init__(self, build, out, emulated, ptx=False):
        self.out, self.seconds = pathlib.Path(out), 0


class Step:
    def __init__(self, name, run, after=(), slow=False, alone=False, least=1):
        self.name, self.text, self.run = name, "", run
        self.after, self.slow, self.alone, self.least = after, slow, alone, least


def step(name, seconds, end=None, **more):
    def note(c, what):
        with open(c.out / "events", "a", encoding="utf-8") as to:
            to.write(f"{what}{name}\n")

    def run(c):
        assert 0 < c.seconds <= 480
        note(c, "+")
        time.sleep(seconds)
        note(c, "-")
        if end:
            raise end

    return Step(name, run, **more)


def table(c):
    return [step("module", 0, alone=True), step("a", 3), step("b", 0.1), step("c", 0, after=("a",)),
            step("bad", 0, Failed("no")), step("needs_bad", 0, after=("bad",)),
            step("alone", 0.1, alone=True), step("lacks", 0, Skipped("nothing")),
            step("large", 0, least=300), step("d", 0), step("hangs", 300), step("e", 0)]
'''
tests, failures = 0, 0


def check(ok, what):
    global tests, failures
    tests += 1
    failures += not ok
    print(f"{'' if ok else 'not '}ok {tests} - {what}", flush=True)


def go(folder, *arguments):
    done = subprocess.run([sys.executable, folder / "run", "--build", folder / "build", "--out",
                           folder / "out", "--jobs", "2", *arguments], capture_output=True, text=True,
                          check=False)
    events = (folder / "out/events").read_text(encoding="utf-8").split()
    found = json.loads((folder / "out/results.json").read_text(encoding="utf-8"))["steps"]
    return done, events, {k: v["state"] for k, v in found.items()}


def main():
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        shutil.copy(HERE / "run", folder)
        (folder / "steps.py").write_text(STEPS, encoding="utf-8")
        (folder / "build").mkdir()
        (folder / "build/packed").touch()
        done, events, states = go(folder, "--for", "20")
        print("#", *events)
        at = {e: i for i, e in enumerate(events)}
        check(events[:2] == ["+module", "-module"], "nothing begins before the device has opened")
        check(at["+b"] < at["-a"] and at["+a"] < at["-b"], "two are at work at a time")
        check(at["+bad"] < at["-a"] < at["+c"], "what waits for another lets the next ones pass")
        check(at["-alone"] == at["+alone"] + 1 and at["+lacks"] > at["-alone"] > at["-c"],
              "one that measures time is alone, and in its place")
        check(states["bad"] == "failed" and states["needs_bad"] == "skipped" and
              states["lacks"] == "skipped", "what failed, lacks something, or needs what failed")
        check("large" not in states and "+d" in at, "too little time for one, and others go on")
        check("+hangs" in at and "-hangs" not in at and "hangs" not in states and "+e" in at and
              "hangs" in done.stdout and "2 steps are left" in done.stdout,
              "the end of the time cuts what is at work")
        check(done.returncode == 1, "a failure is the run's")
        done, events, states = go(folder, "--only", "a,bad,d")
        check(events[-2:] == ["+bad", "-bad"] and events.count("+a") == 1 and
              states["a"] == "passed", "what passed is not done again, what failed is")
    print(f"1..{tests}")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
