"""The whole protocol over a network that does its worst, cloud included: the headlines.

Every seed is one run of a small overlay.  A message may be lost, duplicated, reordered, delayed for seconds or
truncated; workers die between saving and sending; Redis forgets its scripts.  Whatever happens, each conversation
ends established or given up with a reason, and nothing exists twice.
"""

from __future__ import annotations

import os

import pytest

from cyphonic.protocol.client import ClientState, CloudUnreachable, Directed, DirectionFailed
from cyphonic.protocol.overlay import LookedUp
from cyphonic.protocol.paths import PathKind
from cyphonic.state.registry import list_nodes, revoke_node
from cyphonic.state.store import Store
from cyphonic.wire.direction import RefusalReason
from tests.simulation.network import Nat
from tests.simulation.scene import HARSH, KIND, PLACES, World, kind, place
from tests.simulation.world import SimulatedNode

SEEDS = int(os.environ.get("CYPHONIC_SEEDS", "500"))
BATCHES = 20
SETTLED = {
    frozenset({"open", "behind"}): PathKind.DIRECT,
    frozenset({"open", "other"}): PathKind.DIRECT,
    frozenset({"open", "six"}): PathKind.RELAYED,
    frozenset({"open", "dual"}): PathKind.DIRECT,
    frozenset({"behind", "other"}): PathKind.DIRECT,
    frozenset({"behind", "six"}): PathKind.RELAYED,
    frozenset({"behind", "dual"}): PathKind.DIRECT,
    frozenset({"other", "six"}): PathKind.RELAYED,
    frozenset({"other", "dual"}): PathKind.DIRECT,
    frozenset({"six", "dual"}): PathKind.DIRECT,
}


@pytest.mark.parametrize("source", PLACES)
@pytest.mark.parametrize("target", PLACES)
def test_every_pair_of_places_connects_and_settles_where_it_should(
    simulation_store: Store, source: str, target: str
) -> None:
    if source == target:
        return
    world = World(simulation_store, 1)
    first, second = place(world, source), place(world, target)
    assert world.run(5, world.joined)
    assert world.talk(first, second)
    world.run(6)
    expected = SETTLED[frozenset({source, target})]
    assert (kind(first, second), kind(second, first)) == (expected, expected)
    assert world.talk(second, first)


@pytest.mark.parametrize("batch", range(BATCHES))
def test_conversations_end_and_nothing_exists_twice(simulation_store: Store, batch: int) -> None:
    for seed in range(batch, SEEDS, BATCHES):
        try:
            _one_overlay(World(simulation_store, seed, HARSH), seed)
        except Exception as error:
            error.add_note(f"seed {seed}")
            raise


def _one_overlay(world: World, seed: int) -> None:
    world.cloud.worker_dies = 0.05 if seed % 2 else 0.0
    pairs = [(first, second) for first in PLACES for second in PLACES if first != second]
    one, two = (place(world, name) for name in pairs[seed % len(pairs)])
    if seed % 3 == 0:
        world.clock.at(world.clock.now + 0.3, world.cloud.forget_scripts)
    world.run(120, world.joined)
    for node in (one, two):
        gave_up = any(isinstance(event, CloudUnreachable) for event in node.events)
        assert node.client.state is ClientState.REGISTERED or gave_up
    if not world.joined():
        return
    _nothing_twice(world, {one.name, two.name})

    # Both ask at once in every third run: glare.
    answers = [one.look_up(world.fqdn(two.name))]
    if seed % 3 == 1:
        two.look_up(world.fqdn(one.name))
    connected = world.run(60, lambda: kind(one, two) is not None and kind(two, one) is not None)
    reasons = [e for node in (one, two) for e in node.events if isinstance(e, LookedUp | DirectionFailed)]
    assert connected or reasons or answers[0] is not None
    if connected:
        assert world.talk(one, two, attempts=60)
        assert world.talk(two, one, attempts=60)
        world.network.faults = KIND
        world.run(15)
        assert world.talk(one, two)
        _one_tunnel(one, two)
    _nothing_twice(world, {one.name, two.name})


def _nothing_twice(world: World, names: set[str]) -> None:
    nodes = list_nodes(world.store)
    assert {node.name for node in nodes} == names
    for attribute in ("node_id", "static_key", "virtual_ipv6", "virtual_ipv4", "fqdn"):
        values = [getattr(node, attribute) for node in nodes]
        assert len(set(values)) == len(values)
    for node in world.nodes.values():
        certificate = node.overlay.certificate
        assert certificate is not None
        [registered] = [known for known in nodes if known.name == node.name]
        assert registered.node_id == certificate.node_id


def _one_tunnel(one: SimulatedNode, two: SimulatedNode) -> None:
    """Both ends agree on the session, and there is one peer for one node."""
    assert one.overlay.certificate is not None
    assert two.overlay.certificate is not None
    [mine], [theirs] = one.overlay.peers, two.overlay.peers
    assert mine.session is not None
    assert theirs.session is not None
    assert mine.session.peer_index == theirs.session.local_index
    assert theirs.session.peer_index == mine.session.local_index


def test_a_path_id_is_directed_to_each_end_once(simulation_store: Store) -> None:
    for seed in range(30):
        world = World(simulation_store, seed, HARSH)
        one, two = place(world, "open"), place(world, "dual")
        if not world.run(120, world.joined):
            continue
        one.look_up(world.fqdn("dual"))
        world.run(40)
        for node in (one, two):
            paths = [event.direction.path_id for event in node.events if isinstance(event, Directed)]
            assert len(set(paths)) == len(paths)


def test_an_unknown_name_and_an_offline_node_are_told_apart(simulation_store: Store) -> None:
    world = World(simulation_store, 3)
    one, two = place(world, "open"), place(world, "dual")
    assert world.run(5, world.joined)
    one.look_up(world.fqdn("nobody"))
    two.overlay.close(world.clock.now)
    two.stop()
    two._after()
    world.run(120)
    one.look_up(world.fqdn("dual"))
    world.run(5)
    answers = {event.target: event for event in one.events if isinstance(event, LookedUp)}
    assert answers[world.fqdn("nobody")].reason is RefusalReason.UNKNOWN_NAME
    assert answers[world.fqdn("dual")].reason is RefusalReason.OFFLINE
    assert answers[world.fqdn("dual")].virtual_ipv6


def test_loss_of_everything_volatile_heals_within_a_keepalive_without_a_login(simulation_store: Store) -> None:
    world = World(simulation_store, 4)
    one, two = place(world, "open"), place(world, "behind")
    assert world.run(5, world.joined)
    logins = (one.client.key_number, two.client.key_number)
    world.cloud.forget_volatile()
    world.run(45)
    assert (one.client.key_number, two.client.key_number) == logins
    assert world.talk(one, two)


def test_tunnels_outlive_the_cloud_for_half_an_hour_and_rekey(simulation_store: Store) -> None:
    world = World(simulation_store, 5)
    one, two = place(world, "open"), place(world, "dual")
    assert world.run(5, world.joined)
    assert world.talk(one, two)
    world.cloud.down = True
    sessions = set()
    for _ in range(180):
        world.run(10)
        assert world.talk(one, two, attempts=3)
        assert world.talk(two, one, attempts=3)
        [peer] = one.overlay.peers
        assert peer.session is not None
        sessions.add(peer.session.local_index)
    assert len(sessions) > 10
    world.cloud.down = False
    assert world.run(200, world.joined)


def test_a_node_that_moves_keeps_its_tunnel(simulation_store: Store) -> None:
    world = World(simulation_store, 6)
    one, two = place(world, "open"), place(world, "behind")
    assert world.run(5, world.joined)
    assert world.talk(one, two)
    world.run(3)
    one.move(["198.51.100.77"])
    assert world.talk(two, one, attempts=6)
    two.move(["192.168.9.9"], Nat("198.51.100.88"))
    assert world.talk(one, two, attempts=6)
    assert world.talk(two, one, attempts=6)


def test_a_revoked_node_is_dropped_by_its_peers(simulation_store: Store) -> None:
    world = World(simulation_store, 7)
    one, two = place(world, "open"), place(world, "dual")
    assert world.run(5, world.joined)
    assert world.talk(one, two)
    node_id = revoke_node(world.store, "dual", wall=world.clock.wall)
    assert node_id is not None
    management = world.cloud._workers[2]
    for job in management.revocation_orders([node_id]):
        world.cloud.submit(job.datagram)
    world.run(1)
    assert not one.overlay.peers
    assert not two.overlay.peers
    assert two.client.state is ClientState.REVOKED
    assert not world.talk(one, two, attempts=3)


def test_a_restarted_peer_is_found_again(simulation_store: Store) -> None:
    world = World(simulation_store, 8)
    one, two = place(world, "open"), place(world, "behind")
    assert world.run(5, world.joined)
    assert world.talk(one, two)
    two.stop()
    world.run(3)
    nat = Nat("198.51.100.20", next_port=30000)
    again = SimulatedNode(
        world.clock, world.network, "behind", two.hosts, world.cloud.bundle, world.chance, nat, two.identity
    )
    world.nodes["behind"] = again
    again.start()
    assert world.run(10, world.joined)
    assert world.talk(one, again)
    assert world.talk(again, one)


def test_a_peer_that_has_left_is_forgotten_and_found_again_when_it_is_back(simulation_store: Store) -> None:
    world = World(simulation_store, 9)
    one, two = place(world, "open"), place(world, "dual")
    assert world.run(5, world.joined)
    assert world.talk(one, two)
    two.overlay.close(world.clock.now)
    two._after()
    two.stop()
    assert not world.talk(one, two, attempts=10)
    assert not one.overlay.peers
    again = SimulatedNode(
        world.clock, world.network, "dual", two.hosts, world.cloud.bundle, world.chance, identity=two.identity
    )
    world.nodes["dual"] = again
    again.start()
    assert world.run(10, world.joined)
    assert world.talk(one, again)
