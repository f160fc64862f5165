"""Underlay endpoints: 4 or 16 bytes of address, then a 2-byte port."""

from __future__ import annotations

import ipaddress
import socket
from typing import NamedTuple

from cyphonic.errors import MalformedError

_PRIVATE_IPV4 = ((0x0A, 24), (0xAC1, 20), (0xC0A8, 16), (0x0191, 22))
"""Leading bits, and how many follow: 10.0.0.0/8, 172.16.0.0/12, 192.168.0.0/16, 100.64.0.0/10."""

_MAPPED = bytes(10) + b"\xff\xff"
"""In front of an IPv4 address where IPv6 is spoken (RFC 4291 §2.5.5.2)."""


class Endpoint(NamedTuple):
    """An underlay address and UDP port, as the socket calls take them."""

    host: str
    port: int

    @property
    def family(self) -> socket.AddressFamily:
        """AF_INET or AF_INET6."""
        return socket.AF_INET6 if ":" in self.host else socket.AF_INET

    @property
    def is_private(self) -> bool:
        """Of a network that uses addresses of its own: RFC 1918, RFC 6598 (carrier-grade NAT), RFC 4193."""
        packed = socket.inet_pton(self.family, self.host)
        if len(packed) == 16:
            return packed[0] & 0xFE == 0xFC
        value = int.from_bytes(packed, "big")
        return any(value >> rest == prefix for prefix, rest in _PRIVATE_IPV4)

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    def encode(self) -> bytes:
        """6 or 18 bytes."""
        return socket.inet_pton(self.family, self.host) + self.port.to_bytes(2, "big")

    @classmethod
    def decode(cls, data: bytes) -> Endpoint:
        """From 6 or 18 bytes; raise MalformedError for any other length or port 0."""
        if len(data) not in (6, 18):
            raise MalformedError("bad_endpoint")
        port = int.from_bytes(data[-2:], "big")
        if port == 0:
            raise MalformedError("bad_endpoint")
        family = socket.AF_INET if len(data) == 6 else socket.AF_INET6
        return cls(socket.inet_ntop(family, data[:-2]), port)

    def encode_fixed(self) -> bytes:
        """18 bytes whatever the family: IPv4 as ``::ffff:a.b.c.d``."""
        packed = socket.inet_pton(self.family, self.host)
        return (packed if len(packed) == 16 else _MAPPED + packed) + self.port.to_bytes(2, "big")

    @classmethod
    def decode_fixed(cls, data: bytes) -> Endpoint:
        """From the 18 bytes of ``encode_fixed``; raise MalformedError for another length or port 0."""
        if len(data) != 18:
            raise MalformedError("bad_endpoint")
        return cls.decode(data[len(_MAPPED) :] if data.startswith(_MAPPED) else data)

    @classmethod
    def parse(cls, text: str) -> Endpoint:
        """From ``192.0.2.1:443`` or ``[2001:db8::1]:443``; raise ValueError with a reason otherwise."""
        host, separator, port = text.rpartition(":")
        if not separator or not port.isascii() or not port.isdigit() or not 0 < int(port) < 65536:
            raise ValueError(f"{text!r} is not ADDRESS:PORT")
        bracketed = host.startswith("[") and host.endswith("]")
        address = ipaddress.ip_address(host[1:-1] if bracketed else host)
        if bracketed != (address.version == 6):
            raise ValueError(f"{text!r}: an IPv6 address, and only that, stands in [brackets]")
        if "%" in host:
            raise ValueError(f"{text!r}: an endpoint has no zone")
        return cls(str(address), int(port))
