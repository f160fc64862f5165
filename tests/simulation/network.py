"""A network in virtual time: hosts, NATs of every kind, and everything that can happen to a datagram.

Nothing here waits.  ``Clock.run_until`` performs what is due in order; a seed decides every loss and delay, so a
failing seed fails again.
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum

from cyphonic.wire.endpoint import Endpoint

Receiver = Callable[[bytes, Endpoint, Endpoint], None]
"""``receive(datagram, source, destination)``."""


class Clock:
    """Virtual time and what is to happen in it."""

    def __init__(self, wall: float = 1_800_000_000.0) -> None:
        self.now = 1000.0
        self._wall = wall - self.now
        self._agenda: list[tuple[float, int, Callable[[], None]]] = []
        self._serial = 0

    @property
    def wall(self) -> float:
        """Unix seconds."""
        return self._wall + self.now

    def at(self, when: float, action: Callable[[], None]) -> None:
        """Perform ``action`` then (now, when that is past)."""
        self._serial += 1
        heapq.heappush(self._agenda, (max(when, self.now), self._serial, action))

    def run_until(self, end: float, done: Callable[[], bool] = lambda: False) -> bool:
        """Let time pass; True as soon as ``done()`` holds, False at ``end``."""
        steps = 0
        while self._agenda and self._agenda[0][0] <= end:
            if done():
                return True
            steps += 1
            assert steps < 500_000, "somebody is busy: the simulation makes no progress"
            when, _, action = heapq.heappop(self._agenda)
            self.now = when
            action()
        self.now = end
        return done()


@dataclass
class Faults:
    """Probabilities of what happens to one datagram, and the delay that it has anyway, in seconds."""

    lost: float = 0.0
    duplicated: float = 0.0
    truncated: float = 0.0
    delay: tuple[float, float] = (0.005, 0.03)
    """Drawn for each datagram, so a wide range reorders."""
    straggling: float = 0.0
    """Probability of seconds of delay instead."""


class Filtering(Enum):
    """Whose datagrams a NAT lets in (RFC 4787 §5)."""

    ANYONE = "full-cone"
    ADDRESSES = "address-restricted"
    ENDPOINTS = "port-restricted"


@dataclass
class Nat:
    """A NAPT.  ``symmetric``: a new port for every destination."""

    public: str
    next_port: int = 20000
    filtering: Filtering = Filtering.ENDPOINTS
    symmetric: bool = False
    outward: dict[tuple[Endpoint, Endpoint | None], int] = field(default_factory=dict)
    inward: dict[int, Endpoint] = field(default_factory=dict)
    contacted: set[tuple[int, Endpoint]] = field(default_factory=set)

    def send(self, source: Endpoint, destination: Endpoint) -> Endpoint:
        """The source as the outside sees it."""
        mapping = source, destination if self.symmetric else None
        port = self.outward.get(mapping)
        if port is None:
            port = self.next_port
            self.next_port += 1
            self.outward[mapping] = port
            self.inward[port] = source
        self.contacted.add((port, destination))
        return Endpoint(self.public, port)

    def admit(self, source: Endpoint, port: int) -> Endpoint | None:
        """The host inside that a datagram from outside goes to."""
        if self.filtering is Filtering.ENDPOINTS and (port, source) not in self.contacted:
            return None
        if self.filtering is Filtering.ADDRESSES and (port, source.host) not in {
            (known, endpoint.host) for known, endpoint in self.contacted
        }:
            return None
        return self.inward.get(port)

    def forget(self) -> None:
        """As after a restart, or a flush of its table."""
        self.outward.clear()
        self.inward.clear()
        self.contacted.clear()


class Network:
    """Who has which address, and the way between them."""

    def __init__(self, clock: Clock, seed: int, faults: Faults | None = None) -> None:
        self.clock = clock
        self.chance = random.Random(seed)
        self.faults = faults or Faults()
        self.partition: Callable[[Endpoint, Endpoint], bool] = lambda source, destination: False
        self.delivered = 0
        self.log: list[tuple[bytes, Endpoint, Endpoint]] = []
        self.tap: Receiver = lambda datagram, source, destination: None
        """Sees every datagram just before its receiver does."""
        self._hosts: dict[str, Receiver] = {}
        self._behind: dict[str, Nat] = {}
        self._nats: dict[str, Nat] = {}

    def attach(self, address: str, receive: Receiver, nat: Nat | None = None) -> None:
        """A host with this address, behind ``nat`` when given."""
        self._hosts[address] = receive
        if nat is not None:
            self._behind[address] = nat
            self._nats[nat.public] = nat

    def renumber(self, nat: Nat, public: str) -> None:
        """The NAT is restarted with another public address, and no host behind it is told."""
        del self._nats[nat.public]
        nat.forget()
        nat.public = public
        self._nats[public] = nat

    def detach(self, address: str) -> None:
        """The host is gone from here."""
        self._hosts.pop(address, None)
        self._behind.pop(address, None)

    def send(self, datagram: bytes, source: Endpoint, destination: Endpoint) -> None:
        """Put a datagram on the way."""
        if source.host not in self._hosts or source.family != destination.family:
            return
        nat = self._behind.get(source.host)
        if nat is not None and self._behind.get(destination.host) is not nat:
            source = nat.send(source, destination)
        faults, chance = self.faults, self.chance
        for _ in range(2 if chance.random() < faults.duplicated else 1):
            if chance.random() < faults.lost:
                continue
            copy = datagram
            if chance.random() < faults.truncated:
                copy = datagram[: chance.randrange(len(datagram))]
            delay = chance.uniform(*faults.delay)
            if chance.random() < faults.straggling:
                delay += chance.uniform(1.0, 5.0)
            self.clock.at(self.clock.now + delay, lambda copy=copy: self._arrive(copy, source, destination))  # type: ignore[misc]

    def _arrive(self, datagram: bytes, source: Endpoint, destination: Endpoint) -> None:
        if self.partition(source, destination):
            return
        nat = self._nats.get(destination.host)
        if nat is not None:
            inside = nat.admit(source, destination.port)
            if inside is None:
                return
            destination = inside
        elif (
            destination.host in self._behind and self._behind.get(source.host) is not self._behind[destination.host]
        ):
            return  # a private address, from outside
        receive = self._hosts.get(destination.host)
        if receive is not None:
            self.delivered += 1
            self.log.append((datagram, source, destination))
            self.tap(datagram, source, destination)
            receive(datagram, source, destination)
