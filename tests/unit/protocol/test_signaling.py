from __future__ import annotations

import os

import pytest

from cyphonic.errors import MalformedError
from cyphonic.protocol.signaling import open_signaling, seal_signaling
from cyphonic.wire.codec import decode
from cyphonic.wire.direction import DirectionRefused
from cyphonic.wire.header import MessageType, SignalingHeader
from cyphonic.wire.registration import KeepAlive

KEY = bytes(range(32))
HEADER = SignalingHeader(MessageType.KEEP_ALIVE, 7, b"n" * 16, b"t" * 16)


def open_any(datagram: bytes) -> bytes:
    """As a receiver does that knows nothing but the key."""
    return open_signaling(datagram, SignalingHeader.decode(datagram), KEY)


def test_what_is_sealed_opens() -> None:
    datagram = seal_signaling(HEADER, KeepAlive(42), KEY, os.urandom)
    assert SignalingHeader.decode(datagram) == HEADER
    assert decode(open_signaling(datagram, HEADER, KEY), KeepAlive) == KeepAlive(42)


def test_no_flipped_bit_passes_header_included() -> None:
    datagram = seal_signaling(HEADER, KeepAlive(42), KEY, os.urandom)
    for position in range(8 * len(datagram)):
        changed = bytearray(datagram)
        changed[position // 8] ^= 1 << position % 8
        with pytest.raises(MalformedError):
            open_any(bytes(changed))


def test_a_truncated_datagram_is_refused_at_every_length() -> None:
    datagram = seal_signaling(HEADER, KeepAlive(42), KEY, os.urandom)
    for length in range(len(datagram)):
        with pytest.raises(MalformedError):
            open_any(datagram[:length])


def test_the_header_that_the_caller_acted_upon_is_the_one_that_is_authentic() -> None:
    datagram = seal_signaling(HEADER, KeepAlive(42), KEY, os.urandom)
    with pytest.raises(MalformedError, match="bad_seal"):
        open_signaling(datagram, HEADER._replace(node_id=b"m" * 16), KEY)


def test_another_key_does_not_open() -> None:
    with pytest.raises(MalformedError, match="bad_seal"):
        open_signaling(seal_signaling(HEADER, KeepAlive(42), KEY, os.urandom), HEADER, bytes(32))


def test_every_sealing_has_its_own_nonce() -> None:
    datagrams = {seal_signaling(HEADER, KeepAlive(42), KEY, os.urandom)[40:52] for _ in range(50)}
    assert len(datagrams) == 50


def test_a_body_that_would_need_fragments_is_refused() -> None:
    with pytest.raises(MalformedError, match="too_long"):
        seal_signaling(HEADER, DirectionRefused(1, fqdn="x" * 1200), KEY, os.urandom)
