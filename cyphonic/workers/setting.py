"""What every conversation at a worker works with: the keys of its services, the region, the moment.

A conversation is a generator function.  It yields a list of commands and is sent the list of their results; each
``yield`` is a Redis round trip that the whole batch makes together.  It returns a ``Reply`` or raises DropError.
It touches no clock, chance or socket but what the ``Setting`` holds.

The first yield reads what the plain header names (or, when the message authenticates itself, writes already);
the last one writes.  A reply is built from what the last one returned, never from what was meant to be written:
that is how the first writer wins and how nothing is sent that was not saved.
"""

from __future__ import annotations

import hashlib
import ipaddress
from collections.abc import Callable, Collection, Generator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from cyphonic.errors import NotAllowedError
from cyphonic.protocol.chance import Chance
from cyphonic.protocol.keys import KeyPair, SigningKeyPair
from cyphonic.site import Site, SiteKeys
from cyphonic.state.fleet import Fleet
from cyphonic.state.store import Command, ScriptCall
from cyphonic.state.vault import Vault
from cyphonic.wire.endpoint import Endpoint
from cyphonic.wire.header import SignalingHeader
from cyphonic.wire.job import Job, Route, Send, Service

HINTS_PER_SECOND = 50.0
"""KeyUnknown hints of one dispatcher; a region that lost its registry must not flood its nodes."""


class Reply(NamedTuple):
    """What a conversation causes."""

    sends: Sequence[Send] = ()
    forwards: Sequence[bytes] = ()
    """Jobs for another service."""


Commands = list[Command | ScriptCall]
Conversation = Generator[Commands, list[Any], Reply]
Handler = Callable[["Setting", Job, SignalingHeader], Conversation]


class HintedDropError(NotAllowedError):
    """A drop that may be hinted at with KeyUnknown: the sender is not known under the key that it uses."""


@dataclass(frozen=True)
class ServiceKeys:
    """The secrets of the served services, and the public keys of the other one."""

    state_key: bytes = field(repr=False)
    as_public: bytes
    as_verify_key: bytes
    nms_public: bytes
    as_key: KeyPair | None = None
    as_signing: SigningKeyPair | None = None
    nms_key: KeyPair | None = None

    @classmethod
    def load(cls, files: SiteKeys, services: Collection[Service]) -> ServiceKeys:
        """From key files, the secrets of ``services`` only.  Raise ConfigurationError."""
        serves_as, serves_nms = Service.AS in services, Service.NMS in services
        return cls(
            files.state_key(),
            files.as_public(),
            files.as_verify_key(),
            files.nms_public(),
            files.as_key() if serves_as else None,
            files.as_signing_key() if serves_as else None,
            files.nms_key() if serves_nms else None,
        )


class AuthenticationKeys(NamedTuple):
    """What the AS needs."""

    own: KeyPair
    signing: SigningKeyPair
    nms_public: bytes


class ManagementKeys(NamedTuple):
    """What the NMS needs."""

    own: KeyPair
    as_public: bytes
    as_verify_key: bytes
    bind_secret: bytes
    """Bind keys are derived from it, so that whoever answers a direction gives the same ones."""


def authentication_keys(keys: ServiceKeys) -> AuthenticationKeys | None:
    """None without the secrets of the AS."""
    if keys.as_key is None or keys.as_signing is None:
        return None
    return AuthenticationKeys(keys.as_key, keys.as_signing, keys.nms_public)


def management_keys(keys: ServiceKeys) -> ManagementKeys | None:
    """None without the secret of the NMS."""
    if keys.nms_key is None:
        return None
    bind_secret = hashlib.blake2b(b"cyphonic bind keys v1", key=keys.nms_key.secret, digest_size=32).digest()
    return ManagementKeys(keys.nms_key, keys.as_public, keys.as_verify_key, bind_secret)


class HintBudget:
    """A token bucket by the wall clock."""

    def __init__(self, rate: float = HINTS_PER_SECOND) -> None:
        self._rate = rate
        self._tokens = rate
        self._filled = 0.0

    def take(self, wall: float) -> bool:
        """Whether one more hint may be sent."""
        grown = max(0.0, wall - self._filled) * self._rate
        self._tokens = min(self._rate, self._tokens + grown)
        self._filled = wall
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True


class AddressPool(NamedTuple):
    """The region's overlay addresses."""

    prefix_ipv6: bytes
    """The 6 bytes in front of the interface bits."""
    first_ipv4: int
    """The first usable address, as a number."""
    size_ipv4: int

    @classmethod
    def of(cls, site: Site) -> AddressPool:
        """Without the network's own address and the broadcast address."""
        pool = ipaddress.ip_network(site.pool_ipv4)
        prefix = ipaddress.ip_network(site.prefix_ipv6).network_address.packed[:6]
        return cls(prefix, int(pool.network_address) + 1, pool.num_addresses - 2)


class Setting(NamedTuple):
    """Of one batch."""

    site: Site
    pool: AddressPool
    authentication: AuthenticationKeys | None
    management: ManagementKeys | None
    vault: Vault
    chance: Chance
    wall: float
    """Unix seconds."""
    fleet: Fleet

    @property
    def time(self) -> int:
        """Unix milliseconds."""
        return int(self.wall * 1000)

    def as_endpoints(self) -> list[bytes]:
        """Where nodes log in, at most eight."""
        return _told([frontend.as_endpoints for frontend in self.fleet.frontends])

    def nms_endpoints(self) -> list[bytes]:
        """Where nodes register, at most eight."""
        return _told([frontend.nms_endpoints for frontend in self.fleet.frontends])


MAX_TOLD = 8


def _told(lists: list[list[Endpoint]]) -> list[bytes]:
    """In turn one of each frontend, so that eight of many name as many frontends as possible."""
    longest = max(map(len, lists), default=0)
    in_turn = [one[index] for index in range(longest) for one in lists if index < len(one)]
    return [endpoint.encode() for endpoint in dict.fromkeys(in_turn)][:MAX_TOLD]


def source(route: Route) -> Endpoint:
    """Where the node's datagram came from."""
    return Endpoint(route.node_host, route.node_port)


def service(route: Route) -> Endpoint:
    """Where it was sent to."""
    return Endpoint(route.service_host, route.service_port)
