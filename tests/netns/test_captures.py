"""A failing test leaves packets behind, a passing one nothing."""

from __future__ import annotations

import inspect
from pathlib import Path

import pytest

from cyphonic.lab.build import Lab
from cyphonic.lab.topology import load_topology
from tests.netns.captures import CapturedLabs


@pytest.fixture(autouse=True)
def uncaptured_labs(monkeypatch: pytest.MonkeyPatch) -> None:
    """The session's own captures leave the labs of this file alone."""
    for method in ("start", "close"):
        monkeypatch.setattr(Lab, method, inspect.unwrap(getattr(Lab, method)))


@pytest.mark.parametrize("fails", [False, True])
def test_captures_are_kept_when_a_test_fails_and_thrown_away_when_it_passes(
    laboratory_ground: None, tmp_path: Path, fails: bool
) -> None:
    labs = CapturedLabs(tmp_path)
    with labs.watching(), Lab(load_topology("two-nodes")) as lab:
        (lab.directory / "alice.log").write_text("something")
        labs.begin("tests/netns/test_it.py::test_that[one]")
        lab.run("alice", ["ping", "-c3", "-i0.2", lab.address("bob")])
        if fails:
            labs.failed("tests/netns/test_it.py::test_that[one]")
    if not fails:
        assert list(tmp_path.iterdir()) == []
        return
    [directory] = tmp_path.iterdir()
    assert labs.kept == [directory]
    assert directory.name == "test_it.py-test_that-one-"
    names = {file.name.rstrip("01") for file in directory.iterdir()}
    assert {"alice.pcap", "bob.pcap", "core.pcap"} <= names
    assert any(name.endswith("alice.log") for name in names)
    assert all(file.stat().st_size < 2_100_000 for file in directory.iterdir())
    bob = next(directory.glob("bob.pcap*"))
    assert bob.stat().st_size > 300  # echo requests and replies, not the file's header alone


def test_an_exception_while_a_lab_stands_keeps_its_captures_too(laboratory_ground: None, tmp_path: Path) -> None:
    labs = CapturedLabs(tmp_path)
    labs.begin("a fixture")
    with labs.watching(), pytest.raises(RuntimeError), Lab(load_topology("two-nodes")):
        raise RuntimeError("fixture")
    assert [directory.name for directory in tmp_path.iterdir()] == ["a-fixture"]
