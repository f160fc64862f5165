"""Secrets in Redis are sealed: who reads Redis, its AOF or a backup of it, has no common or path key.

::

    nonce (12, random) | ChaCha20-Poly1305 of the secret | tag (16)

The associated data is the place that the secret belongs to (a Redis key), so that a sealed value copied to another
place does not open.  The key is the site's state key, a file that only workers read.
"""

from __future__ import annotations

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from cyphonic.errors import MalformedError
from cyphonic.protocol.chance import Chance
from cyphonic.wire.header import NONCE_LENGTH


class Vault:
    """Seals and opens under one state key."""

    def __init__(self, state_key: bytes, chance: Chance) -> None:
        self._cipher = ChaCha20Poly1305(state_key)
        self._chance = chance

    def seal(self, place: bytes, secret: bytes) -> bytes:
        """28 bytes longer than ``secret``."""
        nonce = self._chance(NONCE_LENGTH)
        return nonce + self._cipher.encrypt(nonce, secret, place)

    def open(self, place: bytes, sealed: bytes) -> bytes:
        """Raise MalformedError("bad_vault"): another state key, another place, or damage."""
        try:
            return self._cipher.decrypt(sealed[:NONCE_LENGTH], sealed[NONCE_LENGTH:], place)
        except (InvalidTag, ValueError):
            raise MalformedError("bad_vault") from None
