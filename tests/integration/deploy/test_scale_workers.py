"""The script that grows and shrinks a fleet, with a stand-in for the worker: what counts here are its processes."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.architecture.tree import ROOT

SCRIPT = ROOT / "deploy" / "scale-workers"
DEADLINE = 15.0

STAND_IN = """\
#!/usr/bin/env bash
case $1 in
    admin) printf '{{\\n  "run_dir": "{directory}",\\n}}\\n' ;;
    worker)
        trap 'echo drained >>{directory}/drained; exit 0' TERM
        echo $$ >>{directory}/started
        while :; do sleep 0.05; done ;;
esac
"""


class Fleet:
    """The stand-in's site."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._command = directory / "cyphonic"
        self._command.write_text(STAND_IN.format(directory=directory))
        self._command.chmod(0o755)
        self._config = directory / "cloud.toml"
        self._config.touch()

    def scale(self, wanted: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [SCRIPT, "--config", self._config, wanted],
            env={"PATH": os.environ["PATH"], "CYPHONIC": str(self._command)},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    def keepers(self) -> dict[str, int]:
        return {file.stem: int(file.read_text()) for file in sorted((self.directory / "workers").glob("*.pid"))}

    def started(self) -> list[int]:
        file = self.directory / "started"
        return [int(line) for line in file.read_text().split()] if file.exists() else []

    def drained(self) -> int:
        file = self.directory / "drained"
        return len(file.read_text().splitlines()) if file.exists() else 0


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Fleet]:
    fleet = Fleet(tmp_path)
    yield fleet
    fleet.scale("0")


def _eventually(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + DEADLINE
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_the_fleet_grows_and_shrinks_to_what_is_asked_for(fleet: Fleet) -> None:
    assert fleet.scale("3").stdout == "3 worker instances: 1 2 3\n"
    _eventually(lambda: len(fleet.started()) == 3)
    assert fleet.scale("1").stdout == "1 worker instances: 1\n"
    assert fleet.drained() == 2
    assert fleet.scale("status").stdout == "1 worker instances: 1\n"
    assert fleet.scale("2").stdout == "2 worker instances: 1 2\n"
    _eventually(lambda: len(fleet.started()) == 4)
    assert sum(map(_lives, fleet.started())) == 2
    assert fleet.scale("0").stdout == "0 worker instances: none\n"
    assert not any(map(_lives, fleet.started()))
    assert fleet.keepers() == {}


def test_asking_twice_changes_nothing(fleet: Fleet) -> None:
    fleet.scale("2")
    _eventually(lambda: len(fleet.started()) == 2)
    before = fleet.keepers()
    fleet.scale("2")
    assert fleet.keepers() == before
    assert len(fleet.started()) == 2


def test_a_worker_that_dies_is_started_again(fleet: Fleet) -> None:
    fleet.scale("1")
    _eventually(lambda: len(fleet.started()) == 1)
    os.kill(fleet.started()[0], signal.SIGKILL)
    _eventually(lambda: len(fleet.started()) == 2)
    assert fleet.scale("status").stdout == "1 worker instances: 1\n"


def test_a_pid_file_that_nobody_holds_is_no_worker(fleet: Fleet) -> None:
    stale = fleet.directory / "workers" / "1.pid"
    stale.parent.mkdir()
    stale.write_text(f"{os.getpid()}\n")
    assert fleet.scale("status").stdout == "0 worker instances: none\n"
    assert fleet.scale("1").stdout == "1 worker instances: 1\n"
    assert fleet.keepers()["1"] != os.getpid()


@pytest.mark.parametrize("wanted", ["", "-1", "many", "1000"])
def test_a_number_that_is_none_is_a_usage_error(fleet: Fleet, wanted: str) -> None:
    assert fleet.scale(wanted).returncode == 2
    assert fleet.started() == []
