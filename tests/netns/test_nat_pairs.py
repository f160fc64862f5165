"""Pairs that the demo has not: carriers' NATs, firewalls at both ends, paths cut in one direction, no UDP."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress

import pytest

from cyphonic.lab.build import Lab
from cyphonic.lab.deployment import Deployment
from cyphonic.lab.measure import Agent, MeasurementError
from cyphonic.lab.tools import LabError
from cyphonic.lab.topology import parse_topology

OBSERVED = float(os.environ.get("CYPHONIC_OBSERVE", "20"))
"""Seconds for which a path must not change."""
SETTLE_TIMEOUT = 15.0
GIVES_WAY_WITHIN = 20.0

TOPOLOGY = """
[network.internet]
ipv4 = "203.0.113.0/24"
ipv6 = "2001:db8:1::/64"
[network.carrier]
ipv4 = "100.64.0.0/24"
[network.home-one]
ipv4 = "192.168.1.0/24"
[network.home-two]
ipv4 = "192.168.2.0/24"
[network.home-three]
ipv4 = "192.168.3.0/24"
[network.six-one]
ipv6 = "2001:db8:6::/64"
[network.six-two]
ipv6 = "2001:db8:7::/64"
[network.hotel]
ipv4 = "192.168.4.0/24"

[router.core]
serves = ["internet"]
[router.cgnat]
uplink = "internet"
serves = ["carrier"]
nat = "port-restricted"
[router.router-one]
uplink = "carrier"
serves = ["home-one"]
nat = "full-cone"
[router.router-two]
uplink = "carrier"
serves = ["home-two"]
nat = "port-restricted"
[router.router-three]
uplink = "internet"
serves = ["home-three"]
nat = "port-restricted"
[router.router-six-one]
uplink = "internet"
serves = ["six-one"]
firewall = "stateful"
[router.router-six-two]
uplink = "internet"
serves = ["six-two"]
firewall = "stateful"
[router.router-hotel]
uplink = "internet"
serves = ["hotel"]
nat = "port-restricted"
firewall = "no-udp"

[host.cloud]
network = "internet"
role = "cloud"
[host.open]
network = "internet"
families = ["ipv4"]
[host.other]
network = "internet"
families = ["ipv4"]
[host.third]
network = "internet"
families = ["ipv4"]
[host.fourth]
network = "internet"
families = ["ipv4"]
[host.walled]
network = "internet"
families = ["ipv4"]
firewall = "stateful"
[host.walled-two]
network = "internet"
families = ["ipv4"]
firewall = "stateful"
[host.carried]
network = "home-one"
[host.carried-two]
network = "home-two"
[host.home]
network = "home-three"
[host.six]
network = "six-one"
[host.six-two]
network = "six-two"
[host.guest]
network = "hotel"
"""


class Pairs:
    """The nodes of this file, with an application on each."""

    def __init__(self, deployment: Deployment, agents: dict[str, Agent]) -> None:
        self.lab = deployment.lab
        self.deployment = deployment
        self.agents = agents
        self.fqdn = {node: deployment.status(node)["fqdn"] for node in agents}

    def cold(self, *nodes: str) -> None:
        self.lab.flush_nats(*nodes)
        for node in nodes:
            self.deployment.ask(node, "forget")

    def connect(self, source: str, target: str) -> str:
        """From cold; the virtual address of ``target``."""
        self.cold(source, target)
        return self.agents[source].reach(self.fqdn[target], 10.0).address

    def path(self, source: str, target: str) -> str:
        peers = self.deployment.status(source)["peers"]
        return next((peer["path"] for peer in peers if peer["name"] == self.fqdn[target]), "none")

    def paths(self, one: str, two: str) -> tuple[str, str]:
        """As each end sees it."""
        return self.path(one, two), self.path(two, one)

    def settles(self, one: str, two: str, kind: str, timeout: float = SETTLE_TIMEOUT) -> tuple[str, str]:
        """The paths of both ends as soon as they are of that kind, or when time is up."""
        deadline = time.monotonic() + timeout
        while (paths := self.paths(one, two)) != (kind, kind) and time.monotonic() < deadline:
            time.sleep(0.05)
        return paths


@pytest.fixture(scope="module")
def pairs(laboratory_ground: None) -> Iterator[Pairs]:
    with Lab(parse_topology(TOPOLOGY, "nat-pairs")) as lab, ExitStack() as stack:
        deployment = Deployment(lab)
        deployment.start_cloud()
        nodes = [node for node in deployment.nodes if node != "guest"]
        deployment.join(*nodes)
        yield Pairs(deployment, {node: stack.enter_context(Agent(lab, node)) for node in nodes})


@pytest.mark.parametrize(
    ("source", "target", "kind"),
    [
        ("carried", "open", "direct"),
        ("open", "carried", "direct"),
        ("carried", "home", "direct"),
        ("home", "carried-two", "direct"),
        # The carrier's NAT does not send back what comes from inside for its own outside address.
        ("carried", "carried-two", "relayed"),
        ("carried", "six", "relayed"),
    ],
)
def test_nodes_behind_a_carriers_nat(pairs: Pairs, source: str, target: str, kind: str) -> None:
    pairs.connect(source, target)
    assert pairs.settles(source, target, kind) == (kind, kind)


@pytest.mark.parametrize(
    ("source", "target"),
    [
        ("walled", "walled-two"),
        ("walled-two", "walled"),
        ("walled", "home"),
        ("carried", "walled"),
        ("six", "six-two"),
    ],
)
def test_firewalls_at_both_ends_are_punched_like_nats(pairs: Pairs, source: str, target: str) -> None:
    pairs.connect(source, target)
    assert pairs.settles(source, target, "direct") == ("direct", "direct")


@pytest.fixture
def cut(pairs: Pairs) -> Iterator[Callable[[str, str], None]]:
    """Cut the path from one node to another; whole again after the test."""
    with ExitStack() as stack:

        def make(source: str, target: str) -> None:
            pairs.lab.block(source, target)
            stack.callback(pairs.lab.unblock, source, target)

        yield make


def assert_stays_relayed(pairs: Pairs, one: str, two: str, address: str) -> None:
    """For OBSERVED seconds both ends use the relay, and every echo request is answered."""
    deadline = time.monotonic() + OBSERVED
    while time.monotonic() < deadline:
        assert pairs.agents[one].ping(address, count=4, interval=0.05).lost == 0
        assert pairs.paths(one, two) == ("relayed", "relayed")


def side_by_side(check: Callable[[str, str], None], *ends: tuple[str, str]) -> None:
    """Check several pairs at once, none of which shares a node with another."""
    with ThreadPoolExecutor(len(ends)) as threads:
        for future in [threads.submit(check, *pair) for pair in ends]:
            future.result()


def test_a_path_that_was_always_cut_in_one_direction_settles_on_the_relay_and_stays(
    pairs: Pairs, cut: Callable[[str, str], None]
) -> None:
    """The end that is not heard asks in one pair, the end that hears nothing in the other."""
    cut("open", "other")
    cut("third", "fourth")

    def check(source: str, target: str) -> None:
        address = pairs.connect(source, target)
        assert pairs.settles(source, target, "relayed") == ("relayed", "relayed")
        assert_stays_relayed(pairs, source, target, address)

    side_by_side(check, ("open", "other"), ("fourth", "third"))


def test_a_path_in_use_that_is_cut_in_one_direction_gives_way_to_the_relay_and_stays(
    pairs: Pairs, cut: Callable[[str, str], None]
) -> None:
    addresses = {pair: pairs.connect(*pair) for pair in (("open", "other"), ("fourth", "third"))}
    for pair in addresses:
        assert pairs.settles(*pair, "direct") == ("direct", "direct")
    cut("open", "other")
    cut("third", "fourth")

    def check(source: str, target: str) -> None:
        address, began = addresses[source, target], time.monotonic()
        while pairs.paths(source, target) != ("relayed", "relayed") and time.monotonic() < began + GIVES_WAY_WITHIN:
            with suppress(MeasurementError):  # nothing comes back yet
                pairs.agents[source].ping(address, count=3, interval=0.05, timeout=0.2)
        print(f"{source} → {target}: on the relay after {time.monotonic() - began:.1f} s")
        assert_stays_relayed(pairs, source, target, address)

    side_by_side(check, *addresses)


def test_without_udp_the_user_is_told_so(pairs: Pairs) -> None:
    deployment = pairs.deployment
    bundle = deployment.create_bundle("guest")
    with pytest.raises(LabError, match="not joined in time") as caught:
        deployment.command("guest", "up", "--enrol", str(bundle), "--timeout", "16")
    assert "no answer by UDP from the cloud's AS (203.0.113.11:" in caught.value.message
    assert "this network blocks UDP" in caught.value.message
