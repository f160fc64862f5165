"""One network namespace with its own ``/etc`` files: what a host of the laboratory is.

``ip netns exec`` shows a process the files in ``/etc/netns/NAME`` in place of those in ``/etc``.  So every host
has a resolv.conf of its own, and name lookups in it never reach the machine's resolver.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cyphonic.lab.tools import LabError, run_tool

NETNS_DIRECTORY = Path("/run/netns")
ETC_DIRECTORY = Path("/etc/netns")
CLONE_NEWNET = 0x40000000
KILL_PATIENCE = 5.0
"""Seconds that processes in a namespace have between SIGTERM and SIGKILL: a node takes its device away first."""

ATTEMPTS = 5

ETC_FILES = {
    "resolv.conf": "# This host has no resolver of its own.\noptions timeout:1 attempts:2\n",
    "hosts": "127.0.0.1 localhost\n::1 localhost\n",
    # Neither mDNS nor the machine's systemd-resolved, which would answer from outside of the namespace.
    "nsswitch.conf": "passwd: files\ngroup: files\nhosts: files dns\nservices: files\nprotocols: files\n",
}


@dataclass(frozen=True, slots=True)
class Namespace:
    """A namespace by name, whether it exists or not."""

    name: str

    @property
    def etc(self) -> Path:
        """The files that stand in for those in ``/etc``."""
        return ETC_DIRECTORY / self.name

    def write_etc(self) -> None:
        """Give the host its own resolv.conf, hosts and nsswitch.conf."""
        for name, text in ETC_FILES.items():
            make_file(self.etc / name, text.encode())

    def argv(self, command: Sequence[str]) -> list[str]:
        """``command`` as it is started from outside; the process that results is the command's own."""
        return ["ip", "netns", "exec", self.name, *command]

    def popen(self, command: Sequence[str], **options: Any) -> subprocess.Popen[bytes]:
        """Start a command, in a session of its own: Ctrl-C in the terminal is not its business."""
        return subprocess.Popen(self.argv(command), start_new_session=True, **options)

    def run(
        self,
        command: Sequence[str],
        *,
        timeout: float = 30.0,
        check: bool = True,
        env: dict[str, str] | None = None,
        stdin: str = "",
    ) -> subprocess.CompletedProcess[str]:
        """Run a command to its end; raise LabError with its output when it fails (``check``) or takes too long."""
        return run_tool(self.argv(command), timeout=timeout, check=check, env=env, stdin=stdin)

    def open_socket(self, family: socket.AddressFamily, kind: socket.SocketKind) -> socket.socket:
        """A socket that lives in this namespace, for the calling process."""
        # A thread may change its namespace alone; a socket stays in the one that it was made in.
        with ThreadPoolExecutor(1) as thread:
            return thread.submit(self._enter_and_open, family, kind).result()

    def _enter_and_open(self, family: socket.AddressFamily, kind: socket.SocketKind) -> socket.socket:
        with (NETNS_DIRECTORY / self.name).open() as handle:
            if ctypes.CDLL(None, use_errno=True).setns(handle.fileno(), CLONE_NEWNET):
                raise LabError(f"cannot enter namespace {self.name}: {os.strerror(ctypes.get_errno())}")
        return socket.socket(family, kind)

    def pids(self) -> list[int]:
        """Processes in this namespace; none when it does not exist."""
        result = run_tool(["ip", "netns", "pids", self.name], check=False)
        return [int(line) for line in result.stdout.split()]


def delete_namespaces(namespaces: Sequence[Namespace], patience: float = KILL_PATIENCE) -> None:
    """End every process in them, then remove them with their files; missing ones are no error.

    Processes get SIGTERM and up to ``patience`` seconds, together, then SIGKILL.
    """
    existing = [namespace for namespace in namespaces if (NETNS_DIRECTORY / namespace.name).exists()]
    _end_processes(existing, patience)
    for namespace in existing:
        run_tool(["ip", "netns", "delete", namespace.name], check=False)
    for namespace in namespaces:
        shutil.rmtree(namespace.etc, ignore_errors=True)
    with suppress(OSError):  # it has other entries, or another process was faster
        ETC_DIRECTORY.rmdir()


def make_file(path: Path, content: bytes) -> None:
    """Write a file atomically, with its directory, even while other labs remove that directory as empty."""
    draft = path.with_name(f".{path.name}.new")
    for attempt in range(ATTEMPTS):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            draft.write_bytes(content)
            draft.rename(path)
        except FileNotFoundError:
            if attempt == ATTEMPTS - 1:
                raise
        else:
            return


def _end_processes(namespaces: Sequence[Namespace], patience: float) -> None:
    deadline = time.monotonic() + patience
    number = int(signal.SIGTERM)
    while pids := [pid for namespace in namespaces for pid in namespace.pids() if pid != os.getpid()]:
        for pid in pids:
            _signal(pid, number)
        number = signal.SIGKILL if time.monotonic() > deadline else 0
        time.sleep(0.02)


def _signal(pid: int, number: int) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return
