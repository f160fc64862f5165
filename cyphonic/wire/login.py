"""Login: LoginRequest and LoginResponse (inside Noise IK), KeyDistribution and its ack (pipeline only).

LoginRequest::

    signaling header (40, node ID zero, key number 0)
    Noise IK message 1: ephemeral (32) | sealed static key (48) | sealed LoginRequest body
    MAC1 (16) | MAC2 (16)

A LoginRequest is padded to exactly 1,200 bytes, so that no answer is longer than its request.

LoginResponse::

    signaling header (40, the transaction of the request)
    Noise IK message 2: ephemeral (32) | sealed LoginResponse body

The prologue of the handshake is ``b"cyphonic login v1"`` and the 40-byte header of the request.

KeyDistribution and KeyDistributionAck: signaling header (40), crypto_box nonce (24), box of the body.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Annotated

import msgspec

from cyphonic.wire.codec import Body, EndpointBytes, Identifier, Key, UInt8, UInt32, UInt64

LOGIN_REQUEST_LENGTH = 1200


class LoginOutcome(IntEnum):
    """Why a login succeeded or not; only the owner of the static key can read it."""

    ACCEPTED = 0
    ENROLMENT_KEY_UNKNOWN = 1
    ENROLMENT_KEY_EXPIRED = 2
    ENROLMENT_KEY_REVOKED = 3
    ENROLMENT_KEY_USED = 4
    NAME_TAKEN = 5
    NAME_INVALID = 6
    NODE_REVOKED = 7
    ADDRESSES_EXHAUSTED = 8
    NOT_ENROLLED = 9


class LoginRequest(Body, frozen=True):
    """What a node asks the AS for."""

    stamp: UInt64
    """Nanoseconds; greater than any before under this static key (clock, or one more than the last)."""
    name: Annotated[str, msgspec.Meta(max_length=63)]
    """Wanted name, one label."""
    enrolment_key: Annotated[bytes, msgspec.Meta(max_length=64)]
    """First login only, else empty."""
    suites: Annotated[list[UInt8], msgspec.Meta(max_length=8)]
    software: Annotated[str, msgspec.Meta(max_length=32)]
    padding: bytes = b""


class LoginResponse(Body, frozen=True):
    """The AS's answer.  With an outcome other than ACCEPTED all other fields are empty or zero."""

    outcome: UInt8
    common_key: Annotated[bytes, msgspec.Meta(max_length=32)] = b""
    key_number: UInt32 = 0
    key_lifetime: UInt32 = 0
    """Seconds."""
    certificate: bytes = b""
    nms_key: Annotated[bytes, msgspec.Meta(max_length=32)] = b""
    """X25519 public key of the NMS: keys MAC1 of everything sent to it."""
    as_endpoints: Annotated[list[EndpointBytes], msgspec.Meta(max_length=8)] = []
    nms_endpoints: Annotated[list[EndpointBytes], msgspec.Meta(max_length=8)] = []
    prefix_ipv6: str = ""
    """The region's overlay prefix, ``fd…::/48``."""
    pool_ipv4: str = ""
    """The region's overlay IPv4 pool, ``10.77.0.0/16``."""
    time: UInt64 = 0
    """Unix milliseconds at the cloud."""


class KeyDistribution(Body, frozen=True):
    """AS to NMS: this node may join, under this common key."""

    static_key: Key
    fqdn: str
    common_key: Key
    key_number: UInt32
    generation: UInt32


class KeyDistributionAck(Body, frozen=True):
    """NMS to AS: the node ID and addresses, allocated once for a static key."""

    static_key: Key
    key_number: UInt32
    outcome: UInt8
    node_id: Identifier
    virtual_ipv6: bytes
    virtual_ipv4: bytes
