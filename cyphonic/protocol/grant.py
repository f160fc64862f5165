"""What one direction grants a node: a path ID, its key, the peer's candidates, hole punches, relay bindings.

A peer holds the newest two: handshakes under the one before may still be under way when a path key is renewed.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from socket import AddressFamily

from cyphonic.protocol.binding import Binding
from cyphonic.protocol.chance import Chance
from cyphonic.protocol.limits import HOLE_PUNCH_COUNT, HOLE_PUNCH_INTERVAL, RELAY_FALLBACK
from cyphonic.protocol.mac import append_path_mac, path_mac_key
from cyphonic.protocol.outbox import Outbox
from cyphonic.protocol.paths import Destination, PathKind
from cyphonic.protocol.replay import ReplayWindow
from cyphonic.wire.direction import FirstPath, RelayGrant, Role, RouteDirection
from cyphonic.wire.endpoint import Endpoint
from cyphonic.wire.header import encode_relayed
from cyphonic.wire.tunnel import HolePunch

_RELAY_AT_ONCE = frozenset({FirstPath.RELAYED, FirstPath.LAN_AND_RELAYED, FirstPath.RELAYED_ONLY})
_PUNCH_AT_ONCE = frozenset({FirstPath.DIRECT_PUNCHED, FirstPath.RELAYED, FirstPath.LAN_AND_RELAYED})
_DIRECT_AT_ONCE = frozenset({FirstPath.DIRECT, FirstPath.DIRECT_PUNCHED, FirstPath.LAN_AND_RELAYED})


_REASONS = {
    FirstPath.DIRECT: "the responder is reachable",
    FirstPath.DIRECT_PUNCHED: "the responder opens its NAPT",
    FirstPath.RELAYED: "both ends are behind NAPT",
    FirstPath.LAN_AND_RELAYED: "both ends are behind the same NAPT",
    FirstPath.RELAYED_ONLY: "the address families do not meet",
}

PUNCH_WINDOW = 1024
"""HolePunches: more than 20 rounds to ten candidates."""


class PathGrant:
    """One direction, and what this node does with it."""

    def __init__(
        self,
        direction: RouteDirection,
        families: frozenset[AddressFamily],
        chance: Chance,
        outbox: Outbox,
        now: float,
    ) -> None:
        self.path_id = direction.path_id
        self.path_key = direction.path_key
        self.role = Role(direction.role)
        self.first_path = FirstPath(direction.first_path)
        self.mac_key = path_mac_key(direction.path_key)
        self.expires = now + direction.path_lifetime
        self.received = now
        self.candidates = [Endpoint.decode(data) for data in direction.candidates]
        self.newest_stamp = 0
        """Of the peer's TunnelRequests.  A path ID is never used again, so a stamp has to grow within one only."""
        self.answered: tuple[bytes, bytes] | None = None
        """The newest TunnelRequest and our answer: the same request again gets the same bytes."""
        self.spoken = False
        """The peer has used this path ID, so it has been told too."""
        self.failed = False
        """A handshake under it was given up."""
        self.bindings: list[Binding] = []
        self.fallback_at = now + RELAY_FALLBACK
        """When relay and hole punching start, unless the direct path has answered."""
        self._relays = direction.relays
        self._chance = chance
        self._outbox = outbox
        self._families: frozenset[AddressFamily] = frozenset()
        self._punches_left = 0
        self._punches_sent = 0
        self._punches_seen = ReplayWindow(PUNCH_WINDOW)
        self._next_punch = math.inf
        self._reach(families)

    @property
    def shared(self) -> bool:
        """Whether the peer is known to have been told too."""
        return self.role is Role.INITIATOR or self.spoken

    @property
    def direct_at_once(self) -> bool:
        """Whether a first handshake goes straight to the peer's candidates."""
        return self.first_path in _DIRECT_AT_ONCE

    def reachable(self) -> list[Endpoint]:
        """The peer's candidates in a family that this node has."""
        if self.first_path is FirstPath.RELAYED_ONLY:
            return []
        return [endpoint for endpoint in self.candidates if endpoint.family in self._families]

    def places(self) -> Iterator[tuple[Destination, PathKind]]:
        """``reachable`` as destinations, and of which kind a path there would be."""
        for endpoint in self.reachable():
            lan = self.first_path is FirstPath.LAN_AND_RELAYED and endpoint.is_private
            yield Destination(endpoint), PathKind.LAN if lan else PathKind.DIRECT

    def relayed(self) -> Iterator[Destination]:
        """Every way through a relay that is bound."""
        for binding in self.bindings:
            if binding.bound:
                yield relayed_by(binding)

    def ways(self) -> list[Destination]:
        """Where a first handshake goes: to all that the first path allows."""
        direct = [Destination(endpoint) for endpoint in self.reachable()] if self.direct_at_once else []
        return [*direct, *self.relayed()]

    def start(self, now: float, *, relay: bool) -> None:
        """Begin what the first path asks for at once; ``relay``: bind in any case."""
        if relay or self.first_path in _RELAY_AT_ONCE or not self.reachable():
            self.bind(now)
        if self.first_path in _PUNCH_AT_ONCE:
            self.punch(now)

    def relay_wanted(self, now: float) -> bool:
        """Whether a handshake may go through the relay yet."""
        return self.first_path in _RELAY_AT_ONCE or now >= self.fallback_at

    def bind(self, now: float) -> None:
        """Ask every relay of the grant for its binding; those that stand or are being asked stay as they are."""
        for binding in self.bindings:
            if binding.failed:
                binding.rebind(now)
            else:
                binding.start(now)
            self._flush(binding)

    def rebind(self, now: float) -> None:
        """This node may be seen elsewhere than before: renew every binding that stands, or stood."""
        for binding in self.bindings:
            if binding.generation and not binding.asking:
                binding.rebind(now)
                self._flush(binding)

    def move(self, families: frozenset[AddressFamily], now: float) -> list[Destination]:
        """This node has moved: renew the bindings from where it is now.  The ways that are no more."""
        before = list(self.relayed())
        self._reach(families)
        for binding in self.bindings:
            if binding.generation:
                binding.rebind(now)
                self._flush(binding)
        return [way for way in before if way not in self.relayed()]

    def _reach(self, families: frozenset[AddressFamily]) -> None:
        """Bindings for the relays that these families reach; one keeps its endpoint as long as it can."""
        self._families = families
        standing = {binding.grant.public_key: binding for binding in self.bindings}
        self.bindings = []
        for relay in self._relays:
            binding = standing.get(relay.public_key)
            endpoint = _reachable(relay, families)
            if binding is None and endpoint is not None:
                binding = Binding(relay, self.path_id, self.role, endpoint, self._chance)
            elif binding is not None and endpoint is not None and binding.endpoint.family not in families:
                binding.relocate(endpoint)
            if binding is not None:
                self.bindings.append(binding)

    def punch(self, now: float) -> None:
        """Send HolePunches to the peer's candidates, paced, from now on."""
        if self._punches_left == 0 and self.reachable():
            self._punches_left = HOLE_PUNCH_COUNT
            self._send_punch(now)

    def accept_punch(self, number: int) -> None:
        """Each HolePunch counts once, so that a copy sent from elsewhere names no candidate.

        Raise NotAllowedError("replayed" or "too_old").
        """
        self._punches_seen.accept(number)

    def stop_punching(self) -> None:
        """The direct path stands."""
        self._punches_left, self._next_punch = 0, math.inf

    def receive_relay(self, datagram: bytes, source: Endpoint, now: float) -> Binding | None:
        """The binding that a relay's datagram was for, or None.  Raise DropError."""
        for binding in self.bindings:
            if binding.receive_datagram(datagram, source, now):
                self._flush(binding)
                return binding
        return None

    def next_deadline(self) -> float:
        """When ``handle_timeout`` has something to do; infinity when never."""
        bindings = (binding.next_deadline() or math.inf for binding in self.bindings)
        return min(self._next_punch, self.fallback_at, *bindings)

    def handle_timeout(self, now: float, *, connected: bool) -> None:
        """Do everything that is due; ``connected``: there is a path in use that answers."""
        for binding in self.bindings:
            deadline = binding.next_deadline()
            if deadline is not None and deadline <= now:
                binding.handle_timeout(now)
                self._flush(binding)
        if self.fallback_at <= now:
            self.fallback_at = math.inf
            if not connected:
                self.bind(now)
                self.punch(now)
        if self._next_punch <= now:
            self._send_punch(now)

    def _send_punch(self, now: float) -> None:
        self._punches_left -= 1
        self._next_punch = now + HOLE_PUNCH_INTERVAL if self._punches_left else math.inf
        for endpoint in self.reachable():
            punch = HolePunch(self.role, self._punches_sent, self.path_id)
            self._punches_sent += 1
            self._outbox.datagrams.append((append_path_mac(punch.encode(), self.mac_key), endpoint))

    def _flush(self, binding: Binding) -> None:
        self._outbox.datagrams.extend(binding.datagrams_to_send())


def _reachable(relay: RelayGrant, families: frozenset[AddressFamily]) -> Endpoint | None:
    """One endpoint of a relay: a role is bound from one source only."""
    endpoints = (Endpoint.decode(data) for data in relay.endpoints)
    return next((endpoint for endpoint in endpoints if endpoint.family in families), None)


def relayed_by(binding: Binding) -> Destination:
    """The way through a relay that has bound this node."""
    assert binding.relay_index is not None
    return Destination(binding.endpoint, encode_relayed(binding.relay_index))


def first_path_reason(first_path: FirstPath | None, *, relayed: bool) -> str:
    """Why the first handshake went the way it did, for a person."""
    if first_path is None:
        return "the peer asked"
    if relayed and first_path not in _RELAY_AT_ONCE:
        return "the direct path did not answer in time"
    return _REASONS[first_path]
