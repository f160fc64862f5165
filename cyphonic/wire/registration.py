"""Registration, keepalive and leave: node and NMS, sealed under the common key."""

from __future__ import annotations

from typing import Annotated

import msgspec

from cyphonic.wire.codec import Body, EndpointBytes, Key, UInt16, UInt32, UInt64

MAX_CANDIDATES = 8
MAX_ROUND_TRIPS = 8
UNANSWERED = 0xFFFF
"""Instead of milliseconds: the relay did not answer."""


class RegistrationRequest(Body, frozen=True):
    """Where the node is.  A dual-stack node registers once over each family."""

    counter: UInt64
    """Of the node, under this common key; shared with KeepAlive.  A lease moves only for a greater one."""
    candidates: Annotated[list[EndpointBytes], msgspec.Meta(max_length=MAX_CANDIDATES)]
    """The node's own addresses, all families."""
    certificate: bytes
    capabilities: UInt32 = 0


class RelayRoundTrip(Body, frozen=True):
    """How far a relay is from the node.  Relays of a site share a key, so an endpoint names one."""

    endpoint: EndpointBytes
    milliseconds: UInt16
    """At least 1; ``UNANSWERED``."""


class MeasuredRegistration(RegistrationRequest, frozen=True):
    """A RegistrationRequest of a node that has measured relays: one more field.  The NMS reads any as this one."""

    relays: Annotated[list[RelayRoundTrip], msgspec.Meta(max_length=MAX_ROUND_TRIPS)] = []


class RelayAddress(Body, frozen=True):
    """A relay as the NMS tells nodes of it."""

    public_key: Key
    endpoints: Annotated[list[EndpointBytes], msgspec.Meta(max_length=4)]


class RegistrationResponse(Body, frozen=True):
    """The lease."""

    observed: EndpointBytes
    """Where the NMS saw the request come from."""
    virtual_ipv6: bytes
    virtual_ipv4: bytes
    keepalive_interval: UInt32
    """Seconds."""
    lease: UInt32
    """Seconds."""
    time: UInt64
    """Unix milliseconds at the cloud: DirectionRequests are dated by it."""
    nms_endpoints: Annotated[list[EndpointBytes], msgspec.Meta(max_length=8)] = []
    relays: Annotated[list[RelayAddress], msgspec.Meta(max_length=4)] = []


class KeepAlive(Body, frozen=True):
    """Keeps the lease and the NAT mapping."""

    counter: UInt64


class KeepAliveAck(Body, frozen=True):
    """``registered`` false: the NMS has lost the lease; register again, no login needed."""

    observed: EndpointBytes
    registered: bool
    time: UInt64


class Leave(Body, frozen=True):
    """The node goes away; its lease of every family ends."""

    counter: UInt64
