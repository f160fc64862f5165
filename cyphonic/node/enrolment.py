"""From an enrolment bundle, or from what is on disk, to the state that a daemon starts with."""

from __future__ import annotations

import re
from typing import NamedTuple

import msgspec

from cyphonic.bundle import Bundle
from cyphonic.errors import ConfigurationError, NotEnrolledError
from cyphonic.node.statefile import KnownCloud, NodeState, StateFile
from cyphonic.protocol.chance import Chance
from cyphonic.protocol.keys import KEY_LENGTH

_NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")


class Enrolment(NamedTuple):
    """What a daemon starts with."""

    state: NodeState
    """On disk already."""
    enrolment_key: bytes = b""
    """For the first login; empty: this node has one behind it."""


def enrol(state_file: StateFile, bundle: Bundle | None, name: str, hostname: str, chance: Chance) -> Enrolment:
    """Make or find the identity, and see to it that it is on disk: the key must be there before the first login.

    ``name`` is the wanted one (empty: the bundle's, else the host's).  A bundle of the cloud that this node belongs
    to keeps its identity, unless that was revoked; else a new one is made, and the old one is kept aside.
    Raise NotEnrolledError without bundle and identity; ConfigurationError for a name that no node can have.
    """
    if name:
        check_name(name)
    known = state_file.load()
    if bundle is None:
        if known is None:
            raise NotEnrolledError(
                "this machine has not joined an overlay yet",
                "ask the cloud's operator for an enrolment bundle, then: sudo cyphonic up --enrol FILE",
            )
        return Enrolment(_rename(state_file, known, name))
    cloud = KnownCloud.from_bundle(bundle)
    wanted = name or bundle.name
    if known is not None and known.cloud.as_key == cloud.as_key and not known.revoked:
        state = msgspec.structs.replace(known, cloud=cloud)
        if wanted and not known.fqdn:
            state = msgspec.structs.replace(state, name=wanted)
        state_file.save(state)
    else:
        state = NodeState(chance(KEY_LENGTH), cloud, name=wanted or name_of_host(hostname))
        state_file.save(state, keep_old=True)
    return Enrolment(state, bundle.enrolment_key)


def check_name(name: str) -> None:
    """Raise ConfigurationError for a name that no node can have."""
    if not _NAME.fullmatch(name):
        raise ConfigurationError(
            f"{name!r} cannot be the name of a node", "take a-z, 0-9 and - inside, at most 63 characters"
        )


def name_of_host(hostname: str) -> str:
    """The first label of the host's name, made fit: ``Alice's_Laptop.lan`` is ``alice-s-laptop``."""
    label = re.sub(r"[^a-z0-9]+", "-", hostname.partition(".")[0].lower())[:63].strip("-")
    return label or "node"


def _rename(state_file: StateFile, known: NodeState, name: str) -> NodeState:
    """A node that has never been accepted may still change its mind; later the cloud keeps the name it gave."""
    if not name or known.fqdn or name == known.name:
        return known
    state = msgspec.structs.replace(known, name=name)
    state_file.save(state)
    return state
