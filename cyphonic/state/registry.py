"""The registry: who belongs to this region, under which name and addresses, and who may join.

Two readers: workers, through ``NodeRecord``, and the administrator, through the functions, which take a ``Store``
and the wall clock (unix seconds) and raise StoreUnavailableError when Redis is away.
"""

from __future__ import annotations

import hashlib
import ipaddress
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, NamedTuple

from cyphonic.protocol.chance import Chance
from cyphonic.protocol.limits import ADDRESS_REST, PATH_KEY_LIFETIME, TRANSACTION_LIFETIME
from cyphonic.state import keys
from cyphonic.state.leases import FAMILIES, Lease, read_lease
from cyphonic.state.store import Command, Script, ScriptCall, Store

NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
ENROLMENT_SECRET_LENGTH = 32
EXPIRED_ENROLMENT_KEPT = 30 * 86400
"""Seconds for which an expired enrolment key is still listed."""
REVOCATION_PUSH_INTERVAL = 2
"""Seconds after which a revocation that is not acknowledged by all is pushed again."""

_REVOKE = Script("revoke_node")
_DELETE = Script("delete_node")
_DUE = Script("due_revocations")


def valid_name(name: str) -> bool:
    """Whether ``name`` is one DNS label in lower case."""
    return NAME.fullmatch(name) is not None


# Nodes, as workers read them.


class CommonKey(NamedTuple):
    """A common key as the NMS holds it."""

    number: int
    expires: int
    """Unix seconds."""
    sealed: bytes

    def encode(self) -> bytes:
        """Digits of fixed length, so that scripts compare them as text."""
        return b"%010d%010d" % (self.number, self.expires) + self.sealed

    @classmethod
    def decode(cls, slot: bytes) -> CommonKey:
        """What ``encode`` made."""
        return cls(int(slot[:10]), int(slot[10:20]), slot[20:])


class NodeRecord(NamedTuple):
    """A node as the NMS knows it."""

    node_id: bytes
    static_key: bytes
    fqdn: str
    virtual_ipv6: bytes
    virtual_ipv4: bytes
    generation: int
    revoked: bool
    certificate: bytes
    certificate_expires: int
    current: bytes | None
    following: bytes | None
    previous: bytes | None

    @classmethod
    def parse(cls, node_id: bytes, values: Sequence[bytes | None] | None) -> NodeRecord | None:
        """From the fields of NODE_FIELDS; None when there is no such node."""
        if values is None or values[0] is None:
            return None
        static, fqdn, ipv6, ipv4, generation, revoked, certificate, expires, current, following, previous = values
        return cls(
            node_id,
            static or b"",
            (fqdn or b"").decode(),
            ipv6 or b"",
            ipv4 or b"",
            int(generation or 0),
            revoked == b"1",
            certificate or b"",
            int(expires or 0),
            current,
            following,
            previous,
        )


NODE_FIELDS = (
    "static",
    "fqdn",
    "ipv6",
    "ipv4",
    "generation",
    "revoked",
    "certificate",
    "certificate_expires",
    "current",
    "next",
    "previous",
)


def read_node(node_id: bytes) -> Command:
    """For ``NodeRecord.parse``."""
    return ("HMGET", keys.nms_node(node_id), *NODE_FIELDS)


def sealed_key_place(static_key: bytes, number: int) -> bytes:
    """Where a common key at the NMS belongs, for the vault: to a node and a number, in whichever slot it is."""
    return b"nms:common:%d:" % number + static_key


# Enrolment keys.


@dataclass(frozen=True, slots=True)
class EnrolmentKey:
    """What is known of an enrolment key; the secret itself is not."""

    id: str
    """16 hexadecimal digits of the secret's hash."""
    name: str
    """Name that a node enrolled by it gets; empty: the one it wants."""
    uses: int | None
    """Nodes that it may enrol; None: any number."""
    used: int
    created: float
    expires: float | None
    revoked: bool

    def usable(self, wall: float) -> bool:
        """Whether a new node may still enrol with it."""
        return (
            not self.revoked
            and (self.expires is None or wall < self.expires)
            and (self.uses is None or self.used < self.uses)
        )


def enrolment_digest(secret: bytes) -> bytes:
    """Under which a secret is stored.  It is 32 random bytes, so a plain hash is enough."""
    return hashlib.sha256(b"cyphonic enrolment key v1" + secret).hexdigest().encode()


def create_enrolment_key(
    store: Store,
    *,
    wall: float,
    name: str = "",
    uses: int | None = 1,
    expires_at: float | None = None,
    chance: Chance = os.urandom,
) -> bytes:
    """Make an enrolment key and return its secret (32 bytes), which is stored nowhere.

    ``uses``: nodes that it may enrol, None for any number.  ``expires_at``: unix seconds, None for never.
    Raise ValueError for a name that is none, or a name together with more than one use.
    """
    if name and not valid_name(name):
        raise ValueError(f"{name!r} is not a name: lower-case letters, digits and hyphens, at most 63")
    if name and uses != 1:
        raise ValueError("a key that fixes the name enrols one node")
    if uses is not None and uses < 1:
        raise ValueError("a key has at least one use")
    secret = chance(ENROLMENT_SECRET_LENGTH)
    digest = enrolment_digest(secret)
    fields: dict[str, str | int] = {
        "name": name,
        "uses": uses or 0,
        "used": 0,
        "expires": int(expires_at or 0),
        "revoked": 0,
        "created": int(wall),
    }
    key = keys.as_enrolment(digest)
    commands: list[Command | ScriptCall] = [
        ("HSET", key, *chain.from_iterable(fields.items())),
        ("ZADD", keys.AS_ENROLMENTS, int(wall), digest),
    ]
    if expires_at is not None:
        commands.append(("EXPIRE", key, max(0, int(expires_at - wall)) + EXPIRED_ENROLMENT_KEPT))
    _checked(store, commands)
    return secret


def list_enrolment_keys(store: Store) -> list[EnrolmentKey]:
    """All of them, oldest first; those that expired 30 days ago are forgotten."""
    digests: list[bytes] = store.run(("ZRANGE", keys.AS_ENROLMENTS, 0, -1))
    values = _checked(store, [_read_enrolment(digest) for digest in digests])
    gone = [digest for digest, fields in zip(digests, values, strict=True) if fields[1] is None]
    if gone:
        store.run(("ZREM", keys.AS_ENROLMENTS, *gone))
    return [
        _enrolment_key(digest, fields)
        for digest, fields in zip(digests, values, strict=True)
        if fields[1] is not None
    ]


def revoke_enrolment_key(store: Store, key_id: str) -> EnrolmentKey | None:
    """End a key, by its ID or enough leading digits of it; None when no key, or more than one, is meant.

    Nodes that it has enrolled stay enrolled.
    """
    digests: list[bytes] = store.run(("ZRANGE", keys.AS_ENROLMENTS, 0, -1))
    wanted = key_id.strip().lower().encode()
    matching = [digest for digest in digests if wanted and digest.startswith(wanted)]
    if len(matching) != 1:
        return None
    digest = matching[0]
    _checked(store, [("HSET", keys.as_enrolment(digest), "revoked", 1)])
    return _enrolment_key(digest, store.run(_read_enrolment(digest)))


def _read_enrolment(digest: bytes) -> Command:
    return ("HMGET", keys.as_enrolment(digest), "name", "uses", "used", "expires", "revoked", "created")


def _enrolment_key(digest: bytes, fields: Sequence[bytes]) -> EnrolmentKey:
    name, uses, used, expires, revoked, created = fields
    return EnrolmentKey(
        id=digest[:16].decode(),
        name=name.decode(),
        uses=int(uses) or None,
        used=int(used),
        created=float(created),
        expires=float(expires) or None,
        revoked=revoked == b"1",
    )


# Nodes, as the administrator sees them.


@dataclass(frozen=True, slots=True)
class NodeStatus:
    """A node with its leases."""

    name: str
    fqdn: str
    """Empty until its first login has finished."""
    node_id: bytes
    """16 bytes, or empty until then."""
    static_key: bytes
    virtual_ipv6: str
    virtual_ipv4: str
    generation: int
    revoked: bool
    certificate_expires: int
    """Unix seconds; 0: none was ever presented to the NMS."""
    leases: dict[int, Lease]
    """By family, 4 or 6: where it is registered now."""

    @property
    def online(self) -> bool:
        """Whether it is registered."""
        return bool(self.leases) and not self.revoked


def list_nodes(store: Store) -> list[NodeStatus]:
    """Every enrolled node, by name."""
    static_keys: list[bytes] = sorted(store.run(("SMEMBERS", keys.AS_NODES)))
    return sorted(_statuses(store, static_keys), key=lambda node: node.name)


def show_node(store: Store, selector: str) -> NodeStatus | None:
    """One node by name, FQDN, node ID (hexadecimal) or virtual address; None when there is none."""
    static_key = _find(store, selector)
    return next(iter(_statuses(store, [static_key])), None) if static_key else None


def revoke_node(store: Store, selector: str, *, wall: float) -> bytes | None:
    """Shut a node out, for good: from now on neither AS nor NMS serves it, and peers are told within seconds.

    Returns its node ID (empty when it has never finished a login), None when there is no such node.
    """
    static_key = _find(store, selector)
    if static_key is None:
        return None
    node_id: bytes | None = store.run(
        _REVOKE.call(
            (keys.as_node(static_key), keys.nms_static(static_key), keys.NMS_REVOCATIONS),
            (int(wall), PATH_KEY_LIFETIME),
        )
    )
    return node_id


def delete_node(store: Store, selector: str, *, wall: float) -> bytes | None:
    """Revoke a node and forget it.  Its name is free at once, its addresses after ADDRESS_REST.

    Returns its node ID (empty when it has never finished a login), None when there is no such node.
    """
    static_key = _find(store, selector)
    if static_key is None or revoke_node(store, selector, wall=wall) is None:
        return None
    node_id: bytes | None = store.run(
        _DELETE.call(
            (
                keys.as_node(static_key),
                keys.nms_static(static_key),
                keys.AS_NODES,
                keys.NMS_IPV4_TAKEN,
                keys.NMS_RESTING_IPV4,
                keys.NMS_RESTING_IPV6,
            ),
            (static_key, int(wall) + ADDRESS_REST, TRANSACTION_LIFETIME + 1),
        )
    )
    return node_id


def pending_revocation_acks(store: Store, node_id: bytes) -> set[bytes]:
    """Node IDs, the revoked node's among them, that have not yet acknowledged the revocation of ``node_id``."""
    members: list[bytes] = store.run(("SMEMBERS", keys.nms_revocation(node_id)))
    return set(members)


def due_revocations(wall: float) -> ScriptCall:
    """Node IDs whose revocation is to be pushed now; each comes to one caller, every 2 s until all have acked."""
    return _DUE.call((keys.NMS_REVOCATIONS,), (int(wall), REVOCATION_PUSH_INTERVAL))


def _find(store: Store, selector: str) -> bytes | None:
    """The static key that is meant."""
    text = selector.strip().rstrip(".").lower()
    owner: bytes | None = store.run(("GET", keys.as_name(text.split(".", 1)[0])))
    if owner is not None and text.split(".", 1)[1:] == []:
        return owner
    node_id: bytes | None = store.run(("GET", keys.nms_name(text)))
    if node_id is None:
        node_id = _node_id(store, text)
    if node_id is None:
        return None
    static: bytes | None = store.run(("HGET", keys.nms_node(node_id), "static"))
    return static


def _node_id(store: Store, text: str) -> bytes | None:
    try:
        address = ipaddress.ip_address(text).packed
    except ValueError:
        try:
            return bytes.fromhex(text)
        except ValueError:
            return None
    held: bytes | None = store.run(("GET", keys.nms_address(address)))
    return held


def _statuses(store: Store, static_keys: Sequence[bytes]) -> list[NodeStatus]:
    commands: list[Command | ScriptCall] = []
    for static_key in static_keys:
        commands.append(("HMGET", keys.as_node(static_key), "name", "generation", "revoked"))
        commands.append(("GET", keys.nms_static(static_key)))
    values = _checked(store, commands)
    entries, node_ids = values[0::2], values[1::2]
    details = _details(store, [node_id for node_id in node_ids if node_id])
    return [
        _status(static_key, entry, details.get(node_id))
        for static_key, entry, node_id in zip(static_keys, entries, node_ids, strict=True)
        if entry[0] is not None
    ]


_Detail = tuple[NodeRecord, dict[int, Lease]]


def _details(store: Store, node_ids: Sequence[bytes]) -> dict[bytes | None, _Detail]:
    commands: list[Command | ScriptCall] = []
    for node_id in node_ids:
        commands += [read_node(node_id), *(read_lease(family, node_id) for family in FAMILIES)]
    values = iter(_checked(store, commands))
    details: dict[bytes | None, _Detail] = {}
    for node_id in node_ids:
        record = NodeRecord.parse(node_id, next(values))
        leases = {family: lease for family in FAMILIES if (lease := Lease.parse(next(values))) is not None}
        if record is not None:
            details[node_id] = record, leases
    return details


def _status(static_key: bytes, entry: Sequence[bytes], detail: _Detail | None) -> NodeStatus:
    name, generation, revoked = entry
    record = detail[0] if detail else None
    return NodeStatus(
        name=name.decode(),
        fqdn=record.fqdn if record else "",
        node_id=record.node_id if record else b"",
        static_key=static_key,
        virtual_ipv6=_address(record.virtual_ipv6) if record else "",
        virtual_ipv4=_address(record.virtual_ipv4) if record else "",
        generation=int(generation),
        revoked=revoked == b"1",
        certificate_expires=record.certificate_expires if record else 0,
        leases=detail[1] if detail else {},
    )


def _address(packed: bytes) -> str:
    return str(ipaddress.ip_address(packed)) if packed else ""


def _checked(store: Store, commands: Sequence[Command | ScriptCall]) -> list[Any]:
    results = store.round_trip(commands)
    for result in results:
        if isinstance(result, Exception):
            raise result
    return results
