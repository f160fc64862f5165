"""The laboratory's end of an agent: requests in, answers out."""

from __future__ import annotations

import json
import select
import subprocess
import sys
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

from cyphonic.lab.build import Lab
from cyphonic.lab.tools import LabError

START_TIMEOUT = 20.0
SLACK = 5.0
"""Seconds that an answer may be later than the timeout in its request."""


class MeasurementError(LabError):
    """A measurement failed; the message says why."""


@dataclass(frozen=True, slots=True)
class Reached:
    """How a name was reached: seconds since the DNS query."""

    address: str
    resolved: float
    answered: float


@dataclass(frozen=True, slots=True)
class RoundTrip:
    """Median in seconds, and how many echo requests were lost."""

    rtt: float
    lost: int


@dataclass(frozen=True, slots=True)
class Transferred:
    """A transfer whose checksums were equal; ``seconds`` with connecting and the checksum's way back."""

    seconds: float
    sha256: str


class Agent:
    """The agent on one host; ``with`` starts and ends it.  Not for several threads at once."""

    def __init__(self, lab: Lab, host: str) -> None:
        self.host = host
        self._lab = lab
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it and wait until it listens; raise MeasurementError."""
        self._process = self._lab.popen(
            self.host,
            [sys.executable, "-m", "cyphonic.lab.agent"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        self._answer(START_TIMEOUT)

    def close(self) -> None:
        """End it."""
        if self._process is not None:
            self._process.terminate()
            self._process.communicate()
            self._process = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def reach(self, name: str, timeout: float) -> Reached:
        """DNS query for ``name``, then echo requests until the first answer."""
        return Reached(**self._ask(timeout, do="reach", name=name, timeout=timeout))

    def ping(self, address: str, count: int = 5, interval: float = 0.02, timeout: float = 1.0) -> RoundTrip:
        """``count`` echo requests one after the other, each answered within ``timeout`` seconds or lost."""
        longest = count * (interval + timeout)
        answer = self._ask(longest, do="ping", address=address, count=count, interval=interval, timeout=timeout)
        return RoundTrip(**answer)

    def transfer(self, name: str, size: int, timeout: float) -> Transferred:
        """Send ``size`` random bytes over TCP to the agent at ``name`` and compare checksums."""
        return Transferred(**self._ask(timeout, do="transfer", name=name, size=size, timeout=timeout))

    def _ask(self, patience: float, /, **request: Any) -> dict[str, Any]:
        assert self._process is not None
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(request).encode() + b"\n")
            self._process.stdin.flush()
        except BrokenPipeError as error:
            raise MeasurementError(f"the agent on {self.host} has ended") from error
        return self._answer(patience + SLACK)

    def _answer(self, timeout: float) -> dict[str, Any]:
        assert self._process is not None
        assert self._process.stdout is not None
        if not select.select([self._process.stdout], [], [], timeout)[0]:
            raise MeasurementError(f"the agent on {self.host} does not answer")
        line = self._process.stdout.readline()
        if not line:
            raise MeasurementError(f"the agent on {self.host} has ended")
        answer: dict[str, Any] = json.loads(line)
        if not answer.pop("ok"):
            raise MeasurementError(f"{self.host}: {answer['error']}")
        return answer
