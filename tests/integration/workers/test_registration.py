"""Registration, keepalive, leave and the renewal of common keys, over a real Redis."""

from __future__ import annotations

import pytest

from cyphonic.protocol.limits import COMMON_KEY_LIFETIME
from cyphonic.state import registry
from cyphonic.state.store import Store
from cyphonic.wire.endpoint import Endpoint
from cyphonic.wire.header import MessageType, SignalingHeader
from cyphonic.wire.job import Job, Origin
from cyphonic.wire.registration import Leave
from tests.region import NMS_ENDPOINT, FakeNode, Region

ELSEWHERE = Endpoint("203.0.113.7", 61000)
HERE_6 = Endpoint("2001:db8::a", 4000)


@pytest.fixture
def region(store: Store) -> Region:
    return Region(store)


def observed(region: Region, name: str = "alice") -> dict[int, Endpoint]:
    status = registry.show_node(region.store, name)
    assert status is not None
    return {family: lease.observed for family, lease in status.leases.items()}


def test_a_registration_says_where_the_node_was_seen_and_whom_to_use(region: Region) -> None:
    node = FakeNode(region, "alice", ELSEWHERE)
    node.log_in(region.enrolment_key())
    response = node.register()
    assert response.observed == ELSEWHERE.encode()
    assert response.virtual_ipv4 == node.certificate.virtual_ipv4
    assert response.time == int(region.wall * 1000)
    assert response.nms_endpoints[0] == NMS_ENDPOINT.encode()
    assert [relay.public_key for relay in response.relays] == [region.relay_key.public]


def test_each_family_has_a_lease_of_its_own(region: Region) -> None:
    node = region.node("alice")
    node.register(HERE_6)
    assert observed(region) == {4: node.endpoint, 6: HERE_6}


def test_a_keepalive_from_another_address_moves_the_lease(region: Region) -> None:
    node = region.node("alice")
    ack = node.keep_alive(ELSEWHERE)
    assert (ack.registered, ack.observed) == (True, ELSEWHERE.encode())
    assert observed(region) == {4: ELSEWHERE}


def test_a_replay_moves_nobody_from_whichever_family_it_comes(region: Region) -> None:
    node = region.node("alice")
    old = node.keepalive()
    region.run(old)
    registration = node.registration()
    region.run(registration)
    for replayed in (old, registration):
        for source in (ELSEWHERE, HERE_6):
            route = type(old.route)(*NMS_ENDPOINT, *source)
            region.run(Job(replayed.datagram, Origin.UDP, route))
    assert observed(region) == {4: node.endpoint}


def test_a_replay_makes_no_lease_after_the_lease_has_ended(region: Region) -> None:
    node = region.node("alice")
    registration = node.registration()
    region.run(registration)
    region.store.run(("DEL", b"nms:lease:4:" + node.node_id))
    assert region.run(registration) == []
    assert observed(region) == {}


def test_a_duplicate_is_answered_from_the_lease(region: Region) -> None:
    node = region.node("alice")
    keepalive = node.keepalive(ELSEWHERE)
    first, second = region.run(keepalive), region.run(keepalive)
    assert len(first) == len(second) == 1
    assert observed(region) == {4: ELSEWHERE}


def test_dual_stack_registrations_may_overtake_each_other(region: Region) -> None:
    node = region.node("alice")
    first, second = node.registration(HERE_6), node.registration()
    assert len(region.run(second)) == len(region.run(first)) == 1
    assert observed(region) == {4: node.endpoint, 6: HERE_6}


def test_a_lost_lease_is_told_by_the_keepalive_and_heals_without_login(region: Region) -> None:
    node = region.node("alice")
    region.store.run(("DEL", b"nms:lease:4:" + node.node_id))
    assert not node.keep_alive().registered
    node.register()
    assert node.keep_alive().registered


def test_a_lease_ends_by_itself(region: Region) -> None:
    node = region.node("alice")
    assert 0 < region.store.run(("TTL", b"nms:lease:4:" + node.node_id)) <= 75


def test_leave_ends_the_leases_of_both_families(region: Region) -> None:
    node = region.node("alice")
    node.register(HERE_6)
    before = node.keepalive()
    node.counter += 1
    region.run(node.job(MessageType.LEAVE, Leave(node.counter)))
    region.run(before)
    assert observed(region) == {}
    node.register()
    assert observed(region) == {4: node.endpoint}


def test_an_unknown_node_and_an_unknown_key_are_hinted_at(region: Region) -> None:
    node = region.node("alice")
    unknown = FakeNode(region, "bob", ELSEWHERE, login=node.login, node_id=b"\x01" * 16)
    for job in (unknown.keepalive(), unknown.keepalive()):
        (send,) = region.run(job)
        assert SignalingHeader.decode(send.datagram).type is MessageType.KEY_UNKNOWN
        assert len(send.datagram) <= len(job.datagram)
    assert region.drops["unknown_node"] == 2


def test_hints_are_rate_limited(region: Region) -> None:
    node = region.node("alice")
    unknown = FakeNode(region, "bob", ELSEWHERE, login=node.login, node_id=b"\x01" * 16)
    outcome = region.handle([unknown.keepalive() for _ in range(200)])
    assert len(outcome.sends) == 50
    assert outcome.drops["unknown_node"] == 200


def test_a_forged_message_is_dropped_in_silence(region: Region) -> None:
    node = region.node("alice")
    job = node.keepalive()
    forged = job.datagram[:-1] + bytes([job.datagram[-1] ^ 1])
    assert region.run(Job(forged, Origin.UDP, job.route)) == []
    assert region.drops["bad_seal"] == 1


def test_the_old_key_works_until_the_new_one_is_used_and_a_minute_longer(region: Region) -> None:
    node = region.node("alice")
    old = node.login
    node.log_in()
    new = node.login

    def alive(counter: int) -> bool:
        node.counter = counter
        return any(
            SignalingHeader.decode(send.datagram).type is not MessageType.KEY_UNKNOWN
            for send in region.run(node.keepalive())
        )

    node.login = old
    assert alive(10)
    node.login = new
    assert alive(1)
    node.login = old
    region.wall += 59
    # Accepted as a key; but its counters are older than those of the new one, and so move nothing.
    region.drops.clear()
    assert not alive(20)
    assert region.drops["stale_counter"] == 1
    region.wall += 2
    assert not alive(21)
    assert region.drops["unknown_key"] == 1


def test_a_common_key_ends_after_a_day(region: Region) -> None:
    node = region.node("alice")
    region.wall += COMMON_KEY_LIFETIME + 61
    region.run(node.keepalive())
    assert region.drops["unknown_key"] == 1


def test_a_certificate_of_another_node_is_refused(region: Region) -> None:
    alice, bob = region.node("alice"), region.node("bob", "198.51.100.2")
    assert alice.login is not None
    alice.login = type(alice.login)(
        **{field: getattr(alice.login, field) for field in alice.login.__struct_fields__}
        | {"certificate": bob.login.certificate if bob.login else b""}
    )
    assert region.run(alice.registration()) == []
    assert region.drops["foreign_certificate"] == 1


def test_a_revoked_node_is_out_at_once(region: Region) -> None:
    node = region.node("alice")
    registry.revoke_node(region.store, node.node_id.hex(), wall=region.wall)
    for job in (node.keepalive(), node.registration()):
        region.run(job)
    assert region.drops["revoked"] == 2


def test_one_bad_message_does_not_spoil_its_batch(region: Region) -> None:
    node = region.node("alice")
    good, route = node.keepalive(), node.keepalive().route
    bad = [Job(datagram, Origin.UDP, route) for datagram in (b"", b"\x32", good.datagram[:50], b"\xff" * 100)]
    internal = Job(b"\x50" + good.datagram[1:], Origin.UDP, route)
    outcome = region.handle([*bad, internal, good])
    assert len(outcome.sends) == 1
    assert outcome.drops.total() == 5
    assert outcome.drops["wrong_origin"] == 1


def test_a_restart_of_redis_between_messages_is_not_noticed(region: Region, redis_server: object) -> None:
    node = region.node("alice")
    redis_server.restart()  # type: ignore[attr-defined]
    assert node.keep_alive().registered
