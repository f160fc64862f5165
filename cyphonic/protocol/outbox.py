"""What the machines of a node want done.  They share one; the driver empties it."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from cyphonic.wire.endpoint import Endpoint


@dataclass(slots=True)
class Outbox:
    """Actions in the order in which they were decided."""

    datagrams: list[tuple[bytes, Endpoint]] = field(default_factory=list)
    """For the underlay."""
    packets: list[bytes] = field(default_factory=list)
    """Opened inner packets, for the TUN device."""
    drops: Counter[str] = field(default_factory=Counter)
    """Datagrams and packets deliberately not processed, by reason."""
