from __future__ import annotations

import pytest

from cyphonic.errors import MalformedError
from cyphonic.wire.direction import Role
from cyphonic.wire.endpoint import Endpoint
from cyphonic.wire.relay import (
    BOUND_LENGTH,
    CHALLENGE_LENGTH,
    MAX_TOKEN_LENGTH,
    MIN_TOKEN_LENGTH,
    NO_CHALLENGE,
    RelayBind,
    RelayBindChallenge,
    RelayBound,
)

PATH_ID, CHALLENGE, TRAILER = b"p" * 16, b"c" * 16, bytes(48)


@pytest.mark.parametrize(("challenge", "type_byte"), [(NO_CHALLENGE, "11"), (CHALLENGE, "13")])
def test_a_bind_and_its_answer_are_laid_out_as_drawn(challenge: bytes, type_byte: str) -> None:
    bind = RelayBind(Role.RESPONDER, 3, PATH_ID, challenge, b"t" * 60)
    assert bind.encode() == bytes.fromhex(type_byte + "01 0001 00000003") + PATH_ID + challenge + b"t" * 60
    assert RelayBind.decode(bind.encode() + TRAILER) == bind


def test_a_challenge_is_laid_out_as_drawn() -> None:
    challenge = RelayBindChallenge(Role.INITIATOR, 3, PATH_ID, CHALLENGE)
    assert challenge.encode() == bytes.fromhex("12 01 0000 00000003") + PATH_ID + CHALLENGE
    assert RelayBindChallenge.decode(challenge.encode() + b"m" * 16) == challenge


@pytest.mark.parametrize(
    ("endpoint", "encoded"),
    [
        (Endpoint("192.0.2.1", 443), "00000000000000000000ffffc0000201 01bb"),
        (Endpoint("2001:db8::1", 443), "20010db8000000000000000000000001 01bb"),
    ],
)
def test_a_bound_is_laid_out_as_drawn(endpoint: Endpoint, encoded: str) -> None:
    bound = RelayBound(Role.INITIATOR, 3, PATH_ID, 0x01020304, 300, endpoint)
    data = bytes.fromhex("14 01 0000 00000003") + PATH_ID + bytes.fromhex("01020304 0000012c" + encoded)
    assert bound.encode() == data
    assert RelayBound.decode(data + b"m" * 16) == bound


def test_lengths_that_none_of_them_has_are_refused() -> None:
    for length in (0, CHALLENGE_LENGTH - 1):
        with pytest.raises(MalformedError, match="too_short"):
            RelayBindChallenge.decode(bytes(length))
    for length in (0, BOUND_LENGTH - 1):
        with pytest.raises(MalformedError, match="too_short"):
            RelayBound.decode(bytes(length))
    for length in (0, 40 + MIN_TOKEN_LENGTH + 48 - 1, 40 + MAX_TOKEN_LENGTH + 48 + 1):
        with pytest.raises(MalformedError, match="bad_length"):
            RelayBind.decode(bytes(length))


def test_a_type_that_contradicts_its_challenge_is_refused() -> None:
    bind = RelayBind(Role.INITIATOR, 3, PATH_ID, NO_CHALLENGE, b"t" * 60).encode() + TRAILER
    answer = RelayBind(Role.INITIATOR, 3, PATH_ID, CHALLENGE, b"t" * 60).encode() + TRAILER
    for contradiction in (answer[:1] + bind[1:], bind[:1] + answer[1:]):
        with pytest.raises(MalformedError, match="bad_challenge"):
            RelayBind.decode(contradiction)
    with pytest.raises(MalformedError, match="bad_challenge"):
        RelayBindChallenge.decode(RelayBindChallenge(Role.INITIATOR, 3, PATH_ID, NO_CHALLENGE).encode() + b"m" * 16)


def test_other_versions_are_refused_and_flags_without_a_meaning_ignored() -> None:
    messages = (
        (RelayBind, RelayBind(Role.INITIATOR, 3, PATH_ID, CHALLENGE, b"t" * 60).encode() + TRAILER),
        (RelayBindChallenge, RelayBindChallenge(Role.INITIATOR, 3, PATH_ID, CHALLENGE).encode() + b"m" * 16),
        (RelayBound, RelayBound(Role.INITIATOR, 3, PATH_ID, 1, 300, Endpoint("::1", 1)).encode() + b"m" * 16),
    )
    for message, datagram in messages:
        with pytest.raises(MalformedError, match="unknown_version"):
            message.decode(datagram[:1] + b"\x02" + datagram[2:])
        assert message.decode(datagram[:2] + b"\x80\x02" + datagram[4:]) == message.decode(datagram)


def test_what_a_later_version_adds_to_a_relays_answer_is_ignored() -> None:
    bound = RelayBound(Role.INITIATOR, 3, PATH_ID, 1, 300, Endpoint("::1", 1))
    assert RelayBound.decode(bound.encode() + b"more" + b"m" * 16) == bound
