"""Driving a revocation, in virtual time."""

import random
from collections.abc import Callable

from cyphonic.admin.revocation import PATIENCE, REPEAT, Drive, drive, seal_order
from cyphonic.protocol.distribution import open_distribution
from cyphonic.protocol.keys import KeyPair
from cyphonic.wire.revocation import RevocationOrder
from cyphonic.workers import revocation, setting

REVOKED, NEAR, FAR, ASLEEP = (bytes([number]) * 16 for number in range(4))


class Cloud:
    """A clock, and peers that acknowledge after so many orders."""

    def __init__(self, acknowledge_after: dict[bytes, int]) -> None:
        self.time = 100.0
        self.orders = 0
        self._after = acknowledge_after

    def now(self) -> float:
        return self.time

    def sleep(self, seconds: float) -> None:
        self.time += seconds

    def order(self) -> None:
        self.orders += 1

    def pending(self) -> set[bytes]:
        return {node_id for node_id, after in self._after.items() if self.orders < after}

    def run(self, online: Callable[[bytes], bool] = lambda node_id: node_id != ASLEEP) -> Drive:
        return drive(self.order, self.pending, online, self)


def test_the_order_is_repeated_until_all_have_acknowledged() -> None:
    cloud = Cloud({REVOKED: 1, NEAR: 2, FAR: 5})
    assert cloud.run() == Drive(frozenset({REVOKED, NEAR, FAR}), frozenset(), frozenset())
    assert cloud.orders == 5
    assert cloud.time == 100.0 + 5 * REPEAT


def test_a_peer_that_never_answers_is_named_after_ten_seconds() -> None:
    cloud = Cloud({NEAR: 1, FAR: 10**9})
    assert cloud.run() == Drive(frozenset({NEAR}), frozenset({FAR}), frozenset())
    assert cloud.time == 100.0 + PATIENCE


def test_nobody_waits_for_a_peer_that_is_offline() -> None:
    cloud = Cloud({NEAR: 1, ASLEEP: 10**9})
    assert cloud.run() == Drive(frozenset({NEAR}), frozenset(), frozenset({ASLEEP}))
    assert cloud.orders == 1


def test_a_node_without_live_peers_costs_no_order() -> None:
    cloud = Cloud({})
    assert cloud.run() == Drive(frozenset(), frozenset(), frozenset())
    assert cloud.orders == 0


def test_a_worker_opens_our_orders_as_it_opens_those_of_other_workers() -> None:
    chance = random.Random(1).randbytes
    nms = KeyPair.generate(chance)
    own = setting.ManagementKeys(nms, b"", b"", b"")
    theirs = revocation.order(own, REVOKED, chance).datagram
    for job in (theirs, seal_order(nms, REVOKED, chance)):
        header, body = open_distribution(job, nms, nms.public)
        assert body == RevocationOrder(REVOKED)
        assert header.transaction_id == REVOKED
