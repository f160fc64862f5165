"""What the parts of one signaling client share: chance, timers, the retry budget, and the way out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from cyphonic.protocol.chance import Chance
from cyphonic.protocol.client_events import Event
from cyphonic.protocol.cookie import CookieJar
from cyphonic.protocol.retransmission import Retransmission, RetryBudget
from cyphonic.protocol.timetable import Timetable
from cyphonic.wire.endpoint import Endpoint

OUTBOX_LIMIT = 4096
"""Datagrams that wait for the driver; what exceeds it is dropped, and sent again by whoever misses it."""


class ClientOutbox:
    """What the parts of one client leave for its driver."""

    def __init__(self) -> None:
        self.datagrams: list[tuple[bytes, Endpoint]] = []
        self.events: list[Event] = []
        self.drops: Counter[str] = Counter()
        self.cookies = CookieJar()

    def send(self, datagram: bytes, endpoint: Endpoint, now: float) -> None:
        """Queue a request, under the endpoint's cookie where there is one."""
        self.pass_on(self.cookies.dress(datagram, endpoint, now), endpoint)

    def pass_on(self, datagram: bytes, endpoint: Endpoint) -> None:
        """Queue a datagram as it is, or count it as dropped when the driver does not empty the queue."""
        if len(self.datagrams) < OUTBOX_LIMIT:
            self.datagrams.append((datagram, endpoint))
        else:
            self.drops["outbox_full"] += 1

    def send_due(self, leg: Retransmission, now: float) -> None:
        """Queue what ``leg`` has to send now, if anything."""
        sending = leg.due(now)
        if sending is not None:
            self.send(*sending, now)


@dataclass(frozen=True, slots=True)
class ClientResources:
    """One of each for a client; its parts get them at construction."""

    chance: Chance
    outbox: ClientOutbox = field(default_factory=ClientOutbox)
    timetable: Timetable = field(default_factory=Timetable)
    budget: RetryBudget = field(default_factory=RetryBudget)

    def retransmission(self, datagram: bytes, destinations: Sequence[Endpoint], now: float) -> Retransmission:
        """A leg that spends the client's budget."""
        return Retransmission(datagram, destinations, now, self.chance, self.budget)
