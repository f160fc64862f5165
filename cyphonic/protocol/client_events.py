"""What the signaling client tells its driver, and what the driver tells it once: identity and cloud."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from socket import AddressFamily

from cyphonic.protocol.keys import KeyPair
from cyphonic.wire.certificate import Certificate
from cyphonic.wire.direction import RefusalReason, RouteDirection
from cyphonic.wire.endpoint import Endpoint
from cyphonic.wire.login import LoginOutcome
from cyphonic.wire.registration import RelayAddress


@dataclass(frozen=True, slots=True)
class Identity:
    """Who the node is: its static key, the name it wants, the last stamp it used (nanoseconds)."""

    static: KeyPair
    name: str
    last_stamp: int = 0


@dataclass(frozen=True, slots=True)
class Cloud:
    """What a node knows of the cloud before its first login; the enrolment bundle brings it."""

    as_key: bytes
    """X25519 public key of the AS."""
    as_verify_key: bytes
    """Ed25519 public key of the AS: certificates."""
    as_endpoints: tuple[Endpoint, ...]
    region: str = ""
    domain: str = ""


class ClientState(StrEnum):
    """Where the client stands, for a person to read."""

    LOGGED_OUT = "logged-out"
    LOGGING_IN = "logging-in"
    REGISTERING = "registering"
    REGISTERED = "registered"
    """At least one address family has a lease."""
    REFUSED = "refused"
    REVOKED = "revoked"
    LEFT = "left"


@dataclass(frozen=True, slots=True)
class LoggedIn:
    """The AS accepted: at the first login and at every renewal of the common key."""

    certificate: Certificate
    certificate_bytes: bytes
    prefix: str
    """The region's overlay IPv6 prefix."""
    pool: str
    """The region's overlay IPv4 pool."""
    alone: bool = True
    """False: since the last time somebody else has logged in under this node's static key."""


@dataclass(frozen=True, slots=True)
class LoginRefused:
    """The AS refused.  The client stops, unless a common key from before is still good."""

    outcome: LoginOutcome


@dataclass(frozen=True, slots=True)
class CloudUnreachable:
    """A login ("AS") or registration ("NMS") was given up; the client tries again by itself, later."""

    what: str
    reason: str
    """``unanswered``, ``no_underlay`` (no address family in common) or ``no_endpoint``."""
    family: AddressFamily | None = None


@dataclass(frozen=True, slots=True)
class Registered:
    """A lease, or the change of its observed endpoint."""

    family: AddressFamily
    observed: Endpoint
    """Where the NMS sees this node."""
    relays: tuple[RelayAddress, ...]


@dataclass(frozen=True, slots=True)
class Directed:
    """A path to a peer: the answer to ``transaction_id``, or, where that is None, at the peer's wish."""

    transaction_id: bytes | None
    direction: RouteDirection
    certificate: Certificate
    """The peer's, verified."""
    candidates: tuple[Endpoint, ...]
    """The peer's, decoded."""


@dataclass(frozen=True, slots=True)
class DirectionFailed:
    """No path.  Name and addresses are those of an offline node, else empty."""

    transaction_id: bytes
    target: str | bytes
    """What was asked for: an FQDN, or a virtual address."""
    reason: RefusalReason | None
    """None: the cloud did not answer in time, or this node was not registered."""
    fqdn: str = ""
    virtual_ipv6: bytes = b""
    virtual_ipv4: bytes = b""


@dataclass(frozen=True, slots=True)
class PeerRevoked:
    """Certificates of this node of this generation and below are void."""

    node_id: bytes
    generation: int


@dataclass(frozen=True, slots=True)
class SelfRevoked:
    """This node is out; the client has stopped."""


@dataclass(frozen=True, slots=True)
class VersionHinted:
    """A frontend speaks another version of the protocol.  Not authenticated: show it, nothing else."""

    source: Endpoint


Event = (
    LoggedIn
    | LoginRefused
    | CloudUnreachable
    | Registered
    | Directed
    | DirectionFailed
    | PeerRevoked
    | SelfRevoked
    | VersionHinted
)
