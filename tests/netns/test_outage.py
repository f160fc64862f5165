"""The whole cloud away for half a minute, and a cloud whose machine refuses everything: what nodes notice of it."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path

import pytest

from cyphonic.lab.build import Lab
from cyphonic.lab.deployment import Deployment
from cyphonic.lab.topology import parse_topology
from tests.netns.machine import until

pytestmark = pytest.mark.root

TOPOLOGY = """
[network.internet]
ipv4 = "203.0.113.0/24"
[network.other]
ipv4 = "198.51.100.0/24"
[network.cone]
ipv4 = "10.1.0.0/24"
[network.strict]
ipv4 = "10.2.0.0/24"
[network.stricter]
ipv4 = "10.3.0.0/24"
[router.core]
serves = ["internet", "other"]
[router.nat-cone]
uplink = "internet"
serves = ["cone"]
nat = "full-cone"
[router.nat-strict]
uplink = "internet"
serves = ["strict"]
nat = "symmetric"
[router.nat-stricter]
uplink = "internet"
serves = ["stricter"]
nat = "symmetric"
[host.cloud]
network = "internet"
role = "cloud"
[host.alice]
network = "internet"
[host.bob]
network = "cone"
[host.carol]
network = "strict"
[host.dave]
network = "stricter"
"""
OUTAGE = float(os.environ.get("CYPHONIC_TEST_OUTAGE", "30"))
"""Seconds."""
INTERVAL = 0.2
METRICS_PORTS = (9100, 9101)


class Cloud:
    """Everything but the relay, which is a process of its own here: relayed paths need it."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.deployment = Deployment(lab)
        self.host = self.deployment.cloud.name
        with self._settings():
            self.deployment.start_cloud()
        self._relay = lab.popen(
            self.host,
            self.deployment.argv("relay"),
            env=lab.environment(self.host),
            stdin=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        fleet = ("admin", "fleet", "--json")
        until(lambda: json.loads(self.deployment.command(self.host, *fleet))["relays"])

    def start(self) -> None:
        with self._settings():
            self.deployment.start_cluster()

    @contextmanager
    def _settings(self) -> Iterator[None]:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("CYPHONIC_CLUSTER_RELAY", "false")
            patch.setenv("CYPHONIC_WORKER_METRICS", f"127.0.0.1:{METRICS_PORTS[0]}")
            yield

    def processes(self) -> dict[int, str]:
        """Command lines by pid, without the relay."""
        pids = [pid for pid in self.lab.namespace(self.host).pids() if pid != self._relay.pid]
        return {pid: command_line(pid) for pid in pids}

    def kill(self) -> None:
        """kill -9 for everything: supervisor, Redis, workers, frontend."""
        while pids := self.processes():
            for pid in pids:
                signal_process(pid)
        self.deployment.stop_cluster()

    def jobs(self, kind: str) -> int:
        """How many of a type the workers have had."""
        pages = [
            self.lab.run(self.host, ["python3", "-c", FETCH, str(port)], check=False).stdout
            for port in METRICS_PORTS
        ]
        found = re.findall(rf'jobs_total{{type="{kind}"}} (\d+)', "\n".join(pages))
        return sum(map(int, found))

    def log(self) -> str:
        return (self.deployment.directory(self.host) / "cluster.log").read_text()


class Flow:
    """Echo requests through the tunnel, all the time."""

    def __init__(self, cloud: Cloud, source: str, target: str) -> None:
        self._file = cloud.lab.directory / f"{source}-{target}.ping"
        address = cloud.deployment.ask(target, "ip")["ipv6"]
        with self._file.open("wb") as output:
            ping = ["ping", "-6", "-D", "-i", str(INTERVAL), address]
            self._process = cloud.lab.popen(source, ping, stdout=output, stderr=subprocess.DEVNULL)

    def answers(self) -> list[float]:
        """When, in unix seconds."""
        return [float(when) for when in re.findall(r"^\[([\d.]+)\].* ttl=", self._file.read_text(), re.MULTILINE)]

    def gap(self, since: float) -> float:
        """The longest silence from then to now, in seconds."""
        times = [since, *(when for when in self.answers() if when > since), time.time()]
        return max(later - earlier for earlier, later in pairwise(times))

    def stop(self) -> None:
        self._process.terminate()
        self._process.wait()


FETCH = (
    "import sys, urllib.request; "
    "print(urllib.request.urlopen(f'http://127.0.0.1:{sys.argv[1]}/metrics').read().decode())"
)


def command_line(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ")
    except OSError:  # it has ended
        return ""


def signal_process(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return


@pytest.fixture(scope="module")
def cloud(laboratory_ground: None) -> Iterator[Cloud]:
    with Lab(parse_topology(TOPOLOGY, "outage")) as lab:
        cloud = Cloud(lab)
        cloud.deployment.join(*cloud.deployment.nodes)
        yield cloud


def test_a_cloud_out_of_descriptors_recovers_when_it_has_some(cloud: Cloud) -> None:
    ours = {pid: words for pid, words in cloud.processes().items() if "redis" not in words}
    for pid in ours:
        used = len(os.listdir(f"/proc/{pid}/fd"))
        subprocess.run(["prlimit", f"--pid={pid}", f"--nofile={used}:4096"], check=True)
    workers = sorted(pid for pid, words in ours.items() if "cyphonic worker" in words)
    for pid in workers[1:]:  # the first supervises them
        signal_process(pid)
    until(lambda: "not-started" in cloud.log())
    for pid in cloud.processes():
        subprocess.run(["prlimit", f"--pid={pid}", "--nofile=1024:4096"], check=True)
    cloud.deployment.ask("alice", "forget")  # answered by the cloud
    assert "1 answered" in cloud.deployment.command("alice", "ping", "bob", "-c", "1", timeout=60)
    assert "Traceback" not in cloud.log()
    assert set(ours) - set(workers[1:]) <= set(cloud.processes()), "nobody else had to be started again"


def test_tunnels_outlive_the_cloud_moves_too_and_nodes_come_back_without_a_login(cloud: Cloud) -> None:
    flows = {pair: Flow(cloud, *pair) for pair in (("alice", "bob"), ("carol", "dave"))}
    direct, relayed = flows.values()
    until(lambda: all(flow.answers() for flow in flows.values()))
    until(lambda: path(cloud, "carol", "dave") == "relayed" and path(cloud, "alice", "bob") == "direct")
    stopped = time.time()
    cloud.kill()
    until(lambda: time.time() > stopped + OUTAGE / 3, OUTAGE)
    assert direct.gap(stopped) < 1.0
    moved = time.time()
    cloud.lab.move("alice", "other")
    until(lambda: time.time() > stopped + OUTAGE, OUTAGE + 5)
    print(f"direct: gap {direct.gap(moved):.2f} s over the move; relayed: gap {relayed.gap(stopped):.2f} s")
    assert direct.gap(moved) < 2.0, "bob's NAT lets everybody in"
    assert relayed.gap(stopped) < 1.0
    states = {node: cloud.deployment.status(node)["state"] for node in cloud.deployment.nodes}
    assert set(states.values()) <= {"joined", "cloud-unreachable"}
    cloud.start()
    started = time.time()
    until(lambda: is_back(cloud), 90)
    print(f"all are back after {time.time() - started:.1f} s")
    assert cloud.jobs("login_request") == 0
    print("registrations:", cloud.jobs("registration_request"), "logins: 0")
    assert cloud.jobs("registration_request") <= 3 * len(cloud.deployment.nodes)
    assert max(flow.gap(started) for flow in flows.values()) < 2.0, "coming back disturbs no tunnel"
    for flow in flows.values():
        flow.stop()


def path(cloud: Cloud, node: str, peer: str) -> str:
    peers = cloud.deployment.status(node)["peers"]
    return next((str(one["path"]) for one in peers if one["name"].startswith(peer)), "none")


def is_back(cloud: Cloud) -> bool:
    """Every node is joined, and the new workers have heard of each."""
    statuses = [cloud.deployment.status(node) for node in cloud.deployment.nodes]
    if any(status["state"] != "joined" or status["cloud"]["error"] for status in statuses):
        return False
    return cloud.jobs("registration_request") + cloud.jobs("keep_alive") >= len(statuses)
