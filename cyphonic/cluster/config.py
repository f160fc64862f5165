"""``[cluster]`` in cloud.toml: which tiers ``cyphonic cluster`` starts here."""

from __future__ import annotations

import msgspec


class ClusterSection(msgspec.Struct, frozen=True):
    """What each tier does stands in the tier's own section."""

    frontends: int = 1
    """Processes; more than one share the ports."""
    relay: bool = True

    def __post_init__(self) -> None:
        if not 1 <= self.frontends <= 64:
            raise ValueError("frontends: between 1 and 64")
