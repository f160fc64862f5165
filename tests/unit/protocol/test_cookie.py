"""What a cookie proves, for how long, and when a node uses the one it has."""

from __future__ import annotations

import random

import pytest

from cyphonic.errors import DropError, MalformedError, NotAllowedError
from cyphonic.protocol.cookie import MAX_IN_FLIGHT, CookieJar, CookieMint, add_mac2, cookie_key, open_cookie
from cyphonic.protocol.keys import KeyPair
from cyphonic.protocol.limits import COOKIE_DOUBT_AFTER, COOKIE_REFRESH_TIME, GIVE_UP_AFTER
from cyphonic.protocol.mac import append_macs, mac1_key
from cyphonic.wire.endpoint import Endpoint
from cyphonic.wire.header import MessageType, SignalingHeader
from cyphonic.wire.hint import COOKIE_REPLY_LENGTH, encode_version_hint

CHANCE = random.Random(1).randbytes
SERVICE = KeyPair.generate(CHANCE)
KEY = cookie_key(SERVICE.public)
HERE, THERE = Endpoint("198.51.100.1", 4000).encode(), Endpoint("198.51.100.1", 4001).encode()
FRONTEND, OTHER = Endpoint("192.0.2.1", 7702), Endpoint("192.0.2.2", 7702)
WALL = 1_800_000_000.0


def mint(secret: bytes = b"s" * 32) -> CookieMint:
    return CookieMint(secret, SERVICE.public, CHANCE)


def request(number: int = 1) -> bytes:
    header = SignalingHeader(MessageType.KEEP_ALIVE, 1, bytes(16), number.to_bytes(16, "big"))
    return append_macs(header.encode() + bytes(40), mac1_key(SERVICE.public))


def dressed(source: bytes = HERE, wall: float = WALL) -> bytes:
    return add_mac2(request(), open_cookie(mint().reply(request(), source, wall), request(), KEY))


def test_a_cookie_proves_the_source_it_was_given_to() -> None:
    assert mint().proves(dressed(), HERE, WALL)
    assert not mint().proves(request(), HERE, WALL), "zero proves nothing, and is no offence"
    with pytest.raises(MalformedError, match="bad_mac2"):
        mint().proves(dressed(), THERE, WALL)


def test_every_frontend_of_the_fleet_checks_what_another_gave_and_no_other_fleet_does() -> None:
    assert mint().proves(dressed(), HERE, WALL)
    with pytest.raises(MalformedError):
        mint(b"t" * 32).proves(dressed(), HERE, WALL)


@pytest.mark.parametrize("age", [0.0, 60.0, COOKIE_REFRESH_TIME])
def test_a_cookie_is_good_for_as_long_as_a_node_keeps_it(age: float) -> None:
    for start in (WALL, WALL + 1, WALL + COOKIE_REFRESH_TIME - 0.001):
        assert mint().proves(dressed(wall=start), HERE, start + age)


def test_a_cookie_ends_with_the_slot_after_its_own() -> None:
    with pytest.raises(MalformedError):
        mint().proves(dressed(), HERE, WALL + 2 * COOKIE_REFRESH_TIME)


def test_the_secret_may_change_under_way() -> None:
    service = mint()
    assert service.proves(dressed(), HERE, WALL)
    service.fleet_secret = b"t" * 32
    with pytest.raises(MalformedError):
        service.proves(dressed(), HERE, WALL)


def test_no_bit_of_a_mac2_may_differ_set_or_not() -> None:
    for datagram in (request(), dressed()):
        for bit in range(128):
            flipped = bytearray(datagram)
            flipped[-1 - bit // 8] ^= 1 << bit % 8
            with pytest.raises(MalformedError, match="bad_mac2"):
                mint().proves(bytes(flipped), HERE, WALL)


def test_a_reply_is_no_longer_than_the_shortest_request() -> None:
    shortest = append_macs(
        SignalingHeader(MessageType.LEAVE, 1, bytes(16), bytes(16)).encode() + bytes(28), b"k" * 32
    )
    assert len(mint().reply(shortest, HERE, WALL)) == COOKIE_REPLY_LENGTH <= len(shortest)


def jar() -> CookieJar:
    """With one request in flight."""
    made = CookieJar()
    assert made.dress(request(), FRONTEND, 0.0) == request()
    return made


def reply() -> bytes:
    return mint().reply(request(), HERE, WALL)


def test_a_request_goes_out_again_with_mac2_and_later_ones_have_it_at_once() -> None:
    node = jar()
    again = node.accept(reply(), FRONTEND, KEY, 0.1)
    assert again[:-16] == request()[:-16]
    assert mint().proves(again, HERE, WALL)
    node.answered(request(), FRONTEND)
    assert mint().proves(node.dress(request(2), FRONTEND, 100.0), HERE, WALL)
    assert node.dress(request(3), OTHER, 100.0) == request(3)


def test_a_cookie_is_kept_for_two_minutes() -> None:
    node = jar()
    node.accept(reply(), FRONTEND, KEY, 0.0)
    node.answered(request(), FRONTEND)
    assert node.dress(request(2), FRONTEND, COOKIE_REFRESH_TIME) == request(2)


def test_a_cookie_that_is_met_with_silence_is_not_used_again() -> None:
    node = jar()
    node.accept(reply(), FRONTEND, KEY, 0.0)
    assert node.dress(request(2), FRONTEND, COOKIE_DOUBT_AFTER / 2) != request(2)
    assert node.dress(request(2), FRONTEND, COOKIE_DOUBT_AFTER) == request(2)


def test_a_node_that_has_moved_forgets_its_cookies() -> None:
    node = jar()
    node.accept(reply(), FRONTEND, KEY, 0.0)
    node.clear()
    assert node.dress(request(2), FRONTEND, 0.1) == request(2)


def test_each_sending_takes_one_cookie_reply() -> None:
    node = jar()
    node.accept(reply(), FRONTEND, KEY, 0.0)
    with pytest.raises(NotAllowedError, match="unknown_transaction"):
        node.accept(reply(), FRONTEND, KEY, 0.1)
    node.dress(request(), FRONTEND, 0.5)
    node.accept(reply(), FRONTEND, KEY, 0.6)


def test_a_cookie_reply_counts_only_for_what_is_in_flight_to_that_endpoint() -> None:
    node = jar()
    with pytest.raises(NotAllowedError):
        node.accept(reply(), OTHER, KEY, 0.0)
    with pytest.raises(NotAllowedError):
        node.accept(mint().reply(request(2), HERE, WALL), FRONTEND, KEY, 0.0)
    node.answered(request(), FRONTEND)
    with pytest.raises(NotAllowedError):
        node.accept(reply(), FRONTEND, KEY, 0.0)


def test_a_flipped_bit_in_a_cookie_reply_changes_nothing() -> None:
    good = reply()
    for position in range(1, len(good)):
        node = jar()
        broken = bytearray(good)
        broken[position] ^= 1
        with pytest.raises(DropError):
            node.accept(bytes(broken), FRONTEND, KEY, 0.0)
        assert node.dress(request(2), FRONTEND, 0.0) == request(2)


def test_a_jar_holds_no_more_requests_than_its_limit_and_forgets_old_ones() -> None:
    node = CookieJar()
    for number in range(MAX_IN_FLIGHT + 10):
        node.dress(request(number), FRONTEND, 0.0)
    assert len(node._sent) == MAX_IN_FLIGHT
    node.dress(request(0), FRONTEND, GIVE_UP_AFTER)
    assert len(node._sent) == 1


def test_a_version_hint_is_readable_to_whoever_asked_and_says_what_the_service_speaks() -> None:
    asked = bytes((MessageType.KEEP_ALIVE, 9)) + CHANCE(60)
    hint = encode_version_hint(asked)
    assert (hint[0], hint[1], hint[2:4], hint[4:]) == (MessageType.VERSION_HINT, 9, b"\0\1", asked[4:40])
