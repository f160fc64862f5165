"""Two nodes side by side in a laboratory: TCP through a direct tunnel, and over the same wire without one.

Sender, receiver, both daemons and the load share the cores, as on a laptop.  Needs root.
"""

from __future__ import annotations

import json
import os
import re
from typing import Any

from cyphonic.lab.build import Lab
from cyphonic.lab.deployment import Deployment
from cyphonic.lab.topology import parse_topology
from tests.bench.harness import RUNS, Benchmark, CpuMeter, wait_until

TOPOLOGY = """
name = "bench"
[network.internet]
ipv4 = "203.0.113.0/24"
ipv6 = "2001:db8:1::/64"
[router.core]
serves = ["internet"]
[host.cloud]
network = "internet"
role = "cloud"
[host.alice]
network = "internet"
[host.bob]
network = "internet"
"""
SECONDS = 5
"""Of each transfer."""
TCP_TARGET = 400.0
"""Mbit/s."""


def main() -> bool:
    """Run; whether every target is met."""
    if os.geteuid() != 0:
        print("datapath: skipped, it needs root (sudo make bench)")
        return True
    benchmark = Benchmark("datapath", "Data path: two nodes, one wire")
    with Lab(parse_topology(TOPOLOGY)) as lab:
        deployment = Deployment(lab)
        deployment.start_cloud()
        deployment.join("alice", "bob")
        _measure(lab, deployment, benchmark)
        for node in ("alice", "bob"):
            deployment.down(node)
        deployment.stop_cluster()
    return benchmark.finish()


def _measure(lab: Lab, deployment: Deployment, benchmark: Benchmark) -> None:
    inside, outside = deployment.status("bob")["ipv6"], lab.address("bob")
    server = lab.popen("bob", ["iperf3", "--server", "--bind", "::"])
    try:
        wait_until(lambda: "LISTEN" in _sockets(lab), 5, "iperf3 server")
        lab.run("alice", ["ping", "-c", "3", "-i", "0.2", inside])
        benchmark.notes["path"] = deployment.status("alice")["peers"][0]["path"]
        benchmark.notes["suite"] = deployment.status("alice")["peers"][0]["suite"]
        daemons = {"daemons": [deployment.status(node)["pid"] for node in ("alice", "bob")]}
        for _ in range(RUNS):
            benchmark.add("bare_tcp1", "Mbit/s", _transfer(lab, outside, 1))
            meter = CpuMeter(daemons)
            tcp1 = _transfer(lab, inside, 1)
            benchmark.add("tcp1", "Mbit/s", tcp1, target=TCP_TARGET)
            gigabits = tcp1 * SECONDS / 1000
            benchmark.add("cpu_per_gigabit", "s", meter.used()["daemons"] / gigabits, digits=2)
            benchmark.add("tcp4", "Mbit/s", _transfer(lab, inside, 4))
            benchmark.add("bare_rtt", "ms", _round_trip(lab, outside), digits=2)
            benchmark.add("rtt", "ms", _round_trip(lab, inside), digits=2)
    finally:
        server.terminate()
        server.wait()


def _sockets(lab: Lab) -> str:
    return str(lab.run("bob", ["ss", "-ltnH", "sport = :5201"]).stdout)


def _transfer(lab: Lab, address: str, streams: int) -> float:
    """Mbit/s that arrived."""
    command = ["iperf3", "--client", address, "--time", str(SECONDS), "--parallel", str(streams), "--json"]
    report: dict[str, Any] = json.loads(lab.run("alice", command, timeout=SECONDS + 20).stdout)
    return float(report["end"]["sum_received"]["bits_per_second"]) / 1e6


def _round_trip(lab: Lab, address: str) -> float:
    """Average of 50 pings, ms."""
    output = lab.run("alice", ["ping", "-q", "-c", "50", "-i", "0.02", address], timeout=20).stdout
    found = re.search(r"= [\d.]+/([\d.]+)/", output)
    assert found is not None, output
    return float(found[1])
