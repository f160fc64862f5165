"""How a node hangs on the cloud over one address family: registration, lease, keepalives.

============ ============================== ===========================================================
phase        timer                          what may come
============ ============================== ===========================================================
idle         none                           ``register``: registering, where there is a frontend
registering  next sending, or give up       answer: registered; given up: waiting, then the next frontend
waiting      backoff, 1 to 60 s             registering
registered   keepalive interval; after a    ack: registered; ack without lease: registering at once; two
             keepalive, patience for its    unanswered: registering at the next frontend
             ack
============ ============================== ===========================================================
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from socket import AddressFamily

from cyphonic.protocol.chance import fraction
from cyphonic.protocol.client_events import CloudUnreachable, Registered
from cyphonic.protocol.client_resources import ClientResources
from cyphonic.protocol.common_key import KeyRing
from cyphonic.protocol.frontend_list import FrontendList
from cyphonic.protocol.limits import KEEPALIVE_INTERVAL, UNANSWERED_KEEPALIVES
from cyphonic.protocol.retransmission import Backoff, Retransmission
from cyphonic.wire.endpoint import Endpoint
from cyphonic.wire.header import IDENTIFIER_LENGTH, MessageType
from cyphonic.wire.registration import (
    KeepAlive,
    KeepAliveAck,
    MeasuredRegistration,
    RegistrationRequest,
    RegistrationResponse,
    RelayAddress,
    RelayRoundTrip,
)

KEEPALIVE_PATIENCE = 3.0
"""Seconds for a KeepAliveAck: longer than any round trip, short beside the lease."""
REFRESH_INTERVAL = 2.0
"""Seconds between two keepalives that were asked for: many peers may fall silent at once."""
KEEPALIVE_JITTER = 0.1
"""A keepalive comes up to this part of its interval early, so that a fleet does not keep step."""


class Phase(Enum):
    """See the table above."""

    IDLE = "idle"
    REGISTERING = "registering"
    WAITING = "waiting"
    REGISTERED = "registered"


@dataclass(frozen=True, slots=True)
class Presence:
    """What a registration says of the node."""

    candidates: tuple[bytes, ...]
    certificate: bytes
    relays: tuple[RelayRoundTrip, ...] = ()
    """As measured last."""

    def registration(self, counter: int) -> RegistrationRequest:
        """The body, with the relays once they are measured."""
        candidates = list(self.candidates)
        if not self.relays:
            return RegistrationRequest(counter, candidates, self.certificate)
        return MeasuredRegistration(counter, candidates, self.certificate, relays=list(self.relays))


@dataclass(frozen=True, slots=True)
class Lease:
    """What the NMS knows of this node over one family."""

    observed: Endpoint
    frontend: Endpoint
    """Where the node keeps the lease."""
    interval: float
    """Seconds between keepalives."""
    lifetime: float
    """Seconds after the last answer."""
    expires: float
    """Monotonic seconds."""
    relays: tuple[RelayAddress, ...]


class Attachment:
    """One address family's registration with the NMS.

    A lease outlives the attempt to renew or move it, so directions go on meanwhile; it ends when the NMS says so,
    or when a registration is given up.
    """

    def __init__(
        self,
        family: AddressFamily,
        ring: KeyRing,
        frontends: FrontendList,
        resources: ClientResources,
    ) -> None:
        self.family = family
        self.phase = Phase.IDLE
        self.lease: Lease | None = None
        self._ring = ring
        self._frontends = frontends
        self._resources = resources
        self._outbox = resources.outbox
        self._timetable = resources.timetable
        self._backoff = Backoff(resources.chance)
        self._presence = Presence((), b"")
        self._frontend: Endpoint | None = None
        self._leg: Retransmission | None = None
        self._awaited: list[bytes] = []
        self._refreshed = -math.inf

    def register(self, presence: Presence, now: float) -> None:
        """Register at once, whatever is going on; the frontend in use comes first."""
        self._presence = presence
        self._backoff.reset()
        self._begin(now)

    def stop(self) -> None:
        """Forget the lease and do nothing any more."""
        self.lease = None
        self._rest(Phase.IDLE)
        self._timetable.clear(self)

    def awaits(self, transaction_id: bytes) -> bool:
        """Whether an answer to that would be welcome."""
        return transaction_id in self._awaited

    def receive_response(
        self, body: RegistrationResponse, observed: Endpoint, source: Endpoint, now: float
    ) -> None:
        """The NMS registered us, through ``source``."""
        interval = float(min(max(body.keepalive_interval or KEEPALIVE_INTERVAL, 1), max(body.lease // 3, 1)))
        self._rest(Phase.REGISTERED)
        self._backoff.reset()
        self._frontend = source
        lifetime = float(body.lease)
        self.lease = Lease(observed, source, interval, lifetime, now + lifetime, tuple(body.relays))
        self._outbox.events.append(Registered(self.family, observed, self.lease.relays))
        self._schedule_keepalive(now)

    def receive_ack(self, body: KeepAliveAck, observed: Endpoint, now: float) -> None:
        """The NMS keeps the lease, or has lost it."""
        self._awaited.clear()
        lease = self.lease
        if lease is None or not body.registered:
            self.lease = None
            self._begin(now)
            return
        self.lease = Lease(
            observed, lease.frontend, lease.interval, lease.lifetime, now + lease.lifetime, lease.relays
        )
        if observed != lease.observed:
            self._outbox.events.append(Registered(self.family, observed, lease.relays))
        self._schedule_keepalive(now)

    def refresh(self, now: float) -> None:
        """Somewhere on the way something may have changed: show the NMS where this node is, without waiting."""
        if self.phase is Phase.REGISTERED and not self._awaited and now >= self._refreshed + REFRESH_INTERVAL:
            self._refreshed = now
            self._keep_alive(now)

    def key_unknown(self, now: float) -> None:
        """The NMS did not know the key of a keepalive: register, to ask it more often than keepalives do."""
        if self.phase is Phase.REGISTERED:
            self._begin(now)

    def turn_away(self, now: float) -> None:
        """The frontend is busy: a registration goes to the next one; a keepalive is just missing its answer."""
        if self._leg is not None:
            self._leg.turn_away(now)
            self._timetable.set(self, self._leg.deadline, self._on_timer)

    def _rest(self, phase: Phase) -> None:
        self.phase = phase
        self._leg = None
        self._awaited.clear()

    def _begin(self, now: float) -> None:
        destinations = self._frontends.of_family(self.family, self._frontend)
        key = self._ring.current
        if not destinations or key is None:
            self.stop()
            return
        self._frontend = destinations[0]
        transaction_id = self._resources.chance(IDENTIFIER_LENGTH)
        body = self._presence.registration(key.next_counter())
        datagram = self._ring.seal(MessageType.REGISTRATION_REQUEST, transaction_id, body)
        self.phase = Phase.REGISTERING
        self._awaited = [transaction_id]
        self._leg = self._resources.retransmission(datagram, destinations, now)
        self._ask(now)

    def _ask(self, now: float) -> None:
        leg = self._leg
        assert leg is not None
        if leg.gave_up(now):
            self._give_up(now)
            return
        self._outbox.send_due(leg, now)
        self._timetable.set(self, leg.deadline, self._on_timer)

    def _give_up(self, now: float) -> None:
        self.lease = None
        self._rest(Phase.WAITING)
        self._frontend = self._frontends.after(self._frontend, self.family)
        self._outbox.events.append(CloudUnreachable("NMS", "unanswered", self.family))
        self._timetable.set(self, now + self._backoff.draw(), self._on_timer)

    def _schedule_keepalive(self, now: float) -> None:
        assert self.lease is not None
        delay = self.lease.interval * (1 - KEEPALIVE_JITTER * fraction(self._resources.chance))
        self._timetable.set(self, now + delay, self._on_timer)

    def _keep_alive(self, now: float) -> None:
        if len(self._awaited) >= UNANSWERED_KEEPALIVES:
            self._frontend = self._frontends.after(self._frontend, self.family)
            self._begin(now)
            return
        key = self._ring.current
        if key is None or self._frontend is None or not self._frontends.lists(self._frontend):
            self._begin(now)  # where the cloud now wants its nodes
            return
        transaction_id = self._resources.chance(IDENTIFIER_LENGTH)
        self._awaited.append(transaction_id)
        datagram = self._ring.seal(MessageType.KEEP_ALIVE, transaction_id, KeepAlive(key.next_counter()))
        self._outbox.send(datagram, self._frontend, now)
        self._timetable.set(self, now + KEEPALIVE_PATIENCE, self._on_timer)

    def _on_timer(self, now: float, wall: float) -> None:  # noqa: ARG002 - every timer is told both times
        _ON_TIMER[self.phase](self, now)


_ON_TIMER: dict[Phase, Callable[[Attachment, float], None]] = {
    Phase.REGISTERING: Attachment._ask,
    Phase.WAITING: Attachment._begin,
    Phase.REGISTERED: Attachment._keep_alive,
}
