"""Where a process of the pipeline listens: a socket file of this host, or a TCP port that other hosts reach.

The setting is empty for the first; for the second it is ``tcp://ADDRESS:PORT``, where ADDRESS may be a network
(``tcp://10.1.0.0/24:7800-7899``): then it is this host's own address in it, so that one file suits every host.
PORT is one, a range of which each process takes a free one, or ``*`` for any.
"""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import os
import re
import socket
import stat
import time
from collections.abc import Iterator
from pathlib import Path

import zmq

from cyphonic.errors import ConfigurationError
from cyphonic.interfaces import local_addresses

TCP = "tcp://"
IPC = "ipc://"
MAX_IPC_PATH = 107
STALE_AFTER = 10.0
"""Seconds: a younger socket file may belong to a process that has not called listen yet."""
_SETTING = re.compile(r"tcp://(?:\[([0-9a-fA-F:.]+(?:/\d+)?)\]|([0-9.]+(?:/\d+)?)):(\*|\d+(?:-\d+)?)")


def check_setting(setting: str) -> None:
    """Raise ValueError, saying what is wrong with it."""
    if not setting:
        return
    match = _SETTING.fullmatch(setting)
    if match is None:
        raise ValueError(f"pipeline: {setting!r} is not tcp://ADDRESS:PORT (or NETWORK, or FIRST-LAST)")
    try:
        network = ipaddress.ip_interface(match[1] or match[2]).network
    except ValueError as error:
        raise ValueError(f"pipeline: {error}") from None
    if network.network_address.is_unspecified:
        raise ValueError("pipeline: others must be able to connect to it, so name an address or a network")
    ports = range(1, 2) if match[3] == "*" else _ports(match[3])
    if not ports or not 1 <= ports[0] <= ports[-1] <= 65535:
        raise ValueError(f"pipeline: {match[3]} are no ports")


def resolve(setting: str, directory: Path, name: str) -> str:
    """What to bind: an ipc endpoint ``name`` in ``directory``, or tcp on an address of this host, ports as given.

    Raise ConfigurationError: the directory cannot be used, or this host has no address in that network.
    """
    if not setting:
        return ipc_endpoint(directory, name)
    match = _SETTING.fullmatch(setting)
    assert match is not None, "checked when it was read"
    host = match[1] or match[2]
    if "/" in host:
        network = ipaddress.ip_interface(host).network
        own = [one for one in local_addresses(loopback=True) if ipaddress.ip_address(one) in network]
        if not own:
            raise ConfigurationError(
                f"pipeline = {setting}: this host has no address in {network}", "see: ip -brief address"
            )
        host = own[0]
    return f"{TCP}[{host}]:{match[3]}" if ":" in host else f"{TCP}{host}:{match[3]}"


def ipc_endpoint(directory: Path, name: str) -> str:
    """The ZeroMQ endpoint ``name`` in ``directory``, which is made, mode 0700, and cleared of dead sockets.

    Raise ConfigurationError when the path is too long for a socket or the directory cannot be used.
    """
    path = directory / name
    if len(os.fsencode(path)) > MAX_IPC_PATH:
        raise ConfigurationError(
            f"{path}: too long for a socket (at most {MAX_IPC_PATH} bytes)", "choose a shorter [site] run_dir"
        )
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        if stat.S_IMODE(directory.stat().st_mode) & 0o077:
            directory.chmod(0o700)  # who can write here can speak for a worker
        _remove_dead_sockets(directory)
    except OSError as error:
        raise ConfigurationError(
            f"{directory}: {error.strerror}", "run as root, or choose a [site] run_dir that this user may write"
        ) from None
    return f"{IPC}{path}"


def bind(pull: zmq.Socket[bytes], endpoint: str) -> str:
    """Bind to the first free port of those that ``endpoint`` names; where it is now.  Raise ConfigurationError."""
    failure: zmq.ZMQError | None = None
    for candidate in _candidates(endpoint):
        try:
            pull.bind(candidate)
        except zmq.ZMQError as error:
            failure = error
            if error.errno != errno.EADDRINUSE:
                break
        else:
            return pull.getsockopt_string(zmq.LAST_ENDPOINT)
    assert failure is not None
    hint = "give [frontend] and [worker] more ports" if failure.errno == errno.EADDRINUSE else ""
    raise ConfigurationError(f"{endpoint}: cannot bind: {failure.strerror}", hint) from None


def unbind(pull: zmq.Socket[bytes], endpoint: str) -> None:
    """Close the socket; its file goes with it."""
    pull.close()
    if endpoint.startswith(IPC):
        Path(endpoint.removeprefix(IPC)).unlink(missing_ok=True)  # ZeroMQ leaves it


def _candidates(endpoint: str) -> Iterator[str]:
    start, _, ports = endpoint.rpartition(":")
    if not endpoint.startswith(TCP) or "-" not in ports:
        yield endpoint
        return
    for port in _ports(ports):
        yield f"{start}:{port}"


def _ports(text: str) -> range:
    first, _, last = text.partition("-")
    return range(int(first), int(last or first) + 1)


def _remove_dead_sockets(directory: Path) -> None:
    for path in directory.iterdir():
        with contextlib.suppress(FileNotFoundError):
            status = path.stat()
            if stat.S_ISSOCK(status.st_mode) and time.time() - status.st_mtime > STALE_AFTER:
                with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
                    probe.setblocking(False)
                    if probe.connect_ex(str(path)) not in (0, 11, 115):  # EAGAIN, EINPROGRESS: somebody listens
                        path.unlink()
