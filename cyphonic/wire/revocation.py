"""Revocation: the NMS tells peers to drop a node or a path, and they acknowledge."""

from __future__ import annotations

from cyphonic.wire.codec import Body, Identifier, UInt32


class PathRevocation(Body, frozen=True):
    """NMS to node: forget this peer and every session with it.  The header's transaction ID is acknowledged.

    A node that receives its own node ID is itself revoked.
    """

    node_id: Identifier
    generation: UInt32
    """Certificates of this generation and below are void."""


class PathRevocationAck(Body, frozen=True):
    """Node to NMS: dropped."""

    node_id: Identifier


class RevocationOrder(Body, frozen=True):
    """Pipeline only: push a PathRevocation of this node to the peers of its live paths.  Repeatable."""

    node_id: Identifier
