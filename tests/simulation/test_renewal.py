"""Keys and certificates are renewed under traffic, for hours, and nobody notices: sessions every two minutes, path
keys every half hour, common keys and certificates every half day; and revocation at any of these moments.
"""

from __future__ import annotations

import os
from functools import partial

import pytest

from cyphonic.protocol.client import ClientState, Directed, LoggedIn
from cyphonic.protocol.grants import MAX_GRANTS
from cyphonic.protocol.limits import PATH_KEY_LIFETIME, PATH_KEY_RENEWAL, REKEY_AFTER_TIME
from cyphonic.state.registry import revoke_node
from cyphonic.state.store import Store
from tests.simulation.network import Faults
from tests.simulation.scene import KIND, Stream, World, place
from tests.simulation.world import SimulatedNode

HOUR = 3600.0
GAP = 1.0
"""Seconds that a renewal may cost, beside the stream's own interval."""
GLARE_SEEDS = int(os.environ.get("CYPHONIC_SEEDS", "500")) // 2
LOSSY = Faults(lost=0.1, duplicated=0.05, delay=(0.005, 0.1))


def pair(store: Store, seed: int, first: str = "open", second: str = "behind") -> World:
    world = World(store, seed)
    one, two = place(world, first), place(world, second)
    assert world.run(5, world.joined)
    assert world.talk(one, two)
    world.run(5)
    return world


def ends(world: World) -> tuple[SimulatedNode, SimulatedNode]:
    one, two = world.nodes.values()
    return one, two


def one_tunnel(world: World) -> None:
    [mine], [theirs] = (node.overlay.peers for node in ends(world))
    assert mine.session is not None
    assert theirs.session is not None
    assert (mine.session.local_index, mine.session.peer_index) == (
        theirs.session.peer_index,
        theirs.session.local_index,
    )


@pytest.mark.parametrize("part", range(10))
def test_two_that_ask_at_once_end_with_one_tunnel(simulation_store: Store, part: int) -> None:
    for seed in range(part, GLARE_SEEDS, 10):
        world = World(simulation_store, seed, LOSSY if seed % 3 == 0 else KIND)
        one, two = place(world, "open"), place(world, ("dual", "behind", "other")[seed % 3])
        assert world.run(30, world.joined), seed
        apart = world.chance.random.choice((0.0, 0.001, 0.01, 0.03, 0.1))
        streams = [Stream(world, one, two, 0.1)]
        world.run(apart)
        streams.append(Stream(world, two, one, 0.1))
        world.run(6)
        for stream in streams:
            assert stream.received > 10, seed
            stream.stop()
        world.network.faults = KIND
        world.run(12)
        one_tunnel(world)


@pytest.mark.parametrize("seed", range(8))
def test_sessions_are_renewed_under_load_and_loss_without_a_pause(simulation_store: Store, seed: int) -> None:
    world = pair(simulation_store, seed)
    one, two = ends(world)
    lost = 0.02 + 0.02 * (seed % 4)
    world.network.faults = Faults(lost=lost, delay=(0.005, 0.06))
    streams = [Stream(world, one, two, 0.02), Stream(world, two, one, 0.02)]
    [peer] = one.overlay.peers
    sessions = set()
    for _ in range(int(4 * REKEY_AFTER_TIME / 10)):
        world.run(10)
        assert peer.session is not None
        sessions.add(peer.session.local_index)
    assert len(sessions) >= 4
    for stream in streams:
        assert stream.longest_gap() < GAP
        assert stream.lost / (stream.lost + stream.received) < lost * 1.5


def _hours(world: World, hours: float, interval: float) -> list[Stream]:
    one, two = ends(world)
    world.cloud.expiry_interval = 60.0
    streams = [Stream(world, one, two, interval), Stream(world, two, one, interval)]
    for _ in range(int(hours * HOUR / 300)):
        world.run(300)
        world.network.log.clear()
        for stream in streams:
            assert stream.longest_gap() < GAP + interval, world.clock.now
        assert all(len(node.overlay._own.indices) <= 4 for node in (one, two))
    return streams


@pytest.mark.parametrize(("first", "second"), [("open", "behind"), ("behind", "six")])
def test_three_hours_of_traffic_renew_path_keys_and_lose_nothing(
    simulation_store: Store, first: str, second: str
) -> None:
    world = pair(simulation_store, 1, first, second)
    streams = _hours(world, 3, 0.5)
    for node in ends(world):
        [peer] = node.overlay.peers
        assert 1 <= len(peer.path_ids) <= MAX_GRANTS
        directed = [event for event in node.events if isinstance(event, Directed)]
        assert len(directed) >= 3 * HOUR / (PATH_KEY_LIFETIME * PATH_KEY_RENEWAL) - 1
    assert max(stream.lost for stream in streams) <= 5  # a relay binding that ends may take two with it
    one_tunnel(world)


def test_thirty_hours_of_traffic_renew_common_keys_and_certificates_and_lose_nothing(
    simulation_store: Store,
) -> None:
    world = pair(simulation_store, 2)
    streams = _hours(world, 30, 2.0)
    for node in ends(world):
        logins = [event for event in node.events if isinstance(event, LoggedIn)]
        assert len(logins) >= 3
        assert node.client.certificate is not None
        assert node.client.certificate.expires > world.clock.wall
        [peer] = node.overlay.peers
        assert peer.certificate.expires > world.clock.wall
    assert max(stream.lost for stream in streams) <= 5  # a relay binding that ends may take two with it
    one_tunnel(world)


@pytest.mark.parametrize("moment", ["handshake", "rekey", "path key", "common key"])
def test_a_revocation_at_any_moment_ends_the_tunnel_at_once_and_for_good(
    simulation_store: Store, moment: str
) -> None:
    for seed in range(5):
        world = World(simulation_store, seed)
        one, two = place(world, "open"), place(world, "dual")
        assert world.run(5, world.joined)
        world.cloud.expiry_interval = 60.0
        streams = [Stream(world, one, two, 0.5), Stream(world, two, one, 0.5)]
        _wait_for(world, one, moment)
        world.run(seed * 0.012)
        node_id = revoke_node(world.store, "dual", wall=world.clock.wall)
        assert node_id is not None
        for delay in (0.0, 0.5, 1.0, 2.0):  # what 'admin node revoke' and the NMS repeat until it is acknowledged
            world.clock.at(world.clock.now + delay, partial(_order, world, node_id))
        world.run(4)
        received = [stream.received for stream in streams]
        world.run(60)
        assert [stream.received for stream in streams] == received, (moment, seed)
        assert two.client.state is ClientState.REVOKED
        assert not one.overlay.peers


def _wait_for(world: World, node: SimulatedNode, moment: str) -> None:
    """Just as it begins."""
    if moment == "handshake":
        world.run(0.02)
        return
    world.run(3)
    [peer] = node.overlay.peers
    assert peer.last_handshake is not None
    if moment == "rekey":
        session = peer.session
        assert world.run(2 * REKEY_AFTER_TIME, lambda: peer.connecting or peer.session is not session)
    elif moment == "path key":
        known = set(peer.path_ids)
        assert world.run(PATH_KEY_LIFETIME, lambda: set(peer.path_ids) != known)
    else:
        number = node.client.key_number
        node.client.login(world.clock.now, world.clock.wall)
        node._after()
        assert world.run(10, lambda: node.client.key_number != number)


def _order(world: World, node_id: bytes) -> None:
    management = world.cloud._workers[2]
    for job in management.revocation_orders([node_id]):
        world.cloud.submit(job.datagram)
