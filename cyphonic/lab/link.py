"""From topology to the lines that ``ip -batch`` reads: namespaces, veths, bridges, addresses and routes.

All bridges stand in one namespace of their own, ``switch``; a network is a bridge there, and every interface of a
host or router is one end of a veth whose other end is a port of that bridge.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from cyphonic.lab.routes import Route, routes
from cyphonic.lab.topology import Attachment, Topology

SWITCH = "switch"
DEFAULT = {4: "0.0.0.0/0", 6: "::/0"}

COMMON_SYSCTLS = {
    # Addresses are ours: duplicate detection would only make them wait a second.
    "ipv6/conf/default/accept_dad": 0,
    "ipv6/conf/default/dad_transmits": 0,
    "ipv6/conf/default/accept_ra": 0,
    "ipv6/conf/default/accept_redirects": 0,
    "ipv4/conf/all/accept_redirects": 0,
    "ipv4/conf/default/accept_redirects": 0,
    "ipv4/conf/all/rp_filter": 0,
    "ipv4/conf/default/rp_filter": 0,
}
ROUTER_SYSCTLS = {
    "ipv4/ip_forward": 1,
    "ipv6/conf/all/forwarding": 1,
    "ipv4/conf/all/send_redirects": 0,
    "ipv4/conf/default/send_redirects": 0,
}
SWITCH_SYSCTLS = {"ipv6/conf/default/disable_ipv6": 1}


@dataclass(frozen=True, slots=True)
class Interface:
    """One end of a veth in a host or router."""

    owner: str
    name: str
    attachment: Attachment


def interfaces(topology: Topology) -> Iterator[Interface]:
    """Every interface of every host and router, in file order."""
    for host in topology.hosts:
        yield Interface(host.name, "eth0", host.attachment)
    for router in topology.routers:
        for number, attachment in enumerate(router.serves):
            yield Interface(router.name, f"lan{number}", attachment)
        if router.uplink is not None:
            yield Interface(router.name, "wan", router.uplink)


def owners(topology: Topology) -> list[str]:
    """Names of all namespaces but the switch's."""
    return [host.name for host in topology.hosts] + [router.name for router in topology.routers]


def sysctls(topology: Topology) -> dict[str, dict[str, int]]:
    """Paths below ``/proc/sys/net`` and values, by owner; set before the interfaces exist."""
    settings = {host.name: dict(COMMON_SYSCTLS) for host in topology.hosts}
    for router in topology.routers:
        settings[router.name] = COMMON_SYSCTLS | ROUTER_SYSCTLS
        if router.udp_timeout is not None:
            settings[router.name]["netfilter/nf_conntrack_udp_timeout"] = router.udp_timeout
            settings[router.name]["netfilter/nf_conntrack_udp_timeout_stream"] = router.udp_timeout
    return settings | {SWITCH: dict(SWITCH_SYSCTLS)}


def veth_lines(topology: Topology, namespaces: Mapping[str, str]) -> list[str]:
    """Make every veth with both ends where they belong; ``namespaces`` maps owner to namespace."""
    switch = namespaces[SWITCH]
    return [
        f"link add {interface.name} netns {namespaces[interface.owner]} "
        f"type veth peer name port{number} netns {switch}"
        for number, interface in enumerate(interfaces(topology))
    ]


def bridges(topology: Topology) -> dict[str, str]:
    """In the switch, by network."""
    return {network.name: f"br{number}" for number, network in enumerate(topology.networks)}


def ports(topology: Topology) -> dict[tuple[str, str], str]:
    """In the switch, by owner and interface."""
    return {
        (interface.owner, interface.name): f"port{number}" for number, interface in enumerate(interfaces(topology))
    }


def switch_lines(topology: Topology) -> list[str]:
    """Inside the switch: a bridge a network, and the ports in it."""
    by_network = bridges(topology)
    lines = [f"link add {bridge} up type bridge forward_delay 0" for bridge in by_network.values()]
    for number, interface in enumerate(interfaces(topology)):
        lines.append(f"link set port{number} up master {by_network[interface.attachment.network]}")
    return lines


def owner_lines(topology: Topology) -> dict[str, list[str]]:
    """Inside each host and router: addresses, then routes."""
    lines: dict[str, list[str]] = {owner: ["link set lo up"] for owner in owners(topology)}
    for interface in interfaces(topology):
        for address in interface.attachment.addresses:
            nodad = " nodad" if address.version == 6 else ""
            lines[interface.owner].append(f"address add {address} dev {interface.name}{nodad}")
        lines[interface.owner].append(f"link set {interface.name} up")
    for owner, table in routes(topology).items():
        lines[owner] += [f"route add {route_text(route)}" for route in table]
    return lines


def route_text(route: Route) -> str:
    """As ``ip route`` reads it."""
    return f"{route.prefix or DEFAULT[route.gateway.version]} via {route.gateway}"
