"""A gateway that maps ports makes a pair direct that would be relayed for ever: symmetric and port-restricted."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from cyphonic.lab.build import Lab
from cyphonic.lab.deployment import Deployment
from cyphonic.lab.topology import load_topology

pytestmark = pytest.mark.root

BEHIND, PEER, ROUTER = "symmetric", "port-restricted", "nat-sy"
SPOKEN = {"pcp": "PCP", "natpmp": "NAT-PMP"}
PATIENCE = 20.0
ROOT = Path(__file__).parents[2]


class Site:
    """A cloud and two nodes that cannot reach each other directly."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.deployment = Deployment(lab)
        self.deployment.start_cloud()
        self.deployment.join(BEHIND, PEER)
        (router,) = [router for router in lab.topology.routers if router.name == ROUTER]
        assert router.uplink is not None
        assert router.uplink.ipv4 is not None
        self.outside = str(router.uplink.ipv4.ip)

    @contextmanager
    def gateway(self, protocol: str) -> Iterator[None]:
        """The router of one node speaks ``protocol``; the node comes up meanwhile, and goes down at the end."""
        self.deployment.down(BEHIND)
        argv = [sys.executable, str(ROOT / "tests/netns/port_mapper.py"), protocol, self.outside]
        env = self.lab.environment(ROUTER) | {"PYTHONPATH": str(ROOT)}
        with self.lab.popen(ROUTER, argv, stdout=subprocess.PIPE, env=env) as process:
            try:
                assert process.stdout is not None
                assert process.stdout.readline() == b"ready\n"
                self.deployment.up(BEHIND)
                yield
                self.deployment.down(BEHIND)
                until(lambda: "elements" not in self.mappings(), self.mappings)
            finally:
                process.terminate()
                process.wait(PATIENCE)
                self.lab.run(ROUTER, ["nft", "delete", "table", "ip", "portmap"], check=False)
        self.deployment.up(BEHIND)

    def mappings(self) -> str:
        return self.lab.run(ROUTER, ["nft", "list", "map", "ip", "portmap", "mappings"]).stdout

    def port_mapping(self) -> str:
        return str(self.deployment.status(BEHIND)["cloud"]["port_mapping"])

    def peer(self, host: str, name: str) -> dict[str, Any]:
        peers = {peer["name"].partition(".")[0]: peer for peer in self.deployment.status(host)["peers"]}
        return dict(peers.get(name, {}))


def until(done: Callable[[], object], tell: Callable[[], object] = lambda: "") -> None:
    deadline = time.monotonic() + PATIENCE
    while not done():
        assert time.monotonic() < deadline, tell()
        time.sleep(0.05)


@pytest.fixture(scope="module")
def site(laboratory_ground: None) -> Iterator[Site]:
    with Lab(load_topology("nats")) as lab:
        site = Site(lab)
        yield site
        site.deployment.stop_cluster()


def test_without_a_mapping_the_pair_is_relayed(site: Site) -> None:
    site.deployment.command(BEHIND, "ping", PEER, "-c", "3")
    assert site.peer(BEHIND, PEER)["path"] == "relayed"


@pytest.mark.parametrize("protocol", SPOKEN)
def test_a_mapped_port_is_offered_used_and_given_back(site: Site, protocol: str) -> None:
    with site.gateway(protocol):
        until(lambda: site.port_mapping().startswith(f"{SPOKEN[protocol]} {site.outside}:50"), site.port_mapping)
        mapped = site.port_mapping().split()[1]
        site.deployment.ask(PEER, "forget")
        until(
            lambda: (
                site.deployment.command(PEER, "ping", BEHIND, "-c", "1")
                and site.peer(PEER, BEHIND).get("path") == "direct"
            ),
            lambda: site.peer(PEER, BEHIND),
        )
        assert site.peer(PEER, BEHIND)["endpoint"] == mapped
        found = json.loads(site.deployment.command(BEHIND, "netcheck", "--json"))
        assert found["port_mapping"]["protocols"] == [SPOKEN[protocol]]
        assert found["port_mapping"]["mapped"].endswith(mapped)


def test_a_node_that_is_told_not_to_asks_nobody(site: Site) -> None:
    config = Path(site.lab.environment(BEHIND)["CYPHONIC_CONFIG"])
    before = config.read_text()
    config.write_text(before + "port_mapping = false\n")
    try:
        with site.gateway("pcp"):
            assert site.port_mapping() == ""
            assert "elements" not in site.mappings()
    finally:
        config.write_text(before)
