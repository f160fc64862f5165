from __future__ import annotations

import random

import pytest

from cyphonic.errors import DropError
from cyphonic.protocol.binding import Binding, BindingState
from cyphonic.protocol.keys import KeyPair
from cyphonic.protocol.limits import CHALLENGE_SLOT, GIVE_UP_AFTER
from cyphonic.protocol.mac import mac
from cyphonic.wire.direction import RelayGrant, Role
from cyphonic.wire.endpoint import Endpoint
from cyphonic.wire.relay import NO_CHALLENGE, RelayBind, RelayBindChallenge, RelayBound

RELAY = Endpoint("192.0.2.9", 7703)
ELSEWHERE = Endpoint("192.0.2.10", 7703)
ME = Endpoint("198.51.100.1", 4000)
PATH = bytes(range(16))
CHALLENGE = b"c" * 16
LIFETIME = 300


def make_binding(seed: int = 1) -> Binding:
    chance = random.Random(seed).randbytes
    grant = RelayGrant(KeyPair.generate(chance).public, [RELAY.encode()], chance(120), chance(32))
    return Binding(grant, PATH, Role.RESPONDER, RELAY, chance)


def sent(binding: Binding) -> list[RelayBind]:
    outgoing = binding.datagrams_to_send()
    assert all(endpoint == RELAY for _, endpoint in outgoing)
    return [RelayBind.decode(datagram) for datagram, _ in outgoing]


def challenge(binding: Binding, generation: int, path_id: bytes = PATH) -> bytes:
    message = RelayBindChallenge(Role.RESPONDER, generation, path_id, CHALLENGE).encode()
    return message + mac(binding.grant.bind_key, message)


def bound(binding: Binding, generation: int, index: int = 77) -> bytes:
    message = RelayBound(Role.RESPONDER, generation, PATH, index, LIFETIME, ME).encode()
    return message + mac(binding.grant.bind_key, message)


def bind(binding: Binding, now: float = 0.0) -> None:
    binding.start(now)
    sent(binding)
    assert binding.receive_datagram(challenge(binding, binding.generation), RELAY, now)
    sent(binding)
    assert binding.receive_datagram(bound(binding, binding.generation), RELAY, now)


def test_four_datagrams_bind() -> None:
    binding = make_binding()
    binding.start(0.0)
    binding.start(0.0)
    [request] = sent(binding)
    assert request.challenge == NO_CHALLENGE
    assert binding.receive_datagram(challenge(binding, 1), RELAY, 0.1)
    [answer] = sent(binding)
    assert answer.challenge == CHALLENGE
    assert answer.token == request.token
    assert not binding.bound
    assert binding.receive_datagram(bound(binding, 1), RELAY, 0.2)
    assert binding.bound
    assert (binding.relay_index, binding.observed) == (77, ME)


def test_the_bind_is_resent_then_given_up() -> None:
    binding = make_binding()
    binding.start(0.0)
    copies = len(sent(binding))
    while (deadline := binding.next_deadline()) is not None:
        binding.handle_timeout(deadline)
        copies += len(sent(binding))
    assert copies == 5
    assert deadline is None
    assert binding.failed
    binding.handle_timeout(GIVE_UP_AFTER * 2)
    assert not sent(binding)


def test_a_lost_relay_bound_makes_the_answer_repeat_while_the_challenge_is_fresh() -> None:
    binding = make_binding()
    binding.start(0.0)
    binding.receive_datagram(challenge(binding, 1), RELAY, 0.1)
    sent(binding)
    binding.handle_timeout(0.6)
    [answer] = sent(binding)
    assert answer.challenge == CHALLENGE
    binding.handle_timeout(CHALLENGE_SLOT + 0.2)
    [request] = sent(binding)
    assert request.challenge == NO_CHALLENGE


def test_a_standing_binding_is_renewed_under_a_greater_generation_and_stays_usable() -> None:
    binding = make_binding()
    bind(binding)
    deadline = binding.next_deadline()
    assert deadline == LIFETIME / 2
    binding.handle_timeout(deadline)
    [request] = sent(binding)
    assert request.generation == 2
    assert binding.bound
    assert binding.relay_index == 77
    binding.receive_datagram(challenge(binding, 2), RELAY, deadline)
    binding.receive_datagram(bound(binding, 2, index=78), RELAY, deadline)
    assert binding.relay_index == 78


def test_a_renewal_that_nobody_answers_ends_the_binding() -> None:
    binding = make_binding()
    bind(binding)
    binding.rebind(10.0)
    binding.handle_timeout(10.0 + GIVE_UP_AFTER)
    assert binding.failed
    assert not binding.bound


def test_what_comes_from_elsewhere_or_for_another_path_is_left_alone() -> None:
    binding = make_binding()
    binding.start(0.0)
    assert not binding.receive_datagram(challenge(binding, 1), ELSEWHERE, 0.0)
    assert not binding.receive_datagram(challenge(binding, 1, path_id=bytes(16)), RELAY, 0.0)
    assert not binding.receive_datagram(b"\x04 a capsule", RELAY, 0.0)
    assert not binding.receive_datagram(b"", RELAY, 0.0)
    assert binding.state is BindingState.BINDING


@pytest.mark.parametrize(
    "forge",
    [
        lambda binding: challenge(binding, 2),
        lambda binding: bound(binding, 1)[:-1] + b"\x00",
        lambda binding: bound(binding, 1)[:-1],
        lambda binding: bound(binding, 1),
        lambda binding: challenge(binding, 1)[:-1],
    ],
    ids=["other generation", "bad proof", "cut", "before the challenge", "cut challenge"],
)
def test_what_does_not_fit_is_dropped_and_changes_nothing(forge) -> None:  # type: ignore[no-untyped-def]
    binding = make_binding()
    binding.start(0.0)
    sent(binding)
    with pytest.raises(DropError):
        binding.receive_datagram(forge(binding), RELAY, 0.0)
    assert binding.state is BindingState.BINDING
    assert not binding.bound
    assert not sent(binding)
