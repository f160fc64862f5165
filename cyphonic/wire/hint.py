"""Hints from the cloud to a node: shown or acted on with care, never trusted alone, never longer than their cause.

Busy, KeyUnknown and VersionHint are a bare signaling header that repeats the request's node ID and transaction
ID.  A VersionHint also repeats the request's version, so that whoever asked can read it, and says in its flags
which version the service speaks.  A CookieReply repeats 39 bytes of its request, whose layout is that of a
signaling header or, at a relay, of a RelayBind, and brings a sealed cookie, 96 bytes in all::

    type | bytes 1 to 39 of the request | nonce (24) | XChaCha20-Poly1305(service's cookie key, cookie; AD: MAC1)
"""

from __future__ import annotations

from typing import NamedTuple

from cyphonic.errors import MalformedError
from cyphonic.wire.header import SIGNALING_HEADER_LENGTH, VERSION, MessageType, SignalingHeader

COOKIE_LENGTH = 16
COOKIE_NONCE_LENGTH = 24
COOKIE_REPLY_LENGTH = SIGNALING_HEADER_LENGTH + COOKIE_NONCE_LENGTH + COOKIE_LENGTH + 16

HINTS = frozenset({MessageType.BUSY, MessageType.KEY_UNKNOWN, MessageType.VERSION_HINT})

_SEALED_START = SIGNALING_HEADER_LENGTH + COOKIE_NONCE_LENGTH


def encode_hint(hint: MessageType, cause: SignalingHeader) -> bytes:
    """A 40-byte hint about the request with header ``cause``."""
    return cause._replace(type=hint, flags=0).encode()


def encode_version_hint(request: bytes) -> bytes:
    """A 40-byte hint about a request of another version, of at least 40 bytes."""
    return b"%c%c%b%b" % (
        MessageType.VERSION_HINT,
        request[1],
        VERSION.to_bytes(2, "big"),
        request[4:SIGNALING_HEADER_LENGTH],
    )


def repeated(datagram: bytes) -> bytes:
    """What a CookieReply repeats of its request: everything of the header but the type."""
    return datagram[1:SIGNALING_HEADER_LENGTH]


class CookieReply(NamedTuple):
    """A cookie for whoever sent the request that it repeats."""

    repeated: bytes
    nonce: bytes
    sealed: bytes

    def encode(self) -> bytes:
        """The 96 bytes."""
        return bytes((MessageType.COOKIE_REPLY,)) + self.repeated + self.nonce + self.sealed

    @classmethod
    def decode(cls, datagram: bytes) -> CookieReply:
        """Raise MalformedError."""
        if len(datagram) != COOKIE_REPLY_LENGTH or datagram[0] != MessageType.COOKIE_REPLY:
            raise MalformedError("bad_length")
        return cls(repeated(datagram), datagram[SIGNALING_HEADER_LENGTH:_SEALED_START], datagram[_SEALED_START:])
