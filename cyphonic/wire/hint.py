"""Hints from the cloud to a node: shown or acted on with care, never trusted alone, never longer than their cause.

Busy, KeyUnknown and VersionHint are a bare signaling header that repeats the request's node ID and transaction
ID.  A CookieReply is that header, a nonce (24) and a sealed cookie (16 + 16)::

    signaling header (40) | nonce (24) | XChaCha20-Poly1305(key from the service's public key, cookie; AD: MAC1)
"""

from __future__ import annotations

from cyphonic.wire.header import SIGNALING_HEADER_LENGTH, MessageType, SignalingHeader

COOKIE_LENGTH = 16
COOKIE_NONCE_LENGTH = 24
COOKIE_REPLY_LENGTH = SIGNALING_HEADER_LENGTH + COOKIE_NONCE_LENGTH + COOKIE_LENGTH + 16

HINTS = frozenset({MessageType.BUSY, MessageType.KEY_UNKNOWN, MessageType.VERSION_HINT})


def encode_hint(hint: MessageType, cause: SignalingHeader) -> bytes:
    """A 40-byte hint about the request with header ``cause``."""
    return cause._replace(type=hint, flags=0).encode()
