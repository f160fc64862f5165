"""The cloud's clock as a node knows it: what an answer said, and what has elapsed since."""

from __future__ import annotations


class CloudClock:
    """Unix milliseconds at a service, from monotonic seconds here.

    An answer tells the time at which it was written, so the estimate is late by its way here.  The latest one
    counts, so that a cloud whose clock was put right is believed again within a keepalive.
    """

    def __init__(self) -> None:
        self._offset: float | None = None

    @property
    def is_set(self) -> bool:
        """Whether any answer has told the time."""
        return self._offset is not None

    def observe(self, time: int, now: float) -> None:
        """An answer says ``time`` in Unix milliseconds; 0 says nothing."""
        if time:
            self._offset = time - now * 1000

    def read(self, now: float) -> int:
        """Unix milliseconds; 0 before any answer."""
        return 0 if self._offset is None else max(0, int(self._offset + now * 1000))
