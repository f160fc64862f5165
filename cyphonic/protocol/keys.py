"""Key pairs, key exchange, signatures and boxes, all through libsodium.

Secrets never show in ``repr``.  Bytes from a stranger that make libsodium refuse (a low-order point, a
forged box or signature) raise MalformedError.
"""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass, field
from functools import lru_cache

from nacl import bindings
from nacl.exceptions import CryptoError

from cyphonic.errors import MalformedError
from cyphonic.protocol.chance import Chance

KEY_LENGTH = 32
BOX_NONCE_LENGTH = bindings.crypto_box_NONCEBYTES
BOX_OVERHEAD = bindings.crypto_box_ZEROBYTES - bindings.crypto_box_BOXZEROBYTES
SIGNATURE_LENGTH = bindings.crypto_sign_BYTES


@dataclass(frozen=True, slots=True)
class KeyPair:
    """An X25519 key pair, 32 bytes each."""

    secret: bytes = field(repr=False)
    public: bytes

    @classmethod
    def generate(cls, chance: Chance) -> KeyPair:
        """A new pair from 32 bytes of chance."""
        return cls.from_secret(chance(KEY_LENGTH))

    @classmethod
    def from_secret(cls, secret: bytes) -> KeyPair:
        """The pair of a 32-byte secret."""
        return cls(secret, bindings.crypto_scalarmult_base(secret))


@dataclass(frozen=True, slots=True)
class SigningKeyPair:
    """An Ed25519 key pair; the seed is the secret, 32 bytes each."""

    seed: bytes = field(repr=False)
    public: bytes
    _expanded: bytes = field(repr=False)

    @classmethod
    def generate(cls, chance: Chance) -> SigningKeyPair:
        """A new pair from 32 bytes of chance."""
        return cls.from_seed(chance(KEY_LENGTH))

    @classmethod
    def from_seed(cls, seed: bytes) -> SigningKeyPair:
        """The pair of a 32-byte seed."""
        public, expanded = bindings.crypto_sign_seed_keypair(seed)
        return cls(seed, public, expanded)

    def sign(self, message: bytes) -> bytes:
        """64 bytes of signature."""
        return bindings.crypto_sign(message, self._expanded)[:SIGNATURE_LENGTH]


def exchange(secret: bytes, public: bytes) -> bytes:
    """X25519, 32 bytes.  Raise MalformedError("bad_key") where the result would be zero (RFC 7748 §6.1)."""
    try:
        return bindings.crypto_scalarmult(secret, public)
    except CryptoError:
        raise MalformedError("bad_key") from None


def verify(public: bytes, message: bytes, signature: bytes) -> None:
    """Raise MalformedError("bad_signature") unless ``signature`` is 64 bytes of ``public`` over ``message``."""
    if len(signature) != SIGNATURE_LENGTH:
        raise MalformedError("bad_signature")
    try:
        bindings.crypto_sign_open(signature + message, public)
    except CryptoError:
        raise MalformedError("bad_signature") from None


def seal_box(secret: bytes, public: bytes, nonce: bytes, plaintext: bytes) -> bytes:
    """crypto_box under a 24-byte nonce: 16 bytes longer than ``plaintext``."""
    return bindings.crypto_box_easy_afternm(plaintext, nonce, _shared_key(secret, public))


def open_box(secret: bytes, public: bytes, nonce: bytes, box: bytes) -> bytes:
    """What ``seal_box`` sealed with the other halves.  Raise MalformedError("bad_box")."""
    if len(nonce) != BOX_NONCE_LENGTH or len(box) < BOX_OVERHEAD:
        raise MalformedError("bad_box")
    try:
        return bindings.crypto_box_open_easy_afternm(box, nonce, _shared_key(secret, public))
    except CryptoError:
        raise MalformedError("bad_box") from None


@lru_cache(maxsize=64)
def _shared_key(secret: bytes, public: bytes) -> bytes:
    """A service boxes for a handful of others: this saves the key exchange on all but the first."""
    try:
        return bindings.crypto_box_beforenm(public, secret)
    except CryptoError:
        raise MalformedError("bad_key") from None


def encode_key(key: bytes) -> str:
    """Base64 of a 32-byte key, 44 characters, as key files and bundles hold it."""
    return base64.b64encode(key).decode("ascii")


def decode_key(text: str) -> bytes:
    """The 32 bytes of a key in base64; raise ValueError with a reason that does not repeat the key."""
    try:
        key = base64.b64decode(text.strip(), validate=True)
    except (binascii.Error, ValueError):
        raise ValueError("a key is 44 characters of base64") from None
    if len(key) != KEY_LENGTH:
        raise ValueError(f"a key is {KEY_LENGTH} bytes in base64, not {len(key)}")
    return key
