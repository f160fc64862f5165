from __future__ import annotations

import pytest

from cyphonic.errors import MalformedError
from cyphonic.wire.codec import Body, decode, encode
from cyphonic.wire.registration import KeepAlive, KeepAliveAck


class Today(Body, frozen=True):
    number: int


class Tomorrow(Body, frozen=True):
    number: int
    addition: str = "default"


def test_a_body_is_an_array_of_its_fields() -> None:
    assert encode(KeepAliveAck(b"\x01" * 6, True, 5)) == bytes.fromhex("93 c406 010101010101 c3 05")
    assert decode(bytes.fromhex("93 c406 010101010101 c3 05"), KeepAliveAck) == KeepAliveAck(b"\x01" * 6, True, 5)


def test_an_older_reader_passes_over_what_a_newer_version_adds() -> None:
    assert decode(encode(Tomorrow(1, "new")), Today) == Today(1)
    assert decode(encode(Today(1)), Tomorrow) == Tomorrow(1, "default")


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x90",
        b"\x91",
        b"\x91\xc0",
        b"\x91\xff",
        b"\x91\xa1x",
        b"\x81\xa7counter\x01",
        b"\x91\x01\x00",
        b"\x01",
        b"\xc1",
        b"\x91" * 100_000,
    ],
)
def test_bytes_that_are_no_such_body_are_refused(data: bytes) -> None:
    with pytest.raises(MalformedError, match="bad_body"):
        decode(data, KeepAlive)


def test_text_that_is_no_utf_8_is_refused() -> None:
    with pytest.raises(MalformedError, match="bad_body"):
        decode(b"\x92\x01\xa1\xff", Tomorrow)


def test_the_greatest_integer_of_the_wire_passes() -> None:
    assert decode(encode(KeepAlive(2**64 - 1)), KeepAlive) == KeepAlive(2**64 - 1)
