"""``[relay]`` in cloud.toml."""

from __future__ import annotations

import msgspec

from cyphonic.wire.endpoint import Endpoint

DEFAULT_PORT = 7703


class RelaySection(msgspec.Struct, frozen=True):
    """One relay process.  A second one on the same host takes another port."""

    listen: tuple[Endpoint, ...] = (Endpoint("0.0.0.0", DEFAULT_PORT), Endpoint("::", DEFAULT_PORT))
    """At most one endpoint of each address family."""
    advertise: tuple[Endpoint, ...] = ()
    """What nodes are told, at most four; empty: this host's addresses with the ports of ``listen``."""
    probe_port: int = 0
    """The second UDP port, from which a node that classifies its NAT may ask to be answered; 0: any."""
    max_bindings: int = 100_000
    """Bound roles; two make a path."""
    rate: int = 125_000_000
    """Bytes per second that one bound role may send; 0: as much as its token says."""
    drain: float = 2.0
    """Seconds that living bindings go on after SIGTERM."""
    metrics: Endpoint | None = None
    """Where to serve Prometheus metrics; absent: nowhere."""

    def __post_init__(self) -> None:
        families = [endpoint.family for endpoint in self.listen]
        if not families or len(set(families)) != len(families):
            raise ValueError("listen: give one endpoint for IPv4, one for IPv6, or both")
        if len(self.advertise) > 4:
            raise ValueError("advertise: at most 4 endpoints")
        if self.max_bindings < 2:
            raise ValueError("max_bindings: at least 2")
        if not 0 <= self.probe_port < 65536:
            raise ValueError("probe_port: not a port")
        if self.rate < 0 or self.drain < 0:
            raise ValueError("rate and drain are not negative")
