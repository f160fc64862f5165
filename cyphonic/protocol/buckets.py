"""Token buckets: one; a fixed number of them for all sources of the world; and one for each source that is known.

A stranger costs no memory.  Buckets are found by a keyed hash, so that nobody can choose whose bucket to share.  A
bucket is a single number, the time up to which it is spent (GCRA, ITU-T I.371).
"""

from __future__ import annotations

from array import array
from hashlib import blake2s

from cyphonic.protocol.chance import Chance

SOURCE_BUCKETS = 4096
KNOWN_SOURCES = 65536
"""Slots; with 10,000 known sources one in seven shares its slot with another, and the later one has it."""


class TokenBucket:
    """``rate`` units per second, at most ``burst`` at once; a rate of 0 never refuses."""

    __slots__ = ("_level", "_refilled", "burst", "rate")

    def __init__(self, rate: float, burst: float) -> None:
        self.rate = rate
        self.burst = burst
        self._level = burst
        self._refilled = 0.0

    def take(self, amount: float, now: float) -> bool:
        """Whether ``amount`` units may pass now."""
        if not self.rate:
            return True
        level = min(self.burst, self._level + (now - self._refilled) * self.rate)
        self._refilled = now
        allowed = level >= amount
        self._level = level - amount if allowed else level
        return allowed


class SourceBuckets:
    """``rate`` per second and ``burst`` for each source prefix, a /32 of IPv4 or a /64 of IPv6, in fixed memory.

    Prefixes whose hashes meet share a bucket.
    """

    def __init__(self, rate: float, burst: float, chance: Chance, slots: int = SOURCE_BUCKETS) -> None:
        self._cost = 1 / rate
        self._room = (burst + 0.5) / rate  # half a unit: floats add up to a little more
        self._key = chance(32)
        self._spent = array("d", bytes(8 * slots))

    def take(self, source: bytes, now: float) -> bool:
        """Whether one more may pass from ``source``, an encoded endpoint."""
        prefix = source[:4] if len(source) == 6 else source[:8]
        digest = blake2s(prefix, key=self._key, digest_size=8).digest()
        slot = int.from_bytes(digest, "big") % len(self._spent)
        spent = max(self._spent[slot], now) + self._cost
        if spent > now + self._room:
            return False
        self._spent[slot] = spent
        return True


class KnownSources:
    """Sources to which workers lately sent something that only a node of ours is sent.

    Each has ``rate`` per second and ``burst`` of its own.  The table is of fixed size: a newcomer takes the slot
    of whoever has it, which costs that one a cookie under load and nothing else.
    """

    def __init__(
        self, rate: float, burst: float, lifetime: float, chance: Chance, slots: int = KNOWN_SOURCES
    ) -> None:
        """``lifetime`` in seconds since the last ``remember``."""
        self._cost = 1 / rate
        self._room = (burst + 0.5) / rate  # half a unit: floats add up to a little more
        self._lifetime = lifetime
        self._key = chance(32)
        self._names = array("Q", bytes(8 * slots))
        self._until = array("d", bytes(8 * slots))
        self._spent = array("d", bytes(8 * slots))

    def remember(self, source: bytes, now: float) -> None:
        """``source``, an encoded endpoint, is a node's."""
        name = self._name(source)
        slot = name % len(self._names)
        if self._names[slot] != name:
            self._names[slot] = name
            self._spent[slot] = 0.0
        self._until[slot] = now + self._lifetime

    def knows(self, source: bytes, now: float) -> bool:
        """Whether ``source`` is known; takes nothing of its rate."""
        name = self._name(source)
        slot = name % len(self._names)
        return self._names[slot] == name and self._until[slot] > now

    def take(self, source: bytes, now: float) -> bool:
        """Whether ``source`` is known, and within its rate."""
        name = self._name(source)
        slot = name % len(self._names)
        if self._names[slot] != name or self._until[slot] <= now:
            return False
        spent = max(self._spent[slot], now) + self._cost
        if spent > now + self._room:
            return False
        self._spent[slot] = spent
        return True

    def _name(self, source: bytes) -> int:
        return int.from_bytes(blake2s(source, key=self._key, digest_size=8).digest(), "big")


class LoadGauge:
    """Whether a service is loaded: from the first great trouble until ``calm`` seconds without the least."""

    def __init__(self, calm: float = 5.0) -> None:
        self._calm = calm
        self._until = 0.0

    def loaded(self, now: float) -> bool:
        """Whether strangers have to show a cookie."""
        return now < self._until

    def overloaded(self, now: float) -> None:
        """There is more to do than can be done."""
        self._until = now + self._calm

    def strained(self, now: float) -> None:
        """There is much to do, which alone does not make a load, but keeps one up."""
        if self.loaded(now):
            self._until = now + self._calm
