"""The login handshake, Noise IK between a node and the AS: ``wire/login.py`` draws the messages.

The AS keeps nothing between message 1 and message 2 but the bytes of message 1: reading them again gives the same
attempt, on any worker.  So ``write_login_response`` may be called for the same attempt more than once; it makes a
fresh ephemeral key each time.
"""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

from cyphonic.errors import MalformedError, NotAllowedError
from cyphonic.protocol.chance import Chance
from cyphonic.protocol.keys import KEY_LENGTH, KeyPair
from cyphonic.protocol.mac import append_macs, mac1_key
from cyphonic.protocol.noise import IK, HandshakeState
from cyphonic.wire.codec import decode, encode
from cyphonic.wire.header import (
    MACS_LENGTH,
    MAX_CONTROL_DATAGRAM,
    NO_NODE,
    SIGNALING_HEADER_LENGTH,
    TAG_LENGTH,
    MessageType,
    SignalingHeader,
)
from cyphonic.wire.login import LOGIN_REQUEST_LENGTH, LoginRequest, LoginResponse

_PROLOGUE = b"cyphonic login v1"
_BODY_LENGTH = (
    LOGIN_REQUEST_LENGTH
    - SIGNALING_HEADER_LENGTH
    - KEY_LENGTH
    - (KEY_LENGTH + TAG_LENGTH)
    - TAG_LENGTH
    - MACS_LENGTH
)


class LoginInitiator:
    """The node's end of one login."""

    def __init__(self, static: KeyPair, as_key: bytes, chance: Chance) -> None:
        """``as_key``: the X25519 public key of the AS, known from enrolment."""
        self._static = static
        self._as_key = as_key
        self._chance = chance
        self._transaction_id: bytes | None = None
        self._handshake: HandshakeState | None = None

    def request(self, transaction_id: bytes, body: LoginRequest) -> bytes:
        """A LoginRequest of exactly 1,200 bytes, MACs included.  Its padding is set here.

        Resend these very bytes: calling this again begins another login, and only that one's answer is read.
        """
        header = _header(MessageType.LOGIN_REQUEST, transaction_id).encode()
        self._transaction_id = transaction_id
        self._handshake = HandshakeState(
            IK, initiator=True, prologue=_PROLOGUE + header, static=self._static, remote_static=self._as_key
        )
        message = self._handshake.write_message(_padded(body), KeyPair.generate(self._chance))
        return append_macs(header + message, mac1_key(self._as_key))

    def read_response(self, datagram: bytes) -> LoginResponse:
        """The AS's answer, whatever its outcome.

        Raise NotAllowedError("unknown_transaction") for the answer to another request, MalformedError for
        anything that is not an authentic answer; both change nothing.
        """
        if self._handshake is None or self._transaction_id is None:
            raise NotAllowedError("unknown_transaction")
        header = SignalingHeader.decode(datagram)
        if header.transaction_id != self._transaction_id:
            raise NotAllowedError("unknown_transaction")
        # The header of an answer is outside the handshake: no bit of it may differ from what it must be.
        if header != _header(MessageType.LOGIN_RESPONSE, self._transaction_id):
            raise MalformedError("bad_header")
        return decode(self._handshake.copy().read_message(datagram[SIGNALING_HEADER_LENGTH:]), LoginResponse)


@dataclass(frozen=True, slots=True)
class LoginAttempt:
    """A LoginRequest as the AS reads it: authentic for ``static_key``, fresh only if its stamp is."""

    header: SignalingHeader
    static_key: bytes
    body: LoginRequest
    handshake: HandshakeState


def read_login_request(datagram: bytes, as_key: KeyPair) -> LoginAttempt:
    """Read a LoginRequest without MACs.  Raise MalformedError("too_short", "bad_header", "bad_handshake", …)."""
    header = SignalingHeader.decode(datagram)
    if header != _header(MessageType.LOGIN_REQUEST, header.transaction_id):
        raise MalformedError("bad_header")
    prologue = _PROLOGUE + datagram[:SIGNALING_HEADER_LENGTH]
    handshake = HandshakeState(IK, initiator=False, prologue=prologue, static=as_key)
    body = decode(handshake.read_message(datagram[SIGNALING_HEADER_LENGTH:]), LoginRequest)
    assert handshake.remote_static is not None
    return LoginAttempt(header, handshake.remote_static, body, handshake)


def write_login_response(attempt: LoginAttempt, response: LoginResponse, chance: Chance) -> bytes:
    """A LoginResponse datagram.  Raise MalformedError("too_long") when it would exceed 1,200 bytes."""
    header = _header(MessageType.LOGIN_RESPONSE, attempt.header.transaction_id)
    message = attempt.handshake.copy().write_message(encode(response), KeyPair.generate(chance))
    datagram = header.encode() + message
    if len(datagram) > MAX_CONTROL_DATAGRAM:
        raise MalformedError("too_long")
    return datagram


def _header(message_type: MessageType, transaction_id: bytes) -> SignalingHeader:
    return SignalingHeader(message_type, 0, NO_NODE, transaction_id)


def _padded(body: LoginRequest) -> bytes:
    """The body encoded to the length that makes the datagram 1,200 bytes."""
    # Fields other than the padding take under 300 bytes, so its length is always written in 3 bytes, not 2.
    bare = len(encode(msgspec.structs.replace(body, padding=b""))) + 1
    encoded = encode(msgspec.structs.replace(body, padding=bytes(_BODY_LENGTH - bare)))
    if len(encoded) != _BODY_LENGTH:
        raise ValueError("a field of the LoginRequest is too long")
    return encoded
