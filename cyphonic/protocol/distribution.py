"""Jobs between AS and NMS through the pipeline: KeyDistribution, its ack, RevocationOrder.

::

    signaling header (40) | nonce (24, random) | crypto_box of {the same header, encoded body}

crypto_box has no associated data, so the header stands inside the box once more and both must be equal.  The box
is authenticated by the sender's static key; both directions share a key, and the type tells them apart.
"""

from __future__ import annotations

from cyphonic.errors import MalformedError
from cyphonic.protocol.chance import Chance
from cyphonic.protocol.keys import BOX_NONCE_LENGTH, BOX_OVERHEAD, KeyPair, open_box, seal_box
from cyphonic.wire.codec import Body, decode, encode
from cyphonic.wire.header import NO_NODE, SIGNALING_HEADER_LENGTH, MessageType, SignalingHeader
from cyphonic.wire.login import KeyDistribution, KeyDistributionAck
from cyphonic.wire.revocation import RevocationOrder

_BODY_TYPES: dict[MessageType, type[Body]] = {
    MessageType.KEY_DISTRIBUTION: KeyDistribution,
    MessageType.KEY_DISTRIBUTION_ACK: KeyDistributionAck,
    MessageType.REVOCATION_ORDER: RevocationOrder,
}
_BOX_START = SIGNALING_HEADER_LENGTH + BOX_NONCE_LENGTH
_MIN_LENGTH = _BOX_START + BOX_OVERHEAD + SIGNALING_HEADER_LENGTH


def seal_distribution(
    message_type: MessageType,
    transaction_id: bytes,
    body: Body,
    sender: KeyPair,
    recipient_public: bytes,
    chance: Chance,
) -> bytes:
    """A job for the service that owns ``recipient_public``."""
    header = SignalingHeader(message_type, 0, NO_NODE, transaction_id).encode()
    nonce = chance(BOX_NONCE_LENGTH)
    return header + nonce + seal_box(sender.secret, recipient_public, nonce, header + encode(body))


def open_distribution(data: bytes, recipient: KeyPair, sender_public: bytes) -> tuple[SignalingHeader, Body]:
    """Header and body of a job.  Raise MalformedError("too_short", "bad_type", "bad_box", "bad_header", …)."""
    if len(data) < _MIN_LENGTH:
        raise MalformedError("too_short")
    header = SignalingHeader.decode(data)
    body_type = _BODY_TYPES.get(header.type)
    if body_type is None:
        raise MalformedError("bad_type")
    plaintext = open_box(
        recipient.secret, sender_public, data[SIGNALING_HEADER_LENGTH:_BOX_START], data[_BOX_START:]
    )
    if plaintext[:SIGNALING_HEADER_LENGTH] != data[:SIGNALING_HEADER_LENGTH]:
        raise MalformedError("bad_header")
    return header, decode(plaintext[SIGNALING_HEADER_LENGTH:], body_type)
