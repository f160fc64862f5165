"""Enrolment keys: the right to join, once or often, for a while; and the bundles that carry them."""

from __future__ import annotations

import os
import re
from datetime import UTC, datetime

from cyphonic.bundle import Bundle
from cyphonic.errors import ConfigurationError, OperationalError
from cyphonic.site import Site, SiteKeys
from cyphonic.state.fleet import read_fleet
from cyphonic.state.registry import (
    EnrolmentKey,
    create_enrolment_key,
    list_enrolment_keys,
    revoke_enrolment_key,
    valid_name,
)
from cyphonic.state.store import Store
from cyphonic.wire.endpoint import Endpoint

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_DURATION = re.compile(r"([1-9][0-9]*)([smhd])")
NEVER = "never"


def duration(text: str) -> float | None:
    """Seconds of ``90s``, ``10m``, ``1h`` or ``7d``; None for ``never``.  Raise ValueError."""
    if text == NEVER:
        return None
    match = _DURATION.fullmatch(text)
    if match is None:
        raise ValueError(f"{text!r} is none of 90s, 10m, 1h, 7d and never")
    return int(match[1]) * _UNITS[match[2]]


def make_bundle(
    site: Site,
    store: Store,
    *,
    name: str,
    reusable: bool,
    lifetime: float | None,
    endpoints: tuple[Endpoint, ...],
    wall: float,
) -> Bundle:
    """Make an enrolment key and wrap it up with what a node must know of the site.

    ``lifetime``: seconds, None for ever.  ``endpoints``: of the AS; none: those of the running frontends.
    """
    if name and not valid_name(name):
        raise ConfigurationError(
            f"--name {name}: a name is lower-case letters, digits and inner hyphens, at most 63",
            "choose another one",
        )
    if name and reusable:
        raise ConfigurationError("--name and --reusable: two nodes cannot have one name", "leave one of them out")
    keys = SiteKeys(site.keys_dir)
    found = endpoints or _running_frontends(store)
    as_key, as_verify_key = keys.as_public(), keys.as_verify_key()
    secret = create_enrolment_key(
        store,
        wall=wall,
        name=name,
        uses=None if reusable else 1,
        expires_at=None if lifetime is None else wall + lifetime,
        chance=os.urandom,
    )
    return Bundle(site.region, site.domain, found, as_key, as_verify_key, secret, name)


def _running_frontends(store: Store) -> tuple[Endpoint, ...]:
    endpoints = [endpoint for frontend in read_fleet(store).frontends for endpoint in frontend.as_endpoints]
    if not endpoints:
        raise ConfigurationError(
            "no frontend of this site runs, so it is not known where nodes reach it",
            "start it (cyphonic cluster), or say where with --endpoint ADDRESS:PORT",
        )
    return tuple(dict.fromkeys(endpoints))[:8]


def all_keys(store: Store) -> list[EnrolmentKey]:
    """Oldest first."""
    return list_enrolment_keys(store)


def revoke_key(store: Store, key_id: str) -> EnrolmentKey:
    """End a key by its ID; raise OperationalError for one that is unknown or ambiguous."""
    key = revoke_enrolment_key(store, key_id)
    if key is None:
        raise OperationalError(
            f"{key_id}: no enrolment key has this ID, or more than one begins with it",
            "see: cyphonic admin key list",
        )
    return key


def state_of(key: EnrolmentKey, wall: float) -> str:
    """In one word or two."""
    if key.revoked:
        return "revoked"
    if key.expires is not None and wall >= key.expires:
        return "expired"
    return "usable" if key.usable(wall) else "used"


def as_json(key: EnrolmentKey, wall: float) -> dict[str, object]:
    """For --json."""
    return {
        "id": key.id,
        "name": key.name,
        "state": state_of(key, wall),
        "uses": key.uses,
        "used": key.used,
        "created": int(key.created),
        "expires": None if key.expires is None else int(key.expires),
    }


def as_row(key: EnrolmentKey, wall: float) -> list[str]:
    """For the table."""
    uses = f"{key.used}" if key.uses is None else f"{key.used} of {key.uses}"
    return [key.id, key.name or "-", state_of(key, wall), uses, moment(key.created), moment(key.expires)]


def moment(seconds: float | None) -> str:
    """A time of day in UTC, to the minute."""
    return "never" if seconds is None else datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%MZ")
