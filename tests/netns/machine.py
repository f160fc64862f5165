"""A host of a lab with an /etc and mounts of its own, as a machine has them, for as long as its ``with`` lasts."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.netns.site import Site

PATIENCE = 30.0
"""Seconds for anything that is waited for."""
POLL = 0.05

_PRIVATE = """
set -e
mount --make-rprivate /
mkdir -p "$0/etc" "$0/state"
cp -a /etc/passwd /etc/group /etc/nsswitch.conf /etc/hosts /etc/ld.so.cache /etc/alternatives "$0/etc"
cat /etc/resolv.conf > "$0/etc/resolv.conf"
mount --bind "$0/etc" /etc
# Where process 1 hides, only a mount point tells that a file is not the whole machine's.
touch /etc/vpn-resolv.conf
mount --bind /etc/vpn-resolv.conf /etc/vpn-resolv.conf
echo ready
exec cat
"""


class Machine:
    """``/etc`` is the directory ``etc``, where files can be replaced by rename; mounts end with the machine."""

    def __init__(self, site: Site, host: str) -> None:
        self.site = site
        self.host = host
        self.directory = site.deployment.directory(host)
        self.etc = self.directory / "etc"
        self.state = self.directory / "state"
        self.resolv_conf = self.etc / "resolv.conf"

    def __enter__(self) -> Self:
        self._holder = self.site.lab.popen(
            self.host,
            ["unshare", "--mount", "sh", "-c", _PRIVATE, str(self.directory)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert self._holder.stdout is not None
        assert self._holder.stdout.readline() == b"ready\n"
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.cyphonic("down")
        self._holder.communicate()

    def argv(self, *command: str) -> list[str]:
        return ["nsenter", f"--target={self._holder.pid}", "--net", "--mount", *command]

    def run(self, *command: str, **variables: str) -> subprocess.CompletedProcess[str]:
        environment = self.site.lab.environment(self.host) | variables
        return subprocess.run(
            self.argv(*command), env=environment, capture_output=True, text=True, timeout=100, check=False
        )

    def shell(self, script: str) -> str:
        return self.run("sh", "-c", script).stdout

    def cyphonic(self, *words: str, **variables: str) -> subprocess.CompletedProcess[str]:
        return self.run(*self.site.deployment.argv(*words), **variables)

    def daemon(self, *words: str) -> subprocess.Popen[bytes]:
        """``up --foreground``, its log in a pipe."""
        return subprocess.Popen(
            self.argv(*self.site.deployment.argv("up", "--foreground", *words)),
            env=self.site.lab.environment(self.host),
            stdin=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )

    def up(self, *words: str, **variables: str) -> subprocess.CompletedProcess[str]:
        """Join, with a bundle the first time; what it printed."""
        if not words and self.run("test", "-e", f"{self.state}/node.json").returncode:
            words = ("--enrol", str(self.site.bundle(self.host)))
        result = self.cyphonic("up", *words, **variables)
        assert result.returncode == 0, result.stderr + self.site.deployment.logs(self.host)
        return result

    def enrolment(self, name: str) -> tuple[str, ...]:
        """Options of ``up`` for a machine that has never joined."""
        bundle = self.directory / f"{name}.bundle"
        words = ("admin", "key", "create", "--name", name, "--output", str(bundle))
        self.site.deployment.command(self.site.deployment.cloud.name, *words)
        return "--enrol", str(bundle)

    def status(self) -> dict[str, Any]:
        return self.site.deployment.status(self.host)

    @property
    def pid(self) -> int:
        return int(self.status()["pid"])

    def kill(self, number: signal.Signals = signal.SIGKILL) -> None:
        """End the daemon, and wait until the kernel has taken its device away."""
        os.kill(self.pid, number)
        until(lambda: "cyphonic0" not in self.shell("ip link"))

    def reaches(self, peer: str) -> bool:
        """A ping through the tunnel is answered; the name is looked up by cyphonic itself."""
        return self.cyphonic("ping", peer, "-c", "1").returncode == 0

    def assert_clean(self, resolv_conf: str) -> None:
        assert self.resolv_conf.read_text() == resolv_conf
        assert [entry.name for entry in self.etc.iterdir() if "cyphonic" in entry.name] == []
        assert "cyphonic0" not in self.shell("ip link; ip route; ip -6 route")
        assert not list((self.directory / "run").glob("*.sock"))

    @contextlib.contextmanager
    def mounted_state(self, options: str) -> Iterator[None]:
        """A tmpfs of its own for the state directory."""
        self.shell(f"mkdir -p {self.state} && mount -t tmpfs -o {options} none {self.state}")
        try:
            yield
        finally:
            self.cyphonic("down")
            self.shell(f"umount -l {self.state}")


def until(condition: Callable[[], Any], patience: float = PATIENCE) -> Any:
    """Poll; what the condition said when it was true at last."""
    deadline = time.monotonic() + patience
    while not (result := condition()):
        assert time.monotonic() < deadline, "it never came true"
        time.sleep(POLL)
    return result


def resident(pid: int) -> int:
    """Bytes of memory of a process."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def said(process: subprocess.CompletedProcess[str]) -> str:
    """Everything that a command printed."""
    return json.dumps([process.stdout, process.stderr])
