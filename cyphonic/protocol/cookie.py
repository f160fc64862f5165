"""Cookies: under load a service asks a stranger to show that it receives at the address it sends from.

The service answers a request that lacks MAC2 with a CookieReply, and keeps nothing: the cookie is a MAC over the
source under a secret of the time, which whoever knows the fleet's secret can compute again (WireGuard's idea)::

    secret = MAC(fleet secret, floor(unix time / 120 s))         this one and the one before are accepted
    cookie = MAC(secret, source endpoint)
    MAC2   = MAC(cookie, everything before MAC2)
    CookieReply: XChaCha20-Poly1305(BLAKE2s("cyphonic cookie v1" | service's public key), cookie; AD: MAC1)

MAC2 is zero or right.  Anything else is dropped in silence, loaded or not, so that no bit of a datagram may
differ.  A node whose cookie is no longer good (it moved, or the secret changed) notices by the silence, sends
without it and is given another.
"""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import blake2s
from hmac import compare_digest

from nacl import bindings
from nacl.exceptions import CryptoError

from cyphonic.errors import MalformedError, NotAllowedError
from cyphonic.protocol.chance import Chance
from cyphonic.protocol.limits import COOKIE_DOUBT_AFTER, COOKIE_REFRESH_TIME, GIVE_UP_AFTER
from cyphonic.protocol.mac import NO_MAC, mac
from cyphonic.wire.endpoint import Endpoint
from cyphonic.wire.header import MAC_LENGTH, MACS_LENGTH
from cyphonic.wire.hint import COOKIE_NONCE_LENGTH, CookieReply, repeated

MAX_IN_FLIGHT = 2048
"""Requests of one node that a CookieReply may answer; beyond it the oldest must do without."""
MAX_COOKIES = 64
"""Endpoints of which one node holds a cookie: more than any list of frontends has."""

_LABEL = b"cyphonic cookie v1"


def cookie_key(service_public_key: bytes) -> bytes:
    """The 32 bytes that a service's CookieReplies are sealed with, from its X25519 public key."""
    return blake2s(_LABEL + service_public_key).digest()


def add_mac2(datagram: bytes, cookie: bytes) -> bytes:
    """A datagram with MACs, its MAC2 made anew under ``cookie``."""
    return datagram[:-MAC_LENGTH] + mac(cookie, datagram[:-MAC_LENGTH])


def open_cookie(reply: bytes, request: bytes, key: bytes) -> bytes:
    """The cookie of a CookieReply to ``request``.  ``key``: the service's ``cookie_key``.  Raise MalformedError."""
    opened = CookieReply.decode(reply)
    try:
        return bindings.crypto_aead_xchacha20poly1305_ietf_decrypt(opened.sealed, _mac1(request), opened.nonce, key)
    except CryptoError:
        raise MalformedError("bad_cookie") from None


class CookieMint:
    """The service's side.  It remembers nobody.

    ``fleet_secret`` may be replaced at any time, from any thread.
    """

    def __init__(self, fleet_secret: bytes, service_public_key: bytes, chance: Chance) -> None:
        self.fleet_secret = fleet_secret
        self._key = cookie_key(service_public_key)
        self._chance = chance
        self._of_slot: tuple[bytes, int, bytes, bytes] = (b"", 0, b"", b"")

    def proves(self, datagram: bytes, source: bytes, wall: float) -> bool:
        """Whether MAC2 shows that ``source`` (an encoded endpoint) was given a cookie; False when it is zero.

        ``wall``: unix seconds.  Raise MalformedError("bad_mac2") when it is neither.
        """
        mac2 = datagram[-MAC_LENGTH:]
        if mac2 == NO_MAC:
            return False
        covered = datagram[:-MAC_LENGTH]
        for secret in self._secrets(wall):
            if compare_digest(mac2, mac(mac(secret, source), covered)):
                return True
        raise MalformedError("bad_mac2")

    def reply(self, datagram: bytes, source: bytes, wall: float) -> bytes:
        """The CookieReply to a request with a valid MAC1.  Every request is longer than its 96 bytes."""
        cookie = mac(self._secrets(wall)[0], source)
        nonce = self._chance(COOKIE_NONCE_LENGTH)
        sealed = bindings.crypto_aead_xchacha20poly1305_ietf_encrypt(cookie, _mac1(datagram), nonce, self._key)
        return CookieReply(repeated(datagram), nonce, sealed).encode()

    def _secrets(self, wall: float) -> tuple[bytes, bytes]:
        slot, fleet_secret = int(wall // COOKIE_REFRESH_TIME), self.fleet_secret
        known_for, known_slot, current, previous = self._of_slot
        if known_slot != slot or known_for is not fleet_secret:
            current, previous = (mac(fleet_secret, each.to_bytes(8, "big")) for each in (slot, max(0, slot - 1)))
            self._of_slot = (fleet_secret, slot, current, previous)
        return current, previous


@dataclass(slots=True)
class _Held:
    """A cookie, until when to use it (monotonic seconds), and since when it has been used without an answer."""

    cookie: bytes
    until: float
    unanswered_since: float | None


@dataclass(slots=True)
class _Sent:
    """A request in flight.  ``open``: since its last sending no CookieReply has come."""

    request: bytes
    endpoint: Endpoint
    at: float
    open: bool = True


class CookieJar:
    """The node's side: the cookies that it was given, by endpoint, and the requests that one may still answer."""

    def __init__(self) -> None:
        self._cookies: dict[Endpoint, _Held] = {}
        self._sent: dict[bytes, _Sent] = {}

    def dress(self, request: bytes, endpoint: Endpoint, now: float) -> bytes:
        """What to send instead of ``request``, whose MAC2 is zero: the same, or with MAC2."""
        self._note(request, endpoint, now)
        held = self._cookies.get(endpoint)
        if held is None:
            return request
        since = held.unanswered_since
        if now >= held.until or (since is not None and now - since >= COOKIE_DOUBT_AFTER):
            del self._cookies[endpoint]
            return request
        held.unanswered_since = now if since is None else since
        return add_mac2(request, held.cookie)

    def request_of(self, reply: bytes, source: Endpoint) -> bytes:
        """The request that a CookieReply answers; raise NotAllowedError("unknown_transaction")."""
        return self._find(reply, source).request

    def accept(self, reply: bytes, source: Endpoint, key: bytes, now: float) -> bytes:
        """Keep the cookie of a CookieReply; return the request with MAC2, to be sent to ``source`` at once.

        ``key``: the service's ``cookie_key``.  Raise MalformedError or NotAllowedError and change nothing.  Each
        sending of a request takes one CookieReply at most, so that nobody makes a node send faster than it would.
        """
        sent = self._find(reply, source)
        cookie = open_cookie(reply, sent.request, key)
        sent.open = False
        if len(self._cookies) >= MAX_COOKIES:
            self._cookies.clear()
        self._cookies[source] = _Held(cookie, now + COOKIE_REFRESH_TIME, now)
        return add_mac2(sent.request, cookie)

    def answered(self, header: bytes, source: Endpoint) -> None:
        """An authentic answer came, with the header of its request (but for the type): its cookie is good."""
        self._sent.pop(repeated(header), None)
        held = self._cookies.get(source)
        if held is not None:
            held.unanswered_since = None

    def clear(self) -> None:
        """The node has other addresses: the cookies were for those before."""
        self._cookies.clear()

    def _find(self, reply: bytes, source: Endpoint) -> _Sent:
        sent = self._sent.get(repeated(reply))
        if sent is None or sent.endpoint != source or not sent.open:
            raise NotAllowedError("unknown_transaction")
        return sent

    def _note(self, request: bytes, endpoint: Endpoint, now: float) -> None:
        key = repeated(request)
        self._sent.pop(key, None)  # so that the oldest sending stands first
        while self._sent:
            oldest = next(iter(self._sent))
            if len(self._sent) < MAX_IN_FLIGHT and self._sent[oldest].at > now - GIVE_UP_AFTER:
                break
            del self._sent[oldest]
        self._sent[key] = _Sent(request, endpoint, now)


def _mac1(datagram: bytes) -> bytes:
    return datagram[-MACS_LENGTH:-MAC_LENGTH]
