"""Nodes that move under traffic, for real: TCP ends with equal checksums, and UDP says how long each move took.

One site serves all tests of this module; every test puts the nodes where it wants them first.  What was measured is
printed at the end and kept in ``build/moves.json``.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from cyphonic.lab.build import Lab
from cyphonic.lab.deployment import Deployment
from cyphonic.lab.nat import NatKind
from cyphonic.lab.topology import parse_topology
from tests.netns.traffic import Traffic

pytestmark = [pytest.mark.root, pytest.mark.alone]

LOCAL_GAP, SILENT_GAP = 2.0, 6.5
"""Seconds without UDP after the link is up: with an event on the machine that moves, and without."""
BEFORE, AFTER = 1.0, 2.5
"""Seconds of traffic before and after a move."""
JOINED_TIMEOUT = PATH_TIMEOUT = 20.0
RESULTS = Path(__file__).parents[2] / "build" / "moves.json"

TOPOLOGY = """
name = "moves"

[network.internet]
ipv4 = "203.0.113.0/24"
ipv6 = "2001:db8:1::/64"

[network.other]
ipv4 = "198.51.100.0/24"
ipv6 = "2001:db8:2::/64"

[network.home-a]
ipv4 = "192.168.1.0/24"

[network.home-b]
ipv4 = "192.168.2.0/24"

[network.campus]
ipv6 = "2001:db8:6::/64"

[router.core]
serves = ["internet", "other"]

[router.nat-a]
uplink = "internet"
serves = ["home-a"]
nat = "port-restricted"

[router.nat-b]
uplink = "internet"
serves = ["home-b"]
nat = "port-restricted"

[router.campus-router]
uplink = "internet"
serves = ["campus"]

[host.cloud]
network = "internet"
role = "cloud"

[host.mover]
network = "home-a"

[host.dual]
network = "internet"

[host.home]
network = "home-b"

[host.four]
network = "internet"
families = ["ipv4"]
"""


class Measured(NamedTuple):
    """One move between two nodes; seconds, the worse of both directions."""

    move: str
    gap: float
    """The longest time without UDP."""
    after: float
    """Of it, after the link was up again."""
    before_path: str
    after_path: str
    transferred: int
    """Bytes over TCP, both ways, checksums equal."""


class Ground:
    """The site, and what has been measured on it."""

    def __init__(self, deployment: Deployment) -> None:
        self.deployment = deployment
        self.lab = deployment.lab
        self.measured: list[Measured] = []
        self._addresses = {node: deployment.status(node)["ipv6"] for node in deployment.nodes}
        self._fqdn = {node: deployment.status(node)["fqdn"] for node in deployment.nodes}

    def peer(self, node: str, other: str) -> dict[str, Any]:
        """What ``node`` says of ``other``; raise AssertionError unless it lists it once."""
        peers = [peer for peer in self.deployment.status(node)["peers"] if peer["name"] == self._fqdn[other]]
        assert len(peers) == 1, peers
        return dict(peers[0])

    def start(self, node: str, other: str, *paths: str, **places: str) -> None:
        """Nodes where they belong, forgotten by each other, then with a tunnel of one of these kinds."""
        for name, network in places.items():
            self.flush_nat_of(network)
            if self.lab.wiring.attachment(name).network != network:
                self.lab.move(name, network)
        for name in (node, other):
            self.deployment.ask(name, "forget")
            self.wait_joined(name)
        self.deployment.command(node, "ping", "-c", "1", other)
        deadline = time.monotonic() + PATH_TIMEOUT
        while not {self.peer(node, other)["path"], self.peer(other, node)["path"]} <= set(paths):
            assert time.monotonic() < deadline, (self.peer(node, other), self.peer(other, node))
            time.sleep(0.05)

    def flush_nat_of(self, network: str) -> None:
        """Who moves in is to find no port taken by whom it was before: to Linux those are two hosts."""
        for router in self.lab.topology.routers:
            if router.nat is not NatKind.NONE and network in [served.network for served in router.serves]:
                self.lab.flush_nat(router)

    def wait_joined(self, node: str) -> None:
        """Registered over every family that the node has now, and seen where it is now."""
        families = {f"ipv{a.version}": str(a.ip) for a in self.lab.wiring.attachment(node).addresses}
        deadline = time.monotonic() + JOINED_TIMEOUT
        while {f["family"] for f in self.deployment.status(node)["cloud"]["families"]} != set(families):
            assert time.monotonic() < deadline, self.deployment.status(node)["cloud"]
            time.sleep(0.05)

    def measure(self, name: str, node: str, other: str, move: Callable[[], object], floor: float) -> Measured:
        """Traffic both ways while ``move`` happens."""
        before_path = self.peer(node, other)["path"]
        with Traffic(self.lab, {host: self._addresses[host] for host in (node, other)}) as traffic:
            pause(BEFORE)
            began = time.monotonic()
            move()
            up = time.monotonic()
            pause(AFTER if floor == LOCAL_GAP else SILENT_GAP)
            ended = time.monotonic()
            results = traffic.finish()
        gap = after = 0.0
        for host, sender in ((node, other), (other, node)):
            assert results[host]["received"] == results[sender]["sent"], f"{name}: {sender} to {host}"
            longest, resumed = longest_gap([*results[host]["arrivals"], ended], began)
            if longest > gap:
                gap, after = longest, min(longest, max(0.0, resumed - up))
        paths = f"{self.peer(node, other)['path']}"
        transferred = sum(result["received"][0] for result in results.values())
        measured = Measured(name, gap, after, before_path, paths, transferred)
        self.measured.append(measured)
        print(f"\n{line(measured)}")
        assert after <= floor, line(measured)
        assert transferred > 1_000_000
        return measured


def pause(seconds: float) -> None:
    """Let traffic run: what is measured is time itself."""
    deadline = time.monotonic() + seconds
    while (left := deadline - time.monotonic()) > 0:
        time.sleep(left)


def longest_gap(arrivals: list[float], began: float) -> tuple[float, float]:
    """The longest gap that was not over when the move began, and when it ended."""
    gaps = [(later - earlier, later) for earlier, later in pairwise(arrivals)]
    return max(gap for gap in gaps if gap[1] >= began)


def line(measured: Measured) -> str:
    way = f"{measured.before_path} → {measured.after_path}"
    figures = f"gap {measured.gap:5.2f} s, {measured.after:5.2f} s of it with the link up"
    return f"{measured.move:58} {way:20} {figures}; {measured.transferred / 1e6:4.1f} MB equal"


@pytest.fixture(scope="module")
def ground(laboratory_ground: None) -> Iterator[Ground]:
    with Lab(parse_topology(TOPOLOGY, "moves")) as lab:
        deployment = Deployment(lab)
        deployment.start_cloud()
        deployment.join(*deployment.nodes)
        made = Ground(deployment)
        yield made
        print("\n" + "\n".join(map(line, made.measured)))
        RESULTS.parent.mkdir(exist_ok=True)
        RESULTS.write_text(json.dumps([measured._asdict() for measured in made.measured], indent=1) + "\n")


@pytest.mark.parametrize("other", ["dual", "home"])
def test_another_address_in_the_same_network(ground: Ground, other: str) -> None:
    ground.start("mover", other, "direct", mover="other")
    move = lambda: ground.lab.renumber("mover")  # noqa: E731
    ground.measure(f"another address in the same network (peer: {other})", "mover", other, move, LOCAL_GAP)


@pytest.mark.parametrize("other", ["dual", "home"])
def test_from_an_open_network_to_one_behind_a_nat(ground: Ground, other: str) -> None:
    ground.start("mover", other, "direct", mover="other")
    ground.flush_nat_of("home-a")
    move = lambda: ground.lab.move("mover", "home-a")  # noqa: E731
    ground.measure(f"from an open network behind a NAT (peer: {other})", "mover", other, move, LOCAL_GAP)


def test_from_ipv4_to_ipv6_and_back(ground: Ground) -> None:
    ground.start("mover", "dual", "direct", mover="home-a")
    there = lambda: ground.lab.move("mover", "campus")  # noqa: E731
    assert (
        ground.measure("IPv4 → IPv6 (peer: dual stack)", "mover", "dual", there, LOCAL_GAP).after_path == "direct"
    )
    back = lambda: ground.lab.move("mover", "home-a")  # noqa: E731
    assert ground.measure("IPv6 → IPv4 (peer: dual stack)", "mover", "dual", back, LOCAL_GAP).after_path == "direct"


def test_from_ipv4_to_ipv6_with_a_peer_that_has_ipv4_alone_goes_through_the_relay(ground: Ground) -> None:
    ground.start("mover", "four", "direct", mover="home-a")
    there = lambda: ground.lab.move("mover", "campus")  # noqa: E731
    assert (
        ground.measure("IPv4 → IPv6 (peer: IPv4 only)", "mover", "four", there, LOCAL_GAP).after_path == "relayed"
    )
    back = lambda: ground.lab.move("mover", "home-a")  # noqa: E731
    assert ground.measure("IPv6 → IPv4 (peer: IPv4 only)", "mover", "four", back, LOCAL_GAP).after_path == "direct"


def test_the_responder_moves(ground: Ground) -> None:
    ground.start("dual", "mover", "direct", mover="home-a")
    move = lambda: ground.lab.move("mover", "other")  # noqa: E731
    ground.measure("the responder moves", "dual", "mover", move, LOCAL_GAP)


def test_both_move_at_once(ground: Ground) -> None:
    ground.start("mover", "home", "direct", mover="home-a", home="home-b")

    def move() -> None:
        with ThreadPoolExecutor(2) as threads:
            moves = [threads.submit(ground.lab.renumber, name) for name in ("mover", "home")]
            for moved in moves:
                moved.result()

    ground.measure("both move at once", "mover", "home", move, LOCAL_GAP)


def test_a_move_while_relayed(ground: Ground) -> None:
    ground.start("mover", "four", "relayed", mover="campus")
    move = lambda: ground.lab.renumber("mover")  # noqa: E731
    ground.measure("a move while relayed", "mover", "four", move, LOCAL_GAP)


@pytest.mark.parametrize("other", ["dual", "home"])
def test_a_router_with_another_address_and_no_event_here(ground: Ground, other: str) -> None:
    # A NAT that had another address sometimes keeps ports of before: the pair then stays on the relay for a while.
    paths = ["direct"] if other == "dual" else ["direct", "relayed"]
    ground.start("mover", other, *paths, mover="home-a", home="home-b")
    move = lambda: ground.lab.renumber("nat-a")  # noqa: E731
    ground.measure(f"the next router has another address (peer: {other})", "mover", other, move, SILENT_GAP)


def test_twenty_rapid_flaps_leave_one_tunnel_and_no_socket_more(ground: Ground) -> None:
    ground.start("mover", "dual", "direct", mover="other")
    pids = {node: ground.deployment.status(node)["pid"] for node in ("mover", "dual")}
    sockets = {node: open_sockets(pid) for node, pid in pids.items()}

    def flap() -> None:
        for number in range(20):
            ground.lab.wiring.set_families("mover", ["ipv6"] if number % 2 else ["ipv4"])
        ground.lab.wiring.set_families("mover", ["ipv4", "ipv6"])

    ground.measure("20 flaps between IPv4 and IPv6", "mover", "dual", flap, LOCAL_GAP)
    for node, other in (("mover", "dual"), ("dual", "mover")):
        assert ground.peer(node, other)["path"] == "direct"
        assert ground.deployment.status(node)["pid"] == pids[node]
        assert open_sockets(pids[node]) <= sockets[node] + 1  # the status request's own


def open_sockets(pid: int) -> int:
    found = 0
    for fd in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(FileNotFoundError):  # closed meanwhile
            found += os.readlink(fd).startswith("socket:")
    return found


def test_the_default_route_moves_to_another_interface(ground: Ground) -> None:
    """Last: the second interface stays."""
    ground.start("mover", "home", "direct", mover="home-a", home="home-b")
    ground.lab.wiring.add_interface("mover", "other")
    move = lambda: ground.lab.run("mover", ["ip", "route", "del", "default", "dev", "eth0"])  # noqa: E731
    ground.measure("the default route moves to another interface", "mover", "home", move, LOCAL_GAP)
