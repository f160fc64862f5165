"""The two ends of the pipe between frontends and workers: ZeroMQ PUSH and PULL, batches out, reports back.

A frontend has one PULL, and one PUSH to each worker that ever reported to it.  A worker thread has one PULL, and
one PUSH to each frontend of the fleet.  So a message always has one destination: nothing queues behind a dead
worker.

A worker grants credit: a frontend may push it batches numbered up to the credit, and numbers count up per
frontend and worker for as long as both live (instance IDs are never reused, so neither do numbers start again).
A credit never goes down.  A lost or repeated report therefore does no harm, and no more than ``batches`` (at
least one per frontend) ever wait for a worker.  An empty batch is a probe: it repeats a number already used and
asks for a report.

Everything here belongs to one thread: sockets are neither shared nor locked.
"""

from __future__ import annotations

import contextlib
import os
import socket
import stat
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec
import zmq

from cyphonic.errors import ConfigurationError
from cyphonic.protocol.chance import Chance
from cyphonic.wire.job import Batch, Report, Route, Send

MAX_BATCH_JOBS = 64
MAX_MESSAGE = 4 * 1024 * 1024
"""Bytes of one message; a batch is below 100 kB, a report of several batches below 1 MB."""
REPORT_HIGH_WATER = 1000
"""Reports that may wait for a frontend that does not read; then they are dropped and counted."""
BATCH_HIGH_WATER = 64
"""Never reached: credits are far fewer."""
TICK = 0.4
"""Seconds: a worker that has nothing to say still reports this often."""
FRONTEND_GRACE = 10.0
"""Seconds for which a frontend that left the fleet's list is still reported to: its heartbeat may only be late."""
MAX_IPC_PATH = 107
STALE_AFTER = 10.0
"""Seconds: a younger socket file may belong to a process that has not called listen yet."""

Address = tuple[str, int]
Context = zmq.Context[zmq.Socket[bytes]]


class FrontendAddress(NamedTuple):
    """A frontend as a worker sees it in the fleet."""

    instance: str
    endpoint: str
    """ZeroMQ endpoint of its PULL."""
    bound: frozenset[Address]
    """Every (host, port) it can send from."""


def new_context() -> Context:
    """One for a process; its threads share it and close it (``destroy``) after their pipes."""
    return zmq.Context()


def new_instance(chance: Chance) -> str:
    """An instance ID: random, never reused."""
    return chance(8).hex()


def ipc_endpoint(directory: Path, name: str) -> str:
    """The ZeroMQ endpoint ``name`` in ``directory``, which is made, mode 0700, and cleared of dead sockets.

    Raise ConfigurationError when the path is too long for a socket or the directory cannot be used.
    """
    path = directory / name
    if len(os.fsencode(path)) > MAX_IPC_PATH:
        raise ConfigurationError(
            f"{path}: too long for a socket (at most {MAX_IPC_PATH} bytes)", "choose a shorter [site] run_dir"
        )
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        if stat.S_IMODE(directory.stat().st_mode) & 0o077:
            directory.chmod(0o700)  # who can write here can speak for a worker
        _remove_dead_sockets(directory)
    except OSError as error:
        raise ConfigurationError(
            f"{directory}: {error.strerror}", "run as root, or choose a [site] run_dir that this user may write"
        ) from None
    return f"ipc://{path}"


def _remove_dead_sockets(directory: Path) -> None:
    for path in directory.iterdir():
        with contextlib.suppress(FileNotFoundError):
            status = path.stat()
            if stat.S_ISSOCK(status.st_mode) and time.time() - status.st_mtime > STALE_AFTER:
                with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
                    probe.setblocking(False)
                    if probe.connect_ex(str(path)) not in (0, 11, 115):  # EAGAIN, EINPROGRESS: somebody listens
                        path.unlink()


def _socket(context: Context, kind: int) -> zmq.Socket[bytes]:
    made = context.socket(kind)
    made.setsockopt(zmq.LINGER, 0)
    made.setsockopt(zmq.MAXMSGSIZE, MAX_MESSAGE)
    return made


def _receive(pull: zmq.Socket[bytes]) -> Iterator[bytes]:
    """All messages that are there now."""
    with contextlib.suppress(zmq.Again):
        while True:
            yield pull.recv(zmq.NOBLOCK)


def _bind(pull: zmq.Socket[bytes], endpoint: str) -> str:
    try:
        pull.bind(endpoint)
    except zmq.ZMQError as error:
        raise ConfigurationError(f"{endpoint}: cannot bind: {error.strerror}") from None
    return pull.getsockopt_string(zmq.LAST_ENDPOINT)


def _unbind(pull: zmq.Socket[bytes], endpoint: str) -> None:
    pull.close()
    if endpoint.startswith("ipc://"):
        Path(endpoint.removeprefix("ipc://")).unlink(missing_ok=True)  # ZeroMQ leaves it


class FrontendPipe:
    """The frontend's end.  It knows sockets, not credits: see ``frontend/credits.py``."""

    def __init__(self, context: Context, endpoint: str) -> None:
        self._context = context
        self._pull = _socket(context, zmq.PULL)
        self.endpoint = _bind(self._pull, endpoint)
        self.fd: int = self._pull.getsockopt(zmq.FD)  # type: ignore[assignment]  # an int for this option
        """Edge-triggered, as ZeroMQ's are: call ``reports`` until it returns nothing."""
        self._workers: dict[str, zmq.Socket[bytes]] = {}
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

    def connect(self, worker: str, endpoint: str) -> None:
        """Open the way to a worker; nothing when it is open."""
        if worker not in self._workers:
            push = _socket(self._context, zmq.PUSH)
            push.setsockopt(zmq.SNDHWM, BATCH_HIGH_WATER)
            push.connect(endpoint)
            self._workers[worker] = push

    def push(self, worker: str, batch: Batch) -> bool:
        """Send a batch; False when there is no way to that worker or it is full."""
        push = self._workers.get(worker)
        if push is None:
            return False
        try:
            push.send(self._encoder.encode(batch), zmq.NOBLOCK)
        except zmq.Again:
            self.drops["worker_full"] += 1
            return False
        return True

    def forget(self, worker: str) -> None:
        """Close the way to a worker and discard what still waits in it."""
        push = self._workers.pop(worker, None)
        if push is not None:
            push.close()

    def close(self) -> None:
        """Close every socket; the endpoint's file goes with it."""
        for worker in list(self._workers):
            self.forget(worker)
        _unbind(self._pull, self.endpoint)


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
    ) -> None:
        self.instance = instance
        self._context = context
        self._services = sorted(services)
        self._batches = batches
        self._pull = _socket(context, zmq.PULL)
        self.endpoint = _bind(self._pull, endpoint)
        self._frontends: dict[str, _Frontend] = {}
        self._by_address: dict[Address, list[str]] = {}
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
            curve_key=b"",
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
        _unbind(self._pull, self.endpoint)

    def _share(self) -> int:
        return max(1, self._batches // max(1, len(self.frontends)))

    def _meet(self, address: FrontendAddress) -> bool:
        frontend = self._frontends.setdefault(address.instance, _Frontend())
        if frontend.push is not None:
            return False
        frontend.push = _socket(self._context, zmq.PUSH)
        frontend.push.setsockopt(zmq.SNDHWM, REPORT_HIGH_WATER)
        frontend.push.connect(address.endpoint)
        return True

    def _leave(self, frontend: _Frontend) -> None:
        if frontend.push is not None:
            frontend.push.close()
            frontend.push = None
