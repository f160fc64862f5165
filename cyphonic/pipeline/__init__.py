"""The two ends of the pipe between frontends and workers: ZeroMQ PUSH and PULL, batches out, reports back.

A frontend has one PULL, and one PUSH to each worker that ever reported to it.  A worker thread has one PULL, and
one PUSH to each frontend of the fleet.  So a message always has one destination: nothing queues behind a dead
worker.

A worker grants credit: a frontend may push it batches numbered up to the credit, and numbers count up per
frontend and worker for as long as both live (instance IDs are never reused, so neither do numbers start again).
A credit never goes down.  A lost or repeated report therefore does no harm, and no more than ``batches`` (at
least one per frontend) ever wait for a worker.  An empty batch is a probe: it repeats a number already used and
asks for a report.

A batch numbered 0 says that the frontend leaves: what it has pushed is still wanted, but what can go out through
another frontend should.

On one host the sockets are files in a directory of mode 0700; between hosts they are TCP, see ``curve``.  A process
has one of the two and meets those of its own kind.

Everything here belongs to one thread: sockets are neither shared nor locked.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

import msgspec
import zmq

from cyphonic.pipeline.address import TCP, bind, resolve, unbind
from cyphonic.pipeline.address import ipc_endpoint as ipc_endpoint
from cyphonic.pipeline.curve import Curve, Gatekeeper
from cyphonic.protocol.chance import Chance
from cyphonic.wire.job import Batch, Report, Route, Send

MAX_BATCH_JOBS = 64
MAX_MESSAGE = 4 * 1024 * 1024
"""Bytes of one message; a batch is below 100 kB, a report of several batches below 1 MB."""
REPORT_HIGH_WATER = 1000
"""Reports that may wait for a frontend that does not read; then they are dropped and counted."""
BATCH_HIGH_WATER = 64
"""Never reached: credits are far fewer.  Asserted, so that nobody turns it into a knob."""
LEAVING = 0
"""Number of the batch that says so; those with jobs begin at 1."""
TICK = 0.4
"""Seconds: a worker that has nothing to say still reports this often."""
FRONTEND_GRACE = 10.0
"""Seconds for which a frontend that left the fleet's list is still reported to: its heartbeat may only be late."""

Address = tuple[str, int]
Context = zmq.Context[zmq.Socket[bytes]]


class FrontendAddress(NamedTuple):
    """A frontend as a worker sees it in the fleet."""

    instance: str
    endpoint: str
    """ZeroMQ endpoint of its PULL."""
    bound: frozenset[Address]
    """Every (host, port) it can send from."""
    curve_key: bytes = b""
    """Which it must prove; empty on ipc."""


def new_context() -> Context:
    """One for a process; its threads share it and close it (``destroy``) after their pipes."""
    return zmq.Context()


def new_instance(chance: Chance) -> str:
    """An instance ID: random, never reused."""
    return chance(8).hex()


class Pipeline:
    """What the pipes of one process share: the ZeroMQ context, who is let in, and where they listen.

    ``setting`` is that of the site, see ``address``; ``curve`` is needed where it is not empty.  Raise
    ConfigurationError.  Its ``with`` ends after the pipes have been closed.
    """

    def __init__(self, setting: str, directory: Path, curve: Curve | None) -> None:
        assert (curve is not None) == bool(setting), "TCP never without CURVE"
        self.context = new_context()
        self._setting = setting
        self._directory = directory
        self._curve = curve
        self._gatekeeper: Gatekeeper | None = None

    def __enter__(self) -> Self:
        if self._curve is not None:
            self._gatekeeper = Gatekeeper(self.context, self._curve.admitted)
            self._gatekeeper.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._gatekeeper is not None:
            self._gatekeeper.close()
        self.context.destroy(linger=0)

    def frontend(self, instance: str) -> FrontendPipe:
        """The frontend's end."""
        return FrontendPipe(self.context, self._endpoint(f"f-{instance}"), self._curve)

    def worker(self, instance: str, services: Iterable[int], batches: int = 2) -> WorkerPipe:
        """A worker thread's end."""
        return WorkerPipe(self.context, instance, services, self._endpoint(f"w-{instance}"), batches, self._curve)

    def _endpoint(self, name: str) -> str:
        return resolve(self._setting, self._directory, name)


def _socket(context: Context, kind: int, endpoint: str) -> zmq.Socket[bytes]:
    made = context.socket(kind)
    made.setsockopt(zmq.IPV6, int("[" in endpoint))
    made.setsockopt(zmq.LINGER, 0)
    made.setsockopt(zmq.MAXMSGSIZE, MAX_MESSAGE)
    return made


def _pull_socket(context: Context, curve: Curve | None, endpoint: str, high_water: int) -> zmq.Socket[bytes]:
    assert (curve is not None) == endpoint.startswith(TCP), "TCP never without CURVE"
    made = _socket(context, zmq.PULL, endpoint)
    made.setsockopt(zmq.RCVHWM, high_water)
    if curve is not None:
        curve.serve(made)
    return made


def _push_socket(
    context: Context, curve: Curve | None, endpoint: str, key: bytes, high_water: int
) -> zmq.Socket[bytes] | None:
    """Connected; None for an endpoint of the other kind, or whose key is not of this site.

    Raise zmq.ZMQError when there is no descriptor left for it.
    """
    if curve is None:
        if endpoint.startswith(TCP):
            return None
    elif not endpoint.startswith(TCP) or key not in curve.admitted:
        return None
    made = _socket(context, zmq.PUSH, endpoint)
    made.setsockopt(zmq.SNDHWM, high_water)
    if curve is not None:
        curve.connect(made, key)
    made.connect(endpoint)
    return made


def _receive(pull: zmq.Socket[bytes]) -> Iterator[bytes]:
    """All messages that are there now."""
    with contextlib.suppress(zmq.Again):
        while True:
            yield pull.recv(zmq.NOBLOCK)


class FrontendPipe:
    """The frontend's end.  It knows sockets, not credits: see ``frontend/credits.py``."""

    def __init__(self, context: Context, endpoint: str, curve: Curve | None = None) -> None:
        """With ``curve``, ``endpoint`` is tcp, and a gatekeeper works in ``context``."""
        self._context = context
        self._curve = curve
        self._pull = _pull_socket(context, curve, endpoint, REPORT_HIGH_WATER)
        self.endpoint = bind(self._pull, endpoint)
        self.curve_key = curve.own.public if curve is not None else b""
        self.fd: int = self._pull.getsockopt(zmq.FD)  # type: ignore[assignment]  # an int for this option
        """Edge-triggered, as ZeroMQ's are: call ``reports`` until it returns nothing."""
        self._workers: dict[str, zmq.Socket[bytes]] = {}
        self._unmet: dict[str, tuple[str, bytes]] = {}
        self._encoder = msgspec.msgpack.Encoder()
        self._decoder = msgspec.msgpack.Decoder(Report)
        self.drops: Counter[str] = Counter()

    def reports(self) -> list[Report]:
        """All reports that are there now; what is not one is dropped and counted."""
        reports = []
        for message in _receive(self._pull):
            try:
                reports.append(self._decoder.decode(message))
            except (msgspec.MsgspecError, UnicodeDecodeError):
                self.drops["bad_report"] += 1
        return reports

    def connect(self, worker: str, endpoint: str, curve_key: bytes = b"") -> bool:
        """Open the way to a worker, unless it is open; False (and counted) when it is not of this site or kind.

        Without a descriptor for it, it is False too, and ``push`` tries again.
        """
        if worker in self._workers:
            return True
        try:
            push = _push_socket(self._context, self._curve, endpoint, curve_key, BATCH_HIGH_WATER)
        except zmq.ZMQError:
            self._unmet[worker] = (endpoint, curve_key)
            self.drops["no_descriptor"] += 1
            return False
        self._unmet.pop(worker, None)
        if push is None:
            self.drops["other_pipeline"] += 1
            return False
        self._workers[worker] = push
        return True

    def push(self, worker: str, batch: Batch) -> bool:
        """Send a batch; False when there is no way to that worker or it is full."""
        if worker in self._unmet:
            self.connect(worker, *self._unmet[worker])
        push = self._workers.get(worker)
        if push is None:
            return False
        try:
            push.send(self._encoder.encode(batch), zmq.NOBLOCK)
        except zmq.Again:
            self.drops["worker_full"] += 1
            return False
        return True

    def leave(self, instance: str) -> None:
        """Tell every worker that this frontend, ``instance``, goes."""
        for worker in self._workers:
            self.push(worker, Batch(instance, LEAVING, []))

    def forget(self, worker: str) -> None:
        """Close the way to a worker and discard what still waits in it."""
        self._unmet.pop(worker, None)
        push = self._workers.pop(worker, None)
        if push is not None:
            push.close()

    def close(self) -> None:
        """Close every socket; the endpoint's file goes with it."""
        for worker in list(self._workers):
            self.forget(worker)
        unbind(self._pull, self.endpoint)


class Account:
    """What a worker owes one frontend and lets it push.  Pure; it stays after the frontend left, because numbers
    never
    start again."""

    def __init__(self) -> None:
        self.credit = 0
        """Granted so far; never goes down."""
        self.in_hand = 0
        """Batches received and not completed."""
        self._highest = 0

    def receive(self, number: int, *, probe: bool = False) -> None:
        """A batch came.  Those numbered lower that never came are lost, and their room is given again."""
        self._highest = max(self._highest, number)
        self.in_hand += 0 if probe else 1

    def complete(self) -> None:
        """One of those in hand is done."""
        self.in_hand -= 1

    def grant(self, share: int) -> int:
        """The credit with which at most ``share`` batches are under way or in hand."""
        self.credit = max(self.credit, self._highest - self.in_hand + share)
        return self.credit


class _Frontend:
    def __init__(self) -> None:
        self.account = Account()
        self.push: zmq.Socket[bytes] | None = None
        self.missing_since: float | None = None
        self.leaving = False


class WorkerPipe:
    """A worker thread's end.

    ``batches`` is divided over the frontends: how many may be under way to or in this thread.  Call
    ``update_fleet`` about once a second with what the fleet's list says (not at all while it cannot be read),
    then in a loop ``poll`` and ``complete``.
    """

    def __init__(
        self,
        context: Context,
        instance: str,
        services: Iterable[int],
        endpoint: str,
        batches: int = 2,
        curve: Curve | None = None,
    ) -> None:
        assert batches <= BATCH_HIGH_WATER // 2, "a credit is room in the queue"
        self.instance = instance
        self._context = context
        self._curve = curve
        self._services = sorted(services)
        self._batches = batches
        self._pull = _pull_socket(context, curve, endpoint, REPORT_HIGH_WATER)
        self.endpoint = bind(self._pull, endpoint)
        self._frontends: dict[str, _Frontend] = {}
        self._by_address: dict[Address, list[str]] = {}
        self.curve_key = curve.own.public if curve is not None else b""
        self._encoder = msgspec.msgpack.Encoder()
        self._decoder = msgspec.msgpack.Decoder(Batch)
        self._next_tick = 0.0
        self._leaving = False
        self.drops: Counter[str] = Counter()

    def update_fleet(self, frontends: Iterable[FrontendAddress], now: float) -> None:
        """Connect to new frontends and grant them credit; let go of those that were missing for 10 s."""
        listed = {address.instance: address for address in frontends}
        met = [address.instance for address in listed.values() if self._meet(address)]
        for instance, frontend in self._frontends.items():
            if instance in listed:
                frontend.missing_since = None
            elif frontend.missing_since is None:
                frontend.missing_since = now
            elif now - frontend.missing_since > FRONTEND_GRACE:
                self._leave(frontend)
        by_address: dict[Address, list[str]] = {}
        for instance, address in listed.items():
            if self._frontends[instance].push is not None and not self._frontends[instance].leaving:
                for bound in address.bound:
                    by_address.setdefault(bound, []).append(instance)
        self._by_address = by_address
        for instance in met:
            self.report(instance)

    def poll(self, timeout: float, now: float) -> list[Batch]:
        """All batches that are there now, after at most ``timeout`` seconds; none when none came.

        Reports to every frontend when that is due, so call it at least every 0.4 s.
        """
        if now >= self._next_tick:
            self._next_tick = now + TICK
            for instance in self.frontends:
                self.report(instance)
        if not self._pull.poll(int(timeout * 1000)):
            return []
        batches = []
        for message in _receive(self._pull):
            try:
                batch = self._decoder.decode(message)
            except (msgspec.MsgspecError, UnicodeDecodeError):
                self.drops["bad_batch"] += 1
                continue
            frontend = self._frontends.setdefault(batch.frontend, _Frontend())
            if batch.number == LEAVING:
                self._spare(batch.frontend)
                continue
            frontend.account.receive(batch.number, probe=not batch.jobs)
            if batch.jobs:
                batches.append(batch)
            else:
                self.report(batch.frontend)
        return batches

    def complete(
        self, batches: Sequence[Batch], sends: Iterable[Send] = (), forwards: Iterable[bytes] = ()
    ) -> None:
        """Report ``batches`` as done, with what is to be sent and forwarded because of them: one report per
        frontend.

        A datagram goes out through a frontend bound to its route's service endpoint, if possible one of the
        batches' own.  Call it after the writes: a completed batch is never given to another worker.
        """
        completed: dict[str, list[int]] = {}
        for batch in batches:
            completed.setdefault(batch.frontend, []).append(batch.number)
            self._frontends[batch.frontend].account.complete()
        own = list(completed)
        outgoing: dict[str, list[Send]] = {}
        for send in sends:
            frontend = self.frontend_for(send.route, own)
            if frontend is None:
                self.drops["no_frontend"] += 1
            else:
                outgoing.setdefault(frontend, []).append(send)
        forwarded = list(forwards)
        forwarder = next(iter(own or self.frontends), None)
        for instance in {*completed, *outgoing, *([forwarder] if forwarded and forwarder else [])}:
            self.report(
                instance,
                completed.get(instance, ()),
                outgoing.get(instance, ()),
                forwarded if instance == forwarder else (),
            )

    def frontend_for(self, route: Route, prefer: Sequence[str] = ()) -> str | None:
        """A frontend that can send from the route's service endpoint: a preferred one, else any.

        When the fleet's list knows none (an address that has just appeared), the first preferred one may try.
        """
        bound = self._by_address.get((route.service_host, route.service_port), ())
        for instance in prefer:
            if instance in bound:
                return instance
        if bound:
            return bound[0]
        return prefer[0] if prefer else None

    def report(
        self,
        frontend: str,
        completed: Sequence[int] = (),
        sends: Sequence[Send] = (),
        forwards: Sequence[bytes] = (),
    ) -> bool:
        """Push one report, credit included, to a frontend; False (and counted) when it cannot be reached."""
        known = self._frontends.get(frontend)
        if known is None or known.push is None:
            self.drops["frontend_gone"] += 1
            return False
        report = Report(
            worker=self.instance,
            endpoint=self.endpoint,
            curve_key=self.curve_key,
            services=[] if self._leaving else self._services,
            credit=known.account.credit if self._leaving else known.account.grant(self._share()),
            completed=list(completed),
            sends=list(sends),
            forwards=list(forwards),
        )
        try:
            known.push.send(self._encoder.encode(report), zmq.NOBLOCK)
        except zmq.Again:
            self.drops["frontend_full"] += 1
            return False
        return True

    @property
    def frontends(self) -> list[str]:
        """Instances that this worker reports to."""
        return [instance for instance, frontend in self._frontends.items() if frontend.push is not None]

    def leave(self) -> None:
        """Ask every frontend for no more batches; those under way still come, for a moment."""
        self._leaving = True
        for instance in self.frontends:
            self.report(instance)

    def close(self) -> None:
        """Close every socket; the endpoint's file goes with it."""
        for frontend in self._frontends.values():
            self._leave(frontend)
        unbind(self._pull, self.endpoint)

    def _spare(self, instance: str) -> None:
        """A frontend goes: send through another that is bound to the same endpoint."""
        self._frontends[instance].leaving = True
        self._by_address = {
            bound: remaining
            for bound, instances in self._by_address.items()
            if (remaining := [one for one in instances if one != instance])
        }

    def _share(self) -> int:
        return max(1, self._batches // max(1, len(self.frontends)))

    def _meet(self, address: FrontendAddress) -> bool:
        frontend = self._frontends.setdefault(address.instance, _Frontend())
        if frontend.push is not None:
            return False
        try:
            frontend.push = _push_socket(
                self._context, self._curve, address.endpoint, address.curve_key, REPORT_HIGH_WATER
            )
        except zmq.ZMQError:  # again with the next look at the fleet
            self.drops["no_descriptor"] += 1
        return frontend.push is not None

    def _leave(self, frontend: _Frontend) -> None:
        if frontend.push is not None:
            frontend.push.close()
            frontend.push = None
