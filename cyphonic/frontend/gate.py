"""Whom a frontend lets in while there is more to do than can be done.  Pure; one for all endpoints of a process.

============================  =======================  ==================================================
sender                        not loaded               loaded
============================  =======================  ==================================================
known, within its rate        in, ahead of strangers   in, ahead of strangers
stranger, right MAC2          in                       in, within the rate of its source prefix, else Busy
stranger, MAC2 zero           in                       out: CookieReply, within a rate for all together
MAC2 neither zero nor right   out                      out
============================  =======================  ==================================================

A sender is *known* while workers answer it with something that only a node of ours is sent.  A frontend holds no
node's key, so it cannot tell more than that; but whoever forges a known node's source shares that node's rate and
nobody else's, and a node that is not known (a new one, one that has moved) needs one round trip more for its
cookie.  All tables are of fixed size, and no reply is longer than what it answers.
"""

from __future__ import annotations

from collections import Counter
from socket import AF_INET, AF_INET6, inet_pton

from cyphonic.errors import NotAllowedError
from cyphonic.protocol.buckets import KnownSources, LoadGauge, SourceBuckets, TokenBucket
from cyphonic.protocol.chance import Chance
from cyphonic.protocol.cookie import CookieMint
from cyphonic.protocol.limits import LEASE
from cyphonic.protocol.mac import NO_MAC
from cyphonic.wire.header import MAC_LENGTH, SIGNALING_HEADER_LENGTH, MessageType, SignalingHeader
from cyphonic.wire.hint import encode_hint, encode_version_hint

KNOWN_RATE = 50.0
KNOWN_BURST = 200.0
"""Messages of one known source: a node sends a few a minute, a direction now and then."""
SOURCE_BURST = 2.0
"""Seconds of its rate that a source prefix may send at once."""
COOKIES_PER_SECOND = 20_000.0
"""Each costs some 10 µs: with 50,000 strangers a second a new node gets one at two of five tries."""
COOKIES_BEHIND = 2000.0
"""The same, while datagrams come faster than they are read: then time is better spent on reading."""
BUSY_PER_SECOND = 200.0
VERSION_HINTS_PER_SECOND = 10.0
CROWD = 200.0
"""Strangers turned away per second that keep a load up."""

_NODES_ONLY = frozenset(
    {
        MessageType.REGISTRATION_RESPONSE,
        MessageType.KEEP_ALIVE_ACK,
        MessageType.ROUTE_DIRECTION,
        MessageType.DIRECTION_REFUSED,
        MessageType.PATH_REVOCATION,
    }
)
_MARKS = frozenset(int(kind) for kind in _NODES_ONLY)


class TurnedAwayError(NotAllowedError):
    """Not let in; ``answer``, where there is one, goes back to the source."""

    def __init__(self, reason: str, answer: bytes | None = None) -> None:
        super().__init__(reason)
        self.answer = answer


def pack_source(host: str, port: int) -> bytes:
    """An endpoint as ``Endpoint.encode`` writes it."""
    return inet_pton(AF_INET6 if ":" in host else AF_INET, host) + port.to_bytes(2, "big")


class Gate:
    """Its state is a few fixed tables, however many come.  ``now`` is monotonic, ``wall`` unix seconds."""

    def __init__(self, source_rate: float, chance: Chance) -> None:
        """``source_rate``: messages per second of strangers from one /32 or /64, while loaded."""
        self.gauge = LoadGauge()
        self.known = KnownSources(KNOWN_RATE, KNOWN_BURST, LEASE, chance)
        self.counts: Counter[str] = Counter()
        """Hints sent, by kind."""
        self._sources = SourceBuckets(source_rate, max(1.0, source_rate * SOURCE_BURST), chance)
        self._cookies = TokenBucket(COOKIES_PER_SECOND, COOKIES_PER_SECOND / 10)
        self._behind = TokenBucket(COOKIES_BEHIND, COOKIES_BEHIND / 10)
        self._busy = TokenBucket(BUSY_PER_SECOND, BUSY_PER_SECOND)
        self._version_hints = TokenBucket(VERSION_HINTS_PER_SECOND, VERSION_HINTS_PER_SECOND)
        self._crowd = TokenBucket(CROWD, CROWD)

    def shed(self, datagram: bytes, source: bytes, now: float) -> bool:
        """Whether to drop a datagram at first sight, because they come faster than they are read.

        What the kernel has no room for it loses whoever sent it, so under load strangers without MAC2 are hardly
        looked at: each costs a third of what it would.
        """
        if not self.gauge.loaded(now) or datagram[-MAC_LENGTH:] != NO_MAC or self.known.knows(source, now):
            return False
        if self._behind.take(1, now):
            return False
        self.gauge.strained(now)
        return True

    def admit(self, datagram: bytes, source: bytes, mint: CookieMint, now: float, wall: float) -> bool:
        """Let in a request with a valid MAC1 from ``source``, an encoded endpoint; True when it is known.

        Raise MalformedError("bad_mac2") or TurnedAwayError.
        """
        proved = mint.proves(datagram, source, wall)
        if self.known.take(source, now):
            return True
        if not self.gauge.loaded(now):
            return False
        if not proved:
            if not self._crowd.take(1, now):
                self.gauge.strained(now)
            raise TurnedAwayError("needs_cookie", self._cookie(datagram, source, mint, now, wall))
        if not self._sources.take(source, now):
            raise TurnedAwayError("source_rate", self.busy(SignalingHeader.decode(datagram), now))
        return False

    def note_sent(self, kind: int, source: bytes, now: float) -> None:
        """A worker sends a datagram of type ``kind`` to ``source``."""
        if kind in _MARKS:
            self.known.remember(source, now)

    def busy(self, cause: SignalingHeader, now: float) -> bytes | None:
        """A Busy about a request that found no place, unless there were too many."""
        return encode_hint(MessageType.BUSY, cause) if self._spend("busy", self._busy, now) else None

    def version_hint(self, datagram: bytes, now: float) -> bytes | None:
        """A VersionHint about a datagram of another version, unless it is shorter or there were too many."""
        if len(datagram) < SIGNALING_HEADER_LENGTH or not self._spend("version_hint", self._version_hints, now):
            return None
        return encode_version_hint(datagram)

    def _cookie(self, datagram: bytes, source: bytes, mint: CookieMint, now: float, wall: float) -> bytes | None:
        return mint.reply(datagram, source, wall) if self._spend("cookie", self._cookies, now) else None

    def _spend(self, kind: str, bucket: TokenBucket, now: float) -> bool:
        allowed = bucket.take(1, now)
        self.counts[kind] += allowed
        return allowed
