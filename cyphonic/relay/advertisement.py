"""What the fleet is told of a relay: where nodes reach it, and how full it is."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence

from cyphonic.interfaces import expand_wildcard
from cyphonic.site import Site
from cyphonic.wire.endpoint import Endpoint

ENDPOINTS_PER_FAMILY = 2
"""A RouteDirection carries the endpoints of two relays within 1,200 bytes."""


def advertised_endpoints(site: Site, bound: Sequence[Endpoint]) -> list[Endpoint]:
    """At most two endpoints a family of what is bound: no loopback unless the site allows it, nothing virtual."""
    overlay = (ipaddress.ip_network(site.prefix_ipv6), ipaddress.ip_network(site.pool_ipv4))
    chosen: list[Endpoint] = []
    for endpoint in bound:
        hosts = expand_wildcard(endpoint.host, loopback=site.allow_loopback)
        addresses = [address for host in hosts if not _inside(address := ipaddress.ip_address(host), overlay)]
        addresses.sort(key=lambda address: address.is_loopback)
        chosen += [Endpoint(str(address), endpoint.port) for address in addresses[:ENDPOINTS_PER_FAMILY]]
    return chosen


def _inside(
    address: ipaddress.IPv4Address | ipaddress.IPv6Address,
    networks: Sequence[ipaddress.IPv4Network | ipaddress.IPv6Network],
) -> bool:
    return any(address in network for network in networks if network.version == address.version)
