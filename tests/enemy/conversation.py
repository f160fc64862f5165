"""One small overlay that says everything once: each kind of message crosses the wire."""

from __future__ import annotations

from cyphonic.state.registry import revoke_node
from cyphonic.state.store import Store
from cyphonic.wire.header import MessageType
from tests.simulation.network import Nat
from tests.simulation.scene import World

UNAUTHENTICATED = frozenset({MessageType.BUSY, MessageType.KEY_UNKNOWN, MessageType.VERSION_HINT})
"""Hints: nothing protects them, and they change nothing by themselves."""
SPOKEN = frozenset(MessageType) - UNAUTHENTICATED

THIEF = ("203.0.113.66", 6666)


def make_world(store: Store, seed: int = 1) -> World:
    """Four nodes: one open, two behind NATs, one with IPv6 only."""
    return World(store, seed)


def converse(world: World) -> None:
    """From the first login to leaving and being revoked."""
    be_busy(world)
    world.node("open", "198.51.100.1")
    world.node("behind", "192.168.1.2", nat=Nat("198.51.100.20"))
    world.node("other", "192.168.2.2", nat=Nat("198.51.100.30"))
    world.node("six", "2001:db8:6::1")
    assert world.run(5, world.joined)
    nodes = world.nodes
    be_busy(world)
    for source, target in (("behind", "other"), ("open", "six"), ("open", "behind")):
        assert world.talk(nodes[source], nodes[target])
        assert world.talk(nodes[target], nodes[source])
    world.run(3)
    nodes["open"].look_up(world.fqdn("nobody"))
    world.run(25)
    nodes["open"].move(["198.51.100.7"])
    world.run(3)
    assert world.talk(nodes["behind"], nodes["open"])
    _revoke(world, "six")
    nodes["other"].overlay.close(world.clock.now)
    nodes["other"]._after()
    world.run(2)


def be_busy(world: World) -> None:
    """Frontends and relays ask for cookies for a while."""
    world.cloud.gate.gauge.overloaded(world.clock.now)
    for relay in world.cloud.relays:
        relay.table._gauge.overloaded(world.clock.now)


def _revoke(world: World, name: str) -> None:
    node_id = revoke_node(world.store, name, wall=world.clock.wall)
    assert node_id is not None
    for job in world.cloud._workers[2].revocation_orders([node_id]):
        world.cloud.submit(job.datagram)
    world.run(1)
