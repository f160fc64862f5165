"""Feeds mutated inputs to every decoder and machine, and keeps what made something new happen.

An input is *interesting* when its outcome (the kind of value, or the reason for the drop) was not seen of that
target before.  Interesting inputs are mutated in their turn; with ``keep`` they are added to the corpus, one a
line, in hex, a file for each target.  The same seed feeds the same inputs.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from cyphonic.errors import DropError
from cyphonic.state.store import Store
from tests.fuzz.decoders import ALLOWED, Reader, readers
from tests.fuzz.machines import Site
from tests.fuzz.mutation import Mutator

CORPUS = Path(__file__).parent / "corpus"
VECTORS = Path(__file__).parents[1] / "vectors"
BATCH = 200
"""Inputs to one target before the next has its turn."""
MACHINE_BATCH = 800
REDIS_BATCH = 40
"""Each of these costs a round trip or two."""
POOL = 300
"""Inputs of one target that are mutated; the oldest ones found give way."""
LONGEST_KEPT = 400
"""Bytes; a longer input is mutated, but not kept in the corpus."""


class CrashError(AssertionError):
    """An input did what none may do."""


@dataclass
class Target:
    """Where inputs go.  ``feed`` returns the outcome; what it raises is a crash."""

    name: str
    feed: Callable[[bytes], str]
    pool: list[bytes]
    batch: int
    seen: set[str] = field(default_factory=set)
    found: list[bytes] = field(default_factory=list)
    inputs: int = 0
    seconds: float = 0.0


class Fuzzer:
    """All targets in turn."""

    def __init__(self, store: Store, seed: int) -> None:
        self._mutator = Mutator(seed)
        vectors = [_from_hex(file.read_text()) for file in sorted(VECTORS.glob("*.hex"))]
        self.targets = [
            Target(name, _outcome(name, read), [*corpus(name), *vectors], BATCH) for name, read in readers().items()
        ]
        site = Site(store, seed)
        seeds = site.seeds()
        self.targets += [
            Target(name, feed, [*corpus(name), *seeds[name]], REDIS_BATCH if "worker" in name else MACHINE_BATCH)
            for name, feed in site.feeds().items()
        ]

    @property
    def inputs(self) -> int:
        """So far."""
        return sum(target.inputs for target in self.targets)

    def replay(self) -> None:
        """The corpus as it is; what is in there has been trouble once, or may be."""
        for target in self.targets:
            for data in list(target.pool):
                self._feed(target, data)

    def rounds(self) -> Iterator[None]:
        """One batch for each target, again and again; stop when you like.  Raise CrashError."""
        while True:
            for target in self.targets:
                start = time.perf_counter()
                for _ in range(target.batch):
                    rng = self._mutator.random
                    self._feed(target, self._mutator.mutate(rng.choice(target.pool), target.pool))
                target.seconds += time.perf_counter() - start
            yield

    def keep(self) -> int:
        """Add what was found to the corpus; how many inputs."""
        kept = 0
        for target in self.targets:
            fresh = [data for data in target.found if len(data) <= LONGEST_KEPT]
            if fresh:
                lines = sorted({*(data.hex() for data in corpus(target.name)), *(data.hex() for data in fresh)})
                (CORPUS / f"{target.name}.hex").write_text("\n".join(lines) + "\n")
                kept += len(fresh)
        return kept

    def _feed(self, target: Target, data: bytes) -> None:
        target.inputs += 1
        try:
            outcome = target.feed(data)
        except Exception as error:
            raise CrashError(f"{target.name}: {type(error).__name__}: {error}\ninput: {data.hex()}") from error
        if outcome not in target.seen:
            target.seen.add(outcome)
            target.found.append(data)
            target.pool.append(data)
            del target.pool[:-POOL]


def corpus(name: str) -> list[bytes]:
    """The inputs that are kept for a target."""
    file = CORPUS / f"{name}.hex"
    return [bytes.fromhex(line) for line in file.read_text().split()] if file.exists() else []


def _from_hex(text: str) -> bytes:
    return bytes.fromhex("".join(line for line in text.splitlines() if not line.startswith("#")))


def _outcome(name: str, read: Reader) -> Callable[[bytes], str]:
    allowed = ALLOWED.get(name, (DropError,))

    def outcome(data: bytes) -> str:
        try:
            return type(read(data)).__name__
        except allowed as error:
            return error.reason if isinstance(error, DropError) else type(error).__name__

    return outcome
