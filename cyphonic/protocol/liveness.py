"""When a peer was last heard and spoken to, and what follows: keepalives, probing, a new direction, rest.

Times are the caller's monotonic seconds.  The rules are WireGuard's (§6.5 of its paper), with path probes in front:
who receives packets and has nothing to say says so within ``KEEPALIVE_TIMEOUT``; who sends and hears nothing for
``LIVENESS_PROBE`` asks.  So does, once, who received packets and then no more: a path may die without any event
here, and who only receives would never know.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from cyphonic.protocol.limits import KEEPALIVE_TIMEOUT, PEER_IDLE, PERSISTENT_KEEPALIVE

LIVENESS_PROBE = 1.5
"""Seconds of silence while sending, or after receiving, after which the path in use is probed."""
LIVENESS_DEAD = 5.0
"""Seconds of silence while sending, after which a new direction is asked for."""


@dataclass(slots=True)
class Liveness:
    """The clock readings of one peer."""

    last_packet: float = -math.inf
    """Inner packet or look-up, either way: a peer without is left to rest."""
    last_sent: float = -math.inf
    unanswered_since: float = math.inf
    """The first packet since the peer was last heard."""
    keepalive_owed: float = math.inf
    last_received: float = -math.inf
    expecting: bool = False
    """Packets came, and the silence since then has not been doubted yet."""

    def sent(self, now: float) -> None:
        """Anything sealed went out."""
        self.last_sent = now

    def awaits_answer(self, now: float) -> None:
        """Something was sent that a living peer answers, by a keepalive at least."""
        self.last_packet = now
        if self.unanswered_since == math.inf:
            self.unanswered_since = now

    def heard(self, now: float) -> None:
        """Anything was opened."""
        self.last_received = now
        self.unanswered_since = math.inf

    def packet_received(self, now: float) -> None:
        """An inner packet came, which the peer wants to see answered."""
        self.last_packet = now
        self.expecting = True
        if self.keepalive_owed == math.inf:
            self.keepalive_owed = now + KEEPALIVE_TIMEOUT

    def active(self, now: float) -> bool:
        """Whether the peer is worth keeping alive."""
        return now - self.last_packet < PEER_IDLE

    def unanswered(self, now: float) -> float:
        """Seconds for which something sent has met silence; negative infinity for none."""
        return now - self.unanswered_since

    def doubtful(self, now: float) -> bool:
        """Whether to ask the peer if it is still there."""
        if self.expecting and now - self.last_received >= LIVENESS_PROBE:
            self.expecting = False
            return True
        return self.unanswered(now) >= LIVENESS_PROBE

    def next_doubt(self, now: float) -> float:
        """When ``doubtful`` becomes true if the silence goes on; infinity when it does not."""
        expected = self.last_received + LIVENESS_PROBE if self.expecting else math.inf
        doubt = min(expected, self.unanswered_since + LIVENESS_PROBE)
        return doubt if doubt > now else math.inf

    def keepalive_due(self, now: float) -> bool:
        """Whether to send an empty capsule."""
        return now >= self.keepalive_owed or now - self.last_sent >= PERSISTENT_KEEPALIVE
