"""Every NAT kind does what RFC 4787 calls it: mapping towards three destinations, filtering from four sources."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from cyphonic.lab.build import Lab

Probe = Callable[..., Any]
KINDS = ["full-cone", "address-restricted", "port-restricted", "symmetric"]
INSIDE_PORT = 40000


class Outside:
    """Four outside sockets: one that is contacted, the same address with another port, and two of a stranger."""

    def __init__(self, lab: Lab, probe: Probe) -> None:
        self.cloud, self.stranger = lab.address("cloud"), lab.address("stranger")
        self.contacted = probe(lab, "cloud")
        self.same_address = probe(lab, "cloud")
        self.other_address = probe(lab, "stranger", self.contacted.port)
        self.other_both = probe(lab, "stranger")


@pytest.fixture
def outside(nats_lab: Lab, probe: Probe) -> Outside:
    nats_lab.flush_nats()
    return Outside(nats_lab, probe)


@pytest.mark.parametrize(("kind", "ports"), [*((kind, 1) for kind in KINDS[:3]), ("symmetric", 3)])
def test_mapping(nats_lab: Lab, probe: Probe, outside: Outside, kind: str, ports: int) -> None:
    inside = probe(nats_lab, kind, INSIDE_PORT)
    seen = set()
    for host, observer in [
        (outside.cloud, outside.contacted),
        (outside.cloud, outside.same_address),
        (outside.stranger, outside.other_both),
    ]:
        inside.send(b"out", host, observer.port)
        seen.add(observer.receive()[1])
    assert len({address for address, _ in seen}) == 1
    assert len({port for _, port in seen}) == ports
    assert (INSIDE_PORT in {port for _, port in seen}) == (ports == 1)


@pytest.mark.parametrize(
    ("kind", "admitted"),
    [
        ("full-cone", {"contacted", "same_address", "other_address", "other_both"}),
        ("address-restricted", {"contacted", "same_address"}),
        ("port-restricted", {"contacted"}),
        ("symmetric", {"contacted"}),
    ],
)
def test_filtering(nats_lab: Lab, probe: Probe, outside: Outside, kind: str, admitted: set[str]) -> None:
    inside = probe(nats_lab, kind, INSIDE_PORT)
    inside.send(b"out", outside.cloud, outside.contacted.port)
    mapped = outside.contacted.receive()[1]
    for name in ("contacted", "same_address", "other_address", "other_both"):
        getattr(outside, name).send(name.encode(), *mapped)
    heard = set()
    while (datagram := inside.receive()) is not None:
        heard.add(datagram[0].decode())
    assert heard == admitted


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_comes_in_before_something_went_out(
    nats_lab: Lab, probe: Probe, outside: Outside, kind: str
) -> None:
    router = next(r for r in nats_lab.topology.routers if r.nat.value == kind)
    assert router.uplink is not None
    assert router.uplink.ipv4 is not None
    inside = probe(nats_lab, kind, INSIDE_PORT)
    outside.contacted.send(b"early", str(router.uplink.ipv4.ip), INSIDE_PORT)
    assert inside.receive() is None
    inside.send(b"out", outside.cloud, outside.contacted.port)
    assert outside.contacted.receive()[1][1] == INSIDE_PORT or kind == "symmetric"


@pytest.mark.parametrize("kind", KINDS)
def test_a_flush_makes_a_nat_forget_whom_it_let_in(
    nats_lab: Lab, probe: Probe, outside: Outside, kind: str
) -> None:
    inside = probe(nats_lab, kind, INSIDE_PORT)
    inside.send(b"out", outside.cloud, outside.contacted.port)
    mapped = outside.contacted.receive()[1]
    nats_lab.flush_nats()
    outside.contacted.send(b"back", *mapped)
    assert inside.receive() is None


def test_two_port_restricted_hosts_punch_through_to_each_other(nats_lab: Lab, probe: Probe) -> None:
    """What the demo's two homes do; here between a port-restricted and an address-restricted NAT."""
    nats_lab.flush_nats()
    ends = {name: probe(nats_lab, name, INSIDE_PORT) for name in ("port-restricted", "address-restricted")}
    mapped = {
        router.nat.value: str(router.uplink.ipv4.ip)
        for router in nats_lab.topology.routers
        if router.uplink is not None and router.uplink.ipv4 is not None
    }
    ends["port-restricted"].send(b"lost", mapped["address-restricted"], INSIDE_PORT)
    assert ends["address-restricted"].receive() is None
    ends["address-restricted"].send(b"through", mapped["port-restricted"], INSIDE_PORT)
    assert ends["port-restricted"].receive()[0] == b"through"
    ends["port-restricted"].send(b"back", mapped["address-restricted"], INSIDE_PORT)
    assert ends["address-restricted"].receive()[0] == b"back"


def test_two_hosts_behind_one_nat_may_use_the_same_port(nats_lab: Lab, probe: Probe, outside: Outside) -> None:
    first = probe(nats_lab, "port-restricted", INSIDE_PORT)
    second = probe(nats_lab, "port-restricted-two", INSIDE_PORT)
    for inside, data in ((first, b"first"), (second, b"second")):
        inside.send(data, outside.cloud, outside.contacted.port)
    sources = dict(outside.contacted.receive() for _ in range(2))
    assert sources[b"first"] != sources[b"second"]
    for data, source in sources.items():
        outside.contacted.send(data, *source)
    assert first.receive()[0] == b"first"
    assert second.receive()[0] == b"second"


def test_two_hosts_behind_a_full_cone_reach_each_other_by_the_outside_address(
    nats_lab: Lab, probe: Probe, outside: Outside
) -> None:
    first = probe(nats_lab, "full-cone", INSIDE_PORT)
    second = probe(nats_lab, "full-cone-two", INSIDE_PORT + 1)
    first.send(b"out", outside.cloud, outside.contacted.port)
    mapped = outside.contacted.receive()[1]
    second.send(b"hairpin", *mapped)
    data, source = first.receive()
    assert data == b"hairpin"
    assert source[0] == mapped[0]


@pytest.mark.parametrize("kind", ["full-cone", "address-restricted"])
def test_who_answers_a_stranger_does_not_give_its_port_away(
    nats_lab: Lab, probe: Probe, outside: Outside, kind: str
) -> None:
    inside = probe(nats_lab, kind, INSIDE_PORT)
    inside.send(b"out", outside.cloud, outside.contacted.port)
    mapped = outside.contacted.receive()[1]
    outside.same_address.send(b"in", *mapped)
    assert inside.receive()[0] == b"in"
    router = next(r.name for r in nats_lab.topology.routers if r.nat.value == kind)
    nats_lab.run(router, ["nft", "flush", "map", "ip", "nat", "mappings"])
    inside.send(b"answer", outside.cloud, outside.same_address.port)
    assert outside.same_address.receive()[0] == b"answer"
    assert outside.cloud not in nats_lab.run(router, ["nft", "list", "map", "ip", "nat", "mappings"]).stdout
