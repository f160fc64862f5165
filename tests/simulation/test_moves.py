"""Nodes move, and traffic goes on: every kind of move, from every place to every place, either way and both.

A gap is the longest time without a packet while one node sends 50 a second to the other.  Who only receives must
notice as well as who sends, so each case runs with traffic one way, the other way and both ways.
"""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest

from cyphonic.protocol.grants import MAX_GRANTS
from cyphonic.protocol.paths import PathKind
from cyphonic.state.store import Store
from tests.simulation.network import Faults, Filtering, Nat
from tests.simulation.scene import Stream, World, kind
from tests.simulation.world import SimulatedNode

LOCAL_GAP, SILENT_GAP = 2.0, 6.5
"""Seconds that a move may cost, with and without an event on the machine that moves."""

Place = tuple[tuple[str, ...], Callable[[], Nat | None]]
PLACES: dict[str, Place] = {
    "open": (("198.51.100.1",), lambda: None),
    "open-too": (("198.51.100.9",), lambda: None),
    "full-cone": (("192.168.1.2",), lambda: Nat("198.51.100.21", filtering=Filtering.ANYONE)),
    "address": (("192.168.1.3",), lambda: Nat("198.51.100.22", filtering=Filtering.ADDRESSES)),
    "port": (("192.168.1.4",), lambda: Nat("198.51.100.23")),
    "symmetric": (("192.168.1.5",), lambda: Nat("198.51.100.24", symmetric=True)),
    "six": (("2001:db8:6::1",), lambda: None),
    "dual": (("198.51.100.4", "2001:db8:4::1"), lambda: None),
}
PEERS: dict[str, Place] = {
    "open": (("203.0.113.101",), lambda: None),
    "full-cone": (("10.1.1.2",), lambda: Nat("203.0.113.121", filtering=Filtering.ANYONE)),
    "port": (("10.1.1.4",), lambda: Nat("203.0.113.123")),
    "symmetric": (("10.1.1.5",), lambda: Nat("203.0.113.124", symmetric=True)),
    "six": (("2001:db8:66::1",), lambda: None),
    "dual": (("203.0.113.104", "2001:db8:44::1"), lambda: None),
}
TRAFFIC = ("to", "from", "both")
THOROUGHNESS = max(1, int(os.environ.get("CYPHONIC_SEEDS", "500")) // 500)


def start(world: World, name: str, place: Place) -> SimulatedNode:
    hosts, nat = place
    return world.node(name, *hosts, nat=nat())


def go(node: SimulatedNode, place: Place) -> None:
    hosts, nat = place
    node.move(list(hosts), nat())


def settled(store: Store, seed: int, first: str, second: str, faults: Faults | None = None) -> World:
    """Nodes ``mover`` and ``peer`` with a tunnel on the best path that there is."""
    world = World(store, seed, faults or Faults())
    mover, peer = start(world, "mover", PLACES[first]), start(world, "peer", PEERS[second])
    assert world.run(5, world.joined)
    assert world.talk(mover, peer)
    world.run(6 + seed % 7 / 7)
    return world


def streams(world: World, traffic: str) -> list[Stream]:
    mover, peer = world.nodes["mover"], world.nodes["peer"]
    made = []
    if traffic in ("from", "both"):
        made.append(Stream(world, mover, peer))
    if traffic in ("to", "both"):
        made.append(Stream(world, peer, mover))
    world.run(0.5)
    for stream in made:
        stream.forgive()
    return made


def gap(made: list[Stream]) -> float:
    return max(stream.longest_gap() for stream in made)


@pytest.mark.parametrize("part", range(THOROUGHNESS))
@pytest.mark.parametrize("second", PEERS)
def test_a_move_costs_less_than_two_seconds(simulation_store: Store, second: str, part: int) -> None:
    slow = {}
    for seed, (before, after) in enumerate((b, a) for b in PLACES for a in PLACES if a != b):
        traffic = TRAFFIC[(seed + part + len(second)) % 3]
        world = settled(simulation_store, seed, before, second)
        made = streams(world, traffic)
        go(world.nodes["mover"], PLACES[after])
        world.run(4)
        if gap(made) > LOCAL_GAP:
            slow[before, after, traffic] = gap(made)
        one_tunnel(world)
    assert not slow


@pytest.mark.parametrize("traffic", TRAFFIC)
@pytest.mark.parametrize("second", PEERS)
@pytest.mark.parametrize("first", ["full-cone", "address", "port", "symmetric"])
def test_a_router_that_gets_another_address_unseen_costs_less_than_six_and_a_half_seconds(
    simulation_store: Store, first: str, second: str, traffic: str
) -> None:
    for seed in range(THOROUGHNESS):
        world = settled(simulation_store, seed, first, second)
        made = streams(world, traffic)
        nat = world.nodes["mover"].nat
        assert nat is not None
        world.network.renumber(nat, "198.51.100.77")
        world.run(8)
        assert gap(made) <= SILENT_GAP, (seed, gap(made))
        one_tunnel(world)


@pytest.mark.parametrize("traffic", TRAFFIC)
def test_both_ends_move_at_once(simulation_store: Store, traffic: str) -> None:
    slow = {}
    ways = [("open", "open-too"), ("port", "open"), ("open", "port"), ("open", "six"), ("port", "symmetric")]
    others = [("open", "port"), ("port", "open"), ("dual", "six"), ("port", "symmetric"), ("open", "full-cone")]
    for seed, ((before, after), (first, then)) in enumerate((w, o) for w in ways for o in others):
        world = settled(simulation_store, seed, before, first)
        made = streams(world, traffic)
        go(world.nodes["mover"], PLACES[after])
        hosts, nat = PEERS[then]
        world.run(seed % 5 * 0.03)
        world.nodes["peer"].move([host.replace("203.0.113.1", "203.0.113.2") for host in hosts], nat())
        world.run(10)
        if gap(made) > LOCAL_GAP:
            slow[before, after, first, then] = gap(made)
        one_tunnel(world)
    assert not slow


def test_after_a_move_the_path_is_the_best_that_the_new_place_allows(simulation_store: Store) -> None:
    for seed, (after, expected) in enumerate(
        [
            ("open-too", PathKind.DIRECT),
            ("port", PathKind.DIRECT),
            ("six", PathKind.RELAYED),
            ("dual", PathKind.DIRECT),
        ]
    ):
        world = settled(simulation_store, seed, "six", "port")
        mover, peer = world.nodes["mover"], world.nodes["peer"]
        assert kind(mover, peer) is PathKind.RELAYED
        streams(world, "both")
        go(mover, PLACES[after])
        world.run(10)
        assert (kind(mover, peer), kind(peer, mover)) == (expected, expected)


@pytest.mark.parametrize("lost", [0.02, 0.1])
def test_moves_on_a_lossy_network_are_found_again(simulation_store: Store, lost: float) -> None:
    for seed in range(12):
        world = settled(simulation_store, seed, "port", "port", Faults(lost=lost))
        made = streams(world, "both")
        go(world.nodes["mover"], PLACES["symmetric" if seed % 2 else "open"])
        world.run(10)
        assert gap(made) <= 2 * LOCAL_GAP, (seed, gap(made))


@pytest.mark.parametrize("seed", range(10))
def test_twenty_rapid_flaps_leave_one_tunnel_and_nothing_else(simulation_store: Store, seed: int) -> None:
    world = settled(simulation_store, seed, "open", "port" if seed % 2 else "open")
    mover = world.nodes["mover"]
    made = streams(world, "both")
    places = list(PLACES)
    for flap in range(20):
        go(mover, ((), lambda: None) if flap % 3 == 0 else PLACES[places[(flap * 7 + seed) % len(places)]])
        world.run(0.05 + (flap + seed) % 5 * 0.1)
    go(mover, PLACES["open-too"])
    for stream in made:
        stream.forgive()
    world.run(30)
    assert gap(made) <= LOCAL_GAP
    one_tunnel(world)
    for node in world.nodes.values():
        [peer] = node.overlay.peers
        assert len(peer.path_ids) <= MAX_GRANTS
        assert len(peer.paths.candidates()) <= 24
        assert len(node.overlay._own.indices) <= 2


def test_an_idle_pair_meets_again_wherever_both_have_gone(simulation_store: Store) -> None:
    world = settled(simulation_store, 1, "open", "port")
    mover, peer = world.nodes["mover"], world.nodes["peer"]
    world.run(400)
    go(mover, PLACES["port"])
    peer.move(["203.0.113.201"])
    world.run(20)
    assert world.talk(mover, peer, attempts=3)
    assert world.talk(peer, mover, attempts=3)


def one_tunnel(world: World) -> None:
    """Both ends agree on one session."""
    [mine], [theirs] = (node.overlay.peers for node in world.nodes.values())
    assert mine.session is not None
    assert theirs.session is not None
    assert mine.session.peer_index == theirs.session.local_index
    assert theirs.session.peer_index == mine.session.local_index
