"""``cyphonic ping``: probes through the tunnel, answered by the peer's cyphonic, with the way that they took."""

from __future__ import annotations

import math
from collections.abc import Callable

from cyphonic.errors import CloudUnreachableError, OperationalError, PeerUnreachableError
from cyphonic.node.control import Reply
from cyphonic.node.loop import Loop, Timer
from cyphonic.node.report import address_text, report_peer
from cyphonic.node.status import PingSummary, Pong
from cyphonic.protocol.client import ClientState
from cyphonic.protocol.overlay import Overlay
from cyphonic.protocol.peer import Peer

INTERVAL = 1.0
"""Seconds between two probes."""
PATIENCE = 2.0
"""Seconds to wait for an answer; for the first, which may have to make the tunnel, five times that."""
AGAIN = 1.0
"""Seconds after which the first is repeated: it may go a way that is just being found dead and replaced."""
POLL = 0.05
"""Seconds: how soon a tunnel that came up is noticed."""


class Pinging:
    """One ``ping`` request: sends ``count`` probes, a line each, then a summary."""

    def __init__(
        self, loop: Loop, overlay: Overlay, flush: Callable[[], None], peer: Peer, count: int, reply: Reply
    ) -> None:
        self._loop = loop
        self._overlay = overlay
        self._flush = flush
        self._peer = peer
        self._count = count
        self._reply = reply
        self._sequence = 0
        self._received = 0
        self._numbers: set[int] = set()
        self._probe_at = 0.0
        self._deadline = 0.0
        self._next_at = 0.0
        self._timer: Timer | None = None
        reply.on_close(self._cancel)

    def start(self) -> None:
        """Send the first probe as soon as there is a tunnel."""
        self._begin(5 * PATIENCE)

    def _begin(self, patience: float) -> None:
        now = self._loop.clock()
        self._sequence += 1
        self._numbers.clear()
        self._probe_at = now
        self._deadline = now + patience
        self._next_at = now + INTERVAL
        self._poll()

    def _poll(self) -> None:
        now = self._loop.clock()
        for number, rtt, _ in self._peer.round_trips:
            if number in self._numbers:
                self._answered(rtt)
                return
        if now >= self._probe_at:
            self._probe(now)
        if self._overlay.peer(self._peer.certificate.fqdn) is not self._peer:
            self._gone()
            return
        if now >= self._deadline:
            self._answered(None)
            return
        # A probe's answer is looked for often at first: most come within milliseconds.
        wait = 0.001 if self._numbers and now - (self._next_at - INTERVAL) < POLL else POLL
        self._timer = self._loop.call_later(wait, self._poll)

    def _probe(self, now: float) -> None:
        number = self._overlay.probe(self._peer, now)
        if number is not None:
            self._numbers.add(number)
            self._probe_at = now + AGAIN if self._sequence == 1 else math.inf
        self._flush()

    def _answered(self, rtt: float | None) -> None:
        self._received += rtt is not None
        status = report_peer(self._peer, 0.0)
        certificate = self._peer.certificate
        self._reply.line(
            Pong(
                sequence=self._sequence,
                name=certificate.fqdn,
                address=address_text(certificate.virtual_ipv6),
                rtt=rtt,
                path=status.path,
                endpoint=status.endpoint,
                relay=status.relay,
                why=status.why,
            )
        )
        if self._sequence < self._count:
            self._timer = self._loop.call_at(self._next_at, lambda: self._begin(PATIENCE))
        elif self._received:
            self._reply.done(PingSummary(certificate.fqdn, self._count, self._received))
        else:
            self._reply.fail(self._failure())

    def _failure(self) -> OperationalError:
        fqdn = self._peer.certificate.fqdn
        if not self._peer.established and self._overlay.client.state is not ClientState.REGISTERED:
            return CloudUnreachableError(
                f"there is no tunnel to {fqdn} now, and the cloud, which would make one, does not answer",
                "'cyphonic status' says what is wrong",
            )
        return PeerUnreachableError(
            f"{fqdn} does not answer", "is it up?  'cyphonic status' there shows whether it is registered"
        )

    def _gone(self) -> None:
        """Revoked, or silent and no longer registered."""
        fqdn = self._peer.certificate.fqdn
        self._reply.fail(
            PeerUnreachableError(
                f"{fqdn} does not answer and has left", "it registers when 'cyphonic up' runs there"
            )
        )

    def _cancel(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
