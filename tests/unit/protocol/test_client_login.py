"""How the signaling client logs in, renews its common key, and logs in again when the cloud has forgotten it."""

from __future__ import annotations

import random
from socket import AF_INET, AF_INET6

import pytest

from cyphonic.protocol.client import CloudUnreachable, Identity, LoggedIn, LoginRefused, SignalingClient
from cyphonic.protocol.keys import KeyPair
from cyphonic.wire.endpoint import Endpoint
from cyphonic.wire.header import MessageType, SignalingHeader
from cyphonic.wire.hint import encode_hint
from cyphonic.wire.login import LoginOutcome
from tests.unit.protocol.fake_cloud import AS_ENDPOINTS, NMS_ENDPOINTS, Node, Weather, World

HALF_LIFE = 12 * 3600


def _joined(world: World, node: Node) -> bool:
    return world.run(30, lambda: node.client.state == "registered")


def _sent(world: World, kind: MessageType) -> list[tuple[float, bytes, Endpoint]]:
    return [sending for sending in world.sent if sending[1][0] == kind]


def test_a_node_logs_in_and_tells_its_certificate() -> None:
    world = World(1)
    node = world.add("a")
    assert node.client.state == "logging-in"
    assert _joined(world, node)
    (event,) = node.seen(LoggedIn)
    assert isinstance(event, LoggedIn)
    assert event.certificate.fqdn == "a.home.example"
    assert event.certificate.static_key == node.static.public
    assert (event.prefix, event.pool) == ("fd00::/48", "10.77.0.0/16")
    assert node.client.node_id == event.certificate.node_id
    assert not node.client.drops


def test_the_same_bytes_are_sent_again_the_first_two_to_one_frontend() -> None:
    world = World(2)
    world.cloud.down = set(AS_ENDPOINTS)
    world.add("a")
    world.run(15)
    sent = _sent(world, MessageType.LOGIN_REQUEST)
    assert len({datagram for _, datagram, _ in sent}) == 1
    assert len(sent) == 5
    assert sent[0][2] == sent[1][2] != sent[2][2]


def test_an_unanswered_login_is_reported_and_tried_anew_with_a_greater_stamp() -> None:
    world = World(3)
    world.cloud.down = set(AS_ENDPOINTS)
    node = world.add("a")
    first = node.client.last_stamp
    world.run(16)
    (event,) = node.seen(CloudUnreachable)
    assert event == CloudUnreachable("AS", "unanswered")
    world.run(2)
    assert node.client.last_stamp > first
    world.cloud.down.clear()
    assert _joined(world, node)


def test_attempts_grow_rarer_while_the_cloud_is_away() -> None:
    world = World(4)
    world.cloud.down = set(AS_ENDPOINTS)
    node = world.add("a")
    world.run(3600)
    attempts = {datagram for _, datagram, _ in _sent(world, MessageType.LOGIN_REQUEST)}
    assert 40 < len(attempts) < 90
    assert node.runs < 1000


def test_one_dead_frontend_is_got_round() -> None:
    for dead in AS_ENDPOINTS:
        world = World(5)
        world.cloud.down = {dead}
        assert _joined(world, world.add("a", {AF_INET, AF_INET6}))


def test_a_login_without_underlay_waits_for_one() -> None:
    world = World(6)
    node = world.add("a", login=False)
    node.client.set_underlay(set(), [], world.now)
    node.client.login(world.now, world.wall)
    world.collect(node)
    assert node.seen(CloudUnreachable) == [CloudUnreachable("AS", "no_underlay")]
    assert node.client.next_deadline() is None
    node.client.set_underlay({AF_INET}, [], world.now)
    assert _joined(world, node)


@pytest.mark.parametrize("outcome", [outcome for outcome in LoginOutcome if outcome])
def test_a_refused_login_stops_the_client_and_says_why(outcome: LoginOutcome) -> None:
    world = World(7)
    world.cloud.outcome = outcome
    node = world.add("a")
    world.run(10)
    assert node.seen(LoginRefused) == [LoginRefused(outcome)]
    assert node.client.state == "refused"
    assert node.client.next_deadline() is None
    world.cloud.outcome = LoginOutcome.ACCEPTED
    node.client.login(world.now, world.wall, b"another")
    world.collect(node)
    assert _joined(world, node)


def test_stamps_grow_even_when_the_wall_clock_goes_back() -> None:
    rng = random.Random(8)
    world = World(8)
    identity = Identity(KeyPair.generate(rng.randbytes), "a", last_stamp=5_000_000_000)
    client = SignalingClient(identity, world.cloud.bundle, rng.randbytes)
    client.set_underlay({AF_INET}, [], 0.0)
    client.login(0.0, 1.0)
    assert client.last_stamp == 5_000_000_001


def test_only_the_as_can_answer_and_only_the_request_in_flight() -> None:
    world = World(9, Weather(delay=0.0))
    node = world.add("a", login=False)
    node.client.login(world.now, world.wall)
    request, frontend = node.client.datagrams_to_send()[0]
    ((answer, at, _),) = world.cloud.receive(request, node.endpoints[AF_INET], frontend, world.wall)
    client = node.client
    stranger = Endpoint("203.0.113.9", 7000)
    assert not client.receive_datagram(answer, stranger, world.now, world.wall)
    assert not client.receive_datagram(answer[:-1] + bytes([answer[-1] ^ 1]), at, world.now, world.wall)
    assert not client.receive_datagram(answer[:60], at, world.now, world.wall)
    assert not client.receive_datagram(answer[:24] + bytes(16) + answer[40:], at, world.now, world.wall)
    assert client.events() == []
    assert client.receive_datagram(answer, AS_ENDPOINTS[0], world.now, world.wall)
    assert not client.receive_datagram(answer, at, world.now, world.wall)
    assert [type(event) for event in client.events()] == [LoggedIn]
    assert client.drops["unlisted_source"] == 1
    assert client.drops["unknown_transaction"] == 2
    assert sum(client.drops.values()) == 5


def test_the_common_key_is_renewed_at_half_life_while_the_old_one_works() -> None:
    world = World(10)
    node = world.add("a")
    _joined(world, node)
    renewal = node.client.next_renewal
    assert renewal is not None
    assert 0.9 * HALF_LIFE <= renewal - world.now + 1 <= 1.1 * HALF_LIFE + 1
    states = set()
    while len(node.seen(LoggedIn)) < 2:
        world.run(600)
        states.add(node.client.state)
    world.run(600)
    assert states == {"registered"}
    assert node.client.key_number == 2
    assert next(iter(world.cloud.members.values())).current == 2
    assert not node.client.drops


def test_a_renewal_that_fails_is_repeated_until_the_key_ends() -> None:
    world = World(11)
    world.cloud.key_lifetime = 3600
    node = world.add("a")
    _joined(world, node)
    world.cloud.down = set(AS_ENDPOINTS)
    world.run(3000)
    assert node.client.state == "registered"
    world.run(700)
    assert node.client.state == "logging-in"
    world.cloud.down.clear()
    world.run(120)
    assert node.client.state == "registered"


def test_a_renewal_refused_for_good_ends_the_membership() -> None:
    world = World(12)
    world.cloud.key_lifetime = 3600
    node = world.add("a")
    _joined(world, node)
    world.cloud.outcome = LoginOutcome.NODE_REVOKED
    world.run(2500)
    assert node.client.state == "refused"
    assert node.client.next_deadline() is None


def test_messages_under_the_previous_key_count_for_a_minute_after_the_new_one_is_used() -> None:
    world = World(13)
    node = world.add("a")
    _joined(world, node)
    member = next(iter(world.cloud.members.values()))
    while len(node.seen(LoggedIn)) < 2:
        world.run(60)
    member.generation, member.current = 0, 1  # a revocation of a former certificate: acknowledged, no more
    ((datagram, at, _),) = world.cloud.revoke(member, member, bytes(16))
    member.current = 2
    assert node.client.receive_datagram(datagram, at, world.now, world.wall)
    world.collect(node)
    world.run(120)
    assert not node.client.receive_datagram(datagram, at, world.now, world.wall)
    assert node.client.drops["unknown_key"] == 1


@pytest.mark.parametrize("seed", range(5))
def test_a_key_that_the_nms_has_lost_is_replaced_by_a_login(seed: int) -> None:
    world = World(seed)
    node = world.add("a", {AF_INET, AF_INET6})
    _joined(world, node)
    world.run(5)
    before = world.now
    world.cloud.forget_keys()
    assert world.run(60, lambda: len(node.seen(LoggedIn)) == 2)
    assert world.now - before > 5
    assert world.run(5, lambda: len(node.client.leases) == 2)


def test_a_direction_in_flight_survives_the_loss_of_the_key() -> None:
    world = World(20)
    node, peer = world.add("a"), world.add("b")
    _joined(world, node)
    _joined(world, peer)
    members = list(world.cloud.members.values())
    members[0].keys.clear()
    transaction = node.client.direction("b.home.example", now=world.now)
    world.collect(node)
    assert world.run(
        15, lambda: any(getattr(event, "transaction_id", None) == transaction for event in node.events)
    )
    assert type(node.events[-1]).__name__ == "Directed"


def test_hints_alone_make_nobody_log_in_while_valid_answers_come() -> None:
    world = World(21)
    node = world.add("a")
    _joined(world, node)
    for _ in range(200):
        keepalives = _sent(world, MessageType.KEEP_ALIVE)
        if keepalives:
            header = SignalingHeader.decode(keepalives[-1][1])
            for _ in range(3):
                hint = encode_hint(MessageType.KEY_UNKNOWN, header)
                node.client.receive_datagram(hint, NMS_ENDPOINTS[0], world.now, world.wall)
        world.collect(node)
        world.run(0.5)
    assert len(node.seen(LoggedIn)) == 1
    assert node.client.state == "registered"


def test_logins_that_do_not_help_grow_rarer() -> None:
    world = World(22)
    node = world.add("a")
    _joined(world, node)
    original = world.cloud._admit

    def _admit_but_forget(*args: object) -> object:
        response = original(*args)  # type: ignore[arg-type]
        world.cloud.forget_keys()
        return response

    world.cloud._admit = _admit_but_forget  # type: ignore[assignment,method-assign]
    world.cloud.forget_keys()
    world.run(1800)
    logins = {datagram for _, datagram, _ in _sent(world, MessageType.LOGIN_REQUEST)}
    assert 5 < len(logins) < 60


def test_a_cloud_without_frontends_for_the_node_is_asked_ever_more_rarely() -> None:
    world = World(23)
    world.cloud.nms_endpoints = tuple(e for e in NMS_ENDPOINTS if e.family == AF_INET6)
    node = world.add("a", {AF_INET})
    world.run(3600)
    assert CloudUnreachable("NMS", "no_endpoint") in node.events
    assert len(node.seen(LoggedIn)) < 120
    world.cloud.nms_endpoints = NMS_ENDPOINTS
    assert world.run(61, lambda: node.client.state == "registered")


def test_a_hint_of_another_length_is_none() -> None:
    """A CookieReply with one bit changed in its type is no Busy."""
    world = World(14)
    world.cloud.down = set(AS_ENDPOINTS)
    node = world.add("a")
    _, request, endpoint = _sent(world, MessageType.LOGIN_REQUEST)[0]
    for hint in (MessageType.BUSY, MessageType.VERSION_HINT):
        datagram = encode_hint(hint, SignalingHeader.decode(request))
        assert not node.client.receive_datagram(datagram + bytes(56), endpoint, world.now, 0.0)
        assert node.client.receive_datagram(datagram, endpoint, world.now, 0.0)
    assert node.client.drops == {"bad_length": 2}
