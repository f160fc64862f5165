"""The whole cloud is gone for minutes, relay included: tunnels carry traffic, moves are followed where no NAT is in
the way, and nodes come back by themselves without a stampede."""

from __future__ import annotations

import pytest

from cyphonic.protocol.client import ClientState
from cyphonic.protocol.limits import LOGIN_RETRY_MAX, RESEND_AFTER
from cyphonic.state.store import Store
from cyphonic.wire.endpoint import Endpoint
from tests.simulation.scene import CLOUD, RELAY, World, place
from tests.simulation.test_moves import LOCAL_GAP, PLACES, gap, go, settled, streams

AWAY = 300.0
"""Seconds."""
SENDINGS = len(RESEND_AFTER)
"""Of one attempt."""


def take_away(world: World) -> list[float]:
    """Nothing reaches cloud or relay; when anything was tried with the cloud is noted in the list."""
    tried: list[float] = []

    def gone(source: Endpoint, destination: Endpoint) -> bool:
        if destination.host in CLOUD:
            tried.append(world.clock.now)
        return bool({source.host, destination.host} & {*CLOUD, *RELAY})

    world.network.partition = gone
    return tried


def bring_back(world: World) -> None:
    world.network.partition = lambda source, destination: False


def test_tunnels_carry_traffic_without_a_pause_and_rekey_while_the_cloud_is_away(simulation_store: Store) -> None:
    world = settled(simulation_store, 1, "port", "port")
    made = streams(world, "both")
    take_away(world)
    [peer] = world.nodes["mover"].overlay.peers
    session = peer.session
    world.run(AWAY)
    assert gap(made) < 1.0
    assert peer.session is not session


@pytest.mark.parametrize("other", ["open", "full-cone", "dual"])
@pytest.mark.parametrize("after", ["open-too", "port", "symmetric", "full-cone", "dual"])
def test_a_node_that_moves_meanwhile_keeps_peers_whose_nat_lets_it_in(
    simulation_store: Store, after: str, other: str
) -> None:
    for seed in range(3):
        world = settled(simulation_store, seed, "open", other)
        made = streams(world, "both")
        take_away(world)
        world.run(60)
        for stream in made:
            stream.forgive()
        go(world.nodes["mover"], PLACES[after])
        world.run(20)
        assert gap(made) <= LOCAL_GAP, seed


def test_a_peer_whose_nat_keeps_a_moved_node_out_is_found_again_when_the_cloud_is_back(
    simulation_store: Store,
) -> None:
    world = settled(simulation_store, 3, "open", "port")
    made = streams(world, "both")
    take_away(world)
    go(world.nodes["mover"], PLACES["open-too"])
    world.run(AWAY)
    assert gap(made) > AWAY - 5
    bring_back(world)
    assert world.run(2 * LOGIN_RETRY_MAX, world.joined)
    world.run(20)
    for stream in made:
        stream.forgive()
    world.run(5)
    assert gap(made) < 1.0


@pytest.mark.parametrize("seed", range(5))
def test_nodes_come_back_by_themselves_and_ask_ever_more_seldom_until_then(
    simulation_store: Store, seed: int
) -> None:
    world = World(simulation_store, seed)
    nodes = [place(world, name) for name in ("open", "behind", "six")]
    assert world.run(5, world.joined)
    world.run(10)
    tried = take_away(world)
    began = world.clock.now
    world.run(AWAY)
    assert all(node.client.state is not ClientState.REGISTERED for node in nodes)
    last_minute = [when for when in tried if when > began + AWAY - 60]
    first_minutes = [when for when in tried if when <= began + 120]
    assert len(last_minute) <= 3 * SENDINGS * len(nodes)  # an attempt and its wait take half a minute by then
    assert len(first_minutes) <= 7 * SENDINGS * len(nodes)
    bring_back(world)
    assert world.run(1.5 * LOGIN_RETRY_MAX, world.joined)
    logins = [node.client.key_number for node in nodes]
    world.run(60)
    assert [node.client.key_number for node in nodes] == logins
    assert world.talk(nodes[0], nodes[1])
