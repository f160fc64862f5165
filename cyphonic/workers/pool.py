"""A worker thread: its own pipe, its own connection to Redis, one loop.

One turn: every second, announce this thread, read the fleet and take due revocations, all in one round trip; then
whatever batches are there go through the dispatcher as one, and their sends and forwards go back with the report
that completes them.

A Redis that is away stops nothing: the last known fleet is kept, and a batch that cannot be worked on is completed
without an answer, so that its nodes send again.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Sequence

import msgspec

from cyphonic.logs import pairs
from cyphonic.pipeline import FrontendAddress, WorkerPipe
from cyphonic.state.fleet import (
    HEARTBEAT,
    Fleet,
    FrontendMember,
    WorkerMember,
    announce_command,
    decode_fleet,
    read_fleet_command,
    withdraw,
)
from cyphonic.state.registry import due_revocations
from cyphonic.state.store import Store, StoreUnavailableError
from cyphonic.wire.job import Batch, Job, Service
from cyphonic.workers.dispatch import Dispatcher

_log = logging.getLogger(__name__)

WAIT = 0.2
"""Seconds: a thread without work still turns this often, so that it is seen to live."""
QUIET = 0.2
"""Seconds without a batch after which a leaving thread ends."""


class WorkerThread:
    """The loop of one thread.  ``begin`` once, then ``run``; ``stop`` from another thread."""

    def __init__(
        self,
        pipe: WorkerPipe,
        store: Store,
        dispatcher: Dispatcher,
        services: frozenset[Service],
        *,
        drain: float = 2.0,
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self._pipe = pipe
        self._store = store
        self._dispatcher = dispatcher
        self._member = WorkerMember(pipe.instance, pipe.endpoint, pipe.curve_key, sorted(map(int, services)))
        self._serves_nms = Service.NMS in services
        self._drain = drain
        self._clock = clock
        self._wall_clock = wall_clock
        self._fleet = Fleet()
        self._next_refresh = 0.0
        self._last_refresh = clock()
        self._busy = 0.0
        """Seconds, and below jobs, since the last announcement."""
        self._jobs_lately = 0
        self._stopping = False
        self._closed = False
        self._store_available = True
        self.last_turn = clock()
        """When the loop last turned, by its clock."""
        self.jobs: Counter[str] = Counter()
        """Handled, by message type."""
        self.batches = 0
        self._drops: Counter[str] = Counter()

    @property
    def drops(self) -> Counter[str]:
        """By reason, the pipe's among them."""
        return Counter(dict(self._drops)) + Counter(dict(self._pipe.drops))  # copies: another thread asks

    def begin(self) -> None:
        """Announce this thread and meet the frontends.  Raise StoreUnavailableError."""
        self._store.run(("PING",))
        self._refresh(self._clock())

    def stop(self) -> None:
        """Take no more batches, finish those under way, end."""
        self._stopping = True

    def run(self) -> None:
        """Until stopped; closes pipe and connection."""
        try:
            while not self._stopping:
                self._turn(WAIT)
            self._leave()
        finally:
            self.close()

    def close(self) -> None:
        """Close pipe and connection; for a thread that never ran, and once for one that did."""
        if not self._closed:
            self._closed = True
            self._pipe.close()
            self._store.close()

    def _turn(self, wait: float) -> bool:
        now = self.last_turn = self._clock()
        if now >= self._next_refresh:
            self._refresh(now)
        batches = self._pipe.poll(wait, now)
        if batches:
            begun = self._clock()
            jobs = [job for batch in batches for job in batch.jobs]
            self._work(jobs, batches)
            self._jobs_lately += len(jobs)
            self._busy += self._clock() - begun
        return bool(batches)

    def _leave(self) -> None:
        """Said to the frontends first, so that nothing is pushed to a thread that has gone."""
        self._pipe.leave()
        deadline = self._clock() + self._drain
        while self._turn(QUIET) and self._clock() < deadline:
            pass
        try:
            withdraw(self._store, self._pipe.instance)
        except StoreUnavailableError:
            return

    def _work(self, jobs: Sequence[Job], batches: Sequence[Batch] = ()) -> None:
        try:
            outcome = self._dispatcher.handle(jobs, self._store, self._wall_clock(), self._fleet)
        except StoreUnavailableError as error:
            self._note(error)
            self._drops["store_unavailable"] += len(jobs)
            self._pipe.complete(batches)
            return
        self._pipe.complete(batches, outcome.sends, outcome.forwards)
        self._drops.update(outcome.drops)
        self.jobs.update({kind.name.lower(): count for kind, count in outcome.handled.items()})
        self.batches += len(batches)

    def _refresh(self, now: float) -> None:
        self._next_refresh = now + HEARTBEAT
        commands = [announce_command(self._measured(now)), read_fleet_command()]
        if self._serves_nms:
            commands.append(due_revocations(self._wall_clock()))
        try:
            results = self._store.round_trip(commands)
        except StoreUnavailableError as error:
            self._note(error)
            return
        if refused := [result for result in results if isinstance(result, Exception)]:
            self._note(StoreUnavailableError(f"Redis refuses a command: {refused[0]}", "see the log of Redis"))
            return
        self._note(None)
        self._fleet = decode_fleet(results[1])
        self._pipe.update_fleet([_address(member) for member in self._fleet.frontends], now)
        if self._serves_nms and results[2]:
            self._work(self._dispatcher.revocation_orders(results[2]))

    def _measured(self, now: float) -> WorkerMember:
        """This thread, and how busy it has been since it was asked last."""
        elapsed = max(now - self._last_refresh, 1e-3)
        rate, load = self._jobs_lately / elapsed, min(1.0, self._busy / elapsed)
        self._last_refresh, self._jobs_lately, self._busy = now, 0, 0.0
        return msgspec.structs.replace(self._member, rate=round(rate, 1), load=round(load, 3))

    def _note(self, failure: StoreUnavailableError | None) -> None:
        if failure is not None and self._store_available:
            fields = pairs(reason=failure.message, hint=failure.hint)
            _log.warning("Redis is away, going on with the last known fleet", extra=fields)
        elif failure is None and not self._store_available:
            _log.info("Redis is back")
        self._store_available = failure is None


def _address(member: FrontendMember) -> FrontendAddress:
    bound = frozenset((endpoint.host, endpoint.port) for endpoint in member.bound)
    return FrontendAddress(member.instance, member.endpoint, bound, member.curve_key)
