"""Whoever changes one bit of a message, any bit of any message, is met with silence, and nothing has changed.

Each message of a whole conversation is damaged just before it arrives, at the very end that authenticates it and at
the very moment when that waits for it; then the true one arrives, and the conversation has to go on.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator

import pytest

from cyphonic.protocol.mac import append_macs, mac1_key
from cyphonic.state.store import Store
from cyphonic.wire.endpoint import Endpoint
from cyphonic.wire.header import RELAYED_HEADER_LENGTH, MessageType
from cyphonic.wire.job import JOB_SERVICE, Job, Origin, Service
from tests.enemy.conversation import SPOKEN, UNAUTHENTICATED, converse, make_world
from tests.enemy.snapshot import difference, dump, freeze, without_expired
from tests.redis_server import RedisServer
from tests.simulation.cloud import AS_PORT, NMS_PORT
from tests.simulation.scene import World
from tests.simulation.world import SimulatedNode, SimulatedRelay

ALL_BITS_UP_TO = 160
"""Bytes; of longer messages a sample."""
SAMPLE = 400
EACH_KIND = 12
"""Messages of one kind that are damaged, at one machine: the first ones, and then they are much the same."""
WORKER_SAMPLE = 200
MACS = 32


@pytest.fixture(scope="module")
def enemy_store(_redis_process: RedisServer) -> Iterator[Store]:
    with Store(_redis_process.config) as connected:
        yield connected


def flips(message: bytes, chance: random.Random, sample: int = SAMPLE, *, end: int | None = None) -> list[bytes]:
    """Copies with one bit changed, before ``end``."""
    bits = range(8 * (len(message) if end is None else end))
    chosen = bits if len(message) <= ALL_BITS_UP_TO else sorted(chance.sample(bits, min(sample, len(bits))))
    return [_flip(message, bit) for bit in chosen]


def _flip(message: bytes, bit: int) -> bytes:
    damaged = bytearray(message)
    damaged[bit // 8] ^= 1 << bit % 8
    return bytes(damaged)


class Vandal:
    """Damages everything on its way into ``world``."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.chance = random.Random(7)
        self.damaged: Counter[MessageType] = Counter()
        """Bits changed, by kind of message."""
        self._attacked: Counter[tuple[object, ...]] = Counter()
        world.network.tap = self.datagram
        world.cloud.tap = self.job

    def datagram(self, datagram: bytes, source: Endpoint, destination: Endpoint) -> None:
        kind = MessageType(datagram[0])
        if kind in UNAUTHENTICATED or not self._wanted(kind, destination.host, datagram[8:9]):
            return
        for node in self.world.nodes.values():
            if destination.host in node.hosts:
                self._at_node(node, kind, datagram, source)
        for relay in self.world.cloud.relays:
            if destination in relay.endpoints:
                self._at_relay(relay, kind, datagram, source, destination)
        if destination.port in (AS_PORT, NMS_PORT):
            self._at_frontend(kind, datagram, source, destination)

    def _wanted(self, *what: object) -> bool:
        self._attacked[what] += 1
        return self._attacked[what] <= EACH_KIND

    def _at_node(self, node: SimulatedNode, kind: MessageType, datagram: bytes, source: Endpoint) -> None:
        clock, overlay = self.world.clock, node.overlay
        damaged = flips(datagram, self.chance)
        before = freeze(overlay)
        for each in damaged:
            overlay.receive_datagram(each, source, clock.now, clock.wall)
        self._unchanged(kind, before, freeze(overlay))
        inner = MessageType(datagram[RELAYED_HEADER_LENGTH]) if kind is MessageType.RELAYED else kind
        self.damaged[inner] += len(damaged)

    def _at_relay(
        self, relay: SimulatedRelay, kind: MessageType, datagram: bytes, source: Endpoint, at: Endpoint
    ) -> None:
        # What is relayed is authenticated by the node that it goes to.
        end = RELAYED_HEADER_LENGTH if kind is MessageType.RELAYED else None
        damaged = flips(datagram, self.chance, end=end)
        before, agenda = freeze(relay), len(self.world.clock._agenda)
        for each in damaged:
            relay._receive(each, source, at)
        self._unchanged(kind, before, freeze(relay))
        assert len(self.world.clock._agenda) == agenda, f"the relay answered a damaged {kind.name}"
        self.damaged[kind] += len(damaged)

    def _at_frontend(self, kind: MessageType, datagram: bytes, source: Endpoint, at: Endpoint) -> None:
        cloud, clock = self.world.cloud, self.world.clock
        damaged = flips(datagram, self.chance)
        before, agenda = freeze(cloud.gate), len(clock._agenda)
        for each in damaged:
            cloud._receive(each, source, at)
        self._unchanged(kind, before, freeze(cloud.gate))
        assert len(clock._agenda) == agenda, f"the frontend passed on or answered a damaged {kind.name}"
        self.damaged[kind] += len(damaged)

    def job(self, job: Job) -> None:
        """At the worker: somebody has computed MAC1 anew, or broken into the pipeline."""
        kind = MessageType(job.datagram[0])
        if not self._wanted(kind, job.origin):
            return
        cloud, clock = self.world.cloud, self.world.clock
        jobs = [Job(each, job.origin, job.route) for each in flips(job.datagram, self.chance, WORKER_SAMPLE)]
        jobs = [each for each in jobs if self._passes_the_frontend(each)]
        before = dump(self.world.store)
        for workers in (cloud._workers[:1], cloud._workers[2:3]):
            for start in range(0, len(jobs), 64):
                outcome = workers[0].handle(jobs[start : start + 64], self.world.store, clock.wall, cloud.fleet)
                assert not outcome.forwards, kind.name
                assert outcome.drops["failed"] == 0, kind.name
                # A node ID or key number that nobody knows may be told so, by a hint that nobody has to believe.
                assert all(send.datagram[0] == MessageType.KEY_UNKNOWN for send in outcome.sends), kind.name
                assert all(len(send.datagram) <= len(job.datagram) for send in outcome.sends)
        after = dump(self.world.store)
        self._unchanged(kind, without_expired(before, after), after)
        self.damaged[kind] += len(jobs)

    def _passes_the_frontend(self, job: Job) -> bool:
        """With a MAC1 of its own; the pipeline's messages come from a worker that somebody owns."""
        if job.origin == Origin.PIPELINE:
            return True
        keys = self.world.cloud.keys
        service = JOB_SERVICE.get(MessageType(job.datagram[0])) if job.datagram[0] in _KINDS else None
        if service is None:
            return False
        port, public = (AS_PORT, keys.as_public) if service is Service.AS else (NMS_PORT, keys.nms_public)
        try:
            self.world.cloud._admission[port].admit(append_macs(job.datagram, mac1_key(public)))
        except Exception:  # noqa: BLE001 - whatever it is, it does not get in
            return False
        return True

    def _unchanged(self, kind: MessageType, before: dict[str, object], after: dict[str, object]) -> None:
        changed = difference(before, after)
        assert not changed, f"a damaged {kind.name} changed something:\n" + "\n".join(changed[:10])


_KINDS = frozenset(int(kind) for kind in MessageType)


def test_any_bit_of_any_message_matters_at_the_end_that_authenticates_it(enemy_store: Store) -> None:
    world = make_world(enemy_store)
    vandal = Vandal(world)
    converse(world)
    untouched = {kind.name for kind in SPOKEN if not vandal.damaged[kind]}
    assert not untouched, "the conversation should have said these too"
    figures = ", ".join(f"{kind.name} {count}" for kind, count in sorted(vandal.damaged.items()))
    print(f"\n{vandal.damaged.total()} bits changed: {figures}")
