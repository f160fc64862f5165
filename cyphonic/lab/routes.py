"""Which host sends what where, from the topology alone.

Everything with an uplink takes the router that serves that network as its default.  A router learns the way to
what stands behind the routers below it, as far as no NAT hides it.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

from cyphonic.lab.nat import NatKind
from cyphonic.lab.topology import Attachment, Router, Topology


@dataclass(frozen=True, slots=True)
class Route:
    """``prefix`` None is the default route."""

    prefix: IPv4Network | IPv6Network | None
    gateway: IPv4Address | IPv6Address


def routes(topology: Topology) -> dict[str, list[Route]]:
    """By name of host or router; on-link prefixes are not listed."""
    serving = {
        attachment.network: (router, attachment) for router in topology.routers for attachment in router.serves
    }
    table: dict[str, list[Route]] = defaultdict(list)
    for host in topology.hosts:
        table[host.name] += _defaults(host.attachment, serving)
    for router in topology.routers:
        if router.uplink is not None:
            table[router.name] += _defaults(router.uplink, serving)
        for attachment in router.serves:
            if attachment.ipv4 is not None:
                _announce(attachment.ipv4.network, router, serving, table)
            if attachment.ipv6 is not None:
                _announce(attachment.ipv6.network, router, serving, table)
    return table


def _defaults(attachment: Attachment, serving: dict[str, tuple[Router, Attachment]]) -> list[Route]:
    if attachment.network not in serving:
        return []
    gateway = serving[attachment.network][1]
    families = (address.version for address in attachment.addresses)
    return [Route(None, _of_version(gateway, version)) for version in families]


def _of_version(attachment: Attachment, version: int) -> IPv4Address | IPv6Address:
    return next(address.ip for address in attachment.addresses if address.version == version)


def _announce(
    prefix: IPv4Network | IPv6Network,
    router: Router,
    serving: dict[str, tuple[Router, Attachment]],
    table: dict[str, list[Route]],
) -> None:
    """Tell every router above ``router`` about ``prefix``, up to the first NAT."""
    below = router
    while below.uplink is not None and below.uplink.network in serving:
        hidden = prefix.version == 4 and below.nat is not NatKind.NONE
        carried = any(address.version == prefix.version for address in below.uplink.addresses)
        if hidden or not carried:
            return
        above = serving[below.uplink.network][0]
        table[above.name].append(Route(prefix, _of_version(below.uplink, prefix.version)))
        below = above
