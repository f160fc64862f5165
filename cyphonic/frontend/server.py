"""The frontend's loop: one thread, raw epoll, batches everywhere.

One turn: drain the UDP sockets that have something, admit, queue; take the workers' reports, send their datagrams;
push what is queued to workers with room.  A batch is whatever is there now, so an idle frontend adds no delay and a
busy one makes large batches by itself.

Order of a stop: the UDP sockets are corked, so that what comes goes to other frontends on the same ports, and read
empty; workers are told to send through those others; what is queued is pushed and what workers have in hand is
waited for (at most ``drain`` seconds), until it has been quiet for a moment; then ``run`` returns.
"""

from __future__ import annotations

import logging
import select
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing

from cyphonic.errors import DropError
from cyphonic.frontend.admission import Admission, OtherVersionError
from cyphonic.frontend.credits import Credits, Worker
from cyphonic.frontend.gate import Gate, TurnedAwayError, pack_source
from cyphonic.frontend.queue import JobQueue
from cyphonic.lifecycle import Lifeline, StopSignal
from cyphonic.logs import pairs
from cyphonic.pipeline import MAX_BATCH_JOBS, FrontendPipe
from cyphonic.protocol.buckets import TokenBucket
from cyphonic.protocol.cookie import CookieMint
from cyphonic.udp import DRAIN, UdpSocket
from cyphonic.wire.header import INTERNAL, SignalingHeader
from cyphonic.wire.job import Batch, Job, Origin, Report, Route, Send, Service

_log = logging.getLogger(__name__)

WAKE = 0.25
"""Seconds: the loop turns at least this often, so that the supervisor sees it live."""
BUSY_WAKE = 0.02
"""The same while something waits for a deadline."""
LOADED = 1 / 4
"""Of the queue: so many waiting make a load."""
STRAINED = 1 / 16
"""The same: so many keep a load up, and so does any job that was dropped."""
LOSSES = 50.0
"""Jobs dropped per second that make a load.  A few are none: there may just be no worker yet."""
LAST_WORDS = 0.1
"""Seconds without a report that brings a datagram, after which a stop need not wait any longer."""
NO_ROUTE = Route(service_host="", service_port=0, node_host="", node_port=0)
_INTERNAL = frozenset(int(kind) for kind in INTERNAL)


class Door:
    """A UDP socket, what may come in through it, and what cookies its service gives."""

    def __init__(self, udp: UdpSocket, admission: Admission, mint: CookieMint) -> None:
        self.udp = udp
        self.admission = admission
        self.mint = mint


class FrontendServer:
    """Moves datagrams between doors and pipe.  ``run`` until stopped; who made them closes them."""

    def __init__(
        self,
        instance: str,
        pipe: FrontendPipe,
        *,
        needed: frozenset[int],
        queue: JobQueue,
        gate: Gate,
        drain: float,
        lifeline: Lifeline,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self.instance = instance
        self.credits = Credits()
        self.queue = queue
        self.gate = gate
        queue.on_drop = self._handle_drop
        self.counts: Counter[str] = Counter()
        """received, admitted, sent (datagrams)."""
        self.drops: Counter[str] = Counter()
        self._doors: dict[int, Door] = {}
        self._exits: dict[tuple[str, int], UdpSocket] = {}
        self._pipe = pipe
        self._needed = needed
        self._drain = drain
        self._lifeline = lifeline
        self._clock = clock
        self._wall = wall
        self._next_check = 0.0
        self._now = clock()
        self._queue_drops = 0
        self._losses = TokenBucket(LOSSES, LOSSES)
        self._last_send = float("-inf")
        self._rated = (self._now, 0)
        self.loaded = False
        """Whether strangers need cookies."""

    @property
    def endpoints(self) -> str:
        """Where it listens, for people."""
        return " ".join(str(door.udp.endpoint) for door in self._doors.values())

    @property
    def is_open(self) -> bool:
        """Whether it has doors."""
        return bool(self._doors)

    def open(self, doors: Iterable[Door]) -> None:
        """Begin to receive there."""
        for door in doors:
            self._doors[door.udp.fileno()] = door
            self._exits[door.udp.endpoint.host, door.udp.endpoint.port] = door.udp

    def wait_for_workers(self, patience: float) -> None:
        """Meet the workers before the doors are opened; for at most ``patience`` seconds."""
        with closing(select.epoll()) as poller:
            poller.register(self._pipe.fd, select.EPOLLIN)
            deadline = self._clock() + patience
            while not self._needed <= self.credits.living_services and self._clock() < deadline:
                self.turn(poller)

    def run(self, stop: StopSignal) -> None:
        """Serve until ``stop``, then drain."""
        poller = select.epoll()
        for descriptor in (*self._doors, self._pipe.fd, stop.fileno()):
            poller.register(descriptor, select.EPOLLIN)
        try:
            while not stop.requested:
                self.turn(poller)
            self._lifeline.stopping()
            for descriptor in (*self._doors, stop.fileno()):
                poller.unregister(descriptor)
            self._leave()
            deadline = self._clock() + self._drain
            while self._has_work() and self._clock() < deadline:
                self.turn(poller)
        finally:
            poller.close()

    def _leave(self) -> None:
        self._now = self._last_send = self._clock()
        self._pipe.leave(self.instance)
        for door in self._doors.values():
            door.udp.cork()
            for _ in range(self.queue.capacity // DRAIN):
                self._receive(door, self._now)

    def _has_work(self) -> bool:
        return bool(self.credits.in_flight or len(self.queue) or self._clock() - self._last_send < LAST_WORDS)

    def turn(self, poller: select.epoll) -> None:
        """One wake of the loop."""
        waiting = len(self.queue) or self.credits.in_flight
        events = poller.poll(BUSY_WAKE if waiting else WAKE)
        now = self._now = self._clock()
        for descriptor, _ in events:
            door = self._doors.get(descriptor)
            if door is not None:
                self._receive(door, now)
        for report in self._pipe.reports():  # always: the descriptor is edge-triggered
            self._handle_report(report, now)
        self._push(now)
        if now >= self._next_check:
            self._next_check = now + BUSY_WAKE
            self._check(now)
        self._lifeline.tick(now)

    def rate(self) -> float:
        """Datagrams received per second since this was asked last."""
        now, received = self._clock(), self.counts["received"]
        elapsed, fresh = now - self._rated[0], received - self._rated[1]
        self._rated = now, received
        return fresh / max(elapsed, 1e-3)

    def all_drops(self) -> Counter[str]:
        """By reason, all parts together."""
        total: Counter[str] = Counter()
        sockets = [door.udp.drops for door in self._doors.values()]
        for part in (self.drops, self.queue.drops, self.credits.drops, self._pipe.drops, *sockets):
            total.update(dict(part))  # a copy in one step: the metrics thread calls this too
        return total

    def _receive(self, door: Door, now: float) -> None:
        admission, gate, add, port = door.admission, self.gate, self.queue.add, door.udp.endpoint.port
        wall = self._wall()
        arrivals = door.udp.receive()
        self.counts["received"] += len(arrivals)
        behind = len(arrivals) == DRAIN
        for datagram, host, source_port, local_host in arrivals:
            source = pack_source(host, source_port)
            if behind and gate.shed(datagram, source, now):
                self.drops["needs_cookie"] += 1
                continue
            try:
                body = admission.admit(datagram)
                known = gate.admit(datagram, source, door.mint, now, wall)
            except DropError as drop:
                self.drops[drop.reason] += 1
                answer = self._answer_drop(drop, datagram, now)
                if answer is not None:
                    door.udp.send(answer, host, source_port, local_host)
                continue
            add(Job(body, Origin.UDP, Route(local_host, port, host, source_port)), now, known=known)

    def _answer_drop(self, drop: DropError, datagram: bytes, now: float) -> bytes | None:
        if isinstance(drop, TurnedAwayError):
            return drop.answer
        return self.gate.version_hint(datagram, now) if isinstance(drop, OtherVersionError) else None

    def _handle_drop(self, job: Job, known: bool) -> None:
        """The queue had no place for a job: say so to a sender whose address is its own."""
        if job.origin != Origin.UDP or not (known or self.gate.gauge.loaded(self._now)):
            return
        route = job.route
        udp = self._exit(route)
        answer = self.gate.busy(SignalingHeader.decode(job.datagram), self._now)
        if udp is not None and answer is not None:
            udp.send(answer, route.node_host, route.node_port, route.service_host)

    def _handle_report(self, report: Report, now: float) -> None:
        if self.credits.handle_report(report, now):
            self._pipe.connect(report.worker, report.endpoint, report.curve_key)
            services = ",".join(Service(service).name.lower() for service in report.services)
            _log.info("worker appeared", extra=pairs(worker=report.worker, services=services))
            self._lifeline.set_ready(self._needed <= self.credits.living_services)
        if report.sends:
            self._send(report.sends, now)
        for forward in report.forwards:
            if forward and forward[0] in _INTERNAL:
                self.queue.add(Job(forward, Origin.PIPELINE, NO_ROUTE), now)
            else:
                self.drops["bad_forward"] += 1

    def _send(self, sends: Iterable[Send], now: float) -> None:
        self._last_send = now
        for send in sends:
            route = send.route
            self.gate.note_sent(send.datagram[0], pack_source(route.node_host, route.node_port), now)
            udp = self._exit(route)
            if udp is None:
                self.drops["no_socket"] += 1
            elif udp.send(send.datagram, route.node_host, route.node_port, route.service_host):
                self.counts["sent"] += 1

    def _exit(self, route: Route) -> UdpSocket | None:
        wildcard = "::" if ":" in route.service_host else "0.0.0.0"
        exits, port = self._exits, route.service_port
        return exits.get((route.service_host, port)) or exits.get((wildcard, port))

    def _push(self, now: float) -> None:
        while (found := self.credits.next_retry(now)) is not None:
            self._push_batch(found[0], found[1].jobs, now, retry=True)
        if not len(self.queue):
            return
        blocked: set[frozenset[int]] = set()
        while (worker := self._worker_with_work(blocked)) is not None:
            jobs = self.queue.take(worker.services, MAX_BATCH_JOBS, now)
            if jobs:
                self._push_batch(worker, jobs, now, retry=False)
            else:
                blocked.add(worker.services)

    def _worker_with_work(self, blocked: set[frozenset[int]]) -> Worker | None:
        if not len(self.queue):
            return None
        for services in {worker.services for worker in self.credits.workers.values()} - blocked:
            if self.queue.waiting(services) and (worker := self.credits.pick(services)) is not None:
                return worker
        return None

    def _push_batch(self, worker: Worker, jobs: Sequence[Job], now: float, *, retry: bool) -> None:
        number = self.credits.assign(worker, jobs, now, retry=retry)
        if not self._pipe.push(worker.instance, Batch(self.instance, number, list(jobs))):
            self.drops["push_failed"] += len(jobs)

    def _check(self, now: float) -> None:
        self.queue.expire(now)
        self._gauge_load(now)
        for instance in self.credits.handle_timeout(now):
            self._pipe.forget(instance)
            if self.credits.workers[instance].services:
                _log.warning("worker silent, its batches go to others", extra=pairs(worker=instance))
            else:
                _log.info("worker left", extra=pairs(worker=instance))
            self._lifeline.set_ready(self._needed <= self.credits.living_services)
        for instance, number in self.credits.probes(now):
            self._pipe.push(instance, Batch(self.instance, number, []))

    def _gauge_load(self, now: float) -> None:
        gauge, waiting, drops = self.gate.gauge, len(self.queue), self.queue.drops.total()
        fresh, self._queue_drops = drops - self._queue_drops, drops
        if waiting >= self.queue.capacity * LOADED or (fresh and not self._losses.take(fresh, now)):
            gauge.overloaded(now)
        elif fresh or waiting >= self.queue.capacity * STRAINED:
            gauge.strained(now)
        loaded = gauge.loaded(now)
        if loaded != self.loaded:
            self.loaded = loaded
            _log.info(
                "loaded, strangers need cookies" if loaded else "no longer loaded", extra=pairs(queue=waiting)
            )
