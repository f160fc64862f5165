"""A small overlay in virtual time: a cloud, a relay, and nodes at places that differ in what reaches them."""

from __future__ import annotations

from cyphonic.protocol.client import ClientState
from cyphonic.protocol.paths import PathKind
from cyphonic.state.registry import create_enrolment_key
from cyphonic.state.store import Store
from tests.simulation.cloud import SimulatedCloud
from tests.simulation.network import Clock, Faults, Nat, Network
from tests.simulation.world import Chance, SimulatedNode

CLOUD = ["203.0.113.1", "2001:db8::1"]
RELAY = ["203.0.113.2", "2001:db8::2"]

HARSH = Faults(lost=0.15, duplicated=0.15, truncated=0.05, delay=(0.005, 0.3), straggling=0.03)
KIND = Faults()


class World:
    def __init__(self, store: Store, seed: int, faults: Faults = KIND) -> None:
        store.run(("FLUSHALL",))
        self.chance = Chance(seed)
        self.clock = Clock()
        self.network = Network(self.clock, seed, faults)
        self.store = store
        self.cloud = SimulatedCloud(self.clock, self.network, store, self.chance, CLOUD)
        self.cloud.add_relay(RELAY)
        self.nodes: dict[str, SimulatedNode] = {}

    def key(self, name: str) -> bytes:
        return create_enrolment_key(self.store, wall=self.clock.wall, name=name, chance=self.chance)

    def node(self, name: str, *hosts: str, nat: Nat | None = None) -> SimulatedNode:
        node = SimulatedNode(self.clock, self.network, name, list(hosts), self.cloud.bundle, self.chance, nat)
        self.nodes[name] = node
        node.start(self.key(name))
        return node

    def run(self, seconds: float, done: object = None) -> bool:
        return self.clock.run_until(self.clock.now + seconds, done or (lambda: False))  # type: ignore[arg-type]

    def joined(self) -> bool:
        return all(node.client.state is ClientState.REGISTERED for node in self.nodes.values())

    def fqdn(self, name: str) -> str:
        return f"{name}.main.cyphonic.example"

    def talk(self, source: SimulatedNode, target: SimulatedNode, attempts: int = 20) -> bool:
        """Send a packet a second until one arrives."""
        assert target.overlay.certificate is not None
        assert source.overlay.certificate is not None
        before = len(target.packets)
        for _ in range(attempts):
            address = target.overlay.certificate.virtual_ipv6
            origin = source.overlay.certificate.virtual_ipv6
            source.send_packet(bytes([0x60, 0, 0, 0, 0, 0, 59, 64]) + origin + address)
            if self.run(1.0, lambda: len(target.packets) > before):
                return True
        return False


PLACES = {
    "open": (("198.51.100.1",), None),
    "behind": (("192.168.1.2",), "198.51.100.20"),
    "other": (("192.168.2.2",), "198.51.100.30"),
    "six": (("2001:db8:6::1",), None),
    "dual": (("198.51.100.4", "2001:db8:4::1"), None),
}


def place(world: World, name: str) -> SimulatedNode:
    hosts, public = PLACES[name]
    return world.node(name, *hosts, nat=Nat(public) if public else None)


def kind(node: SimulatedNode, peer: SimulatedNode) -> PathKind | None:
    assert peer.overlay.certificate is not None
    known = node.overlay.peer(peer.overlay.certificate.fqdn)
    return known.paths.current_kind if known is not None and known.established else None


class Stream:
    """Packets from one node to another, evenly spaced, and when they came."""

    def __init__(self, world: World, source: SimulatedNode, target: SimulatedNode, interval: float = 0.02) -> None:
        assert target.overlay.certificate is not None
        assert source.overlay.certificate is not None
        self._world = world
        self._source = source
        addresses = source.overlay.certificate.virtual_ipv6 + target.overlay.certificate.virtual_ipv6
        self._header = bytes([0x60, 0, 0, 0, 0, 4, 59, 64]) + addresses
        self._interval = interval
        self._sent = 0
        self._stopped = False
        self._last = world.clock.now
        self.received = 0
        self.gap = 0.0
        """The longest time without a new packet, in seconds, since the start or ``forgive``."""
        self._before = target.on_packet
        target.on_packet = self._receive
        self._send()

    def forgive(self) -> None:
        """Measure from now on."""
        self._last, self.gap = self._world.clock.now, 0.0

    def longest_gap(self) -> float:
        """``gap``, with the time that has passed since the last packet."""
        return max(self.gap, self._world.clock.now - self._last)

    def stop(self) -> None:
        """Send no more."""
        self._stopped = True

    @property
    def lost(self) -> int:
        """Packets that have not come."""
        return self._sent - self.received

    def _send(self) -> None:
        if self._stopped:
            return
        self._source.send_packet(self._header + self._sent.to_bytes(4, "big"))
        self._sent += 1
        self._world.clock.at(self._world.clock.now + self._interval, self._send)

    def _receive(self, packet: bytes) -> None:
        if not packet.startswith(self._header):
            self._before(packet)
            return
        now = self._world.clock.now
        self.gap, self._last = max(self.gap, now - self._last), now
        self.received += 1
