"""Whoever records a conversation and sends it again, at once or later, from an address of his own or a forged one,
moves nobody and changes nothing.

A duplicate of a request may be answered, as the contract says, by whoever keeps no state for that or has the answer
saved; a duplicate of a request to the cloud that is still remembered may also say where to send the answer.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest

from cyphonic.errors import DropError
from cyphonic.state.store import Store
from cyphonic.wire.endpoint import Endpoint
from cyphonic.wire.header import MessageType
from cyphonic.wire.job import JOB_SERVICE, Job, Origin, Route, Service
from tests.enemy.conversation import THIEF, converse, make_world
from tests.enemy.snapshot import difference, dump, freeze, without_expired
from tests.redis_server import RedisServer
from tests.simulation.cloud import AS_PORT, NMS_PORT
from tests.simulation.scene import World
from tests.simulation.world import SimulatedNode, SimulatedRelay

SOON = 0.005
"""Seconds after a datagram has arrived: its first effect is there, and the answer is not yet."""
EACH_KIND = 25
"""Messages of one kind to one machine that are repeated at once."""
LATER = 40.0
"""Seconds after which the cloud remembers no transaction."""

SPENT = frozenset({"_level", "_refilled", "_spent", "_tokens", "_filled", "random", "_sent", "_count", "_until"})
"""What an answer costs: rates, random numbers, and the note of what was sent."""


@pytest.fixture(scope="module")
def enemy_store(_redis_process: RedisServer) -> Iterator[Store]:
    with Store(_redis_process.config) as connected:
        yield connected


class Recorder:
    """Sends everything again as soon as it has arrived, and keeps it."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.thief = Endpoint(*THIEF)
        self.recorded: list[tuple[bytes, Endpoint, Endpoint]] = []
        self.repeated: Counter[MessageType] = Counter()
        self.answers: Counter[MessageType] = Counter()
        """To the thief, by kind of what was repeated."""
        self._seen: Counter[tuple[object, ...]] = Counter()
        world.network.tap = self.record

    def record(self, datagram: bytes, source: Endpoint, destination: Endpoint) -> None:
        clock, drops = self.world.clock, self._drops()
        clock.at(clock.now, lambda: self._arrived(datagram, source, destination, drops))

    def _arrived(self, datagram: bytes, source: Endpoint, destination: Endpoint, drops: int) -> None:
        """Repeat it at once and a little later, unless the original came too early to be used."""
        if self._drops() != drops:
            return
        self.recorded.append((datagram, source, destination))
        clock, what = self.world.clock, (datagram[0], destination.host, datagram[8:9])
        self._seen[what] += 1
        if self._seen[what] <= EACH_KIND:
            if destination.port not in (AS_PORT, NMS_PORT):  # a job waits there: see ``test_races.py``
                self.repeat(datagram, self.thief, destination)
            clock.at(clock.now + SOON, lambda: self.repeat(datagram, self.thief, destination))

    def _drops(self) -> int:
        return sum(node.overlay.drops.total() for node in self.world.nodes.values())

    def repeat(self, datagram: bytes, source: Endpoint, destination: Endpoint) -> None:
        """Once more to the same machine."""
        kind = MessageType(datagram[0])
        self.repeated[kind] += 1
        for node in self.world.nodes.values():
            if destination.host in node.hosts:
                self._to_node(node, kind, datagram, source)
        for relay in self.world.cloud.relays:
            if destination in relay.endpoints:
                self._to_relay(relay, kind, datagram, source, destination)
        if destination.port in (AS_PORT, NMS_PORT):
            self._to_cloud(kind, datagram, source, destination)

    def _to_node(self, node: SimulatedNode, kind: MessageType, datagram: bytes, source: Endpoint) -> None:
        clock, overlay = self.world.clock, node.overlay
        before = freeze(overlay, SPENT)
        overlay.receive_datagram(datagram, source, clock.now, clock.wall)
        answers, overlay.outbox.datagrams = overlay.outbox.datagrams, []
        self._unchanged(kind, before, freeze(overlay, SPENT))
        assert source != self.thief or all(len(answer) <= len(datagram) for answer, _ in answers)
        self.answers[kind] += len(answers)

    def _to_relay(
        self, relay: SimulatedRelay, kind: MessageType, datagram: bytes, source: Endpoint, at: Endpoint
    ) -> None:
        now, agenda = self.world.clock.now, len(self.world.clock._agenda)
        # A true source may be heard again: what a wire repeats by itself looks no different.
        ignored = SPENT | {"last_heard", "cookies_sent", "forwarded_bytes", "forwarded_datagrams", "_expiry"}
        before = freeze(relay, ignored)
        relay._receive(datagram, source, at)
        self._unchanged(kind, before, freeze(relay, ignored))
        self.answers[kind] += len(self.world.clock._agenda) - agenda
        assert now == self.world.clock.now

    def _to_cloud(self, kind: MessageType, datagram: bytes, source: Endpoint, at: Endpoint) -> None:
        cloud, clock, store = self.world.cloud, self.world.clock, self.world.store
        try:
            admitted = cloud._admission[at.port].admit(datagram)
            cloud.gate.admit(datagram, source.encode(), cloud._mints[at.port], clock.now, clock.wall)
        except DropError as drop:
            answer = getattr(drop, "answer", None)
            assert answer is None or len(answer) <= len(datagram)
            return
        job = Job(admitted, Origin.UDP, Route(at.host, at.port, source.host, source.port))
        worker = cloud._workers[0 if JOB_SERVICE[kind] is Service.AS else 2]
        before = _state(store)
        outcome = worker.handle([job], store, clock.wall, cloud.fleet)
        after = _state(store)
        self._unchanged(kind, without_expired(before, after), after)
        assert not outcome.drops["failed"]
        self.answers[kind] += len(outcome.sends)

    def _unchanged(self, kind: MessageType, before: dict[str, Any], after: dict[str, Any]) -> None:
        changed = difference(before, after)
        assert not changed, f"a repeated {kind.name} changed something:\n" + "\n".join(changed[:10])


def _state(store: Store) -> dict[str, Any]:
    """Without where the answer of a transaction that is remembered goes: a duplicate says it anew."""
    found = dump(store)
    for value in found.values():
        if isinstance(value, dict):
            value.pop(b"route", None)
    return found


def places(world: World) -> list[object]:
    """Where everybody is, as everybody else believes."""
    known: list[object] = []
    for node in world.nodes.values():
        known += [(peer.certificate.fqdn, peer.paths.current) for peer in node.overlay.peers]
    for relay in world.cloud.relays:
        known += [(key, role.way, role.generation) for key, role in relay.table._roles.items()]
    leases = {key: value for key, value in dump(world.store).items() if key.startswith("nms:lease")}
    known += [(key, lease[b"observed"], lease[b"service"]) for key, lease in sorted(leases.items())]
    return known


@pytest.fixture(scope="module")
def recorder(enemy_store: Store) -> Recorder:
    world = make_world(enemy_store)
    recorder = Recorder(world)
    converse(world)
    return recorder


def test_what_is_repeated_at_once_from_elsewhere_changes_nothing(recorder: Recorder) -> None:
    assert recorder.repeated.total() > 500
    # A request that nobody has to remember, or whose answer is saved, may be answered; nothing else.
    requests = {
        MessageType.TUNNEL_REQUEST,
        MessageType.RELAY_BIND,
        MessageType.RELAY_PROBE,
        MessageType.LOGIN_REQUEST,
        MessageType.REGISTRATION_REQUEST,
        MessageType.KEEP_ALIVE,
        MessageType.DIRECTION_REQUEST,
        MessageType.ROUTE_DIRECTION_CONFIRMATION,
    }
    assert {kind for kind, count in recorder.answers.items() if count} <= requests
    print(f"\n{recorder.repeated.total()} repeated, {recorder.answers.total()} answered")


@pytest.mark.parametrize("forged", [False, True], ids=["from elsewhere", "from where it came"])
def test_what_is_repeated_after_the_conversation_moves_nobody(recorder: Recorder, forged: bool) -> None:
    world = recorder.world
    world.network.tap = lambda datagram, source, destination: None
    world.run(LATER)
    chance = random.Random(3)
    recorded = list(recorder.recorded)
    before = places(world)
    for _ in range(2):
        for datagram, source, destination in recorded:
            recorder.repeat(datagram, source if forged else recorder.thief, destination)
        chance.shuffle(recorded)
    assert places(world) == before
    assert world.talk(world.nodes["open"], world.nodes["behind"])
