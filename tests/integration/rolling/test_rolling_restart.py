"""Every process of a cloud is replaced while it works, one after the other, and no node notices."""

import json
import os
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest

from cyphonic.state.fleet import Fleet, read_fleet
from cyphonic.state.registry import list_nodes
from cyphonic.state.store import Store
from tests.live_cloud import LiveCloud, TierProcess, live_cloud, until
from tests.redis_server import RedisServer

NODES = 40
RATE = 150
"""Transactions per second: a modest load for a machine that others use as well."""
LOAD = 15
"""Seconds."""
FLEET = ["worker", "worker", "relay", "frontend", "frontend"]


@pytest.fixture
def cloud(redis_server: RedisServer) -> Iterator[LiveCloud]:
    with live_cloud(redis_server.config.url) as made:
        yield made


@pytest.fixture
def store(redis_server: RedisServer) -> Iterator[Store]:
    with Store.connect(redis_server.config) as opened:
        yield opened


@pytest.fixture
def fleet(cloud: LiveCloud, store: Store) -> list[TierProcess]:
    """All of them announced, the frontends open."""
    started = [cloud.start(tier) for tier in FLEET]
    until(lambda: _complete(read_fleet(store)), "a fleet")
    return started


def _sizes(fleet: Fleet) -> dict[str, int]:
    """Frontends count once they can send."""
    sending = [member for member in fleet.frontends if member.bound]
    return {"frontend": len(sending), "worker": len(fleet.workers), "relay": len(fleet.relays)}


def _complete(fleet: Fleet) -> bool:
    return _sizes(fleet) == {tier: FLEET.count(tier) for tier in set(FLEET)}


def replace(cloud: LiveCloud, store: Store, old: TierProcess) -> None:
    """Its successor first, then its end, as a rollout does it; a relay's successor takes its port, so it waits."""
    tier = old.name.rpartition("-")[0]
    if tier == "relay":
        assert old.stop() == 0
        cloud.start(tier)
    else:
        cloud.start(tier)
        until(lambda: _sizes(read_fleet(store))[tier] == FLEET.count(tier) + 1, f"one {tier} more")
        assert old.stop() == 0
    until(lambda: _complete(read_fleet(store)), "a fleet as before")


def start_load(cloud: LiveCloud, scenario: str) -> "subprocess.Popen[str]":
    file = cloud.directory / "load.bundle"
    endpoint = str(cloud.as_endpoint)
    made = cloud.run("admin", "key", "create", "--reusable", "--endpoint", endpoint, "-o", str(file))
    assert made.code == 0, made.stderr
    options = {"enrol": file, "nodes": NODES, "duration": LOAD, "rate": RATE, "scenario": scenario}
    words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    argv = [*cloud.argv("loadgen")[:-2], *words, "--json"]
    return subprocess.Popen(argv, env=os.environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finish(load: "subprocess.Popen[str]") -> dict[str, Any]:
    stdout, stderr = load.communicate(timeout=60)
    assert load.returncode == 0, stderr
    report: dict[str, Any] = json.loads(stdout)
    print(json.dumps(report, indent=1))
    return report


def test_replacing_every_process_under_load_loses_no_transaction(
    cloud: LiveCloud, store: Store, fleet: list[TierProcess]
) -> None:
    load = start_load(cloud, "mixed")
    try:
        until(lambda: sum(node.online for node in list_nodes(store)) == NODES, "joined nodes")
        for old in fleet:
            replace(cloud, store, old)
        assert load.poll() is None, "the load ended before the rollout"
        report = finish(load)
    finally:
        load.kill()
        load.wait()
    for kind, counts in report["transactions"].items():
        assert counts["gave_up"] == 0, kind
        assert counts["refused"] == 0, kind
        assert counts["completed"] == counts["started"], kind
    assert report["transactions"]["direction"]["p99_ms"] < 500, "before the first resending"
