"""What every simulation stands on."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from cyphonic.state.store import Store
from tests.redis_server import RedisServer


@pytest.fixture(scope="module")
def simulation_store(_redis_process: RedisServer) -> Iterator[Store]:
    with Store(_redis_process.config) as connected:
        yield connected
