"""The README's journey on a small internet: every program works by name, and the overlay survives its parts.

Alice and bob sit behind NATs of their own, bob with IPv6 as well; carol is on the internet, and so is a DNS server
that knows names which are not ours.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest

from cyphonic.lab.build import Lab
from cyphonic.lab.topology import parse_topology
from tests.netns.site import Site

pytestmark = pytest.mark.root

TOPOLOGY = """
[network.internet]
ipv4 = "203.0.113.0/24"
ipv6 = "2001:db8:1::/64"
[network.home-a]
ipv4 = "192.168.1.0/24"
[network.home-b]
ipv4 = "192.168.2.0/24"
ipv6 = "2001:db8:2::/64"
[router.core]
serves = ["internet"]
[router.router-a]
uplink = "internet"
serves = ["home-a"]
nat = "port-restricted"
[router.router-b]
uplink = "internet"
serves = ["home-b"]
nat = "port-restricted"
[host.cloud]
network = "internet"
role = "cloud"
[host.resolver]
network = "internet"
role = "plain"
[host.carol]
network = "internet"
[host.alice]
network = "home-a"
[host.bob]
network = "home-b"
"""
BOB = "bob.lab.cyphonic.internal"
FAMILIES = pytest.mark.parametrize("family", ["-4", "-6"])
PATIENCE = 20.0
"""Seconds; real processes on a machine that others use as well."""
OUT_AT_PEERS = 10.0
"""Seconds within which the peers of a revoked node drop it."""


def until(done: Callable[[], object], what: str, patience: float = PATIENCE) -> None:
    """Poll, with a deadline."""
    deadline = time.monotonic() + patience
    while not done():
        assert time.monotonic() < deadline, f"did not happen: {what}"
        time.sleep(0.02)


class Upstream:
    """A DNS server for the world's names, in the test's own process: notes each query, answers with one address."""

    ANSWER = bytes([0xC0, 0x0C, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 198, 51, 100, 7])

    def __init__(self, lab: Lab) -> None:
        self.queries: list[bytes] = []
        self.replies: list[bytes] = []
        self._socket = lab.open_socket("resolver", socket.AF_INET)
        self._socket.bind(("0.0.0.0", 53))
        self._socket.settimeout(0.2)
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def close(self) -> None:
        self._ended.set()
        self._thread.join()
        self._socket.close()

    def _serve(self) -> None:
        while not self._ended.is_set():
            try:
                query, source = self._socket.recvfrom(4096)
            except TimeoutError:
                continue
            question = query[12 : query.index(b"\0", 12) + 5]
            reply = query[:2] + bytes([0x81, 0x80, 0, 1, 0, 1, 0, 0, 0, 0]) + question + self.ANSWER
            self.queries.append(query)
            self.replies.append(reply)
            self._socket.sendto(reply, source)


class Journey(NamedTuple):
    site: Site
    upstream: Upstream

    def sh(self, host: str, command: str) -> str:
        """What a shell command prints; it must succeed."""
        result = self.site.lab.run(host, ["sh", "-c", command], check=False, timeout=60)
        assert result.returncode == 0, f"{command}: {result.stdout}{result.stderr}{self.site.deployment.logs(host)}"
        return result.stdout

    def dig(self, *question: str) -> str:
        return self.sh("alice", f"dig +noall +comments +answer {' '.join(question)}")

    def cyphonic(self, host: str, *words: str) -> str:
        result = self.site.cyphonic(host, *words)
        assert result.returncode == 0, result.stderr + self.site.deployment.logs(host)
        return result.stdout

    @contextmanager
    def serving(self, host: str, port: int, *command: str) -> Iterator[None]:
        """A server that listens on ``port`` before the block begins."""
        process = self.site.popen(host, *command)
        try:
            until(lambda: self.site.shell(host, f"ss -Hltn sport = :{port}"), f"{command[0]} listens")
            yield
        finally:
            process.terminate()
            process.communicate()

    @contextmanager
    def pinging(self, host: str, name: str) -> Iterator[Pings]:
        """``ping`` that goes on during the block."""
        pings = Pings(self.site.popen(host, "ping", "-n", "-i", "0.2", name))
        try:
            pings.expect_answers()
            yield pings
        finally:
            pings.close()


class Pings:
    """A running ``ping`` and how many of its probes have been answered."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self.answered = 0
        self.last = time.monotonic()
        self._process = process
        self._thread = threading.Thread(target=self._read)
        self._thread.start()

    def expect_answers(self) -> None:
        before = self.answered
        until(lambda: self.answered > before + 1, "ping is answered")

    def close(self) -> None:
        self._process.terminate()
        self._thread.join()
        self._process.wait()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if b"bytes from" in line:
                self.answered += 1
                self.last = time.monotonic()


@pytest.fixture(scope="module")
def journey(laboratory_ground: None) -> Iterator[Journey]:
    with ExitStack() as stack:
        lab = stack.enter_context(Lab(parse_topology(TOPOLOGY, "end-to-end")))
        for host in ("alice", "bob", "carol"):
            resolver = f"nameserver {lab.address('resolver')}\n"
            (lab.namespace(host).etc / "resolv.conf").write_text(resolver)
        upstream = Upstream(lab)
        stack.callback(upstream.close)
        site = Site(lab)
        site.deployment.join("alice", "bob", "carol")
        yield Journey(site, upstream)
        for host in ("alice", "bob"):
            site.cyphonic(host, "down")
        assert site.deployment.stop_cluster() == 0


@FAMILIES
def test_ping_by_name(journey: Journey, family: str) -> None:
    said = journey.sh("alice", f"ping {family} -c 3 -i 0.2 -W 5 {BOB}")
    assert " 0% packet loss" in said


@FAMILIES
def test_curl_by_name(journey: Journey, family: str, tmp_path: Path) -> None:
    (tmp_path / "blob").write_bytes(os.urandom(2_000_000))
    server = ("python3", "-m", "http.server", "--bind", "::", "--directory", str(tmp_path), "80")
    with journey.serving("bob", 80, *server):
        journey.sh("alice", f"curl -sS {family} --max-time 20 -o {tmp_path}/copy http://{BOB}/blob")
    original, copy = ((tmp_path / name).read_bytes() for name in ("blob", "copy"))
    assert hashlib.sha256(copy).digest() == hashlib.sha256(original).digest()


@FAMILIES
def test_ssh_by_name(journey: Journey, family: str, tmp_path: Path) -> None:
    for key in ("host", "user"):
        journey.sh("bob", f"ssh-keygen -q -t ed25519 -N '' -f {tmp_path}/{key}")
    tmp_path.chmod(0o755)
    options = {
        "Port": 2222,
        "HostKey": tmp_path / "host",
        "AuthorizedKeysFile": tmp_path / "user.pub",
        "StrictModes": "no",
        "UsePAM": "no",
        "PidFile": "none",
    }
    words = [word for name, value in options.items() for word in ("-o", f"{name}={value}")]
    # It wants a /run/sshd, and the machine around need not have one.
    own_run = 'mount -t tmpfs none /run && mkdir /run/sshd && exec /usr/sbin/sshd -D -e -f /dev/null "$@"'
    with journey.serving("bob", 2222, "unshare", "-m", "sh", "-c", own_run, "sh", *words):
        said = journey.sh(
            "alice",
            f"ssh {family} -F none -p 2222 -i {tmp_path}/user -o BatchMode=yes -o StrictHostKeyChecking=no"
            f" -o UserKnownHostsFile={tmp_path}/known root@{BOB} 'echo $SSH_CONNECTION'",
        )
    source, _, destination, _ = said.split()
    assert [source] == journey.cyphonic("alice", "ip", family).split()
    assert [destination] == journey.cyphonic("bob", "ip", family).split()


@FAMILIES
def test_iperf3_by_name(journey: Journey, family: str) -> None:
    with journey.serving("bob", 5201, "iperf3", "-s"):
        measured = json.loads(journey.sh("alice", f"iperf3 {family} -J -t 1 -c {BOB}"))
    assert measured["end"]["sum_received"]["bytes"] > 1_000_000


def test_dig_answers_for_the_overlay(journey: Journey) -> None:
    ipv6, ipv4 = journey.cyphonic("bob", "ip").split()
    for question, answer in (
        ((BOB, "A"), ipv4),
        ((BOB.title(), "AAAA"), ipv6),
        (("-x", ipv4), f"{BOB}."),
        (("-x", ipv6), f"{BOB}."),
        (("+tcp", BOB, "A"), ipv4),
    ):
        said = journey.dig(*question)
        assert "NOERROR" in said
        assert said.rstrip().splitlines()[-1].endswith(answer)
    no_data = journey.dig(BOB, "MX")
    assert "NOERROR" in no_data
    assert "ANSWER: 0, AUTHORITY: 1" in no_data
    assert "NXDOMAIN" in journey.dig("nobody.lab.cyphonic.internal")
    assert not [query for query in journey.upstream.queries if b"\x08cyphonic" in query]


def test_other_names_pass_through_untouched(journey: Journey) -> None:
    assert journey.sh("alice", "dig +short www.example.org").split() == ["198.51.100.7"]
    # A cookie, a client subnet, a type of tomorrow: whatever it is, it arrives, and so does the reply.
    query = (
        bytes.fromhex("1234012000010000000000010377777707") + b"example" + b"\x03org\0" + bytes([0xFF, 0x01, 0, 1])
    )
    query += bytes.fromhex("0000290fa0000080000009fde90005") + b"hello"
    asking = journey.site.lab.open_socket("alice", socket.AF_INET)
    try:
        asking.settimeout(5)
        asking.sendto(query, ("127.53.53.53", 53))
        reply = asking.recv(4096)
    finally:
        asking.close()
    assert journey.upstream.queries[-1][2:] == query[2:]
    assert reply == query[:2] + journey.upstream.replies[-1][2:]


def test_a_cold_start_by_the_first_packet_loses_none_and_needs_no_dns(journey: Journey) -> None:
    for address in journey.cyphonic("bob", "ip").split():
        for host in ("alice", "bob"):
            journey.site.deployment.ask(host, "forget")
        assert " 0% packet loss" in journey.sh("alice", f"ping -n -c 1 -W 5 {address}")


def test_down_and_up_again_needs_no_key_and_keeps_the_addresses(journey: Journey) -> None:
    before = journey.cyphonic("bob", "ip")
    with journey.pinging("alice", BOB) as pings:
        assert "has left the overlay" in journey.cyphonic("bob", "down")
        assert "cyphonic0" not in journey.sh("bob", "ip link")
        assert "is up: fd" in journey.cyphonic("bob", "up")
        pings.expect_answers()
    assert journey.cyphonic("bob", "ip") == before


def test_a_peer_that_has_left_is_offline_and_no_longer_in_the_status(journey: Journey) -> None:
    journey.cyphonic("alice", "ping", "-c", "1", "bob")
    journey.cyphonic("bob", "down")
    gone = journey.site.cyphonic("alice", "ping", "-c", "1", "bob")
    assert (gone.returncode, "has left" in gone.stderr) == (5, True), gone.stderr
    offline = journey.site.cyphonic("alice", "ping", "-c", "1", "bob")
    assert (offline.returncode, f"{BOB} is offline" in offline.stderr) == (5, True), offline.stderr
    peers = json.loads(journey.cyphonic("alice", "status", "--json"))["peers"]
    assert BOB not in [peer["name"] for peer in peers]
    journey.cyphonic("bob", "up")
    assert "answered" in journey.cyphonic("alice", "ping", "-c", "1", "bob")


def test_a_kill_9_leaves_nothing_after_the_next_start_and_peers_come_back(journey: Journey) -> None:
    site = journey.site
    original = f"nameserver {site.lab.address('resolver')}\n"
    with journey.pinging("alice", BOB) as pings:
        site.kill("bob")
        assert "cyphonic0" not in journey.sh("bob", "ip link; ip route; ip -6 route")
        journey.cyphonic("bob", "up")
        assert "127.53.53.53" in site.resolv_conf("bob")
        assert original.strip() in (site.deployment.directory("bob") / "state" / "resolv.conf.backup").read_text()
        pings.expect_answers()
    journey.cyphonic("bob", "down")
    assert site.resolv_conf("bob") == original
    journey.cyphonic("bob", "up")


def test_tunnels_outlive_the_cloud_and_nodes_find_the_new_one(journey: Journey) -> None:
    deployment = journey.site.deployment
    with journey.pinging("alice", BOB) as pings:
        assert deployment.stop_cluster() == 0
        pings.expect_answers()
        deployment.start_cluster()
        pings.expect_answers()
    for host in ("alice", "bob"):
        deployment.ask(host, "forget")
    until(
        lambda: journey.site.cyphonic("alice", "ping", "-c", "1", "bob").returncode == 0,
        "the new cloud directs them",
        patience=60,
    )


def test_a_revoked_node_is_out_at_once_at_the_cloud_and_soon_at_its_peers(journey: Journey) -> None:
    with journey.pinging("alice", "carol"), journey.pinging("bob", "carol") as pings:
        said = journey.cyphonic("cloud", "admin", "node", "revoke", "carol", "--yes")
        revoked = time.monotonic()
        assert re.search(r"dropped by: alice, bob", said)
        assert "revoked" in journey.cyphonic("cloud", "admin", "node", "show", "carol")
        unknown = journey.site.cyphonic("alice", "ping", "carol")
        assert (unknown.returncode, "there is no node carol" in unknown.stderr) == (5, True)
        assert "NXDOMAIN" in journey.dig("carol.lab.cyphonic.internal")
        until(lambda: time.monotonic() > pings.last + 2, "ping stops", patience=OUT_AT_PEERS + 2)
        assert pings.last < revoked + OUT_AT_PEERS
    refused = journey.site.cyphonic("carol", "ping", "bob")
    assert (refused.returncode, "revoked" in refused.stderr) == (3, True)
    assert "refused" in journey.cyphonic("carol", "status")
    journey.cyphonic("carol", "down")
    again = journey.site.cyphonic("carol", "up")
    assert (again.returncode, "revoked" in again.stderr) == (3, True)
    assert " 0% packet loss" in journey.sh("alice", f"ping -c 2 -i 0.2 -W 5 {BOB}")
