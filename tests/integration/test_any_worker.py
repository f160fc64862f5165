"""Any worker finishes any transaction: real processes, real UDP, a real Redis; what dies here dies by kill -9."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator, Sequence

import pytest

from cyphonic.protocol.client import (
    ClientState,
    Directed,
    DirectionFailed,
    LoggedIn,
    LoginRefused,
    PeerRevoked,
    SelfRevoked,
)
from cyphonic.state import keys
from cyphonic.state.registry import (
    CommonKey,
    NodeRecord,
    create_enrolment_key,
    list_enrolment_keys,
    list_nodes,
    read_node,
    sealed_key_place,
)
from cyphonic.state.store import Script, Store
from cyphonic.state.vault import Vault
from cyphonic.wire.codec import decode
from cyphonic.wire.direction import DirectionRequest, RefusalReason, Role
from cyphonic.wire.header import MessageType
from cyphonic.wire.login import LoginOutcome
from cyphonic.wire.registration import RegistrationRequest
from cyphonic.workers.direction import SavedDirection
from tests.live_cloud import LiveCloud, TierProcess, live_cloud, until
from tests.redis_server import RedisServer
from tests.udp_nodes import UdpNode, UdpNodes

RACERS = 50

DISASTERS = [(), ("redis",), ("frontend",), ("redis", "frontend")]
"""What else happens while the workers are dead."""


@pytest.fixture
def cloud(redis_server: RedisServer) -> Iterator[LiveCloud]:
    with live_cloud(redis_server.config.url) as cloud:
        yield cloud


@pytest.fixture
def nodes(cloud: LiveCloud) -> Iterator[UdpNodes]:
    with UdpNodes(cloud.for_nodes()) as nodes:
        yield nodes


@pytest.fixture
def vault(cloud: LiveCloud) -> Vault:
    return Vault(cloud.keys.state_key(), os.urandom)


def enrolment_key(store: Store, uses: int | None = None) -> bytes:
    return create_enrolment_key(store, wall=0, uses=uses)


def named(store: Store, pattern: str) -> list[bytes]:
    """Every key of Redis that looks like that."""
    found: list[bytes] = store.run(("KEYS", pattern))
    return sorted(found)


def saved(store: Store, pattern: str) -> tuple[bytes, dict[bytes, bytes]]:
    """The one hash of that name."""
    (place,) = named(store, pattern)
    values: list[bytes] = store.run(("HGETALL", place))
    return place, dict(zip(values[::2], values[1::2], strict=True))


def run_id(store: Store) -> bytes:
    """Of this very Redis process."""
    information: bytes = store.run(("INFO", "server"))
    return information.split(b"run_id:")[1].split()[0]


def strike(disasters: Sequence[str], cloud: LiveCloud, redis: RedisServer, store: Store, script: str) -> None:
    """Restart Redis, which forgets ``script``; kill the frontend and start another on its ports."""
    if "redis" in disasters:
        before = run_id(store)
        redis.restart()
        assert run_id(store) != before
        assert store.run(("SCRIPT", "EXISTS", Script(script).sha1)) == [0]
    if "frontend" in disasters:
        (frontend,) = [process for process in cloud.processes if process.name.startswith("frontend")]
        frontend.kill()
        cloud.start_frontend()


@pytest.mark.parametrize("disasters", DISASTERS, ids=" and ".join)
def test_a_login_is_finished_by_others_than_those_that_died_over_it(
    cloud: LiveCloud,
    nodes: UdpNodes,
    store: Store,
    vault: Vault,
    redis_server: RedisServer,
    disasters: Sequence[str],
) -> None:
    cloud.start_frontend()
    (worker,) = cloud.start_workers("as")
    alice = nodes.add("alice")
    nodes.login(alice, enrolment_key(store, uses=1))
    nodes.until(lambda: named(store, "as:login:*"), "a login in the State Database")
    worker.kill()
    place, login = saved(store, "as:login:*")
    assert (login[b"state"], login[b"key_number"]) == (b"pending", b"1")
    common_key = vault.open(place, login[b"common_key"])
    assert named(store, "nms:*") == []

    strike(disasters, cloud, redis_server, store, "close_login")
    assert saved(store, "as:login:*") == (place, login)

    cloud.start_workers("as", "nms")
    nodes.hurry()
    nodes.until(lambda: alice.registered, "a login that is finished, and a registration")
    assert (alice.common_key.number, alice.common_key.secret) == (1, common_key)
    assert len(alice.events(LoggedIn)) == 1
    (node,) = list_nodes(store)
    assert (node.static_key, node.node_id) == (alice.static.public, alice.client.node_id)
    assert (node.fqdn, len(node.leases)) == ("alice.home.cyphonic.internal", 1)
    assert _holds_one_address_of_each_family(store, node.node_id)
    assert _current_key(store, vault, node.node_id) == (1, common_key)
    after = saved(store, "as:login:*")[1]
    assert (after[b"state"], after[b"outcome"]) == (b"done", b"%d" % LoginOutcome.ACCEPTED)
    assert (after[b"request"], after[b"common_key"]) == (login[b"request"], login[b"common_key"])


def _holds_one_address_of_each_family(store: Store, node_id: bytes) -> bool:
    places = named(store, "nms:address:*")
    owners = {store.run(("GET", place)) for place in places}
    lengths = sorted(len(place) - len(b"nms:address:") for place in places)
    return owners == {node_id} and lengths == [4, 16] and store.run(("GET", keys.NMS_IPV4_TAKEN)) == b"1"


def _current_key(store: Store, vault: Vault, node_id: bytes) -> tuple[int, bytes]:
    record = NodeRecord.parse(node_id, store.run(read_node(node_id)))
    assert record is not None
    assert record.current is not None
    found = CommonKey.decode(record.current)
    return found.number, vault.open(sealed_key_place(record.static_key, found.number), found.sealed)


@pytest.mark.parametrize("disasters", DISASTERS, ids=" and ".join)
def test_a_direction_is_finished_by_others_than_those_that_died_over_it(
    cloud: LiveCloud,
    nodes: UdpNodes,
    store: Store,
    vault: Vault,
    redis_server: RedisServer,
    disasters: Sequence[str],
) -> None:
    cloud.start_frontend()
    _, *workers = cloud.start_workers("as", "nms", "nms")
    alice, bob = nodes.join(enrolment_key(store), "alice", "bob")
    bob.holds_back = MessageType.ROUTE_DIRECTION_CONFIRMATION
    transaction_id = nodes.direct(alice, bob)
    nodes.until(lambda: bob.held, "a responder that would confirm")
    for worker in workers:
        worker.kill()
    place, direction = saved(store, "nms:direction:*")
    assert direction[b"state"] == b"pending"
    outcome = decode(vault.open(place, direction[b"saved"]), SavedDirection)

    strike(disasters, cloud, redis_server, store, "close_direction")
    assert saved(store, "nms:direction:*") == (place, direction)

    cloud.start_workers("nms", "nms")
    assert not alice.events(Directed)
    bob.release()
    nodes.until(lambda: alice.events(Directed), "a direction at the initiator")
    for node in (alice, bob):
        told = node.directed.direction
        assert (told.path_id, told.path_key) == (outcome.path_id, outcome.path_key)
    assert (alice.directed.direction.role, bob.directed.direction.role) == (Role.INITIATOR, Role.RESPONDER)
    assert (alice.directed.transaction_id, bob.directed.transaction_id) == (transaction_id, None)
    assert alice.directed.candidates == (bob.endpoint,)
    assert bob.directed.candidates == (alice.endpoint,)
    assert alice.directed.certificate.static_key == bob.static.public
    after = saved(store, "nms:direction:*")[1]
    assert after == {**direction, b"state": b"done", b"route": after[b"route"]}
    assert _peers(store, alice) == [bob.client.node_id]
    assert _peers(store, bob) == [alice.client.node_id]


def _peers(store: Store, node: UdpNode) -> list[bytes]:
    assert node.client.node_id is not None
    found: list[bytes] = store.run(("ZRANGE", keys.nms_paths(node.client.node_id), 0, -1))
    return found


def test_fifty_that_use_a_one_time_key_at_once_are_one_node_and_forty_nine_refusals(
    cloud: LiveCloud, nodes: UdpNodes, store: Store
) -> None:
    cloud.start_frontend()
    cloud.start_workers("as", "as", "as", "nms")
    secret = enrolment_key(store, uses=1)
    racers = [nodes.add(f"racer-{number}") for number in range(RACERS)]
    for racer in racers:
        nodes.login(racer, secret)
    nodes.until(
        lambda: all(racer.registered or racer.client.state is ClientState.REFUSED for racer in racers),
        "an answer for everyone",
    )
    (winner,) = [racer for racer in racers if racer.registered]
    refusals = [event.outcome for racer in racers for event in racer.events(LoginRefused)]
    assert refusals == [LoginOutcome.ENROLMENT_KEY_USED] * (RACERS - 1)
    (node,) = list_nodes(store)
    assert (node.static_key, node.name) == (winner.static.public, winner.name)
    assert len(named(store, "nms:node:*")) == len(named(store, "as:name:*")) == 1
    assert _holds_one_address_of_each_family(store, node.node_id)
    (key,) = list_enrolment_keys(store)
    assert key.used == 1


def test_a_redis_that_is_away_for_a_while_is_said_once_and_ends_nothing(
    cloud: LiveCloud, nodes: UdpNodes, store: Store, redis_server: RedisServer
) -> None:
    tiers = [cloud.start_frontend(), *cloud.start_workers("as", "nms"), cloud.start("relay")]
    until(lambda: "relay ready" in tiers[-1].log, "a relay")
    alice, bob = nodes.join(enrolment_key(store), "alice", "bob")
    redis_server.stop()
    nodes.direct(alice, bob)
    nodes.until(lambda: all(_complaints(tier) for tier in tiers), "a complaint of every tier")
    sent = alice.sent[MessageType.DIRECTION_REQUEST]
    nodes.until(lambda: alice.sent[MessageType.DIRECTION_REQUEST] > sent, "a request that comes to nothing")
    assert not alice.events(Directed)
    redis_server.start()
    until(lambda: all(_relief(tier) for tier in tiers), "every tier's relief")
    nodes.hurry()
    nodes.until(lambda: alice.events(Directed), "a direction as if nothing had been")
    assert alice.directed.direction.relays
    for tier in tiers:
        assert tier.alive
        (complaint,) = _complaints(tier)
        assert f"Redis at {redis_server.config.url} cannot be used" in complaint
        assert "check that Redis runs there" in complaint
        assert _relief(tier) == 1
        assert "Traceback" not in tier.log


def _complaints(tier: TierProcess) -> list[str]:
    return [line for line in tier.log.splitlines() if "level=warning" in line]


def _relief(tier: TierProcess) -> int:
    return tier.log.count("Redis is back")


@pytest.mark.parametrize(
    "command",
    [("frontend",), ("worker",), ("worker", "--processes", "2"), ("relay",)],
    ids=" ".join,
)
def test_without_redis_nothing_starts_and_the_exit_code_is_4(cloud: LiveCloud, command: Sequence[str]) -> None:
    url = f"unix://{cloud.directory}/absent.sock"
    ended = cloud.run(*command, CYPHONIC_REDIS_URL=url)
    assert ended.code == 4
    assert f"cyphonic: Redis at {url} cannot be used" in ended.stderr
    assert "check that Redis runs there and that [redis] url and password_file are right" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_a_revoked_node_is_out_at_the_nms_at_once_and_at_its_peers_within_seconds(
    cloud: LiveCloud, nodes: UdpNodes, store: Store
) -> None:
    cloud.start_frontend()
    cloud.start_workers("as", "nms")
    alice, bob = nodes.join(enrolment_key(store), "alice", "bob")
    nodes.direct(alice, bob)
    nodes.until(lambda: alice.events(Directed), "a live path")
    (before,) = [node for node in list_nodes(store) if node.name == "alice"]
    own = _Insistent(alice)

    started = nodes.now
    ended = cloud.run("admin", "node", "revoke", "alice", "--yes", "--json", meanwhile=nodes.turn)
    assert nodes.now - started < 10
    assert ended.code == 0, ended.stderr
    report = json.loads(ended.stdout)
    assert (report["acknowledged"], report["silent"], report["offline"]) == (["alice", "bob"], [], [])
    assert alice.client.node_id is not None
    assert bob.events(PeerRevoked) == [PeerRevoked(alice.client.node_id, before.generation)]
    assert len(alice.events(SelfRevoked)) == 1
    assert alice.client.state is ClientState.REVOKED

    directions, leases = named(store, "nms:direction:*"), _lease(store, alice)
    hints = alice.heard[MessageType.KEY_UNKNOWN]
    own.register()
    own.direct("bob.home.cyphonic.internal")
    nodes.until(lambda: alice.heard[MessageType.KEY_UNKNOWN] == hints + 2, "two refusals")
    assert (named(store, "nms:direction:*"), _lease(store, alice)) == (directions, leases)

    nodes.direct(bob, alice)
    nodes.until(lambda: bob.events(DirectionFailed), "a refusal")
    assert [event.reason for event in bob.events(DirectionFailed)] == [RefusalReason.UNKNOWN_NAME]
    again = nodes.add("alice", alice.static)
    nodes.login(again)
    nodes.until(lambda: again.events(LoginRefused), "a refusal")
    assert again.events(LoginRefused) == [LoginRefused(LoginOutcome.NODE_REVOKED)]


class _Insistent:
    """A node that goes on with its common key whatever it was told."""

    def __init__(self, node: UdpNode) -> None:
        self._node = node
        self._ring = node.client._ring
        self._endpoint = node.client.nms_endpoints[0]

    def register(self) -> None:
        counter = self._node.common_key.next_counter()
        body = RegistrationRequest(counter, [self._node.endpoint.encode()], self._node.client.certificate_bytes)
        self._send(MessageType.REGISTRATION_REQUEST, body)

    def direct(self, fqdn: str) -> None:
        self._send(MessageType.DIRECTION_REQUEST, DirectionRequest(int(time.time() * 1000), fqdn, b""))

    def _send(self, kind: MessageType, body: RegistrationRequest | DirectionRequest) -> None:
        self._node.send(self._ring.seal(kind, os.urandom(16), body), self._endpoint)


def _lease(store: Store, node: UdpNode) -> list[bytes]:
    assert node.client.node_id is not None
    values: list[bytes] = store.run(("HGETALL", keys.nms_lease(4, node.client.node_id)))
    return values
