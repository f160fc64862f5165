"""Asking a relay where one is seen from, how far away it is, and what one's NAT lets in.

RelayProbe, node to relay, 90 to 1,500 bytes::

     0       1         2             4                8               24              42
    +-------+---------+-------------+----------------+---------------+---------------+-------------+
    | type  | version | flags (u16) | zero     (u32) | nonce (16)    | elsewhere(18) | ticket (16) |
    +-------+---------+-------------+----------------+---------------+---------------+-------------+ 58
    | padding (any length)                                                                         |
    +----------------------------------------------------------------------------------------------+
    | MAC1 (16) | MAC2 (16) |

RelayProbeReply, relay to node, 74 bytes: never longer than what it answers::

     0       1         2             4                  6            8            24              42
    +-------+---------+-------------+------------------+------------+------------+---------------+-------------+
    | type  | version | flags (u16) | other port (u16) | zero (u16) | nonce (16) | observed (18) | ticket (16) |
    +-------+---------+-------------+------------------+------------+------------+---------------+-------------+ 58
    | MAC (16) |

Flags: 1, reply from the other one of the relay's two ports; 2, reply to ``elsewhere`` instead of to the source.
Endpoints are 18 bytes, IPv4 as ::ffff:a.b.c.d.  A *ticket* proves that a relay of the site has sent to ``observed``
a moment ago; only an endpoint with a ticket may be named as ``elsewhere``, and a reply that goes there bears none
(zero).  The padding makes a probe as long as a path is to be measured for.  The MAC of the reply is keyed by the
MAC1 key of the relay: it shows damage; that the answer is the relay's is shown by the nonce.  Other flags are sent
as zero and ignored, and so are bytes between the fields of a reply and its MAC.
"""

from __future__ import annotations

import struct
from enum import IntFlag
from typing import NamedTuple

from cyphonic.errors import MalformedError
from cyphonic.wire.endpoint import Endpoint
from cyphonic.wire.header import MAC_LENGTH, MACS_LENGTH, VERSION, MessageType

PROBE_NONCE_LENGTH = 16
TICKET_LENGTH = 16
NO_TICKET = bytes(TICKET_LENGTH)
_NOWHERE = bytes(18)

_PROBE = struct.Struct(">BBHI16s18s16s")
_REPLY = struct.Struct(">BBHHH16s18s16s")

MIN_PROBE_LENGTH = _PROBE.size + MACS_LENGTH
MAX_PROBE_LENGTH = 1500
"""Bytes: a relay looks at none that is longer."""
PROBE_REPLY_LENGTH = _REPLY.size + MAC_LENGTH


class ProbeFlag(IntFlag):
    """How the reply is to come."""

    OTHER_PORT = 1
    ELSEWHERE = 2


class RelayProbe(NamedTuple):
    """The question.  Without MACs."""

    nonce: bytes
    other_port: bool = False
    """Reply from the relay's other port."""
    elsewhere: Endpoint | None = None
    """Reply there; needs the ticket of that endpoint."""
    ticket: bytes = NO_TICKET

    def encode(self, length: int = MIN_PROBE_LENGTH) -> bytes:
        """Everything before the MACs; ``length``: of the whole datagram, with them."""
        flags = (ProbeFlag.OTHER_PORT if self.other_port else 0) | (ProbeFlag.ELSEWHERE if self.elsewhere else 0)
        elsewhere = self.elsewhere.encode_fixed() if self.elsewhere else _NOWHERE
        fields = _PROBE.pack(MessageType.RELAY_PROBE, VERSION, flags, 0, self.nonce, elsewhere, self.ticket)
        return fields + bytes(max(0, length - MIN_PROBE_LENGTH))

    @classmethod
    def decode(cls, datagram: bytes) -> RelayProbe:
        """From a whole datagram, MACs included but not checked; raise MalformedError."""
        if not MIN_PROBE_LENGTH <= len(datagram) <= MAX_PROBE_LENGTH:
            raise MalformedError("bad_length")
        _, version, flags, _, nonce, elsewhere, ticket = _PROBE.unpack_from(datagram)
        if version != VERSION:
            raise MalformedError("unknown_version")
        endpoint = Endpoint.decode_fixed(elsewhere) if flags & ProbeFlag.ELSEWHERE else None
        return cls(nonce, bool(flags & ProbeFlag.OTHER_PORT), endpoint, ticket)


class RelayProbeReply(NamedTuple):
    """The answer.  Without its MAC."""

    nonce: bytes
    observed: Endpoint
    """Where the relay saw the probe come from."""
    other_port: int
    """The relay's second UDP port, which answers probes too; 0: it has none."""
    ticket: bytes
    """For ``observed``; zero in a reply that went elsewhere."""
    from_other_port: bool = False

    def encode(self) -> bytes:
        """Everything before the MAC."""
        return _REPLY.pack(
            MessageType.RELAY_PROBE_REPLY,
            VERSION,
            ProbeFlag.OTHER_PORT if self.from_other_port else 0,
            self.other_port,
            0,
            self.nonce,
            self.observed.encode_fixed(),
            self.ticket,
        )

    @classmethod
    def decode(cls, datagram: bytes) -> RelayProbeReply:
        """From a whole datagram, MAC included but not checked; raise MalformedError."""
        if len(datagram) < PROBE_REPLY_LENGTH:
            raise MalformedError("too_short")
        _, version, flags, other_port, _, nonce, observed, ticket = _REPLY.unpack_from(datagram)
        if version != VERSION:
            raise MalformedError("unknown_version")
        from_other_port = bool(flags & ProbeFlag.OTHER_PORT)
        return cls(nonce, Endpoint.decode_fixed(observed), other_port, ticket, from_other_port)
