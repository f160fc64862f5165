"""A session: two end keys, a counter to send by, a replay window to receive by.

Sealing and opening are the hot path of a node: the ciphers are built once, and nothing but the cipher touches
the bytes of a packet.  (Sealing into a prepared buffer was measured slower than one concatenation at this size.)

Error contract: ``open`` raises MalformedError or NotAllowedError and changes nothing.
"""

from __future__ import annotations

import struct

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305

from cyphonic.errors import MalformedError, NotAllowedError
from cyphonic.protocol.limits import (
    REJECT_AFTER_MESSAGES,
    REJECT_AFTER_TIME,
    REKEY_AFTER_MESSAGES,
    REKEY_AFTER_TIME,
    REPLAY_WINDOW,
)
from cyphonic.protocol.replay import ReplayWindow
from cyphonic.wire.header import CAPSULE_HEADER_LENGTH, TAG_LENGTH
from cyphonic.wire.tunnel import Suite

SESSION_OVERHEAD = CAPSULE_HEADER_LENGTH + TAG_LENGTH
"""Bytes that sealing adds."""

_WHOLE = bytes([0, 1, 0])
"""Piece 0 of 1, no flags: this version neither makes nor understands anything else."""
_HEADER = struct.Struct(">BBBBIQ")
_ADDRESSED = struct.Struct(">4xIQ")
_NONCE = struct.Struct(">4xQ")
_CIPHERS: dict[Suite, type[AESGCM | ChaCha20Poly1305]] = {
    Suite.AES_256_GCM: AESGCM,
    Suite.CHACHA20_POLY1305: ChaCha20Poly1305,
}


def supported_suites(has_aes: bool) -> tuple[Suite, ...]:
    """Every suite, the faster one first: AES where the processor has instructions for it."""
    if has_aes:
        return (Suite.AES_256_GCM, Suite.CHACHA20_POLY1305)
    return (Suite.CHACHA20_POLY1305, Suite.AES_256_GCM)


class Session:
    """What a finished tunnel handshake leaves: seals towards a peer and opens what comes from it.

    The nonce is 4 zero bytes and the counter, big endian; the capsule header is associated data.
    """

    def __init__(
        self,
        suite: Suite,
        send_key: bytes,
        receive_key: bytes,
        *,
        local_index: int,
        peer_index: int,
        initiator: bool,
    ) -> None:
        """``local_index`` is what the peer addresses, ``peer_index`` what is sent to it."""
        self.suite = suite
        self.local_index = local_index
        self.peer_index = peer_index
        self.initiator = initiator
        self.established: float | None = None
        """When the handshake was done, on the owner's clock; set by the owner."""
        self.sent = 0
        """Datagrams sealed: the next counter."""
        self.received = 0
        """Datagrams opened."""
        self.bytes_sent = 0
        """Of plaintext, as ``bytes_received``."""
        self.bytes_received = 0
        self._encrypt = _CIPHERS[suite](send_key).encrypt
        self._decrypt = _CIPHERS[suite](receive_key).decrypt
        self._window = ReplayWindow(REPLAY_WINDOW)

    @property
    def highest_counter(self) -> int:
        """The highest counter opened, -1 before the first.  Endpoints are followed only for a higher one."""
        return self._window.highest

    def seal(self, message_type: int, plaintext: bytes) -> bytes:
        """A datagram of one piece.  Raise NotAllowedError("session_exhausted") after too many."""
        counter = self.sent
        if counter >= REJECT_AFTER_MESSAGES:
            raise NotAllowedError("session_exhausted")
        header = _HEADER.pack(message_type, 0, 1, 0, self.peer_index, counter)
        self.sent = counter + 1
        self.bytes_sent += len(plaintext)
        return header + self._encrypt(_NONCE.pack(counter), plaintext, header)

    def open(self, datagram: bytes) -> tuple[bytes, int]:
        """Plaintext and counter.

        Raise MalformedError("too_short", "bad_index", "bad_pieces" or "bad_seal"), NotAllowedError("replayed",
        "too_old" or "session_exhausted").
        """
        if len(datagram) < SESSION_OVERHEAD:
            raise MalformedError("too_short")
        index, counter = _ADDRESSED.unpack_from(datagram)
        if index != self.local_index:
            raise MalformedError("bad_index")
        if datagram[1:4] != _WHOLE:
            raise MalformedError("bad_pieces")
        if counter >= REJECT_AFTER_MESSAGES:
            raise NotAllowedError("session_exhausted")
        header = datagram[:CAPSULE_HEADER_LENGTH]
        try:
            plaintext = self._decrypt(_NONCE.pack(counter), datagram[CAPSULE_HEADER_LENGTH:], header)
        except InvalidTag:
            raise MalformedError("bad_seal") from None
        self._window.accept(counter)
        self.received += 1
        self.bytes_received += len(plaintext)
        return plaintext, counter

    def age(self, now: float) -> float:
        """Seconds since the handshake; 0 while the owner has not yet said when that was."""
        return 0.0 if self.established is None else now - self.established

    def needs_rekey(self, now: float) -> bool:
        """Whether to begin a new handshake.  By age only the initiator does, so that both do not at once."""
        return self.sent >= REKEY_AFTER_MESSAGES or (self.initiator and self.age(now) >= REKEY_AFTER_TIME)

    def expired(self, now: float) -> bool:
        """Whether the session may no longer be used at all."""
        return self.sent >= REJECT_AFTER_MESSAGES or self.age(now) >= REJECT_AFTER_TIME
