"""The signaling client: everything that a node says to the cloud and hears from it, without a socket or a clock.

A driver hands in datagrams and the time and empties two queues::

    login, set_underlay, direction, leave ─┐                     ┌─► datagrams_to_send()
    receive_datagram(datagram, source) ────┼─► SignalingClient ──┼─► events()
    handle_timeout ────────────────────────┘                     └─► next_deadline()

Nothing is raised by what comes from the network: a datagram that cannot be used is counted in ``drops`` by its
reason and changes nothing.  ``now`` is monotonic, in seconds, and best counts the time a machine sleeps;
``wall`` is Unix time in seconds and only makes login stamps, and dates certificates before the cloud has told the
time.

The parts::

    LoginLeg       asks the AS; the client installs what it gets (KeyRing) and renews it at half-life
    Registrations  one attachment per address family: registration, lease, keepalives
    RelayLeg       how far the relays are; told with registrations
    Directions     transactions that this node asked for; confirmations of those it did not
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from socket import AddressFamily
from typing import NamedTuple

from cyphonic.errors import DropError, MalformedError, NotAllowedError
from cyphonic.protocol.attachment import Lease
from cyphonic.protocol.certificate_book import CertificateBook
from cyphonic.protocol.chance import Chance, fraction
from cyphonic.protocol.client_events import (
    ClientState,
    Cloud,
    CloudUnreachable,
    Directed,
    DirectionFailed,
    Event,
    Identity,
    LoggedIn,
    LoginRefused,
    PeerRevoked,
    Registered,
    SelfRevoked,
    VersionHinted,
)
from cyphonic.protocol.client_resources import ClientResources
from cyphonic.protocol.cloud_clock import CloudClock
from cyphonic.protocol.common_key import KeyDoubt, KeyRing
from cyphonic.protocol.cookie import cookie_key
from cyphonic.protocol.direction_leg import Directions, Target, fold_name
from cyphonic.protocol.frontend_list import FrontendList
from cyphonic.protocol.limits import COMMON_KEY_RENEWAL, COMMON_KEY_RENEWAL_JITTER
from cyphonic.protocol.login_leg import Admission, LoginLeg, read_admission, read_outcome
from cyphonic.protocol.registrations import Registrations
from cyphonic.protocol.relay_leg import RelayLeg
from cyphonic.wire.certificate import Certificate
from cyphonic.wire.codec import BodyT, decode
from cyphonic.wire.direction import DirectionRefused, RouteDirection
from cyphonic.wire.endpoint import Endpoint
from cyphonic.wire.header import IDENTIFIER_LENGTH, SIGNALING_HEADER_LENGTH, MessageType, SignalingHeader
from cyphonic.wire.hint import HINTS
from cyphonic.wire.login import LoginOutcome
from cyphonic.wire.registration import MAX_CANDIDATES, KeepAliveAck, Leave, RegistrationResponse, RelayAddress
from cyphonic.wire.revocation import PathRevocation, PathRevocationAck
from cyphonic.wire.tunnel import Suite

__all__ = (
    "ClientState",
    "Cloud",
    "CloudUnreachable",
    "Directed",
    "DirectionFailed",
    "Event",
    "Identity",
    "LoggedIn",
    "LoginRefused",
    "PeerRevoked",
    "Registered",
    "SelfRevoked",
    "SignalingClient",
    "VersionHinted",
)

LEAVE_COPIES = 2
"""A Leave has no answer; a lost one costs peers nothing but a wait for the lease to end."""
_PROBE_REPLY = bytes([MessageType.RELAY_PROBE_REPLY])
VERSION_HINT_INTERVAL = 60.0
"""Seconds between two events of the kind."""

_FINAL = frozenset({LoginOutcome.NODE_REVOKED, LoginOutcome.NOT_ENROLLED})
"""Refusals that end a membership; others leave a common key from before in use."""


class _Arrival(NamedTuple):
    """A datagram and when and from where it came."""

    header: SignalingHeader
    datagram: bytes
    source: Endpoint
    now: float
    wall: float


class SignalingClient:
    """One node's signaling.  Log in once an underlay is set; everything else follows by itself."""

    def __init__(
        self,
        identity: Identity,
        cloud: Cloud,
        chance: Chance,
        *,
        suites: Sequence[Suite] = (Suite.CHACHA20_POLY1305,),
        software: str = "cyphonic",
        measures_relays: bool = False,
        verified: dict[bytes, Certificate] | None = None,
    ) -> None:
        """``measures_relays``: say in registrations how far they are.

        ``verified``: certificates that clients of one process share, so that each is verified once."""
        self.cloud = cloud
        self._static_key = identity.static.public
        self._as_cookie_key = cookie_key(cloud.as_key)
        self._chance = chance
        resources = ClientResources(chance)
        self._outbox = resources.outbox
        self._timetable = resources.timetable
        self._ring = KeyRing(chance)
        self._doubt = KeyDoubt(chance)
        self._as_clock = CloudClock()
        self._nms_clock = CloudClock()
        self._book = CertificateBook(cloud.as_verify_key, verified)
        self._as_frontends = FrontendList(cloud.as_endpoints, chance)
        self._nms_frontends = FrontendList((), chance)
        self._login = LoginLeg(identity, cloud.as_key, self._as_frontends, resources, suites, software)
        self._registrations = Registrations(self._ring, self._nms_frontends, resources)
        self._directions = Directions(self._ring, self._nms_clock, self._book, resources)
        self._relays = RelayLeg(
            self._registrations, resources, measures=measures_relays, on_news=self._registrations.register
        )
        self._ended: ClientState | None = None
        self._key_was_unknown = False
        self._version_hinted: float | None = None
        self.drops: Counter[str] = self._outbox.drops
        """Datagrams that were not used, by reason."""
        self.certificate: Certificate | None = None
        self.certificate_bytes = b""
        self.next_renewal: float | None = None
        """When the common key will be renewed, in monotonic seconds."""

    # -- for the driver --------------------------------------------------------------------------------------

    @property
    def state(self) -> ClientState:
        """Where the client stands."""
        if self._ended is not None:
            return self._ended
        if self._ring.current is None:
            return ClientState.LOGGING_IN if self._login.active else ClientState.LOGGED_OUT
        return ClientState.REGISTERED if self.leases else ClientState.REGISTERING

    @property
    def registering(self) -> bool:
        """Whether the answer to any registration is still awaited, the first or a later one."""
        return self._registrations.under_way

    @property
    def leases(self) -> dict[AddressFamily, Lease]:
        """What the NMS knows of this node, by address family."""
        return self._registrations.leases

    @property
    def relays(self) -> tuple[RelayAddress, ...]:
        """As the NMS named them last."""
        return self._relays.known

    @property
    def relay_round_trips(self) -> dict[Endpoint, float]:
        """Seconds, by endpoint; infinity for a relay that did not answer.  Empty where none are measured."""
        return self._relays.round_trips

    @property
    def last_stamp(self) -> int:
        """Keep it with the identity: the next process must go on from it."""
        return self._login.last_stamp

    @property
    def node_id(self) -> bytes | None:
        """Given by the NMS at the first login."""
        return None if self.certificate is None else self.certificate.node_id

    @property
    def key_number(self) -> int:
        """Of the common key in use; 0: none."""
        return 0 if self._ring.current is None else self._ring.current.number

    @property
    def as_endpoints(self) -> Sequence[Endpoint]:
        """Where the AS answers, as far as this node knows."""
        return self._as_frontends.endpoints

    @property
    def nms_endpoints(self) -> Sequence[Endpoint]:
        """Where the NMS answers, as the cloud told last."""
        return self._nms_frontends.endpoints

    def login(self, now: float, wall: float, enrolment_key: bytes = b"") -> None:
        """Join, and stay joined: log in, register, renew.  Called again, renew at once."""
        self._ended = None
        if enrolment_key:
            self._login.enrolment_key = enrolment_key
        self._login.begin(now, wall)

    def set_underlay(self, families: Collection[AddressFamily], candidates: Sequence[Endpoint], now: float) -> None:
        """The node's address families and own endpoints (the first 8 count), now and after each change.

        A change is made known to the NMS at once; the same values again change nothing.
        """
        encoded = tuple(candidate.encode() for candidate in candidates[:MAX_CANDIDATES])
        presence = replace(self._registrations.presence, candidates=encoded, certificate=self.certificate_bytes)
        if self._registrations.describe(families, presence):
            self._relays.moved(now)
            self._as_frontends.limit(families)
            self._nms_frontends.limit(families)
            self.reattach(now)

    def reattach(self, now: float) -> None:
        """Register anew and send again what is in flight: addresses stayed, but the way may have changed."""
        if self._ended is not None:
            return
        self._outbox.cookies.clear()
        self._login.underlay_changed(now)
        self._register(now)
        self._directions.redirect(self._nms_frontends.round(), now)

    def refresh(self, now: float) -> None:
        """A path has fallen silent: the way out of here may have changed unseen, so show the NMS where we are."""
        self._registrations.refresh(now)

    def direction(self, fqdn: str = "", address: bytes = b"", *, now: float) -> bytes:
        """Ask for a path by name or by virtual address; the transaction ID that its event will bear.

        Asking again for what is in flight joins it.  Raise ValueError unless exactly one of them is given.
        """
        if bool(fqdn) == bool(address) or len(address) not in (0, 4, 16):
            raise ValueError("either an FQDN or a virtual address of 4 or 16 bytes")
        target: Target = fold_name(fqdn) if fqdn else address
        return self._directions.want(target, self._registrations.destinations(now), now)

    def leave(self, now: float) -> None:
        """Tell the NMS and stop; what is in flight fails."""
        destinations = self._registrations.destinations(now)
        key = self._ring.current
        if key is not None and destinations and self._ended is None:
            body = Leave(key.next_counter())
            datagram = self._ring.seal(MessageType.LEAVE, self._chance(IDENTIFIER_LENGTH), body)
            for copy in range(LEAVE_COPIES):
                self._outbox.send(datagram, destinations[copy % len(destinations)], now)
        self._stop(ClientState.LEFT)
        self._ring.discard()

    def receive_datagram(self, datagram: bytes, source: Endpoint, now: float, wall: float) -> bool:
        """A UDP payload from the cloud; False when it was dropped, and counted."""
        try:
            if datagram[:1] == _PROBE_REPLY:
                self._relays.receive_datagram(datagram, source, now)
                return True
            self._receive(_Arrival(SignalingHeader.decode(datagram), datagram, source, now, wall))
        except DropError as drop:
            self.drops[drop.reason] += 1
            return False
        return True

    def handle_timeout(self, now: float, wall: float) -> None:
        """Do everything that is due."""
        self._timetable.run(now, wall)

    def next_deadline(self) -> float | None:
        """When ``handle_timeout`` wants to be called."""
        return self._timetable.next_deadline()

    def datagrams_to_send(self) -> list[tuple[bytes, Endpoint]]:
        """What to send, in order; each is handed out once."""
        datagrams = self._outbox.datagrams
        if datagrams:
            self._outbox.datagrams = []
        return datagrams

    def events(self) -> list[Event]:
        """What has happened, in order; each is handed out once."""
        events = self._outbox.events
        if events:
            self._outbox.events = []
        return events

    # -- what comes ------------------------------------------------------------------------------------------

    def _receive(self, arrival: _Arrival) -> None:
        handler = _HANDLERS.get(arrival.header.type)
        if handler is None:
            raise NotAllowedError("wrong_direction")
        if arrival.header.type in HINTS and len(arrival.datagram) != SIGNALING_HEADER_LENGTH:
            raise MalformedError("bad_length")  # nothing protects a hint: no damaged message may look like one
        from_as = arrival.header.type in _FROM_AS and arrival.source in self._as_frontends
        from_nms = arrival.header.type not in _FROM_AS_ALONE and arrival.source in self._nms_frontends
        if not from_as and not from_nms:
            raise NotAllowedError("unlisted_source")
        handler(self, arrival)

    def _open(self, arrival: _Arrival, body_type: type[BodyT]) -> BodyT:
        plaintext = self._ring.open(arrival.datagram, arrival.header, arrival.now)
        self._outbox.cookies.answered(arrival.datagram, arrival.source)
        if self._ring.current is not None and arrival.header.key_number == self._ring.current.number:
            self._doubt.dispel()
            self._timetable.clear("doubt")
        return decode(plaintext, body_type)

    def _receive_login_response(self, arrival: _Arrival) -> None:
        response = self._login.read(arrival.header, arrival.datagram)
        self._outbox.cookies.answered(arrival.datagram, arrival.source)
        outcome = read_outcome(response)
        if outcome is LoginOutcome.ACCEPTED:
            admission = read_admission(response, self._static_key, self._book, arrival.now, arrival.wall)
            self._admit(admission, arrival.now)
        else:
            self._refuse(outcome, arrival.now)

    def _receive_registration_response(self, arrival: _Arrival) -> None:
        attachment = self._registrations.find(arrival.header.transaction_id)
        body = self._open(arrival, RegistrationResponse)
        observed = Endpoint.decode(body.observed)
        endpoints = [Endpoint.decode(endpoint) for endpoint in body.nms_endpoints]
        now = arrival.now
        self._nms_clock.observe(body.time, now)
        attachment.receive_response(body, observed, arrival.source, now)
        self._relays.learn(body.relays, now)
        self._login.reset_backoff()
        if self._nms_frontends.replace(endpoints):
            self._registrations.register_idle(now)
        self._directions.start_waiting(self._registrations.destinations(now), now)

    def _receive_keep_alive_ack(self, arrival: _Arrival) -> None:
        attachment = self._registrations.find(arrival.header.transaction_id)
        body = self._open(arrival, KeepAliveAck)
        observed = Endpoint.decode(body.observed)
        self._nms_clock.observe(body.time, arrival.now)
        attachment.receive_ack(body, observed, arrival.now)

    def _receive_route_direction(self, arrival: _Arrival) -> None:
        if self._ended is not None:
            raise NotAllowedError("stopped")
        body = self._open(arrival, RouteDirection)
        date = self._as_clock.read(arrival.now) / 1000 if self._as_clock.is_set else arrival.wall
        self._directions.receive_route(arrival.header, body, arrival.source, arrival.now, date)

    def _receive_refusal(self, arrival: _Arrival) -> None:
        transaction_id = arrival.header.transaction_id
        if not self._directions.awaits(transaction_id):
            raise NotAllowedError("unknown_transaction")
        body = self._open(arrival, DirectionRefused)
        destinations = self._registrations.destinations(arrival.now)
        self._directions.receive_refusal(transaction_id, body, destinations, arrival.now)

    def _receive_revocation(self, arrival: _Arrival) -> None:
        body = self._open(arrival, PathRevocation)
        ack = PathRevocationAck(body.node_id)
        self._outbox.send(
            self._ring.seal(MessageType.PATH_REVOCATION_ACK, arrival.header.transaction_id, ack),
            arrival.source,
            arrival.now,
        )
        if self.certificate is not None and body.node_id == self.certificate.node_id:
            if self._ended is None and body.generation >= self.certificate.generation:
                self._stop(ClientState.REVOKED)  # keeps its key, to acknowledge again
                self._outbox.events.append(SelfRevoked())
        elif self._book.revoke(body.node_id, body.generation):
            self._outbox.events.append(PeerRevoked(body.node_id, body.generation))

    def _receive_key_unknown(self, arrival: _Arrival) -> None:
        key, header = self._ring.current, arrival.header
        if key is None or (header.key_number, header.node_id) != (key.number, key.node_id):
            raise NotAllowedError("unknown_key")
        attachment = self._registrations.awaiting(header.transaction_id)
        if attachment is None and not self._directions.awaits(header.transaction_id):
            raise NotAllowedError("unknown_transaction")
        patience = self._doubt.hint()
        if patience is not None:
            self._timetable.set("doubt", arrival.now + patience, self._resolve_doubt)
        if attachment is not None:
            attachment.key_unknown(arrival.now)

    def _receive_version_hint(self, arrival: _Arrival) -> None:
        self._check_hint(arrival.header)
        if self._version_hinted is None or arrival.now >= self._version_hinted + VERSION_HINT_INTERVAL:
            self._version_hinted = arrival.now
            self._outbox.events.append(VersionHinted(arrival.source))

    def _receive_busy(self, arrival: _Arrival) -> None:
        self._check_hint(arrival.header)
        transaction_id, now = arrival.header.transaction_id, arrival.now
        attachment = self._registrations.awaiting(transaction_id)
        if self._login.awaits(transaction_id):
            self._login.turn_away(now)
        elif attachment is not None:
            attachment.turn_away(now)
        else:
            self._directions.turn_away(transaction_id, now)

    def _receive_cookie_reply(self, arrival: _Arrival) -> None:
        cookies, reply, source = self._outbox.cookies, arrival.datagram, arrival.source
        if cookies.request_of(reply, source)[0] == MessageType.LOGIN_REQUEST:
            key = self._as_cookie_key
        elif self._ring.current is not None:
            key = self._ring.current.nms_cookie_key
        else:
            raise NotAllowedError("not_logged_in")
        self._outbox.pass_on(cookies.accept(reply, source, key, arrival.now), source)

    def _check_hint(self, header: SignalingHeader) -> None:
        transaction_id = header.transaction_id
        if not (
            self._login.awaits(transaction_id)
            or self._registrations.awaiting(transaction_id) is not None
            or self._directions.awaits(transaction_id)
        ):
            raise NotAllowedError("unknown_transaction")

    # -- login and what follows from it ----------------------------------------------------------------------

    def _admit(self, admission: Admission, now: float) -> None:
        self._login.end()
        self._login.enrolment_key = b""
        self._as_clock.observe(admission.time, now)
        self._as_frontends.replace((*admission.as_endpoints, *self.cloud.as_endpoints))
        self._nms_frontends.replace(admission.nms_endpoints)
        self._ring.install(admission.key)
        self.certificate, self.certificate_bytes = admission.certificate, admission.certificate_bytes
        self._registrations.presence = replace(
            self._registrations.presence, certificate=admission.certificate_bytes
        )
        self._outbox.events.append(
            LoggedIn(
                admission.certificate,
                admission.certificate_bytes,
                admission.prefix,
                admission.pool,
                alone=self._login.alone(admission.key.number),
            )
        )
        self._schedule_renewal(admission.lifetime, now)
        if self._key_was_unknown:
            self._key_was_unknown = False
            self._directions.hold()
        self._register(now)

    def _schedule_renewal(self, lifetime: float, now: float) -> None:
        jitter = 1 + COMMON_KEY_RENEWAL_JITTER * (2 * fraction(self._chance) - 1)
        self.next_renewal = now + lifetime * COMMON_KEY_RENEWAL * jitter
        self._timetable.set("renewal", self.next_renewal, self._login.begin)
        self._timetable.set("expiry", now + lifetime, self._expire)

    def _expire(self, now: float, wall: float) -> None:
        """The common key's end, after renewals have failed for half its life."""
        self._ring.discard()
        self._registrations.stop()
        self._directions.hold()
        self._login.begin(now, wall)

    def _resolve_doubt(self, now: float, wall: float) -> None:
        if self._doubt.convinced():
            self._key_was_unknown = True
            self._login.begin(now, wall)

    def _refuse(self, outcome: LoginOutcome, now: float) -> None:
        self._outbox.events.append(LoginRefused(outcome))
        if self._ring.current is None or outcome in _FINAL:
            self._stop(ClientState.REFUSED)
            self._ring.discard()
        else:
            self._login.retry(now)

    def _stop(self, state: ClientState) -> None:
        self._ended = state
        self._login.end()
        self._registrations.stop()
        self._directions.abandon()
        self._timetable.clear_all()
        self.next_renewal = None

    def _register(self, now: float) -> None:
        if self._ring.current is None:
            return
        self._registrations.register(now)
        if self._registrations.stranded:
            self._outbox.events.append(CloudUnreachable("NMS", "no_endpoint"))
            self._login.retry(now)  # the AS may know other frontends by then


_Handler = Callable[[SignalingClient, _Arrival], None]
_HANDLERS: dict[MessageType, _Handler] = {
    MessageType.LOGIN_RESPONSE: SignalingClient._receive_login_response,
    MessageType.REGISTRATION_RESPONSE: SignalingClient._receive_registration_response,
    MessageType.KEEP_ALIVE_ACK: SignalingClient._receive_keep_alive_ack,
    MessageType.ROUTE_DIRECTION: SignalingClient._receive_route_direction,
    MessageType.DIRECTION_REFUSED: SignalingClient._receive_refusal,
    MessageType.PATH_REVOCATION: SignalingClient._receive_revocation,
    MessageType.KEY_UNKNOWN: SignalingClient._receive_key_unknown,
    MessageType.VERSION_HINT: SignalingClient._receive_version_hint,
    MessageType.BUSY: SignalingClient._receive_busy,
    MessageType.COOKIE_REPLY: SignalingClient._receive_cookie_reply,
}
_FROM_AS_ALONE = frozenset({MessageType.LOGIN_RESPONSE})
_FROM_AS = _FROM_AS_ALONE | {MessageType.VERSION_HINT, MessageType.BUSY, MessageType.COOKIE_REPLY}
"""What an AS frontend may send; everything but the first may come from an NMS frontend."""
