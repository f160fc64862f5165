"""Sockets that put questions to relays and wait for the answers; blocking, all questions of one call at once."""

from __future__ import annotations

import errno
import os
import select
import socket
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import NamedTuple

from cyphonic.errors import MalformedError
from cyphonic.protocol.mac import mac1_key
from cyphonic.protocol.probe import read_probe_reply, write_probe
from cyphonic.wire.endpoint import Endpoint
from cyphonic.wire.probe import MIN_PROBE_LENGTH, NO_TICKET, PROBE_NONCE_LENGTH, RelayProbe, RelayProbeReply

RESEND_AFTER = (0.0, 0.3, 0.8)
"""Seconds: a lost datagram must not be taken for a filter."""
PATIENCE = 1.6
"""Seconds for one call: long enough for two losses and the other side of the world."""
_MTU_DISCOVER = {socket.AF_INET: (socket.IPPROTO_IP, 10), socket.AF_INET6: (socket.IPPROTO_IPV6, 23)}
_PMTUDISC_PROBE = 3  # <linux/in.h>: never fragment, and let each datagram find out anew


class Relay(NamedTuple):
    """One endpoint of a relay, with the key of its MAC1."""

    endpoint: Endpoint
    mac1_key: bytes

    @classmethod
    def of(cls, endpoint: Endpoint, public_key: bytes) -> Relay:
        """From the relay's public key."""
        return cls(endpoint, mac1_key(public_key))

    def at_port(self, port: int) -> Relay:
        """Its other port."""
        return Relay(Endpoint(self.endpoint.host, port), self.mac1_key)


class ProbeSocket:
    """A UDP socket on a port of its own; ``dont_fragment`` measures the path."""

    def __init__(self, family: socket.AddressFamily, *, dont_fragment: bool = False) -> None:
        self.family = family
        self._socket = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        if family == socket.AF_INET6:
            self._socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        if dont_fragment:
            self._socket.setsockopt(*_MTU_DISCOVER[family], _PMTUDISC_PROBE)
        self._socket.bind(("::" if family == socket.AF_INET6 else "0.0.0.0", 0))

    @property
    def port(self) -> int:
        """The local one."""
        return int(self._socket.getsockname()[1])

    def fileno(self) -> int:
        """For select."""
        return self._socket.fileno()

    def __enter__(self) -> ProbeSocket:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def send(self, datagram: bytes, destination: Endpoint) -> int:
        """0, or the errno."""
        try:
            self._socket.sendto(datagram, destination)
        except OSError as error:
            return error.errno or errno.EIO
        return 0

    def receive(self) -> tuple[bytes, Endpoint] | None:
        """What is there; an ICMP answer to something sent before counts as nothing."""
        try:
            datagram, source = self._socket.recvfrom(2048)
        except OSError:
            return None
        return datagram, Endpoint(source[0], source[1])


class Answer(NamedTuple):
    """A reply, from where it came, and after how many seconds."""

    reply: RelayProbeReply
    source: Endpoint
    rtt: float


@dataclass
class Question:
    """A probe, sent by one socket, whose answer is awaited by another or the same.  ``answer`` is filled in."""

    asker: ProbeSocket
    relay: Relay
    other_port: bool = False
    elsewhere: Endpoint | None = None
    ticket: bytes = NO_TICKET
    listener: ProbeSocket | None = None
    length: int = MIN_PROBE_LENGTH
    answer: Answer | None = None
    error: int = 0
    """The errno of the last sending; 0: none."""
    _sent: dict[bytes, float] = field(default_factory=dict)

    def send(self) -> None:
        """Once more, with a nonce of its own."""
        nonce = os.urandom(PROBE_NONCE_LENGTH)
        probe = RelayProbe(nonce, self.other_port, self.elsewhere, self.ticket)
        self._sent[nonce] = time.monotonic()
        datagram = write_probe(probe, self.relay.mac1_key, self.length)
        self.error = self.asker.send(datagram, self.relay.endpoint)

    def take(self, datagram: bytes, source: Endpoint) -> bool:
        """Whether this is the answer; the best of several round trips is kept."""
        with suppress(MalformedError):
            reply = read_probe_reply(datagram, self.relay.mac1_key)
            sent = self._sent.pop(reply.nonce, None)
            if sent is not None:
                rtt = time.monotonic() - sent
                if self.answer is None or rtt < self.answer.rtt:
                    self.answer = Answer(reply, source, rtt)
                return True
        return False


def ask(questions: Sequence[Question], *, patience: float = PATIENCE, every_time: bool = False) -> None:
    """Send, send again what is unanswered, and return when all is answered or ``patience`` seconds are over.

    ``every_time``: send three times even so, for the best round trip.
    """
    started = time.monotonic()
    sendings = list(RESEND_AFTER)
    listeners = list({id(one): one for one in (q.listener or q.asker for q in questions)}.values())
    while True:
        elapsed = time.monotonic() - started
        if sendings and elapsed >= sendings[0]:
            sendings.pop(0)
            for question in questions:
                if every_time or question.answer is None:
                    question.send()
        done = all(question.answer is not None for question in questions) and not (every_time and sendings)
        if elapsed >= patience or done:
            return
        wait = min(sendings[0] if sendings else patience, patience) - elapsed
        for ready in select.select(listeners, [], [], max(0.0, wait))[0]:
            _receive(ready, questions)


def _receive(listener: ProbeSocket, questions: Sequence[Question]) -> None:
    arrival = listener.receive()
    if arrival is None:
        return
    for question in questions:
        if (question.listener or question.asker) is listener and question.take(*arrival):
            return
