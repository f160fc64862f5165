from __future__ import annotations

import os

import pytest

from cyphonic.errors import MalformedError, NotAllowedError
from cyphonic.protocol.handshake import (
    TunnelInitiator,
    choose_suite,
    read_tunnel_request,
    write_tunnel_response,
)
from cyphonic.protocol.keys import KeyPair
from cyphonic.protocol.mac import append_path_mac, path_mac_key
from cyphonic.protocol.session import supported_suites
from cyphonic.wire.header import MessageType
from cyphonic.wire.tunnel import Suite

ALICE = KeyPair.from_secret(b"a" * 32)
BOB = KeyPair.from_secret(b"b" * 32)
PATH_ID = b"p" * 16
PATH_KEY = b"k" * 32
AES, CHACHA = Suite.AES_256_GCM, Suite.CHACHA20_POLY1305
BOTH = (AES, CHACHA)


def begin(path_key: bytes = PATH_KEY) -> TunnelInitiator:
    return TunnelInitiator(ALICE, BOB.public, PATH_ID, path_key, 0x11111111, os.urandom)


@pytest.mark.parametrize("suite", BOTH)
def test_two_nodes_come_to_a_session(suite: Suite) -> None:
    initiator = begin()
    request = initiator.request(5, [suite])
    attempt = read_tunnel_request(request, BOB, PATH_KEY)
    assert attempt.remote_static == ALICE.public
    assert (attempt.payload.stamp, attempt.payload.suites) == (5, [suite])
    assert (attempt.sender_index, attempt.path_id) == (0x11111111, PATH_ID)
    response, bobs = write_tunnel_response(attempt, PATH_KEY, 0x22222222, suite, os.urandom)
    alices = initiator.read_response(response)
    assert (alices.suite, bobs.suite) == (suite, suite)
    assert (alices.initiator, bobs.initiator) == (True, False)
    assert (alices.local_index, alices.peer_index) == (0x11111111, 0x22222222)
    assert (bobs.local_index, bobs.peer_index) == (0x22222222, 0x11111111)
    assert bobs.open(alices.seal(MessageType.CAPSULE, b"there")) == (b"there", 0)
    assert alices.open(bobs.seal(MessageType.CAPSULE, b"back")) == (b"back", 0)


def test_an_attempt_answered_twice_gives_two_sessions_and_the_initiator_takes_either() -> None:
    initiator = begin()
    attempt = read_tunnel_request(initiator.request(1, BOTH), BOB, PATH_KEY)
    for index in (7, 8):
        response, bobs = write_tunnel_response(attempt, PATH_KEY, index, AES, os.urandom)
        assert bobs.open(initiator.read_response(response).seal(MessageType.CAPSULE, b"x")) == (b"x", 0)


def test_no_flipped_bit_of_either_message_passes_and_none_spoils_the_handshake() -> None:
    initiator = begin()
    request = initiator.request(1, BOTH)
    for position in range(8 * len(request)):
        changed = bytearray(request)
        changed[position // 8] ^= 1 << position % 8
        with pytest.raises(MalformedError):
            read_tunnel_request(bytes(changed), BOB, PATH_KEY)
    response, _ = write_tunnel_response(read_tunnel_request(request, BOB, PATH_KEY), PATH_KEY, 9, AES, os.urandom)
    for position in range(8 * len(response)):
        changed = bytearray(response)
        changed[position // 8] ^= 1 << position % 8
        with pytest.raises(MalformedError):
            initiator.read_response(bytes(changed))
    assert initiator.read_response(response).peer_index == 9


def test_truncated_messages_are_refused_at_every_length_under_a_good_mac_too() -> None:
    initiator = begin()
    request = initiator.request(1, BOTH)
    response, _ = write_tunnel_response(read_tunnel_request(request, BOB, PATH_KEY), PATH_KEY, 9, AES, os.urandom)
    key = path_mac_key(PATH_KEY)
    for length in range(len(request) - 16):
        for bad in (request[:length], append_path_mac(request[:length], key)):
            with pytest.raises(MalformedError):
                read_tunnel_request(bad, BOB, PATH_KEY)
    for length in range(len(response) - 16):
        for bad in (response[:length], append_path_mac(response[:length], key)):
            with pytest.raises(MalformedError):
                initiator.read_response(bad)


def test_who_holds_the_path_key_cannot_move_a_request_to_another_path() -> None:
    request = begin().request(1, BOTH)
    moved = append_path_mac(request[:8] + b"q" * 16 + request[24:-16], path_mac_key(PATH_KEY))
    with pytest.raises(MalformedError, match="bad_handshake"):
        read_tunnel_request(moved, BOB, PATH_KEY)


def test_another_path_key_is_refused_before_any_key_exchange() -> None:
    with pytest.raises(MalformedError, match="bad_path_mac"):
        read_tunnel_request(begin(b"other".ljust(32)).request(1, BOTH), BOB, PATH_KEY)


def test_another_node_cannot_answer() -> None:
    initiator = begin()
    with pytest.raises(MalformedError, match="bad_handshake"):
        read_tunnel_request(initiator.request(1, BOTH), ALICE, PATH_KEY)


def test_a_response_for_another_index_is_refused() -> None:
    initiator = begin()
    attempt = read_tunnel_request(initiator.request(1, BOTH), BOB, PATH_KEY)
    response, _ = write_tunnel_response(attempt, PATH_KEY, 9, AES, os.urandom)
    elsewhere = TunnelInitiator(ALICE, BOB.public, PATH_ID, PATH_KEY, 0x33333333, os.urandom)
    elsewhere.request(1, BOTH)
    with pytest.raises(MalformedError, match="bad_index"):
        elsewhere.read_response(response)


def test_a_suite_that_was_not_offered_is_refused() -> None:
    initiator = begin()
    attempt = read_tunnel_request(initiator.request(1, [CHACHA]), BOB, PATH_KEY)
    response, _ = write_tunnel_response(attempt, PATH_KEY, 9, AES, os.urandom)
    with pytest.raises(MalformedError, match="bad_suite"):
        initiator.read_response(response)
    response, _ = write_tunnel_response(attempt, PATH_KEY, 9, CHACHA, os.urandom)
    assert initiator.read_response(response).suite is CHACHA


def test_one_message_is_not_taken_for_the_other() -> None:
    initiator = begin()
    request = initiator.request(1, BOTH)
    with pytest.raises(MalformedError, match="bad_type"):
        initiator.read_response(request)
    with pytest.raises(MalformedError, match="bad_type"):
        read_tunnel_request(b"", BOB, PATH_KEY)


def test_a_second_request_is_a_mistake_of_the_caller() -> None:
    initiator = begin()
    initiator.request(1, BOTH)
    with pytest.raises(RuntimeError):
        initiator.request(2, BOTH)


@pytest.mark.parametrize(
    ("initiator_has_aes", "responder_has_aes", "chosen"),
    [(True, True, AES), (True, False, CHACHA), (False, True, CHACHA), (False, False, CHACHA)],
)
def test_aes_is_chosen_where_both_ends_have_instructions_for_it(
    initiator_has_aes: bool, responder_has_aes: bool, chosen: Suite
) -> None:
    assert choose_suite(supported_suites(initiator_has_aes), supported_suites(responder_has_aes)) is chosen


def test_a_suite_of_the_future_is_passed_over() -> None:
    assert choose_suite([99, AES], [CHACHA, AES]) is AES
    with pytest.raises(NotAllowedError, match="no_common_suite"):
        choose_suite([99], BOTH)
