"""Packet captures of a whole lab: what each host and router saw last, for after something went wrong."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

from cyphonic.lab.namespace import Namespace
from cyphonic.lab.tools import search_path

SNAP_LENGTH = 192
"""Bytes of each packet: all headers, and more of the payload than is not sealed."""
FILE_SIZE = 2
"""Megabytes; of each namespace the last two files are kept."""
ENDING = 2.0
"""Seconds for tcpdump to write what it has."""


class Capture:
    """tcpdump in every namespace, from ``start`` to ``stop``; without tcpdump there is nothing."""

    def __init__(self, namespaces: Mapping[str, str], directory: Path) -> None:
        """``namespaces``: by host or router; files go to ``directory``, which is made."""
        self.directory = directory
        self._namespaces = namespaces
        self._processes: list[subprocess.Popen[bytes]] = []

    def start(self) -> None:
        """On every interface; returns before each has begun."""
        if shutil.which("tcpdump", path=search_path()) is None:
            return
        self.directory.mkdir(parents=True, exist_ok=True)
        for name, namespace in self._namespaces.items():
            file = self.directory / f"{name}.pcap"
            options = ["-U", "-n", "--immediate-mode", "-Z", "root", "-s", str(SNAP_LENGTH)]
            command = ["tcpdump", *options, "-i", "any", "-C", str(FILE_SIZE), "-W", "2", "-w", str(file)]
            process = Namespace(namespace).popen(
                command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
            )
            self._processes.append(process)

    def stop(self) -> None:
        """End; the files are whole."""
        for process in self._processes:
            process.terminate()
        for process in self._processes:
            try:
                process.wait(ENDING)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self._processes.clear()

    def keep(self, directory: Path) -> None:
        """Copy the files there, in the place of what was kept before."""
        shutil.rmtree(directory, ignore_errors=True)
        if self.directory.is_dir():
            shutil.copytree(self.directory, directory)
