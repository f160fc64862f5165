"""Two machines run with one static key: nobody else is harmed, neither storms, and both say what is going on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import pytest

from cyphonic.protocol.client import LoggedIn
from cyphonic.protocol.limits import PREVIOUS_COMMON_KEY_GRACE
from cyphonic.state.registry import list_nodes, revoke_node
from cyphonic.state.store import Store
from cyphonic.wire.endpoint import Endpoint
from cyphonic.wire.header import MessageType
from tests.redis_server import RedisServer
from tests.simulation.network import Faults
from tests.simulation.scene import World
from tests.simulation.world import SimulatedNode

MINUTES = 30
MOST_REQUESTS = 40
"""A minute and node: keepalives, and registrations that the NMS does not answer, sent again with growing pauses."""


@pytest.fixture(scope="module")
def enemy_store(_redis_process: RedisServer) -> Iterator[Store]:
    with Store(_redis_process.config) as connected:
        yield connected


def steal(world: World, victim: SimulatedNode, host: str) -> SimulatedNode:
    thief = SimulatedNode(
        world.clock,
        world.network,
        victim.name,
        [host],
        world.cloud.bundle,
        world.chance,
        identity=victim.identity,
    )
    thief.start()
    return thief


def test_two_nodes_of_one_identity_take_turns_slowly_and_harm_nobody(enemy_store: Store) -> None:
    world = World(enemy_store, 1)
    one, two, three = (world.node(f"n{number}", f"198.51.100.{number}") for number in (1, 2, 3))
    assert world.run(5, world.joined)
    assert world.talk(one, two)
    thief = steal(world, one, "198.51.100.66")
    log = world.network.log
    for minute in range(MINUTES):
        log.clear()
        world.run(30)
        assert world.talk(two, three, attempts=2), minute
        assert world.talk(three, two, attempts=2), minute
        world.run(26)
        for host in ("198.51.100.1", "198.51.100.66"):
            asked = [
                datagram for datagram, source, _ in log if source == Endpoint(host, 5000) and datagram[0] >= 0x20
            ]
            logins = {datagram for datagram in asked if datagram[0] == MessageType.LOGIN_REQUEST}
            assert len(logins) <= 60 / PREVIOUS_COMMON_KEY_GRACE + 1, minute
            assert len(asked) <= MOST_REQUESTS, minute
    assert two.client.key_number == three.client.key_number == 1
    assert {node.name for node in list_nodes(enemy_store)} == {"n1", "n2", "n3"}
    for node in (one, thief):
        assert node.client.key_number > 5
        assert any(isinstance(event, LoggedIn) and not event.alone for event in node.events)
    for node in (two, three):
        assert len(node.overlay.peers) <= 2
        assert all(event.alone for event in node.events if isinstance(event, LoggedIn))


def test_an_honest_node_is_alone_whatever_the_network_does_to_its_logins(enemy_store: Store) -> None:
    world = World(enemy_store, 2)
    node = world.node("n1", "198.51.100.1")
    logins: Counter[bool] = Counter()
    for turn in range(12):
        world.network.faults = Faults(lost=0.7 if turn % 2 else 0.0)
        node.overlay.log_in(world.clock.now, world.clock.wall)
        node._after()
        world.run(90)
    logins.update(event.alone for event in node.events if isinstance(event, LoggedIn))
    assert logins[True] >= 8
    assert not logins[False]


def test_after_revocation_neither_of_them_is_let_in(enemy_store: Store) -> None:
    world = World(enemy_store, 3)
    one, two = (world.node(f"n{number}", f"198.51.100.{number}") for number in (1, 2))
    assert world.run(5, world.joined)
    thief = steal(world, one, "198.51.100.66")
    world.run(5)
    revoke_node(enemy_store, "n1", wall=world.clock.wall)
    world.run(300)
    assert not one.client.leases
    assert not thief.client.leases
    assert not world.talk(two, thief, attempts=3)
