"""What two nodes say to each other: handshake, hole punch, path check.

TunnelRequest::

     0       1         2             4                    8                24
    +-------+---------+-------------+--------------------+----------------+-----------------+----------+
    | type  | version | flags (u16) | sender index (u32) | path ID  (16)  | Noise message 1 | MAC (16) |
    +-------+---------+-------------+--------------------+----------------+-----------------+----------+

TunnelResponse::

     0       1         2             4                    8                      12
    +-------+---------+-------------+--------------------+----------------------+-----------------+----------+
    | type  | version | flags (u16) | sender index (u32) | receiver index (u32) | Noise message 2 | MAC (16) |
    +-------+---------+-------------+--------------------+----------------------+-----------------+----------+

HolePunch (40 bytes; bit 0 of the flags: the sender's role)::

     0       1         2             4              8                24
    +-------+---------+-------------+--------------+----------------+----------+
    | type  | version | flags (u16) | number (u32) | path ID  (16)  | MAC (16) |
    +-------+---------+-------------+--------------+----------------+----------+

Each MAC is keyed BLAKE2s over all bytes before it, under a key derived from the path key, so that a stranger
cannot make a node compute a key exchange.  The handshake's prologue is ``b"cyphonic tunnel v1"`` and the first 24
bytes of the TunnelRequest; the sender index of the response is repeated inside Noise message 2.  So both ends have
agreed on everything that is not sealed.

PathCheck and PathCheckAck have the capsule header (piece 0 of 1) and a sealed body: the check number (u32), and in
the ack also the endpoint from which the check came (18 bytes, IPv4 as ::ffff:a.b.c.d).

Flags without a meaning yet are sent as zero and ignored: all of them are authenticated.  Bytes that follow the
fields of a HolePunch (before its MAC) or of a check's body are ignored too, so that later versions may add to them.
"""

from __future__ import annotations

import struct
from enum import IntEnum
from typing import Annotated, NamedTuple

import msgspec

from cyphonic.errors import MalformedError
from cyphonic.wire.codec import Body, UInt8, UInt32, UInt64
from cyphonic.wire.direction import Role
from cyphonic.wire.endpoint import Endpoint
from cyphonic.wire.header import MAC_LENGTH, VERSION, MessageType


class Suite(IntEnum):
    """AEAD of a session, chosen inside the handshake."""

    CHACHA20_POLY1305 = 1
    AES_256_GCM = 2


class TunnelRequestPayload(Body, frozen=True):
    """Inside Noise message 1."""

    stamp: UInt64
    """Nanoseconds of the sender's own clock, greater than any before under this path ID (which is never reused)."""
    suites: Annotated[list[UInt8], msgspec.Meta(min_length=1, max_length=8)]
    """In order of preference."""


class TunnelResponsePayload(Body, frozen=True):
    """Inside Noise message 2."""

    suite: UInt8
    sender_index: UInt32
    """As in the header."""


_REQUEST = struct.Struct(">BBHI16s")
_RESPONSE = struct.Struct(">BBHII")
_PUNCH = struct.Struct(">BBHI16s")
_CHECK = struct.Struct(">I")

MIN_NOISE_1 = 32 + 48 + 16
MIN_NOISE_2 = 32 + 16
REQUEST_HEADER_LENGTH = _REQUEST.size
MIN_HOLE_PUNCH = _PUNCH.size + MAC_LENGTH
_FIXED_ENDPOINT_LENGTH = 18


class TunnelRequest(NamedTuple):
    """Without the MAC, which ``protocol`` appends and checks."""

    sender_index: int
    path_id: bytes
    noise: bytes

    def encode(self) -> bytes:
        """Everything before the MAC."""
        return _REQUEST.pack(MessageType.TUNNEL_REQUEST, VERSION, 0, self.sender_index, self.path_id) + self.noise

    @classmethod
    def decode(cls, datagram: bytes) -> TunnelRequest:
        """From a whole datagram, MAC included but not checked; raise MalformedError."""
        if len(datagram) < _REQUEST.size + MIN_NOISE_1 + MAC_LENGTH:
            raise MalformedError("too_short")
        _, version, _, sender_index, path_id = _REQUEST.unpack_from(datagram)
        _check_version(version)
        return cls(sender_index, path_id, datagram[_REQUEST.size : -MAC_LENGTH])


class TunnelResponse(NamedTuple):
    """Without the MAC."""

    sender_index: int
    receiver_index: int
    noise: bytes

    def encode(self) -> bytes:
        """Everything before the MAC."""
        return (
            _RESPONSE.pack(MessageType.TUNNEL_RESPONSE, VERSION, 0, self.sender_index, self.receiver_index)
            + self.noise
        )

    @classmethod
    def decode(cls, datagram: bytes) -> TunnelResponse:
        """From a whole datagram, MAC included but not checked; raise MalformedError."""
        if len(datagram) < _RESPONSE.size + MIN_NOISE_2 + MAC_LENGTH:
            raise MalformedError("too_short")
        _, version, _, sender_index, receiver_index = _RESPONSE.unpack_from(datagram)
        _check_version(version)
        return cls(sender_index, receiver_index, datagram[_RESPONSE.size : -MAC_LENGTH])


class HolePunch(NamedTuple):
    """Without the MAC."""

    role: Role
    number: int
    path_id: bytes

    def encode(self) -> bytes:
        """Everything before the MAC."""
        return _PUNCH.pack(MessageType.HOLE_PUNCH, VERSION, self.role, self.number, self.path_id)

    @classmethod
    def decode(cls, datagram: bytes) -> HolePunch:
        """From a whole datagram, MAC included but not checked; raise MalformedError."""
        if len(datagram) < MIN_HOLE_PUNCH:
            raise MalformedError("too_short")
        _, version, flags, number, path_id = _PUNCH.unpack_from(datagram)
        _check_version(version)
        return cls(Role(flags & 1), number, path_id)


def encode_path_check(number: int) -> bytes:
    """Body of a PathCheck."""
    return _CHECK.pack(number)


def decode_path_check(body: bytes) -> int:
    """Number of a PathCheck; raise MalformedError."""
    if len(body) < _CHECK.size:
        raise MalformedError("bad_body")
    number: int = _CHECK.unpack_from(body)[0]
    return number


def encode_path_check_ack(number: int, observed: Endpoint) -> bytes:
    """Body of a PathCheckAck."""
    return _CHECK.pack(number) + observed.encode_fixed()


def decode_path_check_ack(body: bytes) -> tuple[int, Endpoint]:
    """Number and observed endpoint of a PathCheckAck; raise MalformedError."""
    end = _CHECK.size + _FIXED_ENDPOINT_LENGTH
    if len(body) < end:
        raise MalformedError("bad_body")
    return _CHECK.unpack_from(body)[0], Endpoint.decode_fixed(body[_CHECK.size : end])


def _check_version(version: int) -> None:
    if version != VERSION:
        raise MalformedError("unknown_version")
