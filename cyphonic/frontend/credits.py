"""Which worker may get a batch, what each still owes, and what is given to another worker.

Pure: time comes in as ``now``, sockets are elsewhere.  What one worker's life looks like from here:

    report       -> it lives, its credit may have risen, some of its batches are done
    100 ms       -> a batch not done goes to another worker, once; only while others get theirs done, at most one
                    batch in twenty, and never before four times what batches take these days: when everything is
                    slow, doing it twice makes it slower
    no services  -> it leaves: what it has it finishes, more it does not get
    1.5 s silent -> it is dead: all that it owes goes to others, once, without that limit
    report       -> it lives again (it was only stopped); its numbers go on where they were

What a batch that was given away costs: nothing but time, because transactions are idempotent.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from cyphonic.wire.header import MessageType
from cyphonic.wire.job import JOB_SERVICE, Job, Report

REDELIVER_AFTER = 0.1
"""Seconds, at least."""
UNUSUAL = 4.0
"""Times what a batch usually takes; under overload that alone is more than 100 ms."""
USUAL_WEIGHT = 1 / 32
"""Of the newest batch in what is usual."""
REDELIVERY_ONE_IN = 20
REDELIVERY_BURST = 8
"""Batches that may be given away before any was completed at all."""
DEAD_AFTER = 1.5
"""Seconds of silence; a worker reports at least every 0.4 s."""
RETRY_PATIENCE = 0.5
"""Seconds that a batch waits for another worker's credit."""
PROBE_AFTER = 0.5
"""Seconds without a sign of a batch; then the worker is asked for a report, in case a message was lost."""
LOST_AFTER = 10.0
"""Seconds after which a living worker that never completed a batch has lost it."""
FORGET_AFTER = 600.0
"""Seconds that a dead worker's numbers are kept: a supervisor lets none stay stopped that long."""


@dataclass
class Outstanding:
    """A batch that a worker has and has not completed."""

    jobs: Sequence[Job]
    pushed: float
    may_retry: bool
    """False once it was given to another worker, or came from one."""


@dataclass
class Retry:
    """A batch that waits for another worker than the one that owes it."""

    jobs: Sequence[Job]
    services: frozenset[int]
    owed_by: str
    number: int
    deadline: float


@dataclass
class Worker:
    """One worker thread as its reports show it."""

    instance: str
    endpoint: str
    services: frozenset[int]
    credit: int = 0
    number: int = 0
    """Of the last batch pushed to it."""
    heard: float = 0.0
    alive: bool = True
    leaving: bool = False
    """It asked for no more: a report that names no service."""
    completed_at: float = float("-inf")
    probed: float = float("-inf")
    outstanding: dict[int, Outstanding] = field(default_factory=dict)

    @property
    def room(self) -> int:
        """Batches that may be pushed now."""
        return self.credit - self.number if self.alive and not self.leaving else 0


class Credits:
    """The frontend's book of workers."""

    def __init__(self) -> None:
        self.workers: dict[str, Worker] = {}
        self._retries: deque[Retry] = deque()
        self._turn = 0
        self._usual = 0.0
        """Seconds from push to completion, lately."""
        self.counts: Counter[str] = Counter()
        """Of batches: pushed, completed, redelivered, probes."""
        self.drops: Counter[str] = Counter()
        """Of jobs, by reason."""

    def handle_report(self, report: Report, now: float) -> bool:
        """Take note of what a worker says.  True when it is new, or back from the dead: open a way to it."""
        worker = self.workers.get(report.worker)
        appeared = worker is None or not worker.alive
        if worker is None:
            worker = Worker(report.worker, report.endpoint, frozenset(report.services))
            self.workers[report.worker] = worker
        worker.alive, worker.heard = True, now
        worker.services = frozenset(report.services)  # none: it is leaving
        worker.leaving = not report.services
        worker.credit = max(worker.credit, report.credit)
        for number in report.completed:
            self._complete(worker, number, now)
        return appeared

    def pick(self, services: frozenset[int] | None = None, exclude: str = "") -> Worker | None:
        """The living worker with room that owes least, in turn among equals; ``services``: all of which it
        serves."""
        best: Worker | None = None
        workers = list(self.workers.values())
        self._turn += 1
        for index in range(len(workers)):
            worker = workers[(index + self._turn) % len(workers)]
            if worker.room <= 0 or worker.instance == exclude:
                continue
            if services is not None and not services <= worker.services:
                continue
            if best is None or len(worker.outstanding) < len(best.outstanding):
                best = worker
        return best

    def assign(self, worker: Worker, jobs: Sequence[Job], now: float, *, retry: bool = False) -> int:
        """Book a batch to ``worker``, which has room; its number."""
        assert worker.room > 0, "a credit is a promise"
        worker.number += 1
        worker.outstanding[worker.number] = Outstanding(jobs, now, may_retry=not retry)
        self.counts["redelivered" if retry else "pushed"] += 1
        return worker.number

    def next_retry(self, now: float) -> tuple[Worker, Retry] | None:
        """A batch to give away and who gets it; call until None."""
        for _ in range(len(self._retries)):
            retry = self._retries.popleft()
            if retry.deadline < now:
                self.drops["redelivery_deadline"] += len(retry.jobs)
                continue
            worker = self.pick(retry.services, exclude=retry.owed_by)
            if worker is not None:
                return worker, retry
            self._retries.append(retry)
        return None

    def handle_timeout(self, now: float) -> list[str]:
        """Look for silence and for late batches; the workers that are dead from now on: close the way to them."""
        dead = [worker for worker in self.workers.values() if worker.alive and now - worker.heard > DEAD_AFTER]
        for worker in dead:
            self._bury(worker, now)
        for worker in self.workers.values():
            if worker.alive and worker.outstanding:
                self._look_for_late(worker, now)
        for instance in [w.instance for w in self.workers.values() if now - w.heard > FORGET_AFTER]:
            del self.workers[instance]
        return [worker.instance for worker in dead]

    def probes(self, now: float) -> list[tuple[str, int]]:
        """Workers without room that say nothing of a batch, and the number for an empty batch to ask them with."""
        asked = []
        for worker in self.workers.values():
            silent = worker.alive and not worker.leaving and worker.room <= 0
            if silent and worker.number and now - worker.probed > PROBE_AFTER:
                oldest = min((entry.pushed for entry in worker.outstanding.values()), default=worker.completed_at)
                if now - oldest > PROBE_AFTER:
                    worker.probed = now
                    self.counts["probes"] += 1
                    asked.append((worker.instance, worker.number))
        return asked

    @property
    def in_flight(self) -> int:
        """Batches that living workers have not completed."""
        return sum(len(worker.outstanding) for worker in self.workers.values() if worker.alive)

    @property
    def living_services(self) -> frozenset[int]:
        """What at least one living worker serves."""
        staying = [worker for worker in self.workers.values() if worker.alive and not worker.leaving]
        return frozenset(service for worker in staying for service in worker.services)

    def _complete(self, worker: Worker, number: int, now: float) -> None:
        entry = worker.outstanding.pop(number, None)
        if entry is not None:
            self.counts["completed"] += 1
            took = min(now - entry.pushed, DEAD_AFTER)  # one that was stopped says nothing of the others
            self._usual += (took - self._usual) * USUAL_WEIGHT
            worker.completed_at = now
            for retry in self._retries:
                if retry.owed_by == worker.instance and retry.number == number:
                    self._retries.remove(retry)
                    break

    def _bury(self, worker: Worker, now: float) -> None:
        worker.alive = False
        for number, entry in worker.outstanding.items():
            if entry.may_retry:
                self._give_away(worker, number, entry, now)
        worker.outstanding.clear()

    def _look_for_late(self, worker: Worker, now: float) -> None:
        for number, entry in list(worker.outstanding.items()):
            late = now - entry.pushed
            if late > LOST_AFTER:
                del worker.outstanding[number]
                self.drops["batch_lost"] += len(entry.jobs) if entry.may_retry else 0
            elif (
                late > max(REDELIVER_AFTER, UNUSUAL * self._usual)
                and entry.may_retry
                and self._may_redeliver(worker, entry)
            ):
                self._give_away(worker, number, entry, now)

    def _may_redeliver(self, worker: Worker, entry: Outstanding) -> bool:
        allowed = self.counts["completed"] // REDELIVERY_ONE_IN + REDELIVERY_BURST
        return self.counts["given_away_late"] < allowed and any(
            other.alive and other is not worker and other.completed_at > entry.pushed
            for other in self.workers.values()
        )

    def _give_away(self, worker: Worker, number: int, entry: Outstanding, now: float) -> None:
        entry.may_retry = False
        self.counts["given_away_late" if worker.alive else "given_away_dead"] += 1
        services = frozenset(int(JOB_SERVICE[MessageType(job.datagram[0])]) for job in entry.jobs)
        self._retries.append(Retry(entry.jobs, services, worker.instance, number, now + RETRY_PATIENCE))
