"""Login through dispatchers that take turns, over a real Redis."""

from __future__ import annotations

import ipaddress
import threading
from collections import Counter

import pytest

from cyphonic.protocol.keys import KeyPair
from cyphonic.state import registry
from cyphonic.state.store import Store
from cyphonic.wire.endpoint import Endpoint
from cyphonic.wire.login import LoginOutcome
from tests.redis_server import RedisServer
from tests.region import AS_ENDPOINT, FakeNode, Region, internal, make_site

HERE = Endpoint("198.51.100.1", 4000)


@pytest.fixture
def region(store: Store) -> Region:
    return Region(store)


def stranger(region: Region, name: str = "alice") -> FakeNode:
    return FakeNode(region, name, HERE)


def test_a_login_brings_a_key_a_certificate_and_where_to_go(region: Region) -> None:
    node = stranger(region)
    assert node.log_in(region.enrolment_key()) is LoginOutcome.ACCEPTED
    login, certificate = node.login, node.certificate
    assert login is not None
    assert certificate.fqdn == "alice.home.cyphonic.internal"
    assert certificate.static_key == node.static.public
    assert ipaddress.IPv6Address(certificate.virtual_ipv6) in ipaddress.ip_network(region.site.prefix_ipv6)
    assert ipaddress.IPv4Address(certificate.virtual_ipv4) in ipaddress.ip_network(region.site.pool_ipv4)
    assert login.nms_key == region.nms_key.public
    assert login.as_endpoints == [AS_ENDPOINT.encode()]
    assert len(login.nms_endpoints) == 2
    assert login.key_number == 1


def test_a_second_login_keeps_name_node_id_and_addresses(region: Region) -> None:
    node = stranger(region)
    node.log_in(region.enrolment_key())
    before = node.certificate
    assert node.log_in(name="another") is LoginOutcome.ACCEPTED
    after = node.certificate
    assert (after.fqdn, after.node_id) == (before.fqdn, before.node_id)
    assert (after.virtual_ipv6, after.virtual_ipv4) == (before.virtual_ipv6, before.virtual_ipv4)
    assert node.login is not None
    assert node.login.key_number == 2


def test_a_duplicate_at_any_point_gives_the_same_outcome(region: Region) -> None:
    node = stranger(region)
    initiator, job = node.login_job(region.enrolment_key())
    first = region.handle([job])
    again = region.handle([job])
    assert not first.sends
    assert not again.sends
    acks = [region.handle([internal(job)]).forwards[0] for job in (*first.forwards, *again.forwards)]
    answers = [send for ack in acks for send in region.handle([internal(ack)]).sends]
    answers += region.handle([job]).sends
    responses = [initiator.read_response(send.datagram) for send in answers]
    assert len(responses) == 3
    assert len({response.common_key for response in responses}) == 1
    assert len({response.certificate for response in responses}) == 1
    assert len(registry.list_nodes(region.store)) == 1


def test_the_answer_takes_the_route_of_the_last_duplicate(region: Region) -> None:
    node = stranger(region)
    _, job = node.login_job(region.enrolment_key())
    region.handle([job])
    node.endpoint = Endpoint("203.0.113.5", 999)
    moved = type(job)(job.datagram, job.origin, type(job.route)(*AS_ENDPOINT, *node.endpoint))
    (send,) = region.run(moved)
    assert (send.route.node_host, send.route.node_port) == node.endpoint


def test_a_replayed_login_with_an_old_stamp_is_dropped_and_cuts_nobody_off(region: Region) -> None:
    node = stranger(region)
    _, old = node.login_job(region.enrolment_key())
    region.run(old)
    node.log_in()
    node.register()
    region.store.run(("DEL", *region.store.run(("KEYS", "as:login:*"))))
    assert region.run(old) == []
    assert region.drops["stale_stamp"] == 1
    assert node.keep_alive().registered


@pytest.mark.parametrize("when", ["before distribution", "before ack", "before duplicate"])
def test_a_login_survives_a_restart_of_redis(region: Region, redis_server: RedisServer, when: str) -> None:
    node = stranger(region)
    initiator, job = node.login_job(region.enrolment_key())
    outcome = region.handle([job])
    if when == "before distribution":
        redis_server.restart()
    outcome = region.handle([internal(outcome.forwards[0])])
    if when == "before ack":
        redis_server.restart()
    outcome = region.handle([internal(outcome.forwards[0])])
    if when == "before duplicate":
        redis_server.restart()
        outcome = region.handle([job])
    assert initiator.read_response(outcome.sends[0].datagram).outcome == LoginOutcome.ACCEPTED


def test_a_login_is_finished_by_a_worker_that_was_not_there_when_it_began(region: Region) -> None:
    node = stranger(region)
    initiator, job = node.login_job(region.enrolment_key())
    outcome = region.handle([job])
    for _ in range(2):
        region.workers = [region.dispatcher()]
        outcome = region.handle([internal(outcome.forwards[0])])
    assert initiator.read_response(outcome.sends[0].datagram).outcome == LoginOutcome.ACCEPTED


def test_every_refusal_is_answered_with_its_reason(region: Region) -> None:
    def outcome(key: bytes, name: str = "bob") -> LoginOutcome:
        return stranger(region, name).log_in(key)

    taken, used = region.enrolment_key(), region.enrolment_key()
    stranger(region, "alice").log_in(used)
    expired = region.enrolment_key(expires_at=region.wall)
    revoked = region.enrolment_key()
    digest = registry.enrolment_digest(revoked)[:16].decode()
    registry.revoke_enrolment_key(region.store, digest)
    assert outcome(b"") is LoginOutcome.NOT_ENROLLED
    assert outcome(b"nonsense") is LoginOutcome.ENROLMENT_KEY_UNKNOWN
    assert outcome(expired) is LoginOutcome.ENROLMENT_KEY_EXPIRED
    assert outcome(revoked) is LoginOutcome.ENROLMENT_KEY_REVOKED
    assert outcome(used) is LoginOutcome.ENROLMENT_KEY_USED
    assert outcome(taken, "alice") is LoginOutcome.NAME_TAKEN
    assert outcome(taken, "-bad-") is LoginOutcome.NAME_INVALID
    assert outcome(taken) is LoginOutcome.ACCEPTED


def test_a_refused_stranger_leaves_no_state(region: Region) -> None:
    stranger(region).log_in(b"nonsense")
    assert region.store.run(("DBSIZE",)) == 0


def test_the_enrolment_key_may_fix_the_name(region: Region) -> None:
    node = stranger(region, "wanted")
    assert node.log_in(region.enrolment_key(name="printer")) is LoginOutcome.ACCEPTED
    assert node.certificate.fqdn == "printer.home.cyphonic.internal"


def test_a_reusable_key_enrols_many(region: Region) -> None:
    key = region.enrolment_key(uses=None)
    nodes = [stranger(region, f"node-{index}") for index in range(5)]
    assert {node.log_in(key) for node in nodes} == {LoginOutcome.ACCEPTED}
    assert len({node.certificate.virtual_ipv4 for node in nodes}) == 5


def test_the_same_static_key_may_repeat_its_one_time_key(region: Region) -> None:
    key = region.enrolment_key()
    node = stranger(region)
    assert node.log_in(key) is LoginOutcome.ACCEPTED
    assert node.log_in(key) is LoginOutcome.ACCEPTED


def test_a_revoked_node_is_refused_even_with_a_fresh_enrolment_key(region: Region) -> None:
    node = stranger(region)
    node.log_in(region.enrolment_key())
    assert registry.revoke_node(region.store, "alice", wall=region.wall) == node.node_id
    assert node.log_in() is LoginOutcome.NODE_REVOKED
    assert node.log_in(region.enrolment_key()) is LoginOutcome.NODE_REVOKED


def test_a_node_revoked_while_it_logs_in_is_refused(region: Region) -> None:
    node = stranger(region)
    initiator, job = node.login_job(region.enrolment_key())
    outcome = region.handle([job])
    registry.revoke_node(region.store, "alice", wall=region.wall)
    sends = region.run(internal(outcome.forwards[0]))
    assert initiator.read_response(sends[0].datagram).outcome == LoginOutcome.NODE_REVOKED


def test_a_deleted_node_frees_its_name_but_its_addresses_rest(store: Store) -> None:
    region = Region(store, make_site(pool_ipv4="10.77.0.0/29"))
    nodes = [stranger(region, f"node-{index}") for index in range(6)]
    assert {node.log_in(region.enrolment_key()) for node in nodes} == {LoginOutcome.ACCEPTED}
    late = stranger(region, "node-0")
    key = region.enrolment_key()
    assert late.log_in(key) is LoginOutcome.NAME_TAKEN
    assert registry.delete_node(store, "node-0", wall=region.wall) == nodes[0].node_id
    assert late.log_in(key) is LoginOutcome.ADDRESSES_EXHAUSTED
    region.wall += 24 * 3600 + 1
    assert late.log_in() is LoginOutcome.ACCEPTED
    assert late.certificate.virtual_ipv4 == nodes[0].certificate.virtual_ipv4


def test_a_deleted_node_does_not_come_back_by_its_old_key(region: Region) -> None:
    node = stranger(region)
    key = region.enrolment_key()
    node.log_in(key)
    registry.delete_node(region.store, "alice", wall=region.wall)
    assert node.log_in() is LoginOutcome.NOT_ENROLLED
    assert node.log_in(key) is LoginOutcome.ENROLMENT_KEY_USED


def _in_threads(region: Region, redis_server: RedisServer, nodes: list[FakeNode], key: bytes, threads: int) -> None:
    """Each thread has its own workers and connection; all begin together."""
    barrier = threading.Barrier(threads)

    def work(share: list[FakeNode]) -> None:
        with Store(redis_server.config) as store:
            own = Region(store, region.site)
            for name in ("as_key", "as_signing", "nms_key", "keys", "fleet"):
                setattr(own, name, getattr(region, name))
            own.workers = [own.dispatcher(), own.dispatcher()]
            for node in share:
                node.region = own
            barrier.wait()
            for node in share:
                outcomes[node.log_in(key)] += 1

    outcomes: Counter[LoginOutcome] = Counter()
    running = [threading.Thread(target=work, args=(nodes[index::threads],)) for index in range(threads)]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()
    region.drops.update({outcome.name: count for outcome, count in outcomes.items()})


def test_a_one_time_key_used_fifty_times_at_once_enrols_one_node(region: Region, redis_server: RedisServer) -> None:
    nodes = [stranger(region, f"node-{index}") for index in range(50)]
    _in_threads(region, redis_server, nodes, region.enrolment_key(), 10)
    assert region.drops == Counter({"ACCEPTED": 1, "ENROLMENT_KEY_USED": 49})
    assert len(registry.list_nodes(region.store)) == 1


def test_no_address_is_ever_given_twice_by_concurrent_workers(store: Store, redis_server: RedisServer) -> None:
    region = Region(store, make_site(pool_ipv4="10.77.0.0/26"))
    nodes = [stranger(region, f"node-{index}") for index in range(70)]
    _in_threads(region, redis_server, nodes, region.enrolment_key(uses=None), 6)
    assert region.drops == Counter({"ACCEPTED": 62, "ADDRESSES_EXHAUSTED": 8})
    admitted = [node for node in registry.list_nodes(store) if node.virtual_ipv4]
    assert len({node.virtual_ipv4 for node in admitted}) == len(admitted) == 62
    assert len({node.virtual_ipv6 for node in admitted}) == 62
    assert len({node.node_id for node in admitted}) == 62


def test_one_static_key_at_once_in_many_threads_is_one_node(region: Region, redis_server: RedisServer) -> None:
    static = KeyPair.generate(lambda length: b"\x42" * length)
    nodes = [FakeNode(region, "alice", HERE, static, stamp=10**18 + index) for index in range(12)]
    barrier = threading.Barrier(12)
    key = region.enrolment_key()

    def work(node: FakeNode) -> None:
        with Store(redis_server.config) as own:
            _, job = node.login_job(key)
            barrier.wait()
            worker = region.dispatcher()
            waiting = [job]
            while waiting:
                outcome = worker.handle(waiting, own, region.wall, region.fleet)
                waiting = [internal(job) for job in outcome.forwards]

    running = [threading.Thread(target=work, args=(node,)) for node in nodes]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()
    assert len(registry.list_nodes(region.store)) == 1
    assert int(region.store.run(("GET", "nms:ipv4:taken"))) == 1


def test_a_login_that_was_under_way_does_not_bring_half_of_a_deleted_node_back(region: Region) -> None:
    node = stranger(region)
    _, job = node.login_job(region.enrolment_key())
    outcome = region.handle([job])
    registry.delete_node(region.store, node.name, wall=region.wall)
    assert not region.handle([internal(outcome.forwards[0])]).forwards
    assert stranger(region, node.name).log_in(region.enrolment_key()) is LoginOutcome.ACCEPTED
