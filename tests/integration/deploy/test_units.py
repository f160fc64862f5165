"""The systemd units: what systemd says of them, and that each tier is given the keys that it loads, no others."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.architecture.tree import ROOT

UNITS = ROOT / "deploy" / "systemd"
INSTANCES = {"cyphonic-worker@": "1", "cyphonic-relay@": "7703"}
MAX_EXPOSURE = 3.0
"""Of ``systemd-analyze security``, where 10 is a service with no restriction at all."""

PUBLIC = {"as.pub", "as-signing.pub", "nms.pub"}
KEYS = {
    "cyphonic-frontend.service": {"as.pub", "nms.pub", "pipeline.key"},
    "cyphonic-worker@.service": PUBLIC | {"as.key", "as-signing.key", "nms.key", "pipeline.key", "state.key"},
    "cyphonic-relay@.service": {"relay.key", "nms.pub"},
    "cyphonic-cluster.service": PUBLIC
    | {"as.key", "as-signing.key", "nms.key", "pipeline.key", "relay.key", "state.key"},
    "cyphonic-node.service": set(),
}


@pytest.fixture
def installed(tmp_path: Path) -> list[Path]:
    """The units as they would be installed, with a program that is here."""
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not installed")
    files = []
    for unit in sorted(UNITS.glob("*.*")):
        if unit.suffix not in (".service", ".target"):
            continue
        stem = unit.stem + INSTANCES.get(unit.stem, "")
        file = tmp_path / (stem + unit.suffix)
        file.write_text(unit.read_text().replace("/usr/local/bin/cyphonic", "/bin/true"))
        files.append(file)
    return files


def test_systemd_finds_nothing_wrong_with_the_units(installed: list[Path]) -> None:
    checked = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", *installed], capture_output=True, text=True, check=False
    )
    assert checked.stdout + checked.stderr == ""
    assert checked.returncode == 0


def test_every_service_is_hardened(installed: list[Path]) -> None:
    for file in installed:
        if file.suffix != ".service":
            continue
        said = subprocess.run(
            ["systemd-analyze", "security", "--offline=yes", file], capture_output=True, text=True, check=False
        )
        exposure = re.search(r"Overall exposure level for \S+: ([0-9.]+)", said.stdout)
        assert exposure is not None, said.stderr
        assert float(exposure[1]) <= MAX_EXPOSURE, file.name


@pytest.mark.parametrize(("name", "keys"), KEYS.items())
def test_each_tier_is_given_its_own_keys_and_no_others(name: str, keys: set[str]) -> None:
    text = (UNITS / name).read_text()
    assert set(re.findall(r"^LoadCredential=([^:]+):", text, re.MULTILINE)) == keys
    assert "cyphonic " in re.search(r"^ExecStart=(.*)$", text, re.MULTILINE)[1]  # type: ignore[index]  # or fail


def test_only_the_node_has_a_capability() -> None:
    for unit in UNITS.glob("*.service"):
        granted = re.findall(r"^AmbientCapabilities=(.*)$", unit.read_text(), re.MULTILINE)
        expected = "CAP_NET_ADMIN CAP_NET_BIND_SERVICE" if unit.name == "cyphonic-node.service" else ""
        assert granted == [expected], unit.name
