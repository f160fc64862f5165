"""How the signaling client registers over each address family, keeps its leases, moves them, and leaves."""

from __future__ import annotations

from socket import AF_INET, AF_INET6

import pytest

from cyphonic.protocol.client import CloudUnreachable, LoggedIn, PeerRevoked, Registered, SelfRevoked
from cyphonic.wire.endpoint import Endpoint
from cyphonic.wire.header import VERSION, MessageType
from tests.unit.protocol.fake_cloud import NMS_ENDPOINTS, Member, Node, World

BOTH = {AF_INET, AF_INET6}


def _join(world: World, name: str = "a", families: set[int] | None = None) -> Node:
    node = world.add(name, {family for family in BOTH if families is None or family in families})
    assert world.run(30, lambda: set(node.client.leases) == node.families)
    world.run(0.5)
    return node


def _member(world: World, node: Node) -> Member:
    return world.cloud.members[node.static.public]


def test_a_node_registers_once_over_each_family() -> None:
    world = World(1)
    node = _join(world)
    assert {(event.family, event.observed) for event in node.events if isinstance(event, Registered)} == {
        (AF_INET, node.endpoints[AF_INET]),
        (AF_INET6, node.endpoints[AF_INET6]),
    }
    assert world.cloud.received[MessageType.REGISTRATION_REQUEST] == 2
    assert set(_member(world, node).leases) == BOTH


def test_keepalives_keep_the_lease_and_cost_three_a_minute() -> None:
    world = World(2)
    node = _join(world, families={AF_INET})
    world.run(3600)
    assert 180 <= world.cloud.received[MessageType.KEEP_ALIVE] <= 200
    assert world.cloud.received[MessageType.REGISTRATION_REQUEST] == 1
    assert node.client.leases[AF_INET].expires > world.now


@pytest.mark.parametrize("seed", range(10))
def test_two_unanswered_keepalives_lead_to_the_next_frontend(seed: int) -> None:
    world = World(seed)
    node = _join(world, families={AF_INET})
    dead = node.client.leases[AF_INET].frontend
    world.cloud.down = {dead}
    asked = world.cloud.received[MessageType.REGISTRATION_REQUEST]
    assert world.run(40, lambda: node.client.leases[AF_INET].frontend != dead)
    assert node.client.state == "registered"
    assert world.cloud.received[MessageType.REGISTRATION_REQUEST] == asked + 1


def test_a_lost_lease_is_registered_again_at_the_next_keepalive_without_a_login() -> None:
    world = World(4)
    node = _join(world)
    _member(world, node).leases.clear()
    assert world.run(25, lambda: set(_member(world, node).leases) == BOTH)
    assert len(node.seen(LoggedIn)) == 1


def test_a_registration_given_up_is_reported_and_tried_again() -> None:
    world = World(5)
    node = _join(world, families={AF_INET})
    world.cloud.down = set(NMS_ENDPOINTS)
    world.run(120)
    assert CloudUnreachable("NMS", "unanswered", AF_INET) in node.events
    assert node.client.state == "registering"
    runs = node.runs
    world.run(3600)
    assert node.runs - runs < 1000
    world.cloud.down.clear()
    assert world.run(61, lambda: node.client.state == "registered")


def test_a_change_of_the_underlay_moves_the_lease_at_once() -> None:
    world = World(6)
    node = _join(world, families={AF_INET})
    node.endpoints[AF_INET] = Endpoint("203.0.113.77", 4000)
    node.client.set_underlay({AF_INET}, [node.endpoints[AF_INET]], world.now)
    world.collect(node)
    assert world.run(0.3, lambda: _member(world, node).leases[AF_INET][0] == node.endpoints[AF_INET])
    world.run(0.3)
    assert node.client.leases[AF_INET].observed == node.endpoints[AF_INET]


def test_the_same_underlay_again_changes_nothing() -> None:
    world = World(7)
    node = _join(world)
    node.client.set_underlay(node.families, [node.endpoints[f] for f in node.families], world.now)
    assert node.client.datagrams_to_send() == []


def test_a_family_that_comes_later_gets_its_own_lease_and_one_that_goes_loses_it() -> None:
    world = World(8)
    node = _join(world, families={AF_INET})
    node.families = set(BOTH)
    node.client.set_underlay(BOTH, [], world.now)
    world.collect(node)
    assert world.run(1, lambda: set(node.client.leases) == BOTH)
    node.families = {AF_INET6}
    node.client.set_underlay({AF_INET6}, [], world.now)
    assert set(node.client.leases) == {AF_INET6}


def test_an_observed_endpoint_that_changes_is_told() -> None:
    world = World(9)
    node = _join(world, families={AF_INET})
    node.endpoints[AF_INET] = Endpoint("198.51.100.200", 6000)
    world.run(25)
    events = [event for event in node.events if isinstance(event, Registered)]
    assert [event.observed.port for event in events] == [5000, 6000]


def test_a_node_moves_where_the_cloud_now_wants_it() -> None:
    world = World(10)
    node = _join(world, families={AF_INET})
    old = node.client.leases[AF_INET].frontend
    world.cloud.nms_endpoints = tuple(e for e in NMS_ENDPOINTS if e != old)
    node.client.reattach(world.now)
    world.collect(node)
    world.run(50)
    assert node.client.leases[AF_INET].frontend != old
    assert list(node.client.nms_endpoints) == list(world.cloud.nms_endpoints)


def test_leaving_ends_the_lease_and_the_client() -> None:
    world = World(11)
    node = _join(world)
    node.client.leave(world.now)
    world.collect(node)
    world.run(1)
    assert _member(world, node).leases == {}
    assert node.client.state == "left"
    assert node.client.next_deadline() is None
    node.client.login(world.now, world.wall)
    world.collect(node)
    assert world.run(5, lambda: node.client.state == "registered")


def test_a_revoked_peer_is_acknowledged_always_and_told_once() -> None:
    world = World(12)
    node, peer = _join(world, "a"), _join(world, "b")
    revoked = _member(world, peer)
    for _ in range(3):
        for order in world.cloud.revoke(revoked, _member(world, node), bytes(range(16))):
            world.carry(*order)
        world.run(0.5)
    assert node.seen(PeerRevoked) == [PeerRevoked(revoked.node_id, 1)]
    assert world.cloud.acks == [bytes(range(16))] * 6
    revoked.generation = 2
    for order in world.cloud.revoke(revoked, _member(world, node), bytes(16)):
        world.carry(*order)
    world.run(0.5)
    assert len(node.seen(PeerRevoked)) == 2


def test_a_node_that_is_itself_revoked_stops_and_still_acknowledges() -> None:
    world = World(13)
    node = _join(world)
    for _ in range(2):
        for order in world.cloud.revoke(_member(world, node), _member(world, node), bytes(16)):
            world.carry(*order)
        world.run(0.5)
    assert len(node.seen(SelfRevoked)) == 1
    assert node.client.state == "revoked"
    assert node.client.next_deadline() is None
    assert len(world.cloud.acks) == 4


def test_messages_of_the_wrong_direction_are_counted_and_change_nothing() -> None:
    world = World(14)
    node = _join(world, families={AF_INET})
    deadline = node.client.next_deadline()
    requests = {sending[1][0]: sending[1] for sending in world.sent}
    for datagram in requests.values():
        assert not node.client.receive_datagram(datagram, NMS_ENDPOINTS[0], world.now, world.wall)
    assert node.client.drops["wrong_direction"] == len(requests)
    assert node.client.next_deadline() == deadline
    assert node.client.datagrams_to_send() == []


@pytest.mark.parametrize(
    ("datagram", "reason"),
    [
        (b"", "too_short"),
        (bytes(39), "too_short"),
        (bytes(40), "unknown_version"),
        (bytes([0x99, VERSION]) + bytes(38), "unknown_type"),
        (bytes([MessageType.LOGIN_RESPONSE, VERSION]) + bytes(38), "unlisted_source"),
        (bytes([MessageType.REGISTRATION_RESPONSE, VERSION]) + bytes(100), "unknown_transaction"),
        (bytes([MessageType.ROUTE_DIRECTION, VERSION]) + bytes(100), "unknown_key"),
        (bytes([MessageType.KEY_UNKNOWN, VERSION]) + bytes(38), "unknown_key"),
        (bytes([MessageType.BUSY, VERSION]) + bytes(38), "unknown_transaction"),
        (bytes([MessageType.COOKIE_REPLY, VERSION]) + bytes(94), "unknown_transaction"),
    ],
)
def test_garbage_is_counted_by_its_reason(datagram: bytes, reason: str) -> None:
    world = World(15)
    node = _join(world, families={AF_INET})
    assert not node.client.receive_datagram(datagram, NMS_ENDPOINTS[0], world.now, world.wall)
    assert dict(node.client.drops) == {reason: 1}
