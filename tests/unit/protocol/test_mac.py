from __future__ import annotations

import pytest

from cyphonic.errors import MalformedError
from cyphonic.protocol.mac import (
    append_macs,
    append_path_mac,
    check_mac1,
    check_path_mac,
    mac,
    mac1_key,
    path_mac_key,
    strip_macs,
)

KEY = mac1_key(bytes(32))
DATAGRAM = b"a datagram"


def test_macs_are_appended_checked_and_stripped() -> None:
    sent = append_macs(DATAGRAM, KEY)
    check_mac1(sent, KEY)
    assert len(sent) == len(DATAGRAM) + 32
    assert sent[-16:] == bytes(16)
    assert strip_macs(sent) == DATAGRAM


def test_a_cookie_keys_the_second_mac_and_leaves_the_first() -> None:
    plain, with_cookie = append_macs(DATAGRAM, KEY), append_macs(DATAGRAM, KEY, b"c" * 16)
    assert with_cookie[:-16] == plain[:-16]
    assert with_cookie[-16:] == mac(b"c" * 16, plain[:-16])
    check_mac1(with_cookie, KEY)


def test_the_first_mac_covers_every_bit_before_it() -> None:
    sent = append_macs(DATAGRAM, KEY)
    for position in range(8 * (len(sent) - 16)):
        changed = bytearray(sent)
        changed[position // 8] ^= 1 << position % 8
        with pytest.raises(MalformedError, match="bad_mac1"):
            check_mac1(bytes(changed), KEY)


def test_another_services_key_does_not_pass() -> None:
    with pytest.raises(MalformedError, match="bad_mac1"):
        check_mac1(append_macs(DATAGRAM, KEY), mac1_key(b"\x01" * 32))


@pytest.mark.parametrize("length", [0, 15, 16, 31, 32])
def test_macs_alone_are_no_datagram(length: int) -> None:
    with pytest.raises(MalformedError, match="too_short"):
        check_mac1(bytes(length), KEY)


def test_the_path_mac_covers_every_bit() -> None:
    key = path_mac_key(bytes(32))
    sent = append_path_mac(DATAGRAM, key)
    check_path_mac(sent, key)
    for position in range(8 * len(sent)):
        changed = bytearray(sent)
        changed[position // 8] ^= 1 << position % 8
        with pytest.raises(MalformedError, match="bad_path_mac"):
            check_path_mac(bytes(changed), key)


@pytest.mark.parametrize("length", [0, 1, 15, 16])
def test_a_short_datagram_has_no_path_mac(length: int) -> None:
    with pytest.raises(MalformedError, match="bad_path_mac"):
        check_path_mac(bytes(length), path_mac_key(bytes(32)))


def test_the_path_key_itself_keys_no_mac() -> None:
    path_key = bytes(range(32))
    assert path_mac_key(path_key) != path_key
    assert path_mac_key(path_key) != mac1_key(path_key)
