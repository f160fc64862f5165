"""Sockets and the loop around the simulated nodes' traffic."""

from __future__ import annotations

import os
import random
import select
import socket
import time
from collections.abc import Callable, Sequence

import msgspec

from cyphonic.bundle import Bundle
from cyphonic.errors import CloudUnreachableError, NotEnrolledError, OperationalError
from cyphonic.loadgen.latency import KindReport
from cyphonic.loadgen.scenario import Beginner, Pacer, Scenario
from cyphonic.loadgen.simulated import SimulatedNode
from cyphonic.loadgen.traffic import Kind, Traffic
from cyphonic.wire.endpoint import Endpoint
from cyphonic.wire.login import LoginOutcome

SOCKETS = 16
"""Enough sources for the kernel to spread them over several frontends (SO_REUSEPORT)."""
SOCKET_BUFFER = 4 * 1024 * 1024
READS_PER_WAKE = 256
MAX_DATAGRAM = 2048
LOGIN_WINDOW = 32
"""Logins under way while the nodes join: each costs the AS some ten key exchanges."""
JOIN_PATIENCE = 20.0
"""Seconds without any progress after which joining has failed."""
REUSABLE_KEY = "load needs a living, reusable enrolment key: cyphonic admin key create --reusable -o FILE"
IDLE_WAIT = 0.05
PROGRESS_INTERVAL = 1.0
TAIL = 2.0
"""Seconds after the end in which transactions under way may still finish."""

Progress = Callable[[str], None]


class LoadReport(msgspec.Struct, frozen=True):
    """What one run measured."""

    scenario: str
    nodes: int
    duration: float
    """Seconds that new transactions were begun."""
    rate_wanted: float
    """Per second; 0: as fast as the window allows."""
    window: int
    transactions: dict[str, KindReport]
    generator_cpu_us: float
    """CPU microseconds of this process per completed transaction of the scenario."""
    drops: dict[str, int]


class Generator:
    """N simulated nodes on a few sockets.  Close it when done."""

    def __init__(
        self,
        nodes: Sequence[SimulatedNode],
        bundle: Bundle,
        *,
        chance: Callable[[int], bytes] = os.urandom,
        progress: Progress = lambda _: None,
    ) -> None:
        """Raise CloudUnreachableError when this machine has no way to the cloud."""
        family = bundle.as_endpoints[0].family
        usable = [endpoint for endpoint in bundle.as_endpoints if endpoint.family is family]
        self._progress = progress
        self._sockets = [_open_socket(usable[0]) for _ in range(min(SOCKETS, len(nodes)))]
        self._poller = select.epoll()
        for opened in self._sockets:
            self._poller.register(opened, select.EPOLLIN)
        self._by_descriptor = {opened.fileno(): opened for opened in self._sockets}
        local = [Endpoint(*opened.getsockname()[:2]) for opened in self._sockets]
        self._nodes = nodes
        self.traffic = Traffic(nodes, usable, bundle.enrolment_key, lambda index: local[index % len(local)], chance)
        self.send_failures = 0

    def close(self) -> None:
        """Give the sockets back."""
        self._poller.close()
        for opened in self._sockets:
            opened.close()

    def join(self) -> None:
        """Log every node in and register it.

        Raise CloudUnreachableError when nothing moves for 20 s, NotEnrolledError when the AS refuses.
        """
        waiting = list(range(len(self._nodes)))[::-1]
        joined, moved = -1, time.monotonic()
        while joined < len(self._nodes):
            now = time.monotonic()
            while waiting and self.traffic.under_way < LOGIN_WINDOW:
                self.traffic.login(waiting.pop(), now, time.time_ns())
            self._turn(IDLE_WAIT)
            self._check_refusals()
            registered = sum(node.registered for node in self._nodes)
            if registered != joined:
                joined, moved = registered, now
                self._progress(f"joined {joined} of {len(self._nodes)}")
            elif now - moved > JOIN_PATIENCE:
                raise CloudUnreachableError(
                    f"{joined} of {len(self._nodes)} nodes joined, then nothing moved for {JOIN_PATIENCE:.0f} s",
                    f"dropped here: {dict(self.traffic.drops) or 'nothing'}; look at the cloud's logs",
                )

    def measure(self, scenario: Scenario, duration: float, rate: float, window: int) -> LoadReport:
        """Run a scenario for ``duration`` seconds, ``rate`` per second or with ``window`` under way."""
        traffic = self.traffic
        traffic.reset_tallies()
        start = time.monotonic()
        pacer = Pacer(rate, window, start)
        beginner = Beginner(scenario, traffic, random.Random())
        cpu, shown = time.process_time(), start
        while (now := time.monotonic()) < start + duration:
            begun = pacer.due(traffic.under_way, now)
            if begun:
                stamp = time.time_ns()
                for number, due in enumerate(begun):
                    beginner.begin(due, now, stamp + number)
            self._turn(self._wait(pacer, now, start + duration))
            if now - shown >= PROGRESS_INTERVAL:
                shown = now
                self._show(now - start)
        elapsed = now - start
        tallies = dict(traffic.tallies)
        completed = {kind: tally.latencies.total for kind, tally in tallies.items()}
        cpu = time.process_time() - cpu
        while traffic.under_way and time.monotonic() < start + elapsed + TAIL:
            self._turn(IDLE_WAIT)
        return self._report(scenario, elapsed, rate, window, completed, cpu)

    def _report(
        self,
        scenario: Scenario,
        elapsed: float,
        rate: float,
        window: int,
        completed: dict[Kind, int],
        cpu: float,
    ) -> LoadReport:
        reports = {kind: tally.report(elapsed) for kind, tally in self.traffic.tallies.items()}
        counted = completed[Kind.LOGIN if scenario is Scenario.LOGIN else Kind.DIRECTION]
        return LoadReport(
            scenario=scenario.value,
            nodes=len(self._nodes),
            duration=round(elapsed, 3),
            rate_wanted=rate,
            window=0 if rate else window,
            transactions={
                kind.value: msgspec.structs.replace(report, rate=round(completed[kind] / elapsed, 1))
                for kind, report in reports.items()
                if report.started
            },
            generator_cpu_us=round(cpu * 1e6 / counted, 1) if counted else 0.0,
            drops=dict(self.traffic.drops),
        )

    def _show(self, elapsed: float) -> None:
        parts = [
            f"{kind.value} {tally.latencies.total}"
            + (f" (resent {tally.resends}, gave up {tally.gave_up})" if tally.resends else "")
            for kind, tally in self.traffic.tallies.items()
            if tally.started
        ]
        self._progress(f"{elapsed:4.0f} s: " + ", ".join(parts))

    def _wait(self, pacer: Pacer, now: float, end: float) -> float:
        due = pacer.next_deadline()
        return max(0.0, min(IDLE_WAIT, end - now, due - now if due is not None else IDLE_WAIT))

    def _turn(self, wait: float) -> None:
        """Send what waits, read what is there, see what is due."""
        self._flush()
        ready = self._poller.poll(wait)
        now = time.monotonic()
        for descriptor, _ in ready:
            self._drain(self._by_descriptor[descriptor], now)
        self.traffic.handle_timeout(now)
        self._flush()

    def _drain(self, opened: socket.socket, now: float) -> None:
        receive, handle = opened.recv, self.traffic.receive_datagram
        try:
            for _ in range(READS_PER_WAKE):
                handle(receive(MAX_DATAGRAM), now)
        except BlockingIOError:
            pass

    def _flush(self) -> None:
        outgoing, self.traffic.outgoing = self.traffic.outgoing, []
        sockets, count = self._sockets, len(self._sockets)
        for node, datagram, endpoint in outgoing:
            try:
                sockets[node % count].sendto(datagram, endpoint)
            except OSError:  # a full buffer or no route just now: the resend covers it
                self.send_failures += 1

    def _check_refusals(self) -> None:
        for outcome in self.traffic.outcomes:
            if outcome is not LoginOutcome.ACCEPTED:
                named = outcome in (LoginOutcome.NAME_INVALID, LoginOutcome.NAME_TAKEN)
                raise NotEnrolledError(
                    f"the AS refused a simulated node: {outcome.name.lower().replace('_', ' ')}",
                    "choose another --prefix" if named else REUSABLE_KEY,
                )


def _open_socket(towards: Endpoint) -> socket.socket:
    """A socket bound to the address that this machine has towards the cloud, so that its candidate is true."""
    try:
        with socket.socket(towards.family, socket.SOCK_DGRAM) as probe:
            probe.connect(towards)
            host = probe.getsockname()[0]
        opened = socket.socket(towards.family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SOCKET_BUFFER)
        opened.bind((host, 0))
    except OSError as error:
        if error.errno is not None and "many" in (error.strerror or ""):
            raise OperationalError("too many open files", "raise the limit: ulimit -n 4096") from None
        raise CloudUnreachableError(f"no way to {towards}: {error.strerror}") from None
    return opened
