"""Sealing what a node and the NMS say to each other, under the common key.

::

    signaling header (40) | nonce (12, random) | ChaCha20-Poly1305 of the body | tag (16)

The header is associated data.  Nonces are random because any worker may seal; a common key lives 24 hours and
seals far fewer than 2^32 messages (NIST SP 800-38D §8.3).  One key serves both directions: each message type is
legal in one direction only, and the type is in the header, so nothing can be reflected.
"""

from __future__ import annotations

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from cyphonic.errors import MalformedError
from cyphonic.protocol.chance import Chance
from cyphonic.wire.codec import Body, encode
from cyphonic.wire.header import (
    MAX_CONTROL_DATAGRAM,
    MIN_SEALED_LENGTH,
    NONCE_LENGTH,
    SIGNALING_HEADER_LENGTH,
    SignalingHeader,
)

_SEALED_START = SIGNALING_HEADER_LENGTH + NONCE_LENGTH


def seal_signaling(header: SignalingHeader, body: Body, common_key: bytes, chance: Chance) -> bytes:
    """A datagram without MACs.  Raise MalformedError("too_long") when it would exceed 1,200 bytes."""
    associated = header.encode()
    nonce = chance(NONCE_LENGTH)
    datagram = associated + nonce + ChaCha20Poly1305(common_key).encrypt(nonce, encode(body), associated)
    if len(datagram) > MAX_CONTROL_DATAGRAM:
        raise MalformedError("too_long")
    return datagram


def open_signaling(datagram: bytes, header: SignalingHeader, common_key: bytes) -> bytes:
    """The encoded body of a datagram without MACs, authenticated together with ``header``.

    Raise MalformedError("too_short" or "bad_seal").
    """
    if len(datagram) < MIN_SEALED_LENGTH:
        raise MalformedError("too_short")
    nonce, sealed = datagram[SIGNALING_HEADER_LENGTH:_SEALED_START], datagram[_SEALED_START:]
    try:
        return ChaCha20Poly1305(common_key).decrypt(nonce, sealed, header.encode())
    except InvalidTag:
        raise MalformedError("bad_seal") from None
