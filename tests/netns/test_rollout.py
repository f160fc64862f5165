"""deploy/rollout brings a site to the hosts of an inventory, replaces every process of it, and stops it."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cyphonic.cluster.embedded_redis import find_server
from cyphonic.lab.build import Lab
from cyphonic.lab.topology import parse_topology
from tests.architecture.tree import ROOT

pytestmark = pytest.mark.root

TOPOLOGY = """
[network.backbone]
ipv4 = "10.1.0.0/24"
[router.core]
serves = ["backbone"]
[host.edge]
network = "backbone"
role = "plain"
[host.core1]
network = "backbone"
role = "plain"
"""
CYPHONIC = str(Path(sys.executable).with_name("cyphonic"))
PATIENCE = 20.0


class Rollout:
    """An operator at the edge host."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.site = lab.directory / "site"
        self.inventory = lab.directory / "inventory"
        self.inventory.write_text(
            "# name  reach  directory  tiers\n"
            + self.line("edge", "frontend relay")
            + self.line("core1", "worker")
            + "\n"
        )

    def line(self, host: str, tiers: str) -> str:
        return f"{host} netns:{self.lab.namespace(host).name} {self.lab.directory / host} {tiers}\n"

    def __call__(self, action: str, *hosts: str) -> str:
        argv = [str(ROOT / "deploy" / "rollout"), "--site", str(self.site), str(self.inventory), action, *hosts]
        done = subprocess.run(
            argv,
            env={**os.environ, "CYPHONIC": CYPHONIC, "SETTLE": "1"},
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def fleet(self) -> dict[str, Any]:
        """Asked for on the edge host, which can reach Redis."""
        config = str(self.site / "cloud.toml")
        return dict(
            json.loads(self.lab.run("edge", [CYPHONIC, "admin", "fleet", "--json", "--config", config]).stdout)
        )

    def until_sizes(self, frontends: int, workers: int, relays: int) -> None:
        deadline = time.monotonic() + PATIENCE
        while (sizes := [len(self.fleet()[tier]) for tier in ("frontends", "workers", "relays")]) != [
            frontends,
            workers,
            relays,
        ]:
            assert time.monotonic() < deadline, sizes


@pytest.fixture
def rollout(laboratory_ground: None) -> Iterator[Rollout]:
    with Lab(parse_topology(TOPOLOGY, "rollout")) as lab:
        made = Rollout(lab)
        config, edge = made.site / "cloud.toml", lab.address("edge")
        lab.run("edge", [CYPHONIC, "admin", "init", "--config", str(config)])
        (made.site / "redis-password").write_text("secret\n")
        config.write_text(
            config.read_text().replace("[site]\n", '[site]\npipeline = "tcp://10.1.0.0/24:7800-7899"\n')
            + f'\n[redis]\nurl = "redis://{edge}:6379/0"\npassword_file = "redis-password"\n'
            "\n[worker]\nprocesses = 1\nthreads = 1\n"
        )
        words = ["--bind", edge, "--requirepass", "secret", "--save", "", "--dir", str(made.site)]
        lab.popen("edge", [str(find_server()), *words], stdout=subprocess.DEVNULL)
        yield made
        for log in lab.directory.rglob("rollout/*.log"):
            print(f"--- {log}\n{log.read_text()[-1500:]}")


def pids(text: str) -> dict[str, int]:
    return {name: int(pid) for name, pid in re.findall(r"(\S+) runs \(pid (\d+)\)", text)}


def test_a_site_is_rolled_out_grown_replaced_and_stopped(rollout: Rollout) -> None:
    rollout("push")
    keys = {
        host: {file.name for file in (rollout.lab.directory / host / "keys").iterdir()}
        for host in ("edge", "core1")
    }
    assert keys["edge"] == {"as.pub", "nms.pub", "pipeline.key", "relay.key"}, "a frontend gets no worker's secret"
    assert "as-signing.key" in keys["core1"]
    assert (rollout.lab.directory / "core1" / "keys" / "nms.key").stat().st_mode & 0o777 == 0o600
    started = pids(rollout("start"))
    assert set(started) == {"frontend-1", "relay-1", "worker-1"}
    rollout.until_sizes(1, 1, 1)
    rollout.inventory.write_text(rollout.inventory.read_text().replace(" worker\n", " worker worker\n"))
    grown = pids(rollout("start", "core1"))
    assert grown["worker-1"] == started["worker-1"], "what runs is left alone"
    rollout.until_sizes(1, 2, 1)
    replaced = pids(rollout("restart"))
    assert not set(replaced.values()) & {*started.values(), *grown.values()}
    rollout.until_sizes(1, 2, 1)
    assert "runs" not in rollout("stop")
    rollout.until_sizes(0, 0, 0)
