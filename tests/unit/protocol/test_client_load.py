"""A node and frontends under load: cookies, Busy, and both from somebody who makes them up."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from cyphonic.errors import DropError
from cyphonic.protocol.cookie import CookieMint
from cyphonic.protocol.keys import KeyPair
from cyphonic.protocol.limits import COOKIE_REFRESH_TIME, GIVE_UP_AFTER
from cyphonic.wire.endpoint import Endpoint
from cyphonic.wire.header import AS_REQUESTS, MessageType, SignalingHeader
from cyphonic.wire.hint import encode_hint
from tests.unit.protocol.fake_cloud import AS_ENDPOINTS, NMS_ENDPOINTS, Datagram, Node, World

NO_MAC2 = bytes(16)
Receive = Callable[[bytes, Endpoint, Endpoint, float], list[Datagram]]


class Loaded:
    """Puts every frontend of a world under load: nothing gets in without a cookie."""

    def __init__(self, world: World) -> None:
        self.on = True
        self.secret = b"s" * 32
        self.replies = 0
        self._world = world
        self._receive: Receive = world.cloud.receive
        world.cloud.receive = self.receive  # type: ignore[method-assign]

    def mint(self, key: KeyPair) -> CookieMint:
        return CookieMint(self.secret, key.public, self._world.cloud.chance)

    def receive(self, datagram: bytes, source: Endpoint, at: Endpoint, wall: float) -> list[Datagram]:
        cloud = self._world.cloud
        mint = self.mint(cloud.as_key if datagram[0] in AS_REQUESTS else cloud.nms_key)
        try:
            proved = mint.proves(datagram, source.encode(), wall)
        except DropError:
            return []
        if self.on and not proved:
            self.replies += 1
            return [(mint.reply(datagram, source.encode(), wall), at, source)]
        return self._receive(datagram, source, at, wall)


def joined(world: World, node: Node) -> bool:
    return world.run(30, lambda: node.client.state == "registered")


def sent(world: World, kind: MessageType) -> list[bytes]:
    return [datagram for _, datagram, _ in world.sent if datagram[0] == kind]


def test_a_node_logs_in_and_registers_through_loaded_frontends_one_round_trip_later() -> None:
    world = World(1)
    loaded = Loaded(world)
    start = world.now
    node = world.add("a")
    assert joined(world, node)
    assert world.now < start + 0.5, "no resending was waited for"
    first, again = sent(world, MessageType.LOGIN_REQUEST)
    assert first[:-16] == again[:-16]
    assert first[-16:] == NO_MAC2 != again[-16:]
    assert loaded.replies == 1 + len(node.client.leases), "one for each frontend that was asked"
    assert not node.client.drops


def test_a_cookie_is_used_for_what_follows_and_asked_for_again_when_it_is_old() -> None:
    world = World(2)
    loaded = Loaded(world)
    node = world.add("a")
    assert joined(world, node)
    replies = loaded.replies
    world.run(COOKIE_REFRESH_TIME - 10)
    assert loaded.replies == replies
    assert all(datagram[-16:] != NO_MAC2 for datagram in sent(world, MessageType.KEEP_ALIVE))
    world.run(60)
    assert loaded.replies > replies
    assert node.client.state == "registered"


def test_a_cookie_that_the_cloud_no_longer_takes_costs_one_keepalive() -> None:
    world = World(3)
    loaded = Loaded(world)
    node = world.add("a")
    assert joined(world, node)
    loaded.secret = b"t" * 32
    world.run(300)
    assert node.client.state == "registered"
    assert len(sent(world, MessageType.REGISTRATION_REQUEST)) == 2 * len(node.client.leases)


def test_a_load_that_ends_leaves_nothing_behind() -> None:
    world = World(4)
    loaded = Loaded(world)
    node = world.add("a")
    assert joined(world, node)
    loaded.on = False
    world.run(3 * COOKIE_REFRESH_TIME)
    assert sent(world, MessageType.KEEP_ALIVE)[-1][-16:] == NO_MAC2
    assert node.client.state == "registered"


def test_a_cookie_reply_that_answers_nothing_changes_nothing() -> None:
    world = World(5)
    node = world.add("a")
    assert joined(world, node)
    mint = CookieMint(bytes(32), world.cloud.nms_key.public, world.cloud.chance)
    old = sent(world, MessageType.REGISTRATION_REQUEST)[0]
    reply = mint.reply(old, bytes(6), world.wall)
    for source in NMS_ENDPOINTS:
        assert not node.client.receive_datagram(reply, source, world.now, world.wall)
    assert node.client.datagrams_to_send() == []
    assert node.client.drops["unknown_transaction"] == len(NMS_ENDPOINTS)
    assert not node.client.receive_datagram(reply, Endpoint("203.0.113.1", 7001), world.now, world.wall)
    assert node.client.drops["unlisted_source"] == 1


def test_a_forged_cookie_cannot_be_sealed_without_the_request_and_a_real_one_of_another_source_only_delays() -> (
    None
):
    world = World(6)
    world.cloud.down = set(AS_ENDPOINTS)
    node = world.add("a")
    world.run(0.1)
    (request,) = sent(world, MessageType.LOGIN_REQUEST)
    asked = world.sent[0][2]
    mint = CookieMint(bytes(32), world.cloud.as_key.public, world.cloud.chance)
    blind = mint.reply(request[:-32] + bytes(32), bytes(6), world.wall)
    assert not node.client.receive_datagram(blind, asked, world.now, world.wall)
    assert node.client.drops["bad_cookie"] == 1
    watched = mint.reply(request, bytes(6), world.wall)
    assert node.client.receive_datagram(watched, asked, world.now, world.wall)
    assert not node.client.receive_datagram(watched, asked, world.now, world.wall), "once for each sending"
    world.cloud.down.clear()
    Loaded(world).on = False
    assert joined(world, node)


@pytest.mark.parametrize("kind", [MessageType.LOGIN_REQUEST, MessageType.REGISTRATION_REQUEST])
def test_a_busy_frontend_is_not_asked_a_second_time(kind: MessageType) -> None:
    world = World(7)
    receive: Receive = world.cloud.receive
    busy: set[Endpoint] = set()

    def answer_busy(datagram: bytes, source: Endpoint, at: Endpoint, wall: float) -> list[Datagram]:
        if datagram[0] == kind and (not busy or at in busy):
            busy.add(at)
            return [(encode_hint(MessageType.BUSY, SignalingHeader.decode(datagram)), at, source)]
        return receive(datagram, source, at, wall)

    world.cloud.receive = answer_busy  # type: ignore[method-assign]
    node = world.add("a")
    assert joined(world, node)
    asked = [(time, endpoint) for time, datagram, endpoint in world.sent if datagram[0] == kind]
    in_family = [each for each in asked if each[1].family == asked[0][1].family or kind in AS_REQUESTS]
    (first, one), (second, other), *_ = in_family
    assert one != other
    assert 0.5 <= second - first <= 0.5 * 1.1 + 1.0


def test_busy_after_busy_delays_a_request_but_never_past_its_end() -> None:
    world = World(8)
    node = world.add("a")
    world.cloud.down = set(AS_ENDPOINTS)
    (request,) = sent(world, MessageType.LOGIN_REQUEST)
    hint = encode_hint(MessageType.BUSY, SignalingHeader.decode(request))
    end = world.now + GIVE_UP_AFTER - 0.1
    while world.now < end:
        for endpoint in AS_ENDPOINTS:
            node.client.receive_datagram(hint, endpoint, world.now, world.wall)
        world.run(0.05)
    assert 4 <= len(sent(world, MessageType.LOGIN_REQUEST)) <= 5
