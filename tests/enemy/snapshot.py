"""Everything that a machine holds, as plain values: two snapshots are equal when nothing has changed.

The object graph is walked from its root.  What has no values of its own to look at (a cipher, a function) is stood
for by its identity; counters of drops are left out, since counting is what a drop is for.
"""

from __future__ import annotations

import random
from array import array
from collections import deque
from collections.abc import Callable, Collection, Iterator
from enum import Enum
from typing import Any

from cyphonic.state.store import Store

PLAIN = (bool, int, float, str, bytes, type(None), Enum)
UNCOUNTED = frozenset({"drops", "_drops", "_of_slot", "network", "clock"})
"""Counters, what is only computed once a time slot, and what belongs to the test's world."""


def freeze(root: object, ignored: Collection[str] = ()) -> dict[str, Any]:
    """Path of attributes → plain value.  ``ignored``: names of attributes to leave out as well."""
    return dict(_walk("", root, UNCOUNTED | set(ignored), {}))


def difference(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    """What has changed, for people."""
    return [
        f"{path}: {before.get(path, 'absent')!r:.200} -> {after.get(path, 'absent')!r:.200}"
        for path in sorted(before.keys() | after.keys())
        if before.get(path, "absent") != after.get(path, "absent")
    ]


def dump(store: Store) -> dict[str, Any]:
    """Every key in Redis and its value.  (DUMP would tell apart what is equal: a hash moves its fields about.)"""
    found: list[bytes] = sorted(store.run(("KEYS", "*")))
    if not found:
        return {}
    kinds: list[Any] = [kind.decode() for kind in store.round_trip([("TYPE", key) for key in found])]
    values: list[Any] = store.round_trip([_READERS[kind](key) for key, kind in zip(found, kinds, strict=True)])
    return {
        key.decode("latin-1"): sorted(value) if kind == "set" else _pairs(value) if kind == "hash" else value
        for key, kind, value in zip(found, kinds, values, strict=True)
        if value is not None
    }


def without_expired(before: dict[str, Any], after: dict[str, Any]) -> dict[str, Any]:
    """``before`` without the transactions that have come to their end since: time in Redis is real."""
    return {key: value for key, value in before.items() if key in after or not key.startswith(_TRANSACTIONS)}


_TRANSACTIONS = ("as:login:", "nms:transaction:", "nms:direction:")
_READERS: dict[str, Callable[[bytes], tuple[str | bytes | int, ...]]] = {
    "none": lambda key: ("GET", key),  # expired since it was listed
    "string": lambda key: ("GET", key),
    "hash": lambda key: ("HGETALL", key),
    "set": lambda key: ("SMEMBERS", key),
    "zset": lambda key: ("ZRANGE", key, 0, -1, "WITHSCORES"),
}


def _pairs(values: Any) -> dict[bytes, bytes]:
    return values if isinstance(values, dict) else dict(zip(values[::2], values[1::2], strict=True))


def _walk(path: str, value: Any, ignored: frozenset[str], seen: dict[int, str]) -> Iterator[tuple[str, Any]]:
    if isinstance(value, random.Random):
        yield path, hash(value.getstate())
        return
    if isinstance(value, bytearray | array):
        yield path, bytes(value)
        return
    if isinstance(value, PLAIN):
        yield path, value
        return
    if id(value) in seen:
        yield path, f"as {seen[id(value)]}"
        return
    seen[id(value)] = path
    if isinstance(value, dict):
        yield path, len(value)
        for number, (key, each) in enumerate(value.items()):
            yield from _walk(f"{path}[{number}]", key, ignored, seen)
            yield from _walk(f"{path}[{key!r}]", each, ignored, seen)
    elif isinstance(value, set | frozenset):
        yield path, sorted(map(repr, value))
    elif isinstance(value, list | tuple | deque):
        yield path, len(value)
        for number, each in enumerate(value):
            yield from _walk(f"{path}[{number}]", each, ignored, seen)
    elif attributes := list(_attributes(value)):
        for name, each in attributes:
            if name not in ignored:
                yield from _walk(f"{path}.{name}", each, ignored, seen)
    else:
        yield path, id(value)


def _attributes(value: object) -> Iterator[tuple[str, Any]]:
    if callable(value) and not hasattr(value, "random"):
        return
    yield from getattr(value, "__dict__", {}).items()
    for kind in type(value).__mro__:
        slots = kind.__dict__.get("__slots__", ())
        for name in (slots,) if isinstance(slots, str) else slots:
            if name not in ("__weakref__", "__dict__") and hasattr(value, name):
                yield name, getattr(value, name)
    for name in getattr(value, "__struct_fields__", ()):
        yield name, getattr(value, name)
