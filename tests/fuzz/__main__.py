"""``make fuzz``: a million inputs and more, with progress and rates.  ``--keep`` adds what is new to the corpus."""

from __future__ import annotations

import argparse
import logging
import time

from cyphonic.state.store import Store
from tests.fuzz.fuzzer import Fuzzer
from tests.redis_server import run_redis

MILLION = 1_000_000
PROGRESS = 5.0
"""Seconds."""


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--inputs", type=int, default=MILLION, help="how many at least (default: a million)")
    parser.add_argument("--seed", type=int, default=int(time.time()), help="to feed the same again (default: time)")
    parser.add_argument("--keep", action="store_true", help="add inputs with new outcomes to tests/fuzz/corpus")
    options = parser.parse_args()
    logging.disable(logging.WARNING)
    servers = run_redis()
    with Store(next(servers).config) as store:
        run(Fuzzer(store, options.seed), options.inputs, options.seed, keep=options.keep)
    servers.close()  # type: ignore[attr-defined]


def run(fuzzer: Fuzzer, inputs: int, seed: int, *, keep: bool) -> None:
    """Feed, and say how it goes."""
    print(f"{len(fuzzer.targets)} targets, seed {seed}", flush=True)
    fuzzer.replay()
    start = told = time.monotonic()
    for _ in fuzzer.rounds():
        now = time.monotonic()
        done = fuzzer.inputs >= inputs
        if done or now - told >= PROGRESS:
            told = now
            outcomes = sum(len(target.seen) for target in fuzzer.targets)
            rate = fuzzer.inputs / (now - start)
            print(f"{fuzzer.inputs:>9,} inputs  {rate:>7,.0f}/s  {outcomes} outcomes", flush=True)
        if done:
            break
    print(f"\n{'target':<32}{'inputs':>10}{'per second':>12}{'outcomes':>10}")
    for target in fuzzer.targets:
        rate = target.inputs / target.seconds if target.seconds else 0
        print(f"{target.name:<32}{target.inputs:>10,}{rate:>12,.0f}{len(target.seen):>10}")
    if keep:
        print(f"\n{fuzzer.keep()} inputs added to the corpus")
    print(f"\n{fuzzer.inputs:,} inputs, no crash")


if __name__ == "__main__":
    main()
