"""When a request is sent again, where to, and when to stop: the client drives every leg.

The same bytes go out 0, 0.5, 1.5, 3.5 and 7.5 s after the start (each but the first up to 10 % later), the first
two to the same frontend, then round the list.  At 15.5 s the leg is given up.  A driver that comes late sends
once, not once for every sending that it missed.  A frontend that says it is busy is not asked a second time, and
the next one up to a second later than planned.
"""

from __future__ import annotations

from collections.abc import Sequence

from cyphonic.protocol.chance import Chance, fraction
from cyphonic.protocol.limits import (
    GIVE_UP_AFTER,
    LOGIN_RETRY_INITIAL,
    LOGIN_RETRY_MAX,
    RESEND_AFTER,
    RESEND_JITTER,
)
from cyphonic.wire.endpoint import Endpoint

RETRY_BUDGET = 64
"""Resendings that one client may make at once."""
RETRY_BUDGET_RATE = 16.0
"""Resendings per second that it earns back."""
BUSY_DELAY = 1.0
"""Seconds, at most: how much later the sending after a Busy comes, at random."""


class RetryBudget:
    """A bucket of resendings for all legs of one client, so that a deaf cloud does not multiply its load."""

    __slots__ = ("_filled", "_tokens")

    def __init__(self) -> None:
        self._tokens = float(RETRY_BUDGET)
        self._filled: float | None = None

    def take(self, now: float) -> bool:
        """Whether one more resending is allowed; if so it is spent."""
        if self._filled is not None and now > self._filled:
            self._tokens = min(RETRY_BUDGET, self._tokens + (now - self._filled) * RETRY_BUDGET_RATE)
        self._filled = now if self._filled is None else max(now, self._filled)
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True


class Backoff:
    """Delays between attempts in seconds: doubled from 1 to 60, each shortened at random by up to a half."""

    __slots__ = ("_chance", "_delay")

    def __init__(self, chance: Chance) -> None:
        self._chance = chance
        self._delay = LOGIN_RETRY_INITIAL

    def draw(self) -> float:
        """The next delay."""
        delay = self._delay * (1 - fraction(self._chance) / 2)
        self._delay = min(self._delay * 2, LOGIN_RETRY_MAX)
        return delay

    def reset(self) -> None:
        """Begin again with the shortest delay."""
        self._delay = LOGIN_RETRY_INITIAL


class Retransmission:
    """One datagram on its way to whichever frontend answers.  ``destinations`` must not be empty."""

    __slots__ = (
        "_budget",
        "_chance",
        "_datagram",
        "_destinations",
        "_resume",
        "_sent",
        "_started",
        "_step",
        "_turned_away",
        "deadline",
    )

    def __init__(
        self,
        datagram: bytes,
        destinations: Sequence[Endpoint],
        now: float,
        chance: Chance,
        budget: RetryBudget | None = None,
    ) -> None:
        if not destinations:
            raise ValueError("a retransmission needs a destination")
        self._datagram = datagram
        self._destinations = destinations
        self._chance = chance
        self._budget = budget
        self._started = now
        self._step = 0
        self._sent = 0
        self._resume: float | None = None
        self._turned_away = 0
        self.deadline = now
        """When to call ``due`` again, or, after the last sending, when to give up."""

    def due(self, now: float) -> tuple[bytes, Endpoint] | None:
        """What to send now, if anything; moves ``deadline`` past ``now`` unless it is time to give up."""
        if now < self.deadline or self.gave_up(now):
            return None
        if (
            self._resume is not None and self._resume > now
        ):  # the sending between two steps that redirect() asked for
            self.deadline, self._resume = self._resume, None
            return self._send()
        self._resume = None
        first = self._step == 0
        self._advance(now)
        if not first and self._budget is not None and not self._budget.take(now):
            return None
        return self._send()

    def redirect(self, destinations: Sequence[Endpoint], now: float) -> None:
        """The underlay changed: send at once to ``destinations``, then go on in time as before."""
        if not destinations:
            return
        self._destinations = destinations
        self._sent = 0
        if self._resume is None:
            self._resume = self.deadline
        self.deadline = now

    def turn_away(self, now: float) -> None:
        """A Busy came: the next sending goes to the next endpoint, a little later; once for each sending."""
        if self._turned_away == self._sent or self._step >= len(RESEND_AFTER):
            return
        self._sent = self._turned_away = max(self._sent, 2)
        later = max(now, self.deadline) + BUSY_DELAY * fraction(self._chance)
        self.deadline = min(later, self._started + GIVE_UP_AFTER)

    def gave_up(self, now: float) -> bool:
        """Whether the time for an answer is over."""
        return now >= self._started + GIVE_UP_AFTER

    def _advance(self, now: float) -> None:
        self._step += 1
        while self._step < len(RESEND_AFTER) and self._started + RESEND_AFTER[self._step] <= now:
            self._step += 1
        if self._step < len(RESEND_AFTER):
            jitter = 1 + RESEND_JITTER * fraction(self._chance)
            self.deadline = self._started + RESEND_AFTER[self._step] * jitter
        else:
            self.deadline = self._started + GIVE_UP_AFTER

    def _send(self) -> tuple[bytes, Endpoint]:
        endpoint = self._destinations[max(0, self._sent - 1) % len(self._destinations)]
        self._sent += 1
        return self._datagram, endpoint
