"""A lab stands as its file says, and nothing of it remains, however it ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from cyphonic.lab.build import Lab
from cyphonic.lab.record import LabRecord, records, sweep
from cyphonic.lab.tools import LabError

Remains = Callable[[str], list[Path]]

BUILD_AND_WAIT = """
import sys, time
from cyphonic.lab.build import Lab, termination_raises
from cyphonic.lab.topology import load_topology
with termination_raises(), Lab(load_topology("two-nodes")) as lab:
    lab.popen("alice", ["sleep", "300"])
    print(lab.record.id, flush=True)
    time.sleep(300)
"""


def ping(lab: Lab, source: str, target: str, version: int = 4) -> bool:
    command = ["ping", "-c1", "-W1", lab.address(target, version)]
    return lab.run(source, command, check=False).returncode == 0


def test_the_demo_topology_carries_packets_where_an_internet_would(make_lab: Callable[[str], Lab]) -> None:
    lab = make_lab("demo")
    assert ping(lab, "cone", "cloud")
    assert ping(lab, "twin-b", "open")
    assert ping(lab, "twin-a", "twin-b")
    assert ping(lab, "six", "cloud", 6)
    assert ping(lab, "dual", "six", 6)
    assert ping(lab, "dual", "open", 4)
    assert not ping(lab, "open", "port")
    assert not ping(lab, "addr", "sym")


def test_each_host_has_a_resolv_conf_of_its_own(make_lab: Callable[[str], Lab]) -> None:
    lab = make_lab("two-nodes")
    lab.run("alice", ["sh", "-c", "echo nameserver 192.0.2.1 > /etc/resolv.conf"])
    assert "192.0.2.1" in lab.run("alice", ["cat", "/etc/resolv.conf"]).stdout
    assert "192.0.2.1" not in lab.run("bob", ["cat", "/etc/resolv.conf"]).stdout
    assert "192.0.2.1" not in Path("/etc/resolv.conf").read_text()


def test_nothing_remains_after_a_lab_and_its_processes_are_ended(
    make_lab: Callable[[str], Lab], remains: Remains
) -> None:
    lab = make_lab("two-nodes")
    child = lab.popen("alice", ["sleep", "300"])
    assert remains(lab.record.id)
    lab.close()
    assert child.wait(timeout=5) == -signal.SIGTERM
    assert remains(lab.record.id) == []


def test_a_lab_that_fails_half_way_takes_down_what_it_built(
    make_lab: Callable[[str], Lab], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise LabError("refused")

    monkeypatch.setattr(Lab, "_set_rules", refuse)
    with pytest.raises(LabError, match="refused"):
        make_lab("two-nodes")
    assert [record.id for record in records() if record.owner == os.getpid()] == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_nothing_remains_after_a_signal(laboratory_ground: None, number: signal.Signals, remains: Remains) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", BUILD_AND_WAIT], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as process:
        assert process.stdout is not None
        lab_id = process.stdout.readline().decode().strip()
        assert remains(lab_id)
        process.send_signal(number)
        assert process.wait(timeout=20) != 0
    assert remains(lab_id) == []


def test_what_a_killed_lab_leaves_is_found_and_removed(laboratory_ground: None, remains: Remains) -> None:
    with subprocess.Popen([sys.executable, "-c", BUILD_AND_WAIT], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        lab_id = process.stdout.readline().decode().strip()
        process.kill()
    assert remains(lab_id)
    sweep()
    deadline = time.monotonic() + 20
    while remains(lab_id) and time.monotonic() < deadline:  # another process may be the one that sweeps
        time.sleep(0.05)
    assert remains(lab_id) == []


def test_the_lab_of_a_living_process_is_left_alone(make_lab: Callable[[str], Lab], remains: Remains) -> None:
    lab = make_lab("two-nodes")
    assert lab.record.id not in sweep()
    assert remains(lab.record.id)


def test_a_reused_process_id_does_not_protect_a_dead_lab() -> None:
    record = LabRecord("cy1.0000", "none", os.getpid(), 1, "/nonexistent", {})
    assert record.abandoned


def test_the_command_line_builds_runs_in_and_removes_a_lab(
    laboratory_ground: None, tmp_path: Path, remains: Remains
) -> None:
    def lab(*words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "cyphonic", "lab", *words]
        return subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=tmp_path, check=False)

    built = lab("up", "two-nodes")
    assert built.returncode == 0, built.stderr
    lab_id = built.stdout.partition(":")[0]
    try:
        assert lab_id in lab("list").stdout
        executed = lab("exec", "--lab", lab_id, "alice", "ip", "-brief", "address", "show", "eth0")
        assert "203.0.113.12/24" in executed.stdout
        unknown = lab("exec", "--lab", lab_id, "nobody", "true")
        assert (unknown.returncode, "it has" in unknown.stderr) == (1, True)
    finally:
        assert lab("down", lab_id).returncode == 0
    assert remains(lab_id) == []


def test_without_root_or_programs_the_error_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    from cyphonic.lab import tools

    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(tools, "search_path", lambda: "/nonexistent")
    with pytest.raises(LabError) as caught:
        tools.require_tools()
    assert caught.value.hint == "apt-get install iproute2 nftables conntrack"
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(LabError, match="needs root"):
        tools.require_tools()
