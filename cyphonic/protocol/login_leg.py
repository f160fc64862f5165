"""The login as its initiator sees it: attempts, each a new request, until the AS has answered one.

========== ================================ ==================================
state      timer                            then
========== ================================ ==================================
idle       none                             ``begin`` starts an attempt
asking     next sending, or give up         answered: idle; given up: waiting
waiting    backoff, 1 to 60 s               asking, from the next frontend on
stranded   none (no family in common)       ``underlay_changed``: asking
========== ================================ ==================================
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from cyphonic.errors import MalformedError, NotAllowedError
from cyphonic.protocol.certificate_book import CertificateBook
from cyphonic.protocol.client_events import CloudUnreachable, Identity
from cyphonic.protocol.client_resources import ClientResources
from cyphonic.protocol.common_key import CommonKey
from cyphonic.protocol.frontend_list import FrontendList
from cyphonic.protocol.login import LoginInitiator
from cyphonic.protocol.retransmission import Backoff, Retransmission
from cyphonic.wire.certificate import Certificate
from cyphonic.wire.endpoint import Endpoint
from cyphonic.wire.header import IDENTIFIER_LENGTH, SignalingHeader
from cyphonic.wire.login import LoginOutcome, LoginRequest, LoginResponse
from cyphonic.wire.tunnel import Suite

_TIMER = "login"
_SOFTWARE_LENGTH = 32


class LoginLeg:
    """Asks the AS, again and again while it is silent.  What the answer means is the client's business."""

    def __init__(
        self,
        identity: Identity,
        as_key: bytes,
        frontends: FrontendList,
        resources: ClientResources,
        suites: Sequence[Suite],
        software: str,
    ) -> None:
        self._identity = identity
        self._as_key = as_key
        self._frontends = frontends
        self._resources = resources
        self._outbox = resources.outbox
        self._timetable = resources.timetable
        self._suites = [int(suite) for suite in suites]
        self._software = software[:_SOFTWARE_LENGTH]
        self._backoff = Backoff(resources.chance)
        self._first: Endpoint | None = None
        self._initiator: LoginInitiator | None = None
        self._transaction_id = b""
        self._leg: Retransmission | None = None
        self.active = False
        """Whether an answer is wanted."""
        self.enrolment_key = b""
        self._key_number = 0
        self._attempts = 0
        self.last_stamp = identity.last_stamp

    def begin(self, now: float, wall: float) -> None:
        """Ask until answered; while that is going on, nothing changes."""
        if not self.active:
            self.active = True
            self._attempt(now, wall)

    def end(self) -> None:
        """Answered, or no longer wanted."""
        self.active = False
        self._drop_attempt()
        self._timetable.clear(_TIMER)

    def alone(self, key_number: int) -> bool:
        """Whether every common key since the last accepted login was for a request of this process.

        The AS numbers the keys of one static key without a gap, one for each request that it takes.
        """
        alone = not self._key_number or key_number <= self._key_number + self._attempts
        self._key_number, self._attempts = key_number, 0
        return alone

    def reset_backoff(self) -> None:
        """The login has proved good at the NMS: if there is another, it may be quick."""
        self._backoff.reset()

    def retry(self, now: float) -> None:
        """The answer was not what is needed: ask anew after a while."""
        self.active = True
        self._drop_attempt()
        self._timetable.set(_TIMER, now + self._backoff.draw(), self._on_timer)

    def underlay_changed(self, now: float) -> None:
        """Send at once from the new addresses; an attempt that waits or was stranded starts at once."""
        if not self.active:
            return
        if self._leg is not None:
            self._leg.redirect(self._frontends.round(self._first), now)
        self._backoff.reset()
        self._timetable.set(_TIMER, now, self._on_timer)

    def turn_away(self, now: float) -> None:
        """The frontend that was asked is busy."""
        if self._leg is not None:
            self._leg.turn_away(now)
            self._timetable.set(_TIMER, self._leg.deadline, self._on_timer)

    def awaits(self, transaction_id: bytes) -> bool:
        """Whether that is the request in flight."""
        return self._leg is not None and transaction_id == self._transaction_id

    def read(self, header: SignalingHeader, datagram: bytes) -> LoginResponse:
        """The authentic answer; raise NotAllowedError("unknown_transaction") or MalformedError."""
        if self._initiator is None or not self.awaits(header.transaction_id):
            raise NotAllowedError("unknown_transaction")
        return self._initiator.read_response(datagram)

    def _drop_attempt(self) -> None:
        self._initiator = self._leg = None

    def _attempt(self, now: float, wall: float) -> None:
        destinations = self._frontends.round(self._first)
        if not destinations:
            self._outbox.events.append(CloudUnreachable("AS", "no_underlay"))
            return
        self._first = destinations[0]
        self._attempts += 1
        self.last_stamp = max(self.last_stamp + 1, int(wall * 1e9))
        body = LoginRequest(self.last_stamp, self._identity.name, self.enrolment_key, self._suites, self._software)
        self._initiator = LoginInitiator(self._identity.static, self._as_key, self._resources.chance)
        self._transaction_id = self._resources.chance(IDENTIFIER_LENGTH)
        datagram = self._initiator.request(self._transaction_id, body)
        self._leg = self._resources.retransmission(datagram, destinations, now)
        self._drive(self._leg, now)

    def _drive(self, leg: Retransmission, now: float) -> None:
        self._outbox.send_due(leg, now)
        self._timetable.set(_TIMER, leg.deadline, self._on_timer)

    def _on_timer(self, now: float, wall: float) -> None:
        if self._leg is None:
            self._attempt(now, wall)
        elif self._leg.gave_up(now):
            destinations = self._frontends.round(self._first)
            self._first = destinations[1 % len(destinations)] if destinations else None
            self._outbox.events.append(CloudUnreachable("AS", "unanswered"))
            self.retry(now)
        else:
            self._drive(self._leg, now)


@dataclass(frozen=True, slots=True)
class Admission:
    """An accepted LoginResponse, checked."""

    key: CommonKey
    lifetime: float
    """Seconds of the common key."""
    certificate: Certificate
    certificate_bytes: bytes
    as_endpoints: tuple[Endpoint, ...]
    nms_endpoints: tuple[Endpoint, ...]
    prefix: str
    pool: str
    time: int
    """Unix milliseconds at the AS."""


def read_outcome(response: LoginResponse) -> LoginOutcome:
    """Why the login succeeded or not; raise MalformedError("bad_login_response") for one that we do not know."""
    try:
        return LoginOutcome(response.outcome)
    except ValueError:
        raise MalformedError("bad_login_response") from None


def read_admission(
    response: LoginResponse, static_key: bytes, book: CertificateBook, now: float, wall: float
) -> Admission:
    """What the AS gave.  ``wall``: Unix seconds, where the response itself tells no time.

    Raise MalformedError or NotAllowedError where a part of it cannot be used.
    """
    if len(response.common_key) != 32 or len(response.nms_key) != 32 or not response.key_lifetime:
        raise MalformedError("bad_login_response")
    certificate = book.check(response.certificate, response.time / 1000 if response.time else wall)
    if certificate.static_key != static_key:
        raise MalformedError("bad_login_response")
    key = CommonKey.make(
        response.key_number,
        response.common_key,
        certificate.node_id,
        response.nms_key,
        now + response.key_lifetime,
    )
    return Admission(
        key,
        float(response.key_lifetime),
        certificate,
        response.certificate,
        tuple(Endpoint.decode(endpoint) for endpoint in response.as_endpoints),
        tuple(Endpoint.decode(endpoint) for endpoint in response.nms_endpoints),
        response.prefix_ipv6,
        response.pool_ipv4,
        response.time,
    )
