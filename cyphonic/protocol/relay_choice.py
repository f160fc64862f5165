"""Which relays join a path: those with the shortest way between its two ends, unless they are full.

A relayed datagram travels from one end to the relay and from there to the other, so what counts is the sum of the
two round trips that the ends have measured.  Load counts as a detour.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from cyphonic.wire.endpoint import Endpoint
from cyphonic.wire.registration import UNANSWERED

RoundTrips = Mapping[Endpoint, int]
"""What a node measured, in milliseconds, by the endpoint of a relay."""

UNMEASURED = 250.0
"""Milliseconds, for an end that has not measured a relay: about another continent, so a measured one wins."""
UNREACHABLE = 100_000.0
"""Milliseconds, for an end that a relay did not answer: only when there is no other."""
LOAD_DETOUR = 100.0
"""Milliseconds that a full relay seems to be further away than an idle one."""
FULL = 0.95
"""Load from which a relay is taken only when all others are as full or not answering."""


def relay_cost(endpoints: Sequence[Endpoint], load: float, ends: Sequence[RoundTrips]) -> float:
    """Milliseconds, lowest is best; ``load`` from 0 to 1."""
    detour = UNREACHABLE / 2 if load >= FULL else LOAD_DETOUR * load
    return detour + sum(_round_trip(endpoints, end) for end in ends)


def _round_trip(endpoints: Sequence[Endpoint], end: RoundTrips) -> float:
    measured = [end[endpoint] for endpoint in endpoints if endpoint in end]
    if not measured:
        return UNMEASURED
    best = min(measured)
    return UNREACHABLE if best >= UNANSWERED else best
