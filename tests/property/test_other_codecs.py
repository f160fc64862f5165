"""Codecs beside the wire: cookies, tickets, bundles, and what a gateway is asked."""

from __future__ import annotations

import random
from typing import Protocol

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cyphonic.bundle import Bundle
from cyphonic.errors import MalformedError
from cyphonic.node.portmap.natpmp import AddressResponse, PortRequest, PortResponse
from cyphonic.node.portmap.pcp import MapRequest, MapResponse
from cyphonic.protocol.cookie import CookieMint, add_mac2, cookie_key, open_cookie
from cyphonic.protocol.limits import COOKIE_REFRESH_TIME, PROBE_TICKET_SLOT
from cyphonic.protocol.mac import append_macs, mac1_key
from cyphonic.protocol.probe import check_ticket, ticket_key, write_ticket
from cyphonic.wire.endpoint import Endpoint

u16, u32 = st.integers(0, 2**16 - 1), st.integers(0, 2**32 - 1)
keys = st.binary(min_size=32, max_size=32)
addresses = st.ip_addresses(v=4).map(str)
endpoints = st.builds(Endpoint, addresses, u16)
ports = st.integers(1, 2**16 - 1)
reachable = st.builds(Endpoint, st.ip_addresses().map(str), ports)
walls = st.floats(0, 2**33)
"""Unix seconds, those of a clock that was never set included."""
nonces = st.binary(min_size=12, max_size=12)


class Message(Protocol):
    def encode(self) -> bytes: ...


GATEWAY: dict[type, st.SearchStrategy[Message]] = {
    MapRequest: st.builds(MapRequest, nonces, addresses, u16, u32, endpoints),
    MapResponse: st.builds(MapResponse, st.integers(0, 255), u32, u32, nonces, u16, endpoints),
    AddressResponse: st.builds(AddressResponse, u16, u32, addresses),
    PortRequest: st.builds(PortRequest, u16, u16, u32),
    PortResponse: st.builds(PortResponse, u16, u32, u16, u16, u32),
}


@pytest.mark.parametrize("kind", GATEWAY, ids=lambda kind: kind.__name__)
@settings(max_examples=50, deadline=None)
@given(data=st.data())
def test_what_a_gateway_is_asked_and_answers_survives_its_bytes(kind: type, data: st.DataObject) -> None:
    message = data.draw(GATEWAY[kind])
    encoded = message.encode()
    assert kind.decode(encoded) == message  # type: ignore[attr-defined]
    with pytest.raises(MalformedError):
        kind.decode(encoded[: data.draw(st.integers(0, len(encoded) - 1))])  # type: ignore[attr-defined]


@settings(max_examples=50, deadline=None)
@given(keys, keys, reachable, reachable, st.binary(min_size=100, max_size=1100), walls, st.floats(0, 119))
def test_a_cookie_proves_one_source_to_every_frontend_of_the_fleet_for_its_time(
    secret: bytes, public: bytes, source: Endpoint, other: Endpoint, body: bytes, wall: float, later: float
) -> None:
    chance = random.Random(len(body)).randbytes
    one, two = CookieMint(secret, public, chance), CookieMint(secret, public, chance)
    request = append_macs(body, mac1_key(public))
    assert not one.proves(request, source.encode(), wall)
    cookie = open_cookie(one.reply(request, source.encode(), wall), request, cookie_key(public))
    proof = add_mac2(request, cookie)
    assert two.proves(proof, source.encode(), wall + later)
    with pytest.raises(MalformedError, match="bad_mac2"):
        two.proves(proof, source.encode(), wall + 2 * COOKIE_REFRESH_TIME + 1)
    if other != source:
        with pytest.raises(MalformedError, match="bad_mac2"):
            two.proves(proof, other.encode(), wall)


@settings(max_examples=50, deadline=None)
@given(keys, reachable, reachable, walls)
def test_a_ticket_is_for_one_endpoint_and_for_a_while(
    secret: bytes, endpoint: Endpoint, other: Endpoint, wall: float
) -> None:
    key = ticket_key(secret)
    ticket = write_ticket(key, endpoint, wall)
    check_ticket(ticket, key, endpoint, wall + PROBE_TICKET_SLOT)
    with pytest.raises(MalformedError):
        check_ticket(ticket, key, endpoint, wall + 2 * PROBE_TICKET_SLOT + 1)
    if other.encode_fixed() != endpoint.encode_fixed():
        with pytest.raises(MalformedError):
            check_ticket(ticket, key, other, wall)


labels = st.from_regex(r"[a-z0-9]([a-z0-9-]{0,10}[a-z0-9])?", fullmatch=True)


@settings(max_examples=50, deadline=None)
@given(labels, labels, st.lists(reachable, min_size=1, max_size=8), keys, keys, keys, labels | st.just(""))
def test_a_bundle_survives_its_text(
    region: str, domain: str, endpoints: list[Endpoint], one: bytes, two: bytes, three: bytes, name: str
) -> None:
    bundle = Bundle(region, domain, tuple(endpoints), one, two, three, name)
    assert Bundle.parse(bundle.dump().encode(), "here") == bundle
