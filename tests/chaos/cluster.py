"""A cluster of the real daemons, each with a network namespace and a disk of its own where that is
permitted, and a supervisor that starts again whatever has ended, as systemd would."""

import json
import os
import pathlib
import random
import signal
import subprocess
import sys
import threading
import time

SOURCE = pathlib.Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(SOURCE / "tests"))
# pylint: disable=wrong-import-position
from tiny_model import make_model

SCALE = 0.03  # of the coordinator's time-outs
LEASE_S, TRAINER_LEASE_S = 60 * SCALE, 120 * SCALE
RESERVE = 8 << 20
DISKS = {"coordinator": 384 << 20, "trainer": 96 << 20, "generator": 64 << 20}
PORT = 7070


def sh(*argv, check=False):
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    if check and done.returncode != 0:
        raise RuntimeError(f"{' '.join(argv)}: {done.stderr.strip()}")
    return done.returncode == 0


class Daemon:
    """One process, started again when it ends. Nothing starts it while `held` is set."""

    def __init__(self, cluster, name, role, argv):
        self.cluster, self.name, self.role, self.argv = cluster, name, role, argv
        self.netns = None
        self.dir = cluster.dir / name
        self.dir.mkdir(exist_ok=True)
        self.shim = cluster.dir / f"{name}.shim"
        self.shim.write_bytes(bytes(4096))
        self.log = open(cluster.dir / f"{name}.log", "ab")
        self.process = None
        self.expected = False   # its end was asked for
        self.restart_at = 0.0
        self.lock = threading.Lock()
        self.busy = False       # a fault is at work on it

    def start(self):
        env = dict(os.environ)
        argv = [str(a) for a in self.argv]
        if self.cluster.faults:
            env.update(LD_PRELOAD=str(self.cluster.build / "tests/libchaos_shim.so"),
                       CHAOS_SHIM=str(self.shim))
        if self.netns:
            argv = ["ip", "netns", "exec", self.netns] + argv
        self.process = subprocess.Popen(argv, cwd=self.cluster.dir, env=env, stdout=self.log,
                                        stderr=self.log, stdin=subprocess.DEVNULL)
        self.expected = False

    def order(self, what):
        with open(self.shim, "r+b") as file:
            file.write(what.to_bytes(4, "little"))

    def signal(self, number):
        with self.lock:
            if self.process is None or self.process.poll() is not None:
                return False
            self.expected = number in (signal.SIGKILL, signal.SIGTERM)
            self.process.send_signal(number)
            return True

    def alive(self):
        with self.lock:
            return self.process is not None and self.process.poll() is None

    def look(self, now, rng):
        """Of the supervisor: notes an end, starts again in time."""
        with self.lock:
            if self.process is not None:
                code = self.process.poll()
                if code is None:
                    return
                self.process = None
                self.restart_at = now + rng.uniform(0.02, 0.3)
                if not self.expected:
                    self.cluster.ended(self, code)
            if now >= self.restart_at and not self.cluster.stopping:
                self.start()


class Cluster:
    def __init__(self, directory, build, seed, generators, trainers, faults):
        self.dir, self.build, self.faults = pathlib.Path(directory), pathlib.Path(build), faults
        self.dir.mkdir()
        self.seed = seed
        self.stopping = False
        self.ends = {}          # what ended by itself, and how often
        self.crashes = []       # ends by a signal that nobody sent
        self.namespaces = []
        self.mounts = []
        self.isolated = False
        self.daemons = []
        self.supervisor = None
        state = self.dir / "coordinator"
        self.coordinator = self.add("coordinator", "coordinator", [
            self.build / "coordinator/spin-coordinator", "--state-dir", state,
            "--set", f"coordinator.time_scale={SCALE}",
            "--set", f"coordinator.disk_reserve={RESERVE}"])
        self.generators = [self.add_worker("generator", i) for i in range(generators)]
        self.trainers = [self.add_worker("trainer", i) for i in range(trainers)]

    # ---- what it is made of ----

    def add(self, name, role, argv):
        daemon = Daemon(self, name, role, argv)
        self.daemons.append(daemon)
        return daemon

    def add_worker(self, role, index):
        name = f"{role}-{index}"
        argv = [self.build / role / f"spin-{role}", "--token-file", f"{role}.token", "--name", name,
                "--state-dir", name, "--set", "compute.threads=1",
                "--set", "worker.log_level=debug",
                "--set", "coordinator.backoff_min=10ms", "--set", "coordinator.backoff_max=150ms",
                "--set", "coordinator.connect_timeout=5s",
                "--set", "coordinator.request_timeout=4s"]
        if role == "generator":
            argv += ["--set", f"generate.slots={[8, 4, 6, 3][index % 4]}",
                     "--set", "generate.submit_wait=20ms", "--set", "generate.lease_items=8",
                     "--set", "generate.submit_items=4"]
        else:
            argv += ["--set", "train.report=20ms", "--set", "train.stop_timeout=2s"]
        return self.add(name, role, argv)

    def isolate(self):
        """Namespaces joined by veth, and a small disk for each daemon. False: not permitted."""
        if os.geteuid() != 0 or not sh("ip", "netns", "add", f"chaos{os.getpid()}-test"):
            return False
        sh("ip", "netns", "del", f"chaos{os.getpid()}-test")
        for number, daemon in enumerate(self.daemons):
            daemon.netns = f"chaos{os.getpid()}-{number}"
            self.namespaces.append(daemon.netns)
            sh("ip", "netns", "add", daemon.netns, check=True)
            sh("ip", "-n", daemon.netns, "link", "set", "lo", "up", check=True)
            sh("mount", "-t", "tmpfs", "-o", f"size={DISKS[daemon.role]}", "chaos",
               str(daemon.dir), check=True)
            self.mounts.append(daemon.dir)
        center = self.coordinator.netns
        for number, daemon in enumerate(self.daemons[1:], 1):
            daemon.link = f"w{number}"
            sh("ip", "link", "add", daemon.link, "netns", center, "type", "veth", "peer", "name",
               "out0", "netns", daemon.netns, check=True)
            for namespace, link, host in ((center, daemon.link, 1), (daemon.netns, "out0", 2)):
                sh("ip", "-n", namespace, "addr", "add", f"10.77.{number}.{host}/24", "dev", link,
                   check=True)
                sh("ip", "-n", namespace, "link", "set", link, "up", check=True)
        self.isolated = True
        return True

    def addresses(self):
        """mutual TLS between namespaces, else the socket in the state directory."""
        if not self.isolated:
            for daemon in self.daemons[1:]:
                daemon.argv += ["--coordinator",
                                f"ipc://{self.dir}/coordinator/coordinator.sock"]
            return
        done = subprocess.run([SOURCE / "deploy/tls/make-certificates", self.dir / "certs",
                               "coordinator.test", "worker.test"], capture_output=True, text=True,
                              check=False)
        if done.returncode != 0:
            raise RuntimeError(done.stderr)
        self.coordinator.argv += ["--listen", f"tls+tcp://0.0.0.0:{PORT}",
                                  "--set", "tls.ca=certs/ca.pem",
                                  "--set", "tls.cert=certs/coordinator.test.pem"]
        for number, daemon in enumerate(self.daemons[1:], 1):
            daemon.argv += ["--coordinator", f"tls+tcp://10.77.{number}.1:{PORT}",
                            "--set", "coordinator.tls_ca=certs/ca.pem",
                            "--set", "coordinator.tls_cert=certs/worker.test.pem",
                            "--set", "coordinator.tls_server_name=coordinator.test"]

    # ---- life ----

    def open(self, run_settings, rows):
        if self.faults:
            self.isolate()
        self.addresses()
        self.coordinator.start()
        self.wait_for_coordinator()
        for role in ("generator", "trainer"):
            token = self.ctl("token", "create", "--role", role, "--name", role)["token"]
            path = self.dir / f"{role}.token"
            path.touch(mode=0o600)
            path.write_text(token + "\n", encoding="ascii")
        make_model(self.dir, self.build)
        (self.dir / "train.jsonl").write_text(rows, encoding="utf-8")
        (self.dir / "r.ini").write_text(run_settings, encoding="utf-8")
        self.ctl("create-run", "r.ini")
        for daemon in self.daemons[1:]:
            daemon.start()
        self.supervisor = threading.Thread(target=self.supervise, daemon=True)
        self.supervisor.start()

    def wait_for_coordinator(self):
        end = time.monotonic() + 30
        while self.ctl("status", timeout=2, wanted=False) is None:
            if time.monotonic() > end:
                raise RuntimeError(f"the coordinator does not answer: see {self.dir}")
            time.sleep(0.05)

    def supervise(self):
        rng = random.Random(self.seed + 1)
        while not self.stopping:
            now = time.monotonic()
            for daemon in self.daemons:
                daemon.look(now, rng)
            time.sleep(0.02)

    def ended(self, daemon, code):
        key = f"{daemon.role} {code}"
        self.ends[key] = self.ends.get(key, 0) + 1
        if code < 0:
            self.crashes.append(f"{daemon.name}: signal {-code}")

    def stacks(self):
        """Where every thread of every daemon is, into the log: something hangs."""
        for daemon in self.daemons:
            if daemon.alive():
                subprocess.run(["gdb", "-p", str(daemon.process.pid), "-batch", "-ex",
                                "thread apply all backtrace"], stdout=daemon.log,
                               stderr=daemon.log, check=False)

    def close(self):
        self.stopping = True
        if self.supervisor:
            self.supervisor.join()
        for daemon in self.daemons:
            daemon.signal(signal.SIGKILL)
            if daemon.process:
                daemon.process.wait()
            daemon.log.close()

    def clean(self, keep):
        """keep: the daemons' directories stay, to be looked at; umount is up to who asked."""
        for namespace in self.namespaces:
            sh("ip", "netns", "del", namespace)
        for mount in self.mounts if not keep else []:
            sh("umount", "-l", str(mount))
        self.namespaces, self.mounts = [], []

    # ---- spinctl ----

    def ctl(self, *args, timeout=120, wanted=True):
        """What it printed as JSON, or None where it failed and that may be."""
        argv = [self.build / "coordinator/spinctl/spinctl", "--json", "--state-dir",
                self.dir / "coordinator", "--timeout", str(timeout), *args]
        done = subprocess.run(argv, capture_output=True, text=True, cwd=self.dir, check=False)
        if done.returncode != 0:
            if wanted:
                raise RuntimeError(f"spinctl {' '.join(args)}: {done.stderr.strip()}")
            return None
        if "--jsonl" in args:
            return [json.loads(line) for line in done.stdout.splitlines()]
        return json.loads(done.stdout) if done.stdout.strip() else {}

    def status(self, timeout=2):
        answer = self.ctl("status", "r", timeout=timeout, wanted=False)
        return answer["runs"][0]["iteration"] if answer else None
