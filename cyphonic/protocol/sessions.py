"""The sessions of one peer: the one in use, the one that awaits its first capsule, and the one before.

WireGuard's current, next and previous keypair.  A new session replaces the one in use only when it is confirmed: an
initiator's by the response, a responder's by its first opened capsule.  The one before still opens what was on the
way, for ``PREVIOUS_SESSION_GRACE``.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from cyphonic.protocol.limits import PREVIOUS_SESSION_GRACE, REKEY_TIMEOUT
from cyphonic.protocol.session import Session


class Sessions:
    """Three places.  ``release`` is told the local index of every session that leaves the last one it had."""

    def __init__(self, release: Callable[[int], None]) -> None:
        self.current: Session | None = None
        self.unconfirmed: Session | None = None
        self.previous: Session | None = None
        self._previous_until = math.inf
        self._answered = -math.inf
        self._contested_at = math.inf
        self._release = release

    def of(self, index: int) -> Session | None:
        """The session that a local index names."""
        for session in (self.current, self.unconfirmed, self.previous):
            if session is not None and session.local_index == index:
                return session
        return None

    def answer(self, session: Session, now: float, *, contested: bool) -> None:
        """This end answered a handshake: the session waits for its first capsule, in place of any that waits.

        ``contested``: a handshake of this end is under way as well, and is the one to go on.
        """
        self._drop(self.unconfirmed)
        self.unconfirmed, self._answered = session, now
        self._contested_at = now if contested else math.inf

    def awaiting(self, now: float) -> bool:
        """Whether the peer is about to confirm a session: to begin another now would only cross it."""
        return self.unconfirmed is not None and now - self._answered < REKEY_TIMEOUT

    def use(self, session: Session, now: float) -> None:
        """The session is confirmed and takes over; both ends settle on the same one when both began at once."""
        session.established = now
        self._drop(self.previous)
        if session is self.unconfirmed and self._asked_since(self._contested_at):
            self.previous, self._previous_until = session, now + PREVIOUS_SESSION_GRACE
            self.unconfirmed = None
            return
        self.previous, self._previous_until = self.current, now + PREVIOUS_SESSION_GRACE
        if session is self.unconfirmed:
            self.unconfirmed = None
        self.current = session

    def _asked_since(self, moment: float) -> bool:
        """Whether the session in use is of a handshake of this end that was answered after that."""
        current = self.current
        return current is not None and current.initiator and (current.established or 0.0) >= moment

    def expire(self, now: float) -> None:
        """Forget what is too old."""
        if self.previous is not None and now >= self._previous_until:
            self._drop(self.previous)
            self.previous = None
        if self.current is not None and self.current.expired(now):
            self.end_current()

    def end_current(self) -> None:
        """The session in use may seal nothing any more."""
        self._drop(self.current)
        self.current = None

    def close(self) -> None:
        """Forget all three."""
        for session in (self.current, self.unconfirmed, self.previous):
            self._drop(session)
        self.current = self.unconfirmed = self.previous = None

    def __bool__(self) -> bool:
        return any((self.current, self.unconfirmed, self.previous))

    def _drop(self, session: Session | None) -> None:
        if session is not None:
            self._release(session.local_index)
