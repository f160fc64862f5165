"""A cloud made of protocol functions, a lossy network and virtual time, for tests of the signaling client.

It keeps the rules of the real one: transactions are saved, duplicates answered from what was saved, a lease moves
only for a greater counter, a common key counts from its first use.
"""

from __future__ import annotations

import heapq
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from socket import AF_INET, AF_INET6, AddressFamily

from cyphonic.errors import DropError
from cyphonic.protocol.certificate import sign_certificate
from cyphonic.protocol.client import Cloud, Event, Identity, SignalingClient
from cyphonic.protocol.keys import KeyPair, SigningKeyPair
from cyphonic.protocol.login import read_login_request, write_login_response
from cyphonic.protocol.mac import check_mac1, mac1_key, strip_macs
from cyphonic.protocol.signaling import open_signaling, seal_signaling
from cyphonic.wire.certificate import Certificate
from cyphonic.wire.codec import Body, decode
from cyphonic.wire.direction import (
    DirectionRefused,
    DirectionRequest,
    FirstPath,
    RefusalReason,
    Role,
    RouteDirection,
    RouteDirectionConfirmation,
)
from cyphonic.wire.endpoint import Endpoint
from cyphonic.wire.header import MessageType, SignalingHeader
from cyphonic.wire.hint import encode_hint
from cyphonic.wire.login import LoginOutcome, LoginResponse
from cyphonic.wire.registration import (
    KeepAlive,
    KeepAliveAck,
    Leave,
    RegistrationRequest,
    RegistrationResponse,
)
from cyphonic.wire.revocation import PathRevocation, PathRevocationAck

EPOCH = 1_800_000_000.0
"""Wall time at virtual time 0."""
NO_ENDPOINT = Endpoint("0.0.0.0", 1)

AS_ENDPOINTS = (Endpoint("192.0.2.1", 7000), Endpoint("2001:db8::1", 7000), Endpoint("192.0.2.2", 7000))
NMS_ENDPOINTS = (
    Endpoint("192.0.2.1", 7001),
    Endpoint("192.0.2.2", 7001),
    Endpoint("2001:db8::1", 7001),
    Endpoint("2001:db8::2", 7001),
)

Datagram = tuple[bytes, Endpoint, Endpoint]
"""Bytes, from, to."""


@dataclass
class Member:
    """What the cloud knows of a node."""

    static_key: bytes
    name: str
    node_id: bytes
    ipv6: bytes
    ipv4: bytes
    generation: int = 1
    keys: dict[int, bytes] = field(default_factory=dict)
    current: int = 0
    """Number of the last key that the node used."""
    issued: int = 0
    """Number of the last key that the AS gave."""
    stamp: int = 0
    certificate: bytes = b""
    leases: dict[AddressFamily, tuple[Endpoint, Endpoint, tuple[int, int]]] = field(default_factory=dict)
    """Observed endpoint, frontend, key number and counter."""

    @property
    def fqdn(self) -> str:
        return f"{self.name}.home.example"


@dataclass(frozen=True)
class Arrival:
    """A sealed datagram, opened."""

    member: Member
    header: SignalingHeader
    plaintext: bytes
    source: Endpoint
    at: Endpoint
    time: int


@dataclass
class Pending:
    """A transaction between two members."""

    initiator: Member
    responder: Member
    transaction_id: bytes
    handle: bytes
    path_id: bytes
    path_key: bytes
    done: bool = False
    frontend: Endpoint = NO_ENDPOINT
    source: Endpoint = NO_ENDPOINT


class FakeCloud:
    """AS and NMS in one, answering at once."""

    def __init__(self, rng: random.Random) -> None:
        self.chance = rng.randbytes
        self.as_key = KeyPair.generate(self.chance)
        self.signing = SigningKeyPair.generate(self.chance)
        self.nms_key = KeyPair.generate(self.chance)
        self.members: dict[bytes, Member] = {}
        self.by_node_id: dict[bytes, Member] = {}
        self.logins: dict[tuple[bytes, bytes], LoginResponse] = {}
        self.pending: dict[tuple[bytes, bytes], Pending] = {}
        self.handles: dict[bytes, Pending] = {}
        self.received: Counter[MessageType] = Counter()
        self.asked_at: Counter[Endpoint] = Counter()
        self.drops: Counter[str] = Counter()
        self.down: set[Endpoint] = set()
        self.acks: list[bytes] = []
        self.confirmed: Counter[bytes] = Counter()
        self.outcome = LoginOutcome.ACCEPTED
        self.key_lifetime = 24 * 3600
        self.clock_lead = 0.0
        self.hints = True
        self.policy: RefusalReason | None = None
        self.nms_endpoints: tuple[Endpoint, ...] = NMS_ENDPOINTS
        self._as_mac1, self._nms_mac1 = mac1_key(self.as_key.public), mac1_key(self.nms_key.public)

    @property
    def bundle(self) -> Cloud:
        return Cloud(self.as_key.public, self.signing.public, AS_ENDPOINTS, "home", "example")

    def receive(self, datagram: bytes, source: Endpoint, at: Endpoint, wall: float) -> list[Datagram]:
        """What a frontend and a worker do."""
        if at in self.down:
            return []
        try:
            check_mac1(datagram, self._as_mac1 if at in AS_ENDPOINTS else self._nms_mac1)
            datagram = strip_macs(datagram)
            header = SignalingHeader.decode(datagram)
            self.received[header.type] += 1
            self.asked_at[at] += 1
            if header.type == MessageType.LOGIN_REQUEST:
                return [(self._login(datagram, wall), at, source)]
            return self._receive_sealed(datagram, header, source, at, wall)
        except DropError as drop:
            self.drops[drop.reason] += 1
            return []

    def revoke(self, member: Member, informed: Member, transaction_id: bytes) -> list[Datagram]:
        """A PathRevocation to ``informed``, over each lease."""
        body = PathRevocation(member.node_id, member.generation)
        return [
            (self._seal(MessageType.PATH_REVOCATION, transaction_id, body, informed), frontend, observed)
            for observed, frontend, _ in informed.leases.values()
        ]

    def forget_keys(self) -> None:
        """The registry is gone but for the names."""
        for member in self.members.values():
            member.keys.clear()
            member.current = 0
            member.leases.clear()

    def _login(self, datagram: bytes, wall: float) -> bytes:
        attempt = read_login_request(datagram, self.as_key)
        key = (attempt.static_key, attempt.header.transaction_id)
        response = self.logins.get(key)
        if response is None:
            member = self._member(attempt.static_key, attempt.body.name)
            if attempt.body.stamp <= member.stamp:
                raise DropError("stale_stamp")
            member.stamp = attempt.body.stamp
            response = self.logins[key] = self._admit(member, wall)
        return write_login_response(attempt, response, self.chance)

    def _member(self, static_key: bytes, name: str) -> Member:
        member = self.members.get(static_key)
        if member is None:
            number = len(self.members) + 1
            node_id = self.chance(16)
            member = Member(
                static_key, name, node_id, b"\xfd" + bytes(14) + bytes([number]), bytes([10, 77, 0, number])
            )
            self.members[static_key] = self.by_node_id[node_id] = member
        return member

    def _admit(self, member: Member, wall: float) -> LoginResponse:
        if self.outcome != LoginOutcome.ACCEPTED:
            return LoginResponse(self.outcome)
        member.issued += 1
        number = member.issued
        member.keys[number] = self.chance(32)
        member.certificate = sign_certificate(
            Certificate(
                member.fqdn,
                member.node_id,
                member.static_key,
                member.ipv6,
                member.ipv4,
                [],
                int(wall) + 24 * 3600,
                member.generation,
            ),
            self.signing,
        )
        return LoginResponse(
            LoginOutcome.ACCEPTED,
            member.keys[number],
            number,
            self.key_lifetime,
            member.certificate,
            self.nms_key.public,
            [endpoint.encode() for endpoint in AS_ENDPOINTS],
            [endpoint.encode() for endpoint in self.nms_endpoints],
            "fd00::/48",
            "10.77.0.0/16",
            int(wall * 1000),
        )

    def _seal(self, kind: MessageType, transaction_id: bytes, body: Body, member: Member) -> bytes:
        number = member.current
        if number not in member.keys:
            raise DropError("no_key")
        header = SignalingHeader(kind, number, member.node_id, transaction_id)
        return seal_signaling(header, body, member.keys[number], self.chance)

    def _receive_sealed(
        self, datagram: bytes, header: SignalingHeader, source: Endpoint, at: Endpoint, wall: float
    ) -> list[Datagram]:
        member = self.by_node_id.get(header.node_id)
        if member is None or header.key_number not in member.keys:
            return [(encode_hint(MessageType.KEY_UNKNOWN, header), at, source)] if self.hints else []
        plaintext = open_signaling(datagram, header, member.keys[header.key_number])
        member.current = max(member.current, header.key_number)
        time = int((wall + self.clock_lead) * 1000)
        handler = getattr(self, f"_on_{header.type.name.lower()}")
        answers: list[Datagram] = handler(Arrival(member, header, plaintext, source, at, time))
        return answers

    def _answer(self, arrival: Arrival, kind: MessageType, body: Body) -> list[Datagram]:
        data = self._seal(kind, arrival.header.transaction_id, body, arrival.member)
        return [(data, arrival.at, arrival.source)]

    def _on_registration_request(self, arrival: Arrival) -> list[Datagram]:
        body = decode(arrival.plaintext, RegistrationRequest)
        lease = arrival.member.leases.get(arrival.source.family)
        counter = (arrival.header.key_number, body.counter)
        if lease is None or counter > lease[2]:
            arrival.member.leases[arrival.source.family] = (arrival.source, arrival.at, counter)
        arrival.member.certificate = body.certificate
        answer = RegistrationResponse(
            arrival.source.encode(),
            arrival.member.ipv6,
            arrival.member.ipv4,
            20,
            75,
            arrival.time,
            [endpoint.encode() for endpoint in self.nms_endpoints],
        )
        return self._answer(arrival, MessageType.REGISTRATION_RESPONSE, answer)

    def _on_keep_alive(self, arrival: Arrival) -> list[Datagram]:
        body = decode(arrival.plaintext, KeepAlive)
        lease = arrival.member.leases.get(arrival.source.family)
        counter = (arrival.header.key_number, body.counter)
        if lease is not None and counter < lease[2]:
            return []
        if lease is not None:
            arrival.member.leases[arrival.source.family] = (arrival.source, arrival.at, counter)
        answer = KeepAliveAck(arrival.source.encode(), lease is not None, arrival.time)
        return self._answer(arrival, MessageType.KEEP_ALIVE_ACK, answer)

    def _on_leave(self, arrival: Arrival) -> list[Datagram]:
        decode(arrival.plaintext, Leave)
        arrival.member.leases.clear()
        return []

    def _on_path_revocation_ack(self, arrival: Arrival) -> list[Datagram]:
        decode(arrival.plaintext, PathRevocationAck)
        self.acks.append(arrival.header.transaction_id)
        return []

    def _on_direction_request(self, arrival: Arrival) -> list[Datagram]:
        body = decode(arrival.plaintext, DirectionRequest)
        key = (arrival.member.node_id, arrival.header.transaction_id)
        pending = self.pending.get(key)
        if pending is None:
            peer = next(
                (m for m in self.members.values() if body.fqdn == m.fqdn or body.address in (m.ipv6, m.ipv4)), None
            )
            refusal = self._refusal(body, peer, arrival.time)
            if peer is None or refusal is not None:
                refused = refusal or DirectionRefused(RefusalReason.UNKNOWN_NAME, time=arrival.time)
                return self._answer(arrival, MessageType.DIRECTION_REFUSED, refused)
            handle, path_id, path_key = self.chance(16), self.chance(16), self.chance(32)
            pending = Pending(arrival.member, peer, arrival.header.transaction_id, handle, path_id, path_key)
            self.pending[key] = self.handles[pending.handle] = pending
        pending.frontend, pending.source = arrival.at, arrival.source
        return self.direct(pending, Role.INITIATOR if pending.done else Role.RESPONDER, arrival.time)

    def _refusal(self, body: DirectionRequest, peer: Member | None, time: int) -> DirectionRefused | None:
        if not time - 20_000 <= body.time <= time + 10_000:
            return DirectionRefused(RefusalReason.STALE, time=time)
        if peer is not None and self.policy is not None:
            return DirectionRefused(self.policy, time=time)
        if peer is not None and not peer.leases:
            return DirectionRefused(RefusalReason.OFFLINE, peer.fqdn, peer.ipv6, peer.ipv4, time)
        return None

    def direct(self, pending: Pending, role: Role, time: int) -> list[Datagram]:
        """RouteDirection to one of the two ends."""
        here, peer = pending.initiator, pending.responder
        if role == Role.RESPONDER:
            here, peer = peer, here
        body = RouteDirection(
            pending.handle if role == Role.RESPONDER else bytes(16),
            pending.path_id,
            role,
            FirstPath.DIRECT,
            peer.certificate,
            [lease[0].encode() for lease in peer.leases.values()],
            pending.path_key,
            3600,
            [],
            time,
        )
        if role == Role.INITIATOR:
            data = self._seal(MessageType.ROUTE_DIRECTION, pending.transaction_id, body, here)
            return [(data, pending.frontend, pending.source)]
        data = self._seal(MessageType.ROUTE_DIRECTION, pending.handle, body, here)
        observed, frontend, _ = next(iter(here.leases.values()), (NO_ENDPOINT, NO_ENDPOINT, (0, 0)))
        return [(data, frontend, observed)]

    def _on_route_direction_confirmation(self, arrival: Arrival) -> list[Datagram]:
        body = decode(arrival.plaintext, RouteDirectionConfirmation)
        pending = self.handles.get(body.handle)
        if (
            pending is None
            or pending.responder is not arrival.member
            or arrival.header.transaction_id != body.handle
        ):
            raise DropError("unknown_handle")
        pending.done = True
        self.confirmed[body.handle] += 1
        return self.direct(pending, Role.INITIATOR, arrival.time)


@dataclass
class Weather:
    """What the network does to a datagram: probabilities, and the longest delay in seconds."""

    loss: float = 0.0
    duplication: float = 0.0
    garbage: float = 0.0
    delay: float = 0.05


class Node:
    """A client with its underlay addresses."""

    def __init__(self, world: World, name: str, families: set[AddressFamily]) -> None:
        number = len(world.nodes) + 1
        self.name = name
        self.families = families
        self.endpoints = {
            AF_INET: Endpoint(f"198.51.100.{number}", 5000),
            AF_INET6: Endpoint(f"2001:db8:1::{number}", 5000),
        }
        self.static = KeyPair.generate(world.rng.randbytes)
        self.client = SignalingClient(Identity(self.static, name), world.cloud.bundle, world.rng.randbytes)
        self.events: list[Event] = []
        self.runs = 0

    def seen(self, kind: type[Event]) -> list[Event]:
        return [event for event in self.events if type(event) is kind]


class World:
    """Virtual time: nodes, the cloud, and the weather between them."""

    def __init__(self, seed: int, weather: Weather | None = None) -> None:
        self.rng = random.Random(seed)
        self.weather = weather or Weather()
        self.cloud = FakeCloud(self.rng)
        self.now = 1000.0
        self.nodes: dict[str, Node] = {}
        self.sent: list[tuple[float, bytes, Endpoint]] = []
        self._queue: list[tuple[float, int, Callable[[], None]]] = []
        self._count = 0

    @property
    def wall(self) -> float:
        return EPOCH + self.now

    def add(self, name: str, families: set[AddressFamily] | None = None, *, login: bool = True) -> Node:
        node = Node(self, name, families or {AF_INET})
        self.nodes[name] = node
        node.client.set_underlay(node.families, [node.endpoints[f] for f in node.families], self.now)
        if login:
            node.client.login(self.now, self.wall, b"enrolment")
        self.collect(node)
        return node

    def collect(self, node: Node) -> None:
        """Do what a driver does after each call."""
        for datagram, endpoint in node.client.datagrams_to_send():
            assert len(datagram) <= 1200
            self.sent.append((self.now, datagram, endpoint))
            source = node.endpoints[AF_INET6 if endpoint.family == AF_INET6 else AF_INET]
            if source.family in node.families:
                self.carry(datagram, source, endpoint)
        node.events.extend(node.client.events())

    def carry(self, datagram: bytes, source: Endpoint, destination: Endpoint) -> None:
        """Lose, repeat, spoil and delay."""
        rng, weather = self.rng, self.weather
        for _ in range(2 if rng.random() < weather.duplication else 1):
            if rng.random() < weather.loss:
                continue
            data = datagram
            if rng.random() < weather.garbage:
                spoilt = bytearray(datagram)
                spoilt[rng.randrange(len(spoilt))] ^= 1 << rng.randrange(8)
                data = rng.choice([bytes(spoilt), datagram[: rng.randrange(len(datagram))], rng.randbytes(90)])
            delay = rng.random() * weather.delay
            self.at(self.now + delay, lambda data=data: self._arrive(data, source, destination))  # type: ignore[misc]

    def at(self, time: float, action: Callable[[], None]) -> None:
        self._count += 1
        heapq.heappush(self._queue, (time, self._count, action))

    def _arrive(self, datagram: bytes, source: Endpoint, destination: Endpoint) -> None:
        for node in self.nodes.values():
            if destination in node.endpoints.values():
                if destination.family in node.families:
                    node.client.receive_datagram(datagram, source, self.now, self.wall)
                    self.collect(node)
                return
        for answer in self.cloud.receive(datagram, source, destination, self.wall):
            self.carry(*answer)

    def run(self, seconds: float, until: Callable[[], bool] = lambda: False) -> bool:
        """Let time pass; whether ``until`` came true."""
        end = self.now + seconds
        while not until():
            deadlines = [
                (d, node) for node in self.nodes.values() if (d := node.client.next_deadline()) is not None
            ]
            deadline, node = min(deadlines, key=lambda each: each[0], default=(end + 1, None))
            event = self._queue[0][0] if self._queue else end + 1
            if min(deadline, event) > end:
                self.now = end
                return until()
            self.now = max(self.now, min(deadline, event))
            if node is not None and deadline <= event:
                node.client.handle_timeout(self.now, self.wall)
                node.runs += 1
                following = node.client.next_deadline()
                assert following is None or following > self.now, "the client is busy"
                self.collect(node)
            else:
                heapq.heappop(self._queue)[2]()
        return True
