from __future__ import annotations

import random

import pytest

from cyphonic.protocol.binding import Binding
from cyphonic.protocol.buckets import TokenBucket
from cyphonic.protocol.keys import KeyPair
from cyphonic.protocol.limits import BINDING_IDLE, CHALLENGE_SLOT, TOKEN_LIFETIME
from cyphonic.protocol.token import seal_token
from cyphonic.relay.bindings import BindingLimits, BindingTable, Way
from cyphonic.wire.direction import RelayGrant, Role
from cyphonic.wire.endpoint import Endpoint
from cyphonic.wire.header import MessageType, encode_relayed
from cyphonic.wire.relay import RelayToken

WALL = 1_700_000_000.0
RELAY_ENDPOINT = Endpoint("192.0.2.9", 7703)
INITIATOR = Way(Endpoint("198.51.100.1", 4000), "192.0.2.9")
RESPONDER = Way(Endpoint("2001:db8::2", 5000), "2001:db8::9")


class World:
    """A relay, an NMS that grants, and clocks."""

    def __init__(self, limits: BindingLimits | None = None, seed: int = 1) -> None:
        self.chance = random.Random(seed).randbytes
        self.nms = KeyPair.generate(self.chance)
        self.relay = KeyPair.generate(self.chance)
        self.table = BindingTable(self.relay, self.nms.public, self.chance, limits or BindingLimits())
        self.now = 1000.0
        self.path_id = self.chance(16)

    @property
    def wall(self) -> float:
        return WALL + self.now

    def grant(self, role: Role, path_id: bytes | None = None, rate: int = 0) -> RelayGrant:
        bind_key = self.chance(32)
        expires = int(self.wall + TOKEN_LIFETIME)
        token = RelayToken(path_id or self.path_id, role, bind_key, expires, rate)
        sealed = seal_token(token, self.nms, self.relay.public, self.chance)
        return RelayGrant(self.relay.public, [RELAY_ENDPOINT.encode()], sealed, bind_key)

    def binding(self, role: Role, path_id: bytes | None = None, rate: int = 0) -> Binding:
        grant = self.grant(role, path_id, rate)
        return Binding(grant, path_id or self.path_id, role, RELAY_ENDPOINT, self.chance)

    def receive(self, datagram: bytes, source: Way) -> bytes | None:
        return self.table.receive(datagram, source, self.now, self.wall)

    def converse(self, binding: Binding, source: Way) -> list[bytes]:
        """Carry datagrams both ways until both are silent; what the node sent."""
        sent = []
        while outgoing := binding.datagrams_to_send():
            for datagram, endpoint in outgoing:
                assert endpoint == RELAY_ENDPOINT
                sent.append(datagram)
                answer = self.receive(datagram, source)
                if answer is not None:
                    assert len(answer) <= len(datagram)
                    binding.receive_datagram(answer, RELAY_ENDPOINT, self.now)
        return sent

    def bind(self, role: Role, source: Way, **options: int) -> Binding:
        binding = self.binding(role, **options)  # type: ignore[arg-type]
        binding.start(self.now)
        self.converse(binding, source)
        return binding

    def forward(self, index: int | None, source: Way, size: int = 100) -> Way | None:
        assert index is not None
        return self.table.forward(encode_relayed(index), source.remote, size, 1, self.now)


def joined() -> tuple[World, Binding, Binding]:
    world = World()
    initiator = world.bind(Role.INITIATOR, INITIATOR)
    responder = world.bind(Role.RESPONDER, RESPONDER)
    assert initiator.bound
    assert responder.bound
    return world, initiator, responder


def test_both_roles_share_one_nonzero_index_and_are_joined_across_families() -> None:
    world, initiator, responder = joined()
    assert initiator.relay_index == responder.relay_index != 0
    assert world.forward(initiator.relay_index, INITIATOR) == RESPONDER
    assert world.forward(responder.relay_index, RESPONDER) == INITIATOR
    assert world.table.joined_paths == 1


def test_the_node_learns_how_the_relay_sees_it() -> None:
    _, initiator, responder = joined()
    assert initiator.observed == INITIATOR.remote
    assert responder.observed == RESPONDER.remote


def test_a_third_source_with_the_right_index_is_dropped() -> None:
    world, initiator, _ = joined()
    assert world.forward(initiator.relay_index, Way(Endpoint("203.0.113.7", 4000), "")) is None
    assert world.table.drops["not_bound"] == 1


def test_a_lone_role_has_nowhere_to_send() -> None:
    world = World()
    initiator = world.bind(Role.INITIATOR, INITIATOR)
    assert world.forward(initiator.relay_index, INITIATOR) is None
    assert world.table.drops["peer_not_bound"] == 1


def test_there_is_no_state_before_the_address_is_proved() -> None:
    world = World()
    binding = world.binding(Role.INITIATOR)
    binding.start(world.now)
    [(request, _)] = binding.datagrams_to_send()
    challenge = world.receive(request, INITIATOR)
    assert challenge is not None
    assert len(world.table) == 0


def test_a_challenge_answered_from_another_address_is_dropped() -> None:
    world = World()
    binding = world.binding(Role.INITIATOR)
    binding.start(world.now)
    [(request, _)] = binding.datagrams_to_send()
    challenge = world.receive(request, INITIATOR)
    assert challenge is not None
    binding.receive_datagram(challenge, RELAY_ENDPOINT, world.now)
    [(answer, _)] = binding.datagrams_to_send()
    assert world.receive(answer, RESPONDER) is None
    assert world.table.drops["bad_challenge"] == 1
    assert len(world.table) == 0


@pytest.mark.parametrize(("slots", "valid"), [(1, True), (2, False)])
def test_a_challenge_holds_in_its_slot_and_the_next(slots: int, valid: bool) -> None:
    world = World()
    binding = world.binding(Role.INITIATOR)
    binding.start(world.now)
    [(request, _)] = binding.datagrams_to_send()
    challenge = world.receive(request, INITIATOR)
    assert challenge is not None
    binding.receive_datagram(challenge, RELAY_ENDPOINT, world.now)
    [(answer, _)] = binding.datagrams_to_send()
    world.now += slots * CHALLENGE_SLOT
    assert (world.receive(answer, INITIATOR) is not None) == valid


def test_the_same_answer_again_gets_the_same_relay_bound() -> None:
    world = World()
    binding = world.binding(Role.INITIATOR)
    binding.start(world.now)
    *_, answer = world.converse(binding, INITIATOR)
    first = world.receive(answer, INITIATOR)
    assert first is not None
    assert first == world.receive(answer, INITIATOR)
    assert len(world.table) == 1


def test_a_flipped_bit_anywhere_gets_nothing() -> None:
    world = World()
    binding = world.binding(Role.INITIATOR)
    binding.start(world.now)
    request, answer = world.converse(binding, INITIATOR)
    fresh = World()
    for datagram in (request, answer):
        for position in range(len(datagram)):
            flipped = bytearray(datagram)
            flipped[position] ^= 0x10
            assert fresh.receive(bytes(flipped), INITIATOR) is None
    assert len(fresh.table) == 0


def test_a_token_for_another_path_or_role_is_refused() -> None:
    world = World()
    grant = world.grant(Role.INITIATOR)
    for path_id, role in ((world.chance(16), Role.INITIATOR), (world.path_id, Role.RESPONDER)):
        binding = Binding(grant, path_id, role, RELAY_ENDPOINT, world.chance)
        binding.start(world.now)
        world.converse(binding, INITIATOR)
        assert not binding.bound
    assert world.table.drops["token_mismatch"] == 2


def test_an_expired_token_binds_nothing_new() -> None:
    world = World()
    binding = world.binding(Role.INITIATOR)
    world.now += TOKEN_LIFETIME
    binding.start(world.now)
    world.converse(binding, INITIATOR)
    assert not binding.bound
    assert world.table.drops["token_expired"] == 1


def test_an_expired_token_renews_a_living_binding_from_a_new_address() -> None:
    world, initiator, responder = joined()
    moved = Way(Endpoint("203.0.113.50", 9000), "192.0.2.9")
    for _ in range(3):
        world.now += BINDING_IDLE / 2
        world.forward(initiator.relay_index, INITIATOR)
        world.forward(responder.relay_index, RESPONDER)
    initiator.rebind(world.now)
    assert initiator.bound
    world.converse(initiator, moved)
    assert world.forward(responder.relay_index, RESPONDER) == moved
    assert world.forward(initiator.relay_index, moved) == RESPONDER
    assert world.forward(initiator.relay_index, INITIATOR) is None


def test_an_old_generation_moves_nobody_back() -> None:
    world = World()
    binding = world.binding(Role.INITIATOR)
    binding.start(world.now)
    *_, old_answer = world.converse(binding, INITIATOR)
    binding.rebind(world.now)
    moved = Way(Endpoint("203.0.113.50", 9000), "192.0.2.9")
    world.converse(binding, moved)
    assert world.receive(old_answer, INITIATOR) is None
    assert world.table.drops["stale_generation"] == 1


def test_another_bind_key_does_not_take_over_a_living_binding() -> None:
    world = World()
    first = world.bind(Role.INITIATOR, INITIATOR)
    second = world.binding(Role.INITIATOR)
    second.rebind(world.now)
    second.rebind(world.now)
    world.converse(second, RESPONDER)
    assert first.bound
    assert not second.bound
    assert world.table.drops["other_bind_key"] == 1


def test_an_idle_role_is_forgotten_and_its_peer_is_told_by_silence() -> None:
    world, initiator, responder = joined()
    world.now += BINDING_IDLE / 2
    world.forward(responder.relay_index, RESPONDER)
    world.now += BINDING_IDLE / 2
    world.table.handle_timeout(world.now)
    assert len(world.table) == 1
    assert world.forward(initiator.relay_index, INITIATOR) is None
    assert world.forward(responder.relay_index, RESPONDER) is None
    assert world.table.drops["peer_not_bound"] == 1
    world.now += BINDING_IDLE
    world.table.handle_timeout(world.now)
    assert len(world.table) == 0
    assert world.table.next_deadline() is None


def test_the_table_is_bounded() -> None:
    world = World(BindingLimits(max_bindings=2))
    for number in range(3):
        binding = world.binding(Role.INITIATOR, path_id=bytes([number] * 16))
        binding.start(world.now)
        world.converse(binding, Way(Endpoint("198.51.100.1", 4000 + number), ""))
        assert binding.bound == (number < 2)
    assert world.table.drops["too_many_bindings"] == 1


def test_draining_keeps_and_renews_what_lives_but_adds_nothing() -> None:
    world = World()
    initiator = world.bind(Role.INITIATOR, INITIATOR)
    world.table.draining = True
    responder = world.bind(Role.RESPONDER, RESPONDER)
    assert not responder.bound
    assert world.table.drops["draining"] == 1
    initiator.rebind(world.now)
    world.converse(initiator, INITIATOR)
    assert world.table.drops["draining"] == 1


def test_a_rate_is_kept_and_recovers() -> None:
    world = World()
    initiator = world.bind(Role.INITIATOR, INITIATOR, rate=1_000_000)
    world.bind(Role.RESPONDER, RESPONDER)
    burst = 250_000
    assert world.forward(initiator.relay_index, INITIATOR, burst) == RESPONDER
    assert world.forward(initiator.relay_index, INITIATOR, 1000) is None
    assert world.table.drops["rate_limited"] == 1
    world.now += 0.01
    assert world.forward(initiator.relay_index, INITIATOR, 1000) == RESPONDER


def test_one_source_cannot_be_both_ends() -> None:
    world = World()
    world.bind(Role.INITIATOR, INITIATOR)
    responder = world.bind(Role.RESPONDER, INITIATOR)
    assert not responder.bound
    assert world.table.drops["both_roles_one_source"] == 1


def flooded(limits: BindingLimits) -> World:
    """A relay that has just had more requests than it opens."""
    world = World(limits)
    for number in range(int(limits.control_rate)):
        world.binding(Role.INITIATOR, path_id=bytes([number] * 16)).start(world.now)
        binding = world.binding(Role.INITIATOR, path_id=bytes([number] * 16))
        binding.start(world.now)
        [(request, _)] = binding.datagrams_to_send()
        assert world.receive(request, Way(Endpoint(f"203.0.113.{number}", 1), "")) is not None
    assert world.table.loaded(world.now)
    return world


def test_a_loaded_relay_opens_no_token_of_a_stranger_but_asks_for_a_cookie() -> None:
    world = flooded(BindingLimits(control_rate=4))
    binding = world.binding(Role.INITIATOR)
    binding.start(world.now)
    [(request, _)] = binding.datagrams_to_send()
    reply = world.receive(request, INITIATOR)
    assert reply is not None
    assert reply[0] == MessageType.COOKIE_REPLY
    assert len(reply) <= len(request)
    assert len(world.table) == 0


def test_a_node_binds_at_a_loaded_relay_with_the_cookie_it_is_given() -> None:
    world = flooded(BindingLimits(control_rate=4))
    world.now += 1
    binding = world.binding(Role.INITIATOR)
    binding.start(world.now)
    sent = world.converse(binding, INITIATOR)
    assert binding.bound
    bare, dressed, answer = sent
    assert bare[:-16] == dressed[:-16]
    assert bare[-16:] == bytes(16) != dressed[-16:]
    assert answer[-16:] != bytes(16)


def test_a_cookie_for_one_source_is_none_for_another() -> None:
    world = flooded(BindingLimits(control_rate=4))
    binding = world.binding(Role.INITIATOR)
    binding.start(world.now)
    [(request, _)] = binding.datagrams_to_send()
    reply = world.receive(request, INITIATOR)
    assert reply is not None
    binding.receive_datagram(reply, RELAY_ENDPOINT, world.now)
    [(dressed, _)] = binding.datagrams_to_send()
    assert world.receive(dressed, RESPONDER) is None
    assert world.table.drops == {"bad_mac2": 1}


def test_cookies_are_given_at_a_rate() -> None:
    world = flooded(BindingLimits(control_rate=4, cookie_rate=40))
    given = world.table.cookies_sent
    for _ in range(5):
        binding = world.binding(Role.INITIATOR)
        binding.start(world.now)
        world.receive(binding.datagrams_to_send()[0][0], INITIATOR)
    assert (given, world.table.cookies_sent) == (2, 4)
    assert world.table.drops == {"needs_cookie": 3}


def test_with_cookies_one_source_still_has_its_rate_and_no_more() -> None:
    world = flooded(BindingLimits(control_rate=20, source_rate=1))
    world.now += 1
    binding = world.binding(Role.INITIATOR)
    binding.start(world.now)
    world.converse(binding, INITIATOR)
    assert binding.bound, "a bind and an answer"
    binding.rebind(world.now)
    world.converse(binding, INITIATOR)
    assert world.table.drops == {"source_rate": 1}


def test_a_relay_is_loaded_until_it_has_been_calm_for_five_seconds() -> None:
    world = flooded(BindingLimits(control_rate=4))
    assert world.table.loaded(world.now + 4.9)
    assert not world.table.loaded(world.now + 5.1)


@pytest.mark.parametrize("datagram", [b"", b"\x11", b"\x11" * 88, b"\x20" * 200, b"\x12" * 200])
def test_noise_is_counted_and_unanswered(datagram: bytes) -> None:
    world = World()
    assert world.receive(datagram, INITIATOR) is None
    assert sum(world.table.drops.values()) == 1


def test_a_bucket_without_a_rate_never_refuses() -> None:
    assert TokenBucket(0, 0).take(10**9, 0.0)
