"""The route decision: what two nodes try first, from where the cloud sees them and where they say they are.

Per address family a node is absent, open (the cloud sees one of its own addresses) or behind a NAPT (it sees
another).  The decision is the best row of a table over the families that both have.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Sequence
from enum import Enum
from typing import NamedTuple

from cyphonic.wire.direction import FirstPath
from cyphonic.wire.endpoint import Endpoint
from cyphonic.wire.registration import MAX_CANDIDATES

IPV4, IPV6 = 4, 6
MAX_PATH_CANDIDATES = MAX_CANDIDATES + 2
"""The node's own and one observed endpoint per family."""

MAX_PORTS = 2
"""Candidates at one address: a node's own port, and one that its gateway has mapped to it."""


class Reach(Enum):
    """How a node stands in one address family."""

    OPEN = "open"
    NAPT = "behind NAPT"


class Whereabouts(NamedTuple):
    """Where a node is."""

    observed: dict[int, Endpoint]
    """By family, 4 or 6: where the cloud sees it.  A family without an entry is one it does not have."""
    candidates: Sequence[Endpoint]
    """Its own addresses, all families."""

    def reach(self, family: int) -> Reach | None:
        """Open, behind a NAPT, or None without this family."""
        observed = self.observed.get(family)
        if observed is None:
            return None
        return Reach.OPEN if any(own.host == observed.host for own in self.candidates) else Reach.NAPT

    def paths(self, peer: Whereabouts) -> list[Endpoint]:
        """All endpoints that ``peer`` may try: observed ones first, none twice, at most ten.

        Addresses of a private network are named to a peer behind the same NAPT only: to any other they would
        mean some stranger in its own network, and tell what ours looks like.
        """
        own = [endpoint for endpoint in self.candidates if self._concerns(endpoint, peer)]
        return list(dict.fromkeys((*self.observed.values(), *own)))[:MAX_PATH_CANDIDATES]

    def _concerns(self, own: Endpoint, peer: Whereabouts) -> bool:
        family = IPV6 if ":" in own.host else IPV4
        seen, peer_seen = self.observed.get(family), peer.observed.get(family)
        if (seen is not None and own.host == seen.host) or not own.is_private:
            return True
        return seen is not None and peer_seen is not None and seen.host == peer_seen.host


_ROWS: dict[tuple[Reach, Reach, bool], FirstPath] = {
    # initiator, responder, seen at the same address
    (Reach.OPEN, Reach.OPEN, False): FirstPath.DIRECT,
    (Reach.OPEN, Reach.OPEN, True): FirstPath.DIRECT,
    (Reach.NAPT, Reach.OPEN, False): FirstPath.DIRECT,
    (Reach.NAPT, Reach.OPEN, True): FirstPath.DIRECT,
    (Reach.OPEN, Reach.NAPT, False): FirstPath.DIRECT_PUNCHED,
    (Reach.OPEN, Reach.NAPT, True): FirstPath.DIRECT_PUNCHED,
    (Reach.NAPT, Reach.NAPT, False): FirstPath.RELAYED,
    (Reach.NAPT, Reach.NAPT, True): FirstPath.LAN_AND_RELAYED,
}

_PREFERENCE = (
    FirstPath.DIRECT,
    FirstPath.LAN_AND_RELAYED,
    FirstPath.DIRECT_PUNCHED,
    FirstPath.RELAYED,
)
"""When both families offer a way."""


def decide_route(initiator: Whereabouts, responder: Whereabouts) -> FirstPath:
    """What both ends are told to try first.  RELAYED_ONLY where no family is common to both."""
    offers = [
        _ROWS[here, there, initiator.observed[family].host == responder.observed[family].host]
        for family in (IPV4, IPV6)
        if (here := initiator.reach(family)) and (there := responder.reach(family))
    ]
    return min(offers, key=_PREFERENCE.index, default=FirstPath.RELAYED_ONLY)


def usable_candidates(encoded: Iterable[bytes], *, allow_loopback: bool) -> list[Endpoint]:
    """The endpoints in ``encoded`` that a peer may be sent to, none twice, at most eight and two of one address.

    Never unspecified, multicast, broadcast, link-local or mapped addresses: they would aim nodes at whoever
    shares a link with them.  Raise MalformedError for bytes that are no endpoint.
    """
    endpoints = (Endpoint.decode(one) for one in encoded)
    usable = (endpoint for endpoint in endpoints if _may_be_tried(endpoint, allow_loopback))
    kept: list[Endpoint] = []
    for endpoint in dict.fromkeys(usable):
        if sum(endpoint.host == other.host for other in kept) < MAX_PORTS:
            kept.append(endpoint)
    return kept[:MAX_CANDIDATES]


def _may_be_tried(endpoint: Endpoint, allow_loopback: bool) -> bool:
    address = ipaddress.ip_address(endpoint.host)
    if address.is_loopback:
        return allow_loopback
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        return False
    return not (
        address.is_unspecified
        or address.is_multicast
        or address.is_link_local
        or endpoint.host == "255.255.255.255"
    )
