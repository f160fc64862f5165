"""How far the relays are: a few probes to each after registration, then every few minutes.

::

    aim(relays, families) ──► round: 3 probes to each endpoint, 0.2 s apart ──► 1 s of patience ──► result
                                 ▲                                                                    │
                                 └──────────── after 5 min ± 20 %, or a move ◄────────────────────────┘

The best of a round counts.  Its owner tells the NMS when a result is ``news``: the NMS chooses the relays of a path
by what both ends have measured.  Pure: the owner carries datagrams and time.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from socket import AddressFamily

from cyphonic.errors import NotAllowedError
from cyphonic.protocol.chance import Chance, fraction
from cyphonic.protocol.limits import (
    RELAY_MEASURE_INTERVAL,
    RELAY_PROBE_COUNT,
    RELAY_PROBE_INTERVAL,
    RELAY_PROBE_PATIENCE,
)
from cyphonic.protocol.mac import mac1_key
from cyphonic.protocol.probe import read_probe_reply, write_probe
from cyphonic.wire.endpoint import Endpoint
from cyphonic.wire.probe import PROBE_NONCE_LENGTH, RelayProbe
from cyphonic.wire.registration import MAX_ROUND_TRIPS, UNANSWERED, RelayAddress, RelayRoundTrip

MEASURE_JITTER = 0.2
REST = 30.0
"""Seconds between two rounds at least, unless the node has moved: a cloud that names others every time is not
followed every time."""
START_DELAY = 0.5
"""Seconds at most before the first probe: a fleet that comes back together does not probe together."""
NEWS_FACTOR, NEWS_DIFFERENCE = 1.25, 5
"""A round trip that is another by this factor and so many milliseconds is worth telling."""


class RelayMeter:
    """Round trips to the relays that the NMS names.  Only ``receive_datagram`` raises, having changed nothing."""

    def __init__(self, chance: Chance) -> None:
        self.round_trips: dict[Endpoint, float] = {}
        """Seconds, of the last finished round; infinity: no answer."""
        self._chance = chance
        self._targets: dict[Endpoint, bytes] = {}
        self._sent: dict[bytes, tuple[Endpoint, float]] = {}
        self._best: dict[Endpoint, float] = {}
        self._probes_left = 0
        self._deadline = math.inf
        self._last_round = -math.inf
        self._told: dict[Endpoint, int] = {}
        self._outgoing: list[tuple[bytes, Endpoint]] = []

    def aim(self, relays: Sequence[RelayAddress], families: Collection[AddressFamily], now: float) -> None:
        """Measure these from now on, one endpoint of each relay and family.  The same ones again change nothing."""
        targets = _targets(relays, families)
        if targets == self._targets:
            return
        self._targets = targets
        self._begin_at(max(now + START_DELAY * fraction(self._chance), self._last_round + REST))

    def moved(self, now: float) -> None:
        """This node is elsewhere: measure again soon."""
        if self._targets:
            self._begin_at(now + START_DELAY * fraction(self._chance))

    def receive_datagram(self, datagram: bytes, source: Endpoint, now: float) -> None:
        """A RelayProbeReply.  Raise DropError."""
        key = self._targets.get(source)
        if key is None:
            raise NotAllowedError("unknown_relay")
        reply = read_probe_reply(datagram, key)
        target, sent = self._sent.get(reply.nonce, (None, 0.0))
        if target != source:
            raise NotAllowedError("unknown_transaction")
        del self._sent[reply.nonce]
        self._best[source] = min(now - sent, self._best.get(source, math.inf))

    def next_deadline(self) -> float:
        """When ``handle_timeout`` has something to do; infinity when never."""
        return self._deadline

    def handle_timeout(self, now: float) -> bool:
        """Do what is due.  Whether a round has ended with news, which ``tell`` then has."""
        if now < self._deadline:
            return False
        if self._probes_left:
            self._send_probes(now)
            return False
        if self._sent or self._best:
            return self._end_round(now)
        self._probes_left = RELAY_PROBE_COUNT
        self._send_probes(now)
        return False

    def datagrams_to_send(self) -> list[tuple[bytes, Endpoint]]:
        """What waits to be sent, once."""
        outgoing, self._outgoing = self._outgoing, []
        return outgoing

    def tell(self) -> list[RelayRoundTrip]:
        """The last round as the NMS is told; from now on only what differs from it is news."""
        self._told = self._figures()
        return [RelayRoundTrip(endpoint.encode(), figure) for endpoint, figure in self._told.items()]

    def _begin_at(self, deadline: float) -> None:
        self._probes_left = 0
        self._sent.clear()
        self._best.clear()
        self._deadline = deadline if self._targets else math.inf

    def _send_probes(self, now: float) -> None:
        for endpoint, key in self._targets.items():
            nonce = self._chance(PROBE_NONCE_LENGTH)
            self._sent[nonce] = endpoint, now
            self._outgoing.append((write_probe(RelayProbe(nonce), key), endpoint))
        self._probes_left -= 1
        self._deadline = now + (RELAY_PROBE_INTERVAL if self._probes_left else RELAY_PROBE_PATIENCE)

    def _end_round(self, now: float) -> bool:
        self.round_trips = {endpoint: self._best.get(endpoint, math.inf) for endpoint in self._targets}
        self._last_round = now
        jitter = 1 + MEASURE_JITTER * (2 * fraction(self._chance) - 1)
        self._begin_at(now + RELAY_MEASURE_INTERVAL * jitter)
        figures = self._figures()
        return figures.keys() != self._told.keys() or any(
            _differs(figure, self._told[endpoint]) for endpoint, figure in figures.items()
        )

    def _figures(self) -> dict[Endpoint, int]:
        return {endpoint: _milliseconds(round_trip) for endpoint, round_trip in self.round_trips.items()}


def _targets(relays: Sequence[RelayAddress], families: Collection[AddressFamily]) -> dict[Endpoint, bytes]:
    targets: dict[Endpoint, bytes] = {}
    for relay in relays:
        key = mac1_key(relay.public_key)
        left = set(families)
        for endpoint in map(Endpoint.decode, relay.endpoints):
            if endpoint.family in left:
                left.discard(endpoint.family)
                targets[endpoint] = key
    return dict(list(targets.items())[:MAX_ROUND_TRIPS])


def _milliseconds(seconds: float) -> int:
    return UNANSWERED if seconds == math.inf else min(max(1, round(seconds * 1000)), UNANSWERED - 1)


def _differs(one: int, other: int) -> bool:
    low, high = sorted((one, other))
    return high > low * NEWS_FACTOR and high - low > NEWS_DIFFERENCE
