"""What the generator begins next, and when.  Pure.

With a rate, transactions begin on schedule whether the cloud keeps up or not, and latency counts from the
schedule: a cloud that stalls cannot hide it by delaying the next question.  Without one, a fixed number is kept
under way: that finds out what the cloud can do.
"""

from __future__ import annotations

from enum import Enum
from random import Random

from cyphonic.loadgen.traffic import Traffic

MIXED_LOGINS = 0.05
"""Share of logins in the mixed scenario; a real node logs in twice a day and asks far more often."""
MAX_BEGINNINGS = 256
"""In one turn, so that answers are read in between."""


class Scenario(Enum):
    """What is measured."""

    LOGIN = "login"
    DIRECTION = "direction"
    MIXED = "mixed"


class Pacer:
    """How many transactions to begin now: ``rate`` per second, or as many as keep ``window`` under way."""

    def __init__(self, rate: float, window: int, start: float) -> None:
        self._rate = rate
        self._window = window
        self._next = start

    def due(self, under_way: int, now: float) -> list[float]:
        """When each transaction to begin now was due.  A schedule does not look at what is under way."""
        if not self._rate:
            return [now] * min(MAX_BEGINNINGS, max(0, self._window - under_way))
        times: list[float] = []
        while self._next <= now and len(times) < MAX_BEGINNINGS:
            times.append(self._next)
            self._next += 1 / self._rate
        return times

    def next_deadline(self) -> float | None:
        """When the next one is due by the schedule."""
        return self._next if self._rate else None


class Beginner:
    """Begins transactions of a scenario, nodes chosen at random."""

    def __init__(self, scenario: Scenario, traffic: Traffic, random: Random) -> None:
        self._scenario = scenario
        self._traffic = traffic
        self._random = random
        self._turn = 0

    def begin(self, due: float, now: float, stamp: int) -> None:
        """One transaction; ``stamp`` is that of a login, nanoseconds."""
        if self._is_login():
            self._turn = (self._turn + 1) % len(self._traffic.nodes)
            self._traffic.login(self._turn, now, stamp)
        else:
            initiator, responder = self._choose(), self._choose()
            if initiator != responder:
                self._traffic.direct(initiator, responder, now, due)

    def _is_login(self) -> bool:
        if self._scenario is Scenario.MIXED:
            return self._random.random() < MIXED_LOGINS
        return self._scenario is Scenario.LOGIN

    def _choose(self) -> int:
        """A registered node; any node where a few tries find none."""
        nodes = self._traffic.nodes
        for _ in range(8):
            index = int(self._random.random() * len(nodes))
            if nodes[index].registered:
                break
        return index
