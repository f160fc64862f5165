"""Who exists: every process of the cloud announces itself about once a second; 5 s of silence and it is gone.

Redis says who exists, the pipeline says who lives: see ``cyphonic.pipeline``.
"""

from __future__ import annotations

import msgspec

from cyphonic.state import keys
from cyphonic.state.store import Script, ScriptCall, Store
from cyphonic.wire.endpoint import Endpoint

HEARTBEAT = 1.0
"""Seconds between two announcements."""
COOKIE_SECRET_LIFETIME = 3600
"""Seconds after the last heartbeat of a frontend: longer than any cookie is good for."""
SILENCE = 5.0
"""Seconds without one after which a member is gone."""


class FrontendMember(msgspec.Struct, frozen=True, tag="frontend", tag_field="tier"):
    """A frontend process."""

    instance: str
    endpoint: str
    """ZeroMQ endpoint of its PULL."""
    curve_key: bytes = b""
    as_endpoints: list[Endpoint] = []
    """What nodes are told of it as AS."""
    nms_endpoints: list[Endpoint] = []
    """What nodes are told of it as NMS."""
    bound: list[Endpoint] = []
    """Every endpoint that it can send from."""
    rate: float = 0.0
    """Datagrams from nodes a second, lately."""


class WorkerMember(msgspec.Struct, frozen=True, tag="worker", tag_field="tier"):
    """A worker thread."""

    instance: str
    endpoint: str
    """ZeroMQ endpoint of its PULL."""
    curve_key: bytes = b""
    services: list[int] = []
    rate: float = 0.0
    """Jobs a second, lately."""
    load: float = 0.0
    """The part of the time that it works: 0 idle to 1 full."""


class RelayMember(msgspec.Struct, frozen=True, tag="relay", tag_field="tier"):
    """A relay process."""

    instance: str
    public_key: bytes
    endpoints: list[Endpoint] = []
    load: float = 0.0
    """0 idle to 1 full."""


FleetMember = FrontendMember | WorkerMember | RelayMember


class Fleet(msgspec.Struct, frozen=True):
    """All live members, in the order of their instance IDs."""

    frontends: list[FrontendMember] = []
    workers: list[WorkerMember] = []
    relays: list[RelayMember] = []


_ANNOUNCE = Script("announce")
_READ = Script("read_fleet")
_encoder = msgspec.msgpack.Encoder()
_decoder: msgspec.msgpack.Decoder[FleetMember] = msgspec.msgpack.Decoder(FleetMember)


def announce_command(member: FleetMember, wall: float | None = None) -> ScriptCall:
    """A heartbeat, for a round trip that is under way anyway.  ``wall`` None: by Redis' own clock."""
    return _ANNOUNCE.call((keys.FLEET, keys.FLEET_MEMBERS), (_time(wall), member.instance, _encoder.encode(member)))


def announce(store: Store, member: FleetMember, wall: float | None = None) -> None:
    """Say that ``member`` is here.  ``wall``: unix seconds; None (production) asks Redis, so that hosts agree."""
    store.run(announce_command(member, wall))


def withdraw(store: Store, instance: str) -> None:
    """Say that a member goes: others need not wait for its silence."""
    for result in store.round_trip([("ZREM", keys.FLEET, instance), ("HDEL", keys.FLEET_MEMBERS, instance)]):
        if isinstance(result, Exception):
            raise result


def read_fleet_command(wall: float | None = None) -> ScriptCall:
    """For a round trip that is under way anyway; ``decode_fleet`` reads its result."""
    return _READ.call((keys.FLEET, keys.FLEET_MEMBERS), (_time(wall), str(SILENCE)))


def read_fleet(store: Store, wall: float | None = None) -> Fleet:
    """Who is here.  Raise StoreUnavailableError: then keep the last known fleet."""
    return decode_fleet(store.run(read_fleet_command(wall)))


def decode_fleet(values: list[bytes]) -> Fleet:
    """Members of a newer version that cannot be read are left out."""
    members: list[FleetMember] = []
    for value in values:
        try:
            members.append(_decoder.decode(value))
        except msgspec.MsgspecError:
            continue
    members.sort(key=lambda member: member.instance)
    return Fleet(
        [member for member in members if isinstance(member, FrontendMember)],
        [member for member in members if isinstance(member, WorkerMember)],
        [member for member in members if isinstance(member, RelayMember)],
    )


def agree_on_cookie_secret(store: Store, proposed: bytes) -> bytes:
    """The secret that all frontends make cookies with: whoever comes first proposes it."""
    expiry = str(COOKIE_SECRET_LIFETIME)
    agreed = store.round_trip(
        [
            ("SET", keys.FLEET_COOKIE, proposed, "NX", "EX", expiry),
            ("EXPIRE", keys.FLEET_COOKIE, expiry),
            ("GET", keys.FLEET_COOKIE),
        ]
    )[-1]
    return agreed if isinstance(agreed, bytes) else proposed  # Redis is full, or read-only


def _time(wall: float | None) -> str:
    return "" if wall is None else f"{wall:.3f}"
