"""The processes of the quickstart: one coordinator, some generators, one trainer, all on one socket,
started again when they die, as systemd would; and spinctl, the only way in which they are driven."""

import json
import os
import pathlib
import signal
import subprocess
import threading
import time


class Failure(Exception):
    """A message for the user."""


class Daemon:
    def __init__(self, name, command, log):
        self.name, self.command, self.log = name, command, log
        self.process = None
        self.restarts = 0

    def start(self):
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(
                self.command, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )

    def alive(self):
        return self.process is not None and self.process.poll() is None


class Cluster:
    def __init__(self, build, out, generators, quiet=False, slots=16, backend="cpu"):
        self.build, self.out = pathlib.Path(build), pathlib.Path(out)
        self.state = self.out / "state"
        self.generators, self.slots = generators, slots
        self.quiet, self.backend = quiet, backend
        self.daemons = {}
        self.stopping = threading.Event()
        self.watcher = None
        (self.out / "logs").mkdir(parents=True, exist_ok=True)
        (self.out / "etc").mkdir(exist_ok=True)

    # ---- spinctl ----

    def program(self, relative):
        path = self.build / relative
        if not path.exists():
            raise Failure(f"{path} is missing: run `ninja -C {self.build}`")
        return str(path)

    def spinctl_command(self, *arguments):
        return [
            self.program("coordinator/spinctl/spinctl"),
            "--state-dir",
            str(self.state),
            *[str(a) for a in arguments],
        ]

    def spinctl(self, *arguments):
        """Runs spinctl --json and returns what it printed."""
        done = subprocess.run(
            self.spinctl_command("--json", *arguments), capture_output=True, text=True
        )
        if done.returncode != 0:
            raise Failure(f"spinctl {' '.join(map(str, arguments))}: {done.stderr.strip()}")
        return json.loads(done.stdout) if done.stdout.strip() else {}

    def spinctl_lines(self, *arguments):
        """The JSON objects of a command that prints one a line."""
        done = subprocess.run(self.spinctl_command(*arguments), capture_output=True, text=True)
        if done.returncode != 0:
            raise Failure(f"spinctl {' '.join(map(str, arguments))}: {done.stderr.strip()}")
        return [json.loads(line) for line in done.stdout.splitlines() if line]

    def spinctl_live(self, *arguments):
        """Runs spinctl with the terminal, for its live picture."""
        done = subprocess.run(self.spinctl_command(*arguments))
        if done.returncode != 0:
            raise Failure(f"spinctl {' '.join(map(str, arguments))} ended with {done.returncode}")

    # ---- daemons ----

    def add(self, name, command):
        daemon = Daemon(name, command, self.out / "logs" / f"{name}.log")
        self.daemons[name] = daemon
        daemon.start()

    def write_config(self, name, text):
        path = self.out / "etc" / f"{name}.conf"
        path.write_text(text, encoding="utf-8")
        return str(path)

    def token(self, role):
        path = self.out / "etc" / f"{role}.token"
        text = self.spinctl("token", "create", "--role", role, "--name", role)["token"]
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as out:
            out.write(text + "\n")
        return path

    def start(self):
        self.add(
            "coordinator",
            [self.program("coordinator/spin-coordinator"), "--state-dir", str(self.state)],
        )
        self.wait_for_coordinator()
        url = f"ipc://{self.state.resolve()}/coordinator.sock"
        common = (
            "[coordinator]\nurl = {url}\ntoken_file = {token}\n\n"
            "[worker]\nname = {name}\nstate_dir = {out}/{name}\n\n"
            "[weights]\ncache_dir = {out}/cache\n\n"
            f"[compute]\nbackend = {self.backend}\nthreads = {{threads}}\n"
        )
        out, cores = self.out.resolve(), os.cpu_count() or 1
        token = self.token("generator").resolve()
        threads = max(1, cores // self.generators)
        for index in range(1, self.generators + 1):
            name = f"generator-{index}"
            text = common.format(url=url, token=token, name=name, out=out, threads=threads)
            config = self.write_config(name, text + f"\n[generate]\nslots = {self.slots}\n")
            self.add(name, [self.program("generator/spin-generator"), "--config", config])
        token = self.token("trainer").resolve()
        text = common.format(url=url, token=token, name="trainer", out=out, threads=cores)
        config = self.write_config("trainer", text)
        self.add("trainer", [self.program("trainer/spin-trainer"), "--config", config])
        self.watcher = threading.Thread(target=self.watch, daemon=True)
        self.watcher.start()

    def wait_for_coordinator(self):
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            daemon = self.daemons["coordinator"]
            if not daemon.alive():
                raise Failure(f"the coordinator ended at once: see {daemon.log}")
            try:
                self.spinctl("status")
                return
            except Failure:
                time.sleep(0.1)
        raise Failure("the coordinator did not answer within 30 s: see logs/coordinator.log")

    def watch(self):
        """Starts again whoever died, at most once a second each."""
        while not self.stopping.wait(0.2):
            for daemon in self.daemons.values():
                if not daemon.alive() and not self.stopping.is_set():
                    daemon.restarts += 1
                    if daemon.restarts > 100:
                        continue
                    daemon.start()

    def kill(self, name):
        """Kills a daemon with -9; the watcher starts it again."""
        daemon = self.daemons[name]
        if daemon.alive():
            daemon.process.send_signal(signal.SIGKILL)
            daemon.process.wait()

    def stop(self):
        self.stopping.set()
        if self.watcher:
            self.watcher.join()
        for name in reversed(list(self.daemons)):
            daemon = self.daemons[name]
            if daemon.alive():
                daemon.process.terminate()
        for daemon in self.daemons.values():
            if daemon.process is None:
                continue
            try:
                daemon.process.wait(timeout=15)
            except subprocess.TimeoutExpired:
                daemon.process.kill()
                daemon.process.wait()
