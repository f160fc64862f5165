"""What stands on each host of the laboratory and measures: ``python -m cyphonic.lab.agent``.

It is the application of a user: it resolves a name by the host's resolver and talks to the address it gets.  It
takes TCP connections on ``TRANSFER_PORT``, reads to their end and answers with the SHA-256 of what came.  On
standard input it gets one JSON request a line, ``{"do": "reach" | "ping" | "transfer", ...}``; it answers each with
one line, ``{"ok": true, ...}`` or ``{"ok": false, "error": "..."}``.  Times are seconds.
"""

from __future__ import annotations

import hashlib
import json
import os
import select
import socket
import statistics
import struct
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

TRANSFER_PORT = 7070
ECHO_REQUEST, ECHO_REPLY = 128, 129
"""ICMPv6 (RFC 4443 §4)."""
ECHO_INTERVAL = 0.05
"""Seconds between echo requests while nothing has answered yet."""
CHUNK = 256 * 1024


class FailedError(Exception):
    """A measurement came to nothing; the text is for people."""


def main() -> None:
    """Serve until standard input ends."""
    listener = socket.create_server(("::", TRANSFER_PORT), family=socket.AF_INET6, backlog=16)
    threading.Thread(target=_accept, args=(listener,), daemon=True).start()
    _write({"ok": True})
    for line in sys.stdin:
        request = json.loads(line)
        try:
            answer = ACTIONS[request.pop("do")](**request)
        except (FailedError, OSError) as error:
            _write({"ok": False, "error": str(error)})
        else:
            _write({"ok": True, **answer})


def reach(name: str, timeout: float) -> dict[str, Any]:
    """Resolve ``name``, then send echo requests until the first is answered; both counted from the DNS query on."""
    start = time.monotonic()
    address = _resolve(name, start + timeout)
    resolved = time.monotonic() - start
    with _Echo(address) as echo:
        while time.monotonic() < start + timeout:
            echo.send()
            if echo.receive(ECHO_INTERVAL) is not None:
                return {"address": address, "resolved": resolved, "answered": time.monotonic() - start}
    raise FailedError(f"{address} does not answer within {timeout:g} s")


def ping(address: str, count: int, interval: float, timeout: float) -> dict[str, Any]:
    """Median round trip of ``count`` echo requests, one after the other."""
    times = []
    with _Echo(address) as echo:
        for _ in range(count):
            echo.send()
            if (round_trip := echo.receive(timeout)) is not None:
                times.append(round_trip)
            time.sleep(interval)
    if not times:
        raise FailedError(f"none of {count} echo requests to {address} was answered")
    return {"rtt": statistics.median(times), "lost": count - len(times)}


def transfer(name: str, size: int, timeout: float) -> dict[str, Any]:
    """Send ``size`` random bytes over TCP; the other end's SHA-256 of what it got must be that of what was sent."""
    data = os.urandom(size)
    digest = hashlib.sha256(data).hexdigest()
    start = time.monotonic()
    with socket.create_connection((name, TRANSFER_PORT), timeout=timeout) as connection:
        connection.sendall(data)
        connection.shutdown(socket.SHUT_WR)
        received = connection.makefile().readline().strip()
    seconds = time.monotonic() - start
    if received != digest:
        raise FailedError(f"sent SHA-256 {digest[:16]}…, received {received[:16] or 'none'}…")
    return {"seconds": seconds, "sha256": digest}


ACTIONS: dict[str, Callable[..., dict[str, Any]]] = {"reach": reach, "ping": ping, "transfer": transfer}


class _Echo:
    """A raw ICMPv6 socket towards one address; the kernel of the other end answers."""

    def __init__(self, address: str) -> None:
        self._identifier = os.getpid() & 0xFFFF
        self._sequence = 0
        self._sent: dict[int, float] = {}
        self._socket = socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6)
        self._socket.connect((address, 0))
        self._socket.setblocking(False)

    def __enter__(self) -> _Echo:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def send(self) -> None:
        self._sequence += 1
        self._sent[self._sequence] = time.monotonic()
        self._socket.send(struct.pack("!BBHHH", ECHO_REQUEST, 0, 0, self._identifier, self._sequence) + bytes(48))

    def receive(self, timeout: float) -> float | None:
        """Round trip of the next answer to any request of this socket; None when there is none in time."""
        deadline = time.monotonic() + timeout
        while (left := deadline - time.monotonic()) > 0:
            if not select.select([self._socket], [], [], left)[0]:
                return None
            kind, _, _, identifier, sequence = struct.unpack_from("!BBHHH", self._socket.recv(2048))
            if (kind, identifier) == (ECHO_REPLY, self._identifier) and sequence in self._sent:
                return time.monotonic() - self._sent.pop(sequence)
        return None


def _resolve(name: str, deadline: float) -> str:
    """The IPv6 address of ``name`` as any program on this host would get it."""
    while True:
        try:
            return str(socket.getaddrinfo(name, None, socket.AF_INET6, socket.SOCK_DGRAM)[0][4][0])
        except socket.gaierror as error:
            if time.monotonic() > deadline:
                raise FailedError(f"{name} does not resolve: {error.strerror}") from error
            time.sleep(ECHO_INTERVAL)


def _accept(listener: socket.socket) -> None:
    while True:
        connection, _ = listener.accept()
        threading.Thread(target=_answer, args=(connection,), daemon=True).start()


def _answer(connection: socket.socket) -> None:
    digest = hashlib.sha256()
    with connection:
        while data := connection.recv(CHUNK):
            digest.update(data)
        connection.sendall(f"{digest.hexdigest()}\n".encode())


def _write(answer: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
