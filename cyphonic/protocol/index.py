"""Local 32-bit indices: how a datagram from a peer names the session or handshake it belongs to."""

from __future__ import annotations

from typing import Generic, TypeVar

from cyphonic.protocol.chance import Chance, integer

T = TypeVar("T")


class IndexTable(Generic[T]):
    """Random indices, so that one says nothing about another, each unique while it is in use."""

    def __init__(self, chance: Chance) -> None:
        self._chance = chance
        self._owners: dict[int, T] = {}

    def allocate(self, owner: T) -> int:
        """A fresh non-zero index that leads to ``owner``."""
        while True:
            index = integer(self._chance, 32)
            if index not in self._owners:
                self._owners[index] = owner
                return index

    def get(self, index: int) -> T | None:
        """The owner, or None when nobody (any longer) has this index."""
        return self._owners.get(index)

    def release(self, index: int) -> None:
        """The index leads nowhere from now on; releasing twice does no harm."""
        self._owners.pop(index, None)

    def __len__(self) -> int:
        return len(self._owners)
