"""A region for tests: its keys, dispatchers over a real Redis, and nodes that speak the wire by hand.

Time and chance are the test's.  What a dispatcher forwards goes to the next dispatcher in turn, so that no
transaction is ever finished by the worker that began it.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import msgspec

from cyphonic.protocol.certificate import read_certificate
from cyphonic.protocol.keys import KeyPair, SigningKeyPair
from cyphonic.protocol.login import LoginInitiator
from cyphonic.protocol.mac import strip_macs
from cyphonic.protocol.signaling import open_signaling, seal_signaling
from cyphonic.site import Site
from cyphonic.state.fleet import Fleet, FrontendMember, RelayMember
from cyphonic.state.registry import create_enrolment_key
from cyphonic.state.store import Store
from cyphonic.wire.certificate import Certificate
from cyphonic.wire.codec import Body, decode
from cyphonic.wire.direction import DirectionRequest, RouteDirection, RouteDirectionConfirmation
from cyphonic.wire.endpoint import Endpoint
from cyphonic.wire.header import MessageType, SignalingHeader
from cyphonic.wire.job import Job, Origin, Route, Send, Service
from cyphonic.wire.login import LoginOutcome, LoginRequest, LoginResponse
from cyphonic.wire.registration import (
    KeepAlive,
    KeepAliveAck,
    MeasuredRegistration,
    RegistrationRequest,
    RegistrationResponse,
    RelayRoundTrip,
)
from cyphonic.workers.dispatch import Dispatcher, Outcome
from cyphonic.workers.setting import ServiceKeys

BodyT = TypeVar("BodyT", bound=Body)

AS_ENDPOINT = Endpoint("192.0.2.1", 5350)
NMS_ENDPOINT = Endpoint("192.0.2.1", 5351)
NMS_ENDPOINT_6 = Endpoint("2001:db8::1", 5351)
NOWHERE = Route("", 0, "", 0)


def make_site(**changes: object) -> Site:
    """A site that lives nowhere."""
    values: dict[str, object] = {
        "region": "home",
        "domain": "cyphonic.internal",
        "prefix_ipv6": "fd12:3456:789a::/48",
        "pool_ipv4": "10.77.0.0/16",
        "keys_dir": Path("/nowhere"),
        "run_dir": Path("/nowhere"),
        "state_dir": Path("/nowhere"),
        "allow_loopback": False,
        "redis_url": "",
        "redis_password_file": None,
    }
    return Site(**(values | changes))  # type: ignore[arg-type]  # the test names the fields


class Region:
    """Dispatchers that take turns, one Redis, one wall clock that only the test moves."""

    def __init__(self, store: Store, site: Site | None = None, workers: int = 2) -> None:
        self.store = store
        self.site = site or make_site()
        self.wall = 1_700_000_000.0
        self.as_key = KeyPair.generate(os.urandom)
        self.as_signing = SigningKeyPair.generate(os.urandom)
        self.nms_key = KeyPair.generate(os.urandom)
        self.relay_key = KeyPair.generate(os.urandom)
        self.keys = ServiceKeys(
            os.urandom(32),
            self.as_key.public,
            self.as_signing.public,
            self.nms_key.public,
            self.as_key,
            self.as_signing,
            self.nms_key,
        )
        both = [NMS_ENDPOINT, NMS_ENDPOINT_6]
        relay = RelayMember(
            "r1", self.relay_key.public, [Endpoint("192.0.2.9", 5352), Endpoint("2001:db8::9", 5352)]
        )
        frontend = FrontendMember("f1", "", b"", [AS_ENDPOINT], both, [AS_ENDPOINT, *both])
        self.fleet = Fleet([frontend], [], [relay])
        self.workers = [self.dispatcher() for _ in range(workers)]
        self.drops: Counter[str] = Counter()
        self._turn = 0

    def dispatcher(self, services: Sequence[Service] = (Service.AS, Service.NMS)) -> Dispatcher:
        """One more worker."""
        return Dispatcher(services, self.keys, self.site, os.urandom)

    def handle(self, jobs: Sequence[Job]) -> Outcome:
        """One batch at the next worker."""
        self._turn += 1
        worker = self.workers[self._turn % len(self.workers)]
        outcome = worker.handle(jobs, self.store, self.wall, self.fleet)
        self.drops.update(outcome.drops)
        return outcome

    def run(self, *jobs: Job) -> list[Send]:
        """Batches until nothing is forwarded any more; everything that is to be sent."""
        sends: list[Send] = []
        waiting = list(jobs)
        while waiting:
            outcome = self.handle(waiting)
            sends += outcome.sends
            waiting = [internal(job) for job in outcome.forwards]
        return sends

    def enrolment_key(self, **options: object) -> bytes:
        """A secret."""
        return create_enrolment_key(self.store, wall=self.wall, **options)  # type: ignore[arg-type]

    def node(self, name: str, host: str = "198.51.100.1", **options: object) -> FakeNode:
        """A node that is logged in and registered."""
        node = FakeNode(self, name, Endpoint(host, 4000))
        node.log_in(self.enrolment_key(**options))
        node.register()
        return node


def internal(job: bytes) -> Job:
    """As a frontend passes on what a worker forwards."""
    return Job(job, Origin.PIPELINE, NOWHERE)


@dataclass
class FakeNode:
    """A node, spoken by hand."""

    region: Region
    name: str
    endpoint: Endpoint
    static: KeyPair = field(default_factory=lambda: KeyPair.generate(os.urandom))
    stamp: int = 1_700_000_000_000_000_000
    counter: int = 0
    login: LoginResponse | None = None
    node_id: bytes = bytes(16)

    def login_job(self, enrolment_key: bytes = b"", name: str | None = None) -> tuple[LoginInitiator, Job]:
        """A fresh login request."""
        self.stamp += 1
        initiator = LoginInitiator(self.static, self.region.as_key.public, os.urandom)
        body = LoginRequest(self.stamp, self.name if name is None else name, enrolment_key, [1], "test")
        datagram = strip_macs(initiator.request(os.urandom(16), body))
        return initiator, Job(datagram, Origin.UDP, Route(*AS_ENDPOINT, *self.endpoint))

    def log_in(self, enrolment_key: bytes = b"", name: str | None = None) -> LoginOutcome:
        """A whole login."""
        initiator, job = self.login_job(enrolment_key, name)
        (send,) = self.region.run(job)
        return self.accept(initiator.read_response(send.datagram))

    def accept(self, response: LoginResponse) -> LoginOutcome:
        """Take what a login brought."""
        if response.outcome == LoginOutcome.ACCEPTED:
            self.login = response
            self.counter = 0
            self.node_id = self.certificate.node_id
        return LoginOutcome(response.outcome)

    @property
    def certificate(self) -> Certificate:
        """Read and checked."""
        assert self.login is not None
        return read_certificate(self.login.certificate, self.region.as_signing.public)

    def job(
        self,
        kind: MessageType,
        body: Body,
        transaction_id: bytes | None = None,
        endpoint: Endpoint | None = None,
    ) -> Job:
        """A sealed message to the NMS."""
        assert self.login is not None
        header = SignalingHeader(kind, self.login.key_number, self.node_id, transaction_id or os.urandom(16))
        here = endpoint or self.endpoint
        there = NMS_ENDPOINT_6 if ":" in here.host else NMS_ENDPOINT
        sealed = seal_signaling(header, body, self.login.common_key, os.urandom)
        return Job(sealed, Origin.UDP, Route(*there, *here))

    def read(self, send: Send, kind: MessageType, body_type: type[BodyT]) -> BodyT:
        """An answer, which must be of ``kind`` and for this node."""
        assert self.login is not None
        header = SignalingHeader.decode(send.datagram)
        assert (header.type, header.node_id) == (kind, self.node_id)
        return decode(open_signaling(send.datagram, header, self.login.common_key), body_type)

    def registration(
        self,
        endpoint: Endpoint | None = None,
        candidates: Sequence[Endpoint] | None = None,
        round_trips: dict[Endpoint, int] | None = None,
    ) -> Job:
        """A registration with the next counter."""
        assert self.login is not None
        self.counter += 1
        own = [self.endpoint] if candidates is None else candidates
        body = RegistrationRequest(self.counter, [one.encode() for one in own], self.login.certificate)
        if round_trips is not None:
            relays = [RelayRoundTrip(relay.encode(), ms) for relay, ms in round_trips.items()]
            body = MeasuredRegistration(**msgspec.structs.asdict(body), relays=relays)
        return self.job(MessageType.REGISTRATION_REQUEST, body, endpoint=endpoint)

    def register(
        self, endpoint: Endpoint | None = None, candidates: Sequence[Endpoint] | None = None
    ) -> RegistrationResponse:
        """A whole registration."""
        (send,) = self.region.run(self.registration(endpoint, candidates))
        return self.read(send, MessageType.REGISTRATION_RESPONSE, RegistrationResponse)

    def keepalive(self, endpoint: Endpoint | None = None) -> Job:
        """A keepalive with the next counter."""
        self.counter += 1
        return self.job(MessageType.KEEP_ALIVE, KeepAlive(self.counter), endpoint=endpoint)

    def keep_alive(self, endpoint: Endpoint | None = None) -> KeepAliveAck:
        """A whole keepalive."""
        (send,) = self.region.run(self.keepalive(endpoint))
        return self.read(send, MessageType.KEEP_ALIVE_ACK, KeepAliveAck)

    def direction(
        self, fqdn: str = "", address: bytes = b"", *, time: float | None = None, transaction_id: bytes = b""
    ) -> Job:
        """A direction request."""
        wall = self.region.wall if time is None else time
        body = DirectionRequest(int(wall * 1000), fqdn, address)
        return self.job(MessageType.DIRECTION_REQUEST, body, transaction_id or None)

    def confirmation(self, direction: RouteDirection) -> Job:
        """Of a responder."""
        body = RouteDirectionConfirmation(direction.handle)
        return self.job(MessageType.ROUTE_DIRECTION_CONFIRMATION, body, direction.handle)

    def read_direction(self, send: Send) -> RouteDirection:
        """A RouteDirection to this node."""
        return self.read(send, MessageType.ROUTE_DIRECTION, RouteDirection)
