"""Somebody on the way copies datagrams and his copies, from an address of his own, arrive before the originals.

He reads nothing and can answer nothing; what he wants is that traffic goes to him.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import pytest

from cyphonic.protocol.paths import PathKind
from cyphonic.state.store import Store
from cyphonic.wire.endpoint import Endpoint
from cyphonic.wire.header import MessageType
from tests.enemy.conversation import THIEF
from tests.redis_server import RedisServer
from tests.simulation.network import Nat
from tests.simulation.scene import World, kind
from tests.simulation.world import SimulatedNode

CHECKS_PER_SECOND = 8.0
"""To an address that never answers, while somebody keeps making it look like the peer's."""


@pytest.fixture(scope="module")
def enemy_store(_redis_process: RedisServer) -> Iterator[Store]:
    with Store(_redis_process.config) as connected:
        yield connected


BETWEEN_NODES = frozenset(kind for kind in MessageType if kind <= MessageType.PATH_CHECK_ACK)


class Racer:
    """Everything from one place to another comes from him first."""

    def __init__(self, world: World, kinds: frozenset[MessageType] = BETWEEN_NODES) -> None:
        self.world = world
        self.kinds = kinds
        self.endpoint = Endpoint(*THIEF)
        self.got: Counter[MessageType] = Counter()
        """What was sent to him, by kind."""
        self.raced: Counter[MessageType] = Counter()
        world.network.attach(self.endpoint.host, self._receive)
        world.network.tap = self._race

    def _race(self, datagram: bytes, source: Endpoint, destination: Endpoint) -> None:
        if source == self.endpoint or destination == self.endpoint or datagram[0] not in self.kinds:
            return
        self.raced[MessageType(datagram[0])] += 1
        receive = self.world.network._hosts[destination.host]
        receive(datagram, self.endpoint, destination)

    def _receive(self, datagram: bytes, *_: Endpoint) -> None:
        self.got[MessageType(datagram[0])] += 1


def pair(world: World, *, nat: bool = False) -> tuple[SimulatedNode, SimulatedNode]:
    one = world.node("one", "198.51.100.1")
    two = world.node("two", "192.168.1.2", nat=Nat("198.51.100.20")) if nat else world.node("two", "198.51.100.4")
    assert world.run(5, world.joined)
    return one, two


def stolen(node: SimulatedNode) -> bool:
    return any(
        peer.paths.current is not None and peer.paths.current.endpoint.host == THIEF[0]
        for peer in node.overlay.peers
    )


@pytest.mark.parametrize("nat", [False, True], ids=["both open", "one behind NAT"])
@pytest.mark.parametrize("starts", [0, 1])
def test_a_tunnel_comes_up_and_carries_traffic_although_every_copy_is_first(
    enemy_store: Store, nat: bool, starts: int
) -> None:
    for seed in range(4):
        world = World(enemy_store, seed)
        nodes = pair(world, nat=nat)
        one, two = nodes[starts], nodes[1 - starts]
        racer = Racer(world)
        assert world.talk(one, two, attempts=5), seed
        assert world.talk(two, one, attempts=5), seed
        for _ in range(20):
            assert world.talk(one, two, attempts=3), seed
            assert world.talk(two, one, attempts=3), seed
            assert not stolen(one), seed
            assert not stolen(two), seed
        assert racer.raced[MessageType.CAPSULE] > 40
        assert not racer.got[MessageType.CAPSULE], seed


@pytest.mark.parametrize(
    "what", [{MessageType.TUNNEL_REQUEST}, {MessageType.TUNNEL_RESPONSE}, {MessageType.CAPSULE}]
)
def test_one_raced_step_of_the_handshake_gains_nothing(enemy_store: Store, what: set[MessageType]) -> None:
    world = World(enemy_store, 5)
    one, two = pair(world)
    racer = Racer(world, frozenset(what))
    assert world.talk(one, two, attempts=2)
    assert world.talk(two, one, attempts=2)
    assert not racer.got[MessageType.CAPSULE]
    assert (kind(one, two), kind(two, one)) == (PathKind.DIRECT, PathKind.DIRECT)


def test_traffic_that_runs_is_not_led_away_and_the_thief_is_asked_a_few_times_only(enemy_store: Store) -> None:
    world = World(enemy_store, 6)
    one, two = pair(world)
    assert world.talk(one, two)
    world.run(5)
    racer = Racer(world)
    for _ in range(60):
        assert world.talk(one, two, attempts=2)
        assert world.talk(two, one, attempts=2)
    assert not racer.got[MessageType.CAPSULE]
    assert racer.got[MessageType.PATH_CHECK] < 2 * 60 * CHECKS_PER_SECOND
    world.network.tap = lambda datagram, source, destination: None
    world.run(10)
    assert not stolen(one)
    assert not stolen(two)
    assert world.talk(one, two, attempts=1)


@pytest.mark.parametrize("nat", [False, True], ids=["both open", "one behind NAT"])
def test_who_races_everything_the_cloud_included_is_left_behind_when_he_stops(
    enemy_store: Store, nat: bool
) -> None:
    """The NMS then takes his address for the node's, so he is one more candidate, which never answers a check."""
    world = World(enemy_store, 8)
    racer = Racer(world, frozenset(MessageType))
    one, two = pair(world, nat=nat)
    assert world.talk(one, two)
    assert world.talk(two, one)
    assert racer.raced.total() > 40
    world.network.tap = lambda datagram, source, destination: None
    world.run(30)
    racer.got.clear()
    for _ in range(10):
        assert world.talk(one, two, attempts=1)
        assert world.talk(two, one, attempts=1)
    assert not stolen(one)
    assert not stolen(two)
    assert not racer.got[MessageType.CAPSULE]


def test_a_node_whose_keepalives_are_raced_is_found_again_with_its_next_own_one(enemy_store: Store) -> None:
    """A lease follows the counter; who wins every race to the NMS hides a node, as who drops its datagrams does."""
    world = World(enemy_store, 7)
    one, two = pair(world)
    racer = Racer(world, frozenset({MessageType.KEEP_ALIVE, MessageType.REGISTRATION_REQUEST}))
    world.run(25)
    assert racer.raced[MessageType.KEEP_ALIVE]
    world.network.tap = lambda datagram, source, destination: None
    world.run(25)
    assert world.talk(one, two)
    assert not racer.got[MessageType.CAPSULE]
