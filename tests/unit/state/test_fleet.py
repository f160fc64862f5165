"""Heartbeats."""

from __future__ import annotations

from cyphonic.state import keys
from cyphonic.state.fleet import (
    FrontendMember,
    RelayMember,
    WorkerMember,
    agree_on_cookie_secret,
    announce,
    read_fleet,
    withdraw,
)
from cyphonic.state.store import Store
from cyphonic.wire.endpoint import Endpoint

FRONTEND = FrontendMember("f1", "ipc:///x", b"", [Endpoint("192.0.2.1", 5350)], [], [Endpoint("192.0.2.1", 5350)])
RELAY = RelayMember("r1", bytes(32), [Endpoint("2001:db8::1", 5352)], 0.25)


def test_members_are_read_as_they_were_announced(store: Store) -> None:
    for member in (FRONTEND, RELAY, WorkerMember("w1", "ipc:///y", b"", [0, 1])):
        announce(store, member, 100.0)
    fleet = read_fleet(store, 101.0)
    assert fleet.frontends == [FRONTEND]
    assert fleet.relays == [RELAY]
    assert fleet.workers == [WorkerMember("w1", "ipc:///y", b"", [0, 1])]


def test_a_member_that_is_silent_for_five_seconds_is_gone(store: Store) -> None:
    announce(store, FRONTEND, 100.0)
    announce(store, RELAY, 103.0)
    fleet = read_fleet(store, 105.5)
    assert fleet.frontends == []
    assert fleet.relays == [RELAY]


def test_a_later_announcement_replaces_the_earlier(store: Store) -> None:
    announce(store, RELAY, 100.0)
    busier = RelayMember("r1", bytes(32), RELAY.endpoints, 0.75)
    announce(store, busier, 101.0)
    assert read_fleet(store, 101.0).relays == [busier]


def test_a_member_may_withdraw(store: Store) -> None:
    announce(store, RELAY)
    withdraw(store, "r1")
    assert read_fleet(store).relays == []


def test_without_a_time_redis_tells_it(store: Store) -> None:
    announce(store, RELAY)
    assert read_fleet(store).relays == [RELAY]


def test_frontends_agree_on_the_secret_that_was_proposed_first(store: Store) -> None:
    first, second = b"1" * 32, b"2" * 32
    assert agree_on_cookie_secret(store, first) == first
    assert agree_on_cookie_secret(store, second) == first
    assert agree_on_cookie_secret(store, first) == first


def test_after_a_loss_of_redis_the_next_heartbeat_restores_the_secret(store: Store) -> None:
    first = agree_on_cookie_secret(store, b"1" * 32)
    store.run(("FLUSHALL",))
    assert agree_on_cookie_secret(store, first) == first


def test_the_secret_of_a_fleet_that_is_gone_expires(store: Store) -> None:
    agree_on_cookie_secret(store, b"1" * 32)
    assert 0 < store.run(("TTL", keys.FLEET_COOKIE)) <= 3600
