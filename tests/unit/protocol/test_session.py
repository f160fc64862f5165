from __future__ import annotations

import pytest

from cyphonic.errors import DropError, MalformedError, NotAllowedError
from cyphonic.protocol.limits import (
    REJECT_AFTER_MESSAGES,
    REJECT_AFTER_TIME,
    REKEY_AFTER_MESSAGES,
    REKEY_AFTER_TIME,
    REPLAY_WINDOW,
)
from cyphonic.protocol.session import SESSION_OVERHEAD, Session, supported_suites
from cyphonic.wire.header import CapsuleHeader, MessageType
from cyphonic.wire.tunnel import Suite

ONE, TWO = b"1" * 32, b"2" * 32


@pytest.fixture(params=list(Suite), ids=lambda suite: suite.name)
def ends(request: pytest.FixtureRequest) -> tuple[Session, Session]:
    """The initiator's session and the responder's."""
    suite: Suite = request.param
    return (
        Session(suite, ONE, TWO, local_index=11, peer_index=22, initiator=True),
        Session(suite, TWO, ONE, local_index=22, peer_index=11, initiator=False),
    )


Ends = tuple[Session, Session]


@pytest.mark.parametrize("plaintext", [b"", b"x", bytes(1400)])
def test_what_one_end_seals_the_other_opens(ends: Ends, plaintext: bytes) -> None:
    for sender, receiver in (ends, ends[::-1]):
        for counter in range(3):
            datagram = sender.seal(MessageType.CAPSULE, plaintext)
            assert len(datagram) == len(plaintext) + SESSION_OVERHEAD
            header = CapsuleHeader(MessageType.CAPSULE, 0, 1, 0, receiver.local_index, counter)
            assert CapsuleHeader.decode(datagram) == header
            assert receiver.open(datagram) == (plaintext, counter)
        assert (sender.sent, sender.bytes_sent) == (3, 3 * len(plaintext))
        assert (receiver.received, receiver.bytes_received) == (3, 3 * len(plaintext))
        assert receiver.highest_counter == 2


def test_no_flipped_bit_passes_and_a_forgery_changes_nothing(ends: Ends) -> None:
    sender, receiver = ends
    datagram = sender.seal(MessageType.CAPSULE, b"a packet")
    for position in range(8 * len(datagram)):
        changed = bytearray(datagram)
        changed[position // 8] ^= 1 << position % 8
        with pytest.raises(DropError):
            receiver.open(bytes(changed))
    assert (receiver.highest_counter, receiver.received) == (-1, 0)
    assert receiver.open(datagram) == (b"a packet", 0)


def test_a_truncated_datagram_is_refused_at_every_length(ends: Ends) -> None:
    sender, receiver = ends
    datagram = sender.seal(MessageType.CAPSULE, b"a packet")
    for length in range(len(datagram)):
        with pytest.raises(MalformedError):
            receiver.open(datagram[:length])


def test_a_replayed_datagram_is_refused_and_a_late_one_is_not(ends: Ends) -> None:
    sender, receiver = ends
    datagrams = [sender.seal(MessageType.CAPSULE, bytes([number])) for number in range(4)]
    for number in (0, 3, 1):
        receiver.open(datagrams[number])
        with pytest.raises(NotAllowedError, match="replayed"):
            receiver.open(datagrams[number])
    assert receiver.highest_counter == 3
    assert receiver.open(datagrams[2]) == (b"\x02", 2)


def test_a_datagram_behind_the_window_is_too_old(ends: Ends) -> None:
    sender, receiver = ends
    late = sender.seal(MessageType.CAPSULE, b"")
    sender.sent = REPLAY_WINDOW
    receiver.open(sender.seal(MessageType.CAPSULE, b""))
    with pytest.raises(NotAllowedError, match="too_old"):
        receiver.open(late)


def test_a_datagram_reflected_to_its_sender_does_not_open() -> None:
    sender = Session(Suite.AES_256_GCM, ONE, TWO, local_index=11, peer_index=11, initiator=True)
    with pytest.raises(MalformedError, match="bad_seal"):
        sender.open(sender.seal(MessageType.CAPSULE, b""))


def test_another_index_is_refused(ends: Ends) -> None:
    sender, _ = ends
    with pytest.raises(MalformedError, match="bad_index"):
        sender.open(sender.seal(MessageType.CAPSULE, b""))


@pytest.mark.parametrize("pieces", [b"\x00\x02\x00", b"\x01\x01\x00", b"\x00\x01\x01"])
def test_a_piece_of_a_newer_version_is_not_taken_for_a_whole_packet(ends: Ends, pieces: bytes) -> None:
    sender, receiver = ends
    datagram = sender.seal(MessageType.CAPSULE, b"")
    with pytest.raises(MalformedError, match="bad_pieces"):
        receiver.open(datagram[:1] + pieces + datagram[4:])


def test_a_session_is_exhausted_before_its_counter_wraps(ends: Ends) -> None:
    sender, receiver = ends
    sender.sent = REJECT_AFTER_MESSAGES - 1
    last = sender.seal(MessageType.CAPSULE, b"last")
    assert receiver.open(last) == (b"last", REJECT_AFTER_MESSAGES - 1)
    with pytest.raises(NotAllowedError, match="session_exhausted"):
        sender.seal(MessageType.CAPSULE, b"")
    with pytest.raises(NotAllowedError, match="session_exhausted"):
        receiver.open(last[:8] + REJECT_AFTER_MESSAGES.to_bytes(8, "big") + last[16:])
    assert sender.expired(now=0.0)


def test_only_the_initiator_rekeys_by_age_and_either_by_count(ends: Ends) -> None:
    initiator, responder = ends
    for session in ends:
        session.established = 1000.0
        assert not session.needs_rekey(1000.0 + REKEY_AFTER_TIME - 1)
    assert initiator.needs_rekey(1000.0 + REKEY_AFTER_TIME)
    assert not responder.needs_rekey(1000.0 + REKEY_AFTER_TIME)
    responder.sent = REKEY_AFTER_MESSAGES
    assert responder.needs_rekey(1000.0)


def test_a_session_expires_by_age_once_the_owner_has_said_when_it_began(ends: Ends) -> None:
    session, _ = ends
    assert not session.expired(10.0**9)
    session.established = 1000.0
    assert not session.expired(1000.0 + REJECT_AFTER_TIME - 1)
    assert session.expired(1000.0 + REJECT_AFTER_TIME)


def test_the_suite_with_instructions_for_it_comes_first() -> None:
    assert supported_suites(has_aes=True)[0] is Suite.AES_256_GCM
    assert supported_suites(has_aes=False)[0] is Suite.CHACHA20_POLY1305
    assert set(supported_suites(True)) == set(supported_suites(False)) == set(Suite)
