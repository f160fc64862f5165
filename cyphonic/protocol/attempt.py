"""A tunnel handshake that this end has started: the same request, resent until it is answered or given up."""

from __future__ import annotations

from collections.abc import Sequence

from cyphonic.protocol.chance import Chance
from cyphonic.protocol.grant import PathGrant
from cyphonic.protocol.handshake import TunnelInitiator
from cyphonic.protocol.keys import KeyPair
from cyphonic.protocol.paths import Destination, Paths
from cyphonic.protocol.session import Session
from cyphonic.wire.tunnel import Suite

RESEND_AFTER = (0.0, 0.1, 0.3, 0.6, 1.0, 1.5, 2.5, 4.0, 6.0, 9.0, 12.0)
"""Seconds after the start at which the TunnelRequest goes out."""
GIVE_UP_AFTER = 15.5
MAX_PUNCHES_ANSWERED = 5
"""HolePunches that the request goes out for, each by the way that it came."""


class Attempt:
    """One handshake under one grant.  ``index`` is the local index that its session will have."""

    def __init__(
        self,
        grant: PathGrant,
        static: KeyPair,
        peer_static: bytes,
        index: int,
        stamp: int,
        suites: Sequence[Suite],
        chance: Chance,
        now: float,
    ) -> None:
        self.grant = grant
        self.index = index
        self._initiator = TunnelInitiator(static, peer_static, grant.path_id, grant.path_key, index, chance)
        self.request = self._initiator.request(stamp, suites)
        self.started = now
        self.asked: set[Destination] = set()
        """Where the request has gone: a response from elsewhere is a copy of one (RFC 8445, section 7.2.5.2.1)."""
        self._sent = 0
        self._punches_answered = 0

    @property
    def repeated(self) -> bool:
        """Whether the request has gone out more than once."""
        return self._sent > 1

    def next_deadline(self) -> float:
        """The next sending, or giving up."""
        after = RESEND_AFTER[self._sent] if self._sent < len(RESEND_AFTER) else GIVE_UP_AFTER
        return self.started + after

    def resend(self, now: float) -> bool:
        """Whether the request, due now, is to be sent; False: give up.  What was slept through is left out."""
        if now >= self.started + GIVE_UP_AFTER:
            return False
        while self._sent < len(RESEND_AFTER) and self.started + RESEND_AFTER[self._sent] <= now:
            self._sent += 1
        return True

    def punched(self, grant: PathGrant) -> bool:
        """Whether the request is to be sent where a HolePunch under ``grant`` came from: there it is let in.

        Behind a symmetric NAT that is a port which nobody has known before.
        """
        if grant is not self.grant or not grant.direct_at_once or self._punches_answered >= MAX_PUNCHES_ANSWERED:
            return False
        self._punches_answered += 1
        return True

    def destinations(self, paths: Paths, *, rekey: bool) -> list[Destination]:
        """A rekey goes where the traffic goes, and when that does not answer where a first handshake goes."""
        destinations = []
        if paths.current is not None and not paths.silent:
            destinations.append(paths.current)
            if rekey and not self.repeated:
                return destinations
        return list(dict.fromkeys([*destinations, *self.grant.ways()]))

    def read_response(self, datagram: bytes) -> Session:
        """The session.  Raise DropError; the true answer may still come."""
        return self._initiator.read_response(datagram)
