"""What a lab can do to a link, a path and a host while it stands."""

from __future__ import annotations

import re
import socket
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from cyphonic.lab.build import Lab
from cyphonic.lab.firewall import Firewall
from cyphonic.lab.tools import LabError
from cyphonic.lab.topology import parse_topology

Probe = Callable[..., Any]

TOPOLOGY = """
[network.internet]
ipv4 = "203.0.113.0/24"
ipv6 = "2001:db8:1::/64"
[network.other]
ipv4 = "198.51.100.0/24"
ipv6 = "2001:db8:2::/64"
[network.carrier]
ipv4 = "100.64.0.0/24"
[network.home]
ipv4 = "192.168.1.0/24"
[router.core]
serves = ["internet", "other"]
[router.cgnat]
uplink = "internet"
serves = ["carrier"]
nat = "full-cone"
[router.home-router]
uplink = "carrier"
serves = ["home"]
nat = "port-restricted"
[host.alice]
network = "internet"
[host.bob]
network = "internet"
[host.laptop]
network = "home"
[link.laptop]
delay = 0.02
"""


@pytest.fixture(scope="module")
def lab(laboratory_ground: None) -> Iterator[Lab]:
    with Lab(parse_topology(TOPOLOGY, "wiring")) as lab:
        yield lab


def ping(lab: Lab, source: str, target: str, *options: str, version: int = 4) -> str:
    """What ping says."""
    return lab.run(source, ["ping", *(options or ("-c1", "-W1")), lab.address(target, version)], check=False).stdout


def reaches(lab: Lab, source: str, target: str, version: int = 4) -> bool:
    return " 0% packet loss" in ping(lab, source, target, version=version)


def round_trips(said: str) -> list[float]:
    """Milliseconds."""
    return [float(value) for value in re.findall(r"time=([0-9.]+) ms", said)]


def test_a_declared_delay_counts_each_way(lab: Lab) -> None:
    times = round_trips(ping(lab, "laptop", "alice", "-c5", "-i0.05"))
    assert len(times) == 5
    assert all(time >= 40 for time in times)


def test_delay_and_jitter_vary_round_trips_and_a_perfect_link_takes_them_away(lab: Lab) -> None:
    lab.impair("alice", delay=0.03, jitter=0.02, seed=1)
    times = round_trips(ping(lab, "alice", "bob", "-c10", "-i0.05"))
    assert all(20 <= time < 150 for time in times)
    assert max(times) - min(times) > 5
    lab.impair("alice")
    assert min(round_trips(ping(lab, "alice", "bob", "-c3", "-i0.05"))) < 20


def test_duplication_and_reordering_show_at_the_other_end(lab: Lab, probe: Probe) -> None:
    lab.impair("alice", delay=0.005, reorder=0.3, duplicate=0.3, seed=7)
    sender, receiver = probe(lab, "alice"), probe(lab, "bob")
    for number in range(100):
        sender.send(bytes([number]), lab.address("bob"), receiver.port)
    numbers = []
    while (datagram := receiver.receive()) is not None:
        numbers.append(datagram[0][0])
    lab.impair("alice")
    assert set(numbers) == set(range(100))
    assert 110 <= len(numbers) <= 150
    assert numbers != sorted(numbers)


def test_loss_and_rate_are_as_asked(lab: Lab, probe: Probe) -> None:
    lab.impair("alice", loss=0.3)
    sender, receiver = probe(lab, "alice"), probe(lab, "bob")
    for number in range(200):
        sender.send(bytes([number]), lab.address("bob"), receiver.port)
    arrived = 0
    while receiver.receive() is not None:
        arrived += 1
    assert 100 <= arrived <= 175
    lab.impair("alice", rate=200_000)
    slow = round_trips(ping(lab, "alice", "bob", "-c40", "-i0.002", "-s1400"))
    assert max(slow) > 20
    lab.impair("alice")
    assert max(round_trips(ping(lab, "alice", "bob", "-c20", "-i0.002", "-s1400"))) < max(slow)


def test_large_transfers_survive_the_forwarder(lab: Lab) -> None:
    """Segments and checksums that offloading leaves to the interface pass unharmed."""
    lab.impair("alice", delay=0.001)
    server = lab.open_socket("bob", socket.AF_INET, socket.SOCK_STREAM)
    client = lab.open_socket("alice", socket.AF_INET, socket.SOCK_STREAM)
    with server, client:
        server.bind(("0.0.0.0", 0))
        server.listen()
        client.settimeout(10)
        client.connect((lab.address("bob"), server.getsockname()[1]))
        connection, _ = server.accept()
        with connection:
            connection.settimeout(10)
            data = bytes(range(256)) * 1024
            client.sendall(data)
            received = b""
            while len(received) < len(data):
                received += connection.recv(65536)
    lab.impair("alice")
    assert received == data


@pytest.mark.parametrize("version", [4, 6])
def test_a_blocked_path_is_blocked_in_one_direction(lab: Lab, version: int) -> None:
    def heard(source: str, target: str) -> bool:
        family = socket.AF_INET6 if version == 6 else socket.AF_INET
        with lab.open_socket(source, family) as sender, lab.open_socket(target, family) as receiver:
            receiver.bind(("::" if version == 6 else "0.0.0.0", 0))
            receiver.settimeout(0.3)
            sender.sendto(b"hello", (lab.address(target, version), receiver.getsockname()[1]))
            try:
                return receiver.recv(100) == b"hello"
            except TimeoutError:
                return False

    lab.block("alice", "bob")
    assert (heard("alice", "bob"), heard("bob", "alice")) == (False, True)
    lab.unblock("alice", "bob")
    assert heard("alice", "bob")


def test_a_stateful_firewall_lets_in_answers_only_and_no_udp_nothing(lab: Lab, probe: Probe) -> None:
    lab.wiring.set_firewall("bob", Firewall.STATEFUL)
    alice, bob = probe(lab, "alice"), probe(lab, "bob")
    alice.send(b"early", lab.address("bob"), bob.port)
    assert bob.receive() is None
    bob.send(b"out", lab.address("alice"), alice.port)
    assert alice.receive()[0] == b"out"
    alice.send(b"answer", lab.address("bob"), bob.port)
    assert bob.receive()[0] == b"answer"
    lab.wiring.set_firewall("bob", Firewall.NO_UDP)
    alice.send(b"more", lab.address("bob"), bob.port)
    assert bob.receive() is None
    assert reaches(lab, "alice", "bob")
    lab.wiring.set_firewall("bob", Firewall.NONE)


def test_behind_two_nats_in_a_row_the_outer_one_is_seen(lab: Lab, probe: Probe) -> None:
    inside, outside = probe(lab, "laptop", 40000), probe(lab, "alice", 0)
    inside.send(b"out", lab.address("alice"), outside.port)
    _, source = outside.receive()
    cgnat = next(router for router in lab.topology.routers if router.name == "cgnat")
    assert cgnat.uplink is not None
    assert cgnat.uplink.ipv4 is not None
    assert source[0] == str(cgnat.uplink.ipv4.ip)
    outside.send(b"back", *source)
    assert inside.receive()[0] == b"back"


def test_a_host_moves_to_another_network_and_back_with_both_families(lab: Lab) -> None:
    lab.move("bob", "other")
    assert lab.address("bob").startswith("198.51.100.")
    assert reaches(lab, "alice", "bob")
    assert reaches(lab, "bob", "alice", version=6)
    lab.move("bob", "internet", ["ipv6"])
    assert reaches(lab, "bob", "alice", version=6)
    with pytest.raises(LabError, match="no IPv4"):
        lab.address("bob", 4)
    lab.wiring.set_families("bob", ["ipv4", "ipv6"])
    assert reaches(lab, "alice", "bob")
    old = lab.address("bob")
    lab.renumber("bob")
    assert lab.address("bob") != old
    assert reaches(lab, "alice", "bob")


def test_an_upstream_change_is_not_seen_inside(lab: Lab, probe: Probe) -> None:
    before = lab.run("laptop", ["ip", "-o", "address"]).stdout
    lab.renumber("home-router")
    lab.renumber("cgnat")
    assert lab.run("laptop", ["ip", "-o", "address"]).stdout == before
    inside, outside = probe(lab, "laptop", 40000), probe(lab, "alice")
    inside.send(b"out", lab.address("alice"), outside.port)
    assert outside.receive()[1][0] == str(lab.wiring.attachment("cgnat").ipv4.ip)  # type: ignore[union-attr]


def test_a_pulled_cable_is_silent_until_it_is_back(lab: Lab) -> None:
    lab.wiring.unplug("alice")
    assert not reaches(lab, "alice", "bob")
    lab.wiring.plug("alice")
    assert reaches(lab, "alice", "bob")


def test_a_second_interface_leads_elsewhere(lab: Lab) -> None:
    added = lab.wiring.add_interface("alice", "other")
    assert added.ipv4 is not None
    source = str(added.ipv4.ip)
    assert "0% packet loss" in lab.run("alice", ["ping", "-c1", "-W1", "-I", source, "198.51.100.1"]).stdout
