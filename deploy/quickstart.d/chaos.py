"""--kill: each daemon dies by -9 in the middle of every iteration, and nothing may change by it."""

import time

from cluster import Failure


def wait_for(loop, name, iteration, reached, seconds=120):
    """Polls the run until `reached(its iteration)` or the iteration is over."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            run = loop.cluster.spinctl("status", name)["runs"][0]
        except (Failure, IndexError):
            time.sleep(0.05)
            continue
        now = run.get("iteration") or {}
        if now.get("iteration", -1) > iteration or now.get("state") in ("closed", "failed", "cancelled"):
            return now
        if reached(now):
            return now
        time.sleep(0.02)
    raise Failure(f"{name}: iteration {iteration} did not get on within {seconds} s: "
                  f"see {loop.out}/logs")


def counter(iteration, part, field):
    return (iteration.get(part) or {}).get(field) or 0


def run_with_kills(loop, name):
    """All iterations of a run; in each, every daemon is killed while its work is under way."""
    generators = [d for d in loop.cluster.daemons if d.startswith("generator")]
    for iteration in range(loop.options.iterations):
        loop.cluster.spinctl("start-iteration", name, "--iteration", iteration)
        wait_for(loop, name, iteration, lambda now: counter(now, "generation", "pairs_done") > 0)
        for generator in generators:
            loop.cluster.kill(generator)
        loop.cluster.kill("coordinator")
        wait_for(loop, name, iteration, lambda now: counter(now, "training", "step") > 0)
        loop.cluster.kill("trainer")
        end = wait_for(loop, name, iteration, lambda now: False)
        if end.get("state") != "closed":
            raise Failure(f"{name}: iteration {iteration} is {end.get('state')}: "
                          f"{end.get('reason')}")
        print(f"{name}: iteration {iteration} closed: {end.get('verdict')} "
              f"({len(generators) + 2} daemons were killed in it)", flush=True)
    return loop.cluster.spinctl("iterations", name)["iterations"]
