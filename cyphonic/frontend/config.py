"""``[frontend]`` in cloud.toml."""

from __future__ import annotations

import msgspec

from cyphonic.wire.endpoint import Endpoint

AS_PORT = 7701
NMS_PORT = 7702
MAX_ADVERTISED = 8


class FrontendSection(msgspec.Struct, frozen=True):
    """One frontend process.  Several on one host may share the ports; the kernel spreads the nodes over them."""

    as_listen: tuple[Endpoint, ...] = (Endpoint("0.0.0.0", AS_PORT), Endpoint("::", AS_PORT))
    """Endpoints of the authentication service; empty for none."""
    nms_listen: tuple[Endpoint, ...] = (Endpoint("0.0.0.0", NMS_PORT), Endpoint("::", NMS_PORT))
    """Endpoints of the node management service; empty for none."""
    as_advertise: tuple[Endpoint, ...] = ()
    """What nodes are told, at most eight; empty: this host's addresses with the ports of ``as_listen``."""
    nms_advertise: tuple[Endpoint, ...] = ()
    """The same for ``nms_listen``."""
    share_ports: bool = True
    """Let other frontends of this host listen on the same ports (SO_REUSEPORT); without, a port that is taken by
    anybody is an error."""
    queue: int = 4096
    """Datagrams that may wait for a worker."""
    patience: float = 0.2
    """Seconds that one may wait.  Its node sends again after 0.5 s: what is answered too late for that is worked on
    twice, and an overload grows by it."""
    source_rate: float = 100.0
    """Messages per second, from strangers of one IPv4 address or IPv6 /64, that are let in while loaded."""
    drain: float = 2.0
    """Seconds after SIGTERM for what workers still have in hand."""
    metrics: Endpoint | None = None
    """Where to serve Prometheus metrics; absent: nowhere."""

    def __post_init__(self) -> None:
        if not self.as_listen and not self.nms_listen:
            raise ValueError("as_listen, nms_listen: both are empty, so there is nothing to do")
        both = [*self.as_listen, *self.nms_listen]
        if len(set(both)) != len(both):
            raise ValueError("as_listen, nms_listen: each endpoint may be listed once")
        for key, endpoints in (("as_advertise", self.as_advertise), ("nms_advertise", self.nms_advertise)):
            if len(endpoints) > MAX_ADVERTISED:
                raise ValueError(f"{key}: at most {MAX_ADVERTISED} endpoints")
        if self.source_rate <= 0:
            raise ValueError("source_rate is more than 0")
        if self.queue < 64 or self.patience <= 0 or self.drain < 0:
            raise ValueError("queue is at least 64, patience more than 0, drain not negative")
