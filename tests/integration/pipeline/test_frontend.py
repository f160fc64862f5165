"""A whole frontend: real UDP, ZeroMQ and Redis; the test turns its loop."""

import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import pytest

from cyphonic.errors import ConfigurationError, OperationalError
from cyphonic.frontend.config import FrontendSection
from cyphonic.frontend.gate import pack_source
from cyphonic.frontend.process import advertised, open_frontend
from cyphonic.frontend.server import FrontendServer
from cyphonic.lifecycle import Lifeline, StopSignal
from cyphonic.pipeline import Context, FrontendAddress, WorkerPipe, ipc_endpoint, new_context
from cyphonic.protocol.cookie import add_mac2, cookie_key, open_cookie
from cyphonic.protocol.mac import append_macs, mac1_key
from cyphonic.site import Site, SiteKeys, create_keys
from cyphonic.state.fleet import read_fleet
from cyphonic.state.store import Store
from cyphonic.udp import Arrival, UdpSocket
from cyphonic.wire.endpoint import Endpoint
from cyphonic.wire.header import MessageType, SignalingHeader
from cyphonic.wire.job import Batch, Origin, Send
from tests.redis_server import RedisServer

PATIENCE = 10.0
HOSTS = [("0.0.0.0", "127.0.0.1", "127.0.0.9"), ("::", "::1", "::1")]


@pytest.fixture
def site(tmp_path: Path, redis_server: RedisServer) -> Site:
    create_keys(tmp_path / "keys", os.urandom)
    return Site(
        region="r1",
        domain="example",
        prefix_ipv6="fd00:1:2::/48",
        pool_ipv4="10.77.0.0/16",
        keys_dir=tmp_path / "keys",
        run_dir=tmp_path / "run",
        state_dir=tmp_path / "state",
        allow_loopback=True,
        redis_url=redis_server.config.url,
        redis_password_file=None,
    )


class Running:
    """A frontend whose loop turns whenever the test waits for something."""

    def __init__(self, site: Site, server: FrontendServer, port: int) -> None:
        self.site = site
        self.server = server
        self.port = port
        self.key = mac1_key(SiteKeys(site.keys_dir).nms_public())
        self.poller = select.epoll()
        for descriptor in (*server._doors, server._pipe.fd):
            self.poller.register(descriptor, select.EPOLLIN)

    def until(self, done: Callable[[], object]) -> None:
        deadline = time.monotonic() + PATIENCE
        while not done():
            assert time.monotonic() < deadline, "it did not happen"
            self.server.turn(self.poller)

    def request(self, kind: MessageType = MessageType.KEEP_ALIVE) -> bytes:
        header = SignalingHeader(kind, 1, os.urandom(16), os.urandom(16))
        return append_macs(header.encode() + bytes(64), self.key)


@contextmanager
def frontend(site: Site, host: str = "0.0.0.0", **settings: object) -> Iterator[Running]:
    probe = UdpSocket(Endpoint(host, 0))
    port = probe.endpoint.port
    probe.close()
    section = FrontendSection(as_listen=(), nms_listen=(Endpoint(host, port),), **settings)  # type: ignore[arg-type]
    with open_frontend(site, section, Lifeline({}), os.urandom) as server:
        running = Running(site, server, port)
        yield running
        running.poller.close()


@pytest.fixture
def context() -> Iterator[Context]:
    made = new_context()
    yield made
    made.term()


@contextmanager
def worker(running: Running, context: Context, name: str = "w") -> Iterator[WorkerPipe]:
    pipe = WorkerPipe(context, name, [0, 1], ipc_endpoint(running.site.pipeline_dir, f"w-{name}"))
    pipe.update_fleet([FrontendAddress(running.server.instance, running.server._pipe.endpoint, frozenset())], 0.0)
    running.until(lambda: name in running.server.credits.workers)
    yield pipe
    pipe.close()


def take(running: Running, pipe: WorkerPipe) -> list[Batch]:
    batches: list[Batch] = []
    running.until(lambda: batches.extend(pipe.poll(0.0, time.monotonic())) or batches)  # type: ignore[func-returns-value]
    return batches


@pytest.mark.parametrize(("wildcard", "local", "asked"), HOSTS)
def test_a_request_reaches_a_worker_and_the_answer_comes_from_the_address_that_was_asked(
    site: Site, context: Context, wildcard: str, local: str, asked: str
) -> None:
    node = UdpSocket(Endpoint(local, 0))
    with frontend(site, wildcard) as running, worker(running, context) as pipe:
        request = running.request()
        node.send(request, asked, running.port)
        batches = take(running, pipe)
        (job,) = batches[0].jobs
        assert (job.datagram, job.origin) == (request[:-32], Origin.UDP)
        assert (job.route.service_host, job.route.node_port) == (asked, node.endpoint.port)
        pipe.complete(batches, [Send(b"answer", job.route)])
        running.until(lambda: running.server.counts["sent"])
        (arrival,) = node.receive()
        assert (arrival.datagram, arrival.host, arrival.port) == (b"answer", asked, running.port)
    node.close()


def test_what_is_not_admitted_is_dropped_by_reason(site: Site) -> None:
    node = UdpSocket(Endpoint("127.0.0.1", 0))
    with frontend(site) as running:
        good = running.request()
        internal = running.request(MessageType.KEY_DISTRIBUTION_ACK)
        bad_mac = good[: -1 - 16] + bytes([good[-17] ^ 1]) + good[-16:]
        for datagram in (b"x", internal, bad_mac, b"\xee" + good[1:], running.request(MessageType.LOGIN_REQUEST)):
            node.send(datagram, "127.0.0.1", running.port)
        running.until(lambda: running.server.counts["received"] == 5)
        assert running.server.all_drops() == {
            "bad_length": 1,
            "internal_type": 1,
            "bad_mac1": 1,
            "unknown_type": 1,
            "wrong_service": 1,
        }
        assert len(running.server.queue) == 0
    node.close()


def test_without_a_worker_requests_wait_for_their_deadline_and_no_longer(site: Site) -> None:
    node = UdpSocket(Endpoint("127.0.0.1", 0))
    with frontend(site, queue=64, patience=0.05) as running:
        for _ in range(80):
            node.send(running.request(), "127.0.0.1", running.port)
        running.until(lambda: running.server.counts["received"] == 80)
        running.until(lambda: not len(running.server.queue))
        strangers = 64 // 2
        assert running.server.all_drops() == {"queue_full": 80 - strangers, "queue_deadline": strangers}
    node.close()


def test_a_worker_never_gets_more_than_it_granted_and_waiting_requests_become_large_batches(
    site: Site, context: Context
) -> None:
    node = UdpSocket(Endpoint("127.0.0.1", 0))
    with frontend(site) as running, worker(running, context) as pipe:
        for _ in range(150):
            node.send(running.request(), "127.0.0.1", running.port)
            running.server.turn(running.poller)
        running.until(lambda: running.server.counts["received"] == 150)
        first: list[Batch] = []
        while len(first) < 2:
            first += take(running, pipe)
        assert [batch.number for batch in first] == [1, 2]
        assert running.server.credits.workers["w"].room == 0
        pipe.complete(first)
        second = take(running, pipe)
        assert len(second[0].jobs) == 64
    node.close()


def test_a_forward_comes_back_as_a_job_from_the_pipeline(site: Site, context: Context) -> None:
    internal = SignalingHeader(MessageType.KEY_DISTRIBUTION, 0, bytes(16), bytes(16)).encode()
    with frontend(site) as running, worker(running, context) as pipe:
        pipe.complete([], [], [internal, running.request()])
        (job,) = take(running, pipe)[0].jobs
        assert (job.datagram, job.origin) == (internal, Origin.PIPELINE)
        assert running.server.drops == {"bad_forward": 1}, "a node's message is not forwarded in disguise"


WORKER_PROCESS = """
import sys, time
from pathlib import Path
from cyphonic.pipeline import FrontendAddress, WorkerPipe, ipc_endpoint, new_context
directory, name, instance, endpoint = sys.argv[1:]
pipe = WorkerPipe(new_context(), name, [0, 1], ipc_endpoint(Path(directory), "w-" + name))
pipe.update_fleet([FrontendAddress(instance, endpoint, frozenset())], 0.0)
while True:
    for batch in pipe.poll(0.1, time.monotonic()):
        print(batch.number, len(batch.jobs), flush=True)
"""


@contextmanager
def worker_process(running: Running, name: str) -> Iterator[subprocess.Popen[str]]:
    """It takes batches and never completes one."""
    server = running.server
    arguments = [str(running.site.pipeline_dir), name, server.instance, server._pipe.endpoint]
    process = subprocess.Popen(
        [sys.executable, "-c", WORKER_PROCESS, *arguments], stdout=subprocess.PIPE, text=True
    )
    try:
        running.until(lambda: name in server.credits.workers)
        yield process
    finally:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_what_a_dead_or_stopped_worker_has_in_hand_goes_once_to_another(
    site: Site, context: Context, number: signal.Signals
) -> None:
    node = UdpSocket(Endpoint("127.0.0.1", 0))
    with frontend(site) as running, worker_process(running, "victim") as victim:
        request = running.request()
        node.send(request, "127.0.0.1", running.port)
        running.until(lambda: running.server.credits.in_flight)
        assert victim.stdout is not None
        assert victim.stdout.readline() == "1 1\n"
        victim.send_signal(number)
        with worker(running, context, "heir") as heir:
            batches = take(running, heir)
            assert [job.datagram for batch in batches for job in batch.jobs] == [request[:-32]]
            heir.complete(batches)
            running.until(lambda: not running.server.credits.in_flight)
        assert running.server.credits.counts["redelivered"] == 1
        assert running.server.credits.counts["completed"] == 1
    node.close()


def test_it_announces_itself_and_withdraws(site: Site, store: Store) -> None:
    with frontend(site) as running:
        (member,) = read_fleet(store).frontends
        assert member.instance == running.server.instance
        assert Endpoint("127.0.0.1", running.port) in member.bound
        assert Endpoint("127.0.0.1", running.port) in member.nms_endpoints
        assert member.as_endpoints == []
    assert read_fleet(store).frontends == []


def test_it_drains_what_workers_have_in_hand_before_it_stops(site: Site, context: Context) -> None:
    node = UdpSocket(Endpoint("127.0.0.1", 0))
    with frontend(site) as running, worker(running, context) as pipe:
        node.send(running.request(), "127.0.0.1", running.port)
        batches = take(running, pipe)
        pipe.complete(batches, [Send(b"late", batches[0].jobs[0].route)])
        with StopSignal() as stop:
            stop.request()
            running.server.run(stop)
        assert node.receive()[0].datagram == b"late"
    node.close()


def test_redis_away_at_the_start_is_said_with_exit_code_4(site: Site, tmp_path: Path) -> None:
    broken = msgspec.structs.replace(site, redis_url=f"unix://{tmp_path}/absent.sock")
    with pytest.raises(OperationalError) as caught, frontend(broken):
        pass
    assert caught.value.exit_code == 4
    assert caught.value.hint


def test_missing_key_files_and_a_taken_port_are_said(site: Site) -> None:
    with frontend(site) as running:
        section = FrontendSection(as_listen=(), nms_listen=(Endpoint("0.0.0.0", running.port),), share_ports=False)
        with (
            pytest.raises(OperationalError, match="is taken"),
            open_frontend(site, section, Lifeline({}), os.urandom),
        ):
            pass
    (site.keys_dir / "nms.pub").unlink()
    with pytest.raises(ConfigurationError, match=r"nms\.pub") as caught, frontend(site):
        pass
    assert "cyphonic admin init" in caught.value.hint


def test_loopback_is_told_to_nodes_only_when_that_is_allowed() -> None:
    endpoints = [Endpoint("0.0.0.0", 7702), Endpoint("127.0.0.1", 7703), Endpoint("192.0.2.1", 7704)]
    told = advertised(endpoints, loopback=False)
    assert Endpoint("192.0.2.1", 7704) in told
    assert not [endpoint for endpoint in told if endpoint.host.startswith("127.")]
    assert Endpoint("127.0.0.1", 7703) in advertised(endpoints, loopback=True)


def heard(running: Running, node: UdpSocket) -> bytes:
    arrivals: list[Arrival] = []
    running.until(lambda: arrivals.extend(node.receive()) or arrivals)  # type: ignore[func-returns-value]
    return arrivals[0].datagram


def test_two_loaded_frontends_take_each_others_cookies(site: Site) -> None:
    key = cookie_key(SiteKeys(site.keys_dir).nms_public())
    with frontend(site) as one, frontend(site) as other:
        node = UdpSocket(Endpoint("127.0.0.1", 0))
        one.server.gate.gauge.overloaded(time.monotonic())
        request = one.request()
        node.send(request, "127.0.0.1", one.port)
        reply = heard(one, node)
        assert len(reply) <= len(request)
        other.server.gate.gauge.overloaded(time.monotonic())
        node.send(add_mac2(request, open_cookie(reply, request, key)), "127.0.0.1", other.port)
        other.until(lambda: len(other.server.queue))
        assert not other.server.drops
        assert one.server.drops == {"needs_cookie": 1}
        node.close()


def test_a_node_that_workers_answer_needs_no_cookie(site: Site, context: Context) -> None:
    node = UdpSocket(Endpoint("127.0.0.1", 0))
    answer = SignalingHeader(MessageType.KEEP_ALIVE_ACK, 1, bytes(16), bytes(16)).encode()
    with frontend(site) as running, worker(running, context) as pipe:
        node.send(running.request(), "127.0.0.1", running.port)
        batches = take(running, pipe)
        pipe.complete(batches, [Send(answer, batches[0].jobs[0].route)])
        assert heard(running, node) == answer
        running.server.gate.gauge.overloaded(time.monotonic())
        node.send(running.request(), "127.0.0.1", running.port)
        assert len(take(running, pipe)[0].jobs) == 1
    node.close()


def test_a_known_node_is_told_that_the_frontend_is_busy(site: Site) -> None:
    with frontend(site, patience=0.05) as running:
        node = UdpSocket(Endpoint("127.0.0.1", 0))
        running.server.gate.note_sent(MessageType.KEEP_ALIVE_ACK, pack_source(*node.endpoint), time.monotonic())
        request = running.request()
        node.send(request, "127.0.0.1", running.port)
        hint = heard(running, node)
        assert (hint[0], hint[8:40]) == (MessageType.BUSY, request[8:40])
        node.close()


def test_another_version_is_told_which_one_is_spoken_here(site: Site) -> None:
    with frontend(site) as running:
        node = UdpSocket(Endpoint("127.0.0.1", 0))
        request = running.request()
        node.send(request[:1] + b"\x02" + request[2:], "127.0.0.1", running.port)
        hint = heard(running, node)
        assert (hint[:4], hint[8:]) == (bytes((MessageType.VERSION_HINT, 2, 0, 1)), request[8:40])
        node.close()
