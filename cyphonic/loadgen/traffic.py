"""The conversations of all simulated nodes: what is under way, what is awaited, what is resent.  Pure.

Nodes are told apart by transaction ID and node ID, not by socket, so a few sockets serve thousands of nodes.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Sequence
from enum import Enum
from typing import NamedTuple

from cyphonic.errors import DropError, MalformedError
from cyphonic.loadgen.latency import Tally
from cyphonic.loadgen.simulated import SimulatedNode
from cyphonic.protocol.chance import Chance, fraction
from cyphonic.protocol.limits import GIVE_UP_AFTER, KEEPALIVE_INTERVAL, RESEND_AFTER, RESEND_JITTER
from cyphonic.wire.codec import decode
from cyphonic.wire.direction import DirectionRefused, Role, RouteDirection
from cyphonic.wire.endpoint import Endpoint
from cyphonic.wire.header import IDENTIFIER_LENGTH, SIGNALING_HEADER_LENGTH, MessageType
from cyphonic.wire.login import LoginOutcome
from cyphonic.wire.registration import KeepAliveAck, RegistrationResponse

_ROUNDS = (*RESEND_AFTER[1:], GIVE_UP_AFTER)


class Kind(Enum):
    """Of transaction."""

    LOGIN = "login"
    REGISTRATION = "registration"
    KEEPALIVE = "keepalive"
    DIRECTION = "direction"


class Outgoing(NamedTuple):
    """A datagram, and the node whose socket sends it."""

    node: int
    datagram: bytes
    endpoint: Endpoint


class _Pending:
    """A transaction that is not finished."""

    __slots__ = ("begun", "datagram", "endpoints", "kind", "node")

    def __init__(self, kind: Kind, node: int, datagram: bytes, endpoints: Sequence[Endpoint], begun: float) -> None:
        self.kind = kind
        self.node = node
        self.datagram = datagram
        self.endpoints = endpoints
        self.begun = begun


class Traffic:
    """Every transaction of every node.

    ``local(i)`` is the endpoint that node ``i`` registers as its candidate.  Datagrams wait in ``outgoing`` until
    the driver takes them.  A login goes on to a registration by itself; who is registered is kept alive.
    """

    def __init__(
        self,
        nodes: Sequence[SimulatedNode],
        as_endpoints: Sequence[Endpoint],
        enrolment_key: bytes,
        local: Callable[[int], Endpoint],
        chance: Chance,
    ) -> None:
        self.nodes = nodes
        self.outgoing: list[Outgoing] = []
        self.drops: Counter[str] = Counter()
        self.outcomes: Counter[LoginOutcome] = Counter()
        self.tallies = {kind: Tally() for kind in Kind}
        self._as_endpoints = as_endpoints
        self._nms_endpoints: Sequence[Endpoint] = ()
        self._enrolment_key = enrolment_key
        self._local = local
        self._chance = chance
        self._pending: dict[bytes, _Pending] = {}
        self._by_id: dict[bytes, int] = {}
        self._rounds: list[deque[tuple[float, bytes]]] = [deque() for _ in _ROUNDS]
        self._keepalives: deque[tuple[float, int]] = deque()
        self._cloud_offset = 0.0
        self._family = local(0).family
        self._receivers: dict[int, Callable[[bytes, float], None]] = {
            MessageType.LOGIN_RESPONSE: self._receive_login_response,
            MessageType.REGISTRATION_RESPONSE: self._receive_registration_response,
            MessageType.KEEP_ALIVE_ACK: self._receive_keep_alive_ack,
            MessageType.ROUTE_DIRECTION: self._receive_route_direction,
            MessageType.DIRECTION_REFUSED: self._receive_direction_refused,
            MessageType.COOKIE_REPLY: self._receive_cookie_reply,
            MessageType.KEY_UNKNOWN: self._receive_hint,
            MessageType.BUSY: self._receive_hint,
            MessageType.VERSION_HINT: self._receive_hint,
        }

    @property
    def under_way(self) -> int:
        """Transactions not finished."""
        return len(self._pending)

    def reset_tallies(self) -> None:
        """Forget what was counted so far: the measurement begins."""
        self.tallies = {kind: Tally() for kind in Kind}
        self.drops.clear()

    # Beginnings.

    def login(self, index: int, now: float, stamp: int) -> None:
        """Log a node in, whatever its state; ``stamp`` in nanoseconds."""
        node = self.nodes[index]
        transaction_id = self._chance(IDENTIFIER_LENGTH)
        enrolment_key = b"" if node.node_id else self._enrolment_key
        datagram = node.login_request(transaction_id, stamp, enrolment_key)
        self._begin(Kind.LOGIN, transaction_id, index, datagram, now)

    def register(self, index: int, now: float) -> None:
        """Register a node that is logged in."""
        transaction_id = self._chance(IDENTIFIER_LENGTH)
        datagram = self.nodes[index].registration_request(transaction_id, [self._local(index)])
        self._begin(Kind.REGISTRATION, transaction_id, index, datagram, now)

    def direct(self, initiator: int, responder: int, now: float, due: float) -> None:
        """Ask for a path between two registered nodes.  Its latency counts from when it was ``due``."""
        transaction_id = self._chance(IDENTIFIER_LENGTH)
        cloud_ms = int((now + self._cloud_offset) * 1000)
        datagram = self.nodes[initiator].direction_request(transaction_id, self.nodes[responder].fqdn, cloud_ms)
        self._begin(Kind.DIRECTION, transaction_id, initiator, datagram, due)

    def _begin(self, kind: Kind, transaction_id: bytes, index: int, datagram: bytes, begun: float) -> None:
        endpoints = self._as_endpoints if kind is Kind.LOGIN else self._nms_endpoints
        self._pending[transaction_id] = _Pending(kind, index, datagram, endpoints, begun)
        self.tallies[kind].started += 1
        self._schedule(0, transaction_id, begun)
        self.outgoing.append(Outgoing(index, datagram, endpoints[index % len(endpoints)]))

    # Answers.

    def receive_datagram(self, datagram: bytes, now: float) -> None:
        """Whatever the cloud sends; what does not fit is counted in ``drops``."""
        try:
            if len(datagram) < SIGNALING_HEADER_LENGTH:
                raise MalformedError("too_short")
            receive = self._receivers.get(datagram[0])
            if receive is None:
                raise MalformedError("unknown_type")
            receive(datagram, now)
        except DropError as drop:
            self.drops[drop.reason] += 1

    def _awaited(self, datagram: bytes, kind: Kind) -> _Pending | None:
        pending = self._pending.get(datagram[24:40])
        if pending is None or pending.kind is not kind:
            self.drops["late_" + kind.value] += 1
            return None
        return pending

    def _finish(self, datagram: bytes, pending: _Pending, now: float) -> None:
        del self._pending[datagram[24:40]]
        self.tallies[pending.kind].latencies.add(now - pending.begun)

    def _receive_login_response(self, datagram: bytes, now: float) -> None:
        pending = self._awaited(datagram, Kind.LOGIN)
        if pending is None:
            return
        response = self.nodes[pending.node].read_login_response(datagram)
        outcome = LoginOutcome(response.outcome)
        self.outcomes[outcome] += 1
        if outcome is not LoginOutcome.ACCEPTED:
            del self._pending[datagram[24:40]]
            self.tallies[Kind.LOGIN].refused += 1
            return
        self._finish(datagram, pending, now)
        self._cloud_offset = response.time / 1000 - now
        self._by_id[self.nodes[pending.node].node_id] = pending.node
        listed = [Endpoint.decode(endpoint) for endpoint in response.nms_endpoints]
        self._nms_endpoints = [endpoint for endpoint in listed if endpoint.family is self._family]
        if self._nms_endpoints:
            self.register(pending.node, now)
        else:
            self.drops["no_nms_endpoint_of_this_family"] += 1

    def _receive_registration_response(self, datagram: bytes, now: float) -> None:
        pending = self._awaited(datagram, Kind.REGISTRATION)
        if pending is None:
            return
        node = self.nodes[pending.node]
        response = decode(node.open(datagram), RegistrationResponse)
        self._finish(datagram, pending, now)
        self._cloud_offset = response.time / 1000 - now
        node.registered = True
        self._plan_keep_alive(pending.node, now)

    def _receive_keep_alive_ack(self, datagram: bytes, now: float) -> None:
        pending = self._awaited(datagram, Kind.KEEPALIVE)
        if pending is None:
            return
        ack = decode(self.nodes[pending.node].open(datagram), KeepAliveAck)
        self._finish(datagram, pending, now)
        if ack.registered:
            self._plan_keep_alive(pending.node, now)
        else:
            self.nodes[pending.node].registered = False
            self.register(pending.node, now)

    def _receive_route_direction(self, datagram: bytes, now: float) -> None:
        index = self._by_id.get(datagram[8:24])
        if index is None:
            self.drops["unknown_node"] += 1
            return
        node = self.nodes[index]
        direction = decode(node.open(datagram), RouteDirection)
        if direction.role == Role.RESPONDER:
            endpoint = self._nms_endpoints[index % len(self._nms_endpoints)]
            self.outgoing.append(Outgoing(index, node.confirmation(direction.handle), endpoint))
            return
        pending = self._awaited(datagram, Kind.DIRECTION)
        if pending is not None:
            self._finish(datagram, pending, now)

    def _receive_direction_refused(self, datagram: bytes, now: float) -> None:
        pending = self._awaited(datagram, Kind.DIRECTION)
        if pending is None:
            return
        refused = decode(self.nodes[pending.node].open(datagram), DirectionRefused)
        if refused.time:
            self._cloud_offset = refused.time / 1000 - now
        del self._pending[datagram[24:40]]
        self.tallies[Kind.DIRECTION].refused += 1
        self.drops[f"refused_{refused.reason}"] += 1

    def _receive_cookie_reply(self, datagram: bytes, now: float) -> None:  # noqa: ARG002 - a row of the table
        """Send again at once.  No cookie is kept: the nodes of one socket are known to the frontend soon enough."""
        pending = self._pending.get(datagram[24:40])
        if pending is not None:
            again = self.nodes[pending.node].with_cookie(pending.datagram, datagram)
            endpoint = pending.endpoints[pending.node % len(pending.endpoints)]
            self.outgoing.append(Outgoing(pending.node, again, endpoint))

    def _receive_hint(self, datagram: bytes, now: float) -> None:  # noqa: ARG002 - a row of the table
        self.drops[MessageType(datagram[0]).name.lower()] += 1

    # Time.

    def handle_timeout(self, now: float) -> None:
        """Resend, give up, keep alive: whatever is due."""
        for number, waiting in enumerate(self._rounds):
            while waiting and waiting[0][0] <= now:
                self._end_round(number, waiting.popleft()[1])
        while self._keepalives and self._keepalives[0][0] <= now:
            due, index = self._keepalives.popleft()
            if due == self.nodes[index].keep_alive_at:  # else a later registration has planned its own
                self._keep_alive(index, now)

    def next_deadline(self) -> float | None:
        """When ``handle_timeout`` may have something to do."""
        heads = [waiting[0][0] for waiting in self._rounds if waiting]
        if self._keepalives:
            heads.append(self._keepalives[0][0])
        return min(heads, default=None)

    def _schedule(self, number: int, transaction_id: bytes, begun: float) -> None:
        after = _ROUNDS[number] * (1 + RESEND_JITTER * fraction(self._chance))
        self._rounds[number].append((begun + after, transaction_id))

    def _end_round(self, number: int, transaction_id: bytes) -> None:
        pending = self._pending.get(transaction_id)
        if pending is None:
            return
        tally = self.tallies[pending.kind]
        if number + 1 == len(_ROUNDS):
            del self._pending[transaction_id]
            tally.gave_up += 1
            if pending.kind is Kind.KEEPALIVE:
                self.nodes[pending.node].registered = False
            return
        tally.resends += 1
        # The first two to the same frontend, then round the list.
        endpoint = pending.endpoints[(pending.node + number) % len(pending.endpoints)]
        self.outgoing.append(Outgoing(pending.node, pending.datagram, endpoint))
        self._schedule(number + 1, transaction_id, pending.begun)

    def _plan_keep_alive(self, index: int, now: float) -> None:
        self.nodes[index].keep_alive_at = now + KEEPALIVE_INTERVAL
        self._keepalives.append((now + KEEPALIVE_INTERVAL, index))

    def _keep_alive(self, index: int, now: float) -> None:
        node = self.nodes[index]
        if node.registered:
            transaction_id = self._chance(IDENTIFIER_LENGTH)
            self._begin(Kind.KEEPALIVE, transaction_id, index, node.keep_alive(transaction_id), now)
