from __future__ import annotations

import math

import pytest

from cyphonic.errors import MalformedError
from cyphonic.node.portmap.mapper import PATIENCE, RENEWAL_RETRY, RETRY_AFTER, MapperState, PortMapper
from cyphonic.node.portmap.natpmp import AddressResponse, PortRequest, PortResponse
from cyphonic.node.portmap.pcp import MapRequest, MapResponse
from cyphonic.wire.endpoint import Endpoint

EXTERNAL = Endpoint("203.0.113.5", 50443)


class Gateway:
    """What speaks at port 5351 of the gateway: PCP, NAT-PMP, both or nothing."""

    def __init__(self, *protocols: str) -> None:
        self.protocols = set(protocols)
        self.lifetime = 1000
        self.result = 0
        self.mapper = PortMapper(lambda length: b"n" * length)
        self.now = 100.0
        self.heard: list[bytes] = []

    def answers(self, datagram: bytes) -> list[bytes]:
        if datagram[0] == 2 and "pcp" in self.protocols:
            request = MapRequest.decode(datagram)
            lifetime = min(request.lifetime, self.lifetime)
            mapped = MapResponse(self.result, lifetime, 1, request.nonce, request.internal_port, EXTERNAL)
            return [mapped.encode()]
        if datagram[0] == 2 and "natpmp" in self.protocols:
            return [bytes.fromhex("00 81 0001 00000007")]
        if datagram == bytes(2) and "natpmp" in self.protocols:
            return [AddressResponse(0, 1, EXTERNAL.host).encode()]
        if datagram[0] == 0 and "natpmp" in self.protocols:
            port = PortRequest.decode(datagram)
            return [PortResponse(0, 1, port.internal_port, EXTERNAL.port, min(port.lifetime, 1000)).encode()]
        return []

    def exchange(self) -> None:
        while datagrams := self.mapper.datagrams_to_send():
            for datagram in datagrams:
                self.heard.append(datagram)
                for answer in self.answers(datagram):
                    self.mapper.receive(answer, self.now)

    def begin(self) -> PortMapper:
        self.mapper.begin("10.0.0.2", 40000, self.now)
        self.exchange()
        return self.mapper

    def run(self, seconds: float) -> None:
        end = self.now + seconds
        while self.mapper.next_deadline() <= end:
            self.now = self.mapper.next_deadline()
            self.mapper.handle_timeout(self.now)
            self.exchange()
        self.now = end


@pytest.mark.parametrize(
    ("protocols", "used"), [(("pcp", "natpmp"), "PCP"), (("pcp",), "PCP"), (("natpmp",), "NAT-PMP")]
)
def test_the_first_protocol_that_the_gateway_speaks_is_used(protocols: tuple[str, ...], used: str) -> None:
    mapper = Gateway(*protocols).begin()
    assert (mapper.state, mapper.external, mapper.protocol) == (MapperState.MAPPED, EXTERNAL, used)


def test_a_silent_gateway_is_asked_a_few_times_in_each_protocol_and_again_much_later() -> None:
    gateway = Gateway()
    mapper = gateway.begin()
    gateway.run(2 * PATIENCE)
    assert [datagram[0] for datagram in gateway.heard] == [2] * 4 + [0] * 8
    assert (mapper.state, mapper.external) == (MapperState.REFUSED, None)
    gateway.protocols.add("pcp")
    gateway.run(RETRY_AFTER)
    assert mapper.external == EXTERNAL


def test_a_gateway_without_that_port_is_not_asked_twice() -> None:
    gateway = Gateway()
    mapper = gateway.begin()
    mapper.unreachable(gateway.now)
    gateway.exchange()
    mapper.unreachable(gateway.now)
    assert mapper.state is MapperState.REFUSED
    assert len(gateway.heard) == 3


def test_a_mapping_is_renewed_at_half_of_its_life() -> None:
    gateway = Gateway("pcp")
    mapper = gateway.begin()
    gateway.run(499)
    assert len(gateway.heard) == 1
    gateway.run(2)
    assert len(gateway.heard) == 2
    gateway.run(5000)
    assert mapper.external == EXTERNAL


def test_a_renewal_that_fails_is_tried_again_while_the_mapping_stands_and_then_all_begins_anew() -> None:
    gateway = Gateway("pcp")
    mapper = gateway.begin()
    gateway.protocols.clear()
    gateway.run(500 + PATIENCE + 1)
    assert mapper.external == EXTERNAL
    gateway.protocols.add("pcp")
    gateway.run(RENEWAL_RETRY)
    assert mapper.next_deadline() > gateway.now + 400
    gateway.protocols = {"natpmp"}
    gateway.run(2000)
    assert (mapper.external, mapper.protocol) == (EXTERNAL, "NAT-PMP")
    gateway.protocols.clear()
    gateway.run(1100)
    assert mapper.external is None


def test_a_refusal_is_remembered() -> None:
    gateway = Gateway("pcp")
    gateway.result = 2
    mapper = gateway.begin()
    gateway.run(PATIENCE)
    assert (mapper.state, mapper.refusal) == (MapperState.REFUSED, "PCP: not authorized")


@pytest.mark.parametrize("protocol", ["pcp", "natpmp"])
def test_at_the_end_the_mapping_is_given_back(protocol: str) -> None:
    gateway = Gateway(protocol)
    mapper = gateway.begin()
    mapper.end()
    (datagram,) = mapper.datagrams_to_send()
    assert int.from_bytes(datagram[4:8] if protocol == "pcp" else datagram[8:12], "big") == 0
    assert (mapper.external, mapper.next_deadline()) == (None, math.inf)
    mapper.end()
    assert not mapper.datagrams_to_send()


def test_bad_bytes_change_nothing_and_repetitions_neither() -> None:
    gateway = Gateway("pcp")
    gateway.mapper.begin("10.0.0.2", 40000, gateway.now)
    (request,) = gateway.mapper.datagrams_to_send()
    with pytest.raises(MalformedError):
        gateway.mapper.receive(b"\x02\x81\x00\x00", gateway.now)
    (answer,) = gateway.answers(request)
    gateway.mapper.receive(answer, gateway.now)
    deadline = gateway.mapper.next_deadline()
    gateway.mapper.receive(answer, gateway.now + 5)
    assert gateway.mapper.next_deadline() == deadline


@pytest.mark.parametrize("lifetime", [0, 2**32 - 1])
def test_an_odd_lifetime_makes_neither_a_storm_nor_a_mapping_for_ever(lifetime: int) -> None:
    gateway = Gateway("pcp")
    mapper = gateway.begin()
    mapper.handle_timeout(mapper.next_deadline())
    (request,) = mapper.datagrams_to_send()
    parsed = MapRequest.decode(request)
    mapper.receive(MapResponse(0, lifetime, 1, parsed.nonce, 40000, EXTERNAL).encode(), gateway.now)
    assert gateway.now + 30 <= mapper.next_deadline() <= gateway.now + 86400
