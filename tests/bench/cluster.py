"""A real cluster on the loopback interface, as ``cyphonic cluster`` starts it, its processes told apart by tier."""

from __future__ import annotations

import contextlib
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from cyphonic.wire.endpoint import Endpoint
from tests.bench.harness import descendants, wait_until

START_DEADLINE = 40.0
STOP_DEADLINE = 20.0
TIERS = {"frontend": "frontend", "worker": "worker", "relay": "relay"}
"""Argument of the child's command line to tier."""


class Cluster:
    """A running one; ``bundle`` enrols any number of nodes."""

    def __init__(self, directory: Path, process: subprocess.Popen[bytes], relay: Endpoint) -> None:
        self.directory = directory
        self.process = process
        self.relay = relay
        self.bundle = directory / "load.bundle"
        self.config = directory / "cloud.toml"

    def processes(self) -> dict[str, list[int]]:
        """Process IDs by tier."""
        tiers: dict[str, list[int]] = {"redis": [], "frontend": [], "worker": [], "relay": []}
        for pid, argv in descendants(self.process.pid).items():
            if any("redis-server" in part or "valkey-server" in part for part in argv[:1]):
                tiers["redis"].append(pid)
            for argument, tier in TIERS.items():
                if argument in argv:
                    tiers[tier].append(pid)
        return tiers


def cyphonic(*arguments: object) -> list[str]:
    """The command line of a cyphonic command."""
    return [sys.executable, "-m", "cyphonic", *map(str, arguments)]


def free_ports(count: int) -> list[int]:
    """UDP ports that nobody has right now."""
    with contextlib.ExitStack() as stack:
        probes = [stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) for _ in range(count)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in probes]


@contextlib.contextmanager
def running_cluster(extra: str = "") -> Iterator[Cluster]:
    """A cluster in a directory of its own, gone afterwards.  ``extra`` ends its cloud.toml, [relay]."""
    with tempfile.TemporaryDirectory(prefix="cyphonic-bench-") as name:
        directory = Path(name)
        config = directory / "cloud.toml"
        subprocess.run(
            cyphonic("admin", "init", "--allow-loopback", "--config", config), check=True, stdout=subprocess.DEVNULL
        )
        as_port, nms_port, relay_port = free_ports(3)
        with config.open("a") as stream:
            stream.write(
                f'\n[frontend]\nas_listen = ["127.0.0.1:{as_port}"]\nnms_listen = ["127.0.0.1:{nms_port}"]\n'
                f'\n[relay]\nlisten = ["127.0.0.1:{relay_port}"]\n{extra}'
            )
        ready = directory / "ready"
        log = (directory / "cluster.log").open("wb")
        process = subprocess.Popen(
            cyphonic("cluster", "--config", config, "--ready-file", ready), stdout=log, stderr=subprocess.STDOUT
        )
        cluster = Cluster(directory, process, Endpoint("127.0.0.1", relay_port))
        try:
            wait_until(lambda: ready.exists() or process.poll() is not None, START_DEADLINE, "ready cluster")
            if process.poll() is not None:
                raise RuntimeError((directory / "cluster.log").read_text())
            subprocess.run(
                cyphonic(
                    "admin", "key", "create", "--reusable", "--config", config, "-o", cluster.bundle,
                    "--endpoint", f"127.0.0.1:{as_port}",
                ),
                check=True,
                capture_output=True,
            )  # fmt: skip
            yield cluster
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(STOP_DEADLINE)
            except subprocess.TimeoutExpired:
                process.kill()
            log.close()
