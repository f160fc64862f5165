"""Inputs made from inputs: damaged, cut, joined, with other lengths and numbers; MessagePack as a tree too."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any

import msgpack  # type: ignore[import-untyped]

LONGEST = 2048
"""Bytes of an input; no datagram of ours is as long."""
NUMBERS = (0, 1, 2, 0x7F, 0x80, 0xFF, 0x100, 0x7FFF, 0x8000, 0xFFFF, 2**31 - 1, 2**31, 2**32 - 1, 2**63, 2**64 - 1)
VALUES: tuple[Any, ...] = (None, True, -1, 2**64 - 1, 1.5, b"", b"\xff" * 33, "", "é" * 70, [], [[]], {}, {1: 2})


class Mutator:
    """Seeded: the same seed makes the same inputs."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)

    def mutate(self, data: bytes, others: Sequence[bytes]) -> bytes:
        """One to four changes; ``others``: what parts may be taken from."""
        rng = self.random
        for _ in range(rng.choice((1, 1, 1, 2, 2, 4))):
            data = rng.choice(_CHANGES)(rng, data, rng.choice(others))
        return data[:LONGEST]


def _flip(rng: random.Random, data: bytes, _: bytes) -> bytes:
    if not data:
        return b"\0"
    changed = bytearray(data)
    changed[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def _set(rng: random.Random, data: bytes, _: bytes) -> bytes:
    if not data:
        return data
    changed = bytearray(data)
    changed[rng.randrange(len(data))] = rng.choice((0, 1, 0x7F, 0x80, 0xC0, 0xFF, rng.randrange(256)))
    return bytes(changed)


def _truncate(rng: random.Random, data: bytes, _: bytes) -> bytes:
    return data[: rng.randrange(len(data) + 1)]


def _extend(rng: random.Random, data: bytes, _: bytes) -> bytes:
    return data + rng.randbytes(rng.choice((1, 2, 16, 32, 300)))


def _insert(rng: random.Random, data: bytes, _: bytes) -> bytes:
    place = rng.randrange(len(data) + 1)
    return data[:place] + rng.randbytes(rng.randrange(1, 9)) + data[place:]


def _remove(rng: random.Random, data: bytes, _: bytes) -> bytes:
    start = rng.randrange(len(data) + 1)
    return data[:start] + data[start + rng.randrange(1, 17) :]


def _repeat(rng: random.Random, data: bytes, _: bytes) -> bytes:
    start = rng.randrange(len(data) + 1)
    part = data[start : start + rng.randrange(1, 33)]
    return data[:start] + part * rng.randrange(2, 9) + data[start:]


def _splice(rng: random.Random, data: bytes, other: bytes) -> bytes:
    return data[: rng.randrange(len(data) + 1)] + other[rng.randrange(len(other) + 1) :]


def _number(rng: random.Random, data: bytes, _: bytes) -> bytes:
    """A length, count or index in the middle of something."""
    size = rng.choice((1, 2, 4, 8))
    if len(data) < size:
        return data
    place = rng.randrange(len(data) - size + 1)
    value = rng.choice(NUMBERS) % (1 << 8 * size)
    if rng.random() < 0.5:
        value = (int.from_bytes(data[place : place + size], "big") + rng.choice((-1, 1))) % (1 << 8 * size)
    return data[:place] + value.to_bytes(size, "big") + data[place + size :]


def _tree(rng: random.Random, data: bytes, other: bytes) -> bytes:
    """One node of a MessagePack tree is another; what is no MessagePack is flipped instead."""
    try:
        tree = msgpack.unpackb(data, strict_map_key=False)
        return bytes(msgpack.packb(_graft(rng, tree, other)))
    except (ValueError, TypeError, OverflowError, RecursionError, msgpack.UnpackException):
        return _flip(rng, data, other)


def _graft(rng: random.Random, tree: Any, other: bytes) -> Any:
    if isinstance(tree, list) and tree and rng.random() < 0.9:
        place = rng.randrange(len(tree))
        changed = list(tree)
        match rng.randrange(6):
            case 0:
                del changed[place]
            case 1:
                changed.insert(place, rng.choice(VALUES))
            case 2:
                changed += [changed[place]] * rng.randrange(1, 20)
            case _:
                changed[place] = _graft(rng, tree[place], other)
        return changed
    if isinstance(tree, bytes) and rng.random() < 0.7:
        return rng.choice(_OF_BYTES)(rng, tree, other)
    if isinstance(tree, int) and not isinstance(tree, bool) and rng.random() < 0.7:
        return rng.choice(NUMBERS)
    return rng.choice(VALUES)


_Change = Callable[[random.Random, bytes, bytes], bytes]
_OF_BYTES: tuple[_Change, ...] = (_flip, _truncate, _extend, _splice, _number)
_CHANGES: tuple[_Change, ...] = (
    _flip,
    _set,
    _truncate,
    _extend,
    _insert,
    _remove,
    _repeat,
    _splice,
    _number,
    _number,
    _tree,
    _tree,
    _tree,
)
