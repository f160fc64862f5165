"""Fixed layouts: what is encoded decodes to itself, and no bytes do worse than be refused."""

from __future__ import annotations

import ipaddress
from typing import Protocol

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cyphonic.errors import MalformedError
from cyphonic.wire.direction import Role
from cyphonic.wire.endpoint import Endpoint
from cyphonic.wire.header import (
    CapsuleHeader,
    MessageType,
    SignalingHeader,
    decode_relayed,
    encode_relayed,
)
from cyphonic.wire.hint import CookieReply, encode_hint, encode_version_hint, repeated
from cyphonic.wire.probe import RelayProbe, RelayProbeReply
from cyphonic.wire.relay import RelayBind, RelayBindChallenge, RelayBound
from cyphonic.wire.tunnel import (
    HolePunch,
    TunnelRequest,
    TunnelResponse,
    decode_path_check,
    decode_path_check_ack,
    encode_path_check_ack,
)


class Message(Protocol):
    def encode(self) -> bytes: ...


u8, u16, u32, u64 = (st.integers(0, 2**bits - 1) for bits in (8, 16, 32, 64))
identifiers = st.binary(min_size=16, max_size=16)
roles = st.sampled_from(Role)
endpoints = st.builds(Endpoint, st.ip_addresses().map(str), st.integers(1, 65535))
# A RelayBound writes IPv4 as mapped IPv6, so a mapped address comes back as IPv4.
unmapped = endpoints.filter(lambda it: getattr(ipaddress.ip_address(it.host), "ipv4_mapped", None) is None)

MESSAGES: dict[type, tuple[st.SearchStrategy[Message], int]] = {
    SignalingHeader: (
        st.builds(SignalingHeader, st.sampled_from(MessageType), u32, identifiers, identifiers, u16),
        0,
    ),
    CapsuleHeader: (st.builds(CapsuleHeader, u8, u8, u8, u8, u32, u64), 0),
    TunnelRequest: (st.builds(TunnelRequest, u32, identifiers, st.binary(min_size=96, max_size=200)), 16),
    TunnelResponse: (st.builds(TunnelResponse, u32, u32, st.binary(min_size=48, max_size=200)), 16),
    HolePunch: (st.builds(HolePunch, roles, u32, identifiers), 16),
    RelayBind: (
        st.builds(RelayBind, roles, u32, identifiers, identifiers, st.binary(min_size=40, max_size=256)),
        48,
    ),
    RelayBindChallenge: (st.builds(RelayBindChallenge, roles, u32, identifiers, identifiers.filter(any)), 16),
    RelayBound: (st.builds(RelayBound, roles, u32, identifiers, u32, u32, unmapped), 16),
    RelayProbe: (st.builds(RelayProbe, identifiers, st.booleans(), st.none() | unmapped, identifiers), 32),
    RelayProbeReply: (
        st.builds(RelayProbeReply, identifiers, unmapped, u16, identifiers, st.booleans()),
        16,
    ),
    CookieReply: (
        st.builds(
            CookieReply,
            st.binary(min_size=39, max_size=39),
            st.binary(min_size=24, max_size=24),
            st.binary(min_size=32, max_size=32),
        ),
        0,
    ),
}
"""Each message, and how many bytes of MAC follow it."""


@pytest.mark.parametrize("message_type", MESSAGES, ids=lambda message_type: message_type.__name__)
@settings(max_examples=50, deadline=None)
@given(data=st.data())
def test_every_message_survives_its_bytes(message_type: type, data: st.DataObject) -> None:
    strategy, trailer = MESSAGES[message_type]
    message = data.draw(strategy)
    assert message_type.decode(message.encode() + bytes(trailer)) == message  # type: ignore[attr-defined]


@pytest.mark.parametrize("message_type", MESSAGES, ids=lambda message_type: message_type.__name__)
@settings(max_examples=100, deadline=None)
@given(noise=st.binary(max_size=400))
def test_any_bytes_are_a_message_or_malformed(message_type: type, noise: bytes) -> None:
    try:
        message = message_type.decode(noise)  # type: ignore[attr-defined]
    except MalformedError:
        return
    assert isinstance(message, message_type)


@settings(deadline=None)
@given(endpoints)
def test_every_endpoint_survives_bytes_and_text(endpoint: Endpoint) -> None:
    assert Endpoint.parse(str(endpoint)) == endpoint
    again = Endpoint.decode(endpoint.encode())
    assert ipaddress.ip_address(again.host) == ipaddress.ip_address(endpoint.host)
    assert (again.port, again.family) == (endpoint.port, endpoint.family)


@settings(deadline=None)
@given(st.binary(max_size=30))
def test_any_bytes_are_an_endpoint_or_a_path_check_or_malformed(noise: bytes) -> None:
    for reader in (Endpoint.decode, decode_path_check, decode_path_check_ack, decode_relayed):
        try:
            reader(noise)
        except MalformedError:
            continue


@given(u32, endpoints)
def test_path_check_acks_and_relayed_headers_survive(number: int, endpoint: Endpoint) -> None:
    assert decode_path_check_ack(encode_path_check_ack(number, endpoint))[0] == number
    assert decode_relayed(encode_relayed(number)) == number


@settings(deadline=None)
@given(st.text(max_size=40))
def test_any_text_is_an_endpoint_that_can_be_encoded_or_refused(text: str) -> None:
    try:
        endpoint = Endpoint.parse(text)
    except ValueError:
        return
    assert len(endpoint.encode()) in (6, 18)


@settings(deadline=None)
@given(st.binary(min_size=40, max_size=200), st.sampled_from(MessageType), u32, identifiers, identifiers)
def test_every_hint_repeats_its_cause_in_forty_bytes(
    request: bytes, kind: MessageType, number: int, node: bytes, transaction: bytes
) -> None:
    hint = encode_version_hint(request)
    assert len(hint) == 40
    assert (hint[1], hint[4:]) == (request[1], request[4:40])
    header = SignalingHeader(kind, number, node, transaction)
    busy = encode_hint(MessageType.BUSY, header)
    assert repeated(busy) == repeated(header.encode())


@settings(deadline=None)
@given(st.integers(90, 1500), identifiers)
def test_a_probe_is_as_long_as_it_is_to_be(length: int, nonce: bytes) -> None:
    datagram = RelayProbe(nonce).encode(length) + bytes(32)
    assert len(datagram) == length
    assert RelayProbe.decode(datagram).nonce == nonce
