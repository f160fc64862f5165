"""One peer: from the first packet for it to a tunnel that follows it wherever it goes.

::

    direction asked ──► directed ──► handshake ──► established ──► (silent, expired) ──┐
         ▲                                                                             │
         └─────────────────────────────────────────────────────────────────────────────┘

The *direction* (from the NMS) brings the peer's certificate, candidates, a path key and relay grants.  The
*handshake* runs over whatever answers first; *sessions* belong to the peer, not to a path; ``Paths`` says where to
send.  The machine is pure: it appends to the ``Outbox`` that it shares with its ``Overlay`` and never waits.

Error contract: a datagram that raises DropError has changed nothing.
"""

from __future__ import annotations

import math
from collections import deque
from socket import AddressFamily

from cyphonic.errors import NotAllowedError
from cyphonic.protocol.attempt import GIVE_UP_AFTER, Attempt
from cyphonic.protocol.binding import Binding
from cyphonic.protocol.grant import PathGrant, first_path_reason, relayed_by
from cyphonic.protocol.grants import Grants
from cyphonic.protocol.handshake import (
    choose_suite,
    read_tunnel_request,
    write_tunnel_response,
)
from cyphonic.protocol.inner import Traffic, source
from cyphonic.protocol.limits import (
    KEEPALIVE_TIMEOUT,
    PATH_KEY_RENEWAL,
    REKEY_TIMEOUT,
)
from cyphonic.protocol.liveness import LIVENESS_DEAD, Liveness
from cyphonic.protocol.mac import check_path_mac
from cyphonic.protocol.outbox import Outbox
from cyphonic.protocol.own import Self
from cyphonic.protocol.paths import LEARNED_COUNT, Destination, PathKind, Paths
from cyphonic.protocol.session import Session
from cyphonic.protocol.sessions import Sessions
from cyphonic.protocol.staging import Staging
from cyphonic.wire.certificate import Certificate
from cyphonic.wire.direction import FirstPath, Role, RouteDirection
from cyphonic.wire.endpoint import Endpoint
from cyphonic.wire.header import MessageType
from cyphonic.wire.tunnel import (
    HolePunch,
    TunnelRequest,
    TunnelResponse,
    decode_path_check,
    decode_path_check_ack,
    encode_path_check,
    encode_path_check_ack,
)

CONFIRM_INTERVAL = 0.3
"""Seconds between capsules that confirm a session to the responder, until anything comes back."""
DIRECTION_INTERVAL = 5.0
"""Seconds between two directions asked for by one peer."""
TICK = 1.0
"""Seconds; shorter than any silence that is doubted."""


class Peer:
    """The machine of one peer.

    ``direction_wanted`` is True while this end needs the NMS to direct it (again), ``attention`` after anything
    that may have changed that or the timers; the overlay acts on both and resets them.  A packet or capsule of a
    tunnel that runs sets neither: that is the fast path.
    """

    def __init__(self, certificate: Certificate, own: Self[Peer], outbox: Outbox) -> None:
        self.certificate = certificate
        self.traffic = Traffic()
        self.first_path: FirstPath | None = None
        self.first_kind: PathKind | None = None
        """Kind of the path over which the first handshake after (re)directing succeeded."""
        self.last_handshake: float | None = None
        self.direction_wanted = False
        self.attention = False
        self.reconsider = False
        """The NMS knows of one more family here than when it last directed: the two may meet after all."""
        self.families: frozenset[AddressFamily] = frozenset()
        self.paths = Paths(leads=own.static.public < certificate.static_key)
        self.round_trips: deque[tuple[int, float, Destination]] = deque(maxlen=64)
        """(number, seconds, where it went) of acknowledged probes, newest last: what ``ping`` reads."""
        self._own = own
        self._outbox = outbox
        self._grants = Grants()
        self._attempt: Attempt | None = None
        self._response = b""  # that opened the session in use, when this end had asked
        self._sessions = Sessions(own.indices.release)
        self._staged = Staging(outbox.drops)
        self._liveness = Liveness()
        self._stamp = 0
        self._last_direction_asked = -math.inf
        self._fell_back = -math.inf
        self._next_tick = math.inf
        self._confirm_at = math.inf

    # What the overlay asks.

    @property
    def session(self) -> Session | None:
        """The session in use."""
        return self._sessions.current

    @property
    def established(self) -> bool:
        """Whether packets can be sent now."""
        return self.session is not None and self.paths.current is not None

    @property
    def answering(self) -> bool:
        """Whether there is a tunnel, and its path has not fallen silent."""
        return self.established and not self.paths.silent

    @property
    def forgettable(self) -> bool:
        """Whether nothing is left that a new direction would not bring again."""
        return not (self._sessions or self._grants or self._staged or self._attempt)

    @property
    def connecting(self) -> bool:
        """Whether a handshake of this end is under way."""
        return self._attempt is not None

    @property
    def path_ids(self) -> list[bytes]:
        """Under which the peer may speak of this pair."""
        return [grant.path_id for grant in self._grants]

    @property
    def bindings(self) -> list[Binding]:
        """Relay bindings of every path that lives."""
        return [binding for grant in self._grants for binding in grant.bindings]

    @property
    def certified(self) -> tuple[bytes, bytes]:
        """The peer's virtual addresses (16 bytes, 4 bytes or empty): inner sources must be one of them."""
        return self.certificate.virtual_ipv6, self.certificate.virtual_ipv4

    def next_deadline(self) -> float:
        """When ``handle_timeout`` wants to be called; infinity when never."""
        attempt = self._attempt.next_deadline() if self._attempt is not None else math.inf
        paths, grants = self.paths.next_deadline(), self._grants.next_deadline()
        return min(self._next_tick, self._confirm_at, attempt, paths, grants)

    # Direction.

    def directed(self, direction: RouteDirection, certificate: Certificate, now: float) -> None:
        """The NMS has directed this pair: a new one, or one whose path key or place is to be renewed."""
        if self._grants.of(direction.path_id) is not None:
            return
        self.certificate = certificate
        self.direction_wanted = False
        direction = self._grants.within_rate(direction, self.paths, now)
        grant = PathGrant(direction, self.families, self._own.chance, self._outbox, now)
        if (oldest := self._grants.to_give_way(self.paths.current)) is not None:
            self._drop_grant(oldest)
        self._grants.add(grant)
        answering = self.answering
        if grant.candidates:
            self.paths.renew_checks()
        self._offer_candidates(now)
        self._probe_current(now)  # whoever asked may have moved
        self._tick_soon(now)
        if not answering:
            self.first_path, self.first_kind = grant.first_path, None
        asked_again = answering and grant.role is Role.RESPONDER
        if asked_again:  # the peer may hear nothing of what this end sends, and still be heard
            self.paths.probe_current(now)
        grant.start(now, relay=asked_again or self.paths.current_kind is PathKind.RELAYED)
        if grant.role is Role.INITIATOR and not answering:
            self._end_attempt()  # one under the grant before may be unknown to the peer
            self._start_handshake(now)

    def _offer_candidates(self, now: float) -> None:
        """Know every place that the grants name; with a session, probe what has not answered from here yet."""
        for grant in self._grants:
            for destination, kind in grant.places():
                candidate = self.paths.offer(destination, kind)
                if self.session is not None and (candidate.verified is None or self.paths.silent):
                    self.paths.check(candidate, now)

    def connect(self, now: float) -> None:
        """A packet or a name look-up wants this peer: do what is needed for a tunnel."""
        self._liveness.last_packet = now
        self._tick_soon(now)
        if self.established or self._attempt is not None:
            return
        self._want_direction(now)
        if self._grants and self.paths.current is not None:
            self._start_handshake(now)

    def moved(self, families: frozenset[AddressFamily], now: float) -> None:
        """This node's addresses have changed: speak from the new ones, renew every binding and the direction."""
        self.families = families
        for grant in self._grants:
            for way in grant.move(families, now):
                self.paths.withdraw(way)
        if self._attempt is not None:
            self._send_request(self._attempt)
        if self.session is None:
            return
        self._offer_candidates(now)
        self.paths.moved(families, now)
        self._probe_current(now)
        if families:
            self._last_direction_asked = -math.inf
            self._want_direction(now)

    def doubt(self, now: float) -> None:
        """The way between may have changed: ask whether the path in use still answers."""
        if self.session is not None and self._liveness.active(now):
            self._probe_current(now)

    def close(self) -> None:
        """Forget everything: sessions, handshakes, bindings."""
        self._sessions.close()
        self._end_attempt()
        for grant in self._grants:
            self._drop_grant(grant)
        self._staged.drop("peer_forgotten")
        self.paths = Paths(leads=self.paths.leads)
        self._next_tick = self._confirm_at = math.inf

    # Packets.

    def send_packet(self, packet: bytes, now: float) -> None:
        """Seal an inner packet for the peer, or stage it while there is no tunnel (oldest out first when full)."""
        if self.session is None or self.paths.current is None:
            self._staged.add(packet)
            self.connect(now)
            return
        try:
            self._send_capsule(packet, now)
        except NotAllowedError:  # the session has sealed all it may
            self._sessions.end_current()
            self.paths.rest()
            self._staged.add(packet)
            self.connect(now)
            return
        self.traffic.sent_packets += 1
        self.traffic.sent_bytes += len(packet)
        self._await_answer(now)

    def probe(self, now: float) -> int | None:
        """Send one path check over the path in use; its number, or None while there is no tunnel."""
        if self.session is None or self.paths.current is None:
            return None
        number = self.paths.number_check(self.paths.current, now)
        self._send_check(number, self.paths.current, now)
        self._await_answer(now)
        return number

    def receive_sealed(self, datagram: bytes, via: Destination, now: float) -> None:
        """A capsule, path check or ack for one of this peer's sessions.  Raise DropError."""
        index = int.from_bytes(datagram[4:8], "big")
        session = self._sessions.of(index)
        if session is None:
            raise NotAllowedError("no_session")
        if session is self._sessions.unconfirmed and datagram[0] != MessageType.CAPSULE:
            # The initiator's first capsule comes along the path that answered; a check may come along any.
            raise NotAllowedError("unconfirmed_session")
        newest = session.highest_counter
        plaintext, counter = session.open(datagram)
        self._confirm(session, via, now)
        self._liveness.heard(now)
        kind = datagram[0]
        if session is self.session and counter > newest:
            self.attention = self.attention or via != self.paths.current
            if kind == MessageType.CAPSULE or not self.paths.knows_beside(via):
                self.paths.heard(via, now)
        if kind == MessageType.CAPSULE:
            self._receive_inner(plaintext, now)
        elif kind == MessageType.PATH_CHECK:
            number = decode_path_check(plaintext)
            ack = encode_path_check_ack(number, via.endpoint)
            self._send_sealed(MessageType.PATH_CHECK_ACK, ack, via, now)
        else:
            number, _ = decode_path_check_ack(plaintext)
            answered = self.paths.acknowledged(number, via, now)
            if answered is not None:
                self.round_trips.append((number, answered[1], answered[0]))

    def _receive_inner(self, packet: bytes, now: float) -> None:
        if not packet:
            return
        if source(packet) not in self.certified:
            self._outbox.drops["inner_source"] += 1  # the datagram itself was authentic, and counts as heard
            return
        self.traffic.received_packets += 1
        self.traffic.received_bytes += len(packet)
        self._outbox.packets.append(packet)
        self._liveness.packet_received(now)
        self._tick_soon(now)

    # Handshake.

    def receive_request(self, datagram: bytes, via: Destination, now: float) -> None:
        """A TunnelRequest under one of this pair's path IDs.  Raise DropError."""
        grant = self._grants.of(TunnelRequest.decode(datagram).path_id)
        if grant is None:
            raise NotAllowedError("unknown_path")
        if grant.answered is not None and grant.answered[0] == datagram:
            self.paths.asked(via, again=True)
            self._send(grant.answered[1], via)
            return
        tunnel = read_tunnel_request(datagram, self._own.static, grant.path_key)
        if tunnel.remote_static != self.certificate.static_key:
            raise NotAllowedError("wrong_static_key")
        if tunnel.payload.stamp <= grant.newest_stamp:
            raise NotAllowedError("stale_stamp")
        suite = choose_suite(tunnel.payload.suites, self._own.suites)
        index = self._own.indices.allocate(self)
        response, session = write_tunnel_response(tunnel, grant.path_key, index, suite, self._own.chance)
        if self._own.static.public > self.certificate.static_key:
            self._end_attempt()  # glare: of two requests in flight, the one of the lower key goes on
        self._sessions.answer(session, now, contested=self._attempt is not None)
        grant.newest_stamp = tunnel.payload.stamp
        grant.spoken = True
        grant.answered = datagram, response
        self.paths.asked(via, again=False)
        self._tick_soon(now)
        self._send(response, via)

    def receive_response(self, datagram: bytes, via: Destination, now: float) -> None:
        """A TunnelResponse for this end's handshake.  Raise DropError."""
        attempt = self._attempt
        if attempt is None or TunnelResponse.decode(datagram).receiver_index != attempt.index:
            self._receive_response_again(datagram, via, now)
            return
        session = attempt.read_response(datagram)
        if via not in attempt.asked:
            raise NotAllowedError("unlisted_source")
        attempt.grant.spoken = True
        self._attempt, self._response = None, datagram
        self._establish(session, via, now)
        if not self._staged:
            self._send_capsule(b"", now)
        self._send_staged(now)
        self._confirm_at = now + CONFIRM_INTERVAL

    def _receive_response_again(self, datagram: bytes, via: Destination, now: float) -> None:
        """The response that opened the session in use: when a copy came first, this end sends to the copier."""
        unheard = self.session is not None and not self.session.received
        if datagram != self._response or not unheard or self.paths.named(self.paths.current):
            raise NotAllowedError("no_handshake")
        if not self.paths.named(via):
            raise NotAllowedError("unlisted_source")
        self.paths.use(via, self.paths.why, now)

    def _start_handshake(self, now: float) -> None:
        grant = self._grants.newest()
        if grant is None or self._attempt is not None or self._sessions.awaiting(now):
            return
        index = self._own.indices.allocate(self)
        self._stamp = max(self._stamp + 1, int(now * 1e9))
        own, peer = self._own, self.certificate.static_key
        self._attempt = Attempt(grant, own.static, peer, index, self._stamp, own.suites, own.chance, now)
        self._resend_request(now)

    def _resend_request(self, now: float) -> None:
        attempt = self._attempt
        assert attempt is not None
        self.attention = True
        if not attempt.resend(now):
            self._give_up(attempt, now)
            return
        self._send_request(attempt)

    def _send_request(self, attempt: Attempt) -> None:
        for destination in attempt.destinations(self.paths, rekey=self.session is not None):
            self._ask(attempt, destination)

    def _ask(self, attempt: Attempt, destination: Destination) -> None:
        attempt.asked.add(destination)
        self._send(attempt.request, destination)

    def _give_up(self, attempt: Attempt, now: float) -> None:
        """The peer did not answer: start over only for a packet or a look-up that came meanwhile."""
        attempt.grant.failed = True
        self._end_attempt()
        if self.established:
            return
        self.paths.why = "the peer did not answer"
        self._staged.drop("peer_unreachable")
        if self._liveness.last_packet > attempt.started:
            self._want_direction(now)

    def _establish(self, session: Session, via: Destination, now: float) -> None:
        """A session takes over: an initiator's on the response, a responder's on its first opened capsule."""
        self._sessions.use(session, now)
        self.last_handshake = now
        self._liveness.heard(now)
        if self.first_kind is None:
            self.first_kind = self.paths.kind(via)
            self.paths.use(via, first_path_reason(self.first_path, relayed=bool(via.prefix)), now)
        elif self.paths.current is None or self.paths.silent:
            self.paths.use(via, "first to answer", now)
        if not via.prefix:
            for grant in self._grants:
                grant.stop_punching()
        self.paths.check_better(now)
        self._tick_soon(now)

    def _confirm(self, session: Session, via: Destination, now: float) -> None:
        """The first opened datagram of a session that this end answered for makes it the one in use."""
        if session is self._sessions.unconfirmed:
            self._establish(session, self.paths.likely(via), now)
            self._send_staged(now)

    # Hole punching and relays.

    def receive_punch(self, datagram: bytes, via: Destination, now: float) -> None:
        """A HolePunch under one of this pair's path IDs: its source is a candidate.  Raise DropError."""
        punch = HolePunch.decode(datagram)
        grant = self._grants.of(punch.path_id)
        if grant is None:
            raise NotAllowedError("unknown_path")
        check_path_mac(datagram, grant.mac_key)
        if punch.role is grant.role:
            raise NotAllowedError("reflected")
        grant.accept_punch(punch.number)
        grant.spoken = True
        candidate = self.paths.offer(via, self.paths.kind(via), learned=True)
        if self._attempt is not None and self._attempt.punched(grant):
            self._ask(self._attempt, via)
        if self.session is not None and candidate.verified is None and candidate.next_check == math.inf:
            self.paths.check(candidate, now, LEARNED_COUNT)

    def receive_relay(self, datagram: bytes, source: Endpoint, now: float) -> None:
        """A relay's challenge or binding.  Raise DropError."""
        grant = self._grants.of(datagram[8:24])
        if grant is None:
            raise NotAllowedError("unknown_path")
        was_bound = set(grant.relayed())
        binding = grant.receive_relay(datagram, source, now)
        if binding is None:
            raise NotAllowedError("unknown_relay")
        if binding.bound and relayed_by(binding) not in was_bound:
            self._bound(grant, relayed_by(binding), now)

    def _bound(self, grant: PathGrant, relayed: Destination, now: float) -> None:
        candidate = self.paths.offer(relayed, PathKind.RELAYED)
        attempt = self._attempt
        if attempt is not None and attempt.grant is grant and grant.relay_wanted(now):
            self._ask(attempt, relayed)
        if self.session is not None and (self.paths.silent or self.paths.current_kind is PathKind.RELAYED):
            self.paths.check(candidate, now)

    def _drop_grant(self, grant: PathGrant) -> None:
        self._grants.remove(grant, self.paths)
        if self._attempt is not None and self._attempt.grant is grant:
            self._end_attempt()

    # Time.

    def handle_timeout(self, now: float) -> None:
        """Do everything that is due.  Path checks come last: all that stands before may ask for some."""
        if self._next_tick <= now:
            self._tick(now)
        if self._attempt is not None and self._attempt.next_deadline() <= now:
            self._resend_request(now)
        for grant in self._grants:
            connected = self.session is not None and self.paths.answered_since(grant.received)
            grant.handle_timeout(now, connected=connected)
        if self._confirm_at <= now:
            self._confirm_again(now)
        if self.session is not None:
            if self.paths.overdue(now):
                self._fall_back(now)
            for number, destination in self.paths.checks_due(now):
                self._send_check(number, destination, now)

    def _confirm_again(self, now: float) -> None:
        session = self.session
        if session is None or not session.initiator or session.received or session.age(now) >= REKEY_TIMEOUT:
            self._confirm_at = math.inf
        else:
            self._send_capsule(b"", now)
            self._confirm_at = now + CONFIRM_INTERVAL

    def _fall_back(self, now: float) -> None:
        """The path in use is silent: probe and open every other way, and ask the NMS for a new direction."""
        self._fell_back = now
        self.paths.check_better(now)
        newest = self._grants.newest()
        if newest is not None:
            newest.rebind(now)  # the relay, too, may see us elsewhere than before
            newest.bind(now)
            newest.punch(now)
        self._want_direction(now)

    def _tick_soon(self, now: float) -> None:
        if self._next_tick == math.inf:
            self._next_tick = now + TICK
            self.attention = True

    def _tick(self, now: float) -> None:
        """Once a second while there is anything to keep: expiry, rekey, renewal, liveness, keepalive."""
        self._expire(now)
        if self._staged and now - self._liveness.last_packet >= GIVE_UP_AFTER:
            self._staged.drop("peer_unreachable")
        if self.session is not None and self._liveness.active(now):
            self._rekey(now)
            self._renew_direction(now)
            self._check_liveness(now)
            self._keep_alive(now)
        busy = bool(self._sessions or self._grants or self._staged)
        self._next_tick = min(now + TICK, self._liveness.next_doubt(now)) if busy else math.inf

    def _expire(self, now: float) -> None:
        had_session = self.session is not None
        self._sessions.expire(now)
        if had_session and self.session is None:
            self.paths.rest()
        for grant in self._grants:
            if now >= grant.expires:
                self._drop_grant(grant)

    def _rekey(self, now: float) -> None:
        if self._attempt is None and self.session is not None and self.session.needs_rekey(now):
            self._start_handshake(now)

    def _await_answer(self, now: float) -> None:
        self._liveness.awaits_answer(now)
        self._tick_soon(now)

    def _renew_direction(self, now: float) -> None:
        newest = self._grants.newest()
        if self.reconsider and len(self.families) > 1 and self.first_path is FirstPath.RELAYED_ONLY:
            self._last_direction_asked = -math.inf
            self._want_direction(now)
        self.reconsider = False
        if newest is None:
            self._want_direction(now)
        elif newest.role is Role.INITIATOR:
            lifetime = newest.expires - newest.received
            if now - newest.received >= lifetime * PATH_KEY_RENEWAL:
                self._want_direction(now)

    def _check_liveness(self, now: float) -> None:
        if self._liveness.doubtful(now):
            self._probe_current(now)
        if self.paths.silent and now - self._fell_back >= DIRECTION_INTERVAL:
            self._fall_back(now)
        unanswered = self._liveness.unanswered(now)
        if unanswered >= LIVENESS_DEAD:
            self._want_direction(now)
            if unanswered >= KEEPALIVE_TIMEOUT + REKEY_TIMEOUT:
                self._start_handshake(now)

    def _probe_current(self, now: float) -> None:
        """The capsule shows the peer from where this node sends now, which a probe does not."""
        if self.answering:
            self._send_capsule(b"", now)
            self.paths.probe_current(now)

    def _keep_alive(self, now: float) -> None:
        if self._liveness.keepalive_due(now):
            self._send_capsule(b"", now)

    def _want_direction(self, now: float) -> None:
        if now - self._last_direction_asked >= DIRECTION_INTERVAL:
            self._last_direction_asked = now
            self.direction_wanted = self.attention = True

    # Sending.

    def _send_staged(self, now: float) -> None:
        while self._staged and self.established:
            self.send_packet(self._staged.take(), now)

    def _send_capsule(self, packet: bytes, now: float) -> None:
        assert self.paths.current is not None
        self._liveness.keepalive_owed = math.inf
        self._send_sealed(MessageType.CAPSULE, packet, self.paths.current, now)

    def _send_check(self, number: int, destination: Destination, now: float) -> None:
        self._send_sealed(MessageType.PATH_CHECK, encode_path_check(number), destination, now)

    def _send_sealed(self, kind: MessageType, plaintext: bytes, destination: Destination, now: float) -> None:
        assert self.session is not None
        self._liveness.sent(now)
        datagram = self.session.seal(kind, plaintext)
        self._outbox.datagrams.append((destination.prefix + datagram, destination.endpoint))

    def _send(self, datagram: bytes, destination: Destination) -> None:
        self._outbox.datagrams.append((destination.prefix + datagram, destination.endpoint))

    def _end_attempt(self) -> None:
        if self._attempt is not None:
            self._own.indices.release(self._attempt.index)
            self._attempt = None
