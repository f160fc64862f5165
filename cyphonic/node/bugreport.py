"""``cyphonic bugreport``: one text with all that somebody else needs to see what is wrong here, and no secret.

The identity file is never copied; should its secret stand anywhere else (it does not), it is struck out.
"""

from __future__ import annotations

import base64
import os
import platform
import re
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from importlib import metadata
from pathlib import Path
from typing import Any

import msgspec

from cyphonic import __version__
from cyphonic.errors import OperationalError
from cyphonic.node.config import NodeConfig
from cyphonic.node.control import ControlClient
from cyphonic.node.masking import Masker
from cyphonic.node.netcheck.command import netcheck
from cyphonic.node.statefile import NodeState, StateFile

LOG_LINES = 400
COMMAND_PATIENCE = 5.0
PACKAGES = ("click", "cryptography", "dnspython", "miniupnpc", "msgspec", "pynacl", "pyroute2", "rich")
COMMANDS = (
    ("ip", "-details", "link"),
    ("ip", "address"),
    ("ip", "rule"),
    ("ip", "route"),
    ("ip", "-6", "route"),
    ("resolvectl", "status"),
    ("journalctl", "--unit=cyphonic-node", f"--lines={LOG_LINES}", "--no-pager", "--output=cat"),
)
FILES = (Path("/etc/os-release"), Path("/etc/resolv.conf"), Path("/etc/nsswitch.conf"))
_STRUCK = "[struck out]"
_SECRET_LINE = re.compile(r"(?im)^(\s*\"?[\w-]*(?:secret|password|enrolment_key|private)[\w-]*\"?\s*[=:]\s*).+$")


def bugreport(config: NodeConfig, config_file: Path | None, *, mask: bool, tell: Callable[[str], None]) -> str:
    """The text.  What cannot be found out is said in its place; raises nothing."""
    state = None
    with suppress(OperationalError):
        state = StateFile(config.state_dir).load()
    status = _status(config)
    sections = list(_sections(config, config_file, status, tell))
    text = "\n".join(f"==== {title}\n{content.rstrip()}\n" for title, content in sections)
    text = strike_out(text, state)
    if mask:
        zone = state.cloud.zone if state is not None else ""
        text = Masker(_names(status, state), zone).mask(text)
    return text


def strike_out(text: str, state: NodeState | None) -> str:
    """The text without the node's secret, however it is spelled, and without what is called a secret."""
    if state is not None:
        spellings = state.secret.hex(), base64.b64encode(state.secret).decode(), repr(state.secret)
        for spelling in (*spellings, base64.urlsafe_b64encode(state.secret).decode()):
            text = text.replace(spelling, _STRUCK).replace(spelling.upper(), _STRUCK)
    return _SECRET_LINE.sub(rf"\g<1>{_STRUCK}", text)


def _sections(
    config: NodeConfig, config_file: Path | None, status: Mapping[str, Any] | str, tell: Callable[[str], None]
) -> Iterator[tuple[str, str]]:
    yield "cyphonic bug report", time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime())
    yield "versions", "\n".join(_versions())
    fields = msgspec.structs.asdict(config)
    yield "configuration", "\n".join(f"{key} = {value}" for key, value in fields.items())
    if config_file is not None:
        yield str(config_file), _file(config_file)
    yield "status", status if isinstance(status, str) else _json(status)
    yield "netcheck", _netcheck(config, tell)
    tell("looking at routes and logs")
    for command in COMMANDS:
        if shutil.which(command[0]):
            yield " ".join(command), _run(command)
    for file in FILES:
        yield str(file), _file(file)
    yield f"the last lines of {config.log_file}", _file(config.log_file, LOG_LINES)


def _versions() -> Iterator[str]:
    yield f"cyphonic {__version__}"
    yield f"Python {platform.python_version()} on {platform.platform()}"
    for package in PACKAGES:
        with suppress(metadata.PackageNotFoundError):
            yield f"{package} {metadata.version(package)}"
    yield f"uid {os.geteuid()}; TUN {'there' if Path('/dev/net/tun').exists() else 'missing'}"


def _status(config: NodeConfig) -> Mapping[str, Any] | str:
    try:
        status: Mapping[str, Any] = ControlClient(config.run_dir).call("status")
    except OperationalError as error:
        return error.message
    return status


def _netcheck(config: NodeConfig, tell: Callable[[str], None]) -> str:
    try:
        return _json(netcheck(config, tell))
    except (OperationalError, OSError) as error:
        return str(error)


def _json(document: object) -> str:
    return msgspec.json.format(msgspec.json.encode(document), indent=2).decode()


def _run(command: tuple[str, ...]) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=COMMAND_PATIENCE, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    return done.stdout + done.stderr


def _file(file: Path, last: int | None = None) -> str:
    try:
        lines = file.read_text(errors="replace").splitlines()
    except OSError as error:
        return f"cannot be read: {error.strerror}"
    return "\n".join(lines if last is None else lines[-last:])


def _names(status: Mapping[str, Any] | str, state: NodeState | None) -> Iterator[str]:
    yield socket.gethostname()
    if state is not None:
        yield from filter(None, (state.name, state.fqdn, state.cloud.region, state.cloud.domain))
    if not isinstance(status, str):
        yield from (peer["name"] for peer in status.get("peers", ()))
