"""A relay on real sockets of the loopback interface."""

from __future__ import annotations

import os
import select
import socket
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from cyphonic.errors import OperationalError
from cyphonic.lifecycle import StopSignal
from cyphonic.protocol.binding import Binding
from cyphonic.protocol.keys import KeyPair
from cyphonic.protocol.limits import TOKEN_LIFETIME
from cyphonic.protocol.mac import mac1_key
from cyphonic.protocol.probe import read_probe_reply, write_probe
from cyphonic.protocol.token import seal_token
from cyphonic.relay.bindings import BindingTable
from cyphonic.relay.forwarding import UDP_SEGMENT, RelaySocket, runs
from cyphonic.relay.server import RelayServer
from cyphonic.wire.direction import RelayGrant, Role
from cyphonic.wire.endpoint import Endpoint
from cyphonic.wire.header import encode_relayed
from cyphonic.wire.probe import RelayProbe
from cyphonic.wire.relay import RelayToken

PATIENCE = 5.0
NMS = KeyPair.generate(os.urandom)
RELAY = KeyPair.generate(os.urandom)


class Relay:
    """A relay that turns in a thread, and what an NMS would grant for it."""

    def __init__(self, drain: float = 0.0) -> None:
        self.table = BindingTable(RELAY, NMS.public, os.urandom)
        self.sockets = [
            RelaySocket(Endpoint("0.0.0.0", 0), self.table.drops),
            RelaySocket(Endpoint("::", 0), self.table.drops),
        ]
        others = [RelaySocket(Endpoint("0.0.0.0", 0), self.table.drops)]
        self.server = RelayServer(
            self.table, self.sockets, drain=drain, tick=lambda now: None, other_sockets=others
        )
        self.stop = StopSignal()
        self.stopping = threading.Event()
        self.thread = threading.Thread(target=self.server.run, args=(self.stop, self.stopping.set), daemon=True)

    def endpoint(self, family: int) -> Endpoint:
        [port] = [relay_socket.endpoint.port for relay_socket in self.sockets if relay_socket.family == family]
        return Endpoint("127.0.0.1" if family == socket.AF_INET else "::1", port)


@contextmanager
def running(drain: float = 0.0) -> Iterator[Relay]:
    relay = Relay(drain)
    relay.thread.start()
    try:
        yield relay
    finally:
        relay.stop.request()
        relay.thread.join(PATIENCE)
        relay.server.close()
        assert not relay.thread.is_alive()


class Node:
    """A socket with a binding."""

    def __init__(self, relay: Relay, path_id: bytes, role: Role, family: socket.AddressFamily) -> None:
        self.socket = socket.socket(family, socket.SOCK_DGRAM)
        self.socket.bind(("127.0.0.1" if family == socket.AF_INET else "::1", 0))
        self.socket.settimeout(PATIENCE)
        self.endpoint = relay.endpoint(family)
        bind_key = os.urandom(32)
        token = RelayToken(path_id, role, bind_key, int(time.time()) + TOKEN_LIFETIME, 0)
        sealed = seal_token(token, NMS, RELAY.public, os.urandom)
        grant = RelayGrant(RELAY.public, [self.endpoint.encode()], sealed, bind_key)
        self.binding = Binding(grant, path_id, role, self.endpoint, os.urandom)

    def bind(self) -> None:
        self.binding.start(time.monotonic())
        while not self.binding.bound:
            for datagram, endpoint in self.binding.datagrams_to_send():
                self.socket.sendto(datagram, endpoint)
            answer, source = self.socket.recvfrom(2048)
            self.binding.receive_datagram(answer, Endpoint(*source[:2]), time.monotonic())

    def send(self, payload: bytes) -> None:
        assert self.binding.relay_index is not None
        self.socket.sendto(encode_relayed(self.binding.relay_index) + payload, self.endpoint)

    def send_burst(self, payloads: list[bytes]) -> None:
        """All in one call, cut by the kernel into datagrams of equal size."""
        assert self.binding.relay_index is not None
        header = encode_relayed(self.binding.relay_index)
        size = len(header) + len(payloads[0])
        segment = [(socket.IPPROTO_UDP, UDP_SEGMENT, struct.pack("=H", size))]
        self.socket.sendmsg([b"".join(header + payload for payload in payloads)], segment, 0, self.endpoint)

    def receive(self) -> bytes:
        datagram, source = self.socket.recvfrom(65535)
        assert source[:2] == self.endpoint
        return datagram


@contextmanager
def pair(
    relay: Relay, first: socket.AddressFamily = socket.AF_INET, second: socket.AddressFamily = socket.AF_INET6
) -> Iterator[tuple[Node, Node]]:
    path_id = os.urandom(16)
    initiator, responder = (
        Node(relay, path_id, Role.INITIATOR, first),
        Node(relay, path_id, Role.RESPONDER, second),
    )
    with initiator.socket, responder.socket:
        initiator.bind()
        responder.bind()
        yield initiator, responder


@pytest.mark.parametrize("first", [socket.AF_INET, socket.AF_INET6])
@pytest.mark.parametrize("second", [socket.AF_INET, socket.AF_INET6])
def test_datagrams_cross_unchanged_in_both_directions(
    first: socket.AddressFamily, second: socket.AddressFamily
) -> None:
    with running() as relay, pair(relay, first, second) as (initiator, responder):
        assert initiator.binding.relay_index is not None
        header = encode_relayed(initiator.binding.relay_index)
        initiator.send(b"to the responder")
        assert responder.receive() == header + b"to the responder"
        responder.send(b"and back")
        assert initiator.receive() == header + b"and back"


def test_a_burst_arrives_whole_and_in_order() -> None:
    payloads = [bytes([number]) * 1200 for number in range(40)]
    with running() as relay, pair(relay) as (initiator, responder):
        initiator.send_burst([*payloads, b"the last is shorter"])
        assert [responder.receive()[8:] for _ in range(41)] == [*payloads, b"the last is shorter"]
        assert relay.table.forwarded_datagrams == 41


def test_a_stranger_with_the_index_reaches_nobody() -> None:
    with running() as relay, pair(relay, socket.AF_INET, socket.AF_INET) as (initiator, responder):
        assert initiator.binding.relay_index is not None
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger:
            stranger.sendto(encode_relayed(initiator.binding.relay_index) + b"let me in", initiator.endpoint)
            initiator.send(b"after it")
            assert responder.receive()[8:] == b"after it"
        assert relay.table.drops["not_bound"] == 1


def test_a_drained_relay_serves_who_is_bound_until_its_time_is_over() -> None:
    with running(drain=0.5) as relay, pair(relay) as (initiator, responder):
        relay.stop.request()
        assert relay.stopping.wait(PATIENCE)
        initiator.send(b"still here")
        assert responder.receive()[8:] == b"still here"
        relay.thread.join(PATIENCE)
        assert not relay.thread.is_alive()


def test_a_taken_port_is_named() -> None:
    first = Relay()
    taken = Endpoint("127.0.0.1", first.sockets[0].endpoint.port)
    try:
        with pytest.raises(OperationalError, match=f"{taken} is taken"):
            RelaySocket(taken, first.table.drops)
    finally:
        first.server.close()


def test_a_turn_without_datagrams_ticks() -> None:
    ticks: list[float] = []
    relay = Relay()
    server = RelayServer(relay.table, relay.sockets, drain=0.0, tick=ticks.append)
    with select.epoll() as poller:
        server.turn(poller)
    server.close()
    assert len(ticks) == 1


def test_a_coalesced_read_is_split_where_the_header_changes() -> None:
    one, two = encode_relayed(1), encode_relayed(2)
    read = memoryview(one + b"aa" + one + b"bb" + two + b"cc" + one + b"d")
    assert list(runs(read, 10)) == [(one, 0, 20), (two, 20, 30), (one, 30, 39)]


def test_a_probe_is_answered_from_the_port_that_it_asks_for() -> None:
    with running() as relay, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as node:
        node.bind(("127.0.0.1", 0))
        node.settimeout(PATIENCE)
        main = relay.endpoint(socket.AF_INET)
        for other_port in (False, True):
            node.sendto(write_probe(RelayProbe(os.urandom(16), other_port), mac1_key(RELAY.public)), main)
            datagram, source = node.recvfrom(2048)
            reply = read_probe_reply(datagram, mac1_key(RELAY.public))
            assert reply.observed == node.getsockname()
            assert source == ("127.0.0.1", reply.other_port if other_port else main.port)
        assert reply.other_port not in (0, main.port)
        other = Endpoint("127.0.0.1", reply.other_port)
        node.sendto(write_probe(RelayProbe(os.urandom(16)), mac1_key(RELAY.public)), other)
        assert node.recvfrom(2048)[1] == other
