"""The demo as a command: on a pipe, cut short, and with what it leaves behind."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

Remains = Callable[[str], list[Path]]
DEMO = [sys.executable, "-m", "cyphonic", "lab", "demo", "--topology"]


@pytest.fixture
def cut_short(laboratory_ground: None) -> Iterator[subprocess.Popen[str]]:
    """A demo under way; the test interrupts it."""
    with subprocess.Popen(
        [*DEMO, "two-nodes"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    ) as process:
        yield process
        process.kill()


def test_every_pair_of_two_open_nodes_is_direct_and_nothing_remains(
    laboratory_ground: None, remains: Remains
) -> None:
    result = subprocess.run([*DEMO, "two-nodes"], capture_output=True, text=True, timeout=110, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    lab_id = result.stdout.split()[1].rstrip(":")
    for pair in ("alice → bob", "bob → alice"):
        row = next(line for line in result.stdout.splitlines() if line.strip().startswith(pair) and "equal" in line)
        assert re.search(r" direct +direct .*ms.*ms.*Mbit/s.*equal [0-9a-f]{8}", row)
    assert "2 of 2 pairs" in result.stdout
    assert remains(lab_id) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("moment", ["starting the cloud", "enrolling", "1/2"])
def test_nothing_remains_of_a_demo_cut_short(
    cut_short: subprocess.Popen[str], moment: str, number: signal.Signals, remains: Remains
) -> None:
    assert cut_short.stdout is not None
    lab_id = cut_short.stdout.readline().split()[1].rstrip(":")
    assert any(moment in line for line in cut_short.stdout)
    os.kill(cut_short.pid, number)
    assert cut_short.wait(timeout=30) != 0
    assert remains(lab_id) == []
