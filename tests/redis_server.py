"""A real Redis for tests: on a unix socket in a directory of its own, with an AOF, gone with its test."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from cyphonic.errors import CloudUnreachableError
from cyphonic.state.store import Store, StoreConfig

START_DEADLINE = 10.0


class RedisServer:
    """One redis-server process and its directory."""

    def __init__(self, binary: str, directory: Path) -> None:
        self._binary = binary
        self._directory = directory
        self.socket = directory / "redis.sock"
        self.config = StoreConfig(f"unix://{self.socket}")
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it and wait until it answers."""
        options = {"port": "0", "unixsocket": str(self.socket), "dir": str(self._directory), "save": ""}
        options |= {"appendonly": "yes", "appendfsync": "everysec"}
        self._process = subprocess.Popen(
            [self._binary, *(part for key, value in options.items() for part in (f"--{key}", value))],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        deadline = time.monotonic() + START_DEADLINE
        while True:
            try:
                Store.connect(self.config).close()
            except CloudUnreachableError:
                if time.monotonic() > deadline or self._process.poll() is not None:
                    raise
                time.sleep(0.01)  # polls a real process, with a deadline
            else:
                return

    def stop(self) -> None:
        """End it and wait."""
        if self._process is not None:
            self._process.terminate()
            self._process.wait(10)
            self._process = None

    def restart(self) -> None:
        """Another process with the same data: it has forgotten connections and scripts."""
        self.stop()
        self.start()


def services_required() -> bool:
    """Whether a missing service fails a test instead of skipping it."""
    return os.environ.get("CI") == "true" or os.environ.get("CYPHONIC_REQUIRE_SERVICES") == "1"


def run_redis() -> Iterator[RedisServer]:
    """For a fixture."""
    binary = shutil.which("redis-server") or shutil.which("valkey-server")
    if binary is None:
        missing = "neither redis-server nor valkey-server is on PATH"
        if services_required():
            pytest.fail(missing)
        pytest.skip(missing)
    # Not tmp_path: a socket's path has at most 107 bytes.
    with tempfile.TemporaryDirectory(prefix="cyphonic-redis-") as directory:
        server = RedisServer(binary, Path(directory))
        server.start()
        try:
            yield server
        finally:
            server.stop()
