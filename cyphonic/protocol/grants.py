"""The grants that a pair holds: the newest few, for handshakes and relayed paths under those before may go on.

Three, because two ends that lose each other both ask, and the path in use may be of the grant before.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import msgspec

from cyphonic.protocol.buckets import TokenBucket
from cyphonic.protocol.grant import PathGrant
from cyphonic.protocol.limits import PROBED_DIRECTION_INTERVAL, PROBED_DIRECTIONS
from cyphonic.protocol.paths import Destination, Paths
from cyphonic.wire.direction import RouteDirection
from cyphonic.wire.endpoint import Endpoint

MAX_GRANTS = 3


class Grants:
    """By path ID, the newest last."""

    def __init__(self) -> None:
        self._grants: dict[bytes, PathGrant] = {}
        self._probed = TokenBucket(1 / PROBED_DIRECTION_INTERVAL, PROBED_DIRECTIONS)

    def __iter__(self) -> Iterator[PathGrant]:
        return iter(list(self._grants.values()))

    def __len__(self) -> int:
        return len(self._grants)

    def of(self, path_id: bytes) -> PathGrant | None:
        """The grant of that path ID."""
        return self._grants.get(path_id)

    def to_give_way(self, in_use: Destination | None) -> PathGrant | None:
        """The one that has to go before another can come: the oldest, but not that of the relayed path in use."""
        if len(self._grants) < MAX_GRANTS:
            return None
        return next(grant for grant in self._grants.values() if in_use not in list(grant.relayed()))

    def within_rate(self, direction: RouteDirection, paths: Paths, now: float) -> RouteDirection:
        """The direction; one too many without the places that never answered: a peer may name whomever it likes."""
        if self._probed.take(1, now):
            return direction
        answered = [data for data in direction.candidates if paths.answered(Destination(Endpoint.decode(data)))]
        return msgspec.structs.replace(direction, candidates=answered)

    def add(self, grant: PathGrant) -> None:
        """A new one."""
        self._grants[grant.path_id] = grant

    def remove(self, grant: PathGrant, paths: Paths) -> None:
        """It has expired, or given way; and with it the places that no other names."""
        del self._grants[grant.path_id]
        for relayed in grant.relayed():
            paths.withdraw(relayed)
        named = {endpoint for other in self for endpoint in other.candidates}
        for endpoint in set(grant.candidates) - named:
            paths.retire(Destination(endpoint))

    def newest(self) -> PathGrant | None:
        """The newest one that the peer is known to have too, else the newest.

        An initiator was told after the responder had confirmed; a responder learns it when the peer first speaks.
        """
        newest_first = list(reversed(self._grants.values()))
        shared = (grant for grant in newest_first if grant.shared and not grant.failed)
        return next(shared, newest_first[0] if newest_first else None)

    def next_deadline(self) -> float:
        """When one of them has something to do; infinity when none."""
        return min((grant.next_deadline() for grant in self._grants.values()), default=math.inf)
