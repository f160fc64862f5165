"""Noise handshakes of two messages: the Noise Protocol Framework, revision 34, with 25519, ChaChaPoly, BLAKE2s.

A pattern is rows of tokens, one row a message, as the specification prints them (§7.5, §9.4); the tokens of a
message are processed from left to right, key tokens by ``_mix``, the same for writer and reader.  IK logs a node
in; IKpsk2 lets two nodes meet, with the path key as PSK.

    IK:      <- s                   IKpsk2:  <- s
             ...                             ...
             -> e, es, s, ss                 -> e, es, s, ss
             <- e, ee, se                    <- e, ee, se, psk

Error contract: ``read_message`` raises MalformedError("bad_handshake") and changes nothing, so a forged message
never spoils a handshake.  Calls out of turn are mistakes of the caller and raise RuntimeError.
"""

from __future__ import annotations

import hmac
from copy import copy
from dataclasses import dataclass
from hashlib import blake2s
from typing import TypeVar

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from cyphonic.errors import MalformedError
from cyphonic.protocol.keys import KEY_LENGTH, KeyPair, exchange
from cyphonic.wire.header import TAG_LENGTH

ValueT = TypeVar("ValueT")


@dataclass(frozen=True, slots=True)
class Pattern:
    """A handshake pattern in which the initiator knows the responder's static key beforehand."""

    name: str
    messages: tuple[tuple[str, ...], ...]

    @property
    def protocol_name(self) -> bytes:
        """As the specification spells it, §8."""
        return f"Noise_{self.name}_25519_ChaChaPoly_BLAKE2s".encode()

    @property
    def has_psk(self) -> bool:
        """Whether a pre-shared key is mixed in; ephemeral keys are then hashed into the key as well, §9.2."""
        return any("psk" in tokens for tokens in self.messages)


IK = Pattern("IK", (("e", "es", "s", "ss"), ("e", "ee", "se")))
IKPSK2 = Pattern("IKpsk2", (("e", "es", "s", "ss"), ("e", "ee", "se", "psk")))


def _derive(chaining_key: bytes, material: bytes, outputs: int) -> list[bytes]:
    """HKDF, §4.3: two or three keys of 32 bytes."""
    temporary = hmac.digest(chaining_key, material, blake2s)
    keys = [b""]
    for number in range(1, outputs + 1):
        keys.append(hmac.digest(temporary, keys[-1] + bytes([number]), blake2s))
    return keys[1:]


class SymmetricState:
    """§5.2, and the CipherState of §5.1 inside it."""

    __slots__ = ("chaining_key", "hash", "key", "nonce")

    def __init__(self, protocol_name: bytes) -> None:
        padded = protocol_name.ljust(blake2s().digest_size, b"\0")
        self.hash = padded if len(padded) == blake2s().digest_size else blake2s(protocol_name).digest()
        self.chaining_key = self.hash
        self.key = b""
        self.nonce = 0

    def mix_hash(self, data: bytes) -> None:
        """MixHash."""
        self.hash = blake2s(self.hash + data).digest()

    def mix_key(self, material: bytes) -> None:
        """MixKey, InitializeKey included."""
        self.chaining_key, self.key = _derive(self.chaining_key, material, 2)
        self.nonce = 0

    def mix_key_and_hash(self, material: bytes) -> None:
        """MixKeyAndHash: how a PSK comes in."""
        self.chaining_key, for_hash, self.key = _derive(self.chaining_key, material, 3)
        self.mix_hash(for_hash)
        self.nonce = 0

    def encrypt_and_hash(self, plaintext: bytes) -> bytes:
        """EncryptAndHash; every message of our patterns has a key by then."""
        sealed = ChaCha20Poly1305(self.key).encrypt(self._next_nonce(), plaintext, self.hash)
        self.mix_hash(sealed)
        return sealed

    def decrypt_and_hash(self, sealed: bytes) -> bytes:
        """DecryptAndHash; raise InvalidTag."""
        plaintext = ChaCha20Poly1305(self.key).decrypt(self._next_nonce(), sealed, self.hash)
        self.mix_hash(sealed)
        return plaintext

    def split(self) -> tuple[bytes, bytes]:
        """Split: the keys, without their cipher states."""
        first, second = _derive(self.chaining_key, b"", 2)
        return first, second

    def _next_nonce(self) -> bytes:
        """4 zero bytes and a little-endian counter, §12.3."""
        nonce = bytes(4) + self.nonce.to_bytes(8, "little")
        self.nonce += 1
        return nonce


class HandshakeState:
    """One end of a handshake, §5.3.

    ``remote_static`` is given to the initiator and learnt by the responder.  A PSK may be set at any time
    before the message in which it is mixed.  ``copy()`` makes an independent handshake of the same state.
    """

    def __init__(
        self,
        pattern: Pattern,
        *,
        initiator: bool,
        prologue: bytes,
        static: KeyPair,
        remote_static: bytes | None = None,
        psk: bytes | None = None,
    ) -> None:
        self.remote_static = remote_static
        self._pattern = pattern
        self._initiator = initiator
        self._static = static
        self._psk = psk
        self._ephemeral: KeyPair | None = None
        self._remote_ephemeral: bytes | None = None
        self._symmetric = SymmetricState(pattern.protocol_name)
        self._messages_done = 0
        self._symmetric.mix_hash(prologue)
        self._symmetric.mix_hash(_needed(remote_static) if initiator else static.public)

    def set_psk(self, psk: bytes) -> None:
        """32 bytes; a responder may set them after message 1 told it who asks."""
        self._psk = psk

    def copy(self) -> HandshakeState:
        """An independent handshake that goes on from here."""
        other = copy(self)
        other._symmetric = copy(self._symmetric)
        return other

    @property
    def handshake_hash(self) -> bytes:
        """32 bytes that both ends share when the handshake is done, §11.2."""
        return self._symmetric.hash

    def write_message(self, payload: bytes, ephemeral: KeyPair) -> bytes:
        """The next message.  ``ephemeral`` is new for every message written, else secrecy is gone."""
        self._take_turn(writes=True)
        self._ephemeral = ephemeral
        message = b""
        for token in self._tokens():
            match token:
                case "e":
                    message += ephemeral.public
                    self._mix_ephemeral(ephemeral.public)
                case "s":
                    message += self._symmetric.encrypt_and_hash(self._static.public)
                case _:
                    self._mix(token)
        self._messages_done += 1
        return message + self._symmetric.encrypt_and_hash(payload)

    def read_message(self, message: bytes) -> bytes:
        """The payload of the next message.  Raise MalformedError("bad_handshake") and change nothing."""
        self._take_turn(writes=False)
        progress = self.copy()
        try:
            payload = progress._read(message)
        except (InvalidTag, MalformedError):
            raise MalformedError("bad_handshake") from None
        self.__dict__.update(progress.__dict__)
        return payload

    def split(self) -> tuple[bytes, bytes]:
        """The two 32-byte keys of the finished handshake: initiator to responder, responder to initiator."""
        if self._messages_done < len(self._pattern.messages):
            raise RuntimeError("split before the last message")
        return self._symmetric.split()

    def _read(self, message: bytes) -> bytes:
        rest = message
        for token in self._tokens():
            match token:
                case "e":
                    self._remote_ephemeral, rest = _cut(rest, KEY_LENGTH)
                    self._mix_ephemeral(self._remote_ephemeral)
                case "s":
                    sealed, rest = _cut(rest, KEY_LENGTH + TAG_LENGTH)
                    self.remote_static = self._symmetric.decrypt_and_hash(sealed)
                case _:
                    self._mix(token)
        self._messages_done += 1
        return self._symmetric.decrypt_and_hash(rest)

    def _mix_ephemeral(self, public: bytes) -> None:
        self._symmetric.mix_hash(public)
        if self._pattern.has_psk:
            self._symmetric.mix_key(public)

    def _mix(self, token: str) -> None:
        match token:
            case "psk":
                self._symmetric.mix_key_and_hash(_needed(self._psk))
            case "ee":
                self._exchange(_needed(self._ephemeral), self._remote_ephemeral)
            case "ss":
                self._exchange(self._static, self.remote_static)
            case "es" | "se":
                # The first letter is the initiator's key, the second the responder's.
                if self._initiator == (token[0] == "e"):
                    self._exchange(_needed(self._ephemeral), self.remote_static)
                else:
                    self._exchange(self._static, self._remote_ephemeral)

    def _exchange(self, own: KeyPair, remote: bytes | None) -> None:
        self._symmetric.mix_key(exchange(own.secret, _needed(remote)))

    def _tokens(self) -> tuple[str, ...]:
        return self._pattern.messages[self._messages_done]

    def _take_turn(self, *, writes: bool) -> None:
        done = self._messages_done
        if done == len(self._pattern.messages) or (self._initiator == (done % 2 == 0)) != writes:
            raise RuntimeError(f"message {done + 1} of {self._pattern.name} is not this end's to take")


def _cut(data: bytes, length: int) -> tuple[bytes, bytes]:
    if len(data) < length:
        raise MalformedError("bad_handshake")
    return data[:length], data[length:]


def _needed(value: ValueT | None) -> ValueT:
    if value is None:
        raise RuntimeError("a key is missing for this message")
    return value
