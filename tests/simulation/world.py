"""A whole cyphonic in virtual time: real nodes, real handlers, real relay, a real Redis; no socket and no clock.

What is left out is only what moves bytes: UDP, ZeroMQ, TUN.  Datagrams meet the faults of ``Network``; jobs meet
workers that may die between saving and sending; Redis may forget its scripts at any time.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from socket import AF_INET, AF_INET6, AddressFamily

from cyphonic.protocol.client import Cloud, Event, Identity, SignalingClient
from cyphonic.protocol.keys import KeyPair
from cyphonic.protocol.overlay import LookedUp, Overlay
from cyphonic.protocol.session import supported_suites
from cyphonic.relay.bindings import BindingTable, Way
from cyphonic.relay.probes import ProbeResponder
from cyphonic.wire.endpoint import Endpoint
from cyphonic.wire.header import RELAYED_HEADER_LENGTH, MessageType
from tests.simulation.network import Clock, Nat, Network

NODE_PORT = 5000


class Chance:
    """Seeded randomness."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)

    def __call__(self, length: int) -> bytes:
        return self.random.randbytes(length)


class SimulatedNode:
    """A node's core on virtual hosts, one address a family."""

    def __init__(
        self,
        world_clock: Clock,
        network: Network,
        name: str,
        hosts: list[str],
        cloud: Cloud,
        chance: Chance,
        nat: Nat | None = None,
        identity: Identity | None = None,
    ) -> None:
        self.clock = world_clock
        self.network = network
        self.name = name
        self.hosts = hosts
        self.nat = nat
        self.identity = identity or Identity(KeyPair.generate(chance), name)
        suites = supported_suites(True)
        self.client = SignalingClient(
            self.identity, cloud, chance, suites=suites, software="simulated", measures_relays=True
        )
        self.overlay = Overlay(self.identity.static, self.client, chance, suites)
        self.events: list[Event | LookedUp] = []
        self.packets: list[bytes] = []
        self.on_packet: Callable[[bytes], None] = self.packets.append
        self.stopped = False
        self._wake = float("inf")
        for host in hosts:
            network.attach(host, self._receive, nat)

    def start(self, enrolment_key: bytes = b"") -> None:
        self._set_underlay()
        self.overlay.log_in(self.clock.now, self.clock.wall, enrolment_key)
        self._after()

    def move(self, hosts: list[str], nat: Nat | None = None) -> None:
        """Leave the old addresses for new ones."""
        for host in self.hosts:
            self.network.detach(host)
        self.hosts, self.nat = hosts, nat
        for host in hosts:
            self.network.attach(host, self._receive, nat)
        self._set_underlay()
        self._after()

    def stop(self) -> None:
        """As by kill -9."""
        self.stopped = True
        for host in self.hosts:
            self.network.detach(host)

    def look_up(self, fqdn: str) -> LookedUp | None:
        answer = self.overlay.look_up(fqdn, self.clock.now)
        self._after()
        return answer

    def send_packet(self, packet: bytes) -> None:
        self.overlay.receive_packet(packet, self.clock.now)
        self._after()

    def _set_underlay(self) -> None:
        families = frozenset(AddressFamily(AF_INET6 if ":" in host else AF_INET) for host in self.hosts)
        candidates = [Endpoint(host, NODE_PORT) for host in self.hosts]
        self.overlay.set_underlay(families, candidates, self.clock.now)

    def _receive(self, datagram: bytes, source: Endpoint, _: Endpoint) -> None:
        if not self.stopped:
            self.overlay.receive_datagram(datagram, source, self.clock.now, self.clock.wall)
            self._after()

    def _timeout(self) -> None:
        if not self.stopped and self._wake <= self.clock.now:
            self._wake = float("inf")
            self.overlay.handle_timeout(self.clock.now, self.clock.wall)
            self._after()

    def _after(self) -> None:
        outbox = self.overlay.outbox
        datagrams, outbox.datagrams = outbox.datagrams, []
        packets, outbox.packets = outbox.packets, []
        for packet in packets:
            self.on_packet(packet)
        self.events += self.overlay.events()
        for datagram, destination in datagrams:
            for host in self.hosts:
                if (":" in host) == (":" in destination.host):
                    self.network.send(datagram, Endpoint(host, NODE_PORT), destination)
        deadline = self.overlay.next_deadline()
        if deadline < self._wake or (deadline > self._wake and deadline != float("inf")):
            self._wake = deadline
            self.clock.at(deadline, self._timeout)


class SimulatedRelay:
    """A relay's binding table on virtual hosts."""

    def __init__(self, clock: Clock, network: Network, hosts: list[str], nms_public: bytes, chance: Chance) -> None:
        self.clock = clock
        self.network = network
        self.endpoints = [Endpoint(host, 4502) for host in hosts]
        self.key = KeyPair.generate(chance)
        self.table = BindingTable(self.key, nms_public, chance)
        self.probes = ProbeResponder(self.key, chance, self.table.drops)
        for host in hosts:
            network.attach(host, self._receive)

    def _receive(self, datagram: bytes, source: Endpoint, destination: Endpoint) -> None:
        now = self.clock.now
        if datagram and datagram[0] == MessageType.RELAYED:
            header = datagram[:RELAYED_HEADER_LENGTH]
            way = self.table.forward(header, (source.host, source.port), len(datagram), 1, now)
            if way is not None:
                self.network.send(datagram, Endpoint(way.local, 4502), way.remote)
            return
        if datagram and datagram[0] == MessageType.RELAY_PROBE:
            reply = self.probes.receive(datagram, Way(source, destination.host), now, self.clock.wall)
            if reply is not None:
                self.network.send(reply.datagram, destination, reply.way.remote)
            return
        answer = self.table.receive(datagram, Way(source, destination.host), now, self.clock.wall)
        if answer is not None:
            self.network.send(answer, destination, source)
