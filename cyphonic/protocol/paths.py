"""The ways to one peer: candidates, checks, and which verified path is in use.

A *candidate* is a destination that might reach the peer.  A check is a numbered probe, sealed under the session;
its acknowledgement shows that datagrams pass both ways, which makes the candidate a *path*.  The idea is that of
ICE (RFC 8445) with the roles left out: each end chooses where it sends, and only among paths that answered.

A path in use is left for a better kind (LAN, then direct, then relayed), for the one that the peer itself now
sends from (it has moved), or when it has fallen silent.  Nothing else makes it change: that is the hysteresis.
Between two equally good paths one end leads and the other follows, or they would swap for ever; a leader follows
only a peer that has left the path which both had used.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass, field
from enum import IntEnum
from socket import AddressFamily
from typing import NamedTuple

from cyphonic.protocol.limits import PATH_CHECK_COUNT, PATH_CHECK_INTERVAL
from cyphonic.wire.endpoint import Endpoint

MOVE_PATIENCE = 1.0
"""Seconds without a word on the path in use, while the peer speaks from elsewhere, until even a leader follows."""
PROBE_PATIENCE = 1.0
"""Seconds of unanswered probing, beside two known round trips, until a path counts as silent."""
PROBE_COUNT = 8
LEARNED_COUNT = 3
"""Probes of a source that nobody named, until it answers one: it may be a forged one."""

MAX_LEARNED = 8
"""Candidates learned from where a peer's datagrams come from, beside those that the cloud named."""


class PathKind(IntEnum):
    """From best to worst."""

    LAN = 0
    DIRECT = 1
    RELAYED = 2


class Destination(NamedTuple):
    """Where a datagram for the peer goes, and what stands in front of it on that way."""

    endpoint: Endpoint
    prefix: bytes = b""
    """The relayed header, or nothing."""


@dataclass(slots=True)
class Candidate:
    """A destination and what its checks have shown."""

    destination: Destination
    kind: PathKind
    learned: bool = False
    checks_left: int = 0
    next_check: float = math.inf
    checked: int = 0
    """Probes since the last that was answered, or since a direction or a move gave reason for more."""
    verified: float | None = None
    rtt: float | None = None
    """Seconds, of the newest answered check."""


@dataclass(slots=True)
class _Check:
    destination: Destination
    sent: float


@dataclass(slots=True)
class Paths:
    """The candidates of one peer and the path in use.  Time is the caller's."""

    leads: bool
    """Of two equally good paths this end keeps its own and the peer follows."""
    current: Destination | None = None
    why: str = "no path yet"
    silent: bool = False
    """The path in use no longer answers: any other that does is better."""
    _candidates: dict[Destination, Candidate] = field(default_factory=dict)
    _checks: dict[int, _Check] = field(default_factory=dict)
    _next_number: int = 1
    _peer_sends_from: Destination | None = None
    _asked_from: Destination | None = None
    _heard_current: float = -math.inf
    _probing_since: float = math.inf
    _peer_left: bool = False
    """The peer sent from the path in use, and now sends from elsewhere."""

    def offer(self, destination: Destination, kind: PathKind, *, learned: bool = False) -> Candidate:
        """Know a destination from now on; a known one stays as it is."""
        candidate = self._candidates.get(destination)
        if candidate is None:
            if learned:
                self._forget_a_learned_one()
            candidate = Candidate(destination, kind, learned)
            self._candidates[destination] = candidate
        return candidate

    def knows_beside(self, source: Destination) -> bool:
        """Whether that is a candidate, but not in use: a probe along it does not mean that the peer has moved."""
        return source != self.current and source in self._candidates

    def withdraw(self, destination: Destination) -> None:
        """Forget a destination (a relay binding that ended)."""
        self._candidates.pop(destination, None)
        if self.current == destination:
            self.silent = True

    def named(self, destination: Destination | None) -> bool:
        """Whether the cloud has named this destination, or a relay has bound it: no copier can choose it."""
        candidate = self._candidates.get(destination) if destination is not None else None
        return candidate is not None and not candidate.learned

    def answered(self, destination: Destination) -> bool:
        """Whether a check, or a handshake, has ever shown that this destination answers."""
        candidate = self._candidates.get(destination)
        return candidate is not None and candidate.verified is not None

    def asked(self, source: Destination, *, again: bool) -> None:
        """A handshake's request came from ``source``; ``again``: the same bytes as before, so one is a copy."""
        if not again:
            self._asked_from = None
        if self._asked_from is None and self.named(source):
            self._asked_from = source

    def likely(self, source: Destination) -> Destination:
        """Where to send to a peer that has just confirmed a session from ``source``.

        There, unless nobody has named it and the request came from a named place as well: whoever copies
        datagrams can be the first to deliver them, but not from an address of the peer's.
        """
        return source if self.named(source) or self._asked_from is None else self._asked_from

    def retire(self, destination: Destination) -> None:
        """Forget what the cloud named once and names no longer, unless it has proved itself."""
        candidate = self._candidates.get(destination)
        if candidate is not None and destination != self.current and not candidate.learned:
            del self._candidates[destination]

    def rest(self) -> None:
        """There is no session to probe under: nothing is due until there is one again."""
        self._checks.clear()
        self._probing_since = math.inf
        for candidate in self._candidates.values():
            candidate.checks_left, candidate.next_check = 0, math.inf

    def kind(self, destination: Destination) -> PathKind:
        """Of a known destination; one that nobody offered is direct or relayed by its prefix."""
        candidate = self._candidates.get(destination)
        if candidate is not None:
            return candidate.kind
        return PathKind.RELAYED if destination.prefix else PathKind.DIRECT

    @property
    def current_kind(self) -> PathKind | None:
        """Kind of the path in use."""
        return None if self.current is None else self.kind(self.current)

    @property
    def current_rtt(self) -> float | None:
        """Round trip of the path in use in seconds, when a check has measured it."""
        candidate = self._candidates.get(self.current) if self.current else None
        return candidate.rtt if candidate else None

    def candidates(self) -> list[Candidate]:
        """All of them, best kind first."""
        return sorted(self._candidates.values(), key=lambda candidate: candidate.kind)

    def use(self, destination: Destination, why: str, now: float) -> None:
        """Send there from now on: the handshake, or a check, has shown that it answers."""
        self.offer(destination, self.kind(destination), learned=not destination.prefix).verified = now
        self.current = destination
        self.why = why
        self._peer_left = False
        self._current_answers(now)

    def check(self, candidate: Candidate, now: float, times: int = PATH_CHECK_COUNT) -> None:
        """Probe a candidate from now on, paced, at most ``times`` times.

        One that never answered gets ``PATH_CHECK_COUNT`` probes in all: its address may be some stranger's.
        """
        if candidate.verified is None:
            times = min(times, PATH_CHECK_COUNT - candidate.checked)
        candidate.checks_left = max(candidate.checks_left, times)
        if candidate.checks_left > 0:
            candidate.next_check = min(candidate.next_check, now)

    def renew_checks(self) -> None:
        """There is reason to probe again what did not answer."""
        for candidate in self._candidates.values():
            candidate.checked = 0

    def check_better(self, now: float) -> None:
        """Probe every candidate of a better kind than the path in use."""
        limit = PathKind.RELAYED + 1 if self.current is None or self.silent else self.kind(self.current)
        for candidate in self._candidates.values():
            if candidate.kind < limit:
                self.check(candidate, now)

    def moved(self, families: Collection[AddressFamily], now: float) -> None:
        """This node has other addresses: probe all that it can still reach, and doubt the path in use."""
        self.renew_checks()
        for candidate in self._candidates.values():
            candidate.verified = None
            candidate.checks_left, candidate.next_check = 0, math.inf
            if candidate.destination.endpoint.family in families:
                self.check(candidate, now)
        self._probing_since = math.inf
        if self.current is not None and self.current.endpoint.family in families:
            self.probe_current(now)
        elif self.current is not None:
            self.silent = True

    def checks_due(self, now: float) -> list[tuple[int, Destination]]:
        """The probes to send now, each under a number of its own."""
        due = []
        for candidate in self._candidates.values():
            if candidate.next_check <= now:
                candidate.checks_left -= 1
                candidate.checked += 1
                candidate.next_check = now + PATH_CHECK_INTERVAL if candidate.checks_left > 0 else math.inf
                due.append((self.number_check(candidate.destination, now), candidate.destination))
        return due

    def number_check(self, destination: Destination, now: float) -> int:
        """Note that a probe goes there; the number its acknowledgement will bear."""
        number = self._next_number
        self._next_number = number % 0xFFFFFFFF + 1
        self._checks[number] = _Check(destination, now)
        while len(self._checks) > 4 * PATH_CHECK_COUNT:
            del self._checks[next(iter(self._checks))]
        return number

    def acknowledged(self, number: int, via: Destination, now: float) -> tuple[Destination, float] | None:
        """Take an acknowledgement: the destination that answered and its round trip, or None when none was awaited.

        It counts only when it comes back by the way that the check went (RFC 8445 §7.2.5.2.1), or somebody who can
        forward a check could lend his address to a path that does not exist.  May change the path in use.
        """
        check = self._checks.get(number)
        if check is None or check.destination != via:
            return None
        del self._checks[number]
        rtt = now - check.sent
        candidate = self._candidates.get(check.destination)
        if candidate is not None:
            candidate.verified = now
            candidate.rtt = rtt
            candidate.checked = 0
            candidate.checks_left = 0
            candidate.next_check = math.inf
            self._consider(candidate, now)
        return check.destination, rtt

    def heard(self, source: Destination, now: float) -> None:
        """The peer's newest datagram (highest counter) came from ``source``, which may mean that it has moved."""
        moved = source != self._peer_sends_from
        self._peer_left = source != self.current and (self._peer_left or self._peer_sends_from == self.current)
        self._peer_sends_from = source
        if source == self.current:
            # Not an answer: it may have been on the way when the path died, or only one direction may work.
            self._heard_current = now
            if self.silent:
                self._check_source(source, now)
        elif moved or now - self._heard_current >= MOVE_PATIENCE:
            self._check_source(source, now)
            self.probe_current(now)

    def probe_current(self, now: float) -> None:
        """Ask whether the path in use still answers; ``overdue`` tells when it has not."""
        if self.current is not None and not self.silent and self._probing_since == math.inf:
            self._probing_since = now
            self.check(self.offer(self.current, self.kind(self.current)), now, PROBE_COUNT)

    def answered_since(self, moment: float) -> bool:
        """Whether there is a path in use, and it has answered a check or the handshake since then."""
        candidate = self._candidates.get(self.current) if self.current is not None and not self.silent else None
        return candidate is not None and candidate.verified is not None and candidate.verified >= moment

    @property
    def better(self) -> list[Candidate]:
        """Candidates of a better kind than the path in use."""
        kind = self.current_kind
        return [] if kind is None else [c for c in self._candidates.values() if c.kind < kind]

    @property
    def settled(self) -> bool:
        """Whether there is a path in use, and no better one is being tried any more."""
        return self.current is not None and all(candidate.next_check == math.inf for candidate in self.better)

    def overdue(self, now: float) -> bool:
        """Whether the path in use has just turned out silent: time to probe every other."""
        if now < self._verdict_at():
            return False
        self._probing_since = math.inf
        self.silent = True
        return True

    def next_deadline(self) -> float:
        """When the next probe, or the verdict on the path in use, is due; infinity when nothing is."""
        checks = min((candidate.next_check for candidate in self._candidates.values()), default=math.inf)
        return min(checks, self._verdict_at())

    def _verdict_at(self) -> float:
        return self._probing_since + PROBE_PATIENCE + 2 * (self.current_rtt or 0.0)

    def _current_answers(self, now: float) -> None:
        self._heard_current = now
        self._probing_since = math.inf
        self.silent = False

    def _consider(self, candidate: Candidate, now: float) -> None:
        if candidate.destination == self.current:
            self._current_answers(now)
        elif self.current is None:
            self.use(candidate.destination, "first to answer", now)
        elif self.silent:
            self.use(candidate.destination, "the path before fell silent", now)
        elif candidate.kind < self.kind(self.current):
            self.use(candidate.destination, "a better path answered", now)
        elif self._follows(candidate, now):
            # Another binding at a relay is no move: what made this pair relayed still holds.
            why = self.why if candidate.kind is PathKind.RELAYED else "the peer moved"
            self.use(candidate.destination, why, now)

    def _follows(self, candidate: Candidate, now: float) -> bool:
        assert self.current is not None
        if candidate.destination != self._peer_sends_from or candidate.kind > self.kind(self.current):
            return False
        return not self.leads or self._peer_left or candidate.learned or now - self._heard_current >= MOVE_PATIENCE

    def _check_source(self, source: Destination, now: float) -> None:
        if source.prefix and source not in self._candidates:
            return  # a way through a relay is known while it is bound, and never learned
        candidate = self.offer(source, self.kind(source), learned=True)
        if candidate.next_check == math.inf:
            self.check(candidate, now, LEARNED_COUNT)

    def _forget_a_learned_one(self) -> None:
        learned = [c for c in self._candidates.values() if c.learned and c.destination != self.current]
        if len(learned) >= MAX_LEARNED:
            oldest = min(learned, key=lambda candidate: candidate.verified or 0.0)
            del self._candidates[oldest.destination]
