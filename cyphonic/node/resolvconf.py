"""``/etc/resolv.conf``: what it says, taking it over, and giving it back as it was.

Before anything is changed, the original is written to ``resolv.conf.backup`` in the state directory, together with
what we are about to write.  Giving back happens only while the file still holds our text: whoever has changed it
since (a DHCP client, a person) is right.  After a kill -9 the backup is still there, and the next start gives back
first.

Others do the same: a VPN that comes up while we are there takes our text for the original and puts it back when it
goes, perhaps long after we have gone.  So what we have written is remembered together with what it stood for
(``resolv.conf.last`` after giving back): our own text is never taken for an original, and found later it gives way
to what it had replaced.

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
LAST_NAME = "resolv.conf.last"
MAX_EARLIER = 8
"""Taking-overs that are remembered."""
MAX_SEARCH = 6
"""Domains; older C libraries read no more."""


class Parsed(NamedTuple):
    """What a resolv.conf says."""

    servers: tuple[Endpoint, ...]
    search: tuple[str, ...]
    options: tuple[str, ...]
    """Whole lines that we do not judge: options, sortlist."""


class _TakenOver(msgspec.Struct, frozen=True):
    """What was there, and what we put in its place."""

    content: str | None
    """None: there was no file."""
    link: str | None
    """Target, when it was a symbolic link."""
    mode: int
    written: str


class _Backup(_TakenOver, frozen=True, kw_only=True):
    path: str
    earlier: tuple[_TakenOver, ...] = ()
    """Newest first."""

    @property
    def all(self) -> tuple[_TakenOver, ...]:
        """Newest first; a bounded number."""
        newest = _TakenOver(self.content, self.link, self.mode, self.written)
        return (newest, *self.earlier)[:MAX_EARLIER]


class ResolvConf:
    """One resolv.conf, and the backup that survives this process."""

    def __init__(self, state_dir: Path, path: Path = RESOLV_CONF) -> None:
        self.path = path
        self._backup_path = state_dir / BACKUP_NAME
        self._last_path = state_dir / LAST_NAME

    def read(self) -> Parsed:
        """What it says now; nothing, when it is not there.  Raise OperationalError when it cannot be read."""
        return parse(_text(self.path) or "")

    def read_original(self) -> Parsed:
        """What it says, or would say if it were not taken over.  Raise OperationalError."""
        backup = self._load()
        if backup is None or _text(self.path) != backup.written:
            return self.read()
        behind = _text(self.path.parent / backup.link) if backup.link is not None else None
        return parse(backup.content or "" if behind is None else behind)

    @property
    def ours(self) -> bool:
        """Whether it is taken over and nobody has changed it since.  Raise OperationalError."""
        backup = self._load()
        return backup is not None and _text(self.path) == backup.written

    def take_over(self, server: Endpoint, zone: str) -> None:
        """Send every look-up to ``server``, search ``zone`` first.  Raise OperationalError and change nothing.

        What was taken over before must have been given back.
        """
        original = self._original()
        written = render(parse(original.content or ""), server, zone, self._backup_path)
        earlier = tuple(one for one in self._known() if one.written != written)[: MAX_EARLIER - 1]
        backup = _Backup(
            path=str(self.path),
            content=original.content,
            link=original.link,
            mode=original.mode,
            written=written,
            earlier=earlier,
        )
        try:
            self._backup_path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            _replace(self._backup_path, msgspec.json.format(msgspec.json.encode(backup)).decode(_ENCODING), 0o600)
        except OSError as error:
            raise OperationalError(f"{self._backup_path} cannot be written: {error.strerror}") from None
        try:
            _put(self.path, written, original.mode)
        except OSError as error:
            self._backup_path.unlink(missing_ok=True)
            raise OperationalError(f"{self.path} cannot be written: {error.strerror}") from None

    def give_back(self) -> bool:
        """Put the original back if the file is still ours; whether it was.  Raise OperationalError."""
        backup = self._load()
        path = self.path if backup is None else Path(backup.path)
        found = _text(path)
        original = self._replaced_by(found)
        if original is None and backup is not None and found is not None and backup.written.startswith(found):
            original = backup
        try:
            if original is not None:
                _restore(path, original)
            if backup is not None:
                self._backup_path.replace(self._last_path)
        except OSError as error:
            raise OperationalError(
                f"{path} cannot be put back as it was: {error.strerror}",
                f"the original is in {self._backup_path if backup is not None else self._last_path}",
            ) from None
        return original is not None

    def _original(self) -> _TakenOver:
        """What to take over: what is there, or what our own text, put there by somebody, had replaced."""
        content = _text(self.path)
        known = self._replaced_by(content)
        if known is not None:
            return known
        link = os.readlink(self.path) if self.path.is_symlink() else None
        mode = self.path.stat().st_mode & 0o777 if content is not None else 0o644
        return _TakenOver(content, link, mode, "")

    def _replaced_by(self, text: str | None) -> _TakenOver | None:
        return next((one for one in self._known() if one.written == text), None)

    def _known(self) -> tuple[_TakenOver, ...]:
        backup = self._load() or self._load_last()
        return backup.all if backup is not None else ()

    def _load(self) -> _Backup | None:
        try:
            return msgspec.json.decode(self._backup_path.read_bytes(), type=_Backup)
        except FileNotFoundError:
            return None
        except (msgspec.MsgspecError, UnicodeDecodeError, OSError) as error:
            raise OperationalError(
                f"{self._backup_path} cannot be read: {error}", f"look at {self.path}, then remove the backup"
            ) from None

    def _load_last(self) -> _Backup | None:
        try:
            return msgspec.json.decode(self._last_path.read_bytes(), type=_Backup)
        except (msgspec.MsgspecError, UnicodeDecodeError, OSError):
            return None  # a memory that helps, nothing that must be put right


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
        f"# Other names are looked up at: {' '.join(other.host for other in original.servers) or 'no server'}",
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
    """None: there is no such file.  Raise OperationalError: nobody knows what it says."""
    try:
        return path.read_text(encoding=_ENCODING)
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        return None
    except OSError as error:
        raise OperationalError(f"{path} cannot be read: {error.strerror}") from None


def _put(path: Path, text: str, mode: int) -> None:
    """By rename if that is possible; else in place, which also goes through a symbolic link."""
    try:
        _replace(path, text, mode)
    except OSError:
        with path.open("w", encoding=_ENCODING) as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())


def _restore(path: Path, backup: _TakenOver) -> None:
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
