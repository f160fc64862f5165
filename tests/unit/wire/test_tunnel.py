from __future__ import annotations

import pytest

from cyphonic.errors import MalformedError
from cyphonic.wire.direction import Role
from cyphonic.wire.endpoint import Endpoint
from cyphonic.wire.tunnel import (
    HolePunch,
    TunnelRequest,
    TunnelResponse,
    decode_path_check,
    decode_path_check_ack,
    encode_path_check,
    encode_path_check_ack,
)

MAC = b"m" * 16


def test_a_tunnel_request_is_laid_out_as_drawn() -> None:
    request = TunnelRequest(0x01020304, b"p" * 16, b"x" * 96)
    assert request.encode() == bytes.fromhex("01 01 0000 01020304") + b"p" * 16 + b"x" * 96
    assert TunnelRequest.decode(request.encode() + MAC) == request


def test_a_tunnel_response_is_laid_out_as_drawn() -> None:
    response = TunnelResponse(0x01020304, 0x05060708, b"x" * 48)
    assert response.encode() == bytes.fromhex("02 01 0000 01020304 05060708") + b"x" * 48
    assert TunnelResponse.decode(response.encode() + MAC) == response


def test_a_hole_punch_is_laid_out_as_drawn() -> None:
    punch = HolePunch(Role.RESPONDER, 7, b"p" * 16)
    assert punch.encode() == bytes.fromhex("03 01 0001 00000007") + b"p" * 16
    assert HolePunch.decode(punch.encode() + MAC) == punch


@pytest.mark.parametrize(
    ("message", "datagram"),
    [
        (TunnelRequest, TunnelRequest(1, b"p" * 16, b"x" * 96).encode() + MAC),
        (TunnelResponse, TunnelResponse(1, 2, b"x" * 48).encode() + MAC),
        (HolePunch, HolePunch(Role.INITIATOR, 7, b"p" * 16).encode() + MAC),
    ],
)
def test_short_datagrams_and_other_versions_are_refused_and_unknown_flags_ignored(
    message: type[TunnelRequest | TunnelResponse | HolePunch], datagram: bytes
) -> None:
    for length in range(len(datagram)):
        with pytest.raises(MalformedError, match=r"too_short|bad_length"):
            message.decode(datagram[:length])
    with pytest.raises(MalformedError, match="unknown_version"):
        message.decode(datagram[:1] + b"\x02" + datagram[2:])
    assert message.decode(datagram[:2] + b"\x80\x02" + datagram[4:]) == message.decode(datagram)


def test_path_checks_survive() -> None:
    assert decode_path_check(encode_path_check(2**32 - 1)) == 2**32 - 1
    for endpoint in (Endpoint("192.0.2.1", 443), Endpoint("2001:db8::1", 443)):
        assert decode_path_check_ack(encode_path_check_ack(5, endpoint)) == (5, endpoint)


def test_what_a_later_version_adds_to_a_check_is_ignored() -> None:
    endpoint = Endpoint("192.0.2.1", 443)
    assert decode_path_check(encode_path_check(7) + b"more") == 7
    assert decode_path_check_ack(encode_path_check_ack(7, endpoint) + b"more") == (7, endpoint)


@pytest.mark.parametrize("body", [b"", bytes(3)])
def test_a_short_path_check_is_refused(body: bytes) -> None:
    with pytest.raises(MalformedError, match="bad_body"):
        decode_path_check(body)


@pytest.mark.parametrize("body", [b"", bytes(3), bytes(4), bytes(9), bytes(10), b"\1" * 11])
def test_a_path_check_ack_without_an_endpoint_is_refused(body: bytes) -> None:
    with pytest.raises(MalformedError, match=r"bad_body|bad_endpoint"):
        decode_path_check_ack(body)
