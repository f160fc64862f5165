"""The fuzzer, briefly: what is in the corpus, and some thousands of inputs, the same every time.

All of it: ``make fuzz``.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from cyphonic.state.store import Store
from tests.fuzz.fuzzer import CORPUS, CrashError, Fuzzer, Target
from tests.redis_server import RedisServer

INPUTS = 40_000
SEED = 20260


@pytest.fixture(scope="module")
def fuzz_store(_redis_process: RedisServer) -> Iterator[Store]:
    with Store(_redis_process.config) as connected:
        yield connected


def test_no_input_does_more_than_be_dropped(fuzz_store: Store) -> None:
    fuzzer = Fuzzer(fuzz_store, SEED)
    fuzzer.replay()
    for _ in fuzzer.rounds():
        if fuzzer.inputs >= INPUTS:
            break
    assert sum(len(target.seen) for target in fuzzer.targets) > 200, "it should get further than the front door"


def test_every_file_of_the_corpus_is_some_targets(fuzz_store: Store) -> None:
    names = {target.name for target in Fuzzer(fuzz_store, SEED).targets}
    assert {file.stem for file in CORPUS.glob("*.hex")} <= names


def test_a_crash_says_which_input_it_was(fuzz_store: Store) -> None:
    fuzzer = Fuzzer(fuzz_store, SEED)

    def fall(data: bytes) -> str:
        raise KeyError(data)

    fuzzer.targets = [Target("fragile", fall, [b"\1\2"], 1)]
    with pytest.raises(CrashError, match=r"fragile: KeyError(.|\n)*input: [0-9a-f]*"):
        next(fuzzer.rounds())
