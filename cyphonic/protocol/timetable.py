"""Timers as data: what is to be called when, by key.  Nothing here reads a clock."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Hashable

Action = Callable[[float, float], None]
"""Called with ``now`` (monotonic seconds) and ``wall`` (Unix seconds)."""

_SLACK = 64
"""Superseded entries that may stay in the heap beyond as many as there are timers."""


class Timetable:
    """One deadline and action a key; setting, clearing and the next deadline cost a heap operation at most."""

    def __init__(self) -> None:
        self._timers: dict[Hashable, tuple[float, int, Action]] = {}
        self._heap: list[tuple[float, int, Hashable]] = []
        self._count = 0

    def set(self, key: Hashable, deadline: float, action: Action) -> None:
        """Call ``action`` at ``deadline``, instead of whatever ``key`` had before."""
        self._count += 1
        self._timers[key] = (deadline, self._count, action)
        heapq.heappush(self._heap, (deadline, self._count, key))
        if len(self._heap) > 2 * len(self._timers) + _SLACK:
            self._heap = [(at, count, k) for k, (at, count, _) in self._timers.items()]
            heapq.heapify(self._heap)

    def clear(self, key: Hashable) -> None:
        """Forget the key's timer, if it has one."""
        self._timers.pop(key, None)

    def clear_all(self) -> None:
        """Forget every timer."""
        self._timers.clear()
        self._heap.clear()

    def next_deadline(self) -> float | None:
        """When ``run`` has something to do next."""
        heap = self._heap
        while heap and not self._stands(heap[0]):
            heapq.heappop(heap)
        return heap[0][0] if heap else None

    def run(self, now: float, wall: float) -> None:
        """Call every action whose deadline has come; one that an action sets meanwhile waits for the next run."""
        due = []
        while (deadline := self.next_deadline()) is not None and deadline <= now:
            due.append(heapq.heappop(self._heap))
        for entry in due:
            if self._stands(entry):  # no action before it set or cleared this key
                action = self._timers.pop(entry[2])[2]
                action(now, wall)

    def _stands(self, entry: tuple[float, int, Hashable]) -> bool:
        timer = self._timers.get(entry[2])
        return timer is not None and timer[1] == entry[1]
