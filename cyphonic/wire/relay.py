"""Binding a role of a path at a relay, and the token that gives the right to.

RelayBind and RelayBindAnswer, node to relay, one layout (bit 0 of the flags: the role)::

     0       1         2             4                  8               24               40
    +-------+---------+-------------+------------------+---------------+----------------+-------+------------+
    | type  | version | flags (u16) | generation (u32) | path ID  (16) | challenge (16) | token | proof (16) |
    +-------+---------+-------------+------------------+---------------+----------------+-------+------------+
    | MAC1 (16) | MAC2 (16) |

A RelayBind has a zero challenge.  The proof is keyed BLAKE2s under the bind key over all bytes before it.  The
answer repeats the token, so that the relay keeps nothing before the source address is proved.

RelayBindChallenge, relay to node (56 bytes)::

    type | version | flags | generation | path ID | challenge (16) | proof (16)

RelayBound, relay to node (66 bytes)::

     0       1         2             4                  8               24                   28               32
    +-------+---------+-------------+------------------+---------------+--------------------+----------------+
    | type  | version | flags (u16) | generation (u32) | path ID  (16) | relay index  (u32) | lifetime (u32) |
    +-------+---------+-------------+------------------+---------------+--------------------+----------------+
    | observed endpoint (18, IPv4 as ::ffff:a.b.c.d) | proof (16) |

Flags without a meaning yet are sent as zero and ignored, and so are bytes between the fields and the proof of what
a relay answers: all are authenticated by the proof.

The token is {nonce (24), crypto_box(NMS secret key, relay public key) of a RelayToken body}.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

from cyphonic.errors import MalformedError
from cyphonic.wire.codec import Body, Identifier, Key, UInt8, UInt32, UInt64
from cyphonic.wire.direction import Role
from cyphonic.wire.endpoint import Endpoint
from cyphonic.wire.header import MAC_LENGTH, MACS_LENGTH, VERSION, MessageType

NO_CHALLENGE = bytes(16)
TOKEN_NONCE_LENGTH = 24
MIN_TOKEN_LENGTH = TOKEN_NONCE_LENGTH + 16
MAX_TOKEN_LENGTH = 256


class RelayToken(Body, frozen=True):
    """Sealed by the NMS for one relay."""

    path_id: Identifier
    role: UInt8
    bind_key: Key
    expires: UInt64
    """Unix seconds; a binding that lives may be renewed after it."""
    rate: UInt32
    """Bytes per second and direction; 0: the relay's own limit."""


_BIND = struct.Struct(">BBHI16s16s")
_CHALLENGE = _BIND
_BOUND = struct.Struct(">BBHI16sII18s")

BIND_TRAILER_LENGTH = MAC_LENGTH + MACS_LENGTH
CHALLENGE_LENGTH = _CHALLENGE.size + MAC_LENGTH
BOUND_LENGTH = _BOUND.size + MAC_LENGTH


class RelayBind(NamedTuple):
    """RelayBind, or RelayBindAnswer when it has a challenge.  Without proof and MACs."""

    role: Role
    generation: int
    path_id: bytes
    challenge: bytes
    token: bytes

    def encode(self) -> bytes:
        """Everything before the proof."""
        answers = self.challenge != NO_CHALLENGE
        message_type = MessageType.RELAY_BIND_ANSWER if answers else MessageType.RELAY_BIND
        return (
            _BIND.pack(message_type, VERSION, self.role, self.generation, self.path_id, self.challenge) + self.token
        )

    @classmethod
    def decode(cls, datagram: bytes) -> RelayBind:
        """From a whole datagram, proof and MACs included but not checked; raise MalformedError."""
        token_length = len(datagram) - _BIND.size - BIND_TRAILER_LENGTH
        if not MIN_TOKEN_LENGTH <= token_length <= MAX_TOKEN_LENGTH:
            raise MalformedError("bad_length")
        message_type, version, flags, generation, path_id, challenge = _BIND.unpack_from(datagram)
        _check_version(version)
        if (message_type == MessageType.RELAY_BIND_ANSWER) != (challenge != NO_CHALLENGE):
            raise MalformedError("bad_challenge")
        token = datagram[_BIND.size : _BIND.size + token_length]
        return cls(Role(flags & 1), generation, path_id, challenge, token)


class RelayBindChallenge(NamedTuple):
    """The relay's question whether an address receives.  Without the proof."""

    role: Role
    generation: int
    path_id: bytes
    challenge: bytes

    def encode(self) -> bytes:
        """Everything before the proof."""
        return _CHALLENGE.pack(
            MessageType.RELAY_BIND_CHALLENGE, VERSION, self.role, self.generation, self.path_id, self.challenge
        )

    @classmethod
    def decode(cls, datagram: bytes) -> RelayBindChallenge:
        """From a whole datagram, proof included but not checked; raise MalformedError."""
        if len(datagram) < CHALLENGE_LENGTH:
            raise MalformedError("too_short")
        _, version, flags, generation, path_id, challenge = _CHALLENGE.unpack_from(datagram)
        _check_version(version)
        if challenge == NO_CHALLENGE:
            raise MalformedError("bad_challenge")
        return cls(Role(flags & 1), generation, path_id, challenge)


class RelayBound(NamedTuple):
    """The binding.  Without the proof."""

    role: Role
    generation: int
    path_id: bytes
    relay_index: int
    lifetime: int
    """Seconds without traffic after which the relay forgets the binding."""
    observed: Endpoint

    def encode(self) -> bytes:
        """Everything before the proof."""
        return _BOUND.pack(
            MessageType.RELAY_BOUND,
            VERSION,
            self.role,
            self.generation,
            self.path_id,
            self.relay_index,
            self.lifetime,
            self.observed.encode_fixed(),
        )

    @classmethod
    def decode(cls, datagram: bytes) -> RelayBound:
        """From a whole datagram, proof included but not checked; raise MalformedError."""
        if len(datagram) < BOUND_LENGTH:
            raise MalformedError("too_short")
        _, version, flags, generation, path_id, index, lifetime, observed = _BOUND.unpack_from(datagram)
        _check_version(version)
        return cls(Role(flags & 1), generation, path_id, index, lifetime, Endpoint.decode_fixed(observed))


def _check_version(version: int) -> None:
    if version != VERSION:
        raise MalformedError("unknown_version")
