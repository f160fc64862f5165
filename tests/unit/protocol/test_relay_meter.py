from __future__ import annotations

import math
import random
from socket import AF_INET, AF_INET6

import pytest

from cyphonic.errors import DropError
from cyphonic.protocol.keys import KeyPair
from cyphonic.protocol.limits import RELAY_MEASURE_INTERVAL, RELAY_PROBE_COUNT
from cyphonic.protocol.mac import mac1_key
from cyphonic.protocol.probe import write_probe_reply
from cyphonic.protocol.relay_meter import RelayMeter
from cyphonic.wire.endpoint import Endpoint
from cyphonic.wire.probe import NO_TICKET, RelayProbe, RelayProbeReply
from cyphonic.wire.registration import UNANSWERED, RelayAddress

NEAR, FAR, SIX = Endpoint("192.0.2.1", 7703), Endpoint("192.0.2.2", 7703), Endpoint("2001:db8::1", 7703)
ME = Endpoint("198.51.100.1", 4000)
BOTH = (AF_INET, AF_INET6)


class World:
    """A meter, and relays that answer after a time each."""

    def __init__(self) -> None:
        chance = random.Random(1).randbytes
        self.key = KeyPair.generate(chance).public
        self.meter = RelayMeter(chance)
        self.distance = {NEAR: 0.010, FAR: 0.080, SIX: 0.020}
        self.now = 1000.0
        self.probes: list[Endpoint] = []
        self.told: list[dict[Endpoint, int]] = []

    def relays(self, *endpoints: Endpoint) -> list[RelayAddress]:
        return [RelayAddress(self.key, [endpoint.encode()]) for endpoint in endpoints]

    def reply(self, datagram: bytes) -> bytes:
        reply = RelayProbeReply(RelayProbe.decode(datagram).nonce, ME, 0, NO_TICKET)
        return write_probe_reply(reply, mac1_key(self.key))

    def run(self, seconds: float) -> None:
        end = self.now + seconds
        flying: list[tuple[float, bytes, Endpoint]] = []
        while True:
            flying.sort(key=lambda one: one[0])
            event = min(self.meter.next_deadline(), flying[0][0] if flying else math.inf)
            if event > end:
                self.now = end
                return
            self.now = event
            if flying and flying[0][0] == event:
                _, datagram, source = flying.pop(0)
                self.meter.receive_datagram(datagram, source, self.now)
            elif self.meter.handle_timeout(self.now):
                self.told.append({Endpoint.decode(one.endpoint): one.milliseconds for one in self.meter.tell()})
            for datagram, endpoint in self.meter.datagrams_to_send():
                self.probes.append(endpoint)
                if endpoint in self.distance:
                    flying.append((self.now + self.distance[endpoint], self.reply(datagram), endpoint))


def test_after_a_registration_each_relay_is_probed_and_the_round_trips_are_told_once() -> None:
    world = World()
    world.meter.aim(world.relays(NEAR, FAR), BOTH, world.now)
    world.run(60)
    assert world.told == [{NEAR: 10, FAR: 80}]
    assert world.probes == [NEAR, FAR] * RELAY_PROBE_COUNT


def test_a_dual_stack_node_measures_one_endpoint_of_each_family() -> None:
    world = World()
    relay = RelayAddress(world.key, [endpoint.encode() for endpoint in (NEAR, FAR, SIX)])
    world.meter.aim([relay], BOTH, world.now)
    world.run(60)
    assert world.told == [{NEAR: 10, SIX: 20}]
    world.meter.aim([relay], (AF_INET6,), world.now)
    world.run(60)
    assert world.told[1:] == [{SIX: 20}]


def test_a_relay_that_does_not_answer_is_told_as_such() -> None:
    world = World()
    del world.distance[FAR]
    world.meter.aim(world.relays(NEAR, FAR), BOTH, world.now)
    world.run(60)
    assert world.told == [{NEAR: 10, FAR: UNANSWERED}]


def test_rounds_go_on_every_few_minutes_and_only_what_has_changed_is_told() -> None:
    world = World()
    world.meter.aim(world.relays(NEAR, FAR), BOTH, world.now)
    world.run(2 * RELAY_MEASURE_INTERVAL)
    assert len(world.probes) in range(4 * RELAY_PROBE_COUNT, 8 * RELAY_PROBE_COUNT)
    assert len(world.told) == 1
    world.distance[NEAR] = 0.012
    world.run(2 * RELAY_MEASURE_INTERVAL)
    assert len(world.told) == 1
    world.distance[NEAR] = 0.050
    world.run(2 * RELAY_MEASURE_INTERVAL)
    assert world.told[1:] == [{NEAR: 50, FAR: 80}]


def test_a_cloud_that_names_other_relays_at_every_turn_is_followed_slowly_but_a_move_at_once() -> None:
    world = World()
    for turn in range(20):
        world.meter.aim(world.relays(NEAR if turn % 2 else FAR), BOTH, world.now)
        world.run(2)
    assert len(world.probes) <= 3 * RELAY_PROBE_COUNT
    before = len(world.probes)
    world.meter.moved(world.now)
    world.run(2)
    assert len(world.probes) == before + RELAY_PROBE_COUNT


def test_without_relays_nothing_is_sent() -> None:
    world = World()
    world.meter.aim([], BOTH, world.now)
    world.meter.moved(world.now)
    assert world.meter.next_deadline() == math.inf


def test_a_reply_from_elsewhere_twice_or_damaged_is_dropped() -> None:
    world = World()
    world.meter.aim(world.relays(NEAR, FAR), BOTH, world.now)
    world.now = world.meter.next_deadline()
    world.meter.handle_timeout(world.now)
    (near, _), _ = world.meter.datagrams_to_send()
    reply = world.reply(near)
    for datagram, source, reason in (
        (reply, SIX, "unknown_relay"),
        (reply, FAR, "unknown_transaction"),
        (reply[:-1] + bytes([reply[-1] ^ 1]), NEAR, "bad_mac1"),
    ):
        with pytest.raises(DropError, match=reason):
            world.meter.receive_datagram(datagram, source, world.now)
    world.meter.receive_datagram(reply, NEAR, world.now)
    with pytest.raises(DropError, match="unknown_transaction"):
        world.meter.receive_datagram(reply, NEAR, world.now)
