"""What every test directory shares."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from cyphonic.state.store import Store
from tests.redis_server import RedisServer, run_redis


def _missing_for_root_tests() -> str:
    if os.geteuid() != 0:
        return "needs root"
    if not Path("/dev/net/tun").exists():
        return "needs /dev/net/tun"
    return ""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """At home a test without root is skipped; where CI promises root, it runs and fails."""
    reason = _missing_for_root_tests()
    if not reason or (os.environ.get("CI") and os.geteuid() == 0):
        return
    for item in items:
        if item.get_closest_marker("root"):
            item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(scope="session")
def _redis_process() -> Iterator[RedisServer]:
    yield from run_redis()


@pytest.fixture
def redis_server(_redis_process: RedisServer) -> RedisServer:
    """A real Redis, empty; one process for the whole session."""
    with Store(_redis_process.config) as store:
        store.run(("FLUSHALL",))
        store.run(("SCRIPT", "FLUSH"))
    return _redis_process


@pytest.fixture
def store(redis_server: RedisServer) -> Iterator[Store]:
    """A connection to it."""
    with Store(redis_server.config) as connected:
        yield connected
