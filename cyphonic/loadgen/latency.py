"""How long things took: a histogram of bounded size, exact to 2 %."""

from __future__ import annotations

import math

import msgspec

RESOLUTION = 0.02
"""Relative width of a bucket."""
SMALLEST = 1e-6
"""Seconds; anything quicker counts as this."""
BUCKETS = 1000
"""The last one begins at 6 minutes: longer than any conversation lives."""

_SCALE = 1 / math.log1p(RESOLUTION)


class Latencies:
    """Counts durations in buckets whose bounds grow by 2 %."""

    def __init__(self) -> None:
        self._counts = [0] * BUCKETS
        self.total = 0
        self.longest = 0.0

    def add(self, duration: float) -> None:
        """Count ``duration`` seconds."""
        bucket = int(math.log(max(duration, SMALLEST) / SMALLEST) * _SCALE)
        self._counts[min(bucket, BUCKETS - 1)] += 1
        self.total += 1
        self.longest = max(self.longest, duration)

    def percentile(self, percent: float) -> float:
        """Seconds under which ``percent`` of all durations lie; 0 when there is none."""
        wanted, seen = self.total * percent / 100, 0
        for bucket, count in enumerate(self._counts):
            seen += count
            if count and seen >= wanted:
                return min(self.longest, SMALLEST * (1 + RESOLUTION) ** (bucket + 1))
        return 0.0


class KindReport(msgspec.Struct, frozen=True):
    """What became of one kind of transaction.  Rates per second, latencies in milliseconds."""

    started: int
    completed: int
    refused: int
    gave_up: int
    resends: int
    rate: float
    p50_ms: float
    p90_ms: float
    p99_ms: float
    max_ms: float


class Tally:
    """What becomes of one kind of transaction."""

    def __init__(self) -> None:
        self.latencies = Latencies()
        self.started = 0
        self.refused = 0
        self.gave_up = 0
        self.resends = 0

    def report(self, duration: float) -> KindReport:
        """The sum over ``duration`` seconds."""
        p50, p90, p99 = (round(1000 * self.latencies.percentile(percent), 3) for percent in (50, 90, 99))
        return KindReport(
            started=self.started,
            completed=self.latencies.total,
            refused=self.refused,
            gave_up=self.gave_up,
            resends=self.resends,
            rate=round(self.latencies.total / duration, 1) if duration > 0 else 0.0,
            p50_ms=p50,
            p90_ms=p90,
            p99_ms=p99,
            max_ms=round(1000 * self.latencies.longest, 3),
        )
