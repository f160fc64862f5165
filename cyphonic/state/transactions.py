"""Transactions: opened as pending, closed as done by whoever comes first, ended by expiry.

The outcome is saved, not the bytes of an answer: whichever worker answers, first or late, seals what is saved.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from cyphonic.errors import NotAllowedError
from cyphonic.protocol.limits import (
    COMMON_KEY_LIFETIME,
    PATH_KEY_LIFETIME,
    PREVIOUS_COMMON_KEY_GRACE,
    TRANSACTION_LIFETIME,
)
from cyphonic.state import keys
from cyphonic.state.leases import Lease
from cyphonic.state.registry import NODE_FIELDS, CommonKey, NodeRecord
from cyphonic.state.store import Command, Script, ScriptCall
from cyphonic.wire.codec import decode, encode
from cyphonic.wire.job import Route
from cyphonic.wire.login import LoginOutcome

_OPEN_LOGIN = Script("open_login")
_CLOSE_LOGIN = Script("close_login")
_ADMIT = Script("admit_node")
_PROMOTE = Script("promote_key")
_FIND = Script("find_target")
_OPEN = Script("open_direction")
_RESUME = Script("resume_direction")
_CLOSE = Script("close_direction")

TRIES = 4
"""Random node IDs and IPv6 addresses offered to one allocation; 80 random bits collide never in practice."""
IPV4_TRIES = 8


# Login, at the AS.


class OpenLogin(NamedTuple):
    """A login transaction as it was found or made; see ``open_login``."""

    done: bool
    request: bytes
    common_key: bytes
    """Sealed for the place ``keys.as_login``."""
    key_number: int
    name: str
    generation: int
    outcome: LoginOutcome
    certificate: bytes

    @classmethod
    def parse(cls, values: Sequence[Any]) -> OpenLogin | LoginOutcome:
        """From the script's result: a transaction, or why there is none.  Raise NotAllowedError("stale_stamp")."""
        if values[0] == b"stale":
            raise NotAllowedError("stale_stamp")
        if values[0] == b"refused":
            return LoginOutcome(values[1])
        state, request, common_key, key_number, name, generation, outcome, certificate = values
        return cls(
            state == b"done",
            request,
            common_key,
            int(key_number),
            name.decode(),
            int(generation),
            LoginOutcome(int(outcome or 0)),
            certificate or b"",
        )


def open_login(
    *,
    static_key: bytes,
    transaction_id: bytes,
    stamp: int,
    name: str,
    enrolment_digest: bytes,
    request: bytes,
    route: Route,
    common_key: bytes,
    wall: float,
) -> ScriptCall:
    """Open a login or find it open.  ``name`` is empty for an invalid one, ``common_key`` is sealed."""
    return _OPEN_LOGIN.call(
        (
            keys.as_login(static_key, transaction_id),
            keys.as_node(static_key),
            keys.as_enrolment(enrolment_digest),
            keys.as_enrolment_used(enrolment_digest),
            keys.AS_NODES,
            keys.as_name(name),
        ),
        (
            static_key,
            b"%020d" % stamp,
            int(wall),
            name,
            enrolment_digest,
            request,
            encode(route),
            common_key,
            TRANSACTION_LIFETIME,
            b"as:name:",
        ),
    )


def read_login(static_key: bytes, transaction_id: bytes) -> Command:
    """Name and generation of a login that is under way: what its certificate says."""
    return ("HMGET", keys.as_login(static_key, transaction_id), "name", "generation", "key_number")


class ClosedLogin(NamedTuple):
    """A login that is done: everything that its answer needs."""

    outcome: LoginOutcome
    certificate: bytes
    request: bytes
    route: Route
    common_key: bytes
    key_number: int

    @classmethod
    def parse(cls, values: Sequence[bytes] | None) -> ClosedLogin:
        """From the script's result.  Raise NotAllowedError("no_transaction")."""
        if values is None:
            raise NotAllowedError("no_transaction")
        outcome, certificate, request, route, common_key, key_number = values
        return cls(
            LoginOutcome(int(outcome)), certificate, request, decode(route, Route), common_key, int(key_number)
        )


def close_login(
    static_key: bytes,
    transaction_id: bytes,
    key_number: int,
    outcome: LoginOutcome,
    node_id: bytes,
    certificate: bytes,
) -> ScriptCall:
    """Close a login; the first writer wins."""
    return _CLOSE_LOGIN.call(
        (keys.as_login(static_key, transaction_id), keys.as_node(static_key)),
        (key_number, int(outcome), node_id, certificate),
    )


# Login, at the NMS.


class Admission(NamedTuple):
    """What the NMS allocated."""

    outcome: LoginOutcome
    node_id: bytes
    virtual_ipv6: bytes
    virtual_ipv4: bytes

    @classmethod
    def parse(cls, values: Sequence[Any]) -> Admission:
        """From the script's result.  Raise NotAllowedError("stale_key_number")."""
        if values[0] == b"stale":
            raise NotAllowedError("stale_key_number")
        return cls(LoginOutcome(values[0]), values[1], values[2], values[3])


def admit_node(
    *,
    static_key: bytes,
    fqdn: str,
    common_key: CommonKey,
    generation: int,
    wall: float,
    node_ids: bytes,
    ipv6_addresses: bytes,
    pool_first: int | None,
    pool_size: int,
    offsets: bytes,
) -> ScriptCall:
    """Allocate once for a static key and store its next common key.  Candidates are random bytes, concatenated."""
    return _ADMIT.call(
        (
            keys.nms_static(static_key),
            keys.nms_name(fqdn),
            keys.NMS_IPV4_TAKEN,
            keys.NMS_RESTING_IPV4,
            keys.NMS_RESTING_IPV6,
        ),
        (
            static_key,
            fqdn,
            common_key.encode(),
            generation,
            int(wall),
            node_ids,
            ipv6_addresses,
            b"" if pool_first is None else pool_first,
            pool_size,
            offsets,
        ),
    )


def common_key_expiry(wall: float) -> int:
    """Of a common key made now; with the grace, so that a node that renews late is told, not ignored."""
    return int(wall) + COMMON_KEY_LIFETIME + PREVIOUS_COMMON_KEY_GRACE


def promote_key(
    node_id: bytes, key_number: int, wall: float, certificate: bytes = b"", certificate_expires: int = 0
) -> ScriptCall:
    """The next key was used: it becomes the current one.  A new certificate is stored along the way."""
    until = int(wall) + PREVIOUS_COMMON_KEY_GRACE
    return _PROMOTE.call(
        (keys.nms_node(node_id),), (b"%010d" % key_number, b"%010d" % until, certificate, certificate_expires)
    )


# Direction, at the NMS.


class Target(NamedTuple):
    """A node to which a direction is wanted."""

    record: NodeRecord
    leases: dict[int, Lease]
    """Live ones, by family."""

    @classmethod
    def parse(cls, values: Sequence[Any] | None) -> Target | None:
        """From the end of a script's result: node ID, fields, leases."""
        if values is None:
            return None
        node_id, fields, ipv4, ipv6 = values
        record = NodeRecord.parse(node_id, fields)
        if record is None:
            return None
        leases = {family: lease for family, one in ((4, ipv4), (6, ipv6)) if (lease := Lease.parse(one))}
        return cls(record, leases)


def find_by_name(fqdn: str) -> ScriptCall:
    """For ``Target.parse``."""
    return _FIND.call((keys.nms_name(fqdn),), NODE_FIELDS)


def find_by_address(address: bytes) -> ScriptCall:
    """The same by virtual address, 4 or 16 bytes."""
    return _FIND.call((keys.nms_address(address),), NODE_FIELDS)


class Direction(NamedTuple):
    """A direction transaction, found or made."""

    handle: bytes
    done: bool
    saved: bytes
    """Sealed for the place ``keys.nms_direction(handle)``."""


def find_transaction(initiator: bytes, transaction_id: bytes) -> Command:
    """The handle of an earlier request with this transaction ID, or None."""
    return ("GET", keys.nms_transaction(initiator, transaction_id))


def open_direction(
    *, initiator: bytes, transaction_id: bytes, handle: bytes, responder: bytes, route: Route, saved: bytes
) -> ScriptCall:
    """Open a direction or find it open; for ``parse_opened``."""
    return _OPEN.call(
        (keys.nms_transaction(initiator, transaction_id),),
        (handle, initiator, responder, encode(route), saved, TRANSACTION_LIFETIME),
    )


def parse_opened(values: Sequence[bytes]) -> Direction:
    """From the result of ``open_direction``."""
    handle, state, saved = values
    return Direction(handle, state == b"done", saved)


def resume_direction(handle: bytes, initiator: bytes, route: Route) -> ScriptCall:
    """For a duplicate request; for ``parse_resumed``."""
    return _RESUME.call((keys.nms_direction(handle),), (initiator, encode(route), *NODE_FIELDS))


def parse_resumed(handle: bytes, values: Sequence[Any] | None) -> tuple[Direction, Target | None]:
    """From the result of ``resume_direction``: it and its responder.  Raise NotAllowedError("no_transaction")."""
    if values is None:
        raise NotAllowedError("no_transaction")
    state, saved, *responder = values
    return Direction(handle, state == b"done", saved), Target.parse(responder)


class ClosedDirection(NamedTuple):
    """A confirmed direction: where the answer goes, and what it says."""

    initiator: bytes
    route: Route
    saved: bytes

    @classmethod
    def parse(cls, values: Sequence[bytes] | None) -> ClosedDirection:
        """Raise NotAllowedError("no_transaction", "wrong_responder" or "revoked")."""
        if values is None:
            raise NotAllowedError("no_transaction")
        if values[0] != b"done":
            raise NotAllowedError(values[0].decode())
        return cls(values[1], decode(values[2], Route), values[3])


def close_direction(handle: bytes, responder: bytes, wall: float) -> ScriptCall:
    """Confirm a direction; the first confirmation closes it, later ones find it closed."""
    return _CLOSE.call((keys.nms_direction(handle),), (responder, int(wall) + PATH_KEY_LIFETIME, PATH_KEY_LIFETIME))
