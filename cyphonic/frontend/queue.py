"""Jobs that wait for a worker's credit: bounded, each with a deadline, what finishes a transaction first.

Three lanes: what finishes a transaction that has already cost something, then whatever else known nodes ask, then
strangers.  Strangers have at most half of the places, and an eighth of every batch is theirs while they wait.  A
job that waited longer than its client waits before it sends again is work for nobody.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterable

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
"""These end a transaction, so they go before new requests; not a stranger's, who may pretend to end one."""

_SERVICE = {int(kind): int(service) for kind, service in JOB_SERVICE.items()}
_FINISHING = frozenset(int(kind) for kind in FINISHING)

Lane = deque[tuple[float, Job]]
Lanes = dict[int, Lane]


def _ignore(_job: Job, _known: bool) -> None:
    pass


class JobQueue:
    """At most ``capacity`` jobs, each for at most ``patience`` seconds.

    ``on_drop`` is told each job that found no place or waited too long, and whether its sender is known.
    """

    def __init__(
        self, capacity: int = 4096, patience: float = 0.2, on_drop: Callable[[Job, bool], None] = _ignore
    ) -> None:
        self.capacity = capacity
        self.on_drop = on_drop
        self._patience = patience
        self._finishing, self._known, self._strange = ({s: Lane() for s in _SERVICE.values()} for _ in range(3))
        self._lanes: tuple[Lanes, ...] = (self._finishing, self._known, self._strange)
        self._length = 0
        self._strangers = 0
        self.drops: Counter[str] = Counter()

    def __len__(self) -> int:
        return self._length

    def add(self, job: Job, now: float, *, known: bool = True) -> None:
        """Queue a job whose type ``JOB_SERVICE`` knows; ``known``: it is a known node's or the pipeline's.

        When the queue is full the job is dropped, unless there is one of a later lane: then that lane's oldest is.
        """
        kind = job.datagram[0]
        lanes = self._strange if not known else self._finishing if kind in _FINISHING else self._known
        if not self._make_room(lanes):
            self._drop("queue_full", job, known)
            return
        lanes[_SERVICE[kind]].append((now + self._patience, job))
        self._length += 1
        self._strangers += not known

    def take(self, services: Iterable[int], limit: int, now: float) -> list[Job]:
        """Up to ``limit`` jobs for a worker of these services; those past their deadline are dropped on the way."""
        services = tuple(services)
        waiting = sum(len(self._strange[service]) for service in services)
        taken: list[Job] = []
        for lanes in (self._finishing, self._known):
            self._take(lanes, services, limit - min(waiting, limit // 8), now, taken)
        self._take(self._strange, services, limit, now, taken)
        return taken

    def waiting(self, services: Iterable[int]) -> bool:
        """Is there a job for any of these?"""
        return any(lanes[service] for service in services for lanes in self._lanes)

    def expire(self, now: float) -> None:
        """Drop what is past its deadline; for when nobody takes."""
        for lanes in self._lanes:
            for lane in lanes.values():
                while lane and lane[0][0] < now:
                    self._drop("queue_deadline", self._pop(lanes, lane)[1], lanes is not self._strange)

    def _take(self, lanes: Lanes, services: Iterable[int], limit: int, now: float, taken: list[Job]) -> None:
        for lane in sorted((lanes[service] for service in services), key=_oldest):
            while lane and len(taken) < limit:
                deadline, job = self._pop(lanes, lane)
                if deadline < now:
                    self._drop("queue_deadline", job, lanes is not self._strange)
                else:
                    taken.append(job)

    def _make_room(self, lanes: Lanes) -> bool:
        if lanes is self._strange and self._strangers >= self.capacity // 2:
            return False
        if self._length < self.capacity:
            return True
        for later in self._later(lanes):
            waiting = [lane for lane in later.values() if lane]
            if waiting:
                lane = min(waiting, key=_oldest)
                self._drop("queue_full", self._pop(later, lane)[1], later is not self._strange)
                return True
        return False

    def _later(self, lanes: Lanes) -> tuple[Lanes, ...]:
        """Those that make room for one of ``lanes``, the least first."""
        if lanes is self._finishing:
            return self._strange, self._known
        return (self._strange,) if lanes is self._known else ()

    def _pop(self, lanes: Lanes, lane: Lane) -> tuple[float, Job]:
        self._length -= 1
        self._strangers -= lanes is self._strange
        return lane.popleft()

    def _drop(self, reason: str, job: Job, known: bool) -> None:
        self.drops[reason] += 1
        self.on_drop(job, known)


def _oldest(lane: Lane) -> float:
    return lane[0][0] if lane else 0.0
