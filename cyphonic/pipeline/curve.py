"""The pipeline between hosts: encrypted and admitted by CURVE (RFC 26 of ZeroMQ), its gate kept by ZAP (RFC 27).

A site has one key pair for its pipeline.  Every process of the pipeline holds it and shows it at both ends: as the
server of its PULL and as the client of its PUSHes.  So nobody speaks for a worker or a frontend who has only
reached a port, or Redis: an endpoint that the fleet's list names falsely cannot prove the key.

While keys are replaced a second public key is admitted as well; the announcement says which of them a process has.
"""

from __future__ import annotations

import logging
import os
import threading
from typing import NamedTuple

import zmq

from cyphonic.logs import pairs
from cyphonic.protocol.keys import KeyPair, encode_key

_log = logging.getLogger(__name__)

ZAP_ENDPOINT = "inproc://zeromq.zap.01"
ZAP_DOMAIN = b"cyphonic"
ZAP_VERSION = b"1.0"
HANDSHAKE = 3000
"""Milliseconds that a stranger may hold a connection without proving anything."""
HEARTBEAT_INTERVAL, HEARTBEAT_TIMEOUT = 1000, 3000
"""Milliseconds: a host that vanished ends its connections, and a network that healed is found within seconds."""
RECONNECT_FIRST, RECONNECT_MAX = 100, 1000
"""Milliseconds."""


class Curve(NamedTuple):
    """Who this process is in the pipeline, and whom it admits."""

    own: KeyPair
    admitted: frozenset[bytes]
    """Public keys, its own among them."""

    def serve(self, socket: zmq.Socket[bytes]) -> None:
        """Before ``bind``: let in who proves an admitted key, nobody while the gatekeeper is away."""
        _set_up_tcp(socket)
        socket.setsockopt(zmq.CURVE_SERVER, 1)
        socket.setsockopt(zmq.CURVE_SECRETKEY, self.own.secret)
        socket.setsockopt(zmq.ZAP_DOMAIN, ZAP_DOMAIN)
        socket.setsockopt(zmq.ZAP_ENFORCE_DOMAIN, 1)

    def connect(self, socket: zmq.Socket[bytes], server_key: bytes) -> None:
        """Before ``connect``, towards a server that must prove ``server_key``."""
        _set_up_tcp(socket)
        socket.setsockopt(zmq.CURVE_SERVERKEY, server_key)
        socket.setsockopt(zmq.CURVE_PUBLICKEY, self.own.public)
        socket.setsockopt(zmq.CURVE_SECRETKEY, self.own.secret)


def _set_up_tcp(socket: zmq.Socket[bytes]) -> None:
    for option, value in (
        (zmq.HANDSHAKE_IVL, HANDSHAKE),
        (zmq.HEARTBEAT_IVL, HEARTBEAT_INTERVAL),
        (zmq.HEARTBEAT_TIMEOUT, HEARTBEAT_TIMEOUT),
        (zmq.RECONNECT_IVL, RECONNECT_FIRST),
        (zmq.RECONNECT_IVL_MAX, RECONNECT_MAX),
    ):
        socket.setsockopt(option, value)


class Gatekeeper:
    """The ZAP handler of a ZeroMQ context: a thread that admits the site's keys and turns everybody else away.

    Start it before the first ``bind`` and close it after the last socket; the context ends after it.
    """

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], admitted: frozenset[bytes]) -> None:
        self._admitted = admitted
        self._socket = context.socket(zmq.REP)
        self._socket.setsockopt(zmq.LINGER, 0)
        self._socket.bind(ZAP_ENDPOINT)
        self._stop = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._thread = threading.Thread(target=self._run, name="zap", daemon=True)
        self.refused = 0
        """Connections."""

    def start(self) -> None:
        """Begin to answer."""
        self._thread.start()

    def close(self) -> None:
        """Stop answering: from now on nobody comes in."""
        os.eventfd_write(self._stop, 1)
        self._thread.join()
        os.close(self._stop)

    def _run(self) -> None:
        poller = zmq.Poller()
        poller.register(self._socket, zmq.POLLIN)
        poller.register(self._stop, zmq.POLLIN)
        try:
            while self._stop not in dict(poller.poll()):
                self._socket.send_multipart(self._answer(self._socket.recv_multipart()))
        finally:
            self._socket.close()

    def _answer(self, request: list[bytes]) -> list[bytes]:
        """Version, request, status, text, user, metadata.  The request ends with mechanism and credentials."""
        version, number, domain, address, _, mechanism, *credentials = request
        key = credentials[0] if credentials else b""
        if (version, domain, mechanism) == (ZAP_VERSION, ZAP_DOMAIN, b"CURVE") and key in self._admitted:
            return [ZAP_VERSION, number, b"200", b"", b"site", b""]
        self.refused += 1
        if self.refused & (self.refused - 1) == 0:  # 1, 2, 4, 8, …: a port scan fills no log
            shown = encode_key(key) if len(key) == 32 else "none"
            fields = pairs(address=address.decode(errors="replace"), key=shown, refused=self.refused)
            _log.warning("a stranger knocks at the pipeline", extra=fields)
        return [ZAP_VERSION, number, b"400", b"not of this site", b"", b""]
