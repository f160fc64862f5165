"""Packets that wait for a tunnel: a bounded queue that says what it lost."""

from __future__ import annotations

from collections import Counter, deque

from cyphonic.protocol.limits import MAX_STAGED_PACKETS


class Staging:
    """At most ``MAX_STAGED_PACKETS``, oldest out first when full: applications still await the newest."""

    def __init__(self, drops: Counter[str]) -> None:
        self._drops = drops
        self._packets: deque[bytes] = deque()

    def add(self, packet: bytes) -> None:
        """One more packet waits."""
        if len(self._packets) == MAX_STAGED_PACKETS:
            self._packets.popleft()
            self._drops["staging_full"] += 1
        self._packets.append(packet)

    def take(self) -> bytes:
        """The packet that waits longest.  Raise IndexError when none does."""
        return self._packets.popleft()

    def drop(self, reason: str) -> None:
        """Nothing will come of it: count all that wait and forget them."""
        self._drops[reason] += len(self._packets)
        self._packets.clear()

    def __len__(self) -> int:
        return len(self._packets)
