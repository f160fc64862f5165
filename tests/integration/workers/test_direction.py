"""Direction, confirmation and revocation, over a real Redis."""

from __future__ import annotations

import os

import pytest

from cyphonic.protocol.certificate import read_certificate
from cyphonic.protocol.token import open_token
from cyphonic.state import registry
from cyphonic.state.fleet import Fleet, RelayMember
from cyphonic.state.store import Store
from cyphonic.wire.direction import DirectionRefused, FirstPath, RefusalReason, Role, RouteDirection
from cyphonic.wire.endpoint import Endpoint
from cyphonic.wire.header import MAX_CONTROL_DATAGRAM, MessageType
from cyphonic.wire.job import Job, Send
from cyphonic.wire.registration import UNANSWERED
from cyphonic.wire.revocation import PathRevocation, PathRevocationAck
from tests.redis_server import RedisServer
from tests.region import NMS_ENDPOINT, NMS_ENDPOINT_6, FakeNode, Region

BOB = "bob.home.cyphonic.internal"
ZERO = bytes(16)


@pytest.fixture
def region(store: Store) -> Region:
    return Region(store)


@pytest.fixture
def alice(region: Region) -> FakeNode:
    return region.node("alice", "198.51.100.1")


@pytest.fixture
def bob(region: Region) -> FakeNode:
    return region.node("bob", "198.51.100.2")


def establish(region: Region, alice: FakeNode, bob: FakeNode, job: Job) -> tuple[RouteDirection, RouteDirection]:
    """What responder and initiator are told."""
    (to_bob,) = region.run(job)
    for_bob = bob.read_direction(to_bob)
    (to_alice,) = region.run(bob.confirmation(for_bob))
    return for_bob, alice.read_direction(to_alice)


def refusal(region: Region, alice: FakeNode, job: Job) -> DirectionRefused:
    (send,) = region.run(job)
    return alice.read(send, MessageType.DIRECTION_REFUSED, DirectionRefused)


def test_both_ends_are_told_of_one_path(region: Region, alice: FakeNode, bob: FakeNode) -> None:
    (to_bob,) = region.run(alice.direction(BOB))
    assert to_bob.route == type(to_bob.route)(*NMS_ENDPOINT, *bob.endpoint)
    for_bob = bob.read_direction(to_bob)
    (to_alice,) = region.run(bob.confirmation(for_bob))
    for_alice = alice.read_direction(to_alice)
    assert for_bob.path_id == for_alice.path_id
    assert for_bob.path_key == for_alice.path_key
    assert (for_bob.role, for_alice.role) == (Role.RESPONDER, Role.INITIATOR)
    assert (for_bob.first_path, for_alice.first_path) == (FirstPath.DIRECT, FirstPath.DIRECT)
    assert for_bob.candidates == [alice.endpoint.encode()]
    assert for_alice.candidates == [bob.endpoint.encode()]
    assert for_alice.handle == ZERO != for_bob.handle
    certificates = [read_certificate(one.certificate, region.as_signing.public) for one in (for_bob, for_alice)]
    assert [certificate.node_id for certificate in certificates] == [alice.node_id, bob.node_id]


@pytest.mark.parametrize("family", ["virtual_ipv4", "virtual_ipv6"])
def test_a_virtual_address_serves_as_well_as_a_name(
    region: Region, alice: FakeNode, bob: FakeNode, family: str
) -> None:
    job = alice.direction(address=getattr(bob.certificate, family))
    assert establish(region, alice, bob, job)[1].path_id != ZERO


def test_names_are_compared_as_dns_does(region: Region, alice: FakeNode, bob: FakeNode) -> None:
    establish(region, alice, bob, alice.direction("BOB.Home.Cyphonic.Internal."))


def test_both_ends_hold_grants_for_the_same_relay_and_not_each_others(
    region: Region, alice: FakeNode, bob: FakeNode
) -> None:
    told = establish(region, alice, bob, alice.direction(BOB))
    tokens = [open_token(one.relays[0].token, region.relay_key, region.nms_key.public) for one in told]
    assert [token.role for token in tokens] == [Role.RESPONDER, Role.INITIATOR]
    assert [token.bind_key for token in tokens] == [one.relays[0].bind_key for one in told]
    assert tokens[0].bind_key != tokens[1].bind_key
    assert {token.path_id for token in tokens} == {told[0].path_id}


def test_without_a_relay_there_is_still_a_direction(region: Region, alice: FakeNode, bob: FakeNode) -> None:
    region.fleet = Fleet(region.fleet.frontends)
    assert establish(region, alice, bob, alice.direction(BOB))[0].relays == []


def test_a_pending_request_is_answered_by_the_same_message_to_the_responder(
    region: Region, alice: FakeNode, bob: FakeNode
) -> None:
    job = alice.direction(BOB)
    told = [bob.read_direction(send) for _ in range(3) for send in region.run(job)]
    assert len({(one.handle, one.path_id, one.path_key) for one in told}) == 1
    assert len({one.relays[0].bind_key for one in told}) == 1


def test_a_finished_request_is_answered_from_what_was_saved(region: Region, alice: FakeNode, bob: FakeNode) -> None:
    job = alice.direction(BOB)
    _, for_alice = establish(region, alice, bob, job)
    (again,) = region.run(job)
    assert alice.read_direction(again).path_key == for_alice.path_key
    registry.show_node(region.store, "bob")
    region.store.run(("DEL", b"nms:lease:4:" + bob.node_id))
    (late,) = region.run(job)
    assert alice.read_direction(late).path_key == for_alice.path_key


def test_a_repeated_confirmation_tells_the_initiator_again(region: Region, alice: FakeNode, bob: FakeNode) -> None:
    (to_bob,) = region.run(alice.direction(BOB))
    confirmation = bob.confirmation(bob.read_direction(to_bob))
    paths = {alice.read_direction(send).path_id for _ in range(3) for send in region.run(confirmation)}
    assert len(paths) == 1


def test_the_answer_goes_by_the_route_of_the_last_duplicate(region: Region, alice: FakeNode, bob: FakeNode) -> None:
    job = alice.direction(BOB)
    (to_bob,) = region.run(job)
    moved = Endpoint("203.0.113.9", 7)
    region.run(Job(job.datagram, job.origin, type(job.route)(*NMS_ENDPOINT_6, *moved)))
    (to_alice,) = region.run(bob.confirmation(bob.read_direction(to_bob)))
    assert (to_alice.route.node_host, to_alice.route.node_port) == moved
    assert to_alice.route.service_host == NMS_ENDPOINT_6.host


def test_only_the_named_responder_confirms_and_only_with_the_handle(
    region: Region, alice: FakeNode, bob: FakeNode
) -> None:
    carol = region.node("carol", "198.51.100.3")
    (to_bob,) = region.run(alice.direction(BOB))
    direction = bob.read_direction(to_bob)
    assert region.run(carol.confirmation(direction)) == []
    assert region.drops["wrong_responder"] == 1
    guessed = RouteDirection(
        **{field: getattr(direction, field) for field in direction.__struct_fields__} | {"handle": os.urandom(16)}
    )
    assert region.run(bob.confirmation(guessed)) == []
    assert region.drops["no_transaction"] == 1


def test_unknown_names_and_ones_own_are_refused(region: Region, alice: FakeNode) -> None:
    for name in ("nobody.home.cyphonic.internal", "alice.home.cyphonic.internal", ""):
        assert refusal(region, alice, alice.direction(name)).reason == RefusalReason.UNKNOWN_NAME


def test_an_offline_node_is_refused_but_its_addresses_are_told(
    region: Region, alice: FakeNode, bob: FakeNode
) -> None:
    region.store.run(("DEL", b"nms:lease:4:" + bob.node_id))
    refused = refusal(region, alice, alice.direction(BOB))
    assert (refused.reason, refused.fqdn) == (RefusalReason.OFFLINE, BOB)
    assert refused.virtual_ipv6 == bob.certificate.virtual_ipv6
    assert refused.virtual_ipv4 == bob.certificate.virtual_ipv4


def test_a_lease_that_was_not_refreshed_is_offline(region: Region, alice: FakeNode, bob: FakeNode) -> None:
    region.wall += 76
    assert alice.keep_alive().registered
    assert refusal(region, alice, alice.direction(BOB)).reason == RefusalReason.OFFLINE
    assert bob.keep_alive().registered
    establish(region, alice, bob, alice.direction(BOB))


@pytest.mark.parametrize("offset", [-20.5, 10.5])
def test_a_request_of_another_time_is_stale(region: Region, alice: FakeNode, bob: FakeNode, offset: float) -> None:
    refused = refusal(region, alice, alice.direction(BOB, time=region.wall + offset))
    assert refused.reason == RefusalReason.STALE
    assert refused.time == int(region.wall * 1000)


def test_a_late_duplicate_meets_the_saved_transaction_not_a_refusal(
    region: Region, alice: FakeNode, bob: FakeNode
) -> None:
    job = alice.direction(BOB)
    _, for_alice = establish(region, alice, bob, job)
    region.wall += 25
    (again,) = region.run(job)
    assert alice.read_direction(again).path_id == for_alice.path_id


def test_the_first_path_follows_from_where_both_are(region: Region, alice: FakeNode, bob: FakeNode) -> None:
    alice.register(Endpoint("203.0.113.7", 61000), [Endpoint("192.168.1.5", 4000)])
    alice.endpoint = Endpoint("203.0.113.7", 61000)
    bob.register(Endpoint("203.0.113.8", 61000), [Endpoint("192.168.1.6", 4000)])
    for_bob, for_alice = establish(region, alice, bob, alice.direction(BOB))
    assert for_bob.first_path == for_alice.first_path == FirstPath.RELAYED
    assert for_alice.candidates == [Endpoint("203.0.113.8", 61000).encode()]


def test_the_relays_of_a_path_are_those_between_its_two_ends(
    region: Region, alice: FakeNode, bob: FakeNode
) -> None:
    """Each end's nearest is far from the other; the third is not; a fourth answers nobody; the fifth is full."""
    relays = [
        RelayMember(f"r{number}", region.relay_key.public, [Endpoint(f"192.0.2.{number}", 1)], load)
        for number, load in enumerate((0.0, 0.0, 0.5, 0.0, 1.0))
    ]
    region.fleet = Fleet(region.fleet.frontends, [], relays)
    for node, figures in ((alice, (5, 300, 40, UNANSWERED, 1)), (bob, (250, 5, 60, 1, 1))):
        trips = {relay.endpoints[0]: figure for relay, figure in zip(relays, figures, strict=True)}
        region.run(node.registration(round_trips=trips))
    told = establish(region, alice, bob, alice.direction(BOB))
    for one in told:
        assert [Endpoint.decode(grant.endpoints[0]).host for grant in one.relays] == ["192.0.2.2", "192.0.2.0"]


def test_families_that_do_not_meet_are_relayed(region: Region, alice: FakeNode) -> None:
    six = FakeNode(region, "six", Endpoint("2001:db8::a", 4000))
    six.log_in(region.enrolment_key())
    six.register()
    for_six, _ = establish(region, alice, six, alice.direction("six.home.cyphonic.internal"))
    assert for_six.first_path == FirstPath.RELAYED_ONLY
    assert len(for_six.relays) == 1


def test_no_datagram_is_longer_than_its_limit(region: Region, store: Store) -> None:
    relays = [
        RelayMember(f"r{index}", os.urandom(32), [Endpoint(f"2001:db8::{index}:{port}", 1) for port in range(4)])
        for index in range(4)
    ]
    region.fleet = Fleet(region.fleet.frontends, [], relays)
    many = [Endpoint(f"2001:db8:1::{index}", 4000) for index in range(1, 9)]
    names = ["a" * 63, "b" * 63]
    nodes = [FakeNode(region, name, Endpoint(f"2001:db8:2::{name[0]}", 1)) for name in names]
    for node in nodes:
        node.log_in(region.enrolment_key())
        (send,) = region.run(node.registration(candidates=many))
        assert len(send.datagram) <= MAX_CONTROL_DATAGRAM
    (send,) = region.run(nodes[0].direction(f"{names[1]}.home.cyphonic.internal"))
    assert len(send.datagram) <= MAX_CONTROL_DATAGRAM
    assert nodes[1].read_direction(send).candidates


def test_a_direction_is_finished_by_workers_and_a_redis_that_were_not_there(
    region: Region, alice: FakeNode, bob: FakeNode, redis_server: RedisServer
) -> None:
    (to_bob,) = region.run(alice.direction(BOB))
    region.workers = [region.dispatcher()]
    redis_server.restart()
    (to_alice,) = region.run(bob.confirmation(bob.read_direction(to_bob)))
    assert alice.read_direction(to_alice).role == Role.INITIATOR


def test_a_revoked_node_is_reached_no_more_and_its_peers_are_told_until_they_acknowledge(
    region: Region, alice: FakeNode, bob: FakeNode
) -> None:
    establish(region, alice, bob, alice.direction(BOB))
    pending = alice.direction(BOB)
    (to_bob,) = region.run(pending)
    registry.revoke_node(region.store, "bob", wall=region.wall)
    assert refusal(region, alice, alice.direction(BOB)).reason == RefusalReason.UNKNOWN_NAME
    assert refusal(region, alice, pending).reason == RefusalReason.UNKNOWN_NAME
    region.run(bob.confirmation(bob.read_direction(to_bob)))
    assert region.drops["revoked"] == 1

    assert registry.pending_revocation_acks(region.store, bob.node_id) == {alice.node_id, bob.node_id}
    for node, send in zip((alice, bob), told_of_revocation(region, alice, bob), strict=True):
        body = node.read(send, MessageType.PATH_REVOCATION, PathRevocation)
        assert (body.node_id, body.generation) == (bob.node_id, 1)
        region.run(node.job(MessageType.PATH_REVOCATION_ACK, PathRevocationAck(bob.node_id), bob.node_id))
    assert registry.pending_revocation_acks(region.store, bob.node_id) == set()
    region.wall += 10
    assert region.store.run(registry.due_revocations(region.wall)) == []


def told_of_revocation(region: Region, alice: FakeNode, bob: FakeNode) -> list[Send]:
    assert region.store.run(registry.due_revocations(region.wall)) == [bob.node_id]
    assert region.store.run(registry.due_revocations(region.wall)) == []
    sends = region.run(*region.workers[0].revocation_orders([bob.node_id]))
    by_host = {send.route.node_host: send for send in sends}
    return [by_host[alice.endpoint.host], by_host[bob.endpoint.host]]


def test_peers_of_a_deleted_node_are_told_too(region: Region, alice: FakeNode, bob: FakeNode) -> None:
    establish(region, alice, bob, alice.direction(BOB))
    registry.delete_node(region.store, BOB, wall=region.wall)
    sends = region.run(*region.workers[0].revocation_orders([bob.node_id]))
    assert [alice.read(send, MessageType.PATH_REVOCATION, PathRevocation).node_id for send in sends] == [
        bob.node_id
    ]


def test_one_that_cannot_be_told_keeps_nobody_else_waiting(region: Region, alice: FakeNode, bob: FakeNode) -> None:
    establish(region, alice, bob, alice.direction(BOB))
    registry.revoke_node(region.store, BOB, wall=region.wall)
    offline = [bytes([0, *number.to_bytes(15, "big")]) for number in range(600)]
    region.store.run(("SADD", b"nms:revocation:" + bob.node_id, *offline))
    region.store.run(("HDEL", b"nms:node:" + bob.node_id, "current"))
    sends = region.run(*region.workers[0].revocation_orders([bob.node_id]))
    assert [send.route.node_host for send in sends] == [alice.endpoint.host]


def test_secrets_are_nowhere_in_redis(region: Region, alice: FakeNode, bob: FakeNode) -> None:
    for_bob, _ = establish(region, alice, bob, alice.direction(BOB))
    assert alice.login is not None
    secrets = [for_bob.path_key, alice.login.common_key, for_bob.relays[0].bind_key]
    dump = b"".join(region.store.run(("DUMP", key)) for key in region.store.run(("KEYS", "*")))
    values = [
        region.store.run(("HGETALL", key))
        for key in region.store.run(("KEYS", "*"))
        if region.store.run(("TYPE", key)) == b"hash"
    ]
    flat = dump + b"".join(field for value in values for field in value)
    assert not [secret for secret in secrets if secret in flat]
