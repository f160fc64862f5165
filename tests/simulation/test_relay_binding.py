"""Binding at a relay over a network that loses, repeats, delays, reorders and cuts, in virtual time."""

from __future__ import annotations

import heapq
import random

import pytest

from cyphonic.errors import DropError
from cyphonic.protocol.binding import Binding
from cyphonic.protocol.keys import KeyPair
from cyphonic.protocol.limits import BINDING_IDLE, GIVE_UP_AFTER, TOKEN_LIFETIME
from cyphonic.protocol.token import seal_token
from cyphonic.relay.bindings import BindingTable, Way
from cyphonic.wire.direction import RelayGrant, Role
from cyphonic.wire.endpoint import Endpoint
from cyphonic.wire.header import encode_relayed
from cyphonic.wire.relay import RelayToken

SEEDS = 500
RELAY = Endpoint("192.0.2.9", 7703)
WALL = 1_700_000_000.0
LOSS, REPEAT, CUT = 0.3, 0.2, 0.05


class Net:
    """One relay, two nodes, one clock."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        chance = self.random.randbytes
        nms, relay = KeyPair.generate(chance), KeyPair.generate(chance)
        self.table = BindingTable(relay, nms.public, chance)
        self.now = 0.0
        path_id = chance(16)
        self.sources = {
            Role.INITIATOR: Endpoint("198.51.100.1", 1000),
            Role.RESPONDER: Endpoint("2001:db8::2", 2000),
        }
        self.bindings = {}
        for role in Role:
            bind_key = chance(32)
            token = RelayToken(path_id, role, bind_key, int(WALL + TOKEN_LIFETIME), 0)
            grant = RelayGrant(
                relay.public, [RELAY.encode()], seal_token(token, nms, relay.public, chance), bind_key
            )
            self.bindings[role] = Binding(grant, path_id, role, RELAY, chance)
        self.events: list[tuple[float, int, Role, Endpoint | None, bytes]] = []
        self.order = 0

    def carry(self, role: Role, source: Endpoint | None, datagram: bytes) -> None:
        """From ``source`` to the relay, or from the relay to the node of ``role``."""
        if self.random.random() < LOSS:
            return
        for _ in range(2 if self.random.random() < REPEAT else 1):
            cut = self.random.random() < CUT
            arriving = datagram[: self.random.randrange(len(datagram))] if cut else datagram
            self.order += 1
            at = self.now + self.random.expovariate(1 / 0.1)
            heapq.heappush(self.events, (at, self.order, role, source, arriving))

    def flush(self) -> None:
        for role, binding in self.bindings.items():
            for datagram, _ in binding.datagrams_to_send():
                self.carry(role, self.sources[role], datagram)

    def deliver(self, role: Role, source: Endpoint | None, datagram: bytes) -> None:
        if source is not None:
            answer = self.table.receive(datagram, Way(source, ""), self.now, WALL + self.now)
            # A node that has moved hears nothing at its old address.
            if answer is not None and source == self.sources[role]:
                self.carry(role, None, answer)
            return
        try:
            self.bindings[role].receive_datagram(datagram, RELAY, self.now)
        except DropError:
            return

    def run(self, until: float) -> None:
        while True:
            self.flush()
            deadlines = [deadline for binding in self.bindings.values() if (deadline := binding.next_deadline())]
            at = min([*deadlines, *(event[0] for event in self.events[:1])], default=until)
            if at >= until:
                self.now = until
                return
            self.now = max(self.now, at)
            while self.events and self.events[0][0] <= self.now:
                _, _, role, source, datagram = heapq.heappop(self.events)
                self.deliver(role, source, datagram)
            for binding in self.bindings.values():
                binding.handle_timeout(self.now)

    def check_joined(self) -> None:
        initiator, responder = self.bindings[Role.INITIATOR], self.bindings[Role.RESPONDER]
        assert initiator.relay_index is not None
        assert initiator.relay_index == responder.relay_index
        header = encode_relayed(initiator.relay_index)
        for role, other in ((Role.INITIATOR, Role.RESPONDER), (Role.RESPONDER, Role.INITIATOR)):
            way = self.table.forward(header, self.sources[role], 100, 1, self.now)
            assert way is not None
            assert way.remote == self.sources[other]


@pytest.mark.parametrize("first_seed", range(0, SEEDS, 50))
def test_a_binding_ends_bound_or_given_up_and_both_ends_agree(first_seed: int) -> None:
    joined = 0
    for seed in range(first_seed, first_seed + 50):
        net = Net(seed)
        for binding in net.bindings.values():
            binding.start(0.0)
        net.run(GIVE_UP_AFTER + 2)
        assert all(binding.bound or binding.failed for binding in net.bindings.values()), seed
        assert len(net.table) <= 2, seed
        if all(binding.bound for binding in net.bindings.values()):
            net.check_joined()
            joined += 1
    assert joined > 25


@pytest.mark.parametrize("first_seed", range(0, SEEDS, 50))
def test_a_move_is_followed_or_given_up_and_nobody_is_moved_back(first_seed: int) -> None:
    for seed in range(first_seed, first_seed + 50):
        net = Net(seed)
        for binding in net.bindings.values():
            binding.start(0.0)
        net.run(GIVE_UP_AFTER + 2)
        if not all(binding.bound for binding in net.bindings.values()):
            continue
        net.sources[Role.INITIATOR] = Endpoint("203.0.113.7", 3000)
        net.bindings[Role.INITIATOR].rebind(net.now)
        net.run(net.now + GIVE_UP_AFTER + 2)
        if net.bindings[Role.INITIATOR].bound:
            net.check_joined()
        net.run(BINDING_IDLE / 3)
        assert len(net.table) <= 2, seed
