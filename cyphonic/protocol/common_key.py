"""The common keys of a node: the one in use, the one before it, and when to doubt that the NMS knows them."""

from __future__ import annotations

from dataclasses import dataclass, field

from cyphonic.errors import NotAllowedError
from cyphonic.protocol.chance import Chance, fraction
from cyphonic.protocol.cookie import cookie_key
from cyphonic.protocol.limits import (
    KEY_UNKNOWN_HINTS,
    KEY_UNKNOWN_PATIENCE,
    LOGIN_RETRY_MAX,
    PREVIOUS_COMMON_KEY_GRACE,
)
from cyphonic.protocol.mac import append_macs, mac1_key
from cyphonic.protocol.signaling import open_signaling, seal_signaling
from cyphonic.wire.codec import Body
from cyphonic.wire.header import MessageType, SignalingHeader


@dataclass(slots=True)
class CommonKey:
    """What one login gave."""

    number: int
    secret: bytes = field(repr=False)
    node_id: bytes
    nms_mac1_key: bytes = field(repr=False)
    nms_cookie_key: bytes = field(repr=False)
    expires: float
    """Monotonic seconds."""
    counter: int = 0

    @classmethod
    def make(cls, number: int, secret: bytes, node_id: bytes, nms_key: bytes, expires: float) -> CommonKey:
        """The key for a node and the NMS with public key ``nms_key``."""
        return cls(number, secret, node_id, mac1_key(nms_key), cookie_key(nms_key), expires)

    def next_counter(self) -> int:
        """Of registrations and keepalives under this key."""
        self.counter += 1
        return self.counter


class KeyRing:
    """Seals under the current key; opens under it and, for 60 s after its first answer, the one before it."""

    def __init__(self, chance: Chance) -> None:
        self._chance = chance
        self.current: CommonKey | None = None
        self._previous: CommonKey | None = None
        self._previous_until: float | None = None

    def install(self, key: CommonKey) -> None:
        """A login was accepted: seal under its key from now on."""
        self._previous = self.current
        self._previous_until = None
        self.current = key

    def discard(self) -> None:
        """Forget every key."""
        self.current = self._previous = self._previous_until = None

    def seal(self, message_type: MessageType, transaction_id: bytes, body: Body) -> bytes:
        """A datagram to the NMS, MACs included.  Raise NotAllowedError("not_logged_in") without a key."""
        key = self.current
        if key is None:
            raise NotAllowedError("not_logged_in")
        header = SignalingHeader(message_type, key.number, key.node_id, transaction_id)
        return append_macs(seal_signaling(header, body, key.secret, self._chance), key.nms_mac1_key)

    def open(self, datagram: bytes, header: SignalingHeader, now: float) -> bytes:
        """The encoded body of a datagram from the NMS.

        Raise NotAllowedError("unknown_node" or "unknown_key"), MalformedError("too_short" or "bad_seal").
        """
        key = self._find(header, now)
        plaintext = open_signaling(datagram, header, key.secret)
        if key is self.current and self._previous is not None and self._previous_until is None:
            self._previous_until = (
                now + PREVIOUS_COMMON_KEY_GRACE
            )  # as at the NMS, which changes with the first use
        return plaintext

    def _find(self, header: SignalingHeader, now: float) -> CommonKey:
        if self._previous_until is not None and now >= self._previous_until:
            self._previous = self._previous_until = None
        for key in (self.current, self._previous):
            if key is not None and key.number == header.key_number and now < key.expires:
                if header.node_id != key.node_id:
                    raise NotAllowedError("unknown_node")
                return key
        raise NotAllowedError("unknown_key")


class KeyDoubt:
    """Collects hints that the NMS does not know the current key.

    A hint is not authenticated, so it takes two and 5 s without any valid answer before a node logs in again, a
    little later at random, since then all nodes do.  When logins do not help, the next ones wait longer.
    """

    def __init__(self, chance: Chance) -> None:
        self._chance = chance
        self._hints = 0
        self._patience = KEY_UNKNOWN_PATIENCE

    @property
    def stands(self) -> bool:
        """Whether hints came since the last valid answer."""
        return self._hints > 0

    def hint(self) -> float | None:
        """Count a hint; the first returns after how many seconds to ask ``convinced``."""
        self._hints += 1
        return self._patience * (1 + fraction(self._chance) / 2) if self._hints == 1 else None

    def convinced(self) -> bool:
        """Whether to log in.  Either way the hints so far are used up; a login makes the next one more patient."""
        convinced = self._hints >= KEY_UNKNOWN_HINTS
        self._hints = 0
        if convinced:
            self._patience = min(2 * self._patience, LOGIN_RETRY_MAX)
        return convinced

    def dispel(self) -> None:
        """A valid answer under the current key came."""
        self._hints = 0
        self._patience = KEY_UNKNOWN_PATIENCE
