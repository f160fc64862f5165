"""NAT-PMP, the NAT Port Mapping Protocol (RFC 6886), which older gateways speak.

::

    external address:  request  version 0 | opcode 0
                       response version 0 | opcode 128 | result u16 | epoch u32 | address (4)
    mapping of UDP:    request  version 0 | opcode 1   | zero u16   | internal port | external port | lifetime u32
                       response version 0 | opcode 129 | result u16 | epoch u32 | internal | external | lifetime u32
"""

from __future__ import annotations

import socket
import struct
from typing import NamedTuple

from cyphonic.errors import MalformedError
from cyphonic.node.portmap.speaker import Granted, Refused
from cyphonic.wire.endpoint import Endpoint

VERSION = 0
EXTERNAL_ADDRESS = 0
MAP_UDP = 1
RESPONSE = 128

RESULTS = {
    1: "unsupported version",
    2: "not authorized",
    3: "network failure",
    4: "no resources",
    5: "unsupported opcode",
}
_NOT_SPOKEN = frozenset({1, 5})

_ADDRESS_REQUEST = struct.Struct(">BB")
_ADDRESS_RESPONSE = struct.Struct(">BBHI4s")
_MAP_REQUEST = struct.Struct(">BBHHHI")
_MAP_RESPONSE = struct.Struct(">BBHIHHI")
_RESPONSE_HEADER = struct.Struct(">BBH")


class AddressResponse(NamedTuple):
    """The gateway's address outside."""

    result: int
    epoch: int
    host: str

    def encode(self) -> bytes:
        """The 12 bytes."""
        host = socket.inet_pton(socket.AF_INET, self.host)
        return _ADDRESS_RESPONSE.pack(VERSION, RESPONSE | EXTERNAL_ADDRESS, self.result, self.epoch, host)

    @classmethod
    def decode(cls, datagram: bytes) -> AddressResponse:
        """Raise MalformedError("bad_mapping")."""
        if len(datagram) != _ADDRESS_RESPONSE.size:
            raise MalformedError("bad_mapping")
        _, _, result, epoch, host = _ADDRESS_RESPONSE.unpack(datagram)
        return cls(result, epoch, socket.inet_ntop(socket.AF_INET, host))


class PortRequest(NamedTuple):
    """A mapping is wanted for the sender's UDP port."""

    internal_port: int
    external_port: int
    """Wanted if possible."""
    lifetime: int
    """Seconds; 0 gives it back."""

    def encode(self) -> bytes:
        """The 12 bytes."""
        return _MAP_REQUEST.pack(VERSION, MAP_UDP, 0, *self)

    @classmethod
    def decode(cls, datagram: bytes) -> PortRequest:
        """As a gateway reads it; raise MalformedError("bad_mapping")."""
        if len(datagram) != _MAP_REQUEST.size or datagram[:2] != bytes((VERSION, MAP_UDP)):
            raise MalformedError("bad_mapping")
        return cls(*_MAP_REQUEST.unpack(datagram)[3:])


class PortResponse(NamedTuple):
    """What the gateway says to it."""

    result: int
    epoch: int
    internal_port: int
    external_port: int
    lifetime: int

    def encode(self) -> bytes:
        """The 16 bytes."""
        return _MAP_RESPONSE.pack(VERSION, RESPONSE | MAP_UDP, *self)

    @classmethod
    def decode(cls, datagram: bytes) -> PortResponse:
        """Raise MalformedError("bad_mapping")."""
        if len(datagram) != _MAP_RESPONSE.size:
            raise MalformedError("bad_mapping")
        return cls(*_MAP_RESPONSE.unpack(datagram)[2:])


class NatPmpSpeaker:
    """Asks for one mapping: what is granted is known when both answers are there."""

    name = "NAT-PMP"

    def __init__(self, port: int) -> None:
        self._port = port
        self._external_port = port
        self._host = ""
        self._mapped: PortResponse | None = None

    def requests(self, lifetime: int) -> list[bytes]:
        """For the address outside, and for the port."""
        self._mapped = None
        if not lifetime:
            return [PortRequest(self._port, 0, 0).encode()]
        wanted = PortRequest(self._port, self._external_port, lifetime)
        return [_ADDRESS_REQUEST.pack(VERSION, EXTERNAL_ADDRESS), wanted.encode()]

    def read(self, datagram: bytes) -> Granted | Refused | None:
        """Either of the two answers."""
        if len(datagram) < _RESPONSE_HEADER.size:
            raise MalformedError("bad_mapping")
        version, opcode, result = _RESPONSE_HEADER.unpack_from(datagram)
        if version != VERSION or opcode not in (RESPONSE | EXTERNAL_ADDRESS, RESPONSE | MAP_UDP):
            raise MalformedError("bad_mapping")
        if result:  # the answer may be as short as this
            return Refused(RESULTS.get(result, f"result {result}"), result in _NOT_SPOKEN)
        if opcode == RESPONSE | EXTERNAL_ADDRESS:
            self._host = AddressResponse.decode(datagram).host
        else:
            self._mapped = self._read_port(datagram)
        return self._granted()

    def _read_port(self, datagram: bytes) -> PortResponse:
        response = PortResponse.decode(datagram)
        if response.internal_port != self._port or (response.lifetime and not response.external_port):
            raise MalformedError("bad_mapping")
        self._external_port = response.external_port
        return response

    def _granted(self) -> Granted | None:
        if self._mapped is None or self._host in ("", "0.0.0.0"):
            return None
        return Granted(Endpoint(self._host, self._mapped.external_port), self._mapped.lifetime)
