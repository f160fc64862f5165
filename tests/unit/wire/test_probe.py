from __future__ import annotations

import pytest

from cyphonic.errors import MalformedError
from cyphonic.wire.endpoint import Endpoint
from cyphonic.wire.probe import (
    MAX_PROBE_LENGTH,
    MIN_PROBE_LENGTH,
    PROBE_REPLY_LENGTH,
    RelayProbe,
    RelayProbeReply,
)

NONCE, TICKET = b"n" * 16, b"t" * 16
MACS = bytes(32)
ENDPOINT = Endpoint("192.0.2.1", 443)
MAPPED = "00000000000000000000ffffc0000201 01bb"


def test_a_probe_is_laid_out_as_drawn() -> None:
    plain = RelayProbe(NONCE)
    assert plain.encode() == bytes.fromhex("15 01 0000 00000000") + NONCE + bytes(18 + 16)
    redirected = RelayProbe(NONCE, True, ENDPOINT, TICKET)
    assert redirected.encode() == bytes.fromhex("15 01 0003 00000000") + NONCE + bytes.fromhex(MAPPED) + TICKET
    for probe in (plain, redirected):
        assert RelayProbe.decode(probe.encode() + MACS) == probe


def test_a_probe_is_padded_to_the_length_that_is_asked_for() -> None:
    for length in (MIN_PROBE_LENGTH, 1200, MAX_PROBE_LENGTH):
        datagram = RelayProbe(NONCE).encode(length) + MACS
        assert len(datagram) == length
        assert RelayProbe.decode(datagram) == RelayProbe(NONCE)


def test_a_reply_is_laid_out_as_drawn_and_shorter_than_any_probe() -> None:
    reply = RelayProbeReply(NONCE, ENDPOINT, 7704, TICKET, True)
    data = bytes.fromhex("16 01 0001 1e18 0000") + NONCE + bytes.fromhex(MAPPED) + TICKET
    assert reply.encode() == data
    assert RelayProbeReply.decode(data + bytes(16)) == reply
    assert PROBE_REPLY_LENGTH == len(data) + 16 < MIN_PROBE_LENGTH


@pytest.mark.parametrize("length", [0, MIN_PROBE_LENGTH - 1, MAX_PROBE_LENGTH + 1])
def test_a_probe_of_another_length_is_refused(length: int) -> None:
    with pytest.raises(MalformedError, match="bad_length"):
        RelayProbe.decode(bytes(length))


def test_another_version_is_refused_and_other_flags_are_ignored() -> None:
    datagram = bytearray(RelayProbe(NONCE).encode() + MACS)
    datagram[2:4] = b"\xff\xfc"
    assert RelayProbe.decode(bytes(datagram)) == RelayProbe(NONCE)
    datagram[1] = 2
    with pytest.raises(MalformedError, match="unknown_version"):
        RelayProbe.decode(bytes(datagram))
    reply = bytearray(RelayProbeReply(NONCE, ENDPOINT, 1, TICKET).encode() + bytes(16))
    reply[1] = 2
    with pytest.raises(MalformedError, match="unknown_version"):
        RelayProbeReply.decode(bytes(reply))


def test_an_elsewhere_that_is_no_endpoint_is_refused() -> None:
    datagram = bytearray(RelayProbe(NONCE).encode() + MACS)
    datagram[3] = 2
    with pytest.raises(MalformedError, match="bad_endpoint"):
        RelayProbe.decode(bytes(datagram))


@pytest.mark.parametrize("length", [0, PROBE_REPLY_LENGTH - 1])
def test_a_shorter_reply_is_refused(length: int) -> None:
    with pytest.raises(MalformedError, match="too_short"):
        RelayProbeReply.decode(bytes(length))


def test_a_longer_reply_of_a_later_version_is_read() -> None:
    reply = RelayProbeReply(NONCE, ENDPOINT, 7704, TICKET)
    assert RelayProbeReply.decode(reply.encode() + b"more" + bytes(16)) == reply
