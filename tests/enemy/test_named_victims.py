"""A node says that it is at somebody else's address, to have others shoot at him: they knock a few times only."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from itertools import pairwise
from socket import AF_INET, AddressFamily

import pytest

from cyphonic.protocol.limits import (
    HOLE_PUNCH_COUNT,
    HOLE_PUNCH_INTERVAL,
    PATH_CHECK_COUNT,
    PROBED_DIRECTION_INTERVAL,
    PROBED_DIRECTIONS,
)
from cyphonic.protocol.route import MAX_PORTS
from cyphonic.state.store import Store
from cyphonic.wire.endpoint import Endpoint
from cyphonic.wire.header import MessageType
from tests.redis_server import RedisServer
from tests.simulation.network import Nat
from tests.simulation.scene import World
from tests.simulation.world import SimulatedNode

VICTIM = "203.0.113.99"
NATS = pytest.mark.parametrize("nat", [False, True], ids=["open", "behind NAT"])
TOGETHER = PATH_CHECK_COUNT + HOLE_PUNCH_COUNT
"""Datagrams to one place because of one direction, TunnelRequests aside: these go to whom this node asked for."""
REQUESTS = 11


@pytest.fixture(scope="module")
def enemy_store(_redis_process: RedisServer) -> Iterator[Store]:
    with Store(_redis_process.config) as connected:
        yield connected


class Scene:
    """A good node, a bad one, and what arrives at the victim from the good one."""

    def __init__(self, store: Store, *, nat: bool, silent: bool) -> None:
        self.world = world = World(store, 1)
        self.bad = world.node("bad", "198.51.100.66")
        self.good = (
            world.node("good", "192.168.1.2", nat=Nat("198.51.100.20"))
            if nat
            else world.node("good", "198.51.100.4")
        )
        assert world.run(5, world.joined)
        self.got: list[tuple[float, MessageType, Endpoint]] = []
        world.network.attach(VICTIM, self._receive)
        if silent:
            world.network.partition = lambda source, to: (
                "198.51.100.66" in (source.host, to.host) and ({source.port, to.port} <= {5000, 20000, 20001})
            )
        victims = [Endpoint(VICTIM, port) for port in range(53, 61)]
        self.bad.overlay.set_underlay(frozenset({AddressFamily(AF_INET)}), victims, world.clock.now)
        self.bad._after()
        world.run(2)

    def _receive(self, datagram: bytes, source: Endpoint, destination: Endpoint) -> None:
        if source.host != "198.51.100.66":
            self.got.append((self.world.clock.now, MessageType(datagram[0]), destination))

    def ask(self, asker: SimulatedNode, target: SimulatedNode) -> None:
        """A direction, whether or not there is a tunnel already."""
        assert target.overlay.certificate is not None
        address = target.overlay.certificate.virtual_ipv6
        asker.client.direction(address=address, now=self.world.clock.now)
        asker.overlay._after_client(self.world.clock.now)
        asker._after()


@NATS
@pytest.mark.parametrize("silent", [False, True], ids=["the tunnel stands", "the bad one is silent"])
@pytest.mark.parametrize("bad_asks", [False, True], ids=["asked for", "asking"])
def test_one_direction_has_a_place_knocked_at_a_few_times_and_paced(
    enemy_store: Store, nat: bool, silent: bool, bad_asks: bool
) -> None:
    scene = Scene(enemy_store, nat=nat, silent=silent)
    if bad_asks:
        scene.ask(scene.bad, scene.good)
    else:
        scene.good.look_up(scene.world.fqdn("bad"))
    scene.world.run(60)
    each = Counter((kind, place) for _, kind, place in scene.got)
    assert len({place for _, place in each}) <= MAX_PORTS
    assert all(count <= 20 for count in each.values())
    assert {kind for kind, _ in each} <= {
        MessageType.HOLE_PUNCH,
        MessageType.PATH_CHECK,
        *([] if bad_asks else [MessageType.TUNNEL_REQUEST]),
    }
    assert all(count <= REQUESTS for (kind, _), count in each.items() if kind is MessageType.TUNNEL_REQUEST)
    for what in each:
        times = [when for when, kind, place in scene.got if (kind, place) == what]
        gaps = [later - earlier for earlier, later in pairwise(times)]
        assert len(gaps) < 2 or sorted(gaps)[len(gaps) // 2] >= 0.9 * HOLE_PUNCH_INTERVAL


@NATS
@pytest.mark.parametrize("silent", [False, True], ids=["the tunnel stands", "the bad one is silent"])
def test_however_often_a_node_asks_it_makes_no_flood(enemy_store: Store, nat: bool, silent: bool) -> None:
    scene = Scene(enemy_store, nat=nat, silent=silent)
    minutes = 5
    for _ in range(minutes * 60 * 2):
        scene.ask(scene.bad, scene.good)
        scene.world.run(0.5)
    directions = PROBED_DIRECTIONS + minutes * 60 / PROBED_DIRECTION_INTERVAL
    assert len(scene.got) <= directions * MAX_PORTS * TOGETHER
    last_minute = [when for when, _, _ in scene.got if when > scene.world.clock.now - 60]
    assert len(last_minute) <= (60 / PROBED_DIRECTION_INTERVAL + 1) * MAX_PORTS * TOGETHER
    print(f"\n{len(scene.got)} datagrams in {minutes} minutes for {minutes * 120} directions")
    assert scene.good.overlay.peers or silent
    if scene.good.overlay.peers:
        assert len(scene.good.overlay.peers[0].paths.candidates()) < 20
