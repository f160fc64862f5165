"""PCP and NAT-PMP, to the byte; and whatever a gateway may send instead."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cyphonic.errors import MalformedError
from cyphonic.node.portmap.natpmp import AddressResponse, NatPmpSpeaker, PortRequest, PortResponse
from cyphonic.node.portmap.pcp import MapRequest, MapResponse, PcpSpeaker
from cyphonic.node.portmap.speaker import Granted, Refused, Speaker
from cyphonic.wire.endpoint import Endpoint

NONCE = b"n" * 12
EXTERNAL = Endpoint("203.0.113.5", 50443)
ANY = Endpoint("0.0.0.0", 0)
MAPPED = "00000000000000000000ffff"


def pcp() -> PcpSpeaker:
    return PcpSpeaker("10.0.0.2", 40000, lambda length: b"n" * length)


def test_a_pcp_request_is_laid_out_as_rfc_6887_draws_it() -> None:
    request = MapRequest(NONCE, "10.0.0.2", 40000, 3600, Endpoint("0.0.0.0", 40000))
    assert pcp().requests(3600) == [request.encode()]
    assert request.encode() == (
        bytes.fromhex(f"02 01 0000 00000e10 {MAPPED} 0a000002")
        + NONCE
        + bytes.fromhex(f"11 000000 9c40 9c40 {MAPPED} 00000000")
    )
    assert MapRequest.decode(request.encode()) == request


def test_a_pcp_response_is_laid_out_as_rfc_6887_draws_it() -> None:
    response = MapResponse(0, 1800, 7, NONCE, 40000, EXTERNAL)
    assert response.encode() == (
        bytes.fromhex("02 81 00 00 00000708 00000007")
        + bytes(12)
        + NONCE
        + bytes.fromhex(f"11 000000 9c40 c50b {MAPPED} cb007105")
    )
    assert MapResponse.decode(response.encode() + b"options!") == response
    assert pcp().read(response.encode()) == Granted(EXTERNAL, 1800)


def test_a_renewal_suggests_what_was_given() -> None:
    speaker = pcp()
    speaker.read(MapResponse(0, 1800, 7, NONCE, 40000, EXTERNAL).encode())
    assert MapRequest.decode(speaker.requests(3600)[0]).suggested == EXTERNAL


@pytest.mark.parametrize(("result", "unsupported"), [(1, True), (2, False), (4, True), (12, False), (99, False)])
def test_what_pcp_refuses_with_is_told(result: int, unsupported: bool) -> None:
    answer = pcp().read(MapResponse(result, 30, 7, NONCE, 40000, ANY).encode())
    assert isinstance(answer, Refused)
    assert answer.unsupported is unsupported
    assert answer.reason


def test_a_nat_pmp_gateway_that_is_asked_in_pcp_says_that_it_does_not_know_it() -> None:
    assert pcp().read(bytes.fromhex("00 81 0001 00000007")) == Refused("unsupported version", True)


@pytest.mark.parametrize(
    "response",
    [
        MapResponse(0, 1800, 7, b"x" * 12, 40000, EXTERNAL),
        MapResponse(0, 1800, 7, NONCE, 40001, EXTERNAL),
        MapResponse(0, 1800, 7, NONCE, 40000, Endpoint("203.0.113.5", 0)),
        MapResponse(0, 1800, 7, NONCE, 40000, Endpoint("0.0.0.0", 50443)),
    ],
)
def test_a_pcp_response_that_is_not_ours_or_gives_nothing_is_refused(response: MapResponse) -> None:
    with pytest.raises(MalformedError, match="bad_mapping"):
        pcp().read(response.encode())


def test_nat_pmp_is_laid_out_as_rfc_6886_draws_it() -> None:
    speaker = NatPmpSpeaker(40000)
    assert speaker.requests(3600) == [bytes(2), bytes.fromhex("00 01 0000 9c40 9c40 00000e10")]
    assert PortRequest.decode(speaker.requests(3600)[1]) == PortRequest(40000, 40000, 3600)
    assert speaker.requests(0) == [bytes.fromhex("00 01 0000 9c40 0000 00000000")]
    address = AddressResponse(0, 7, "203.0.113.5").encode()
    assert address == bytes.fromhex("00 80 0000 00000007 cb007105")
    port = PortResponse(0, 7, 40000, 50443, 1800).encode()
    assert port == bytes.fromhex("00 81 0000 00000007 9c40 c50b 00000708")


@pytest.mark.parametrize("address_first", [True, False])
def test_nat_pmp_grants_once_both_answers_are_there(address_first: bool) -> None:
    speaker = NatPmpSpeaker(40000)
    speaker.requests(3600)
    answers = [AddressResponse(0, 7, "203.0.113.5").encode(), PortResponse(0, 7, 40000, 50443, 1800).encode()]
    first, second = answers if address_first else reversed(answers)
    assert speaker.read(first) is None
    assert speaker.read(second) == Granted(EXTERNAL, 1800)


def test_what_nat_pmp_refuses_with_is_told_however_short_it_is() -> None:
    assert NatPmpSpeaker(40000).read(bytes.fromhex("00 81 0002")) == Refused("not authorized", False)
    assert NatPmpSpeaker(40000).read(bytes.fromhex("00 80 0005 00000000")) == Refused("unsupported opcode", True)


@pytest.mark.parametrize(
    "datagram",
    [
        PortResponse(0, 7, 40001, 50443, 1800).encode(),
        PortResponse(0, 7, 40000, 0, 1800).encode(),
        PortResponse(0, 7, 40000, 50443, 1800).encode()[:-1],
        AddressResponse(0, 7, "203.0.113.5").encode() + b"x",
        bytes.fromhex("00 82 0000 00000007"),
        bytes.fromhex("02 81 0000"),
        b"",
    ],
)
def test_a_nat_pmp_response_that_is_not_ours_is_refused(datagram: bytes) -> None:
    with pytest.raises(MalformedError, match="bad_mapping"):
        NatPmpSpeaker(40000).read(datagram)


@pytest.mark.parametrize("make", [pcp, lambda: NatPmpSpeaker(40000)])
@given(data=st.binary(max_size=80), prefix=st.sampled_from(["", "0281000000000708", "00810000", "00800000"]))
def test_no_bytes_from_a_gateway_break_anything(make: type[Speaker], data: bytes, prefix: str) -> None:
    try:
        answer = make().read(bytes.fromhex(prefix) + data)
    except MalformedError:
        return
    assert answer is None or isinstance(answer, Granted | Refused)
