"""The node's side of a binding at a relay: token and proof of address in, relay index out.

Four datagrams bind one role of one path: RelayBind, RelayBindChallenge, RelayBindAnswer, RelayBound.  The node
drives: it resends whatever is unanswered and gives up after ``GIVE_UP_AFTER``.  A binding that stands is renewed
at half of its idle lifetime under a greater generation, and at once when the node has moved (``rebind``); while
that runs the old index stays usable, because the relay changes the binding only when the new source is proved.

=============  ============================  ========================  ==========================
state          RelayBindChallenge            RelayBound                time is due
=============  ============================  ========================  ==========================
``NEW``        drop                          drop                      –
``BINDING``    answer, go ``ANSWERING``      drop                      resend bind, or ``FAILED``
``ANSWERING``  answer this one               ``BOUND``                 resend answer, or bind when
                                                                       the challenge is too old
``BOUND``      drop                          drop (a late duplicate)   rebind
``FAILED``     drop                          drop                      –
=============  ============================  ========================  ==========================

A loaded relay may answer either request by a CookieReply first: the request goes out again at once, with MAC2.
"""

from __future__ import annotations

from enum import Enum
from hmac import compare_digest

from cyphonic.errors import MalformedError, NotAllowedError
from cyphonic.protocol.chance import Chance, fraction
from cyphonic.protocol.cookie import CookieJar, cookie_key
from cyphonic.protocol.limits import CHALLENGE_SLOT, GIVE_UP_AFTER, RESEND_AFTER, RESEND_JITTER
from cyphonic.protocol.mac import append_macs, mac, mac1_key
from cyphonic.wire.direction import RelayGrant, Role
from cyphonic.wire.endpoint import Endpoint
from cyphonic.wire.header import MAC_LENGTH, MessageType
from cyphonic.wire.relay import NO_CHALLENGE, RelayBind, RelayBindChallenge, RelayBound

RENEW_AT = 0.5
"""Of the idle lifetime: a binding without traffic is renewed after this part of it."""


class BindingState(Enum):
    """Rows of the table above."""

    NEW = "new"
    BINDING = "binding"
    ANSWERING = "answering"
    BOUND = "bound"
    FAILED = "failed"


class Binding:
    """One role of one path at one relay.

    ``endpoint`` is the relay's, of a family that this node has.  Of the owner's calls only
    ``receive_datagram`` raises: MalformedError or NotAllowedError, having changed nothing.
    """

    def __init__(self, grant: RelayGrant, path_id: bytes, role: Role, endpoint: Endpoint, chance: Chance) -> None:
        self.grant = grant
        self.path_id = path_id
        self.role = role
        self.endpoint = endpoint
        self.state = BindingState.NEW
        self.generation = 0
        self.relay_index: int | None = None
        """What stands in the relayed header, from the first RelayBound on; 0 is never given out."""
        self.observed: Endpoint | None = None
        """This node's endpoint as the relay sees it."""
        self._chance = chance
        self._mac1_key = mac1_key(grant.public_key)
        self._cookies = CookieJar()
        self._outgoing: list[bytes] = []
        self._resend_at: list[float] = []
        self._give_up_at = 0.0
        self._renew_at: float | None = None
        self._answer = b""
        self._answer_until = 0.0

    @property
    def bound(self) -> bool:
        """Whether the relay forwards for this node; stays true during a renewal."""
        return self.relay_index is not None and self.state is not BindingState.FAILED

    @property
    def asking(self) -> bool:
        """Whether an answer of the relay is awaited."""
        return self.state in (BindingState.BINDING, BindingState.ANSWERING)

    @property
    def failed(self) -> bool:
        """Given up: the owner needs another relay or a new direction."""
        return self.state is BindingState.FAILED

    def start(self, now: float) -> None:
        """Ask for the binding.  Does nothing the second time."""
        if self.state is BindingState.NEW:
            self.rebind(now)

    def relocate(self, endpoint: Endpoint) -> None:
        """The relay is reached elsewhere now (over another family): until bound again there is no way there."""
        self.endpoint = endpoint
        self.relay_index = None

    def rebind(self, now: float) -> None:
        """Ask again under a greater generation: after a move, for a renewal, or after a failure."""
        self.generation += 1
        self.state = BindingState.BINDING
        self._renew_at = None
        self._give_up_at = now + GIVE_UP_AFTER
        self._resend_at = [
            now + after * (1 + RESEND_JITTER * fraction(self._chance)) for after in RESEND_AFTER[1:]
        ] + [self._give_up_at]
        self._cookies.clear()  # the node may have moved
        self._outgoing = []
        self._ask(NO_CHALLENGE, now)

    def receive_datagram(self, datagram: bytes, source: Endpoint, now: float) -> bool:
        """Whether the datagram was for this binding.  False leaves it to someone else; raise DropError."""
        message_type = datagram[0] if datagram else -1
        if source != self.endpoint:
            return False
        if message_type == MessageType.RELAY_BIND_CHALLENGE:
            return self._receive_challenge(RelayBindChallenge.decode(datagram), datagram, now)
        if message_type == MessageType.RELAY_BOUND:
            return self._receive_bound(RelayBound.decode(datagram), datagram, now)
        if message_type == MessageType.COOKIE_REPLY:
            return self._receive_cookie(datagram, now)
        return False

    def handle_timeout(self, now: float) -> None:
        """Resend, give up or renew, whatever is due."""
        if self._renew_at is not None and now >= self._renew_at:
            self.rebind(now)
        if not self.asking or now < self._resend_at[0]:
            return
        if now >= self._give_up_at:
            self.state = BindingState.FAILED
            self._resend_at = []
            return
        while self._resend_at[0] <= now:
            self._resend_at.pop(0)
        if self.state is BindingState.ANSWERING and now < self._answer_until:
            self._send(self._answer, now)
        else:
            self.state = BindingState.BINDING
            self._ask(NO_CHALLENGE, now)

    def next_deadline(self) -> float | None:
        """When ``handle_timeout`` has something to do."""
        return self._resend_at[0] if self.asking else self._renew_at

    def datagrams_to_send(self) -> list[tuple[bytes, Endpoint]]:
        """What waits to be sent, once."""
        outgoing, self._outgoing = self._outgoing, []
        return [(datagram, self.endpoint) for datagram in outgoing]

    def _ask(self, challenge: bytes, now: float) -> None:
        self._send(self._request(challenge), now)

    def _send(self, request: bytes, now: float) -> None:
        self._outgoing.append(self._cookies.dress(request, self.endpoint, now))

    def _request(self, challenge: bytes) -> bytes:
        request = RelayBind(self.role, self.generation, self.path_id, challenge, self.grant.token).encode()
        return append_macs(request + mac(self.grant.bind_key, request), self._mac1_key)

    def _is_mine(self, message: RelayBindChallenge | RelayBound) -> bool:
        return message.path_id == self.path_id and message.role == self.role

    def _check_proof(self, datagram: bytes) -> None:
        if not compare_digest(datagram[-MAC_LENGTH:], mac(self.grant.bind_key, datagram[:-MAC_LENGTH])):
            raise MalformedError("bad_proof")

    def _receive_challenge(self, message: RelayBindChallenge, datagram: bytes, now: float) -> bool:
        if not self._is_mine(message):
            return False
        self._check_proof(datagram)
        if not self.asking or message.generation != self.generation:
            raise NotAllowedError("unexpected_challenge")
        self.state = BindingState.ANSWERING
        self._answer = self._request(message.challenge)
        self._answer_until = now + CHALLENGE_SLOT
        self._cookies.answered(self._request(NO_CHALLENGE), self.endpoint)
        self._send(self._answer, now)
        return True

    def _receive_cookie(self, datagram: bytes, now: float) -> bool:
        if datagram[8:24] != self.path_id or datagram[2:4] != self.role.to_bytes(2, "big"):
            return False
        if not self.asking:
            raise NotAllowedError("unknown_transaction")
        key = cookie_key(self.grant.public_key)
        self._outgoing.append(self._cookies.accept(datagram, self.endpoint, key, now))
        return True

    def _receive_bound(self, message: RelayBound, datagram: bytes, now: float) -> bool:
        if not self._is_mine(message):
            return False
        self._check_proof(datagram)
        if self.state is not BindingState.ANSWERING or message.generation != self.generation:
            raise NotAllowedError("unexpected_bound")
        if not message.relay_index:
            raise MalformedError("bad_index")
        self.state = BindingState.BOUND
        self._cookies.answered(self._answer, self.endpoint)
        self.relay_index = message.relay_index
        self.observed = message.observed
        self._resend_at = []
        self._renew_at = now + RENEW_AT * message.lifetime
        return True
