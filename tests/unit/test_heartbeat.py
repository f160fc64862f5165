from __future__ import annotations

import errno
import logging
import os
import time

import pytest

from cyphonic.heartbeat import Heartbeat
from cyphonic.state.fleet import FleetMember, RelayMember, read_fleet
from cyphonic.state.store import Store
from tests.redis_server import RedisServer


def test_a_machine_that_refuses_for_a_while_does_not_end_the_heartbeat(
    redis_server: RedisServer, store: Store, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("cyphonic.heartbeat.HEARTBEAT", 0.02)
    caplog.set_level(logging.INFO)
    calls = []

    def member() -> FleetMember:
        calls.append(1)
        if 2 <= len(calls) <= 5:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        return RelayMember("i" * 16, b"k" * 32, [], 0.0)

    heartbeat = Heartbeat(redis_server.config, member)
    heartbeat.start()
    try:
        deadline = time.monotonic() + 20
        while len(calls) < 10:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        assert read_fleet(store).relays
    finally:
        heartbeat.stop()
    assert [record.message for record in caplog.records] == [
        "no heartbeat, going on unannounced",
        "announced again",
    ]
    assert "Too many open files" in str(caplog.records[0].__dict__["fields"])
