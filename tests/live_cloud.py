"""A cloud of real processes on the loopback interface: each started, killed and read by itself.

Nothing supervises them, so what a test kills stays dead until it starts another.
"""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

from cyphonic.protocol.client import Cloud
from cyphonic.site import Site, SiteKeys, create_keys, load_site
from cyphonic.wire.endpoint import Endpoint

PATIENCE = 20.0
"""Seconds; real processes on a machine that others use as well."""


def until(done: Callable[[], object], what: str) -> None:
    """Poll, with a deadline."""
    deadline = time.monotonic() + PATIENCE
    while not done():
        assert time.monotonic() < deadline, f"did not happen: {what}"
        time.sleep(0.01)


def free_ports(count: int) -> list[int]:
    """UDP ports that nobody has right now."""
    probes = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(count)]
    for probe in probes:
        probe.bind(("127.0.0.1", 0))
    ports: list[int] = [probe.getsockname()[1] for probe in probes]
    for probe in probes:
        probe.close()
    return ports


class Ended(NamedTuple):
    """A command that has run to its end."""

    code: int
    stdout: str
    stderr: str


class TierProcess:
    """One process and its log."""

    def __init__(self, name: str, argv: Sequence[str], environ: Mapping[str, str], log: Path) -> None:
        self.name = name
        self._file = log
        with log.open("wb") as stream:
            self._process = subprocess.Popen(argv, env=environ, stdout=stream, stderr=subprocess.STDOUT)
        self.pid = self._process.pid

    @property
    def log(self) -> str:
        return self._file.read_text()

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def stop(self) -> int:
        """By SIGTERM: it finishes what it has in hand; its exit code."""
        self._process.send_signal(signal.SIGTERM)
        return self._process.wait(PATIENCE)

    def kill(self) -> None:
        """By kill -9: it says nothing any more, to anybody."""
        self._process.send_signal(signal.SIGKILL)
        self._process.wait(PATIENCE)


class LiveCloud:
    """A site, and the processes of it that a test started."""

    def __init__(self, directory: Path, redis_url: str) -> None:
        self.directory = directory
        self.config = directory / "cloud.toml"
        self.processes: list[TierProcess] = []
        as_port, nms_port, relay_port = free_ports(3)
        create_keys(directory / "keys", os.urandom)
        self.config.write_text(
            '[site]\nregion = "home"\nprefix_ipv6 = "fd12:3456:789a::/48"\n'
            'keys_dir = "keys"\nrun_dir = "run"\nstate_dir = "state"\nallow_loopback = true\n'
            f'[redis]\nurl = "{redis_url}"\n'
            f'[frontend]\nas_listen = ["127.0.0.1:{as_port}"]\nnms_listen = ["127.0.0.1:{nms_port}"]\n'
            "[worker]\nprocesses = 1\nthreads = 1\n"
            f'[relay]\nlisten = ["127.0.0.1:{relay_port}"]\n'
        )
        self.as_endpoint = Endpoint("127.0.0.1", as_port)
        self.keys = SiteKeys(directory / "keys")

    @property
    def site(self) -> Site:
        return load_site(self.config, {})

    def for_nodes(self) -> Cloud:
        """What a node knows of it before its first login."""
        return Cloud(self.keys.as_public(), self.keys.as_verify_key(), (self.as_endpoint,), "home")

    def argv(self, *arguments: str) -> list[str]:
        """A command of this site."""
        return [sys.executable, "-m", "cyphonic", *arguments, "--config", str(self.config)]

    def run(self, *arguments: str, meanwhile: Callable[[], None] | None = None, **environ: str) -> Ended:
        """Run a command to its end; ``meanwhile`` is called again and again until then."""
        process = subprocess.Popen(
            self.argv(*arguments),
            env={**os.environ, **environ},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            deadline = time.monotonic() + PATIENCE
            while meanwhile is not None and process.poll() is None and time.monotonic() < deadline:
                meanwhile()
            stdout, stderr = process.communicate(timeout=PATIENCE)
        finally:
            process.kill()
        return Ended(process.returncode, stdout, stderr)

    def start(self, tier: str, *options: str) -> TierProcess:
        """A process more."""
        name = f"{tier}-{len(self.processes)}"
        log = self.directory / f"{name}.log"
        process = TierProcess(name, self.argv(tier, "--log-level", "debug", *options), os.environ, log)
        self.processes.append(process)
        return process

    def start_frontend(self) -> TierProcess:
        """One that listens already."""
        process = self.start("frontend")
        until(lambda: "frontend listens" in process.log, "a frontend that listens")
        return process

    def start_workers(self, *services: str) -> list[TierProcess]:
        """One for each of ``services`` ("as", "nms", "as,nms"); the frontend started last already knows them."""
        (frontend,) = [process for process in self.processes if process.name.startswith("frontend")][-1:]

        def known(service: str) -> int:
            found = re.findall('event="worker appeared" worker=[0-9a-f]+ services=(.*)', frontend.log)
            return found.count(service)

        wanted = {service: known(service) + services.count(service) for service in services}
        started = [self.start("worker", "--service", service) for service in services]
        until(lambda: all(known(service) >= count for service, count in wanted.items()), "workers in the pipeline")
        return started

    def close(self) -> None:
        """Kill everything, latest first; show the logs to whoever looks at a failure."""
        for process in reversed(self.processes):
            process.kill()
        for process in self.processes:
            print(f"--- {process.name}\n{process.log}", end="")


@contextmanager
def live_cloud(redis_url: str) -> Iterator[LiveCloud]:
    """For a fixture: no process yet; none left afterwards."""
    # Not tmp_path: a socket's path has at most 107 bytes.
    with TemporaryDirectory(prefix="cyphonic-live-") as directory:
        cloud = LiveCloud(Path(directory), redis_url)
        try:
            yield cloud
        finally:
            cloud.close()
