"""Jobs that wait for a worker's credit: bounded, each with a deadline, what finishes a transaction first.

A job that waited longer than its client waits before it sends again is work for nobody.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable

from cyphonic.wire.header import MessageType
from cyphonic.wire.job import JOB_SERVICE, Job

FINISHING = frozenset(
    {
        MessageType.KEY_DISTRIBUTION,
        MessageType.KEY_DISTRIBUTION_ACK,
        MessageType.REVOCATION_ORDER,
        MessageType.ROUTE_DIRECTION_CONFIRMATION,
        MessageType.PATH_REVOCATION_ACK,
    }
)
"""These end a transaction that has already cost something, so they go before new requests."""

_SERVICE = {int(kind): int(service) for kind, service in JOB_SERVICE.items()}
_FINISHING = frozenset(int(kind) for kind in FINISHING)

Lane = deque[tuple[float, Job]]


class JobQueue:
    """At most ``capacity`` jobs, each for at most ``patience`` seconds."""

    def __init__(self, capacity: int = 4096, patience: float = 0.5) -> None:
        self._capacity = capacity
        self._patience = patience
        self._finishing: dict[int, Lane] = {service: deque() for service in set(_SERVICE.values())}
        self._new: dict[int, Lane] = {service: deque() for service in set(_SERVICE.values())}
        self._length = 0
        self.drops: Counter[str] = Counter()

    def __len__(self) -> int:
        return self._length

    def add(self, job: Job, now: float) -> None:
        """Queue a job whose type ``JOB_SERVICE`` knows.

        When the queue is full the job is dropped, unless it finishes something: then the oldest new one is.
        """
        kind = job.datagram[0]
        lanes = self._finishing if kind in _FINISHING else self._new
        if self._length >= self._capacity:
            self.drops["queue_full"] += 1
            if lanes is self._new or not self._drop_oldest_new():
                return
        lanes[_SERVICE[kind]].append((now + self._patience, job))
        self._length += 1

    def take(self, services: Iterable[int], limit: int, now: float) -> list[Job]:
        """Up to ``limit`` jobs for a worker of these services; those past their deadline are dropped on the way."""
        taken: list[Job] = []
        for lanes in (self._finishing, self._new):
            for lane in sorted((lanes[service] for service in services), key=_oldest):
                while lane and len(taken) < limit:
                    deadline, job = lane.popleft()
                    self._length -= 1
                    if deadline < now:
                        self.drops["queue_deadline"] += 1
                    else:
                        taken.append(job)
        return taken

    def waiting(self, services: Iterable[int]) -> bool:
        """Is there a job for any of these?"""
        return any(self._finishing[service] or self._new[service] for service in services)

    def expire(self, now: float) -> None:
        """Drop what is past its deadline; for when nobody takes."""
        for lane in (*self._finishing.values(), *self._new.values()):
            while lane and lane[0][0] < now:
                lane.popleft()
                self._length -= 1
                self.drops["queue_deadline"] += 1

    def _drop_oldest_new(self) -> bool:
        lanes = [lane for lane in self._new.values() if lane]
        if not lanes:
            return False
        min(lanes, key=lambda lane: lane[0][0]).popleft()
        self._length -= 1
        return True


def _oldest(lane: Lane) -> float:
    return lane[0][0] if lane else 0.0
