"""What the machine of a peer needs to know of the node that it runs in."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, TypeVar

from cyphonic.protocol.chance import Chance
from cyphonic.protocol.index import IndexTable
from cyphonic.protocol.keys import KeyPair
from cyphonic.wire.tunnel import Suite

Owner = TypeVar("Owner")


@dataclass(slots=True, frozen=True)
class Self(Generic[Owner]):
    """One for all peers of a node.  ``Owner``: what an index leads to, a peer."""

    static: KeyPair
    chance: Chance
    suites: tuple[Suite, ...]
    indices: IndexTable[Owner]
