"""What the ways to ask a gateway have in common: bytes to send, and what an answer means."""

from __future__ import annotations

from typing import NamedTuple, Protocol

from cyphonic.wire.endpoint import Endpoint

GATEWAY_PORT = 5351
"""UDP port of PCP and NAT-PMP (RFC 6887 §19, RFC 6886 §3.1)."""


class Granted(NamedTuple):
    """The gateway maps."""

    external: Endpoint
    lifetime: int
    """Seconds."""


class Refused(NamedTuple):
    """The gateway does not."""

    reason: str
    unsupported: bool
    """It does not speak this protocol: another may serve."""


class Speaker(Protocol):
    """One protocol, for one local port and one gateway."""

    name: str

    def requests(self, lifetime: int) -> list[bytes]:
        """Datagrams that ask for the mapping; a lifetime of 0 gives it back."""

    def read(self, datagram: bytes) -> Granted | Refused | None:
        """What an answer means; None while more is awaited.  Raise MalformedError("bad_mapping")."""
