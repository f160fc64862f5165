"""``cyphonic relay`` as an operator runs it."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from cyphonic.site import create_keys
from cyphonic.state.fleet import RelayMember, read_fleet
from cyphonic.state.store import Store
from cyphonic.wire.endpoint import Endpoint
from tests.redis_server import RedisServer

PATIENCE = 20.0


def until(done: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not done():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.02)


@pytest.fixture
def config(tmp_path: Path, redis_server: RedisServer) -> Path:
    create_keys(tmp_path / "keys", os.urandom)
    file = tmp_path / "cloud.toml"
    file.write_text(
        '[site]\nprefix_ipv6 = "fd00:1:2::/48"\nkeys_dir = "keys"\nrun_dir = "run"\nallow_loopback = true\n'
        f'[redis]\nurl = "{redis_server.config.url}"\n'
    )
    return file


def argv(config: Path, listen: str) -> list[str]:
    return [sys.executable, "-m", "cyphonic", "relay", "--config", str(config), "--listen", listen]


def free_port() -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def relays(store: Store) -> list[RelayMember]:
    return read_fleet(store).relays


def run(config: Path, listen: str) -> tuple[int, str]:
    """A relay that is expected to end by itself: exit code and what it says."""
    finished = subprocess.run(argv(config, listen), capture_output=True, text=True, timeout=PATIENCE)
    return finished.returncode, finished.stderr


def test_it_is_announced_while_it_runs_and_withdrawn_when_it_stops(config: Path, store: Store) -> None:
    endpoint = Endpoint("127.0.0.1", free_port())
    with subprocess.Popen(argv(config, str(endpoint)), stderr=subprocess.PIPE) as process:
        try:
            until(lambda: relays(store))
            assert relays(store)[0].endpoints == [endpoint]
            code, message = run(config, str(endpoint))
            assert code == 1
            assert f"{endpoint} is taken" in message
            process.send_signal(signal.SIGTERM)
            assert process.wait(PATIENCE) == 0
        finally:
            process.kill()
    assert relays(store) == []


def test_two_relays_are_two_members(config: Path, store: Store) -> None:
    processes = [subprocess.Popen(argv(config, f"127.0.0.1:{free_port()}"), stderr=subprocess.PIPE) for _ in "ab"]
    try:
        until(lambda: len(relays(store)) == 2)
        assert len({relay.instance for relay in relays(store)}) == 2
    finally:
        for process in processes:
            process.terminate()
            process.communicate(timeout=PATIENCE)


def test_without_redis_it_says_so_and_ends_with_4(config: Path) -> None:
    config.write_text(config.read_text().replace("redis.sock", "nobody.sock"))
    code, message = run(config, f"127.0.0.1:{free_port()}")
    assert code == 4
    assert "Redis at unix://" in message


def test_a_missing_key_file_is_named(config: Path) -> None:
    (config.parent / "keys" / "relay.key").unlink()
    code, message = run(config, f"127.0.0.1:{free_port()}")
    assert code == 2
    assert "relay.key" in message


def test_a_bad_endpoint_is_named(config: Path) -> None:
    code, message = run(config, "localhost")
    assert code == 2
    assert "--listen" in message
