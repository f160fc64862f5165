"""Any worker finishes any transaction: real processes, real UDP, real Redis; workers die by kill -9."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from cyphonic.protocol.keys import KeyPair, SigningKeyPair
from cyphonic.protocol.mac import append_macs, mac1_key
from cyphonic.site import SiteKeys, create_keys
from cyphonic.state.fleet import read_fleet
from cyphonic.state.registry import create_enrolment_key
from cyphonic.state.store import Store
from cyphonic.wire.direction import Role
from cyphonic.wire.endpoint import Endpoint
from cyphonic.wire.job import Job, Send
from cyphonic.wire.login import LoginOutcome
from tests.redis_server import RedisServer
from tests.region import NOWHERE, FakeNode, Region

DEADLINE = 20.0


def free_ports(count: int) -> list[int]:
    sockets = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports: list[int] = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


class Cloud:
    """A frontend process, and as many worker processes as a test wants."""

    def __init__(self, directory: Path, redis: RedisServer) -> None:
        self.as_port, self.nms_port = free_ports(2)
        self._config = directory / "cloud.toml"
        create_keys(directory / "keys", os.urandom)
        self._config.write_text(
            f"""[site]
region = "home"
prefix_ipv6 = "fd12:3456:789a::/48"
keys_dir = "keys"
run_dir = "run"
allow_loopback = true
[redis]
url = "{redis.config.url}"
[frontend]
as_listen = ["127.0.0.1:{self.as_port}"]
nms_listen = ["127.0.0.1:{self.nms_port}"]
[worker]
processes = 1
threads = 1
"""
        )
        self._processes: list[subprocess.Popen[bytes]] = []
        self.start("frontend")

    def start(self, *arguments: str) -> subprocess.Popen[bytes]:
        argv = [sys.executable, "-m", "cyphonic", arguments[0], "--config", str(self._config), *arguments[1:]]
        process = subprocess.Popen(argv)
        self._processes.append(process)
        return process

    def kill_workers(self) -> None:
        """By kill -9: they say nothing any more."""
        for process in self._processes[1:]:
            process.send_signal(signal.SIGKILL)
            process.wait(DEADLINE)
        del self._processes[1:]

    def close(self) -> None:
        for process in reversed(self._processes):
            process.kill()
            process.wait(DEADLINE)


class UdpNode(FakeNode):
    """A node with a socket that sends again until it is answered."""

    udp: socket.socket

    def ask(self, cloud: Cloud, job: Job, meanwhile: Callable[[], bool] | None = None) -> bytes:
        """Send every half second until an answer, or until ``meanwhile`` is true."""
        login = job.datagram[0] == 0x20
        key = self.region.as_key.public if login else self.region.nms_key.public
        datagram = append_macs(job.datagram, mac1_key(key))
        there = ("127.0.0.1", cloud.as_port if login else cloud.nms_port)
        deadline = time.monotonic() + DEADLINE
        while time.monotonic() < deadline:
            self.udp.sendto(datagram, there)
            try:
                return self.udp.recv(2048)
            except TimeoutError:
                if meanwhile is not None and meanwhile():
                    return b""
        raise AssertionError("no answer")

    def join(self, cloud: Cloud, enrolment_key: bytes) -> None:
        initiator, job = self.login_job(enrolment_key)
        response = initiator.read_response(self.ask(cloud, job))
        assert self.accept(response) is LoginOutcome.ACCEPTED
        self.ask(cloud, self.registration())


@pytest.fixture
def cloud(redis_server: RedisServer) -> Iterator[Cloud]:
    with tempfile.TemporaryDirectory(prefix="cyphonic-") as directory:
        made = Cloud(Path(directory), redis_server)
        try:
            yield made
        finally:
            made.close()


@pytest.fixture
def region(store: Store, cloud: Cloud) -> Region:
    """Its public keys only: what it serves, the processes serve."""
    region = Region(store)
    files = SiteKeys(cloud._config.parent / "keys")
    region.as_key = KeyPair(b"", files.as_public())
    region.as_signing = SigningKeyPair(b"", files.as_verify_key(), b"")
    region.nms_key = KeyPair(b"", files.nms_public())
    region.wall = time.time()
    return region


@pytest.fixture
def nodes(region: Region) -> Iterator[Sequence[UdpNode]]:
    made = []
    for name in ("alice", "bob"):
        udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        udp.bind(("127.0.0.1", 0))
        udp.settimeout(0.5)
        node = UdpNode(region, name, Endpoint(*udp.getsockname()), stamp=time.time_ns())
        node.udp = udp
        made.append(node)
    yield made
    for node in made:
        node.udp.close()


def wait_for_services(store: Store, *services: int) -> None:
    deadline = time.monotonic() + DEADLINE
    while time.monotonic() < deadline:
        if set(services) <= {service for worker in read_fleet(store).workers for service in worker.services}:
            return
        time.sleep(0.05)  # polls real processes, with a deadline
    raise AssertionError("no such workers")


def test_a_login_is_finished_by_others_than_those_that_died_over_it(
    cloud: Cloud, region: Region, nodes: Sequence[UdpNode], store: Store, redis_server: RedisServer
) -> None:
    cloud.start("worker", "--service", "as")
    key = create_enrolment_key(store, wall=region.wall)
    initiator, job = nodes[0].login_job(key)
    assert nodes[0].ask(cloud, job, lambda: bool(store.run(("KEYS", "as:login:*")))) == b""
    cloud.kill_workers()
    redis_server.restart()
    cloud.start("worker", "--service", "as")
    cloud.start("worker", "--service", "nms")
    assert initiator.read_response(nodes[0].ask(cloud, job)).outcome == LoginOutcome.ACCEPTED


def test_a_direction_is_finished_by_others_than_those_that_died_over_it(
    cloud: Cloud, region: Region, nodes: Sequence[UdpNode], store: Store, redis_server: RedisServer
) -> None:
    alice, bob = nodes
    cloud.start("worker")
    key = create_enrolment_key(store, wall=region.wall, uses=None)
    for node in nodes:
        node.join(cloud, key)
    request = alice.direction("bob.home.cyphonic.internal", time=time.time())
    datagram = append_macs(request.datagram, mac1_key(region.nms_key.public))
    alice.udp.sendto(datagram, ("127.0.0.1", cloud.nms_port))
    bob.udp.settimeout(DEADLINE)
    for_bob = bob.read_direction(Send(bob.udp.recv(2048), NOWHERE))
    cloud.kill_workers()
    redis_server.restart()
    cloud.start("worker")
    wait_for_services(store, 0, 1)
    confirmation = append_macs(bob.confirmation(for_bob).datagram, mac1_key(region.nms_key.public))
    bob.udp.sendto(confirmation, ("127.0.0.1", cloud.nms_port))
    for_alice = alice.read_direction(Send(alice.ask(cloud, request), NOWHERE))
    assert (for_alice.path_id, for_alice.role) == (for_bob.path_id, Role.INITIATOR)
