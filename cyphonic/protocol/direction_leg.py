"""Directions: those that this node asks for, and those to which peers' wishes bring it.

A transaction of an initiator is *waiting* until there is a lease, then *asked*; it ends with a direction, with a
refusal, or unanswered 15.5 s after it was wanted.  A responder keeps nothing but the path IDs it has seen: it
confirms whatever is valid, as often as it comes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from cyphonic.errors import MalformedError, NotAllowedError
from cyphonic.protocol.certificate_book import CertificateBook
from cyphonic.protocol.client_events import Directed, DirectionFailed
from cyphonic.protocol.client_resources import ClientResources
from cyphonic.protocol.cloud_clock import CloudClock
from cyphonic.protocol.common_key import KeyRing
from cyphonic.protocol.limits import GIVE_UP_AFTER
from cyphonic.protocol.retransmission import Retransmission
from cyphonic.wire.certificate import Certificate
from cyphonic.wire.direction import (
    DirectionRefused,
    DirectionRequest,
    FirstPath,
    RefusalReason,
    Role,
    RouteDirection,
    RouteDirectionConfirmation,
)
from cyphonic.wire.endpoint import Endpoint
from cyphonic.wire.header import IDENTIFIER_LENGTH, MessageType, SignalingHeader

MAX_TRANSACTIONS = 1024
"""Directions that a client may want at once; the next one fails at once."""
MAX_DIRECTION_AGE = 60.0
"""Seconds.  A responder takes an older RouteDirection for a replay: the NMS sends none after 32 s."""
SEEN_LIMIT = 8192
"""Path IDs that a responder remembers, more than come within that age."""

Target = str | bytes
"""An FQDN, or a virtual address of 4 or 16 bytes."""


def fold_name(fqdn: str) -> str:
    """The one spelling of a name: lower case, without a final dot."""
    return fqdn.lower().rstrip(".")


@dataclass(slots=True, eq=False)
class _Transaction:
    """One wish for a direction.  ``wire_id`` differs from ``id`` after a request was dated anew."""

    id: bytes
    wire_id: bytes
    target: Target
    give_up_at: float
    leg: Retransmission | None = None
    redated: bool = False


class Directions:
    """Every direction of one client."""

    def __init__(
        self,
        ring: KeyRing,
        clock: CloudClock,
        book: CertificateBook,
        resources: ClientResources,
    ) -> None:
        self._ring = ring
        self._clock = clock
        self._book = book
        self._resources = resources
        self._chance = resources.chance
        self._outbox = resources.outbox
        self._timetable = resources.timetable
        self._by_target: dict[Target, _Transaction] = {}
        self._by_wire_id: dict[bytes, _Transaction] = {}
        self._seen: dict[bytes, None] = {}

    def __len__(self) -> int:
        return len(self._by_target)

    def want(self, target: Target, destinations: Sequence[Endpoint], now: float) -> bytes:
        """The transaction ID of a direction to ``target``; no ``destinations``: it waits for ``start_waiting``."""
        transaction = self._by_target.get(target)
        if transaction is not None:
            return transaction.id
        transaction_id = self._chance(IDENTIFIER_LENGTH)
        transaction = _Transaction(transaction_id, transaction_id, target, now + GIVE_UP_AFTER)
        if len(self._by_target) >= MAX_TRANSACTIONS:
            self._outbox.drops["directions_full"] += 1
            self._outbox.events.append(DirectionFailed(transaction_id, target, None))
            return transaction_id
        self._by_target[target] = self._by_wire_id[transaction_id] = transaction
        if destinations:
            self._ask(transaction, destinations, now)
        else:
            self._set_timer(transaction, transaction.give_up_at)
        return transaction_id

    def start_waiting(self, destinations: Sequence[Endpoint], now: float) -> None:
        """There is a lease: ask what waited for it."""
        if destinations:
            for transaction in [each for each in self._by_target.values() if each.leg is None]:
                self._ask(transaction, destinations, now)

    def hold(self) -> None:
        """The NMS never knew the key of what was asked: it waits to be asked again under the next key."""
        for transaction in self._by_target.values():
            transaction.leg = None
            self._set_timer(transaction, transaction.give_up_at)

    def redirect(self, destinations: Sequence[Endpoint], now: float) -> None:
        """The underlay changed: send what is asked again at once."""
        for transaction in self._by_target.values():
            if transaction.leg is not None:
                transaction.leg.redirect(destinations, now)
                self._set_timer(transaction, transaction.leg.deadline)

    def abandon(self) -> None:
        """The client stops: everything in flight fails."""
        for transaction in list(self._by_target.values()):
            self._fail(transaction, None)

    def awaits(self, transaction_id: bytes) -> bool:
        """Whether that is a request in flight."""
        transaction = self._by_wire_id.get(transaction_id)
        return transaction is not None and transaction.leg is not None

    def turn_away(self, transaction_id: bytes, now: float) -> None:
        """The frontend that was asked is busy; does nothing for a transaction that is not in flight."""
        transaction = self._by_wire_id.get(transaction_id)
        if transaction is not None and transaction.leg is not None:
            transaction.leg.turn_away(now)
            self._set_timer(transaction, min(transaction.leg.deadline, transaction.give_up_at))

    # -- answers ---------------------------------------------------------------------------------------------

    def receive_route(
        self, header: SignalingHeader, body: RouteDirection, source: Endpoint, now: float, wall: float
    ) -> None:
        """A RouteDirection: the answer to a request, or a peer's wish.  ``wall``: for certificates.

        Raise MalformedError or NotAllowedError and change nothing.
        """
        if body.role == Role.INITIATOR:
            self._receive_answer(header.transaction_id, body, wall)
        elif body.role == Role.RESPONDER and body.handle == header.transaction_id:
            self._receive_wish(body, source, now, wall)
        else:
            raise MalformedError("bad_direction")

    def receive_refusal(
        self, transaction_id: bytes, body: DirectionRefused, destinations: Sequence[Endpoint], now: float
    ) -> None:
        """No direction; raise NotAllowedError("unknown_transaction") or MalformedError and change nothing."""
        transaction = self._find(transaction_id)
        try:
            reason = RefusalReason(body.reason)
        except ValueError:
            raise MalformedError("bad_refusal") from None
        if reason is RefusalReason.STALE and not transaction.redated and destinations:
            self._clock.observe(body.time, now)
            self._redate(transaction, destinations, now)
        else:
            self._fail(transaction, reason, body)

    def _receive_answer(self, transaction_id: bytes, body: RouteDirection, wall: float) -> None:
        transaction = self._find(transaction_id)
        certificate, candidates = self._check(body, wall)
        addresses = (certificate.virtual_ipv6, certificate.virtual_ipv4)
        if transaction.target not in (fold_name(certificate.fqdn), *addresses):
            raise NotAllowedError("wrong_peer")
        self._forget(transaction)
        self._book.note(certificate)
        self._outbox.events.append(Directed(transaction.id, body, certificate, candidates))

    def _receive_wish(self, body: RouteDirection, source: Endpoint, now: float, wall: float) -> None:
        if self._clock.is_set and body.time < self._clock.read(now) - MAX_DIRECTION_AGE * 1000:
            raise NotAllowedError("stale_direction")
        certificate, candidates = self._check(body, wall)
        confirmation = RouteDirectionConfirmation(body.handle)
        self._outbox.send(
            self._ring.seal(MessageType.ROUTE_DIRECTION_CONFIRMATION, body.handle, confirmation), source, now
        )
        if body.path_id in self._seen:
            return
        if len(self._seen) >= SEEN_LIMIT:
            del self._seen[next(iter(self._seen))]
        self._seen[body.path_id] = None
        self._book.note(certificate)
        self._outbox.events.append(Directed(None, body, certificate, candidates))

    def _check(self, body: RouteDirection, wall: float) -> tuple[Certificate, tuple[Endpoint, ...]]:
        if not FirstPath.DIRECT <= body.first_path <= FirstPath.RELAYED_ONLY:
            raise MalformedError("bad_direction")
        candidates = tuple(map(Endpoint.decode, body.candidates))
        for grant in body.relays:
            for endpoint in grant.endpoints:
                Endpoint.decode(endpoint)
        key = self._ring.current
        certificate = self._book.check(body.certificate, wall)
        if key is None or certificate.node_id == key.node_id:
            raise NotAllowedError("wrong_peer")
        return certificate, candidates

    # -- one transaction -------------------------------------------------------------------------------------

    def _find(self, transaction_id: bytes) -> _Transaction:
        transaction = self._by_wire_id.get(transaction_id)
        if transaction is None:
            raise NotAllowedError("unknown_transaction")
        return transaction

    def _ask(self, transaction: _Transaction, destinations: Sequence[Endpoint], now: float) -> None:
        target = transaction.target
        fqdn, address = (target, b"") if isinstance(target, str) else ("", target)
        body = DirectionRequest(self._clock.read(now), fqdn, address)
        datagram = self._ring.seal(MessageType.DIRECTION_REQUEST, transaction.wire_id, body)
        transaction.leg = self._resources.retransmission(datagram, destinations, now)
        self._drive(transaction, now)

    def _redate(self, transaction: _Transaction, destinations: Sequence[Endpoint], now: float) -> None:
        """Once, and under another transaction ID: the refusal may be saved under the old one."""
        del self._by_wire_id[transaction.wire_id]
        self._timetable.clear(("direction", transaction.wire_id))
        transaction.redated = True
        transaction.wire_id = self._chance(IDENTIFIER_LENGTH)
        self._by_wire_id[transaction.wire_id] = transaction
        self._ask(transaction, destinations, now)

    def _drive(self, transaction: _Transaction, now: float) -> None:
        leg = transaction.leg
        if now >= transaction.give_up_at:
            self._fail(transaction, None)
            return
        if leg is None:
            self._set_timer(transaction, transaction.give_up_at)
            return
        self._outbox.send_due(leg, now)
        self._set_timer(transaction, min(leg.deadline, transaction.give_up_at))

    def _set_timer(self, transaction: _Transaction, deadline: float) -> None:
        self._timetable.set(
            ("direction", transaction.wire_id), deadline, lambda now, _wall: self._drive(transaction, now)
        )

    def _fail(
        self, transaction: _Transaction, reason: RefusalReason | None, body: DirectionRefused | None = None
    ) -> None:
        self._forget(transaction)
        names = (body.fqdn, body.virtual_ipv6, body.virtual_ipv4) if body is not None else ("", b"", b"")
        self._outbox.events.append(DirectionFailed(transaction.id, transaction.target, reason, *names))

    def _forget(self, transaction: _Transaction) -> None:
        del self._by_target[transaction.target]
        del self._by_wire_id[transaction.wire_id]
        self._timetable.clear(("direction", transaction.wire_id))
