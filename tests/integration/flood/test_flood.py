"""50,000 strangers' datagrams a second: nodes that are there keep their signaling and their relayed traffic.

Cluster, nodes and flood share the cores of this machine, so what a frontend and a relay of their own would bear is
more.  Memory is flat: no stranger costs any.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from cyphonic.bundle import Bundle
from cyphonic.loadgen.cli import make_nodes
from cyphonic.loadgen.driver import Generator
from cyphonic.loadgen.scenario import Scenario
from cyphonic.protocol.client import Cloud
from cyphonic.site import SiteKeys
from cyphonic.wire.direction import Role
from cyphonic.wire.endpoint import Endpoint
from cyphonic.wire.header import MessageType
from tests.bench.cluster import Cluster, running_cluster
from tests.bench.relay import End
from tests.flood import Target, binds, flood, garbage, logins, relayed, requests
from tests.udp_nodes import UdpNodes

pytestmark = pytest.mark.alone

FLOOD = 50_000
"""Datagrams per second."""
MEASURED = 3.0
"""Seconds."""
LEAD = 1.0
"""Seconds of flood before and after what is measured."""
NODES = 60
DIRECTIONS = 100.0
"""Per second: some six messages each."""
RELAYED = 1000.0
"""Datagrams per second through the relay."""
KEPT = 0.9
ROOM = 4 * 1024 * 1024
"""Bytes by which a process may grow that has been flooded for a while already: allocators round up."""


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with running_cluster() as running:
        yield running


@pytest.fixture(scope="module")
def keys(cluster: Cluster) -> SiteKeys:
    return SiteKeys(cluster.directory / "keys")


@pytest.fixture(scope="module")
def generator(cluster: Cluster) -> Iterator[Generator]:
    bundle = Bundle.load(cluster.bundle)
    with closing(Generator(make_nodes(bundle, "node", NODES), bundle)) as made:
        made.join()
        yield made


def memory(pids: list[int]) -> int:
    """Resident bytes."""
    return sum(int(Path(f"/proc/{pid}/statm").read_text().split()[1]) for pid in pids) * 4096


def directions(generator: Generator, seconds: float) -> tuple[int, int, str]:
    """Begun, completed in time, and figures for people."""
    report = generator.measure(Scenario.DIRECTION, seconds, DIRECTIONS, 0)
    row = report.transactions["direction"]
    figures = f"{row.completed}/{row.started}, resent {row.resends}, p50 {row.p50_ms} ms, p99 {row.p99_ms} ms"
    return row.started, row.completed, figures


def frontends(cluster: Cluster, generator: Generator, keys: SiteKeys) -> list[Target]:
    nms = generator.traffic._nms_endpoints[0]
    login = Bundle.load(cluster.bundle).as_endpoints[0]
    return [
        (login, logins(keys.as_public())),
        (login, garbage()),
        (nms, requests(keys.nms_public())),
        (nms, garbage()),
    ]


def test_nodes_keep_their_signaling_while_a_frontend_is_flooded(
    cluster: Cluster, generator: Generator, keys: SiteKeys
) -> None:
    pids = cluster.processes()["frontend"]
    directions(generator, 1.0)
    quiet = directions(generator, MEASURED)
    before = memory(pids)
    with flood(frontends(cluster, generator, keys), FLOOD, MEASURED + 2 * LEAD + 2) as strangers:
        directions(generator, LEAD)
        early = memory(pids)
        begun, completed, figures = directions(generator, MEASURED)
        late = memory(pids)
    print(f"\nwithout: {quiet[2]}\nunder {strangers.rate:.0f} datagrams/s: {figures}")
    print(f"RSS of the frontend: {before / 2**20:.1f}, {early / 2**20:.1f}, {late / 2**20:.1f} MiB")
    assert completed >= KEPT * begun
    assert begun >= KEPT * quiet[0]
    assert late <= early + ROOM
    assert strangers.rate >= FLOOD / 2, "this machine is too busy to flood"


def test_a_new_node_joins_while_a_frontend_is_flooded(
    cluster: Cluster, generator: Generator, keys: SiteKeys
) -> None:
    bundle = Bundle.load(cluster.bundle)
    cloud = Cloud(bundle.as_key, bundle.as_verify_key, tuple(bundle.as_endpoints), bundle.region, bundle.domain)
    with flood(frontends(cluster, generator, keys), FLOOD, 2 * LEAD) as strangers:
        directions(generator, LEAD / 2)
        start = time.monotonic()
        with UdpNodes(cloud) as nodes:
            (newcomer,) = nodes.join(bundle.enrolment_key, "newcomer")
    cookies = newcomer.heard[MessageType.COOKIE_REPLY]
    print(f"\nunder {strangers.rate:.0f} datagrams/s: in after {time.monotonic() - start:.1f} s, {cookies} cookies")
    assert cookies, "strangers' logins make a load"


class Pair:
    """Two nodes that are bound at the relay; one sends to the other."""

    def __init__(self, keys: SiteKeys, relay: Endpoint) -> None:
        path_id = bytes(15) + b"\1"
        self.sender, self.receiver = (End(keys, relay, path_id, role) for role in Role)
        self.datagram = self.sender.header + bytes(1192)

    def run(self, seconds: float) -> tuple[int, int]:
        """Datagrams sent, and received."""
        sent = received = 0
        start = time.monotonic()
        while (now := time.monotonic()) < start + seconds:
            for _ in range(int((now - start) * RELAYED) - sent):
                self.sender.socket.send(self.datagram)
                sent += 1
            received += self.receiver.receive()
            time.sleep(0.001)
        end = time.monotonic() + 0.5
        while received < sent and time.monotonic() < end:
            received += self.receiver.receive()
            time.sleep(0.001)
        return sent, received

    def close(self) -> None:
        self.sender.socket.close()
        self.receiver.socket.close()


def test_nodes_keep_their_relayed_traffic_while_a_relay_is_flooded(cluster: Cluster, keys: SiteKeys) -> None:
    pids = cluster.processes()["relay"]
    targets = [(cluster.relay, made) for made in (relayed(), binds(keys.relay_public()), garbage())]
    with closing(Pair(keys, cluster.relay)) as pair:
        quiet = pair.run(1.0)
        before = memory(pids)
        with flood(targets, FLOOD, MEASURED + 2 * LEAD) as strangers:
            pair.run(LEAD)
            early = memory(pids)
            sent, received = pair.run(MEASURED)
            late = memory(pids)
    print(f"\nwithout: {quiet[1]}/{quiet[0]}\nunder {strangers.rate:.0f} datagrams/s: {received}/{sent}")
    print(f"RSS of the relay: {before / 2**20:.1f}, {early / 2**20:.1f}, {late / 2**20:.1f} MiB")
    assert received >= KEPT * sent
    assert sent >= KEPT * RELAYED * MEASURED
    assert late <= early + ROOM
    assert strangers.rate >= FLOOD / 2, "this machine is too busy to flood"
