"""A site and its nodes in a lab, as a person at each keyboard sees them."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cyphonic.lab.build import Lab
from cyphonic.lab.deployment import Deployment
from cyphonic.lab.namespace import ETC_FILES


class Site:
    """A cloud and its nodes; every command as typed on its host."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.deployment = Deployment(lab)
        self.deployment.start_cloud()

    def cyphonic(self, host: str, *words: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
        return self.lab.run(
            host,
            self.deployment.argv(*words),
            env=self.lab.environment(host),
            stdin=stdin,
            check=False,
            timeout=60,
        )

    def shell(self, host: str, command: str) -> str:
        return self.lab.run(host, ["sh", "-c", command], check=False).stdout

    def bundle(self, host: str) -> Path:
        return self.deployment.create_bundle(host)

    def kill(self, host: str) -> None:
        """kill -9, and wait until the kernel has taken the device away."""
        os.kill(self.deployment.status(host)["pid"], signal.SIGKILL)
        deadline = time.monotonic() + 10
        while "cyphonic0" in self.shell(host, "ip link"):
            assert time.monotonic() < deadline

    @contextmanager
    def stranger(self, host: str) -> Iterator[None]:
        """The host without its identity, as if it had never joined; it gets it back afterwards."""
        file = self.deployment.directory(host) / "state" / "node.json"
        aside = file.with_name("aside")
        if file.exists():
            file.rename(aside)
        try:
            yield
        finally:
            file.unlink(missing_ok=True)
            if aside.exists():
                aside.rename(file)

    def resolv_conf(self, host: str) -> str:
        return self.shell(host, "cat /etc/resolv.conf")

    def assert_clean(self, host: str) -> None:
        assert self.resolv_conf(host) == ETC_FILES["resolv.conf"]
        assert "cyphonic0" not in self.shell(host, "ip link")
        assert "dev cyphonic0" not in self.shell(host, "ip route; ip -6 route")
        assert not list((self.deployment.directory(host) / "run").glob("*.sock"))

    def popen(self, host: str, *command: str) -> subprocess.Popen[bytes]:
        """A program on a host, its output in a pipe."""
        return self.lab.popen(host, command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, bufsize=0)
