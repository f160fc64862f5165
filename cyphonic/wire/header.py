"""The four headers of cyphonic, and the type byte that every datagram starts with.

All integers are big endian.  Identifiers (node, transaction, path, handle) are 16 random bytes.

Signaling header, 40 bytes, between a node and the cloud (associated data of the sealed body)::

     0       1         2              4                    8
    +-------+---------+--------------+--------------------+
    | type  | version | flags  (u16) | key number   (u32) |
    +-------+---------+--------------+--------------------+
    |                node ID                   (16 bytes) |    zero before login
    +-----------------------------------------------------+ 24
    |                transaction ID            (16 bytes) |    chosen by whoever asks
    +-----------------------------------------------------+ 40
    |  login:  one Noise IK message                       |
    |  else:   nonce (12) | sealed body | tag (16)        |
    +-----------------------------------------------------+
    |  MAC1 (16) | MAC2 (16)                              |    towards the cloud only
    +-----------------------------------------------------+

Capsule header, 16 bytes, between two nodes (associated data of the sealed piece)::

     0       1             2             3       4                     8
    +-------+-------------+-------------+-------+---------------------+-------------+
    | type  | piece index | piece count | flags | receiver index (u32)| counter u64 |
    +-------+-------------+-------------+-------+---------------------+-------------+

Relayed header, 8 bytes, in front of any datagram between two nodes that crosses a relay::

     0       1                       4                     8
    +-------+-----------------------+---------------------+
    | type  | zero        (3 bytes) | relay index   (u32) |
    +-------+-----------------------+---------------------+

The handshake and relay layouts stand in ``wire/tunnel.py``, ``wire/relay.py`` and ``wire/probe.py``.
"""

from __future__ import annotations

import struct
from enum import IntEnum
from typing import NamedTuple

from cyphonic.errors import MalformedError

VERSION = 1
"""Version byte of every datagram except capsules and relayed ones (a session's version is in its handshake)."""

MAX_CONTROL_DATAGRAM = 1200
"""Bytes.  No control datagram is longer: it crosses any IPv6 path (minimum MTU 1280) without fragments."""

IDENTIFIER_LENGTH = 16
NONCE_LENGTH = 12
TAG_LENGTH = 16
MAC_LENGTH = 16
MACS_LENGTH = 2 * MAC_LENGTH

NO_NODE = bytes(IDENTIFIER_LENGTH)
"""The node ID of a sender that has none yet."""


class MessageType(IntEnum):
    """First byte of every datagram and of every job."""

    # node <-> node
    TUNNEL_REQUEST = 0x01
    TUNNEL_RESPONSE = 0x02
    HOLE_PUNCH = 0x03
    CAPSULE = 0x04
    PATH_CHECK = 0x05
    PATH_CHECK_ACK = 0x06
    # node <-> relay
    RELAYED = 0x10
    RELAY_BIND = 0x11
    RELAY_BIND_CHALLENGE = 0x12
    RELAY_BIND_ANSWER = 0x13
    RELAY_BOUND = 0x14
    RELAY_PROBE = 0x15
    RELAY_PROBE_REPLY = 0x16
    # node <-> AS
    LOGIN_REQUEST = 0x20
    LOGIN_RESPONSE = 0x21
    # node <-> NMS
    REGISTRATION_REQUEST = 0x30
    REGISTRATION_RESPONSE = 0x31
    KEEP_ALIVE = 0x32
    KEEP_ALIVE_ACK = 0x33
    DIRECTION_REQUEST = 0x34
    ROUTE_DIRECTION = 0x35
    ROUTE_DIRECTION_CONFIRMATION = 0x36
    DIRECTION_REFUSED = 0x37
    PATH_REVOCATION = 0x38
    PATH_REVOCATION_ACK = 0x39
    LEAVE = 0x3A
    # hints, cloud -> node
    COOKIE_REPLY = 0x40
    BUSY = 0x41
    KEY_UNKNOWN = 0x42
    VERSION_HINT = 0x43
    # pipeline only; dropped when they arrive by UDP
    KEY_DISTRIBUTION = 0x50
    KEY_DISTRIBUTION_ACK = 0x51
    REVOCATION_ORDER = 0x52


AS_REQUESTS = frozenset({MessageType.LOGIN_REQUEST})
"""What a frontend admits on an AS endpoint."""

NMS_REQUESTS = frozenset(
    {
        MessageType.REGISTRATION_REQUEST,
        MessageType.KEEP_ALIVE,
        MessageType.DIRECTION_REQUEST,
        MessageType.ROUTE_DIRECTION_CONFIRMATION,
        MessageType.PATH_REVOCATION_ACK,
        MessageType.LEAVE,
    }
)
"""What a frontend admits on an NMS endpoint."""

INTERNAL = frozenset({MessageType.KEY_DISTRIBUTION, MessageType.KEY_DISTRIBUTION_ACK, MessageType.REVOCATION_ORDER})
"""Travels between workers through the pipeline; never legal in a datagram."""

_SIGNALING = struct.Struct(">BBHI16s16s")
_CAPSULE = struct.Struct(">BBBBIQ")
_RELAYED = struct.Struct(">B3xI")

SIGNALING_HEADER_LENGTH = _SIGNALING.size
CAPSULE_HEADER_LENGTH = _CAPSULE.size
RELAYED_HEADER_LENGTH = _RELAYED.size

MIN_SEALED_LENGTH = SIGNALING_HEADER_LENGTH + NONCE_LENGTH + TAG_LENGTH
"""Bytes of a signaling datagram with an empty body and without MACs."""


class SignalingHeader(NamedTuple):
    """Of every datagram between a node and the cloud."""

    type: MessageType
    key_number: int
    """Number of the common key that seals the body; in a login, 0."""
    node_id: bytes
    """16 bytes: the node, whichever way the datagram goes; ``NO_NODE`` in a login."""
    transaction_id: bytes
    """16 bytes, chosen by whoever asks; an answer repeats it.  In what the NMS sends a responder: the handle."""
    flags: int = 0

    def encode(self) -> bytes:
        """The 40 bytes."""
        return _SIGNALING.pack(self.type, VERSION, self.flags, self.key_number, self.node_id, self.transaction_id)

    @classmethod
    def decode(cls, datagram: bytes) -> SignalingHeader:
        """Read the first 40 bytes.  Raise MalformedError for a short datagram, unknown type or version."""
        if len(datagram) < SIGNALING_HEADER_LENGTH:
            raise MalformedError("too_short")
        type_byte, version, flags, key_number, node_id, transaction_id = _SIGNALING.unpack_from(datagram)
        if version != VERSION:
            raise MalformedError("unknown_version")
        try:
            message_type = MessageType(type_byte)
        except ValueError:
            raise MalformedError("unknown_type") from None
        return cls(message_type, key_number, node_id, transaction_id, flags)


class CapsuleHeader(NamedTuple):
    """Of every datagram that an end key protects."""

    type: int
    piece_index: int
    piece_count: int
    flags: int
    receiver_index: int
    counter: int

    def encode(self) -> bytes:
        """The 16 bytes."""
        return _CAPSULE.pack(*self)

    @classmethod
    def decode(cls, datagram: bytes) -> CapsuleHeader:
        """Read the first 16 bytes; raise MalformedError when there are fewer.  Checks no field."""
        if len(datagram) < CAPSULE_HEADER_LENGTH:
            raise MalformedError("too_short")
        return cls(*_CAPSULE.unpack_from(datagram))


def encode_relayed(relay_index: int) -> bytes:
    """The 8 bytes in front of a datagram that crosses a relay."""
    return _RELAYED.pack(MessageType.RELAYED, relay_index)


def decode_relayed(datagram: bytes) -> int:
    """The relay index; raise MalformedError when the datagram is shorter than its header, or that is not zero."""
    if len(datagram) < RELAYED_HEADER_LENGTH:
        raise MalformedError("too_short")
    if datagram[1:4] != b"\0\0\0":
        raise MalformedError("bad_header")
    index: int = _RELAYED.unpack_from(datagram)[1]
    return index
