"""Chance as an argument: ``os.urandom`` in production, a seeded generator in the simulator."""

from __future__ import annotations

from collections.abc import Callable

Chance = Callable[[int], bytes]
"""``chance(n)`` returns ``n`` random bytes; cryptographically strong in production."""


def fraction(chance: Chance) -> float:
    """A uniform float in [0, 1)."""
    # 53 bits: what a float holds, else the greatest would round up to 1.
    return (int.from_bytes(chance(7), "big") >> 3) / 2**53


def integer(chance: Chance, bits: int) -> int:
    """A uniform integer of ``bits`` bits, never zero."""
    while True:
        value = int.from_bytes(chance((bits + 7) // 8), "big") & ((1 << bits) - 1)
        if value:
            return value
