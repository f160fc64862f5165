"""Which two sources a relay joins, and who may bind them.  Pure: the server performs what this decides.

Before a source address is proved there is no state and no answer longer than its request: the challenge is a MAC
under a secret of this process over everything that the answer repeats, and a slot of time.  State begins with a
valid RelayBindAnswer, which repeats the token.

Under load, when more binds come than are to be opened, a bind has to show a cookie first (``protocol/cookie.py``),
or the answer to a challenge, which shows the same; from then on each source prefix has a rate of its own.

Datagrams between the two bound sources of a path pass unchanged, their 8-byte header included, because both roles
share one index.  The index alone gives no right: the key of the forwarding table is header *and* source.
"""

from __future__ import annotations

import heapq
from collections import Counter
from dataclasses import dataclass, field
from hmac import compare_digest
from typing import NamedTuple

from cyphonic.errors import DropError, MalformedError, NotAllowedError
from cyphonic.protocol.buckets import LoadGauge, SourceBuckets, TokenBucket
from cyphonic.protocol.chance import Chance, integer
from cyphonic.protocol.cookie import CookieMint
from cyphonic.protocol.keys import KeyPair
from cyphonic.protocol.limits import BINDING_IDLE, CHALLENGE_SLOT
from cyphonic.protocol.mac import check_mac1, mac, mac1_key
from cyphonic.protocol.token import open_token
from cyphonic.wire.direction import Role
from cyphonic.wire.endpoint import Endpoint
from cyphonic.wire.header import MAC_LENGTH, MACS_LENGTH, MessageType, encode_relayed
from cyphonic.wire.relay import NO_CHALLENGE, RelayBind, RelayBindChallenge, RelayBound, RelayToken

BURST_TIME = 0.25
"""Seconds of its rate that a binding may send at once."""
MIN_BURST = 128 * 1024
"""Bytes: two coalesced reads, so that a low rate still passes whole bursts."""


class Way(NamedTuple):
    """How to reach a bound node: its endpoint, and the address of this host that it knows."""

    remote: Endpoint
    local: str
    """Host address, empty where the socket itself is bound to it."""


@dataclass(frozen=True)
class BindingLimits:
    """What one relay takes on."""

    max_bindings: int = 100_000
    """Bound roles; beyond it a new one is dropped."""
    rate: int = 0
    """Bytes per second that one bound role may send; 0: as much as its token says."""
    idle: float = BINDING_IDLE
    """Seconds without a datagram from a role after which it is forgotten."""
    control_rate: float = 5000.0
    """RelayBind and RelayBindAnswer opened per second, all nodes together: each costs some 30 µs.

    Half as many make a load."""
    source_rate: float = 100.0
    """Of these, while loaded, from one IPv4 address or IPv6 /64."""
    cookie_rate: float = 5000.0
    """CookieReplies per second, all sources together."""


class BoundRole:
    """One end of a path, proved to receive at ``way``."""

    __slots__ = ("bind_key", "bucket", "generation", "header", "last_heard", "path_id", "peer", "role", "way")

    def __init__(self, token: RelayToken, generation: int, way: Way, header: bytes, bucket: TokenBucket) -> None:
        self.path_id = token.path_id
        self.role = token.role
        self.bind_key = token.bind_key
        self.generation = generation
        self.way = way
        self.header = header
        self.bucket = bucket
        self.last_heard = 0.0
        self.peer: BoundRole | None = None


@dataclass
class BindingTable:
    """Every binding of one relay process.

    ``receive`` takes what nodes say to the relay, ``forward`` what they say through it; both count what they
    drop in ``drops`` and raise nothing.  ``now`` is monotonic, ``wall`` unix seconds.
    """

    relay: KeyPair
    nms_public: bytes
    chance: Chance
    limits: BindingLimits = field(default_factory=BindingLimits)
    drops: Counter[str] = field(default_factory=Counter)
    forwarded_bytes: int = 0
    forwarded_datagrams: int = 0
    cookies_sent: int = 0
    draining: bool = False
    """When set, living bindings go on and may be renewed, but none is added."""

    def __post_init__(self) -> None:
        self._secret = self.chance(32)
        self._mac1_key = mac1_key(self.relay.public)
        limits = self.limits
        self._control = TokenBucket(limits.control_rate, max(1.0, limits.control_rate))
        self._demand = TokenBucket(limits.control_rate / 2, max(1.0, limits.control_rate / 2))
        self._cookies = TokenBucket(limits.cookie_rate, max(1.0, limits.cookie_rate / 10))
        self._sources = SourceBuckets(limits.source_rate, max(1.0, 2 * limits.source_rate), self.chance)
        self._mint = CookieMint(self.chance(32), self.relay.public, self.chance)
        self._gauge = LoadGauge()
        self._roles: dict[tuple[bytes, int], BoundRole] = {}
        self._senders: dict[tuple[bytes, tuple[str, int]], BoundRole] = {}
        self._indices: dict[int, bytes] = {}
        self._expiry: list[tuple[float, bytes, int]] = []

    def __len__(self) -> int:
        """Bound roles."""
        return len(self._roles)

    @property
    def joined_paths(self) -> int:
        """Paths with both roles bound."""
        return len(self._roles) - len(self._indices)

    # The fast path.

    def forward(self, header: bytes, source: tuple[str, int], size: int, count: int, now: float) -> Way | None:
        """Where ``count`` datagrams of together ``size`` bytes, all with this header, go; None drops them."""
        sender = self._senders.get((header, source))
        if sender is None:
            self.drops["not_bound"] += count
            return None
        sender.last_heard = now
        peer = sender.peer
        if peer is None:
            self.drops["peer_not_bound"] += count
            return None
        if not sender.bucket.take(size, now):
            self.drops["rate_limited"] += count
            return None
        self.forwarded_bytes += size
        self.forwarded_datagrams += count
        return peer.way

    # Binding.

    def receive(self, datagram: bytes, source: Way, now: float, wall: float) -> bytes | None:
        """The answer to a RelayBind or RelayBindAnswer, to be sent where it came from."""
        try:
            return self._receive(datagram, source, now, wall)
        except DropError as drop:
            self.drops[drop.reason] += 1
            return None

    def _receive(self, datagram: bytes, source: Way, now: float, wall: float) -> bytes:
        if not datagram or datagram[0] not in (MessageType.RELAY_BIND, MessageType.RELAY_BIND_ANSWER):
            raise MalformedError("unknown_type")
        bind = RelayBind.decode(datagram)
        check_mac1(datagram, self._mac1_key)
        packed = source.remote.encode()
        proved = self._mint.proves(datagram, packed, wall)
        slot = int(now / CHALLENGE_SLOT)
        if bind.challenge != NO_CHALLENGE:
            self._check_challenge(bind, source.remote, slot)
            proved = True
        if not self._demand.take(1, now):
            self._gauge.overloaded(now)
        if self._gauge.loaded(now):
            if not proved:
                return self._ask_for_cookie(datagram, packed, now, wall)
            if not self._sources.take(packed, now):
                raise NotAllowedError("source_rate")
        if not self._control.take(1, now):
            raise NotAllowedError("control_overload")
        self.handle_timeout(now)
        token = self._authorise(bind, datagram, wall)
        if bind.challenge == NO_CHALLENGE:
            challenge = self._challenge(bind, source.remote, slot)
            question = RelayBindChallenge(bind.role, bind.generation, bind.path_id, challenge).encode()
            return question + mac(token.bind_key, question)
        bound = self._bind(bind, token, source, now)
        return self._write_bound(bound)

    def loaded(self, now: float) -> bool:
        """Whether strangers have to show a cookie."""
        return self._gauge.loaded(now)

    def _ask_for_cookie(self, datagram: bytes, source: bytes, now: float, wall: float) -> bytes:
        if not self._cookies.take(1, now):
            raise NotAllowedError("needs_cookie")
        self.cookies_sent += 1
        return self._mint.reply(datagram, source, wall)

    def _check_challenge(self, bind: RelayBind, source: Endpoint, slot: int) -> None:
        if not any(
            compare_digest(bind.challenge, self._challenge(bind, source, valid))
            for valid in (slot, max(0, slot - 1))
        ):
            raise NotAllowedError("bad_challenge")

    def _authorise(self, bind: RelayBind, datagram: bytes, wall: float) -> RelayToken:
        """The opened token; raise unless it gives this sender the right to this role.  Changes nothing."""
        token = open_token(bind.token, self.relay, self.nms_public)
        if token.path_id != bind.path_id or token.role != bind.role:
            raise MalformedError("token_mismatch")
        proved = len(datagram) - MACS_LENGTH - MAC_LENGTH
        if not compare_digest(mac(token.bind_key, datagram[:proved]), datagram[proved : proved + MAC_LENGTH]):
            raise MalformedError("bad_proof")
        living = self._roles.get((bind.path_id, bind.role))
        if living is None:
            if wall >= token.expires:
                raise NotAllowedError("token_expired")
            if self.draining:
                raise NotAllowedError("draining")
        elif living.bind_key != token.bind_key:
            raise NotAllowedError("other_bind_key")
        elif bind.generation < living.generation:
            raise NotAllowedError("stale_generation")
        return token

    def _challenge(self, bind: RelayBind, source: Endpoint, slot: int) -> bytes:
        covered = slot.to_bytes(8, "big") + bytes((bind.role,)) + bind.generation.to_bytes(4, "big") + bind.path_id
        return mac(self._secret, covered + source.encode())

    def _bind(self, bind: RelayBind, token: RelayToken, source: Way, now: float) -> BoundRole:
        """Make or move the binding.  The same answer again finds what it made."""
        living = self._roles.get((bind.path_id, bind.role))
        if living is None:
            return self._add(bind, token, source, now)
        if bind.generation > living.generation:
            self._move(living, bind.generation, source)
        elif living.way.remote != source.remote:
            raise NotAllowedError("stale_generation")
        living.last_heard = now
        return living

    def _add(self, bind: RelayBind, token: RelayToken, source: Way, now: float) -> BoundRole:
        if len(self._roles) >= self.limits.max_bindings:
            raise NotAllowedError("too_many_bindings")
        peer = self._roles.get((bind.path_id, 1 - bind.role))
        header = peer.header if peer is not None else self._new_header(bind.path_id)
        if (header, source.remote) in self._senders:
            raise NotAllowedError("both_roles_one_source")
        rate = min(rate for rate in (token.rate, self.limits.rate) if rate) if token.rate or self.limits.rate else 0
        bucket = TokenBucket(rate, max(MIN_BURST, rate * BURST_TIME))
        bound = BoundRole(token, bind.generation, source, header, bucket)
        bound.last_heard = now
        bound.peer = peer
        if peer is not None:
            peer.peer = bound
        self._roles[bound.path_id, bound.role] = bound
        self._senders[header, source.remote] = bound
        heapq.heappush(self._expiry, (now + self.limits.idle, bound.path_id, bound.role))
        return bound

    def _move(self, bound: BoundRole, generation: int, source: Way) -> None:
        other = self._senders.get((bound.header, source.remote))
        if other is not None and other is not bound:
            raise NotAllowedError("both_roles_one_source")
        del self._senders[bound.header, bound.way.remote]
        bound.generation = generation
        bound.way = source
        self._senders[bound.header, source.remote] = bound

    def _new_header(self, path_id: bytes) -> bytes:
        while True:
            index = integer(self.chance, 32)
            if index not in self._indices:
                self._indices[index] = path_id
                return encode_relayed(index)

    def _write_bound(self, bound: BoundRole) -> bytes:
        index = int.from_bytes(bound.header[4:], "big")
        message = RelayBound(
            Role(bound.role), bound.generation, bound.path_id, index, int(self.limits.idle), bound.way.remote
        ).encode()
        return message + mac(bound.bind_key, message)

    # Expiry.

    def handle_timeout(self, now: float) -> None:
        """Forget what has been idle.  Each binding is looked at once per idle time, however busy it is."""
        while self._expiry and self._expiry[0][0] <= now:
            _, path_id, role = heapq.heappop(self._expiry)
            bound = self._roles.get((path_id, role))
            if bound is None:
                continue
            expires = bound.last_heard + self.limits.idle
            if expires <= now:
                self._forget(path_id, role)
            else:
                heapq.heappush(self._expiry, (expires, path_id, role))

    def next_deadline(self) -> float | None:
        """When ``handle_timeout`` may have something to do."""
        return self._expiry[0][0] if self._expiry else None

    def _forget(self, path_id: bytes, role: int) -> None:
        bound = self._roles.pop((path_id, role), None)
        if bound is None:
            return
        del self._senders[bound.header, bound.way.remote]
        if bound.peer is not None:
            bound.peer.peer = None
        else:
            del self._indices[int.from_bytes(bound.header[4:], "big")]
