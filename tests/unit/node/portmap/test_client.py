"""The driver on real sockets: a gateway on loopback, another one that is not there, and UPnP that is faked."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from cyphonic.node.loop import Loop
from cyphonic.node.portmap.client import PortMapping
from cyphonic.node.portmap.pcp import MapRequest, MapResponse
from cyphonic.node.underlay import DefaultRoute, Underlay
from cyphonic.wire.endpoint import Endpoint

EXTERNAL = Endpoint("203.0.113.5", 50443)
PATIENCE = 10.0
UNDERLAY = Underlay(frozenset({socket.AF_INET}), ("127.0.0.1",), (DefaultRoute(socket.AF_INET, 1, "127.0.0.1"),))


@pytest.fixture
def loop() -> Iterator[Loop]:
    with Loop() as loop:
        yield loop


@pytest.fixture
def gateway() -> Iterator[socket.socket]:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
        udp.bind(("127.0.0.1", 0))
        udp.settimeout(PATIENCE)
        yield udp


@pytest.fixture(autouse=True)
def loopback_is_private(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Endpoint, "is_private", True)


def turn_until(loop: Loop, done: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not done():
        assert time.monotonic() < deadline
        loop.turn(longest=0.05)


def answer(gateway: socket.socket) -> MapRequest:
    datagram, source = gateway.recvfrom(2048)
    request = MapRequest.decode(datagram)
    response = MapResponse(0, request.lifetime, 1, request.nonce, request.internal_port, EXTERNAL)
    gateway.sendto(response.encode(), source)
    return request


def test_what_the_gateway_maps_is_told_once_and_given_back(loop: Loop, gateway: socket.socket) -> None:
    told: list[Endpoint | None] = []
    port = gateway.getsockname()[1]
    mapping = PortMapping(loop, lambda: told.append(mapping.external), gateway_port=port)
    mapping.follow(UNDERLAY, 40000)
    request = answer(gateway)
    assert (request.client, request.internal_port) == ("127.0.0.1", 40000)
    turn_until(loop, lambda: told)
    mapping.follow(UNDERLAY, 40000)
    assert (told, mapping.text) == ([EXTERNAL], f"PCP {EXTERNAL}")
    mapping.close()
    assert MapRequest.decode(gateway.recvfrom(2048)[0]).lifetime == 0
    mapping.close()


def test_a_machine_without_gateway_asks_nobody(loop: Loop) -> None:
    mapping = PortMapping(loop, lambda: None)
    mapping.follow(UNDERLAY._replace(default_routes=()), 40000)
    assert (mapping.external, mapping.text) == (None, "")
    mapping.close()


class FakeUpnp:
    """As ``miniupnpc.UPnP``; the first port that is wanted is taken."""

    lanaddr = "10.0.0.2"

    def __init__(self) -> None:
        self.discoverdelay = 0
        self.mapped: dict[int, int] = {}

    def discover(self) -> int:
        return 1

    def selectigd(self) -> str:
        return "http://10.0.0.1/"

    def externalipaddress(self) -> str:
        return EXTERNAL.host

    def addportmapping(self, port: int, _protocol: str, _host: str, inside: int, *_: Any) -> bool:
        if port == inside:
            raise Exception("ConflictInMappingEntry")
        self.mapped[port] = inside
        return True

    def deleteportmapping(self, port: int, _protocol: str) -> bool:
        del self.mapped[port]
        return True


def test_upnp_is_tried_when_nothing_listens_at_the_gateways_port(loop: Loop, gateway: socket.socket) -> None:
    port = gateway.getsockname()[1]
    gateway.close()  # from now on ICMP says that nobody is there
    fake = FakeUpnp()
    package: Any = SimpleNamespace(UPnP=lambda: fake)
    mapping = PortMapping(loop, lambda: None, find_upnp=lambda: package, gateway_port=port)
    mapping.follow(UNDERLAY, 40000)
    turn_until(loop, lambda: mapping.external)
    assert mapping.text == f"UPnP {EXTERNAL.host}:40001"
    assert fake.mapped == {40001: 40000}
    mapping.close()
    assert fake.mapped == {}


def test_without_upnp_the_reason_is_said(loop: Loop, gateway: socket.socket) -> None:
    port = gateway.getsockname()[1]
    gateway.close()
    mapping = PortMapping(loop, lambda: None, find_upnp=lambda: None, gateway_port=port)
    mapping.follow(UNDERLAY, 40000)
    turn_until(loop, lambda: mapping.text != "asking")
    assert mapping.text == "none: the gateway does not answer"
    mapping.close()
