"""``cyphonic loadgen`` against a real cluster."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.bench.cluster import Cluster, cyphonic, running_cluster

PATIENCE = 60.0


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with running_cluster() as running:
        yield running


def loadgen(bundle: Path, *options: object) -> subprocess.CompletedProcess[str]:
    argv = cyphonic("loadgen", "--enrol", bundle, *options)
    return subprocess.run(argv, capture_output=True, text=True, timeout=PATIENCE)


def load(cluster: Cluster, scenario: str) -> dict[str, Any]:
    options = ("--nodes", 12, "--duration", 1, "--rate", 100, "--scenario", scenario, "--json")
    finished = loadgen(cluster.bundle, *options)
    assert finished.returncode == 0, finished.stderr
    report: dict[str, Any] = json.loads(finished.stdout)
    assert report["schema_version"] == 1
    return report


@pytest.mark.parametrize(
    ("scenario", "kinds"),
    [
        ("direction", {"direction"}),
        ("login", {"login", "registration"}),
        ("mixed", {"direction"}),
    ],
)
def test_every_transaction_begun_is_completed(cluster: Cluster, scenario: str, kinds: set[str]) -> None:
    transactions = load(cluster, scenario)["transactions"]
    assert kinds <= transactions.keys()
    for row in transactions.values():
        assert row["started"] == row["completed"] > 0
        assert row["refused"] == row["gave_up"] == 0
        assert 0 < row["p50_ms"] <= row["p99_ms"] <= row["max_ms"]


def test_without_json_it_prints_a_table(cluster: Cluster) -> None:
    finished = loadgen(cluster.bundle, "--nodes", 4, "--duration", 0.5, "--window", 4)
    assert finished.returncode == 0
    assert "direction" in finished.stdout
    assert "p99 ms" in finished.stdout


def test_a_key_for_one_node_is_not_enough(cluster: Cluster, tmp_path: Path) -> None:
    single = tmp_path / "single.bundle"
    argv = cyphonic("admin", "key", "create", "--config", cluster.config, "-o", single)
    subprocess.run(argv, check=True, capture_output=True)
    finished = loadgen(single, "--nodes", 3, "--duration", 0.5, "--prefix", "other")
    assert finished.returncode == 3
    assert "--reusable" in finished.stderr


def test_a_broken_bundle_is_named(tmp_path: Path) -> None:
    broken = tmp_path / "broken.bundle"
    broken.write_text("version = 1\n")
    finished = loadgen(broken)
    assert finished.returncode == 2
    assert "broken.bundle" in finished.stderr
