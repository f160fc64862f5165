"""How the signaling client asks for directions, and what it does with those that peers wish for."""

from __future__ import annotations

from socket import AF_INET, AF_INET6

import msgspec
import pytest

from cyphonic.protocol.certificate import sign_certificate
from cyphonic.protocol.client import Directed, DirectionFailed
from cyphonic.protocol.direction_leg import MAX_TRANSACTIONS
from cyphonic.protocol.keys import SigningKeyPair
from cyphonic.wire.certificate import Certificate
from cyphonic.wire.codec import decode
from cyphonic.wire.direction import RefusalReason, Role
from cyphonic.wire.endpoint import Endpoint
from cyphonic.wire.header import MessageType
from tests.unit.protocol.fake_cloud import AS_ENDPOINTS, NMS_ENDPOINTS, Member, Node, Pending, World


def _pair(seed: int) -> tuple[World, Node, Node]:
    world = World(seed)
    nodes = world.add("a", {AF_INET, AF_INET6}), world.add("b", {AF_INET})
    assert world.run(30, lambda: all(set(node.client.leases) == node.families for node in nodes))
    world.run(1)
    return world, *nodes


def _ask(world: World, node: Node, fqdn: str = "", address: bytes = b"") -> bytes:
    transaction_id = node.client.direction(fqdn, address, now=world.now)
    world.collect(node)
    return transaction_id


def _directed(node: Node) -> list[Directed]:
    return [event for event in node.events if isinstance(event, Directed)]


def _failed(node: Node) -> list[DirectionFailed]:
    return [event for event in node.events if isinstance(event, DirectionFailed)]


def _member(world: World, node: Node) -> Member:
    return world.cloud.members[node.static.public]


@pytest.mark.parametrize("by", ["name", "ipv6", "ipv4"])
def test_both_ends_are_directed_to_each_other(by: str) -> None:
    world, a, b = _pair(1)
    peer = _member(world, b)
    target = {"name": ("B.home.Example.", b""), "ipv6": ("", peer.ipv6), "ipv4": ("", peer.ipv4)}[by]
    transaction_id = _ask(world, a, *target)
    assert world.run(2, lambda: bool(_directed(a)))
    (initiator,), (responder,) = _directed(a), _directed(b)
    assert (initiator.transaction_id, responder.transaction_id) == (transaction_id, None)
    assert (initiator.direction.role, responder.direction.role) == (Role.INITIATOR, Role.RESPONDER)
    assert initiator.direction.path_id == responder.direction.path_id
    assert initiator.certificate.fqdn == "b.home.example"
    assert responder.certificate.static_key == a.static.public
    assert set(responder.candidates) == set(a.endpoints.values())
    assert not a.client.drops


def test_asking_again_joins_the_transaction_in_flight() -> None:
    world, a, _ = _pair(2)
    assert _ask(world, a, "b.home.example") == _ask(world, a, "B.home.example")
    world.run(5)
    assert world.cloud.received[MessageType.DIRECTION_REQUEST] == 1
    assert _ask(world, a, "b.home.example") != _directed(a)[0].transaction_id


@pytest.mark.parametrize(("fqdn", "address"), [("", b""), ("x", bytes(16)), ("", bytes(5))])
def test_a_direction_needs_one_target(fqdn: str, address: bytes) -> None:
    world, a, _ = _pair(3)
    with pytest.raises(ValueError, match="FQDN"):
        a.client.direction(fqdn, address, now=world.now)


def test_refusals_end_the_transaction_with_their_reason() -> None:
    world, a, b = _pair(4)
    transaction_id = _ask(world, a, "nobody.home.example")
    world.run(1)
    assert _failed(a) == [DirectionFailed(transaction_id, "nobody.home.example", RefusalReason.UNKNOWN_NAME)]
    _member(world, b).leases.clear()
    _ask(world, a, "b.home.example")
    world.run(1)
    offline = _failed(a)[1]
    assert offline.reason is RefusalReason.OFFLINE
    assert (offline.fqdn, offline.virtual_ipv6) == ("b.home.example", _member(world, b).ipv6)
    world.cloud.policy = RefusalReason.POLICY
    _ask(world, a, "b.home.example")
    world.run(1)
    assert _failed(a)[2].reason is RefusalReason.POLICY


def test_a_silent_cloud_makes_a_direction_fail_without_reason() -> None:
    world, a, _ = _pair(5)
    world.cloud.down = set(NMS_ENDPOINTS)
    transaction_id = _ask(world, a, "b.home.example")
    start = world.now
    assert world.run(20, lambda: bool(_failed(a)))
    assert _failed(a) == [DirectionFailed(transaction_id, "b.home.example", None)]
    assert 15 <= world.now - start <= 16


def test_a_direction_wanted_before_the_registration_waits_for_it() -> None:
    world, _, _ = _pair(6)
    late = world.add("c", {AF_INET})
    transaction_id = _ask(world, late, "b.home.example")
    assert world.run(5, lambda: bool(_directed(late)))
    assert _directed(late)[0].transaction_id == transaction_id


def test_a_direction_without_any_registration_fails_in_time() -> None:
    world = World(7)
    world.cloud.down = set(NMS_ENDPOINTS) | set(AS_ENDPOINTS)
    node = world.add("a")
    _ask(world, node, "b.home.example")
    assert world.run(16, lambda: bool(_failed(node)))


@pytest.mark.parametrize("lead", [-3600.0, 3600.0])
def test_a_stale_request_is_dated_anew_once(lead: float) -> None:
    world, a, b = _pair(8)
    world.cloud.clock_lead = lead
    b.client.reattach(world.now)
    world.collect(b)
    world.run(1)
    transaction_id = _ask(world, a, "b.home.example")
    assert world.run(5, lambda: bool(_directed(a)))
    assert _directed(a)[0].transaction_id == transaction_id
    assert world.cloud.received[MessageType.DIRECTION_REQUEST] == 2


@pytest.mark.parametrize("lead", [-3600.0, 3600.0])
def test_a_cloud_whose_clock_is_put_right_is_believed_after_a_keepalive(lead: float) -> None:
    world, a, b = _pair(8)
    world.cloud.clock_lead = lead
    world.run(25)
    _ask(world, a, "b.home.example")
    assert world.run(1, lambda: bool(_directed(a)))
    assert world.cloud.received[MessageType.DIRECTION_REQUEST] == 1
    assert not b.client.drops


def test_a_request_that_stays_stale_fails() -> None:
    world, a, _ = _pair(9)
    world.cloud.policy = RefusalReason.STALE
    _ask(world, a, "b.home.example")
    world.run(5)
    assert [event.reason for event in _failed(a)] == [RefusalReason.STALE]
    assert world.cloud.received[MessageType.DIRECTION_REQUEST] == 2


def test_any_frontend_may_answer_but_no_stranger() -> None:
    world, a, b = _pair(10)
    _ask(world, a, "b.home.example")
    world.cloud.down = set(NMS_ENDPOINTS)
    pending = _pending(world, a, b)
    ((datagram, *_),) = world.cloud.direct(pending, Role.RESPONDER, int(world.wall * 1000))
    for stranger in (Endpoint("192.0.2.1", 7002), AS_ENDPOINTS[0], b.endpoints[AF_INET]):
        assert not b.client.receive_datagram(datagram, stranger, world.now, world.wall)
    for frontend in NMS_ENDPOINTS:
        assert b.client.receive_datagram(datagram, frontend, world.now, world.wall)
    world.collect(b)
    assert len(_directed(b)) == 1
    assert b.client.drops["unlisted_source"] == 3


def _pending(world: World, initiator: Node, responder: Node) -> Pending:
    handle, path_id, path_key = (world.rng.randbytes(n) for n in (16, 16, 32))
    pending = Pending(_member(world, initiator), _member(world, responder), bytes(16), handle, path_id, path_key)
    world.cloud.handles[handle] = pending
    return pending


def test_a_repeated_wish_is_confirmed_again_and_told_once() -> None:
    world, a, b = _pair(11)
    pending = _pending(world, a, b)
    for _ in range(4):
        for datagram in world.cloud.direct(pending, Role.RESPONDER, int(world.wall * 1000)):
            world.carry(*datagram)
        world.run(1)
    assert world.cloud.confirmed[pending.handle] == 4
    assert len(_directed(b)) == 1


def test_a_replayed_wish_is_neither_confirmed_nor_told() -> None:
    world, a, b = _pair(12)
    ((datagram, at, _),) = world.cloud.direct(_pending(world, a, b), Role.RESPONDER, int(world.wall * 1000))
    world.run(120)
    assert not b.client.receive_datagram(datagram, at, world.now, world.wall)
    assert b.client.drops["stale_direction"] == 1
    assert b.client.datagrams_to_send() == []


def _recertified(world: World, node: Node, signing: SigningKeyPair | None = None, **changes: int) -> bytes:
    certificate = decode(_member(world, node).certificate[:-64], Certificate)
    return sign_certificate(msgspec.structs.replace(certificate, **changes), signing or world.cloud.signing)


def test_a_wish_under_a_bad_certificate_is_not_confirmed() -> None:
    world, a, b = _pair(13)
    signing = SigningKeyPair.generate(world.rng.randbytes)
    good = _recertified(world, a, generation=3)
    bad = {
        "bad_signature": _recertified(world, a, signing),
        "certificate_expired": _recertified(world, a, expires=int(world.wall)),
        "certificate_generation": _recertified(world, a, generation=2),
        "bad_certificate": b"",
        "wrong_peer": _member(world, b).certificate,
    }
    for certificate in (good, *bad.values()):
        pending = _pending(world, a, b)
        pending.initiator.certificate = certificate
        ((datagram, at, _),) = world.cloud.direct(pending, Role.RESPONDER, int(world.wall * 1000))
        assert b.client.receive_datagram(datagram, at, world.now, world.wall) is (certificate is good)
    assert dict(b.client.drops) == dict.fromkeys(bad, 1)
    assert len(b.client.datagrams_to_send()) == 1


def test_an_answer_about_another_peer_is_not_believed() -> None:
    world, a, _ = _pair(14)
    c = world.add("c")
    world.run(5)
    world.cloud.down = set(NMS_ENDPOINTS)
    transaction_id = _ask(world, a, "b.home.example")
    pending = _pending(world, a, c)
    pending.transaction_id, pending.frontend, pending.source = (
        transaction_id,
        NMS_ENDPOINTS[0],
        a.endpoints[AF_INET],
    )
    for datagram in world.cloud.direct(pending, Role.INITIATOR, int(world.wall * 1000)):
        world.carry(*datagram)
    world.run(1)
    assert a.client.drops["wrong_peer"] == 1
    assert _directed(a) == []


def test_a_wish_for_a_revoked_peer_is_refused() -> None:
    world, a, b = _pair(15)
    for order in world.cloud.revoke(_member(world, a), _member(world, b), bytes(16)):
        world.carry(*order)
    world.run(1)
    ((datagram, at, _),) = world.cloud.direct(_pending(world, a, b), Role.RESPONDER, int(world.wall * 1000))
    assert not b.client.receive_datagram(datagram, at, world.now, world.wall)
    assert b.client.drops["certificate_generation"] == 1


def test_a_move_in_the_middle_of_a_transaction_does_not_cost_a_resending_interval() -> None:
    world, a, _ = _pair(16)
    world.cloud.down = set(NMS_ENDPOINTS)
    _ask(world, a, "b.home.example")
    world.run(4)
    a.families, a.endpoints[AF_INET] = {AF_INET}, Endpoint("203.0.113.5", 999)
    world.cloud.down.clear()
    a.client.set_underlay({AF_INET}, [], world.now)
    world.collect(a)
    assert world.run(1, lambda: bool(_directed(a)))


def test_too_many_directions_at_once_fail_at_once() -> None:
    world, a, _ = _pair(17)
    for number in range(MAX_TRANSACTIONS + 1):
        last = a.client.direction(f"n{number}.home.example", now=world.now)
    assert [event.transaction_id for event in a.client.events() if isinstance(event, DirectionFailed)] == [last]
    assert a.client.drops["directions_full"] == 1


def test_leaving_fails_what_is_in_flight() -> None:
    world, a, _ = _pair(18)
    _ask(world, a, "b.home.example")
    a.client.leave(world.now)
    world.collect(a)
    assert len(_failed(a)) == 1
