"""The node certificate: what the AS says of a node, and 64 bytes of Ed25519 signature behind it."""

from __future__ import annotations

from typing import Annotated

import msgspec

from cyphonic.wire.codec import Body, Identifier, Key, UInt32, UInt64

SIGNATURE_LENGTH = 64
MAX_CERTIFICATE = 480
"""Bytes of a signed certificate: RouteDirection carries one within 1,200."""


class Certificate(Body, frozen=True):
    """Binds a name, a static key and virtual addresses for 24 hours."""

    fqdn: Annotated[str, msgspec.Meta(max_length=128)]
    node_id: Identifier
    static_key: Key
    virtual_ipv6: Annotated[bytes, msgspec.Meta(min_length=16, max_length=16)]
    virtual_ipv4: Annotated[bytes, msgspec.Meta(max_length=4)]
    """4 bytes, or empty for a node without one."""
    networks: Annotated[list[str], msgspec.Meta(max_length=8)]
    expires: UInt64
    """Unix seconds."""
    generation: UInt32
    """Raised by every revocation and change; peers refuse one lower than they have seen."""
