"""Relay tokens: the NMS's word to one relay that a node may bind one role of one path.

::

    nonce (24, random) | crypto_box of the RelayToken body

A token is sealed with crypto_box, not the anonymous sealed box: only the NMS can have made it, only that relay can
read it.
"""

from __future__ import annotations

from cyphonic.errors import MalformedError
from cyphonic.protocol.chance import Chance
from cyphonic.protocol.keys import KeyPair, open_box, seal_box
from cyphonic.wire.codec import decode, encode
from cyphonic.wire.relay import MAX_TOKEN_LENGTH, MIN_TOKEN_LENGTH, TOKEN_NONCE_LENGTH, RelayToken


def seal_token(token: RelayToken, nms: KeyPair, relay_public: bytes, chance: Chance) -> bytes:
    """The token for the relay that owns ``relay_public``."""
    nonce = chance(TOKEN_NONCE_LENGTH)
    return nonce + seal_box(nms.secret, relay_public, nonce, encode(token))


def open_token(data: bytes, relay: KeyPair, nms_public: bytes) -> RelayToken:
    """What the NMS granted; its expiry is the caller's to check.  Raise MalformedError("bad_token")."""
    if not MIN_TOKEN_LENGTH <= len(data) <= MAX_TOKEN_LENGTH:
        raise MalformedError("bad_token")
    try:
        body = open_box(relay.secret, nms_public, data[:TOKEN_NONCE_LENGTH], data[TOKEN_NONCE_LENGTH:])
        return decode(body, RelayToken)
    except MalformedError:
        raise MalformedError("bad_token") from None
