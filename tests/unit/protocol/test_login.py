from __future__ import annotations

import os

import pytest

from cyphonic.errors import MalformedError, NotAllowedError
from cyphonic.protocol.keys import KeyPair
from cyphonic.protocol.login import LoginInitiator, read_login_request, write_login_response
from cyphonic.protocol.mac import check_mac1, mac1_key, strip_macs
from cyphonic.wire.header import MessageType, SignalingHeader
from cyphonic.wire.login import LoginOutcome, LoginRequest, LoginResponse

NODE = KeyPair.from_secret(b"n" * 32)
AS = KeyPair.from_secret(b"a" * 32)
TRANSACTION = b"t" * 16
REQUEST = LoginRequest(1, "printer", b"", [2, 1], "cyphonic 0.1.0")
RESPONSE = LoginResponse(LoginOutcome.ACCEPTED, common_key=b"k" * 32, key_number=1, key_lifetime=86400)


def begin() -> tuple[LoginInitiator, bytes]:
    initiator = LoginInitiator(NODE, AS.public, os.urandom)
    return initiator, initiator.request(TRANSACTION, REQUEST)


def test_a_login_goes_there_and_back() -> None:
    initiator, datagram = begin()
    check_mac1(datagram, mac1_key(AS.public))
    attempt = read_login_request(strip_macs(datagram), AS)
    assert attempt.static_key == NODE.public
    assert attempt.header == SignalingHeader(MessageType.LOGIN_REQUEST, 0, bytes(16), TRANSACTION)
    assert (attempt.body.stamp, attempt.body.name, attempt.body.suites) == (1, "printer", [2, 1])
    assert initiator.read_response(write_login_response(attempt, RESPONSE, os.urandom)) == RESPONSE


@pytest.mark.parametrize(
    "body",
    [
        REQUEST,
        LoginRequest(0, "", b"", [], ""),
        LoginRequest(2**64 - 1, "x" * 63, b"k" * 64, [255] * 8, "\N{GRINNING FACE}" * 32),
    ],
)
def test_a_request_is_padded_so_that_no_answer_is_longer(body: LoginRequest) -> None:
    assert len(LoginInitiator(NODE, AS.public, os.urandom).request(TRANSACTION, body)) == 1200


def test_any_worker_that_reads_the_saved_bytes_can_answer_and_more_than_once() -> None:
    initiator, datagram = begin()
    saved = strip_macs(datagram)
    attempt = read_login_request(saved, AS)
    answers = [write_login_response(attempt, RESPONSE, os.urandom) for _ in range(2)]
    answers.append(write_login_response(read_login_request(saved, AS), RESPONSE, os.urandom))
    assert len(set(answers)) == 3
    for answer in answers:
        assert initiator.read_response(answer) == RESPONSE


def test_no_flipped_bit_of_a_request_passes() -> None:
    saved = strip_macs(begin()[1])
    for position in [*range(8 * 200), *range(8 * 200, 8 * len(saved), 61)]:
        changed = bytearray(saved)
        changed[position // 8] ^= 1 << position % 8
        with pytest.raises(MalformedError):
            read_login_request(bytes(changed), AS)


def test_no_flipped_bit_of_an_answer_passes_and_none_spoils_the_login() -> None:
    initiator, datagram = begin()
    answer = write_login_response(read_login_request(strip_macs(datagram), AS), RESPONSE, os.urandom)
    for position in range(8 * len(answer)):
        changed = bytearray(answer)
        changed[position // 8] ^= 1 << position % 8
        with pytest.raises((MalformedError, NotAllowedError)):
            initiator.read_response(bytes(changed))
    assert initiator.read_response(answer) == RESPONSE


def test_truncated_messages_are_refused() -> None:
    initiator, datagram = begin()
    saved = strip_macs(datagram)
    answer = write_login_response(read_login_request(saved, AS), RESPONSE, os.urandom)
    for length in range(len(answer)):
        with pytest.raises(MalformedError):
            initiator.read_response(answer[:length])
    for length in (0, 39, 40, 71, 72, 119, 120, 135, 136, len(saved) - 1):
        with pytest.raises(MalformedError):
            read_login_request(saved[:length], AS)


def test_an_answer_to_another_transaction_is_not_ours() -> None:
    initiator, _ = begin()
    other = LoginInitiator(NODE, AS.public, os.urandom).request(b"o" * 16, REQUEST)
    answer = write_login_response(read_login_request(strip_macs(other), AS), RESPONSE, os.urandom)
    with pytest.raises(NotAllowedError, match="unknown_transaction"):
        initiator.read_response(answer)


def test_an_answer_to_the_same_transaction_of_another_request_is_not_authentic() -> None:
    initiator, _ = begin()
    _, again = begin()
    answer = write_login_response(read_login_request(strip_macs(again), AS), RESPONSE, os.urandom)
    with pytest.raises(MalformedError, match="bad_handshake"):
        initiator.read_response(answer)


def test_nothing_is_an_answer_before_there_is_a_request() -> None:
    with pytest.raises(NotAllowedError, match="unknown_transaction"):
        LoginInitiator(NODE, AS.public, os.urandom).read_response(bytes(103))


def test_a_request_for_another_as_is_refused() -> None:
    with pytest.raises(MalformedError, match="bad_handshake"):
        read_login_request(strip_macs(begin()[1]), KeyPair.from_secret(b"b" * 32))


def test_a_refusal_is_an_answer_too() -> None:
    initiator, datagram = begin()
    refusal = LoginResponse(LoginOutcome.NAME_TAKEN)
    answer = write_login_response(read_login_request(strip_macs(datagram), AS), refusal, os.urandom)
    assert initiator.read_response(answer) == refusal


def test_an_answer_that_would_need_fragments_is_refused() -> None:
    attempt = read_login_request(strip_macs(begin()[1]), AS)
    with pytest.raises(MalformedError, match="too_long"):
        write_login_response(attempt, LoginResponse(0, certificate=bytes(1100)), os.urandom)
