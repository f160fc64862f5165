"""Signaling clients on real UDP sockets, under one clock that stands still while nobody drives them.

So however long it takes to start a process, no client gives up meanwhile; and none is waited for, because the clock
can jump to the next thing that is due.
"""

from __future__ import annotations

import os
import selectors
import socket
import time
from collections import Counter
from collections.abc import Callable
from socket import AF_INET
from typing import TypeVar

from cyphonic.protocol.client import (
    ClientState,
    Cloud,
    Directed,
    Event,
    Identity,
    SignalingClient,
)
from cyphonic.protocol.common_key import CommonKey
from cyphonic.protocol.keys import KeyPair
from cyphonic.wire.endpoint import Endpoint
from cyphonic.wire.header import MessageType
from tests.live_cloud import PATIENCE

EventT = TypeVar("EventT", bound=Event)

PULSE = 0.02
"""Seconds: the longest pause between two looks."""


class UdpNode:
    """A client with a socket of its own; everything that happens to it is kept."""

    def __init__(self, name: str, cloud: Cloud, static: KeyPair | None = None) -> None:
        self.name = name
        self.static = static or KeyPair.generate(os.urandom)
        self.client = SignalingClient(Identity(self.static, name), cloud, os.urandom)
        self.socket = socket.socket(AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        self.socket.bind(("127.0.0.1", 0))
        self.happened: list[Event] = []
        self.sent: Counter[int] = Counter()
        """Datagrams by message type."""
        self.heard: Counter[int] = Counter()
        self.datagrams: list[bytes] = []
        """All of both ways."""
        self.holds_back: MessageType | None = None
        self.held: list[tuple[bytes, Endpoint]] = []

    @property
    def endpoint(self) -> Endpoint:
        return Endpoint(*self.socket.getsockname())

    @property
    def common_key(self) -> CommonKey:
        """The one in use."""
        key = self.client._ring.current
        assert key is not None
        return key

    @property
    def registered(self) -> bool:
        return self.client.state is ClientState.REGISTERED

    def events(self, kind: type[EventT]) -> list[EventT]:
        return [event for event in self.happened if isinstance(event, kind)]

    @property
    def directed(self) -> Directed:
        """The one path that there is."""
        (event,) = self.events(Directed)
        return event

    def send(self, datagram: bytes, endpoint: Endpoint) -> None:
        self.sent[datagram[0]] += 1
        self.datagrams.append(datagram)
        self.socket.sendto(datagram, endpoint)

    def release(self) -> None:
        """Send what was held back."""
        self.holds_back = None
        for datagram, endpoint in self.held:
            self.send(datagram, endpoint)
        self.held.clear()

    def flush(self) -> None:
        for datagram, endpoint in self.client.datagrams_to_send():
            if datagram[0] == self.holds_back:
                self.held.append((datagram, endpoint))
            else:
                self.send(datagram, endpoint)
        self.happened += self.client.events()

    def receive(self, now: float) -> None:
        try:
            while True:
                datagram, source = self.socket.recvfrom(2048)
                self.heard[datagram[0]] += 1
                self.datagrams.append(datagram)
                self.client.receive_datagram(datagram, Endpoint(*source), now, time.time())
        except BlockingIOError:
            return


class UdpNodes:
    """All nodes of a test.  ``with`` closes their sockets."""

    def __init__(self, cloud: Cloud) -> None:
        self._cloud = cloud
        self._nodes: list[UdpNode] = []
        self._selector = selectors.DefaultSelector()
        self.now = 1000.0

    def __enter__(self) -> UdpNodes:
        return self

    def __exit__(self, *_: object) -> None:
        self._selector.close()
        for node in self._nodes:
            node.socket.close()

    def add(self, name: str, static: KeyPair | None = None) -> UdpNode:
        """A node that has done nothing yet."""
        node = UdpNode(name, self._cloud, static)
        self._selector.register(node.socket, selectors.EVENT_READ, node)
        self._nodes.append(node)
        node.client.set_underlay({AF_INET}, [node.endpoint], self.now)
        return node

    def login(self, node: UdpNode, enrolment_key: bytes = b"") -> None:
        node.client.login(self.now, time.time(), enrolment_key)

    def direct(self, node: UdpNode, peer: UdpNode) -> bytes:
        """Ask for a path to ``peer`` by name; the transaction ID."""
        return node.client.direction(f"{peer.name}.home.cyphonic.internal", now=self.now)

    def join(self, enrolment_key: bytes, *names: str) -> list[UdpNode]:
        """Nodes that are logged in and registered."""
        nodes = [self.add(name) for name in names]
        for node in nodes:
            self.login(node, enrolment_key)
        self.until(lambda: all(node.registered for node in nodes), "nodes that are registered")
        return nodes

    def hurry(self) -> None:
        """Let the time come when a client next has something to do: to send again, where it waits for an answer."""
        due = [deadline for node in self._nodes if (deadline := node.client.next_deadline()) is not None]
        self.now = max(self.now, min(due, default=self.now))

    def turn(self) -> None:
        """Send, wait a moment for datagrams, take them, see what is due."""
        before = time.monotonic()
        for node in self._nodes:
            node.client.handle_timeout(self.now, time.time())
            node.flush()
        ready = self._selector.select(PULSE)
        self.now += time.monotonic() - before
        for key, _ in ready:
            key.data.receive(self.now)
            key.data.flush()

    def until(self, done: Callable[[], object], what: str) -> None:
        """Drive all nodes, with a deadline."""
        deadline = time.monotonic() + PATIENCE
        while not done():
            assert time.monotonic() < deadline, f"did not happen: {what}"
            self.turn()
