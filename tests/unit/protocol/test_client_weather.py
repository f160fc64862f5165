"""Whatever the network does: a node ends registered or given up with a reason, and its client is never busy.

That no client is busy, ``World.run`` asserts after every timeout: the next deadline lies in the future.
"""

from __future__ import annotations

from collections import Counter
from socket import AF_INET, AF_INET6

import pytest

from cyphonic.protocol.client import CloudUnreachable, Directed, DirectionFailed, LoggedIn
from cyphonic.wire.direction import Role
from cyphonic.wire.endpoint import Endpoint
from tests.unit.protocol.fake_cloud import AS_ENDPOINTS, NMS_ENDPOINTS, Node, Weather, World

SEEDS = 150
FAMILIES = ({AF_INET}, {AF_INET6}, {AF_INET, AF_INET6})


def _storm(world: World) -> Weather:
    rng = world.rng
    return Weather(rng.random() * 0.7, rng.random() * 0.5, rng.random() * 0.4, rng.choice([0.02, 0.5, 5.0]))


def _settled(node: Node) -> bool:
    return node.client.state == "registered" or bool(node.seen(CloudUnreachable))


def _check_paths(nodes: list[Node]) -> None:
    for node in nodes:
        ends = [event for event in node.events if isinstance(event, Directed)]
        paths = Counter(event.direction.path_id for event in ends)
        assert all(count == 1 for count in paths.values()), "a path was told twice"
        assert all(event.direction.role == Role.RESPONDER for event in ends if event.transaction_id is None)


@pytest.mark.parametrize("seed", range(SEEDS))
def test_every_conversation_ends(seed: int) -> None:
    world = World(seed)
    world.weather = _storm(world)
    nodes = [world.add(name, world.rng.choice(FAMILIES)) for name in ("a", "b")]
    assert world.run(33, lambda: all(map(_settled, nodes))), "a login or registration neither succeeded nor gave up"
    wanted: dict[bytes, Node] = {}
    for node, name in zip(nodes, ("b.home.example", "a.home.example"), strict=True):
        wanted[node.client.direction(name, now=world.now)] = node
        world.collect(node)
    world.run(15.6)
    for transaction_id, node in wanted.items():
        ends = [
            event
            for event in node.events
            if isinstance(event, Directed | DirectionFailed) and event.transaction_id == transaction_id
        ]
        assert len(ends) == 1, "a direction did not end exactly once"
    _check_paths(nodes)
    world.weather = Weather()
    assert world.run(120, lambda: all(node.client.state == "registered" for node in nodes))
    for node in nodes:
        assert node.runs < 400
        assert len({event.certificate.node_id for event in node.events if isinstance(event, LoggedIn)}) == 1


@pytest.mark.parametrize("seed", range(SEEDS // 3))
def test_a_long_life_of_failures_ends_registered(seed: int) -> None:
    world = World(10_000 + seed)
    world.cloud.key_lifetime = 1200
    nodes = [world.add(name, world.rng.choice(FAMILIES)) for name in ("a", "b", "c")]
    frontends = AS_ENDPOINTS + NMS_ENDPOINTS
    for _ in range(15):
        _strike(world, nodes)
        world.weather = _storm(world) if world.rng.random() < 0.5 else Weather()
        world.cloud.down = {each for each in frontends if world.rng.random() < 0.4}
        for node in nodes:
            node.client.direction(world.rng.choice("abc") + ".home.example", now=world.now)
            world.collect(node)
        world.run(world.rng.random() * 300)
        _check_paths(nodes)
    world.weather, world.cloud.down = Weather(), set()
    world.run(150)

    def _agreed(node: Node) -> bool:
        known = world.cloud.members[node.static.public]
        return set(node.client.leases) == node.families and node.client.key_number == known.current

    assert world.run(20, lambda: all(map(_agreed, nodes)))
    assert all(node.runs < 15 * 300 * 3 for node in nodes)


def _strike(world: World, nodes: list[Node]) -> None:
    """One misfortune."""
    node = world.rng.choice(nodes)
    match world.rng.randrange(5):
        case 0:
            world.cloud.forget_keys()
        case 1:
            for member in world.cloud.members.values():
                member.leases.clear()
        case 2:
            node.endpoints[AF_INET] = Endpoint(
                f"203.0.113.{world.rng.randrange(1, 255)}", world.rng.randrange(1, 65536)
            )
        case 3:
            node.families = world.rng.choice(FAMILIES)
            node.client.set_underlay(node.families, [node.endpoints[f] for f in node.families], world.now)
            world.collect(node)
        case _:
            world.cloud.clock_lead = world.rng.choice([-500.0, 0.0, 500.0])
