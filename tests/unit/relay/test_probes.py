from __future__ import annotations

import random
import socket
from collections import Counter

from cyphonic.protocol.keys import KeyPair
from cyphonic.protocol.limits import PROBE_TICKET_SLOT
from cyphonic.protocol.mac import mac1_key
from cyphonic.protocol.probe import read_probe_reply, write_probe
from cyphonic.relay.bindings import Way
from cyphonic.relay.probes import SOURCE_BURST, ProbeAnswer, ProbeResponder
from cyphonic.wire.endpoint import Endpoint
from cyphonic.wire.probe import NO_TICKET, RelayProbe

WALL = 1_700_000_000.0
NODE = Way(Endpoint("198.51.100.1", 4000), "192.0.2.9")
OTHER_NODE = Way(Endpoint("198.51.100.1", 4001), "192.0.2.9")
NONCE = b"n" * 16


class World:
    def __init__(self, rate: float = 0.0) -> None:
        chance = random.Random(1).randbytes
        self.key = KeyPair.generate(chance)
        self.mac1_key = mac1_key(self.key.public)
        self.now = 100.0
        self.drops: Counter[str] = Counter()
        self.one, self.two = (
            ProbeResponder(self.key, chance, self.drops, {socket.AF_INET: port}, rate=rate) for port in (7001, 7002)
        )

    def ask(self, probe: RelayProbe, source: Way = NODE, *, two: bool = False) -> ProbeAnswer | None:
        datagram = write_probe(probe, self.mac1_key)
        answer = (self.two if two else self.one).receive(datagram, source, self.now, WALL + self.now)
        assert answer is None or len(answer.datagram) <= len(datagram)
        return answer

    def ticket(self, source: Way = NODE) -> bytes:
        answer = self.ask(RelayProbe(NONCE), source)
        assert answer is not None
        return read_probe_reply(answer.datagram, self.mac1_key).ticket


def test_a_probe_is_answered_with_its_nonce_and_where_it_came_from() -> None:
    world = World()
    answer = world.ask(RelayProbe(NONCE))
    assert answer is not None
    reply = read_probe_reply(answer.datagram, world.mac1_key)
    assert (reply.nonce, reply.observed, reply.other_port) == (NONCE, NODE.remote, 7001)
    assert (answer.way, answer.other_port) == (NODE, False)


def test_the_reply_comes_from_the_other_port_when_that_is_asked_for() -> None:
    world = World()
    answer = world.ask(RelayProbe(NONCE, other_port=True))
    assert answer is not None
    assert answer.other_port
    assert read_probe_reply(answer.datagram, world.mac1_key).from_other_port
    six = Way(Endpoint("2001:db8::1", 4000), "2001:db8::9")
    assert world.ask(RelayProbe(NONCE, other_port=True), six) is None
    assert world.drops == {"no_other_port": 1}


def test_another_relay_of_the_site_answers_to_an_endpoint_that_has_a_ticket() -> None:
    world = World()
    ticket = world.ticket()
    answer = world.ask(RelayProbe(NONCE, elsewhere=NODE.remote, ticket=ticket), OTHER_NODE, two=True)
    assert answer is not None
    assert answer.way.remote == NODE.remote
    assert read_probe_reply(answer.datagram, world.mac1_key).observed == OTHER_NODE.remote


def test_nobody_can_be_made_a_target_without_having_listened_a_moment_ago() -> None:
    world = World()
    ticket = world.ticket()
    victim = Endpoint("203.0.113.1", 53)
    assert world.ask(RelayProbe(NONCE, elsewhere=victim, ticket=ticket)) is None
    assert world.ask(RelayProbe(NONCE, elsewhere=victim, ticket=NO_TICKET)) is None
    assert world.ask(RelayProbe(NONCE, elsewhere=NODE.remote, ticket=ticket)) is not None
    world.now += 2 * PROBE_TICKET_SLOT
    assert world.ask(RelayProbe(NONCE, elsewhere=NODE.remote, ticket=ticket)) is None
    assert world.drops == {"bad_ticket": 3}


def test_a_reply_that_goes_elsewhere_bears_no_ticket_for_the_one_who_asked() -> None:
    """The asker's address may be forged: its ticket would let the receiver aim at it."""
    world = World()
    answer = world.ask(RelayProbe(NONCE, elsewhere=NODE.remote, ticket=world.ticket()), OTHER_NODE)
    assert answer is not None
    assert read_probe_reply(answer.datagram, world.mac1_key).ticket == NO_TICKET


def test_a_ticket_does_not_send_a_reply_to_the_other_family() -> None:
    world = World()
    six = Way(Endpoint("2001:db8::1", 4000), "2001:db8::9")
    assert world.ask(RelayProbe(NONCE, elsewhere=six.remote, ticket=world.ticket(six))) is None
    assert world.drops == {"no_socket": 1}


def test_probes_are_answered_at_a_limited_rate() -> None:
    world = World(rate=10.0)
    answered = [world.ask(RelayProbe(NONCE)) is not None for _ in range(15)]
    assert answered == [True] * 10 + [False] * 5
    world.now += 0.2
    assert world.ask(RelayProbe(NONCE)) is not None
    assert world.drops == {"control_overload": 5}


def test_one_source_does_not_take_the_relay_from_others() -> None:
    world = World()
    answered = [world.ask(RelayProbe(NONCE)) is not None for _ in range(1000)]
    assert sum(answered) == SOURCE_BURST
    assert world.ask(RelayProbe(NONCE), Way(Endpoint("198.51.100.2", 4000), "192.0.2.9")) is not None
    assert set(world.drops) == {"source_rate"}


def test_a_flipped_bit_is_met_with_silence() -> None:
    world = World()
    datagram = write_probe(RelayProbe(NONCE), world.mac1_key)
    for bit in range(8 * len(datagram)):
        damaged = bytearray(datagram)
        damaged[bit // 8] ^= 1 << bit % 8
        assert world.one.receive(bytes(damaged), NODE, world.now, WALL) is None
    assert sum(world.drops.values()) == 8 * len(datagram)
    assert world.drops["bad_mac2"] == 128
