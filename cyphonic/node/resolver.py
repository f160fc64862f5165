"""The node's own DNS server: answers for the overlay's zone, passes everything else on.

It serves UDP and TCP on one local address, inside the node's loop.  ``Zone`` decides, ``lookup`` finds,
``upstream`` passes on; here are the sockets, the time limits and the bound on what is in flight.
"""

from __future__ import annotations

import errno
import logging
import socket
from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from typing import Protocol

from cyphonic.errors import OperationalError
from cyphonic.logs import pairs
from cyphonic.node.listener import Listener
from cyphonic.node.loop import Loop, Timer
from cyphonic.node.upstream import TcpExchange, UdpExchange, take_frame
from cyphonic.node.zone import DROP, Action, Zone, server_failure
from cyphonic.protocol.overlay import LookedUp
from cyphonic.wire.endpoint import Endpoint

_log = logging.getLogger(__name__)

MAX_IN_FLIGHT = 256
"""Questions that wait for the cloud or for an upstream server; one more is answered with SERVFAIL."""
LOOKUP_PATIENCE = 9.0
"""Seconds until SERVFAIL.  glibc asks at 0 and 5 s and gives up at 10: an answer within 9 is still read."""
READS_PER_WAKE = 64
MAX_TCP_CLIENTS = 32
TCP_IDLE = 10.0
"""Seconds (RFC 7766 §6.2.3 asks for a few)."""
MAX_QUERY = 65535
MAX_UNSENT = 256 * 1024
"""Bytes that a TCP client may leave unread."""

Lookup = Callable[[str | bytes, Callable[[LookedUp], None]], None]
"""Find an FQDN, or the name of a virtual address (16 or 4 bytes); report at once or later, at most once."""

Respond = Callable[[bytes], None]


class _Cancellable(Protocol):
    def cancel(self) -> None: ...


class Resolver:
    """Serves ``zone`` once started.  ``upstreams`` and ``zone`` may be replaced at any time; None: no zone yet."""

    def __init__(self, loop: Loop, zone: Zone | None, lookup: Lookup, upstreams: Sequence[Endpoint] = ()) -> None:
        self.zone = zone
        self.upstreams: Sequence[Endpoint] = upstreams
        self.address: Endpoint | None = None
        """Where it listens."""
        self.counts: Counter[str] = Counter()
        self._loop = loop
        self._lookup = lookup
        self._udp: socket.socket | None = None
        self._tcp: Listener | None = None
        self._clients: set[_TcpClient] = set()
        self._in_flight: dict[Hashable, _Cancellable] = {}

    def start(self, address: Endpoint) -> None:
        """Listen.  Port 0: any port, see ``address``.  Raise OperationalError when the port is taken."""
        try:
            self._udp = _bind(address, socket.SOCK_DGRAM)
            self.address = Endpoint(address.host, self._udp.getsockname()[1])
            listener = _bind(self.address, socket.SOCK_STREAM)
            self._tcp = Listener(self._loop, listener, self._take, "DNS over TCP")
            listener.listen(16)
        except OSError as error:
            self.close()
            raise _cannot_listen(address, error) from None
        self._loop.add_reader(self._udp.fileno(), self._udp_readable)

    def close(self) -> None:
        """Drop what is in flight and give the port back.  May be called twice, or before ``start``."""
        for pending in list(self._in_flight.values()):
            pending.cancel()
        self._in_flight.clear()
        for client in list(self._clients):
            client.close()
        if self._tcp is not None:
            self._tcp.close()
        if self._udp is not None:
            self._loop.remove(self._udp.fileno())
            self._udp.close()
        self._udp = self._tcp = self.address = None

    def handle(self, wire: bytes, client: Hashable, respond: Respond, *, tcp: bool = False) -> None:
        """One question of one client; ``respond`` is called at most once, perhaps at once."""
        key = (client, wire)
        if key in self._in_flight:  # asked again while we work on it: one answer does
            self.counts["repeated"] += 1
            return
        zone = self.zone
        verdict = zone.examine(wire) if zone is not None else DROP
        query = verdict.query
        if zone is None or verdict.action is Action.DROP:
            self.counts["dropped"] += 1
        elif query is not None and verdict.action is Action.ANSWER:
            self.counts["answered"] += 1
            respond(zone.answer_at_once(query, verdict.code))
        elif len(self._in_flight) >= MAX_IN_FLIGHT:
            self.counts["overflow"] += 1
            respond(server_failure(wire))
        elif query is not None:
            self._ask(key, verdict.target, lambda found: respond(zone.answer(query, found)))
        else:
            self._forward(key, wire, respond, tcp)

    def forget(self, client: _TcpClient) -> None:
        """A TCP client has gone, and what it asked for is moot."""
        self._clients.discard(client)
        for key in [key for key in self._in_flight if isinstance(key, tuple) and key[0] is client]:
            self._in_flight.pop(key).cancel()

    def _ask(self, key: Hashable, target: str | bytes, answer: Callable[[LookedUp], None]) -> None:
        def finish(found: LookedUp) -> None:
            pending = self._in_flight.pop(key, None)
            if pending is not None:  # else: too late, or the client has gone
                pending.cancel()
                self.counts["answered"] += 1
                answer(found)

        nothing_known = LookedUp("", reachable=False)
        self._in_flight[key] = self._loop.call_later(LOOKUP_PATIENCE, lambda: finish(nothing_known))
        self._lookup(target, finish)

    def _forward(self, key: Hashable, wire: bytes, respond: Respond, tcp: bool) -> None:
        def finish(answer: bytes | None) -> None:
            self._in_flight.pop(key, None)
            self.counts["forwarded" if answer else "upstream_silent"] += 1
            respond(server_failure(wire) if answer is None else answer)

        kind = TcpExchange if tcp else UdpExchange
        exchange = kind(self._loop, wire, self.upstreams, finish)
        self._in_flight[key] = exchange
        exchange.start()

    def _udp_readable(self) -> None:
        assert self._udp is not None
        for _ in range(READS_PER_WAKE):
            try:
                wire, source = self._udp.recvfrom(MAX_QUERY)
            except BlockingIOError:
                return
            except OSError:  # an earlier answer met a closed port
                continue
            self.handle(wire, source, lambda answer, source=source: self._send(answer, source))  # type: ignore[misc]

    def _send(self, answer: bytes, source: tuple[str, int]) -> None:
        if self._udp is None:
            return
        try:
            self._udp.sendto(answer, source)
        except OSError as error:
            self.counts["unsendable"] += 1
            _log.debug("a DNS answer was not sent", extra=pairs(error=error.strerror))

    def _take(self, connection: socket.socket) -> None:
        if len(self._clients) >= MAX_TCP_CLIENTS:
            self.counts["tcp_refused"] += 1
            connection.close()
            return
        self._clients.add(_TcpClient(self._loop, connection, self))


class _TcpClient:
    """One connection; several questions may follow each other on it, answered in any order."""

    def __init__(self, loop: Loop, connection: socket.socket, resolver: Resolver) -> None:
        self._loop = loop
        self._connection = connection
        self._resolver = resolver
        self._received = bytearray()
        self._unsent = bytearray()
        self._timer = self._idle()
        loop.add_reader(connection.fileno(), self._readable)

    def close(self) -> None:
        """Hang up.  May be called twice."""
        self._timer.cancel()
        if self._connection.fileno() >= 0:
            self._loop.remove(self._connection.fileno())
            self._connection.close()
            self._resolver.forget(self)

    def _idle(self) -> Timer:
        return self._loop.call_later(TCP_IDLE, self.close)

    def _readable(self) -> None:
        try:
            data = self._connection.recv(MAX_QUERY)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self.close()
            return
        self._timer.cancel()
        self._timer = self._idle()
        self._received += data
        while (wire := take_frame(self._received)) is not None:
            self._resolver.handle(wire, self, self._respond, tcp=True)

    def _respond(self, answer: bytes) -> None:
        if self._connection.fileno() >= 0:
            self._unsent += len(answer).to_bytes(2, "big") + answer
            self._flush()

    def _flush(self) -> None:
        try:
            sent = self._connection.send(self._unsent)
        except BlockingIOError:
            sent = 0
        except OSError:
            self.close()
            return
        del self._unsent[:sent]
        if len(self._unsent) > MAX_UNSENT:
            self.close()
        elif self._unsent:
            self._loop.add_writer(self._connection.fileno(), self._flush)
        else:
            self._loop.remove_writer(self._connection.fileno())


def _bind(address: Endpoint, kind: socket.SocketKind) -> socket.socket:
    listener = socket.socket(address.family, kind | socket.SOCK_NONBLOCK)
    try:
        if kind == socket.SOCK_STREAM:  # connections in TIME_WAIT do not hold up a restart
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
    except OSError:
        listener.close()
        raise
    return listener


def _cannot_listen(address: Endpoint, error: OSError) -> OperationalError:
    what = f"the DNS server cannot listen on {address}: {error.strerror}"
    if error.errno == errno.EADDRINUSE:
        return OperationalError(what, "choose another address: [node] dns_address in /etc/cyphonic/node.toml")
    if error.errno == errno.EACCES:
        return OperationalError(what, "ports below 1024 need root (or CAP_NET_BIND_SERVICE)")
    if error.errno == errno.EADDRNOTAVAIL:
        return OperationalError(what, "is the loopback device up?  ip link set lo up")
    return OperationalError(what)
