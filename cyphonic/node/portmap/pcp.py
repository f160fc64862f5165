"""PCP, the Port Control Protocol (RFC 6887): the MAP opcode for UDP over IPv4.

Request and response of MAP, 60 bytes::

     0         1                2                 4              8
    +---------+----------------+-----------------+--------------+-----------------------------------+
    | version | R(1) opcode(7) | zero, or result | lifetime u32 | request:  client address (16)     |
    |         |                | code in byte 3  |              | response: epoch (4), zero (12)    |
    +---------+----------------+-----------------+--------------+-----------------------------------+ 24
    | nonce (12) | protocol (1) | zero (3) | internal port | external port | external address (16)  |
    +------------+--------------+----------+---------------+---------------+------------------------+ 60
"""

from __future__ import annotations

import socket
import struct
from typing import NamedTuple

from cyphonic.errors import MalformedError
from cyphonic.node.portmap.speaker import Granted, Refused
from cyphonic.protocol.chance import Chance
from cyphonic.wire.endpoint import Endpoint

VERSION = 2
MAP = 1
RESPONSE = 0x80
UDP = 17
NONCE_LENGTH = 12
MAX_LENGTH = 1100
"""Bytes of any PCP message (§7)."""

_REQUEST = struct.Struct(">BBHI16s12sB3xHH16s")
_RESPONSE = struct.Struct(">BBBBII12x12sB3xHH16s")
_HEADER_LENGTH = 24
_UNSUPPORTED_VERSION = 1
_MAPPED = bytes(10) + b"\xff\xff"

RESULTS = {
    1: "unsupported version",
    2: "not authorized",
    3: "malformed request",
    4: "unsupported opcode",
    5: "unsupported option",
    6: "malformed option",
    7: "network failure",
    8: "no resources",
    9: "unsupported protocol",
    10: "user exceeded quota",
    11: "cannot provide external address",
    12: "address mismatch: another NAT is in between",
    13: "excessive remote peers",
}
_NOT_SPOKEN = frozenset({1, 4})


class MapRequest(NamedTuple):
    """A mapping is wanted for ``client``'s UDP port ``internal_port``."""

    nonce: bytes
    client: str
    internal_port: int
    lifetime: int
    suggested: Endpoint
    """What to map to if possible; 0.0.0.0 and port 0: anything."""

    def encode(self) -> bytes:
        """The 60 bytes."""
        suggested = _MAPPED + socket.inet_pton(socket.AF_INET, self.suggested.host)
        client = _MAPPED + socket.inet_pton(socket.AF_INET, self.client)
        ports = self.internal_port, self.suggested.port
        return _REQUEST.pack(VERSION, MAP, 0, self.lifetime, client, self.nonce, UDP, *ports, suggested)

    @classmethod
    def decode(cls, datagram: bytes) -> MapRequest:
        """As a gateway reads it; raise MalformedError("bad_mapping")."""
        if len(datagram) < _REQUEST.size:
            raise MalformedError("bad_mapping")
        fields = _REQUEST.unpack_from(datagram)
        version, opcode, _, lifetime, client, nonce, protocol, internal, external, suggested = fields
        if (version, opcode, protocol) != (VERSION, MAP, UDP):
            raise MalformedError("bad_mapping")
        return cls(nonce, _host(client), internal, lifetime, Endpoint(_host(suggested), external))


class MapResponse(NamedTuple):
    """What the gateway says to it.  Where ``result`` is not 0 the lifetime is that of the error."""

    result: int
    lifetime: int
    epoch: int
    nonce: bytes
    internal_port: int
    external: Endpoint

    def encode(self) -> bytes:
        """The 60 bytes."""
        host = _MAPPED + socket.inet_pton(socket.AF_INET, self.external.host)
        header = VERSION, RESPONSE | MAP, 0, self.result, self.lifetime, self.epoch
        return _RESPONSE.pack(*header, self.nonce, UDP, self.internal_port, self.external.port, host)

    @classmethod
    def decode(cls, datagram: bytes) -> MapResponse:
        """Options behind it are ignored.  Raise MalformedError("bad_mapping")."""
        if not _RESPONSE.size <= len(datagram) <= MAX_LENGTH:
            raise MalformedError("bad_mapping")
        version, opcode, _, result, lifetime, epoch, nonce, protocol, internal, external, host = (
            _RESPONSE.unpack_from(datagram)
        )
        if (version, opcode, protocol) != (VERSION, RESPONSE | MAP, UDP):
            raise MalformedError("bad_mapping")
        return cls(result, lifetime, epoch, nonce, internal, Endpoint(_host(host), external))


class PcpSpeaker:
    """Asks for one mapping.  The nonce makes it ours: only with it can it be changed or taken away."""

    name = "PCP"

    def __init__(self, client: str, port: int, chance: Chance) -> None:
        self._client = client
        self._port = port
        self._nonce = chance(NONCE_LENGTH)
        self._external = Endpoint("0.0.0.0", port)

    def requests(self, lifetime: int) -> list[bytes]:
        """One MAP request; it suggests what the gateway gave before."""
        return [MapRequest(self._nonce, self._client, self._port, lifetime, self._external).encode()]

    def read(self, datagram: bytes) -> Granted | Refused | None:
        """Of a NAT-PMP gateway too: it answers in its own version that it does not know ours."""
        if len(datagram) >= 4 and (datagram[0] != VERSION or datagram[3] == _UNSUPPORTED_VERSION):
            return Refused(RESULTS[_UNSUPPORTED_VERSION], unsupported=True)
        response = MapResponse.decode(datagram)
        if response.nonce != self._nonce or response.internal_port != self._port:
            raise MalformedError("bad_mapping")
        if response.result:
            reason = RESULTS.get(response.result, f"result {response.result}")
            return Refused(reason, response.result in _NOT_SPOKEN)
        if not response.external.port or response.external.host == "0.0.0.0":
            raise MalformedError("bad_mapping")
        self._external = response.external
        return Granted(response.external, response.lifetime)


def _host(packed: bytes) -> str:
    if not packed.startswith(_MAPPED):
        if any(packed):
            raise MalformedError("bad_mapping")
        return "0.0.0.0"
    return socket.inet_ntop(socket.AF_INET, packed[len(_MAPPED) :])
