from __future__ import annotations

import random

from cyphonic.loadgen.simulated import SimulatedNode, make_secret
from cyphonic.loadgen.traffic import Kind, Outgoing, Traffic
from cyphonic.protocol.certificate import sign_certificate
from cyphonic.protocol.cookie import CookieMint
from cyphonic.protocol.keys import KeyPair, SigningKeyPair
from cyphonic.protocol.limits import GIVE_UP_AFTER, KEEPALIVE_INTERVAL, RESEND_AFTER
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
from cyphonic.wire.header import MAX_CONTROL_DATAGRAM, MessageType, SignalingHeader
from cyphonic.wire.hint import encode_hint
from cyphonic.wire.login import LoginOutcome, LoginResponse
from cyphonic.wire.registration import KeepAlive, KeepAliveAck, RegistrationRequest, RegistrationResponse

AS = [Endpoint("192.0.2.1", 7701), Endpoint("192.0.2.2", 7701)]
NMS = Endpoint("192.0.2.1", 7702)
LOCAL = Endpoint("198.51.100.1", 4000)
ENROLMENT_KEY = b"e" * 32
CLOUD_MS = 1_700_000_000_000


class Member:
    """A node as the cloud of these tests keeps it."""

    def __init__(self, node_id: bytes, common_key: bytes, key_number: int) -> None:
        self.node_id = node_id
        self.common_key = common_key
        self.key_number = key_number
        self.certificate = b""


class Cloud:
    """Just enough of AS and NMS: no loss, no state to speak of."""

    def __init__(self) -> None:
        self.chance = random.Random(7).randbytes
        self.as_key = KeyPair.generate(self.chance)
        self.signing = SigningKeyPair.generate(self.chance)
        self.nms_key = KeyPair.generate(self.chance)
        self.outcome = LoginOutcome.ACCEPTED
        self.online = True
        self.registered = True
        self.members: dict[str, Member] = {}
        self.by_id: dict[bytes, Member] = {}
        self.pending: dict[bytes, tuple[Member, bytes]] = {}
        self.stamps: list[int] = []
        self.confirmed = 0

    def receive(self, datagram: bytes) -> list[bytes]:
        assert len(datagram) <= MAX_CONTROL_DATAGRAM
        is_login = datagram[0] == MessageType.LOGIN_REQUEST
        check_mac1(datagram, mac1_key((self.as_key if is_login else self.nms_key).public))
        datagram = strip_macs(datagram)
        if is_login:
            return self._login(datagram)
        header = SignalingHeader.decode(datagram)
        member = self.by_id[header.node_id]
        body = open_signaling(datagram, header, member.common_key)
        match header.type:
            case MessageType.REGISTRATION_REQUEST:
                assert decode(body, RegistrationRequest).candidates == [LOCAL.encode()]
                answer: Body = RegistrationResponse(LOCAL.encode(), bytes(16), b"", 20, 75, CLOUD_MS)
                return [self._seal(member, MessageType.REGISTRATION_RESPONSE, header.transaction_id, answer)]
            case MessageType.KEEP_ALIVE:
                assert decode(body, KeepAlive).counter > 1
                answer = KeepAliveAck(LOCAL.encode(), self.registered, CLOUD_MS)
                return [self._seal(member, MessageType.KEEP_ALIVE_ACK, header.transaction_id, answer)]
            case MessageType.DIRECTION_REQUEST:
                return self._direct(member, header.transaction_id, decode(body, DirectionRequest))
            case MessageType.ROUTE_DIRECTION_CONFIRMATION:
                handle = decode(body, RouteDirectionConfirmation).handle
                initiator, transaction_id = self.pending.pop(handle)
                self.confirmed += 1
                return [self._route(initiator, transaction_id, bytes(16), Role.INITIATOR)]
        raise AssertionError(header.type)

    def _login(self, datagram: bytes) -> list[bytes]:
        attempt = read_login_request(datagram, self.as_key)
        self.stamps.append(attempt.body.stamp)
        if self.outcome is not LoginOutcome.ACCEPTED:
            return [write_login_response(attempt, LoginResponse(self.outcome), self.chance)]
        fqdn = f"{attempt.body.name}.home.example"
        known = self.members.get(fqdn)
        assert attempt.body.enrolment_key == (b"" if known else ENROLMENT_KEY)
        member = Member(known.node_id if known else self.chance(16), self.chance(32), len(self.stamps))
        certificate = Certificate(fqdn, member.node_id, attempt.static_key, bytes(16), b"", [], 2**32, 1)
        member.certificate = sign_certificate(certificate, self.signing)
        self.members[fqdn] = self.by_id[member.node_id] = member
        response = LoginResponse(
            LoginOutcome.ACCEPTED,
            member.common_key,
            member.key_number,
            86400,
            member.certificate,
            self.nms_key.public,
            [endpoint.encode() for endpoint in AS],
            [Endpoint("2001:db8::1", 7702).encode(), NMS.encode()],
            time=CLOUD_MS,
        )
        return [write_login_response(attempt, response, self.chance)]

    def _direct(self, initiator: Member, transaction_id: bytes, body: DirectionRequest) -> list[bytes]:
        assert abs(body.time - CLOUD_MS) < 1000 * GIVE_UP_AFTER
        if not self.online:
            refused = DirectionRefused(RefusalReason.OFFLINE, body.fqdn, time=CLOUD_MS)
            return [self._seal(initiator, MessageType.DIRECTION_REFUSED, transaction_id, refused)]
        handle = self.chance(16)
        self.pending[handle] = initiator, transaction_id
        return [self._route(self.members[body.fqdn], handle, handle, Role.RESPONDER)]

    def _route(self, member: Member, transaction_id: bytes, handle: bytes, role: Role) -> bytes:
        body = RouteDirection(
            handle, bytes(16), role, FirstPath.DIRECT, member.certificate, [], bytes(32), 3600, [], CLOUD_MS
        )
        return self._seal(member, MessageType.ROUTE_DIRECTION, transaction_id, body)

    def _seal(self, member: Member, message_type: MessageType, transaction_id: bytes, body: Body) -> bytes:
        header = SignalingHeader(message_type, member.key_number, member.node_id, transaction_id)
        return seal_signaling(header, body, member.common_key, self.chance)


def make(count: int = 3) -> tuple[Cloud, Traffic]:
    cloud = Cloud()
    nodes = [
        SimulatedNode(
            f"n-{number}",
            make_secret(ENROLMENT_KEY, f"n-{number}"),
            cloud.as_key.public,
            cloud.signing.public,
            cloud.chance,
        )
        for number in range(count)
    ]
    return cloud, Traffic(nodes, AS, ENROLMENT_KEY, lambda _: LOCAL, cloud.chance)


def take(traffic: Traffic) -> list[Outgoing]:
    outgoing, traffic.outgoing = traffic.outgoing, []
    return outgoing


def converse(cloud: Cloud, traffic: Traffic, now: float) -> None:
    while outgoing := take(traffic):
        for _, datagram, endpoint in outgoing:
            assert endpoint in (AS if datagram[0] == MessageType.LOGIN_REQUEST else [NMS])
            for answer in cloud.receive(datagram):
                traffic.receive_datagram(answer, now)


def joined(count: int = 3) -> tuple[Cloud, Traffic]:
    cloud, traffic = make(count)
    for index in range(count):
        traffic.login(index, 0.0, index + 1)
    converse(cloud, traffic, 0.0)
    assert all(node.registered for node in traffic.nodes)
    return cloud, traffic


def test_nodes_log_in_and_register() -> None:
    _, traffic = joined()
    assert traffic.tallies[Kind.LOGIN].latencies.total == 3
    assert traffic.tallies[Kind.REGISTRATION].latencies.total == 3
    assert traffic.under_way == 0
    assert not traffic.drops


def test_a_loaded_cloud_is_shown_the_cookie_it_asks_for() -> None:
    cloud, traffic = make(1)
    mints = {
        kind: CookieMint(b"s" * 32, key.public, cloud.chance)
        for kind, key in ((Kind.LOGIN, cloud.as_key), (Kind.REGISTRATION, cloud.nms_key))
    }
    receive, asked = cloud.receive, 0

    def loaded(datagram: bytes) -> list[bytes]:
        nonlocal asked
        kind = Kind.LOGIN if datagram[0] == MessageType.LOGIN_REQUEST else Kind.REGISTRATION
        if mints[kind].proves(datagram, LOCAL.encode(), 0.0):
            return receive(datagram)
        asked += 1
        return [mints[kind].reply(datagram, LOCAL.encode(), 0.0)]

    cloud.receive = loaded  # type: ignore[method-assign]
    traffic.login(0, 0.0, 1)
    converse(cloud, traffic, 0.0)
    assert traffic.nodes[0].registered
    assert asked == 2
    assert not traffic.drops


def test_a_direction_takes_three_legs_and_both_roles() -> None:
    cloud, traffic = joined()
    traffic.direct(0, 1, 1.0, due=0.75)
    converse(cloud, traffic, 2.0)
    tally = traffic.tallies[Kind.DIRECTION]
    assert (tally.started, tally.latencies.total, cloud.confirmed) == (1, 1, 1)
    assert tally.latencies.longest == 1.25
    assert not traffic.drops


def test_a_lost_request_is_resent_as_it_was_then_given_up() -> None:
    _, traffic = joined()
    traffic.direct(0, 1, 0.0, due=0.0)
    copies = take(traffic)
    while (deadline := traffic.next_deadline()) is not None and traffic.under_way and deadline < GIVE_UP_AFTER * 2:
        traffic.handle_timeout(deadline)
        copies += [outgoing for outgoing in take(traffic) if outgoing.datagram[0] == MessageType.DIRECTION_REQUEST]
    assert len(copies) == len(RESEND_AFTER)
    assert len({outgoing.datagram for outgoing in copies}) == 1
    assert traffic.tallies[Kind.DIRECTION].gave_up == 1


def test_a_repeated_answer_counts_once() -> None:
    cloud, traffic = joined()
    traffic.direct(0, 1, 0.0, due=0.0)
    [(_, request, _)] = take(traffic)
    [to_responder] = cloud.receive(request)
    traffic.receive_datagram(to_responder, 0.0)
    [(_, confirmation, _)] = take(traffic)
    [to_initiator] = cloud.receive(confirmation)
    traffic.receive_datagram(to_initiator, 0.0)
    traffic.receive_datagram(to_initiator, 0.0)
    assert traffic.tallies[Kind.DIRECTION].latencies.total == 1
    assert traffic.drops["late_direction"] == 1


def test_a_refusal_is_counted_with_its_reason() -> None:
    cloud, traffic = joined()
    cloud.online = False
    traffic.direct(0, 1, 0.0, due=0.0)
    converse(cloud, traffic, 0.0)
    assert traffic.tallies[Kind.DIRECTION].refused == 1
    assert traffic.drops[f"refused_{int(RefusalReason.OFFLINE)}"] == 1


def test_a_refused_login_says_why() -> None:
    cloud, traffic = make()
    cloud.outcome = LoginOutcome.ENROLMENT_KEY_USED
    traffic.login(0, 0.0, 1)
    converse(cloud, traffic, 0.0)
    assert traffic.outcomes == {LoginOutcome.ENROLMENT_KEY_USED: 1}
    assert traffic.under_way == 0


def test_registered_nodes_are_kept_alive_once_each_however_often_they_log_in() -> None:
    cloud, traffic = joined()
    traffic.login(0, 1.0, 100)
    converse(cloud, traffic, 1.0)
    now = 1.0 + KEEPALIVE_INTERVAL
    traffic.handle_timeout(now)
    assert len(traffic.outgoing) == 3
    converse(cloud, traffic, now)
    assert traffic.tallies[Kind.KEEPALIVE].latencies.total == 3


def test_a_node_whose_lease_is_lost_registers_again() -> None:
    cloud, traffic = joined(2)
    cloud.registered = False
    traffic.handle_timeout(KEEPALIVE_INTERVAL)
    converse(cloud, traffic, KEEPALIVE_INTERVAL)
    assert traffic.tallies[Kind.REGISTRATION].latencies.total == 4


def test_an_answer_under_the_previous_common_key_is_still_read() -> None:
    cloud, traffic = joined()
    traffic.direct(0, 1, 0.0, due=0.0)
    [(_, request, _)] = take(traffic)
    [to_responder] = cloud.receive(request)
    traffic.login(1, 0.0, 100)
    converse(cloud, traffic, 0.0)
    traffic.receive_datagram(to_responder, 0.0)
    assert [outgoing.datagram[0] for outgoing in take(traffic)] == [MessageType.ROUTE_DIRECTION_CONFIRMATION]


def test_noise_and_hints_are_counted() -> None:
    _, traffic = joined()
    header = SignalingHeader(MessageType.DIRECTION_REQUEST, 1, traffic.nodes[0].node_id, bytes(16))
    for datagram in (b"", b"\x35", bytes(60), encode_hint(MessageType.KEY_UNKNOWN, header)):
        traffic.receive_datagram(datagram, 0.0)
    traffic.receive_datagram(header._replace(type=MessageType.ROUTE_DIRECTION).encode() + bytes(60), 0.0)
    assert traffic.drops == {"too_short": 2, "unknown_type": 1, "key_unknown": 1, "bad_seal": 1}


def test_the_same_names_have_the_same_keys_in_every_run() -> None:
    assert make_secret(ENROLMENT_KEY, "load-1") == make_secret(ENROLMENT_KEY, "load-1")
    assert make_secret(ENROLMENT_KEY, "load-1") != make_secret(ENROLMENT_KEY, "load-2")
    assert make_secret(ENROLMENT_KEY, "load-1") != make_secret(b"f" * 32, "load-1")
