"""What can be changed in a lab while it stands: who is plugged in where, what passes, how well, in which direction.

A host's ``eth0`` and a router's ``wan`` end in the switch, where a port is in the bridge of its network.  Moving is
putting the port into another bridge and giving the inner end other addresses; a forwarder stands between the port
and the bridge.  ``topology`` is always what stands now.
"""

from __future__ import annotations

import json
import select
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from cyphonic.lab import firewall, link, nat
from cyphonic.lab.firewall import Address, Firewall
from cyphonic.lab.namespace import Namespace
from cyphonic.lab.quality import Quality
from cyphonic.lab.routes import routes
from cyphonic.lab.tools import LabError, run_tool
from cyphonic.lab.topology import FAMILIES, Attachment, Host, Router, Topology, attach

FRESH_NUMBERS = range(60, 99)
"""Host numbers of those who move in later."""
FORWARDER_TIMEOUT = 10.0
"""Seconds until a forwarder has taken a schedule."""


class Wiring:
    """The wires of a lab whose namespaces, addresses and routes are there already."""

    def __init__(self, topology: Topology, namespaces: Mapping[str, str]) -> None:
        self.topology = topology
        self._namespaces = namespaces
        self._bridges = link.bridges(topology)
        self._ports = link.ports(topology)
        self._numbers: dict[str, Iterator[int]] = {
            network.name: iter(FRESH_NUMBERS) for network in topology.networks
        }
        self._forwarders: dict[str, subprocess.Popen[bytes]] = {}
        self._blocked: set[tuple[str, str]] = set()

    def owner(self, name: str) -> Host | Router:
        """The host or router of that name as it stands now; raise LabError."""
        owners: list[Host | Router] = [*self.topology.hosts, *self.topology.routers]
        for owner in owners:
            if owner.name == name:
                return owner
        raise LabError(f"there is no {name!r} in {self.topology.name}")

    def attachment(self, name: str) -> Attachment:
        """Where a host, or a router's uplink, is plugged in now; raise LabError."""
        owner = self.owner(name)
        attachment = owner.attachment if isinstance(owner, Host) else owner.uplink
        if attachment is None:
            raise LabError(f"{name} has no uplink")
        return attachment

    # Rules.

    def set_rules(self) -> None:
        """NATs, firewalls and links as the topology file says."""
        for router in self.topology.routers:
            self.set_router_rules(router)
        for host in self.topology.hosts:
            if host.firewall is not Firewall.NONE:
                self._nft(host.name, firewall.host_rules(host.firewall))
        for name, quality in self.topology.links.items():
            self.impair(name, quality)

    def set_router_rules(self, router: Router) -> None:
        """NAT and firewall of one router, in the place of what was there."""
        translates = router.nat is not nat.NatKind.NONE
        if translates and router.uplink is not None and router.uplink.ipv4 is not None:
            self._nft(router.name, nat.rules(router.nat, router.uplink.ipv4.ip))
        if router.firewall is not Firewall.NONE:
            self._nft(router.name, firewall.router_rules(router.firewall, translates=translates))

    def set_firewall(self, name: str, kind: Firewall) -> None:
        """Give a host or router another firewall."""
        owner = self.owner(name)
        if isinstance(owner, Host):
            self._nft(name, firewall.host_rules(kind))
        else:
            self._nft(name, firewall.router_rules(kind, translates=owner.nat is not nat.NatKind.NONE))
        self._replace(replace(owner, firewall=kind))

    def block(self, source: str, target: str) -> None:
        """Let nothing pass any more from one host to another; the way back stays open."""
        self._blocked.add((source, target))
        self._set_blocks(target)

    def unblock(self, source: str, target: str) -> None:
        """The opposite of ``block``."""
        self._blocked.discard((source, target))
        self._set_blocks(target)

    def _set_blocks(self, target: str) -> None:
        """On the target itself for its own addresses, on its outermost NAT for the address that others see."""
        ways: dict[str, list[tuple[Address, Address]]] = {target: []}
        outermost = self._outermost_nat(target)
        if outermost is not None:
            ways[outermost.name] = []
        for source in sorted(source for source, to in self._blocked if to == target):
            for guard, pairs in ways.items():
                theirs = self._seen_from_outside(target) if guard != target else self._own_addresses(target)
                ours = {*self._seen_from_outside(source), *self._own_addresses(source)}
                pairs += [(here, there) for here in ours for there in theirs if here.version == there.version]
        for guard, pairs in ways.items():
            self._nft(guard, firewall.blocking_rules(sorted(pairs, key=str)))

    def _own_addresses(self, name: str) -> list[Address]:
        return [address.ip for address in self.attachment(name).addresses]

    def _seen_from_outside(self, name: str) -> list[Address]:
        router = self._outermost_nat(name)
        return (
            [] if router is None or router.uplink is None or router.uplink.ipv4 is None else [router.uplink.ipv4.ip]
        )

    def _outermost_nat(self, name: str) -> Router | None:
        nats = self.topology.nats_before(self.topology.host(name))
        return nats[-1] if nats else None

    # Quality.

    def impair(self, name: str, quality: Quality) -> None:
        """Make a host's link, or a router's uplink, as good or bad as that; ``Quality()`` makes it perfect."""
        interface, port = self._interface(name), self._port(name)
        self._nft(name, quality.rules("link", interface))
        self._shell(name, quality.shaping(interface))
        self._shell(link.SWITCH, quality.shaping(port))
        if quality.needs_forwarder:
            self._start_forwarder(name)
            self._instruct(name, quality)
        else:
            self._stop_forwarder(name)
        self._nft(link.SWITCH, quality.rules(f"link_{port}", self._plug(name)))

    def _start_forwarder(self, name: str) -> None:
        if name in self._forwarders:
            return
        port, inner, outer = self._port(name), f"in-{self._port(name)}", f"out-{self._port(name)}"
        self._ip(
            link.SWITCH,
            f"link add {inner} type veth peer name {outer}",
            f"link set {port} nomaster",
            f"link set {inner} up",
            f"link set {outer} up master {self._bridges[self.attachment(name).network]}",
        )
        self._forwarders[name] = Namespace(self._namespaces[link.SWITCH]).popen(
            [sys.executable, "-m", "cyphonic.lab.forwarder", port, inner],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )

    def _instruct(self, name: str, quality: Quality) -> None:
        process = self._forwarders[name]
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            process.stdin.write(json.dumps(quality.schedule()).encode() + b"\n")
            process.stdin.flush()
        except BrokenPipeError as error:
            raise LabError(f"the forwarder of {name} has ended") from error
        if not select.select([process.stdout], [], [], FORWARDER_TIMEOUT)[0] or not process.stdout.readline():
            raise LabError(f"the forwarder of {name} does not answer")

    def _stop_forwarder(self, name: str) -> None:
        process = self._forwarders.pop(name, None)
        if process is None:
            return
        process.terminate()
        process.communicate()
        bridge = self._bridges[self.attachment(name).network]
        port = self._port(name)
        self._ip(link.SWITCH, f"link del in-{port}", f"link set {port} master {bridge}")

    # Moving.

    def unplug(self, name: str) -> None:
        """Pull the cable at the far end: nothing passes, and nobody here is told."""
        self._ip(link.SWITCH, f"link set {self._plug(name)} nomaster")

    def plug(self, name: str) -> None:
        """Put it back where it belongs."""
        self._ip(link.SWITCH, f"link set {self._plug(name)} master {self._bridges[self.attachment(name).network]}")

    def move(self, name: str, network: str, families: Sequence[str] | None = None) -> Attachment:
        """Unplug a host, or a router's uplink, and plug it into another network; its new place there.

        With other ``families`` than the network's, only these.
        """
        try:
            there = self.topology.network(network)
        except KeyError:
            raise LabError(f"there is no network {network!r}") from None
        if families is None:
            families = [family for family in FAMILIES if getattr(there, family) is not None]
        new = attach(there, next(self._numbers[network]), list(families))
        self._ip(link.SWITCH, f"link set {self._plug(name)} master {self._bridges[network]}")
        self._readdress(name, new)
        return new

    def renumber(self, name: str, families: Sequence[str] | None = None) -> Attachment:
        """Give a host, or a router's uplink, new addresses in the network where it is.

        Behind a router that is renumbered nobody gets any event: that is the silent change.
        """
        old = self.attachment(name)
        kept = [family for family in FAMILIES if getattr(old, family) is not None]
        return self.move(name, old.network, kept if families is None else families)

    def set_families(self, name: str, families: Sequence[str]) -> Attachment:
        """Take addresses away, or give those back that the network has, under the number in use."""
        old = self.attachment(name)
        if old.ipv4 is not None:
            number = int(old.ipv4.ip) - int(old.ipv4.network.network_address)
        else:
            assert old.ipv6 is not None
            number = int(f"{int(old.ipv6.ip) - int(old.ipv6.network.network_address):x}")
        new = attach(self.topology.network(old.network), number, list(families))
        self._readdress(name, new)
        return new

    def add_interface(self, name: str, network: str, *, metric: int = 500) -> Attachment:
        """Give a host one more interface, ``eth1``, in another network; its default route counts ``metric``."""
        there = self.topology.network(network)
        new = attach(there, next(self._numbers[network]))
        port = f"extra{len(self._ports)}"
        self._ports[name, "eth1"] = port
        inside, switch = self._namespaces[name], self._namespaces[link.SWITCH]
        run_tool(
            ["ip", "link", "add", "eth1", "netns", inside, "type", "veth", "peer", "name", port, "netns", switch]
        )
        self._ip(link.SWITCH, f"link set {port} up master {self._bridges[network]}")
        lines = [f"address add {address} dev eth1{_nodad(address.version)}" for address in new.addresses]
        serving = [a for router in self.topology.routers for a in router.serves if a.network == network]
        gateways = [address.ip for attachment in serving for address in attachment.addresses]
        lines.append("link set eth1 up")
        lines += [
            f"route add {link.DEFAULT[gateway.version]} via {gateway} metric {metric}" for gateway in gateways
        ]
        self._ip(name, *lines)
        return new

    def _readdress(self, name: str, new: Attachment) -> None:
        before, owner = routes(self.topology), self.owner(name)
        new_owner = replace(owner, attachment=new) if isinstance(owner, Host) else replace(owner, uplink=new)
        self._replace(new_owner)
        interface = self._interface(name)
        self._ip(
            name,
            f"address flush dev {interface} scope global",
            *(f"address add {address} dev {interface}{_nodad(address.version)}" for address in new.addresses),
        )
        after = routes(self.topology)
        for changed in {*before, *after}:
            gone = [] if changed == name else [route for route in before[changed] if route not in after[changed]]
            added = [route for route in after[changed] if changed == name or route not in before[changed]]
            self._ip(changed, *(f"route del {link.route_text(route)}" for route in gone), force=True)
            self._ip(changed, *(f"route replace {link.route_text(route)}" for route in added))
        if name in {route_owner.name for route_owner in self.topology.routers}:
            router = self.owner(name)
            assert isinstance(router, Router)
            self.set_router_rules(router)
            Namespace(self._namespaces[name]).run(["conntrack", "-F"])

    def _replace(self, owner: Host | Router) -> None:
        hosts = tuple(owner if host.name == owner.name else host for host in self.topology.hosts)
        routers = tuple(owner if router.name == owner.name else router for router in self.topology.routers)
        self.topology = replace(self.topology, hosts=hosts, routers=routers)  # type: ignore[arg-type]  # by name

    # Names and programs.

    def _interface(self, name: str) -> str:
        return "eth0" if isinstance(self.owner(name), Host) else "wan"

    def _port(self, name: str) -> str:
        try:
            return self._ports[name, self._interface(name)]
        except KeyError:
            raise LabError(f"{name} has no uplink") from None

    def _plug(self, name: str) -> str:
        """What is in the bridge for it."""
        return f"out-{self._port(name)}" if name in self._forwarders else self._port(name)

    def _nft(self, name: str, rules: str) -> None:
        Namespace(self._namespaces[name]).run(["nft", "-f", "-"], stdin=rules)

    def _shell(self, name: str, line: str) -> None:
        Namespace(self._namespaces[name]).run(["sh", "-c", line])

    def _ip(self, name: str, *lines: str, force: bool = False) -> None:
        if lines:
            options = ["-force"] if force else []
            command = ["ip", *options, "-n", self._namespaces[name], "-batch", "-"]
            run_tool(command, stdin="\n".join(lines) + "\n", check=not force)


def _nodad(version: int) -> str:
    return " nodad" if version == 6 else ""
