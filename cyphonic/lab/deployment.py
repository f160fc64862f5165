"""A site and its nodes in a laboratory, by the same commands that a person would type on each host.

The cloud host runs ``admin init`` and ``cluster``; every node gets an enrolment bundle from ``admin key create``
and runs ``up --enrol``.  Each host has directories of its own below the lab's, and ``CYPHONIC_CONFIG`` leads its
commands there.
"""

from __future__ import annotations

import json
import os
import select
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from cyphonic.lab.build import Lab
from cyphonic.lab.tools import LabError
from cyphonic.lab.topology import Role

REGION = "lab"
CLOUD_TIMEOUT = 30.0
UP_TIMEOUT = 30.0
COMMAND_TIMEOUT = 30.0
CONTROL_TIMEOUT = 20.0
POLL = 0.05
"""Seconds."""
LOG_LINES = 40
"""Of each log, in an error's text."""
CONTROL_SOCKET = "node.sock"


class RefusedError(LabError):
    """A daemon answered with an error."""


class Deployment:
    """cyphonic on the hosts of a lab whose role is cloud or node."""

    def __init__(self, lab: Lab) -> None:
        """Build nothing yet; raise LabError when the topology has not exactly one cloud host."""
        clouds = lab.topology.of_role(Role.CLOUD)
        if len(clouds) != 1:
            raise LabError(f"{lab.topology.name} has {len(clouds)} hosts with the role cloud; one is needed")
        self.lab = lab
        self.cloud = clouds[0]
        self.nodes = [host.name for host in lab.topology.of_role(Role.NODE)]
        self._cluster: subprocess.Popen[bytes] | None = None

    def directory(self, host: str) -> Path:
        """Where a host keeps its configuration, state, sockets and logs."""
        return self.lab.directory / host

    def start_cloud(self) -> None:
        """Make a site, run it, and return when it is ready; raise LabError with its log otherwise."""
        self._prepare()
        endpoints = [str(address.ip) for address in self.cloud.attachment.addresses]
        options = [word for endpoint in endpoints for word in ("--endpoint", endpoint)]
        config = self.lab.environment(self.cloud.name)["CYPHONIC_CONFIG"]
        self.command(self.cloud.name, "admin", "init", "--config", config, "--region", REGION, *options)
        self.start_cluster()

    def start_cluster(self) -> None:
        """Run ``cyphonic cluster`` on the cloud host (again, after ``stop_cluster``)."""
        cloud = self.cloud.name
        with self._notifications(cloud) as (address, notifications), self._log(cloud, "cluster") as log:
            self._cluster = self.lab.popen(
                cloud,
                self.argv("cluster"),
                env=self.lab.environment(cloud) | {"NOTIFY_SOCKET": address},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
            self._wait_ready(self._cluster, notifications)

    def stop_cluster(self, timeout: float = 10.0) -> int:
        """SIGTERM, and wait for its end; return the exit code."""
        assert self._cluster is not None
        self._cluster.terminate()
        return self._cluster.wait(timeout)

    def create_bundle(self, node: str) -> Path:
        """Make an enrolment bundle for a node and return its file."""
        bundle = self.directory(node) / "bundle.toml"
        bundle.unlink(missing_ok=True)
        self.command(self.cloud.name, "admin", "key", "create", "--name", node, "--output", str(bundle))
        return bundle

    def join(self, *nodes: str) -> None:
        """Make a bundle for each node and join with it, all at once; raise LabError with logs."""
        joining = {node: self._start_up(node, self.create_bundle(node)) for node in nodes}
        for node, process in joining.items():
            self._finish_up(node, process)

    def up(self, node: str, bundle: Path | None = None) -> None:
        """Join, the first time with a bundle.

        Return when the node is joined; raise LabError with its log otherwise.
        """
        self._finish_up(node, self._start_up(node, bundle))

    def down(self, node: str) -> None:
        """Leave."""
        self.command(node, "down")

    def status(self, node: str) -> dict[str, Any]:
        """The document of ``cyphonic status --json``, asked for without the command line's start-up time."""
        answer: dict[str, Any] = self.ask(node, "status")
        return answer

    def ask(self, node: str, request: str, **arguments: Any) -> Any:
        """One request to a node's control socket; raise RefusedError with what it answered."""
        line = json.dumps({"request": request, "arguments": arguments}).encode() + b"\n"
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
                connection.settimeout(CONTROL_TIMEOUT)
                connection.connect(str(self.directory(node) / "run" / CONTROL_SOCKET))
                connection.sendall(line)
                answer = json.loads(connection.makefile("rb").readline())
        except (OSError, ValueError) as error:
            raise LabError(f"{node}: the daemon does not answer: {error}{self.logs(node)}") from error
        if "error" in answer:
            raise RefusedError(f"{node}: {request}: {answer['error']['message']}")
        return answer.get("result")

    def command(self, host: str, *words: str, timeout: float = COMMAND_TIMEOUT) -> str:
        """Run ``cyphonic …`` on a host and return what it printed; raise LabError, with logs, when it fails."""
        try:
            result = self.lab.run(host, self.argv(*words), env=self.lab.environment(host), timeout=timeout)
        except LabError as error:
            raise LabError(f"{host}: {error.message}{self.logs(host)}") from error
        return result.stdout

    def argv(self, *words: str) -> list[str]:
        """``cyphonic …`` with this interpreter."""
        return [sys.executable, "-m", "cyphonic", *words]

    def logs(self, host: str) -> str:
        """The last lines of every log of a host, or nothing."""
        files = sorted(self.directory(host).rglob("*.log"))
        tails = [(file, file.read_text(errors="replace").splitlines()[-LOG_LINES:]) for file in files]
        return "".join(f"\n--- {file.name} on {host}\n" + "\n".join(lines) for file, lines in tails if lines)

    # Inside.

    def _start_up(self, node: str, bundle: Path | None) -> subprocess.Popen[bytes]:
        enrol = ["--enrol", str(bundle)] if bundle is not None else []
        with self._log(node, "up") as log:
            return self.lab.popen(
                node,
                self.argv("up", *enrol),
                env=self.lab.environment(node),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    def _finish_up(self, node: str, process: subprocess.Popen[bytes]) -> None:
        try:
            code = process.wait(UP_TIMEOUT)
        except subprocess.TimeoutExpired as error:
            process.kill()
            raise LabError(f"{node} has not joined after {UP_TIMEOUT:g} s{self.logs(node)}") from error
        if code:
            raise LabError(f"{node}: cyphonic up ended with {code}{self.logs(node)}")

    def _prepare(self) -> None:
        """Directories, configuration files and variables of every host."""
        environments = {self.cloud.name: {"CYPHONIC_CONFIG": str(self.directory(self.cloud.name) / "cloud.toml")}}
        self.directory(self.cloud.name).mkdir(mode=0o700)
        for node in self.nodes:
            directory = self.directory(node)
            directory.mkdir(mode=0o700)
            config = directory / "node.toml"
            config.write_text('[node]\nstate_dir = "state"\nrun_dir = "run"\n')
            environments[node] = {"CYPHONIC_CONFIG": str(config)}
        self.lab.set_environments(environments)

    def _log(self, host: str, name: str) -> IO[bytes]:
        return (self.directory(host) / f"{name}.log").open("ab")

    @contextmanager
    def _notifications(self, host: str) -> Iterator[tuple[str, socket.socket]]:
        """A socket that takes sd_notify(3) messages, and its address."""
        address = str(self.directory(host) / "notify.sock")
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
            receiver.bind(address)
            try:
                yield address, receiver
            finally:
                os.unlink(address)

    def _wait_ready(self, process: subprocess.Popen[bytes], notifications: socket.socket) -> None:
        deadline = time.monotonic() + CLOUD_TIMEOUT
        while time.monotonic() < deadline:
            if select.select([notifications], [], [], POLL)[0] and b"READY=1" in notifications.recv(4096):
                return
            if process.poll() is not None:
                raise LabError(f"the cloud ended with {process.returncode}{self.logs(self.cloud.name)}")
        raise LabError(f"the cloud is not ready after {CLOUD_TIMEOUT:g} s{self.logs(self.cloud.name)}")
