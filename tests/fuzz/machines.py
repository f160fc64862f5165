"""A running overlay, and ways to feed it: as a stranger, and as somebody whose keys are right but not his words.

Nothing may be raised, no machine may spin (its next deadline moves on), and what they hold stays small.  What a
sender with the right keys says may well change things: an overlay that is no longer whole gives way to a fresh one.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Mapping

from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from cyphonic.errors import DropError
from cyphonic.protocol.client import ClientState
from cyphonic.protocol.keys import seal_box
from cyphonic.protocol.mac import append_macs, append_path_mac, mac, mac1_key
from cyphonic.protocol.overlay import Overlay
from cyphonic.protocol.signaling import open_signaling
from cyphonic.state.store import Store
from cyphonic.wire.codec import encode
from cyphonic.wire.direction import Role
from cyphonic.wire.endpoint import Endpoint
from cyphonic.wire.header import (
    IDENTIFIER_LENGTH,
    NMS_REQUESTS,
    NO_NODE,
    RELAYED_HEADER_LENGTH,
    MessageType,
    SignalingHeader,
)
from cyphonic.wire.job import JOB_SERVICE, Job, Origin, Route, Service
from cyphonic.wire.login import KeyDistribution, KeyDistributionAck
from cyphonic.wire.relay import BIND_TRAILER_LENGTH, RelayBind, RelayToken
from cyphonic.wire.revocation import RevocationOrder
from tests.enemy.snapshot import freeze
from tests.simulation.cloud import AS_PORT, NMS_PORT
from tests.simulation.network import Nat
from tests.simulation.scene import CLOUD, World
from tests.simulation.world import SimulatedNode

LIFE = 2000
"""Inputs to one overlay."""
PACE = 0.03
"""Seconds, on average, between two of them."""
MAX_GRAPH = 60_000
"""Values that all nodes and relays together may hold."""
STRANGER = Endpoint("203.0.113.66", 6666)
MACS_LENGTH = 32

Feed = Callable[[bytes], str]
"""Returns what came of it: reasons for drops, or nothing."""


class Site:
    """Two nodes with a tunnel, a third that is relayed, a relay, the cloud's handlers."""

    def __init__(self, store: Store, seed: int) -> None:
        self.random = random.Random(seed)
        self._store = store
        self._build()

    def feeds(self) -> Mapping[str, Feed]:
        """By name, which is also that of the corpus."""
        return {
            "node_datagrams": self.node_datagram,
            "node_cloud_bodies": self.node_cloud_body,
            "node_peer_bodies": self.node_peer_body,
            "node_path_messages": self.node_path_message,
            "relay_datagrams": self.relay_datagram,
            "relay_binds": self.relay_bind,
            "relay_tokens": self.relay_token,
            "frontend_datagrams": self.frontend_datagram,
            "worker_bodies": self.worker_body,
            "worker_boxes": self.worker_box,
        }

    def seeds(self) -> dict[str, list[bytes]]:
        """What was really said, by the feed that it fits."""
        found: dict[str, list[bytes]] = {name: [] for name in self.feeds()}
        hosts = {host: node for node in self.nodes for host in node.hosts}
        relay = self.world.cloud.relays[0]
        for datagram, _, destination in self.world.network.log:
            kind = MessageType(datagram[0])
            node = hosts.get(destination.host)
            if node is not None:
                found["node_datagrams"].append(datagram)
                if kind in _SEALED_FOR_NODES:
                    found["node_cloud_bodies"].append(bytes([kind]) + self._open(node, datagram))
                inner = datagram[RELAYED_HEADER_LENGTH:] if kind is MessageType.RELAYED else datagram
                if inner[0] <= MessageType.HOLE_PUNCH:
                    found["node_path_messages"].append(inner)
            elif destination in relay.endpoints:
                found["relay_datagrams"].append(datagram)
                if kind in (MessageType.RELAY_BIND, MessageType.RELAY_BIND_ANSWER):
                    found["relay_binds"].append(datagram[:-BIND_TRAILER_LENGTH])
            else:
                found["frontend_datagrams"].append(datagram)
                if kind in NMS_REQUESTS:
                    sender = next(n for n in self.nodes if n.client.node_id == datagram[8:24])
                    found["worker_bodies"].append(bytes([kind]) + self._open(sender, datagram[:-MACS_LENGTH]))
        packet = bytes([0x60, 0, 0, 0, 0, 0, 59, 64]) + bytes(32)
        found["node_peer_bodies"] = [
            bytes([MessageType.CAPSULE]) + packet,
            bytes([MessageType.CAPSULE]),
            bytes([MessageType.PATH_CHECK, 0, 0, 0, 1]),
            bytes([MessageType.PATH_CHECK_ACK, 0, 0, 0, 1]) + STRANGER.encode_fixed(),
        ]
        found["relay_tokens"] = [encode(RelayToken(bytes(16), 1, bytes(32), 2**33, 1000))]
        found["worker_boxes"] = [
            bytes([kind]) + encode(body)
            for kind, body in (
                (MessageType.KEY_DISTRIBUTION, KeyDistribution(bytes(32), "x.y.z", bytes(32), 1, 1)),
                (
                    MessageType.KEY_DISTRIBUTION_ACK,
                    KeyDistributionAck(bytes(32), 1, 0, bytes(16), bytes(16), bytes(4)),
                ),
                (MessageType.REVOCATION_ORDER, RevocationOrder(self.nodes[2].client.node_id or NO_NODE)),
            )
        ]
        return {name: list(dict.fromkeys(inputs)) for name, inputs in found.items()}

    # As a node.

    def node_datagram(self, data: bytes) -> str:
        """Whatever bytes, from whatever place."""
        return self._to_node(self._node(), data)

    def node_cloud_body(self, data: bytes) -> str:
        """The NMS says what it never would: kind, body."""
        node = self._node()
        key = node.client._ring.current
        if key is None or not data or data[0] not in _KINDS:
            return ""
        header = SignalingHeader(
            MessageType(data[0]), key.number, key.node_id, self._transaction(node, data)
        ).encode()
        sealed = ChaCha20Poly1305(key.secret).encrypt(bytes(12), data[1:], header)
        return self._to_node(node, header + bytes(12) + sealed, Endpoint(self._cloud_host(node), NMS_PORT))

    def node_peer_body(self, data: bytes) -> str:
        """The peer says what it never would: kind, plaintext."""
        node = self._node()
        for peer in node.overlay.peers:
            other = next(n for n in self.nodes if n.client.node_id == peer.certificate.node_id)
            own = next((p for p in other.overlay.peers if p.certificate.node_id == node.client.node_id), None)
            if own is not None and own.session is not None and data:
                return self._to_node(node, own.session.seal(data[0], data[1:]))
        return ""

    def node_path_message(self, data: bytes) -> str:
        """A message under the path key, its MAC made right again."""
        node = self._node()
        grants = [grant for peer in node.overlay.peers for grant in peer._grants]
        if not grants or len(data) < 40:
            return ""
        grant = self.random.choice(grants)
        covered = bytearray(data[:-16])
        if self.random.random() < 0.8 and covered[0] != MessageType.TUNNEL_RESPONSE:
            covered[8:24] = grant.path_id
        return self._to_node(node, append_path_mac(bytes(covered), grant.mac_key))

    def _to_node(self, node: SimulatedNode, datagram: bytes, source: Endpoint | None = None) -> str:
        overlay, now = node.overlay, self._pass_time()
        drops = Counter(overlay.drops) + Counter(node.client.drops)
        overlay.receive_datagram(datagram, source or self._source(node), now, self.world.clock.wall)
        _settle(overlay, now, self.world.clock.wall)
        told = Counter(overlay.drops) + Counter(node.client.drops) - drops
        if node.client.state is not ClientState.REGISTERED or not overlay.peers:
            self._build()
        return " ".join(sorted(told))

    # As a relay.

    def relay_datagram(self, data: bytes) -> str:
        """Whatever bytes, from whatever place."""
        relay, now = self.world.cloud.relays[0], self._pass_time()
        before = Counter(relay.table.drops)
        source = self.random.choice([STRANGER, *self._places])
        relay._receive(data, source, relay.endpoints[0])
        deadline = relay.table.next_deadline()
        if deadline is not None and deadline <= now:
            relay.table.handle_timeout(now)
            assert (relay.table.next_deadline() or now + 1) > now
        return " ".join(sorted(relay.table.drops - before))

    def relay_bind(self, data: bytes) -> str:
        """A bind, its proof and MAC1 made right again."""
        key = self.random.choice(self._bind_keys)
        request = data + mac(key, data)
        return self.relay_datagram(append_macs(request, mac1_key(self.world.cloud.relays[0].key.public)))

    def relay_token(self, data: bytes) -> str:
        """The NMS grants what it never would."""
        cloud, nonce = self.world.cloud, self.random.randbytes(24)
        relay = cloud.relays[0].key
        assert cloud.keys.nms_key is not None
        sealed = nonce + seal_box(cloud.keys.nms_key.secret, relay.public, nonce, data)
        if not 40 <= len(sealed) <= 256:
            return ""
        self._bind_keys[0] = bytes(32)
        bind = RelayBind(self.random.choice(list(Role)), 1, bytes(16), bytes(16), sealed).encode()
        return self.relay_bind(bind)

    # As the cloud.

    def frontend_datagram(self, data: bytes) -> str:
        """Whatever bytes; half of the time with a MAC1 that is right."""
        cloud, now = self.world.cloud, self._pass_time()
        port = AS_PORT if data[:1] == _LOGIN else NMS_PORT
        if self.random.random() < 0.5:
            public = cloud.keys.as_public if port == AS_PORT else cloud.keys.nms_public
            data = append_macs(data[:-MACS_LENGTH], mac1_key(public))
        if self.random.random() < 0.1:
            cloud.gate.gauge.overloaded(now)
        try:
            cloud._admission[port].admit(data)
            cloud.gate.admit(data, STRANGER.encode(), cloud._mints[port], now, self.world.clock.wall)
        except DropError as drop:
            answer = getattr(drop, "answer", None)
            assert answer is None or len(answer) <= len(data)
            return str(drop)
        return ""

    def worker_body(self, data: bytes) -> str:
        """A node says what it never would: kind, body."""
        node = self._node()
        key = node.client._ring.current
        if key is None or not data or data[0] not in _KINDS:
            return ""
        kind = MessageType(data[0])
        header = SignalingHeader(kind, key.number, key.node_id, self._transaction(node, data)).encode()
        sealed = ChaCha20Poly1305(key.secret).encrypt(bytes(12), data[1:], header)
        return self._to_worker(kind, header + bytes(12) + sealed, Origin.UDP)

    def worker_box(self, data: bytes) -> str:
        """One service tells another what it never would."""
        if not data or data[0] not in _KINDS:
            return ""
        kind, keys, nonce = MessageType(data[0]), self.world.cloud.keys, self.random.randbytes(24)
        assert keys.as_key is not None
        header = SignalingHeader(kind, 0, NO_NODE, bytes(IDENTIFIER_LENGTH)).encode()
        sealed = seal_box(keys.as_key.secret, keys.nms_public, nonce, header + data[1:])
        return self._to_worker(kind, header + nonce + sealed, Origin.PIPELINE)

    def _to_worker(self, kind: MessageType, datagram: bytes, origin: Origin) -> str:
        cloud = self.world.cloud
        self._pass_time()
        worker = cloud._workers[0 if JOB_SERVICE.get(kind) is Service.AS else 2]
        route = Route(CLOUD[0], NMS_PORT, STRANGER.host, STRANGER.port)
        outcome = worker.handle([Job(datagram, origin, route)], self._store, self.world.clock.wall, cloud.fleet)
        assert not outcome.drops["failed"], "a handler failed: see the log"
        assert all(len(send.datagram) <= 1200 for send in outcome.sends)
        return " ".join(sorted(outcome.drops))

    # The overlay.

    def _build(self) -> None:
        self.world = world = World(self._store, self.random.randrange(2**32))
        self._inputs = 0
        self.nodes = [
            world.node("one", "198.51.100.1"),
            world.node("two", "192.168.1.2", nat=Nat("198.51.100.20")),
            world.node("six", "2001:db8:6::1"),
        ]
        one, two, six = self.nodes
        assert world.run(8, world.joined)
        assert world.talk(one, two)
        assert world.talk(one, six)
        one.look_up(world.fqdn("nobody"))
        world.run(1)
        self._places = [source for _, source, _ in world.network.log]
        bindings = [binding for node in self.nodes for peer in node.overlay.peers for binding in peer.bindings]
        self._bind_keys = [bytes(32), *(binding.grant.bind_key for binding in bindings)]

    def _pass_time(self) -> float:
        """Now; a used up overlay is looked at and replaced."""
        self._inputs += 1
        if self._inputs >= LIFE:
            size = sum(len(freeze(machine)) for machine in (*self._overlays(), self.world.cloud.relays[0]))
            assert size <= MAX_GRAPH, f"the machines hold {size} values"
            self._build()
        self.world.clock.now += self.random.expovariate(1 / PACE)
        if self._inputs % 64 == 0:
            self.world.clock._agenda.clear()
        return self.world.clock.now

    def _overlays(self) -> list[Overlay]:
        return [node.overlay for node in self.nodes]

    def _node(self) -> SimulatedNode:
        return self.random.choice(self.nodes)

    def _source(self, node: SimulatedNode) -> Endpoint:
        return self.random.choice([STRANGER, Endpoint(self._cloud_host(node), NMS_PORT), *self._places])

    def _cloud_host(self, node: SimulatedNode) -> str:
        return CLOUD[0] if ":" not in node.hosts[0] else CLOUD[1]

    def _transaction(self, node: SimulatedNode, data: bytes) -> bytes:
        """One that is awaited, where there is one; a responder's direction bears its own handle."""
        awaited = [*node.client._directions._by_wire_id]
        for attachment in node.client._registrations._attachments.values():
            awaited += attachment._awaited
        return self.random.choice([*awaited, data[3:19].ljust(IDENTIFIER_LENGTH, b"\0"), bytes(16)])

    def _open(self, node: SimulatedNode, datagram: bytes) -> bytes:
        key = node.client._ring.current
        assert key is not None
        return open_signaling(datagram, SignalingHeader.decode(datagram), key.secret)


def _settle(overlay: Overlay, now: float, wall: float) -> None:
    """What a driver does; a machine that is due again at once would make it spin."""
    overlay.events()
    overlay.outbox.datagrams.clear()
    overlay.outbox.packets.clear()
    if overlay.next_deadline() <= now:
        overlay.handle_timeout(now, wall)
        overlay.events()
        overlay.outbox.datagrams.clear()
        assert overlay.next_deadline() > now, "a machine that is always due spins its node"


_KINDS = frozenset(int(kind) for kind in MessageType)
_LOGIN = bytes([MessageType.LOGIN_REQUEST])
_SEALED_FOR_NODES = frozenset(
    {
        MessageType.REGISTRATION_RESPONSE,
        MessageType.KEEP_ALIVE_ACK,
        MessageType.ROUTE_DIRECTION,
        MessageType.DIRECTION_REFUSED,
        MessageType.PATH_REVOCATION,
    }
)
