"""Probes of relays, sealed and opened: what node, ``netcheck`` and relay share.

A ticket is a MAC over {slot of time, endpoint} under a key that all relays of a site derive from their secret key,
so a relay can check what another has made.  It is good in its slot, the one before and the one after: clocks of
relays may differ by a slot.
"""

from __future__ import annotations

from hashlib import blake2s
from hmac import compare_digest

from cyphonic.errors import MalformedError
from cyphonic.protocol.limits import PROBE_TICKET_SLOT
from cyphonic.protocol.mac import append_macs, mac
from cyphonic.wire.endpoint import Endpoint
from cyphonic.wire.header import MAC_LENGTH
from cyphonic.wire.probe import MIN_PROBE_LENGTH, RelayProbe, RelayProbeReply

_TICKET_LABEL = b"cyphonic probe ticket v1"


def write_probe(probe: RelayProbe, mac1_key: bytes, length: int = MIN_PROBE_LENGTH) -> bytes:
    """The datagram, ``length`` bytes long."""
    return append_macs(probe.encode(length), mac1_key)


def write_probe_reply(reply: RelayProbeReply, mac1_key: bytes) -> bytes:
    """The datagram."""
    encoded = reply.encode()
    return encoded + mac(mac1_key, encoded)


def read_probe_reply(datagram: bytes, mac1_key: bytes) -> RelayProbeReply:
    """Raise MalformedError.  Whether the nonce is one that was sent is the caller's to see."""
    reply = RelayProbeReply.decode(datagram)
    if not compare_digest(mac(mac1_key, datagram[:-MAC_LENGTH]), datagram[-MAC_LENGTH:]):
        raise MalformedError("bad_mac1")
    return reply


def ticket_key(relay_secret: bytes) -> bytes:
    """32 bytes; the same for all relays of a site."""
    return blake2s(_TICKET_LABEL, key=relay_secret).digest()


def write_ticket(key: bytes, endpoint: Endpoint, wall: float) -> bytes:
    """That something has been sent to ``endpoint`` now; ``wall`` in unix seconds."""
    return _ticket(key, endpoint, int(wall / PROBE_TICKET_SLOT))


def check_ticket(ticket: bytes, key: bytes, endpoint: Endpoint, wall: float) -> None:
    """Raise MalformedError("bad_ticket")."""
    slot = int(wall / PROBE_TICKET_SLOT)
    valid = [compare_digest(ticket, _ticket(key, endpoint, one)) for one in (max(0, slot - 1), slot, slot + 1)]
    if not any(valid):
        raise MalformedError("bad_ticket")


def _ticket(key: bytes, endpoint: Endpoint, slot: int) -> bytes:
    return mac(key, slot.to_bytes(8, "big") + endpoint.encode_fixed())
