"""Topology files: what is on the machine's small internet, as frozen values.

A file says which networks exist, which hosts stand in them and which routers join them::

    name = "two-homes"

    [network.internet]
    ipv4 = "203.0.113.0/24"
    ipv6 = "2001:db8:1::/64"

    [network.home]
    ipv4 = "192.168.1.0/24"

    [router.core]                   # the first address (.1) of every network that it serves
    serves = ["internet"]

    [router.home-router]
    uplink = "internet"
    serves = ["home"]
    nat = "port-restricted"         # none, full-cone, address-restricted, port-restricted, symmetric
    udp_timeout = 30                # seconds; optional
    firewall = "stateful"           # none, stateful (IPv6, on a NAT), no-udp

    [host.cloud]
    network = "internet"
    role = "cloud"                  # cloud, node (default), plain
    families = ["ipv4", "ipv6"]     # default: those of the network
    firewall = "none"               # none, stateful, no-udp

    [host.laptop]
    network = "home"

    [link.laptop]                   # a host's link, or a router's uplink; each way
    loss = 0.01                     # a part of all packets, as are reorder and duplicate
    rate = 20_000_000               # bits per second
    delay = 0.02                    # seconds, as is jitter
    jitter = 0.005
    reorder = 0.01
    duplicate = 0.01
    seed = 1                        # of what chance decides

A NAT behind a NAT (CGNAT) is a router whose uplink another NAT serves.
Addresses follow from the order in the file: hosts from .11 (and ``::11``) on, then the routers
with an uplink there.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from enum import Enum
from importlib import resources
from ipaddress import IPv4Interface, IPv4Network, IPv6Interface, IPv6Network
from pathlib import Path
from typing import Any, TypeVar

from cyphonic.errors import ConfigurationError
from cyphonic.lab.firewall import Firewall
from cyphonic.lab.nat import NatKind, strictest
from cyphonic.lab.quality import MIN_RATE, Quality

NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,18}[a-z0-9])?")
RESERVED_NAMES = frozenset({"switch"})
FAMILIES = ("ipv4", "ipv6")
FIRST_HOST = 11
FIRST_ADDRESS = 1

E = TypeVar("E", bound=Enum)
N = TypeVar("N", IPv4Network, IPv6Network)


class TopologyError(ConfigurationError):
    """A topology file cannot be used; the message names file, key and reason."""

    def __init__(self, file: str, key: str, reason: str) -> None:
        super().__init__(f"{file}: {key}: {reason}" if key else f"{file}: {reason}")
        self.key = key
        self.reason = reason


class Role(Enum):
    """What runs on a host when cyphonic is deployed."""

    CLOUD = "cloud"
    NODE = "node"
    PLAIN = "plain"


@dataclass(frozen=True, slots=True)
class Network:
    """One layer-2 segment (a bridge) and its prefixes."""

    name: str
    ipv4: IPv4Network | None
    ipv6: IPv6Network | None


@dataclass(frozen=True, slots=True)
class Attachment:
    """An interface: the network it is in and its addresses there."""

    network: str
    ipv4: IPv4Interface | None
    ipv6: IPv6Interface | None

    @property
    def addresses(self) -> tuple[IPv4Interface | IPv6Interface, ...]:
        """IPv4 first; one or two."""
        return tuple(address for address in (self.ipv4, self.ipv6) if address is not None)


@dataclass(frozen=True, slots=True)
class Host:
    """A machine with one interface, ``eth0``."""

    name: str
    role: Role
    attachment: Attachment
    firewall: Firewall = Firewall.NONE


@dataclass(frozen=True, slots=True)
class Router:
    """A machine that forwards: ``lan0``, ``lan1`` … for what it serves, ``wan`` for its uplink."""

    name: str
    serves: tuple[Attachment, ...]
    uplink: Attachment | None
    nat: NatKind
    udp_timeout: int | None
    """Seconds until an idle UDP mapping ends; None leaves Linux's 30 and 120."""
    firewall: Firewall = Firewall.NONE


@dataclass(frozen=True, slots=True)
class Topology:
    """Everything that a lab builds."""

    name: str
    networks: tuple[Network, ...]
    hosts: tuple[Host, ...]
    routers: tuple[Router, ...]
    links: Mapping[str, Quality] = field(default_factory=dict)
    """By host or router, where a link is not perfect."""

    def host(self, name: str) -> Host:
        """The host of that name; raise KeyError."""
        return {host.name: host for host in self.hosts}[name]

    def network(self, name: str) -> Network:
        """The network of that name; raise KeyError."""
        return {network.name: network for network in self.networks}[name]

    def nats_before(self, host: Host) -> list[Router]:
        """The routers that translate this host's IPv4, the nearest first."""
        serving = {attachment.network: router for router in self.routers for attachment in router.serves}
        router = serving.get(host.attachment.network)
        nats = []
        while router is not None:
            if router.nat is not NatKind.NONE:
                nats.append(router)
            router = serving.get(router.uplink.network) if router.uplink is not None else None
        return nats

    def can_be_direct(self, first: Host, second: Host) -> bool:
        """Whether two hosts can reach each other without a relay, by punching holes where need be (RFC 5128 §3).

        Not without an address family in common, and not when one NAT takes a new port for each destination while
        the other lets in only ports that it knows.
        """
        if first.attachment.ipv6 is not None and second.attachment.ipv6 is not None:
            return True
        if first.attachment.ipv4 is None or second.attachment.ipv4 is None:
            return False
        ours, theirs = self.nats_before(first), self.nats_before(second)
        if ours[:1] == theirs[:1]:
            return True
        shared = [nat for nat in ours if nat in theirs]
        if shared and not shared[0].nat.hairpins:
            return False
        kinds = {strictest([nat.nat for nat in nats if nat not in shared]) for nats in (ours, theirs)}
        if NatKind.SYMMETRIC not in kinds or NatKind.NONE in kinds:
            return True
        return bool(kinds - {NatKind.SYMMETRIC, NatKind.PORT_RESTRICTED})

    def of_role(self, role: Role) -> tuple[Host, ...]:
        """Hosts in file order."""
        return tuple(host for host in self.hosts if host.role is role)


def packaged() -> dict[str, Path]:
    """The topologies that come with cyphonic, by name."""
    folder = Path(str(resources.files("cyphonic.lab") / "topologies"))
    return {file.stem: file for file in sorted(folder.glob("*.toml"))}


def load_topology(source: str | Path) -> Topology:
    """From a file, or from the name of a packaged topology; raise TopologyError."""
    path = packaged().get(str(source), Path(source))
    try:
        text = path.read_text()
    except OSError as error:
        known = ", ".join(packaged())
        raise TopologyError(str(path), "", f"{error.strerror}; packaged topologies: {known}") from error
    return parse_topology(text, str(path))


def parse_topology(text: str, file: str = "topology") -> Topology:
    """From TOML; raise TopologyError naming ``file``, the key and the reason."""
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise TopologyError(file, "", str(error)) from error
    return _Parser(file).topology(document)


class _Parser:
    """Turns one document into a Topology and knows the file's name for the errors."""

    def __init__(self, file: str) -> None:
        self.file = file

    def topology(self, document: Mapping[str, Any]) -> Topology:
        self.known_keys("", document, {"name", "network", "host", "router", "link"})
        networks = {name: self.network(name, table) for name, table in self.tables(document, "network")}
        host_tables = dict(self.tables(document, "host"))
        router_tables = dict(self.tables(document, "router"))
        for name in host_tables.keys() & router_tables.keys():
            raise self.error(f"router.{name}", "a host has the same name")
        numbers = {name: iter(range(FIRST_HOST, 100)) for name in networks}
        hosts = tuple(self.host(name, table, networks, numbers) for name, table in host_tables.items())
        routers = tuple(self.router(name, table, networks, numbers) for name, table in router_tables.items())
        self.check_served_once(routers)
        self.check_no_ring(routers)
        name = self.string(document, "", "name", Path(self.file).stem)
        links = self.links(document, hosts, routers)
        return Topology(name, tuple(networks.values()), hosts, routers, links)

    # The five kinds of table.

    def network(self, name: str, table: Mapping[str, Any]) -> Network:
        key = f"network.{name}"
        self.known_keys(key, table, set(FAMILIES))
        if not table:
            raise self.error(key, "needs ipv4, ipv6 or both")
        ipv4 = self.prefix(key, table, "ipv4", IPv4Network, 24) if "ipv4" in table else None
        ipv6 = self.prefix(key, table, "ipv6", IPv6Network, 120) if "ipv6" in table else None
        return Network(name, ipv4, ipv6)

    def host(
        self,
        name: str,
        table: Mapping[str, Any],
        networks: Mapping[str, Network],
        numbers: Mapping[str, Iterator[int]],
    ) -> Host:
        key = f"host.{name}"
        self.known_keys(key, table, {"network", "role", "families", "firewall"})
        network = self.known_network(f"{key}.network", self.string(table, key, "network"), networks)
        families = self.strings(table, key, "families", [f for f in FAMILIES if getattr(network, f) is not None])
        for family in families:
            if family not in FAMILIES or getattr(network, family) is None:
                raise self.error(f"{key}.families", f"{family!r} is not a family of network {network.name!r}")
        if not families:
            raise self.error(f"{key}.families", "is empty")
        attachment = attach(network, self.number(key, numbers[network.name]), families)
        role = self.choice(table, key, "role", Role, Role.NODE)
        return Host(name, role, attachment, self.choice(table, key, "firewall", Firewall, Firewall.NONE))

    def router(
        self,
        name: str,
        table: Mapping[str, Any],
        networks: Mapping[str, Network],
        numbers: Mapping[str, Iterator[int]],
    ) -> Router:
        key = f"router.{name}"
        self.known_keys(key, table, {"serves", "uplink", "nat", "udp_timeout", "firewall"})
        served = self.strings(table, key, "serves")
        if not served:
            raise self.error(f"{key}.serves", "is empty")
        serves = tuple(attach(self.known_network(f"{key}.serves", n, networks), FIRST_ADDRESS) for n in served)
        uplink = None
        if "uplink" in table:
            network = self.known_network(f"{key}.uplink", self.string(table, key, "uplink"), networks)
            if network.name in served:
                raise self.error(f"{key}.uplink", f"{network.name!r} is also in serves")
            uplink = attach(network, self.number(key, numbers[network.name]))
        nat = self.choice(table, key, "nat", NatKind, NatKind.NONE)
        if nat is not NatKind.NONE and (uplink is None or uplink.ipv4 is None):
            raise self.error(f"{key}.nat", "needs an uplink with IPv4")
        firewall = self.choice(table, key, "firewall", Firewall, Firewall.NONE)
        if firewall is not Firewall.NONE and uplink is None:
            raise self.error(f"{key}.firewall", "needs an uplink")
        return Router(name, serves, uplink, nat, self.seconds(table, key, "udp_timeout"), firewall)

    def links(
        self, document: Mapping[str, Any], hosts: tuple[Host, ...], routers: tuple[Router, ...]
    ) -> dict[str, Quality]:
        owners = {host.name for host in hosts} | {router.name for router in routers if router.uplink is not None}
        links = {}
        for name, table in self.tables(document, "link"):
            if name not in owners:
                raise self.error(f"link.{name}", "there is no such host, or router with an uplink")
            links[name] = self.link(f"link.{name}", table)
        return links

    def link(self, key: str, table: Mapping[str, Any]) -> Quality:
        self.known_keys(key, table, {item.name for item in fields(Quality)})
        for name in ("loss", "reorder", "duplicate"):
            self.amount(table, key, name, 1.0)
        for name in ("delay", "jitter"):
            self.amount(table, key, name, 10.0)
        rate, seed = table.get("rate", MIN_RATE), table.get("seed", 0)
        if type(rate) is not int or rate < MIN_RATE:
            raise self.error(f"{key}.rate", f"is not a whole number of bits per second from {MIN_RATE} on")
        if type(seed) is not int:
            raise self.error(f"{key}.seed", "is not a whole number")
        return Quality(**table)

    # What holds between tables.

    def check_served_once(self, routers: tuple[Router, ...]) -> None:
        by_network: dict[str, str] = {}
        for router in routers:
            for attachment in router.serves:
                other = by_network.setdefault(attachment.network, router.name)
                if other != router.name:
                    reason = f"network {attachment.network!r} is already served by {other!r}"
                    raise self.error(f"router.{router.name}.serves", reason)

    def check_no_ring(self, routers: tuple[Router, ...]) -> None:
        serving = {attachment.network: router for router in routers for attachment in router.serves}
        for start in routers:
            seen, router = {start.name}, start
            while router.uplink is not None and router.uplink.network in serving:
                router = serving[router.uplink.network]
                if router.name in seen:
                    raise self.error(f"router.{start.name}.uplink", "the uplinks form a ring")
                seen.add(router.name)

    # Values.

    def error(self, key: str, reason: str) -> TopologyError:
        return TopologyError(self.file, key, reason)

    def known_keys(self, key: str, table: Mapping[str, Any], known: set[str]) -> None:
        for name in table:
            if name not in known:
                raise self.error(f"{key}.{name}".lstrip("."), f"unknown key; known are {', '.join(sorted(known))}")

    def tables(self, document: Mapping[str, Any], kind: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
        tables = document.get(kind, {})
        if not isinstance(tables, dict) or (not tables and kind in ("network", "host")):
            raise self.error(kind, f"needs at least one [{kind}.NAME]")
        for name, table in tables.items():
            if not NAME.fullmatch(name) or name in RESERVED_NAMES:
                reason = "a name has 1 to 20 of a-z, 0-9 and inner hyphens, and is not 'switch'"
                raise self.error(f"{kind}.{name}", reason)
            if not isinstance(table, dict):
                raise self.error(f"{kind}.{name}", "is not a table")
            yield name, table

    def string(self, table: Mapping[str, Any], key: str, name: str, default: str | None = None) -> str:
        value = table.get(name, default)
        if value is None:
            raise self.error(f"{key}.{name}".lstrip("."), "is missing")
        if not isinstance(value, str):
            raise self.error(f"{key}.{name}".lstrip("."), "is not a string")
        return value

    def strings(self, table: Mapping[str, Any], key: str, name: str, default: list[str] | None = None) -> list[str]:
        value = table.get(name, default)
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            raise self.error(f"{key}.{name}", "is not a list of strings" if name in table else "is missing")
        return value

    def seconds(self, table: Mapping[str, Any], key: str, name: str) -> int | None:
        value = table.get(name)
        if value is not None and (type(value) is not int or not 0 < value <= 86400):
            raise self.error(f"{key}.{name}", "is not a whole number of seconds from 1 to 86400")
        return value

    def amount(self, table: Mapping[str, Any], key: str, name: str, most: float) -> None:
        value = table.get(name, 0)
        if type(value) not in (int, float) or not 0 <= value <= most:
            raise self.error(f"{key}.{name}", f"is not a number from 0 to {most:g}")

    def choice(self, table: Mapping[str, Any], key: str, name: str, kind: type[E], default: E) -> E:
        value = table.get(name, default.value)
        try:
            return kind(value)
        except ValueError as error:
            known = ", ".join(member.value for member in kind)
            raise self.error(f"{key}.{name}", f"{value!r} is none of {known}") from error

    def known_network(self, key: str, name: str, networks: Mapping[str, Network]) -> Network:
        if name not in networks:
            raise self.error(key, f"there is no network {name!r}")
        return networks[name]

    def number(self, key: str, numbers: Iterator[int]) -> int:
        number = next(numbers, None)
        if number is None:
            raise self.error(key, "the network is full")
        return number

    def prefix(self, key: str, table: Mapping[str, Any], name: str, kind: type[N], longest: int) -> N:
        try:
            prefix = kind(self.string(table, key, name))
        except ValueError as error:
            raise self.error(f"{key}.{name}", str(error)) from error
        if prefix.prefixlen > longest:
            raise self.error(f"{key}.{name}", f"is longer than /{longest}")
        return prefix


def attach(network: Network, number: int, families: list[str] | tuple[str, ...] = FAMILIES) -> Attachment:
    """An interface in ``network`` with address ``number``, spelled the same in both families (.11 and ::11)."""
    ipv4 = ipv6 = None
    if network.ipv4 is not None and "ipv4" in families:
        ipv4 = IPv4Interface((network.ipv4.network_address + number, network.ipv4.prefixlen))
    if network.ipv6 is not None and "ipv6" in families:
        ipv6 = IPv6Interface((network.ipv6.network_address + int(str(number), 16), network.ipv6.prefixlen))
    return Attachment(network.name, ipv4, ipv6)
