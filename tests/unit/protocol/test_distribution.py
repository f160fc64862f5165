from __future__ import annotations

import os

import pytest

from cyphonic.errors import MalformedError
from cyphonic.protocol.distribution import open_distribution, seal_distribution
from cyphonic.protocol.keys import KeyPair
from cyphonic.wire.codec import Body
from cyphonic.wire.header import MessageType, SignalingHeader
from cyphonic.wire.login import KeyDistribution, KeyDistributionAck
from cyphonic.wire.registration import KeepAlive
from cyphonic.wire.revocation import RevocationOrder

AS = KeyPair.from_secret(b"a" * 32)
NMS = KeyPair.from_secret(b"n" * 32)
TRANSACTION = b"t" * 16
DISTRIBUTION = KeyDistribution(b"s" * 32, "printer.home.example", b"k" * 32, 1, 1)


def sealed() -> bytes:
    return seal_distribution(MessageType.KEY_DISTRIBUTION, TRANSACTION, DISTRIBUTION, AS, NMS.public, os.urandom)


@pytest.mark.parametrize(
    ("message_type", "body"),
    [
        (MessageType.KEY_DISTRIBUTION, DISTRIBUTION),
        (MessageType.KEY_DISTRIBUTION_ACK, KeyDistributionAck(b"s" * 32, 1, 0, b"n" * 16, b"6" * 16, b"4" * 4)),
        (MessageType.REVOCATION_ORDER, RevocationOrder(b"n" * 16)),
    ],
)
def test_a_job_opens_at_its_service(message_type: MessageType, body: Body) -> None:
    job = seal_distribution(message_type, TRANSACTION, body, AS, NMS.public, os.urandom)
    assert open_distribution(job, NMS, AS.public) == (
        SignalingHeader(message_type, 0, bytes(16), TRANSACTION),
        body,
    )


def test_a_service_may_send_to_itself() -> None:
    job = seal_distribution(
        MessageType.REVOCATION_ORDER, TRANSACTION, RevocationOrder(b"n" * 16), NMS, NMS.public, os.urandom
    )
    assert open_distribution(job, NMS, NMS.public)[1] == RevocationOrder(b"n" * 16)


def test_no_flipped_bit_passes_header_included() -> None:
    job = sealed()
    for position in range(8 * len(job)):
        changed = bytearray(job)
        changed[position // 8] ^= 1 << position % 8
        with pytest.raises(MalformedError):
            open_distribution(bytes(changed), NMS, AS.public)


def test_a_truncated_job_is_refused_at_every_length() -> None:
    job = sealed()
    for length in range(len(job)):
        with pytest.raises(MalformedError):
            open_distribution(job[:length], NMS, AS.public)


def test_a_job_of_somebody_else_is_refused() -> None:
    with pytest.raises(MalformedError, match="bad_box"):
        open_distribution(sealed(), NMS, KeyPair.from_secret(b"x" * 32).public)


def test_a_job_reflected_to_its_sender_does_not_become_the_answer() -> None:
    job = bytearray(sealed())
    job[0] = MessageType.KEY_DISTRIBUTION_ACK
    with pytest.raises(MalformedError, match="bad_header"):
        open_distribution(bytes(job), AS, NMS.public)


def test_a_type_of_the_datagrams_is_no_job() -> None:
    job = seal_distribution(MessageType.KEEP_ALIVE, TRANSACTION, KeepAlive(1), AS, NMS.public, os.urandom)
    with pytest.raises(MalformedError, match="bad_type"):
        open_distribution(job, NMS, AS.public)
