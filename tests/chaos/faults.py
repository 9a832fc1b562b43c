"""What is done to the daemons. A fault is a function of (cluster, daemon, rng) that lasts as long as
it takes and leaves the daemon as it should be, running or to be started again."""

import os
import signal
import time

from cluster import LEASE_S, RESERVE, TRAINER_LEASE_S, sh

SYNC_FAILS, WRITE_FAILS, WRITE_IS_SHORT = 1, 2, 4


def kill(cluster, daemon, rng):
    daemon.signal(signal.SIGKILL)


def stop(cluster, daemon, rng):
    lease = TRAINER_LEASE_S if daemon.role == "trainer" else LEASE_S
    daemon.signal(signal.SIGSTOP)
    time.sleep(lease * rng.uniform(1.1, 1.5))
    daemon.signal(signal.SIGCONT)


def links(cluster, daemon):
    """(namespace, link) of every veth pair's end at the coordinator."""
    if daemon.role == "coordinator":
        return [other.link for other in cluster.daemons[1:]]
    return [daemon.link]


def nft(daemon, *rules):
    sh("ip", "netns", "exec", daemon.netns, "nft", "\n".join(rules))


def filter_rules(hook, rule):
    return ["add table inet chaos",
            f"add chain inet chaos c {{ type filter hook {hook} priority 0; }}",
            f"add rule inet chaos c {rule}"]


def partition(cluster, daemon, rng):
    """The link goes down, or only one direction is lost and the other side knows nothing."""
    seconds = rng.choice([0.3, 1, LEASE_S * 1.3]) * rng.uniform(0.8, 1.2)
    way = rng.choice(["down", "down", "input", "output"])
    center = cluster.coordinator.netns
    if way == "down":
        for link in links(cluster, daemon):
            sh("ip", "-n", center, "link", "set", link, "down")
    else:
        nft(daemon, *filter_rules(way, "drop"))
    time.sleep(seconds)
    if way == "down":
        for link in links(cluster, daemon):
            sh("ip", "-n", center, "link", "set", link, "up")
    else:
        nft(daemon, "delete table inet chaos")


def slow(cluster, daemon, rng):
    """Few bytes per second, with queues, and lost packets. (netem is not in every kernel.)"""
    rate = rng.choice(["100kbit", "500kbit", "2mbit"])
    sh("tc", "-n", daemon.netns, "qdisc", "add", "dev", "out0", "root", "tbf", "rate", rate, "burst",
       "5kb", "latency", "300ms")
    nft(daemon, *filter_rules("input", f"numgen random mod 100 < {rng.choice([2, 10, 25])} drop"))
    time.sleep(rng.uniform(0.5, 2.5))
    nft(daemon, "delete table inet chaos")
    sh("tc", "-n", daemon.netns, "qdisc", "del", "dev", "out0", "root")


def fill(path, leave):
    """A file that takes what is free but for so many bytes."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT)
    free = os.statvfs(path)
    try:
        os.posix_fallocate(fd, 0, max(free.f_bavail * free.f_bsize - leave, 4096))
        os.lseek(fd, 0, os.SEEK_END)
        while leave == 0:  # to the last byte
            os.write(fd, bytes(4096))
    except OSError:
        pass
    os.close(fd)


def full_disk(cluster, daemon, rng):
    """Below the coordinator's reserve, or nothing left at all."""
    leave = rng.choice([RESERVE // 2, RESERVE // 2, 0]) if daemon.role == "coordinator" else 0
    path = daemon.dir / "somebody-else"
    fill(path, leave)
    time.sleep(rng.uniform(0.4, 1.6))
    path.unlink()


def failing_writes(cluster, daemon, rng):
    daemon.order(rng.choice([SYNC_FAILS, SYNC_FAILS, WRITE_FAILS, WRITE_IS_SHORT]))
    time.sleep(rng.uniform(0.2, 1.2))
    daemon.order(0)


# kind: what, the roles that it strikes, whether it needs namespaces and disks of its own
KINDS = {
    "kill_coordinator": (kill, ["coordinator"], False),
    "kill_generator": (kill, ["generator"], False),
    "kill_trainer": (kill, ["trainer"], False),
    "stop": (stop, ["generator", "generator", "trainer"], False),
    "partition": (partition, ["generator", "generator", "trainer", "trainer", "coordinator"], True),
    "slow": (slow, ["generator", "trainer"], True),
    "full_disk": (full_disk, ["coordinator", "coordinator", "trainer", "generator"], True),
    "failing_writes": (failing_writes, ["coordinator", "coordinator", "trainer", "generator"],
                       False),
}
