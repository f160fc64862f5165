"""Direction: how two nodes come to a path.  Node and NMS, sealed under the common key."""

from __future__ import annotations

from enum import IntEnum
from typing import Annotated

import msgspec

from cyphonic.wire.codec import Body, EndpointBytes, Identifier, Key, UInt8, UInt32, UInt64
from cyphonic.wire.registration import MAX_CANDIDATES


class Role(IntEnum):
    """Of a node in a path."""

    INITIATOR = 0
    RESPONDER = 1


class FirstPath(IntEnum):
    """What the NMS tells both ends to try first."""

    DIRECT = 0
    """The initiator sends its TunnelRequest to the responder's candidates."""
    DIRECT_PUNCHED = 1
    """The same, after the responder opened its NAPT with HolePunch."""
    RELAYED = 2
    """Through the relay at once; both ends punch, direct when a path check succeeds."""
    LAN_AND_RELAYED = 3
    """Behind the same NAPT: local candidates and relay side by side, whichever answers first."""
    RELAYED_ONLY = 4
    """The address families do not meet: the relay translates, for good."""


class RefusalReason(IntEnum):
    """Why there is no direction."""

    UNKNOWN_NAME = 1
    OFFLINE = 2
    POLICY = 3
    STALE = 4
    """The request's time is outside the window; ``time`` tells the cloud's."""


class DirectionRequest(Body, frozen=True):
    """Initiator to NMS: by FQDN or by virtual address, the other one empty."""

    time: UInt64
    """Unix milliseconds as the NMS counts them.  Outside [now - 20 s, now + 10 s] a request is stale, so a
    replay meets either the saved transaction (32 s) or a refusal, never a second path."""
    fqdn: Annotated[str, msgspec.Meta(max_length=128)]
    address: Annotated[bytes, msgspec.Meta(max_length=16)]


class RelayGrant(Body, frozen=True):
    """The right to bind this role of this path at one relay."""

    public_key: Key
    """X25519 key of the relay: keys MAC1."""
    endpoints: Annotated[list[EndpointBytes], msgspec.Meta(max_length=4)]
    token: bytes
    """Sealed by the NMS for the relay: see ``wire/relay.py``."""
    bind_key: Key
    """Known to this node and, through the token, to the relay."""


class RouteDirection(Body, frozen=True):
    """NMS to responder (header's transaction ID: the handle), then NMS to initiator (its transaction ID)."""

    handle: Identifier
    """For the responder to confirm with; zero towards the initiator."""
    path_id: Identifier
    role: UInt8
    """Role of the receiver."""
    first_path: UInt8
    certificate: bytes
    """The peer's, signed by the AS."""
    candidates: Annotated[list[EndpointBytes], msgspec.Meta(max_length=MAX_CANDIDATES + 2)]
    """The peer's: observed endpoints first, then its own."""
    path_key: Key
    path_lifetime: UInt32
    """Seconds."""
    relays: Annotated[list[RelayGrant], msgspec.Meta(max_length=2)]
    time: UInt64


class RouteDirectionConfirmation(Body, frozen=True):
    """Responder to NMS: counts only with the handle, from the node that the pending state names."""

    handle: Identifier


class DirectionRefused(Body, frozen=True):
    """No path.  An offline node's name and addresses are still given, so that DNS answers."""

    reason: UInt8
    fqdn: str = ""
    virtual_ipv6: bytes = b""
    virtual_ipv4: bytes = b""
    time: UInt64 = 0
