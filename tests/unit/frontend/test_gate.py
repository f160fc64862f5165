"""Who gets in, loaded or not, in virtual time."""

from __future__ import annotations

import random

import pytest

from cyphonic.errors import MalformedError
from cyphonic.frontend.gate import (
    BUSY_PER_SECOND,
    COOKIES_BEHIND,
    COOKIES_PER_SECOND,
    CROWD,
    KNOWN_BURST,
    VERSION_HINTS_PER_SECOND,
    Gate,
    TurnedAwayError,
    pack_source,
)
from cyphonic.protocol.cookie import CookieMint, add_mac2, cookie_key, open_cookie
from cyphonic.protocol.mac import append_macs, mac1_key
from cyphonic.wire.endpoint import Endpoint
from cyphonic.wire.header import MessageType, SignalingHeader

CHANCE = random.Random(5).randbytes
KEY = bytes(range(32))
HERE, THERE = pack_source("198.51.100.1", 4000), pack_source("2001:db8::1", 4000)
WALL = 1_800_000_000.0


class World:
    """A gate that may be loaded, and requests to it."""

    def __init__(self, *, loaded: bool = False, source_rate: float = 100.0) -> None:
        self.gate = Gate(source_rate, CHANCE)
        self.mint = CookieMint(b"s" * 32, KEY, CHANCE)
        self.now = 10.0
        if loaded:
            self.gate.gauge.overloaded(self.now)

    def admit(self, datagram: bytes, source: bytes = HERE) -> bool:
        return self.gate.admit(datagram, source, self.mint, self.now, WALL)

    def turned_away(self, datagram: bytes, source: bytes = HERE) -> TurnedAwayError:
        with pytest.raises(TurnedAwayError) as caught:
            self.admit(datagram, source)
        assert caught.value.answer is None or len(caught.value.answer) <= len(datagram)
        return caught.value

    def with_cookie(self, source: bytes = HERE) -> bytes:
        cookie = open_cookie(self.mint.reply(request(), source, WALL), request(), cookie_key(KEY))
        return add_mac2(request(), cookie)


def request(kind: MessageType = MessageType.KEEP_ALIVE) -> bytes:
    header = SignalingHeader(kind, 1, bytes(16), bytes(16))
    return append_macs(header.encode() + bytes(28), mac1_key(KEY))


def test_a_source_is_packed_as_the_wire_does_it() -> None:
    for host, port in (("198.51.100.1", 4000), ("2001:db8::1", 65535)):
        assert pack_source(host, port) == Endpoint(host, port).encode()


def test_without_load_strangers_come_in_behind_known_nodes() -> None:
    world = World()
    assert world.admit(request()) is False
    world.gate.note_sent(MessageType.KEEP_ALIVE_ACK, HERE, world.now)
    assert world.admit(request()) is True


@pytest.mark.parametrize(
    "kind", [MessageType.LOGIN_RESPONSE, MessageType.KEY_UNKNOWN, MessageType.BUSY, MessageType.COOKIE_REPLY]
)
def test_what_any_stranger_may_be_sent_makes_nobody_known(kind: MessageType) -> None:
    world = World()
    world.gate.note_sent(kind, HERE, world.now)
    assert world.admit(request()) is False


def test_under_load_a_stranger_needs_a_cookie_and_a_known_node_does_not() -> None:
    world = World(loaded=True)
    world.gate.note_sent(MessageType.KEEP_ALIVE_ACK, THERE, world.now)
    assert world.admit(request(), THERE) is True
    answer = world.turned_away(request())
    assert answer.reason == "needs_cookie"
    assert answer.answer is not None
    assert answer.answer[0] == MessageType.COOKIE_REPLY
    assert world.admit(world.with_cookie()) is False


@pytest.mark.parametrize("loaded", [False, True])
def test_a_mac2_that_is_neither_zero_nor_right_is_met_with_silence(loaded: bool) -> None:
    world = World(loaded=loaded)
    world.gate.note_sent(MessageType.KEEP_ALIVE_ACK, HERE, world.now)
    with pytest.raises(MalformedError, match="bad_mac2"):
        world.admit(request()[:-1] + b"\1")
    with pytest.raises(MalformedError, match="bad_mac2"):
        world.admit(world.with_cookie(THERE))


def test_who_forges_a_known_source_uses_up_its_rate_and_no_more() -> None:
    world = World(loaded=True)
    world.gate.note_sent(MessageType.KEEP_ALIVE_ACK, HERE, world.now)
    for _ in range(int(KNOWN_BURST)):
        assert world.admit(request())
    assert world.turned_away(request()).reason == "needs_cookie"
    assert world.admit(world.with_cookie()) is False, "the node itself still gets in, with a cookie"


def test_with_cookies_too_one_prefix_has_its_rate_and_is_told_that_it_is_busy() -> None:
    world = World(loaded=True, source_rate=5)
    datagram = world.with_cookie()
    assert [world.admit(datagram) for _ in range(10)] == [False] * 10
    refused = world.turned_away(datagram)
    assert refused.reason == "source_rate"
    assert refused.answer is not None
    assert SignalingHeader.decode(refused.answer).type is MessageType.BUSY
    assert world.admit(world.with_cookie(THERE), THERE) is False, "others have their own"


def test_hints_are_sent_at_a_rate() -> None:
    world = World(loaded=True)
    cookies = sum(world.turned_away(request()).answer is not None for _ in range(int(COOKIES_PER_SECOND)))
    assert cookies == COOKIES_PER_SECOND / 10
    cause = SignalingHeader.decode(request())
    assert sum(world.gate.busy(cause, world.now) is not None for _ in range(1000)) == BUSY_PER_SECOND
    hints = [world.gate.version_hint(request(), world.now) for _ in range(100)]
    assert sum(hint is not None for hint in hints) == VERSION_HINTS_PER_SECOND
    assert world.gate.counts == {
        "cookie": cookies,
        "busy": BUSY_PER_SECOND,
        "version_hint": VERSION_HINTS_PER_SECOND,
    }


def test_a_crowd_of_strangers_keeps_a_load_up_and_a_few_do_not() -> None:
    for rate, stays in ((CROWD / 2, False), (CROWD * 3, True)):
        world = World(loaded=True)
        while world.now < 18 and world.gate.gauge.loaded(world.now):
            world.turned_away(request())
            world.now += 1 / rate
        assert world.gate.gauge.loaded(17.9) is stays


def test_who_is_known_or_has_a_cookie_is_never_shed_and_of_strangers_a_few_are_let_through() -> None:
    world = World(loaded=True)
    world.gate.note_sent(MessageType.KEEP_ALIVE_ACK, THERE, world.now)
    assert not world.gate.shed(request(), THERE, world.now)
    assert not world.gate.shed(world.with_cookie(), HERE, world.now)
    shed = sum(world.gate.shed(request(), HERE, world.now) for _ in range(1000))
    assert shed == 1000 - COOKIES_BEHIND / 10


def test_nobody_is_shed_without_load_and_shedding_keeps_a_load_up() -> None:
    world = World()
    assert not any(world.gate.shed(request(), HERE, world.now) for _ in range(1000))
    world.gate.gauge.overloaded(world.now)
    world.now += 4
    for _ in range(1000):
        world.gate.shed(request(), HERE, world.now)
    assert world.gate.gauge.loaded(world.now + 4)
