"""Driving a revocation: order the NMS to tell peers, again and again, until they have acknowledged it.

The registry already says that the node is out, so nothing of this is needed to keep it out of the cloud; it is what
makes tunnels that stand end within seconds instead of with the next handshake.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import NamedTuple, Protocol

from cyphonic.pipeline import FrontendAddress, Pipeline, new_instance
from cyphonic.protocol.chance import Chance
from cyphonic.protocol.distribution import seal_distribution
from cyphonic.protocol.keys import KeyPair
from cyphonic.site import Site, SiteKeys
from cyphonic.state.fleet import Fleet
from cyphonic.wire.header import MessageType
from cyphonic.wire.revocation import RevocationOrder

REPEAT = 0.5
"""Seconds between two orders."""
PATIENCE = 10.0
"""Seconds within which peers must have dropped a revoked node."""


class Clock(Protocol):
    """Where a drive gets its time from."""

    def now(self) -> float:
        """Monotonic seconds."""

    def sleep(self, seconds: float) -> None:
        """Let time pass."""


class Drive(NamedTuple):
    """How it ended: node IDs."""

    acknowledged: frozenset[bytes]
    silent: frozenset[bytes]
    """Online, and yet without an answer."""
    offline: frozenset[bytes]
    """Not asked: nothing of them is known to be up."""


def drive(
    order: Callable[[], None],
    pending: Callable[[], Collection[bytes]],
    online: Callable[[bytes], bool],
    clock: Clock,
) -> Drive:
    """Order, look who has not yet acknowledged, repeat; at most ``PATIENCE`` seconds."""
    concerned = frozenset(pending())
    reachable = frozenset(node_id for node_id in concerned if online(node_id))
    deadline = clock.now() + PATIENCE
    waiting = reachable
    while waiting and clock.now() < deadline:
        order()
        clock.sleep(REPEAT)
        waiting &= frozenset(pending())
    return Drive(reachable - waiting, waiting, concerned - reachable)


def seal_order(nms: KeyPair, node_id: bytes, chance: Chance) -> bytes:
    """The job that makes NMS workers tell of a revocation: sealed from the NMS to itself, as their own are."""
    return seal_distribution(
        MessageType.REVOCATION_ORDER, node_id, RevocationOrder(node_id), nms, nms.public, chance
    )


class OrderPipe:
    """The administrator's way into the pipeline: it reports to frontends as a worker does that serves nothing.

    Who can write here can speak for a worker, so this is for whoever may read the site's secret keys.
    """

    def __init__(self, pipeline: Pipeline, site: Site, fleet: Fleet, chance: Chance, now: float) -> None:
        self._nms = SiteKeys(site.keys_dir).nms_key()
        self._chance = chance
        self._pipe = pipeline.worker(new_instance(chance), ())
        self._pipe.update_fleet(
            [
                FrontendAddress(
                    member.instance,
                    member.endpoint,
                    frozenset((bound.host, bound.port) for bound in member.bound),
                    member.curve_key,
                )
                for member in fleet.frontends
            ],
            now,
        )

    def order(self, node_id: bytes) -> None:
        """Send one RevocationOrder by every frontend: to tell twice does no harm, and any one may just be going."""
        job = seal_order(self._nms, node_id, self._chance)
        for frontend in self._pipe.frontends:
            self._pipe.report(frontend, forwards=[job])

    def close(self) -> None:
        """Close the sockets; what still waits in them is discarded."""
        self._pipe.close()
