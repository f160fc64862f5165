"""Packet captures and logs of every lab that a failing test used, below ``build/captures``; of others, nothing."""

from __future__ import annotations

import re
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import wraps
from pathlib import Path

import pytest

from cyphonic.lab import link
from cyphonic.lab.build import Lab
from cyphonic.lab.capture import Capture

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "build" / "captures"


class CapturedLabs:
    """The labs that stand in this process, and what failed while they did."""

    def __init__(self, folder: Path = FOLDER) -> None:
        self.folder = folder
        self.kept: list[Path] = []
        self._captures: dict[Lab, Capture] = {}
        self._failures: dict[Lab, str] = {}
        self._running = ""

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Every lab that starts in this block is captured."""
        start, close = Lab.start, Lab.close

        @wraps(start)
        def captured_start(lab: Lab) -> None:
            start(lab)
            namespaces = {name: lab.record.namespaces[name] for name in link.owners(lab.topology)}
            self._captures[lab] = Capture(namespaces, lab.directory / "captures")
            self._captures[lab].start()

        @wraps(close)
        def captured_close(lab: Lab) -> None:
            self._end(lab)
            close(lab)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Lab, "start", captured_start)
            patch.setattr(Lab, "close", captured_close)
            yield

    def begin(self, test: str) -> None:
        """A test starts: what fails now is its failure."""
        self._running = test

    def failed(self, test: str) -> None:
        """A test has failed: the labs that stand now are worth keeping."""
        for lab in self._captures:
            self._failures.setdefault(lab, test)

    def _end(self, lab: Lab) -> None:
        capture = self._captures.pop(lab, None)
        if capture is None:
            return
        failure = self._failures.pop(lab, "")
        if not failure and isinstance(sys.exc_info()[1], Exception):
            failure = self._running  # a fixture failed while the lab stood
        capture.stop()
        if failure:
            directory = self.folder / re.sub(r"[^A-Za-z0-9_.-]+", "-", failure.removeprefix("tests/netns/"))
            capture.keep(directory)
            for log in lab.directory.rglob("*.log"):
                directory.mkdir(parents=True, exist_ok=True)
                shutil.copy(log, directory / f"{log.parent.name}-{log.name}")
            self.kept.append(directory)
