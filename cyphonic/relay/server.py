"""The relay process: one UDP port, an IPv4 and an IPv6 socket, one thread, one loop.

Order of a stop: the announcement ends (no new path is sent here), new bindings are refused while those that live go
on for the drain time, then the sockets close.
"""

from __future__ import annotations

import select
import time
from collections.abc import Callable, Sequence

from cyphonic.lifecycle import StopSignal
from cyphonic.relay.bindings import BindingTable, Way
from cyphonic.relay.forwarding import RelaySocket, runs
from cyphonic.relay.probes import ProbeResponder
from cyphonic.wire.endpoint import Endpoint
from cyphonic.wire.header import RELAYED_HEADER_LENGTH, MessageType

READS_PER_WAKE = 256
"""Reads from one socket before the other one has its turn."""
WAKE = 0.25
"""Seconds; the loop turns at least this often, so that the supervisor sees it live."""


class RelayServer:
    """Moves datagrams between sockets as the table says.

    ``drain`` in seconds; ``tick(now)`` is called once a turn of the loop.  ``clock`` is monotonic, ``wall`` unix
    seconds.  ``other_sockets``: at most one a family; only probes are answered from them.
    """

    def __init__(
        self,
        table: BindingTable,
        sockets: Sequence[RelaySocket],
        *,
        drain: float,
        tick: Callable[[float], None],
        other_sockets: Sequence[RelaySocket] = (),
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self.table = table
        self._sockets = list(sockets)
        self._by_family = {relay_socket.family: relay_socket for relay_socket in sockets}
        self._others = {relay_socket.family: relay_socket for relay_socket in other_sockets}
        self._by_descriptor = {opened.fileno(): opened for opened in (*sockets, *other_sockets)}
        other_ports = {family: opened.endpoint.port for family, opened in self._others.items()}
        self._probes = ProbeResponder(table.relay, table.chance, table.drops, other_ports)
        self._drain = drain
        self._drained_at: float | None = None
        self._tick = tick
        self._clock = clock
        self._wall = wall

    def drain(self) -> None:
        """Refuse new bindings; ``run`` returns after the drain time, or at once when nobody is bound."""
        self.table.draining = True
        self._drained_at = self._clock() + self._drain

    def run(self, stop: StopSignal, stopping: Callable[[], None]) -> None:
        """Serve until ``stop`` is requested, then call ``stopping`` and drain."""
        with select.epoll() as poller:
            poller.register(stop, select.EPOLLIN)
            for descriptor in self._by_descriptor:
                poller.register(descriptor, select.EPOLLIN)
            while not self._done(self._clock()):
                self.turn(poller)
                if stop.requested and not self.table.draining:
                    poller.unregister(stop)
                    stopping()
                    self.drain()

    def turn(self, poller: select.epoll) -> None:
        """One wake of the loop."""
        ready = poller.poll(WAKE)
        now = self._clock()
        for descriptor, _ in ready:
            relay_socket = self._by_descriptor.get(descriptor)
            if relay_socket is not None:
                self._receive(relay_socket, now)
        self.table.handle_timeout(now)
        self._tick(now)

    def close(self) -> None:
        """Give the ports back."""
        for relay_socket in (*self._sockets, *self._others.values()):
            relay_socket.close()

    def _done(self, now: float) -> bool:
        return self._drained_at is not None and (now >= self._drained_at or not len(self.table))

    def _receive(self, relay_socket: RelaySocket, now: float) -> None:
        for _ in range(READS_PER_WAKE):
            arrival = relay_socket.receive()
            if arrival is None:
                return
            datagrams, size, local, source = arrival
            if not datagrams:
                self.table.drops["too_short"] += 1
            elif datagrams[0] == MessageType.RELAY_PROBE:
                self._probe(relay_socket, datagrams, size, Way(Endpoint(*source), local), now)
            elif relay_socket in self._others.values():
                self.table.drops["unknown_type"] += 1
            elif datagrams[0] == MessageType.RELAYED:
                self._forward(datagrams, size, source, now)
            else:
                self._bind(relay_socket, datagrams, size, Way(Endpoint(*source), local), now)

    def _forward(self, datagrams: memoryview, size: int, source: tuple[str, int], now: float) -> None:
        if len(datagrams) <= size:  # a lone datagram: the common case of mixed traffic
            way = self.table.forward(bytes(datagrams[:RELAYED_HEADER_LENGTH]), source, len(datagrams), 1, now)
            if way is not None:
                self._send(datagrams, size, way)
            return
        for header, start, end in runs(datagrams, size):
            way = self.table.forward(header, source, end - start, -(-(end - start) // size), now)
            if way is not None:
                self._send(datagrams[start:end], size, way)

    def _bind(self, relay_socket: RelaySocket, datagrams: memoryview, size: int, source: Way, now: float) -> None:
        for start in range(0, len(datagrams), size):
            answer = self.table.receive(bytes(datagrams[start : start + size]), source, now, self._wall())
            if answer is not None:
                relay_socket.send(answer, len(answer), source)

    def _probe(self, relay_socket: RelaySocket, datagrams: memoryview, size: int, source: Way, now: float) -> None:
        pair = self._by_family, self._others
        asked = relay_socket in self._others.values()
        for start in range(0, len(datagrams), size):
            answer = self._probes.receive(bytes(datagrams[start : start + size]), source, now, self._wall())
            if answer is not None:
                replies = pair[asked != answer.other_port][answer.way.remote.family]
                replies.send(answer.datagram, len(answer.datagram), answer.way)

    def _send(self, datagrams: memoryview, size: int, way: Way) -> None:
        relay_socket = self._by_family.get(way.remote.family)
        if relay_socket is None:
            self.table.drops["no_socket"] += 1
            return
        relay_socket.send(datagrams, size, way)
