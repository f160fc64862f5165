"""Questions that are not ours: passed to the DNS servers that this machine had before, byte for byte, and back.

Each question has a socket of its own, connected to one server: the kernel picks a random port and lets nobody else
answer.  A server that refuses or is silent is followed by the next.
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable, Sequence

from cyphonic.node.loop import Loop, Timer
from cyphonic.wire.endpoint import Endpoint

UDP_PATIENCE = 2.0
"""Seconds until the next server is asked."""
TCP_PATIENCE = 4.0
ROUNDS = 2
"""How often the list of servers is gone through."""
MAX_ANSWER = 65535

Done = Callable[[bytes | None], None]
"""Called once, with the answer or None when no server gave one."""


class UdpExchange:
    """One question over UDP.  A truncated answer is an answer: the client asks again over TCP."""

    def __init__(self, loop: Loop, query: bytes, servers: Sequence[Endpoint], done: Done) -> None:
        self._loop = loop
        self._query = query
        self._servers = list(servers) * ROUNDS
        self._done = done
        self._socket: socket.socket | None = None
        self._timer: Timer | None = None

    def start(self) -> None:
        """Ask the first server."""
        self._next_server()

    def cancel(self) -> None:
        """Nobody waits any more; ``done`` is not called.  May be called twice."""
        if self._timer is not None:
            self._timer.cancel()
        if self._socket is not None:
            self._loop.remove(self._socket.fileno())
            self._socket.close()
            self._socket = None

    def _next_server(self) -> None:
        self.cancel()
        while self._servers:
            if self._ask(self._servers.pop(0)):
                self._timer = self._loop.call_later(UDP_PATIENCE, self._next_server)
                return
        self._done(None)

    def _ask(self, server: Endpoint) -> bool:
        try:
            self._socket = socket.socket(server.family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
            self._socket.connect(server)
            self._socket.send(self._query)
        except OSError:
            self.cancel()
            return False
        self._loop.add_reader(self._socket.fileno(), self._readable)
        return True

    def _readable(self) -> None:
        assert self._socket is not None
        try:
            answer = self._socket.recv(MAX_ANSWER)
        except BlockingIOError:
            return
        except OSError:  # refused: nobody listens there
            self._next_server()
            return
        if _answers(answer, self._query):
            self.cancel()
            self._done(answer)


class TcpExchange:
    """One question over TCP."""

    def __init__(self, loop: Loop, query: bytes, servers: Sequence[Endpoint], done: Done) -> None:
        self._loop = loop
        self._query = query
        self._servers = list(servers)
        self._done = done
        self._socket: socket.socket | None = None
        self._timer: Timer | None = None
        self._unsent = b""
        self._received = bytearray()

    def start(self) -> None:
        """Ask the first server."""
        self._next_server()

    def cancel(self) -> None:
        """Nobody waits any more; ``done`` is not called.  May be called twice."""
        if self._timer is not None:
            self._timer.cancel()
        if self._socket is not None:
            self._loop.remove(self._socket.fileno())
            self._socket.close()
            self._socket = None

    def _next_server(self) -> None:
        self.cancel()
        while self._servers:
            if self._connect(self._servers.pop(0)):
                self._timer = self._loop.call_later(TCP_PATIENCE, self._next_server)
                return
        self._done(None)

    def _connect(self, server: Endpoint) -> bool:
        self._unsent = len(self._query).to_bytes(2, "big") + self._query
        self._received.clear()
        try:
            self._socket = socket.socket(server.family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
            with contextlib.suppress(BlockingIOError):
                self._socket.connect(server)
        except OSError:
            self.cancel()
            return False
        self._loop.add_writer(self._socket.fileno(), self._writable)
        return True

    def _writable(self) -> None:
        assert self._socket is not None
        try:
            sent = self._socket.send(self._unsent)
        except BlockingIOError:
            return
        except OSError:
            self._next_server()
            return
        self._unsent = self._unsent[sent:]
        if not self._unsent:
            self._loop.remove_writer(self._socket.fileno())
            self._loop.add_reader(self._socket.fileno(), self._readable)

    def _readable(self) -> None:
        assert self._socket is not None
        try:
            data = self._socket.recv(MAX_ANSWER)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._next_server()
            return
        self._received += data
        if (answer := take_frame(self._received)) is not None:
            if _answers(answer, self._query):
                self.cancel()
                self._done(answer)
            else:
                self._next_server()


def take_frame(received: bytearray) -> bytes | None:
    """Cut the first message off a TCP stream of DNS (2 bytes of length in front); None while it is not whole."""
    if len(received) < 2:
        return None
    end = 2 + int.from_bytes(received[:2], "big")
    if len(received) < end:
        return None
    frame = bytes(received[2:end])
    del received[:end]
    return frame


def _answers(answer: bytes, query: bytes) -> bool:
    return len(answer) >= 12 and answer[:2] == query[:2] and bool(answer[2] & 0x80)
