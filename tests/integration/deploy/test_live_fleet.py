"""A site that runs, its fleet growing and shrinking."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.architecture.tree import ROOT
from tests.redis_server import services_required

CYPHONIC = Path(sys.executable).with_name("cyphonic")
DEADLINE = 40.0


class LiveSite:
    """A cluster of real processes."""

    def __init__(self, directory: Path) -> None:
        self.config = directory / "cloud.toml"
        self.ready = directory / "ready"
        ports = [_free_port() for _ in range(3)]
        keys = ("FRONTEND_AS_LISTEN", "FRONTEND_NMS_LISTEN", "RELAY_LISTEN")
        self.environ = {
            **os.environ,
            **{f"CYPHONIC_{key}": f"127.0.0.1:{port}" for key, port in zip(keys, ports, strict=True)},
            "CYPHONIC_WORKER_PROCESSES": "1",
            "CYPHONIC": str(CYPHONIC),
        }
        self.run(CYPHONIC, "admin", "init", "--allow-loopback", "--config", self.config)

    def run(self, *command: str | Path) -> str:
        done = subprocess.run(
            command, env=self.environ, capture_output=True, text=True, timeout=DEADLINE, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def start(self) -> subprocess.Popen[bytes]:
        command: list[str | Path] = [CYPHONIC, "cluster", "--config", self.config, "--ready-file", self.ready]
        return subprocess.Popen(command, env=self.environ, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def scale(self, wanted: int) -> str:
        return self.run(ROOT / "deploy" / "scale-workers", "--config", self.config, str(wanted))

    def fleet(self) -> dict[str, Any]:
        document: dict[str, Any] = json.loads(
            self.run(CYPHONIC, "admin", "fleet", "--json", "--config", self.config)
        )
        return document


def _free_port() -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _eventually(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + DEADLINE
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)


@pytest.fixture
def site() -> Iterator[LiveSite]:
    if shutil.which("redis-server") is None and shutil.which("valkey-server") is None and not services_required():
        pytest.skip("neither redis-server nor valkey-server is on PATH")
    # Not tmp_path: a socket's path has at most 107 bytes.
    with tempfile.TemporaryDirectory(prefix="cyphonic-site-") as directory:
        site = LiveSite(Path(directory))
        cluster = site.start()
        try:
            _eventually(site.ready.exists)
            yield site
            site.scale(0)
        finally:
            cluster.terminate()
            cluster.wait(DEADLINE)


def test_a_running_site_takes_new_workers_and_lets_them_go(site: LiveSite) -> None:
    before = len(site.fleet()["workers"])
    assert before > 0
    assert site.scale(2) == "2 worker instances: 1 2\n"
    _eventually(lambda: len(site.fleet()["workers"]) == 3 * before)
    assert site.scale(1) == "1 worker instances: 1\n"
    _eventually(lambda: len(site.fleet()["workers"]) == 2 * before)
    assert site.scale(0) == "0 worker instances: none\n"
    _eventually(lambda: len(site.fleet()["workers"]) == before)
