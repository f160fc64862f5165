"""The replay window: which of the latest counters were seen (RFC 6479, with a byte where it has a bit).

A ring of ``size`` bytes holds one flag for each counter from ``highest - size + 1`` to ``highest``.  A byte costs
eight times the memory of a bit and half the time, and the common case, the next counter in order, is one store.
"""

from __future__ import annotations

from cyphonic.errors import NotAllowedError


class ReplayWindow:
    """Accepts every counter once, unless it is ``size`` or more behind the highest accepted one."""

    __slots__ = ("_mask", "_ring", "highest")

    def __init__(self, size: int) -> None:
        """``size``: counters, a power of two."""
        if size <= 0 or size & (size - 1):
            raise ValueError("the size of a replay window is a power of two")
        self.highest = -1
        """The highest counter accepted so far, -1 before the first."""
        self._mask = size - 1
        self._ring = bytearray(size)

    def check(self, counter: int) -> None:
        """Raise NotAllowedError("replayed" or "too_old") for a counter that ``accept`` would refuse."""
        behind = self.highest - counter
        if behind < 0:
            return
        if behind > self._mask:
            raise NotAllowedError("too_old")
        if self._ring[counter & self._mask]:
            raise NotAllowedError("replayed")

    def accept(self, counter: int) -> None:
        """Note an authenticated counter; raise as ``check`` does, and change nothing."""
        ahead = counter - self.highest
        if ahead <= 0:
            self.check(counter)
        else:
            if ahead > 1:
                self._forget(self.highest + 1, min(ahead - 1, len(self._ring)))
            self.highest = counter
        self._ring[counter & self._mask] = 1

    def _forget(self, first: int, count: int) -> None:
        """Clear the flags of ``count`` skipped counters, in the two parts into which the ring's end cuts them."""
        start = first & self._mask
        before_end = min(count, len(self._ring) - start)
        self._ring[start : start + before_end] = bytes(before_end)
        self._ring[: count - before_end] = bytes(count - before_end)
