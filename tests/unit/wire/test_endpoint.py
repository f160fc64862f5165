from __future__ import annotations

import ipaddress
import socket

import pytest

from cyphonic.errors import MalformedError
from cyphonic.wire.endpoint import Endpoint


@pytest.mark.parametrize(
    ("text", "encoded", "family"),
    [
        ("192.0.2.1:443", "c0000201 01bb", socket.AF_INET),
        ("[2001:db8::1]:65535", "20010db8000000000000000000000001 ffff", socket.AF_INET6),
        ("[::ffff:c000:201]:1", "00000000000000000000ffffc0000201 0001", socket.AF_INET6),
    ],
)
def test_an_endpoint_is_the_same_as_text_and_as_bytes(text: str, encoded: str, family: int) -> None:
    endpoint = Endpoint.parse(text)
    assert endpoint.encode() == bytes.fromhex(encoded)
    assert endpoint.family == family
    assert Endpoint.decode(Endpoint.decode(endpoint.encode()).encode()).encode() == endpoint.encode()


@pytest.mark.parametrize("text", ["192.0.2.1:443", "[2001:db8::1]:65535"])
def test_text_survives(text: str) -> None:
    assert str(Endpoint.parse(text)) == text
    assert str(Endpoint.decode(Endpoint.parse(text).encode())) == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "192.0.2.1",
        "192.0.2.1:",
        "192.0.2.1:0",
        "192.0.2.1:65536",
        "192.0.2.1:-1",
        "192.0.2.1:٣",
        "192.0.2.256:1",
        "example.org:443",
        "[192.0.2.1]:443",
        "2001:db8::1:443",
        "[2001:db8::1]",
        "[fe80::1%eth0]:443",
    ],
)
def test_text_that_is_no_endpoint_is_refused_with_a_reason(text: str) -> None:
    with pytest.raises(ValueError, match=r".+"):
        Endpoint.parse(text)


@pytest.mark.parametrize(
    "data", [b"", bytes(5), b"\1" * 7, b"\1" * 17, b"\1" * 19, b"\1" * 4 + b"\0\0", b"\1" * 16 + b"\0\0"]
)
def test_bytes_that_are_no_endpoint_are_refused(data: bytes) -> None:
    with pytest.raises(MalformedError, match="bad_endpoint"):
        Endpoint.decode(data)


@pytest.mark.parametrize(
    ("first", "last"),
    [
        ("10.0.0.0", "10.255.255.255"),
        ("172.16.0.0", "172.31.255.255"),
        ("192.168.0.0", "192.168.255.255"),
        ("100.64.0.0", "100.127.255.255"),
        ("fc00::", "fdff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"),
    ],
)
def test_private_networks_are_private_from_their_first_to_their_last_address(first: str, last: str) -> None:
    assert Endpoint(first, 1).is_private
    assert Endpoint(last, 1).is_private
    before, after = ipaddress.ip_address(first) - 1, ipaddress.ip_address(last) + 1
    assert not Endpoint(str(before), 1).is_private
    assert not Endpoint(str(after), 1).is_private
