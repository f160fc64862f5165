"""Leases: where a node is registered, per address family; gone LEASE seconds after its last sign of life."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import msgspec

from cyphonic.protocol.limits import COMMON_KEY_LIFETIME, LEASE
from cyphonic.state import keys
from cyphonic.state.store import Command, Script, ScriptCall
from cyphonic.wire.endpoint import Endpoint

FAMILIES = (4, 6)
ORDER_LIFETIME = 2 * COMMON_KEY_LIFETIME
"""Seconds: longer than any common key under which an old counter could come again."""

LEASE_FIELDS = ("observed", "service", "candidates", "refreshed", "round_trips")
"""In this order in scripts too."""

_MOVE = Script("move_lease")
_END = Script("end_leases")
_encoder = msgspec.msgpack.Encoder()
_endpoints = msgspec.msgpack.Decoder(list[Endpoint])
_round_trips = msgspec.msgpack.Decoder(list[tuple[Endpoint, int]])
_endpoint = msgspec.msgpack.Decoder(Endpoint)


class Lease(NamedTuple):
    """A registration that lives."""

    observed: Endpoint
    """Where the node's datagrams come from."""
    service: Endpoint
    """The NMS endpoint it registered at: it can be reached from there."""
    candidates: list[Endpoint]
    refreshed: int
    """Unix milliseconds."""
    round_trips: dict[Endpoint, int] = {}
    """Milliseconds to relays, as the node measured them; see ``protocol/relay_choice.py``."""

    def live(self, wall: float) -> bool:
        """Whether it was refreshed within LEASE.  Redis forgets it then too, but by its own clock."""
        return wall * 1000 - self.refreshed <= LEASE * 1000

    @classmethod
    def parse(cls, values: Sequence[bytes | None]) -> Lease | None:
        """From the fields of ``read_lease``; None when there is no live lease."""
        observed, service, candidates, refreshed, round_trips = values
        if observed is None or service is None:
            return None
        return cls(
            _endpoint.decode(observed),
            _endpoint.decode(service),
            _endpoints.decode(candidates) if candidates else [],
            int(refreshed or 0),
            dict(_round_trips.decode(round_trips)) if round_trips else {},
        )


def family_of(endpoint: Endpoint) -> int:
    """4 or 6."""
    return 6 if ":" in endpoint.host else 4


def order(key_number: int, counter: int) -> bytes:
    """What leases are ordered by, as digits of fixed length."""
    return b"%010d%020d" % (key_number, counter)


def read_lease(family: int, node_id: bytes) -> Command:
    """For ``Lease.parse``."""
    return ("HMGET", keys.nms_lease(family, node_id), *LEASE_FIELDS)


def register(
    node_id: bytes,
    key_number: int,
    counter: int,
    observed: Endpoint,
    service: Endpoint,
    candidates: Sequence[Endpoint],
    capabilities: int,
    wall: float,
    round_trips: Mapping[Endpoint, int] | None = None,
) -> ScriptCall:
    """Make or replace the lease of the observed endpoint's family; see ``MoveResult``."""
    measured = _encoder.encode(list((round_trips or {}).items()))
    arguments = _move_arguments(b"register", key_number, counter, observed, service, wall)
    return _MOVE.call(
        _move_keys(node_id, observed), (*arguments, _encoder.encode(candidates), capabilities, measured)
    )


def refresh(
    node_id: bytes, key_number: int, counter: int, observed: Endpoint, service: Endpoint, wall: float
) -> ScriptCall:
    """Keep a lease, and move it when its node has moved; see ``MoveResult``."""
    arguments = _move_arguments(b"refresh", key_number, counter, observed, service, wall)
    return _MOVE.call(_move_keys(node_id, observed), (*arguments, b"", 0, b""))


def end(node_id: bytes, key_number: int, counter: int) -> ScriptCall:
    """End the leases of both families; 1, or 0 for a counter that is not greater than all before."""
    return _END.call(
        (keys.nms_lease(4, node_id), keys.nms_lease(6, node_id), keys.nms_order(node_id)),
        (order(key_number, counter), ORDER_LIFETIME),
    )


class MoveResult(NamedTuple):
    """What ``register`` and ``refresh`` did."""

    status: str
    """moved; duplicate (nothing changed, answer as before); stale (drop); missing (there is no lease)."""
    observed: Endpoint | None
    """Of the lease; None when stale."""

    @classmethod
    def parse(cls, values: Sequence[bytes]) -> MoveResult:
        """From the script's result."""
        return cls(values[0].decode(), _endpoint.decode(values[1]) if values[1] else None)


def _move_keys(node_id: bytes, observed: Endpoint) -> tuple[bytes, bytes]:
    return keys.nms_lease(family_of(observed), node_id), keys.nms_order(node_id)


def _move_arguments(
    kind: bytes, key_number: int, counter: int, observed: Endpoint, service: Endpoint, wall: float
) -> tuple[bytes | int, ...]:
    return (
        b"%d" % family_of(observed),
        order(key_number, counter),
        kind,
        _encoder.encode(observed),
        _encoder.encode(service),
        int(wall * 1000),
        LEASE,
        ORDER_LIFETIME,
    )
