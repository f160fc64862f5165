"""A cloud on several hosts, set up as docs/operations.md says, loses hosts and gains them.

Redis and a frontend on the first host, a frontend on the second, workers on the third; a fourth host joins with
more workers.  Every host has files of its own, copied as an operator would.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cyphonic.cluster.embedded_redis import find_server
from cyphonic.lab.build import Lab
from cyphonic.lab.topology import parse_topology
from cyphonic.protocol.keys import encode_key

pytestmark = pytest.mark.root

TOPOLOGY = """
[network.internet]
ipv4 = "203.0.113.0/24"
[router.core]
serves = ["internet"]
[host.first]
network = "internet"
role = "plain"
[host.second]
network = "internet"
role = "plain"
[host.third]
network = "internet"
role = "plain"
[host.fourth]
network = "internet"
role = "plain"
[host.outsider]
network = "internet"
role = "plain"
[host.alice]
network = "internet"
[host.bob]
network = "internet"
"""
NETWORK = "203.0.113.0/24"
PATIENCE = 60.0
"""Seconds; real processes on a machine that others use as well."""
TIER_KEYS = {
    "frontend": ["as.pub", "nms.pub", "pipeline.key"],
    "worker": [
        "as.key", "as-signing.key", "nms.key", "state.key", "pipeline.key", "as.pub", "as-signing.pub", "nms.pub",
    ],
}  # fmt: skip


def until(done: Callable[[], object], what: str) -> None:
    """Poll, with a deadline."""
    deadline = time.monotonic() + PATIENCE
    while not done():
        assert time.monotonic() < deadline, f"did not happen: {what}"
        time.sleep(0.05)


class Cloud:
    """What an operator does, host by host."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.processes: dict[str, subprocess.Popen[bytes]] = {}

    def directory(self, host: str) -> Path:
        return self.lab.directory / host

    def config(self, host: str) -> Path:
        return self.directory(host) / "cloud.toml"

    def cyphonic(self, host: str, *words: str) -> str:
        argv = [sys.executable, "-m", "cyphonic", *words]
        return self.lab.run(host, argv, env=self.environment(host), timeout=60).stdout

    def environment(self, host: str) -> dict[str, str]:
        file = self.config(host) if self.config(host).exists() else self.directory(host) / "node.toml"
        return {**os.environ, "CYPHONIC_CONFIG": str(file)}

    def start(self, host: str, name: str, *argv: str) -> subprocess.Popen[bytes]:
        with (self.directory(host) / f"{name}.log").open("ab") as log:
            self.processes[f"{name}@{host}"] = process = self.lab.popen(
                host, argv, env=self.environment(host), stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        return process

    def start_tier(self, host: str, tier: str, *options: str) -> subprocess.Popen[bytes]:
        return self.start(host, tier, sys.executable, "-m", "cyphonic", tier, *options)

    def make_site(self, host: str) -> None:
        """Steps 1: the site, its Redis, and the two settings."""
        directory = self.directory(host)
        directory.mkdir(mode=0o700)
        self.cyphonic(host, "admin", "init", "--config", str(self.config(host)), "--region", "lab")
        password = directory / "redis-password"
        password.write_text(secrets.token_urlsafe(24) + "\n")
        text = self.config(host).read_text()
        self.config(host).write_text(
            text.replace("[site]\n", f'[site]\npipeline = "tcp://{NETWORK}:7800-7899"\n')
            + f'\n[redis]\nurl = "redis://{self.lab.address(host)}:6379/0"\npassword_file = "redis-password"\n'
            "\n[worker]\nprocesses = 1\nthreads = 2\n"
        )
        options = {"bind": self.lab.address(host), "requirepass": password.read_text().strip()}
        options |= {"dir": str(directory), "appendonly": "yes", "save": ""}
        words = [word for name, value in options.items() for word in (f"--{name}", value)]
        self.start(host, "redis", str(find_server()), *words)
        until(lambda: self.fleet(host) is not None, "a Redis that answers")

    def copy_site(self, source: str, host: str, tier: str) -> None:
        """Step 2: the file, the password, and the keys of that tier alone."""
        directory = self.directory(host)
        (directory / "keys").mkdir(mode=0o700, parents=True)
        for name in ("cloud.toml", "redis-password", *(f"keys/{key}" for key in TIER_KEYS[tier])):
            shutil.copy2(self.directory(source) / name, directory / name)

    def fleet(self, host: str) -> dict[str, Any] | None:
        """What ``admin fleet`` says there."""
        argv = [sys.executable, "-m", "cyphonic", "admin", "fleet", "--json"]
        done = self.lab.run(host, argv, env=self.environment(host), check=False)
        return json.loads(done.stdout) if done.returncode == 0 else None

    def workers_on(self, host: str) -> list[dict[str, Any]]:
        """Those of a host, as the first host's ``admin fleet`` shows them."""
        fleet = self.fleet("first") or {"workers": []}
        prefix = f"tcp://{self.lab.address(host)}:"
        return [worker for worker in fleet["workers"] if worker["pipeline"].startswith(prefix)]

    def prepare_node(self, host: str) -> Path:
        """An enrolment bundle for it, its directories made."""
        directory = self.directory(host)
        directory.mkdir(mode=0o700)
        (directory / "node.toml").write_text('[node]\nstate_dir = "state"\nrun_dir = "run"\n')
        bundle = directory / "bundle.toml"
        self.cyphonic("first", "admin", "key", "create", "--name", host, "-o", str(bundle))
        return bundle

    def logs(self) -> str:
        return "\n".join(f"--- {file}\n{file.read_text()[-2000:]}" for file in self.lab.directory.rglob("*.log"))


@pytest.fixture(scope="module")
def cloud(laboratory_ground: None) -> Iterator[Cloud]:
    """Three hosts, running; two nodes, joined."""
    with Lab(parse_topology(TOPOLOGY, "three-hosts")) as lab:
        made = Cloud(lab)
        try:
            made.make_site("first")
            made.start_tier("first", "frontend")
            made.copy_site("first", "second", "frontend")
            made.start_tier("second", "frontend")
            made.copy_site("first", "third", "worker")
            made.start_tier("third", "worker")
            until(lambda: len((made.fleet("first") or {"frontends": ()})["frontends"]) == 2, "both frontends")
            until(lambda: len(made.workers_on("third")) == 2, "the workers")
            for node in ("alice", "bob"):
                made.cyphonic(node, "up", "--enrol", str(made.prepare_node(node)))
            yield made
        finally:
            print(made.logs())


def ping(cloud: Cloud, source: str, target: str) -> bool:
    argv = [sys.executable, "-m", "cyphonic", "ping", "-c", "1", target]
    return cloud.lab.run(source, argv, env=cloud.environment(source), check=False).returncode == 0


def test_nodes_join_a_cloud_whose_tiers_are_on_three_hosts(cloud: Cloud) -> None:
    until(lambda: ping(cloud, "alice", "bob"), "alice reaches bob")
    names = {
        node["name"] for node in json.loads(cloud.cyphonic("first", "admin", "node", "list", "--json"))["nodes"]
    }
    assert names == {"alice", "bob"}
    for tier in ("first", "second"):
        (file,) = cloud.directory(tier).glob("frontend.log")
        assert "worker appeared" in file.read_text()


def test_a_host_with_another_pipeline_key_gets_no_work_though_it_can_write_to_redis(cloud: Cloud) -> None:
    cloud.copy_site("first", "outsider", "worker")
    (cloud.directory("outsider") / "keys" / "pipeline.key").write_text(encode_key(os.urandom(32)) + "\n")
    process = cloud.start_tier("outsider", "worker")
    until(lambda: len(cloud.workers_on("outsider")) == 2, "it announces itself")
    announced = {worker["instance"] for worker in cloud.workers_on("outsider")}
    until(lambda: ping(cloud, "bob", "alice"), "the others work meanwhile")
    process.terminate()
    process.wait(PATIENCE)
    for host in ("first", "second"):
        met = set(re.findall("worker=([0-9a-f]+)", (cloud.directory(host) / "frontend.log").read_text()))
        assert met
        assert not met & announced


def test_a_worker_host_that_is_added_takes_load(cloud: Cloud) -> None:
    bundle = cloud.directory("first") / "load.bundle"
    cloud.cyphonic("first", "admin", "key", "create", "--reusable", "-o", str(bundle))
    options = ["--enrol", str(bundle), "--nodes", "20", "--duration", "12", "--rate", "100", "--json"]
    argv = [sys.executable, "-m", "cyphonic", "loadgen", *options]
    load = cloud.lab.popen("alice", argv, stdout=subprocess.PIPE)
    try:
        until(lambda: sum(worker["rate"] for worker in cloud.workers_on("third")) > 50, "a loaded cloud")
        cloud.copy_site("first", "fourth", "worker")
        cloud.start_tier("fourth", "worker")
        until(
            lambda: (
                all(worker["rate"] > 10 for worker in cloud.workers_on("fourth")) and cloud.workers_on("fourth")
            ),
            "both threads of the added host at work",
        )
        report = json.loads(load.communicate(timeout=60)[0])
    finally:
        load.kill()
        load.wait()
    direction = report["transactions"]["direction"]
    assert direction["gave_up"] == 0
    assert direction["completed"] == direction["started"]
    table = cloud.cyphonic("first", "admin", "fleet")
    assert cloud.lab.address("fourth") in table
    assert "jobs/s" in table


def test_nodes_turn_to_the_other_frontend_host_when_theirs_dies(cloud: Cloud) -> None:
    """A worker host dies with it; what is left serves everybody."""
    for name in ("frontend@first", "worker@third"):
        os.killpg(cloud.processes[name].pid, signal.SIGKILL)

    def registered_at_second(node: str) -> bool:
        shown = json.loads(cloud.cyphonic("second", "admin", "node", "show", node, "--json"))["node"]
        return all(lease["service"].startswith(cloud.lab.address("second")) for lease in shown["leases"])

    until(lambda: registered_at_second("alice") and registered_at_second("bob"), "both at the second frontend")
    until(lambda: ping(cloud, "bob", "alice"), "bob reaches alice")
