"""``cyphonic netcheck`` names every NAT of the lab, with two relays and with one, and says what is blocked."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from cyphonic.lab.build import Lab
from cyphonic.lab.deployment import Deployment
from cyphonic.lab.tools import LabError
from cyphonic.lab.topology import load_topology

pytestmark = pytest.mark.root

EIM, ADDRESS, BOTH = "endpoint-independent", "address-dependent", "address-and-port-dependent"
KINDS = {
    "full-cone": (EIM, EIM, True),
    "address-restricted": (EIM, ADDRESS, False),
    "port-restricted": (EIM, BOTH, False),
    "symmetric": (BOTH, BOTH, False),
}
PATIENCE = 20.0


class Site:
    """A cloud with its relay, a second relay elsewhere, and a node behind each kind of NAT."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.deployment = Deployment(lab)
        self.deployment.start_cloud()
        self.relay = self.start_relay()
        self.deployment.join(*KINDS)
        self.until_relays(2)

    def start_relay(self, port: int = 7703) -> subprocess.Popen[bytes]:
        config = self.deployment.directory("cloud") / "cloud.toml"
        place = "--listen", f"0.0.0.0:{port}", "--advertise", f"{self.lab.address('stranger')}:{port}"
        argv = self.deployment.argv("relay", "--config", str(config), *place)
        with (self.lab.directory / "relay.log").open("ab") as log:
            return self.lab.popen("stranger", argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log)

    def until_relays(self, count: int, *nodes: str) -> None:
        """They, or all, have heard of so many; a node that joined too early comes again."""
        deadline = time.monotonic() + PATIENCE
        for node in nodes or KINDS:
            while len(self.deployment.status(node)["cloud"]["relays"]) != count:
                assert time.monotonic() < deadline
                self.deployment.down(node)
                self.deployment.up(node)

    def netcheck(self, host: str, code: int = 0) -> dict[str, Any]:
        result = self.lab.run(
            host,
            self.deployment.argv("netcheck", "--json"),
            env=self.lab.environment(host),
            check=False,
            timeout=60,
        )
        assert result.returncode == code, result.stderr
        document: dict[str, Any] = json.loads(result.stdout)
        return document

    @contextmanager
    def rule(self, owner: str, rule: str, chain: str = "forward") -> Iterator[None]:
        """An nft rule on a router or host, for a while."""
        table = f"table inet test {{\n chain one {{\n type filter hook {chain} priority -10\n {rule}\n }}\n}}\n"
        self.lab.run(owner, ["nft", "-f", "-"], stdin=table)
        try:
            yield
        finally:
            self.lab.run(owner, ["nft", "delete", "table", "inet", "test"])


@pytest.fixture(scope="module")
def site(laboratory_ground: None) -> Iterator[Site]:
    with Lab(load_topology("nats")) as lab:
        site = Site(lab)
        yield site
        site.relay.terminate()
        site.relay.wait(10)
        site.deployment.stop_cluster()


def ipv4(found: dict[str, Any]) -> dict[str, Any]:
    (family,) = [family for family in found["families"] if family["family"] == "ipv4"]
    return dict(family)


@pytest.mark.parametrize("kind", KINDS)
def test_each_nat_is_recognised(site: Site, kind: str) -> None:
    found = site.netcheck(kind)
    family = ipv4(found)
    assert (family["mapping"], family["filtering"], family["hairpin"]) == KINDS[kind]
    assert family["nat"] is True
    assert family["mtu"] == 1500
    assert (found["udp"], found["daemon"], found["schema_version"]) == ("works", True, 1)
    assert len(found["relays"]) == 2
    assert all(relay["rtt"] is not None for relay in found["relays"])
    assert found["port_mapping"]["gateway"]
    assert found["port_mapping"]["protocols"] == []


def test_a_host_without_nat_is_recognised_too(site: Site) -> None:
    """And a daemon that is down: a plain host plays a node that has been up before, by its state file."""
    state = site.deployment.directory("full-cone") / "state" / "node.json"
    folder = site.deployment.directory("cloud") / "as-node"
    (folder / "state").mkdir(parents=True, exist_ok=True)
    (folder / "state" / "node.json").write_text(state.read_text())
    config = folder / "node.toml"
    config.write_text('[node]\nstate_dir = "state"\nrun_dir = "run"\n')
    argv = site.deployment.argv("netcheck", "--json", "--config", str(config))
    result = site.lab.run("stranger", argv, timeout=60)
    found = json.loads(result.stdout)
    family = ipv4(found)
    assert (family["nat"], family["mapping"], family["filtering"]) == (False, EIM, EIM)
    assert found["daemon"] is False


def test_the_path_mtu_is_found_to_the_byte(site: Site) -> None:
    site.lab.run("nat-pr", ["ip", "link", "set", "wan", "mtu", "1437"])
    try:
        assert ipv4(site.netcheck("port-restricted"))["mtu"] == 1437
    finally:
        site.lab.run("nat-pr", ["ip", "link", "set", "wan", "mtu", "1500"])


def test_what_one_relay_cannot_tell_is_said_to_be_unknown(site: Site) -> None:
    stranger = site.lab.address("stranger")
    with site.rule("nat-fc", f"ip daddr {stranger} drop"), site.rule("nat-sy", f"ip daddr {stranger} drop"):
        cone, symmetric = ipv4(site.netcheck("full-cone")), ipv4(site.netcheck("symmetric"))
    for what in ("mapping", "filtering"):
        assert cone[what] == "unknown"
        assert "only one relay" in cone[f"{what}_why"]
        assert symmetric[what] == BOTH


def test_blocked_udp_is_said_clearly_and_ends_with_4(site: Site) -> None:
    site.deployment.down("symmetric")
    try:
        with site.rule("nat-sy", "meta l4proto udp drop"):
            found = site.netcheck("symmetric", code=4)
        assert found["udp"] == "blocked"
        assert found["text"].startswith("UDP is blocked")
        assert found["daemon"] is False
    finally:
        site.deployment.up("symmetric")


def test_without_a_way_out_that_is_what_is_said(site: Site) -> None:
    route = ["ip", "route", "del", "default"]
    gateway = site.lab.run("symmetric", ["ip", "route", "show", "default"]).stdout.split()[2]
    site.deployment.down("symmetric")
    site.lab.run("symmetric", route)
    try:
        found = site.netcheck("symmetric", code=4)
        assert found["udp"] == "no-network"
    finally:
        site.lab.run("symmetric", ["ip", "route", "add", "default", "via", gateway])
        site.deployment.up("symmetric")


def test_for_people_it_says_the_same_in_words(site: Site) -> None:
    said = site.deployment.command("port-restricted", "netcheck")
    assert "UDP works over IPv4" in said
    assert "yes: port-restricted" in said


def test_a_bug_report_holds_no_secret_and_masked_neither_names_nor_addresses(site: Site) -> None:
    host = "full-cone"
    state = json.loads((site.deployment.directory(host) / "state" / "node.json").read_text())
    plain = site.deployment.command(host, "bugreport", "-o", "-", timeout=60)
    masked = site.deployment.command(host, "bugreport", "--mask", "-o", "-", timeout=60)
    address = site.lab.address(host)
    assert address in plain
    for part in ("==== status", "==== netcheck", "==== ip route", "==== versions", "==== the last lines"):
        assert part in plain
        assert part in masked
    for hidden in (address, site.lab.address("cloud"), f"{host}.lab.cyphonic.internal"):
        assert hidden not in masked
    for report in (plain, masked):
        assert state["secret"] not in report


def test_a_relay_that_dies_loses_no_relayed_pair(site: Site) -> None:
    """A symmetric NAT meets a port-restricted one: relayed for good.  The relay in use is stopped."""
    one, other = "symmetric", "port-restricted"
    site.deployment.command(one, "ping", other, "-c", "2")
    peer = f"{other}.lab.cyphonic.internal"

    def relay() -> str:
        peers = {peer["name"]: peer for peer in site.deployment.status(one)["peers"]}
        return str(peers[peer]["relay"])

    before = relay()
    assert before
    host = next(name for name in ("cloud", "stranger") if before.startswith(site.lab.address(name)))
    with site.rule(host, "udp dport 7703 drop", "input"):
        started = time.monotonic()
        while True:
            result = site.lab.run(
                one,
                site.deployment.argv("ping", other, "-c", "1"),
                env=site.lab.environment(one),
                check=False,
                timeout=60,
            )
            if result.returncode == 0 and relay() not in ("", before):
                break
            assert time.monotonic() - started < PATIENCE
        print(f"another relay after {time.monotonic() - started:.1f} s")


def test_a_relay_that_does_not_answer_a_node_is_not_chosen_for_its_paths(site: Site) -> None:
    """Two of three are; the one whose probes get lost is told as unanswered, and comes last."""
    one, other = "symmetric", "port-restricted"
    cloud, stranger = site.lab.address("cloud"), site.lab.address("stranger")
    peer = f"{other}.lab.cyphonic.internal"
    third = site.start_relay(7704)

    def measured() -> bool:
        relays = site.deployment.status(one)["cloud"]["relays"]
        found = {endpoint: relay["rtt"] for relay in relays for endpoint in relay["endpoints"]}
        answered = {f"{stranger}:{port}" for port in (7703, 7704)}
        return found.keys() == {f"{cloud}:7703", *answered} and {e for e in found if found[e]} == answered

    try:
        with site.rule("cloud", "udp dport 7703 @th,64,8 0x15 drop", "input"):
            site.until_relays(3, one)
            deadline = time.monotonic() + PATIENCE
            while not measured():
                assert time.monotonic() < deadline, site.deployment.status(one)["cloud"]
                time.sleep(0.05)
            with pytest.raises(LabError):  # the registration that tells it was sent before this question
                site.deployment.ask(one, "ip", name="nobody")
            site.deployment.command(one, "ping", other, "-c", "1")
            peers = {each["name"]: each for each in site.deployment.status(one)["peers"]}
            assert peers[peer]["relay"].startswith(stranger)
    finally:
        third.terminate()
        third.wait(10)
