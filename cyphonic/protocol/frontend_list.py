"""The frontends of one service, as the cloud names them, and in which order a leg tries them.

Every client begins at a random place of the list, so that a fleet of nodes spreads over a fleet of frontends, and
alternates between the address families, so that a broken one costs no more than every second sending.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import zip_longest
from socket import AF_INET, AF_INET6, AddressFamily

from cyphonic.protocol.chance import Chance, integer
from cyphonic.wire.endpoint import Endpoint

_ROUNDS_LIMIT = 16


class FrontendList:
    """Endpoints of one service; ``in`` tells whether a source is or lately was one of them."""

    def __init__(self, endpoints: Iterable[Endpoint], chance: Chance) -> None:
        self._chance = chance
        self._current: tuple[Endpoint, ...] = ()
        self._accepted: frozenset[Endpoint] = frozenset()
        self._families: frozenset[AddressFamily] = frozenset()
        self._by_family: dict[AddressFamily, tuple[Endpoint, ...]] = {AF_INET: (), AF_INET6: ()}
        self._rounds: dict[Endpoint | None, Sequence[Endpoint]] = {}
        self.replace(endpoints)

    def __contains__(self, source: Endpoint) -> bool:
        return source in self._accepted

    @property
    def endpoints(self) -> Sequence[Endpoint]:
        """The latest list."""
        return self._current

    def replace(self, endpoints: Iterable[Endpoint]) -> bool:
        """Use these from now on, and still hear the last ones; an empty list changes nothing.  True when news."""
        latest = tuple(dict.fromkeys(endpoints))
        if not latest or set(latest) == set(self._current):
            return False
        self._accepted = frozenset(latest) | frozenset(self._current)
        self._current = latest
        for family in (AF_INET, AF_INET6):
            members = [endpoint for endpoint in latest if endpoint.family == family]
            start = integer(self._chance, 32) % len(members) if members else 0
            self._by_family[family] = (*members[start:], *members[:start])
        self._rounds.clear()
        return True

    def limit(self, families: Iterable[AddressFamily]) -> None:
        """Use these address families only: those of the underlay."""
        self._families = frozenset(families)
        self._rounds.clear()

    def lists(self, endpoint: Endpoint) -> bool:
        """Whether the latest list names it."""
        return endpoint in self._current

    def of_family(self, family: AddressFamily, first: Endpoint | None = None) -> Sequence[Endpoint]:
        """A round through one family, from ``first`` on where it is listed; empty when it has none."""
        members = self._by_family[family] if family in self._families else ()
        return _from(members, first)

    def round(self, first: Endpoint | None = None) -> Sequence[Endpoint]:
        """A round through the families of the underlay in turn, from ``first`` on where it is listed."""
        known = self._rounds.get(first)
        if known is None:
            if len(self._rounds) > _ROUNDS_LIMIT:
                self._rounds.clear()
            known = self._rounds[first] = self._compute_round(first)
        return known

    def _compute_round(self, first: Endpoint | None) -> Sequence[Endpoint]:
        leading = AF_INET6 if first is None or first.family == AF_INET6 else AF_INET
        trailing = AF_INET if leading == AF_INET6 else AF_INET6
        pairs = zip_longest(self.of_family(leading, first), self.of_family(trailing, first))
        return tuple(endpoint for pair in pairs for endpoint in pair if endpoint is not None)

    def after(self, endpoint: Endpoint | None, family: AddressFamily) -> Endpoint | None:
        """The next one of that family, round the list."""
        members = self.of_family(family, endpoint)
        if not members:
            return None
        return members[1 % len(members)] if members[0] == endpoint else members[0]


def _from(members: tuple[Endpoint, ...], first: Endpoint | None) -> tuple[Endpoint, ...]:
    if first is None or first not in members:
        return members
    start = members.index(first)
    return members[start:] + members[:start]
