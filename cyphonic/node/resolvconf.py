"""``/etc/resolv.conf``: what it says, taking it over, and giving it back as it was.

Before anything is changed, the original is written to ``resolv.conf.backup`` in the state directory, together with
what we are about to write.  Giving back happens only while the file still holds our text: whoever has changed it
since (a DHCP client, a person) is right.  After a kill -9 the backup is still there, and the next start gives back
first.

The file is replaced by rename where that works.  It does not where the file is a mount point (containers,
``ip netns exec``): there it is overwritten in place, and a file that holds only the beginning of our text counts as
ours too, so that a crash between truncating and writing is repaired as well.
"""

from __future__ import annotations

import contextlib
import ipaddress
import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec

from cyphonic.errors import OperationalError
from cyphonic.wire.endpoint import Endpoint

RESOLV_CONF = Path("/etc/resolv.conf")
BACKUP_NAME = "resolv.conf.backup"
DNS_PORT = 53
_ENCODING = "latin-1"
"""Every byte is a character: what we do not understand comes back as it was."""
MAX_SEARCH = 6
"""Domains; older C libraries read no more."""


class Parsed(NamedTuple):
    """What a resolv.conf says."""

    servers: tuple[Endpoint, ...]
    search: tuple[str, ...]
    options: tuple[str, ...]
    """Whole lines that we do not judge: options, sortlist."""


class _Backup(msgspec.Struct, frozen=True):
    path: str
    content: str | None
    """None: there was no file."""
    link: str | None
    """Target, when it was a symbolic link."""
    mode: int
    written: str
    """What we put there."""


class ResolvConf:
    """One resolv.conf, and the backup that survives this process."""

    def __init__(self, state_dir: Path, path: Path = RESOLV_CONF) -> None:
        self.path = path
        self._backup_path = state_dir / BACKUP_NAME

    def read(self) -> Parsed:
        """What it says now; nothing, when it is not there."""
        return parse(_text(self.path) or "")

    def read_original(self) -> Parsed:
        """What it says, or said before it was taken over."""
        backup = self._load()
        if backup is not None and _text(self.path) == backup.written:
            return parse(backup.content or "")
        return self.read()

    @property
    def ours(self) -> bool:
        """Whether it is taken over and nobody has changed it since."""
        backup = self._load()
        return backup is not None and _text(self.path) == backup.written

    def take_over(self, server: Endpoint, zone: str) -> None:
        """Send every look-up to ``server``, search ``zone`` first.  Raise OperationalError and change nothing.

        What was taken over before must have been given back.
        """
        content = _text(self.path)
        link = os.readlink(self.path) if self.path.is_symlink() else None
        mode = self.path.stat().st_mode & 0o777 if content is not None else 0o644
        written = render(parse(content or ""), server, zone, self._backup_path)
        backup = _Backup(str(self.path), content, link, mode, written)
        try:
            self._backup_path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            _replace(self._backup_path, msgspec.json.format(msgspec.json.encode(backup)).decode(_ENCODING), 0o600)
        except OSError as error:
            raise OperationalError(f"{self._backup_path} cannot be written: {error.strerror}") from None
        try:
            _put(self.path, written, mode)
        except OSError as error:
            self._backup_path.unlink(missing_ok=True)
            raise OperationalError(f"{self.path} cannot be written: {error.strerror}") from None

    def give_back(self) -> bool:
        """Put the original back if the file is still ours; whether it was.  Raise OperationalError."""
        backup = self._load()
        if backup is None:
            return False
        path = Path(backup.path)
        found = _text(path)
        still_ours = found is not None and backup.written.startswith(found)
        try:
            if still_ours:
                _restore(path, backup)
            self._backup_path.unlink(missing_ok=True)
        except OSError as error:
            raise OperationalError(
                f"{path} cannot be put back as it was: {error.strerror}", f"the original is in {self._backup_path}"
            ) from None
        return still_ours

    def _load(self) -> _Backup | None:
        try:
            return msgspec.json.decode(self._backup_path.read_bytes(), type=_Backup)
        except FileNotFoundError:
            return None
        except (msgspec.MsgspecError, UnicodeDecodeError, OSError) as error:
            raise OperationalError(
                f"{self._backup_path} cannot be read: {error}", f"look at {self.path}, then remove the backup"
            ) from None


def parse(text: str) -> Parsed:
    """The lines that matter.  What cannot be understood is left out, as C libraries do."""
    servers: list[Endpoint] = []
    search: tuple[str, ...] = ()
    options: list[str] = []
    for line in text.splitlines():
        words = line.split("#")[0].split(";")[0].split()
        if len(words) < 2:
            continue
        if words[0] == "nameserver" and _is_address(words[1]):
            servers.append(Endpoint(words[1], DNS_PORT))
        elif words[0] in ("search", "domain"):
            search = tuple(words[1:])
        elif words[0] in ("options", "sortlist"):
            options.append(" ".join(words))
    return Parsed(tuple(servers), search, tuple(options))


def render(original: Parsed, server: Endpoint, zone: str, backup: Path) -> str:
    """The text that takes over."""
    search: Sequence[str] = [zone, *(domain for domain in original.search if domain != zone)][:MAX_SEARCH]
    lines = [
        "# Made by cyphonic for as long as it is up: names of the overlay, and everything else as before.",
        f"# The original is in {backup}; 'cyphonic down' puts it back.",
        f"nameserver {server.host}",
        f"search {' '.join(search)}",
        *original.options,
    ]
    return "\n".join(lines) + "\n"


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def _text(path: Path) -> str | None:
    try:
        return path.read_text(encoding=_ENCODING)
    except OSError:
        return None


def _put(path: Path, text: str, mode: int) -> None:
    """By rename if that is possible; else in place, which also goes through a symbolic link."""
    try:
        _replace(path, text, mode)
    except OSError:
        with path.open("w", encoding=_ENCODING) as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())


def _restore(path: Path, backup: _Backup) -> None:
    if path.is_symlink():  # we had written through it
        if backup.content is not None:
            _put(path.resolve(), backup.content, backup.mode)
    elif backup.link is not None:
        _relink(path, backup.link)
    elif backup.content is not None:
        _put(path, backup.content, backup.mode)
    else:
        path.unlink()


def _relink(path: Path, target: str) -> None:
    temporary = path.with_name(f".{path.name}.cyphonic")
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(target)
    temporary.replace(path)


def _replace(path: Path, text: str, mode: int) -> None:
    """Whole or not at all.  Raise OSError and leave nothing behind."""
    temporary = path.with_name(f".{path.name}.cyphonic")
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, mode)
        with os.fdopen(descriptor, "w", encoding=_ENCODING) as stream:
            os.fchmod(stream.fileno(), mode)
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(path)
    except OSError:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise
