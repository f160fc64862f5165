"""What the signaling client has to do with relays: measure those that the NMS names, and tell it the result.

A node that measures nothing (one of thousands in a load generator) still knows which relays there are.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from cyphonic.protocol.client_resources import ClientResources
from cyphonic.protocol.registrations import Registrations
from cyphonic.protocol.relay_meter import RelayMeter
from cyphonic.wire.endpoint import Endpoint
from cyphonic.wire.registration import RelayAddress


class RelayLeg:
    """Drives a meter by the client's timers; calls ``on_news(now)`` after the presence has the new figures."""

    def __init__(
        self,
        registrations: Registrations,
        resources: ClientResources,
        *,
        measures: bool,
        on_news: Callable[[float], None],
    ) -> None:
        self.known: tuple[RelayAddress, ...] = ()
        """As the NMS named them last."""
        self._meter = RelayMeter(resources.chance)
        self._measures = measures
        self._registrations = registrations
        self._outbox = resources.outbox
        self._timetable = resources.timetable
        self._on_news = on_news

    @property
    def round_trips(self) -> dict[Endpoint, float]:
        """Seconds, as measured last; infinity for a relay that did not answer."""
        return self._meter.round_trips

    def learn(self, relays: Sequence[RelayAddress], now: float) -> None:
        """The NMS names these."""
        self.known = tuple(relays)
        if self._measures:
            self._meter.aim(self.known, self._registrations.families, now)
            self._schedule()

    def moved(self, now: float) -> None:
        """This node is elsewhere."""
        self._meter.aim(self.known if self._measures else (), self._registrations.families, now)
        self._meter.moved(now)
        self._schedule()

    def receive_datagram(self, datagram: bytes, source: Endpoint, now: float) -> None:
        """A RelayProbeReply.  Raise DropError."""
        self._meter.receive_datagram(datagram, source, now)

    def _schedule(self) -> None:
        deadline = self._meter.next_deadline()
        if deadline == math.inf:
            self._timetable.clear("relays")
        else:
            self._timetable.set("relays", deadline, self._on_timer)

    def _on_timer(self, now: float, wall: float) -> None:  # noqa: ARG002 - every timer is told both times
        news = self._meter.handle_timeout(now)
        for datagram, endpoint in self._meter.datagrams_to_send():
            self._outbox.pass_on(datagram, endpoint)
        self._schedule()
        if news:
            self._registrations.measured(self._meter.tell())
            self._on_news(now)
