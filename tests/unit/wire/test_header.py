from __future__ import annotations

import pytest

from cyphonic.errors import MalformedError
from cyphonic.wire.header import (
    AS_REQUESTS,
    INTERNAL,
    NMS_REQUESTS,
    CapsuleHeader,
    MessageType,
    SignalingHeader,
    decode_relayed,
    encode_relayed,
)
from cyphonic.wire.hint import HINTS, encode_hint
from cyphonic.wire.job import JOB_SERVICE


def test_a_signaling_header_is_laid_out_as_drawn() -> None:
    header = SignalingHeader(MessageType.KEEP_ALIVE, 0x01020304, b"n" * 16, b"t" * 16, 0x0506)
    data = bytes.fromhex("32 01 0506 01020304") + b"n" * 16 + b"t" * 16
    assert header.encode() == data
    assert SignalingHeader.decode(data + b"whatever follows") == header


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "too_short"),
        (b"\x32\x01" + bytes(37), "too_short"),
        (b"\x32\x02" + bytes(38), "unknown_version"),
        (b"\xff\x01" + bytes(38), "unknown_type"),
        (b"\x00\x01" + bytes(38), "unknown_type"),
    ],
)
def test_what_is_no_signaling_header_is_refused(data: bytes, reason: str) -> None:
    with pytest.raises(MalformedError, match=reason):
        SignalingHeader.decode(data)


def test_a_capsule_header_is_laid_out_as_drawn() -> None:
    header = CapsuleHeader(MessageType.CAPSULE, 1, 2, 3, 0x04050607, 0x08090A0B0C0D0E0F)
    data = bytes.fromhex("04 01 02 03 04050607 08090a0b0c0d0e0f")
    assert header.encode() == data
    assert CapsuleHeader.decode(data + b"sealed") == header
    with pytest.raises(MalformedError, match="too_short"):
        CapsuleHeader.decode(data[:-1])


def test_a_relayed_header_is_laid_out_as_drawn() -> None:
    assert encode_relayed(0xFFFEFDFC) == bytes.fromhex("10 000000 fffefdfc")
    assert decode_relayed(encode_relayed(0xFFFEFDFC) + b"capsule") == 0xFFFEFDFC
    with pytest.raises(MalformedError, match="too_short"):
        decode_relayed(bytes(7))


def test_a_hint_repeats_its_cause_and_is_not_longer() -> None:
    cause = SignalingHeader(MessageType.KEEP_ALIVE, 5, b"n" * 16, b"t" * 16, 9)
    for hint in HINTS:
        data = encode_hint(hint, cause)
        assert len(data) == 40
        assert SignalingHeader.decode(data) == cause._replace(type=hint, flags=0)


def test_no_type_is_legal_at_two_places() -> None:
    assert not AS_REQUESTS & NMS_REQUESTS
    assert not INTERNAL & (AS_REQUESTS | NMS_REQUESTS)
    assert set(JOB_SERVICE) == AS_REQUESTS | NMS_REQUESTS | INTERNAL
