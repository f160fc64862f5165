"""What a node keeps on disk: its identity and the cloud it belongs to, in ``node.json``.

The static secret key is written here before the first login and never leaves the machine.  The file is replaced
whole: after a crash, or on a full disk, it is either the old one or the new one.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import msgspec

from cyphonic.bundle import Bundle
from cyphonic.errors import OperationalError
from cyphonic.protocol.keys import KEY_LENGTH, KeyPair
from cyphonic.wire.endpoint import Endpoint

FILE_NAME = "node.json"
SCHEMA_VERSION = 1


class KnownCloud(msgspec.Struct, frozen=True):
    """The cloud that this node belongs to: an enrolment bundle less its secret."""

    region: str
    domain: str
    as_endpoints: tuple[Endpoint, ...]
    """Last known; a login may bring others."""
    as_key: bytes
    as_verify_key: bytes

    @classmethod
    def from_bundle(cls, bundle: Bundle) -> KnownCloud:
        """Everything that lasts."""
        return cls(bundle.region, bundle.domain, bundle.as_endpoints, bundle.as_key, bundle.as_verify_key)

    @property
    def zone(self) -> str:
        """``<region>.<domain>``."""
        return f"{self.region}.{self.domain}"


class KnownRelay(msgspec.Struct, frozen=True):
    """A relay as the NMS named it: ``cyphonic netcheck`` asks it while the daemon is down."""

    public_key: bytes
    endpoints: tuple[Endpoint, ...]


class NodeState(msgspec.Struct, frozen=True):
    """Everything that outlives a restart.  Change it with ``msgspec.structs.replace`` and save it."""

    secret: bytes
    """X25519, 32 bytes."""
    cloud: KnownCloud
    name: str = ""
    """Wanted, later given; one label."""
    fqdn: str = ""
    """Empty before the first login."""
    stamp: int = 0
    """Nanoseconds: the highest stamp of a login or tunnel request so far."""
    revoked: bool = False
    """The cloud has said that this identity is out, for good: another bundle makes a new one."""
    relays: tuple[KnownRelay, ...] = ()
    schema_version: int = SCHEMA_VERSION

    @property
    def key_pair(self) -> KeyPair:
        """The static key pair."""
        return KeyPair.from_secret(self.secret)

    def __repr__(self) -> str:
        """Without the secret."""
        return f"NodeState(name={self.name!r}, fqdn={self.fqdn!r}, cloud={self.cloud.zone})"


class StateFile:
    """``node.json`` in ``directory``, which is made (mode 0700) when it is absent."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / FILE_NAME

    def load(self) -> NodeState | None:
        """What was saved, or None on a machine that has never joined.  Raise OperationalError for a broken file."""
        try:
            data = self.path.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise OperationalError(f"{self.path} cannot be read: {error.strerror}", "run as root (sudo)") from None
        try:
            state = msgspec.json.decode(data, type=NodeState)
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise self._broken(str(error)) from None
        if len(state.secret) != KEY_LENGTH:
            raise self._broken("the secret key has the wrong length")
        if state.schema_version != SCHEMA_VERSION:
            raise self._broken(f"version {state.schema_version} was written by another release of cyphonic")
        return state

    def save(self, state: NodeState, *, keep_old: bool = False) -> None:
        """Replace the file, durably.  Raise OperationalError and leave the old one as it was.

        ``keep_old``: for another identity; the old one is still there afterwards, as ``node.json.old``.
        """
        temporary = self.path.with_name(f".{FILE_NAME}.new")
        try:
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            _write(temporary, msgspec.json.format(msgspec.json.encode(state)) + b"\n")
            if keep_old and self.path.exists():
                self._link_old()
            temporary.replace(self.path)
            _sync_directory(self.path.parent)
        except OSError as error:
            with contextlib.suppress(OSError):
                temporary.unlink()
            raise OperationalError(
                f"{self.path} cannot be written: {error.strerror}",
                "make room or permission there; what was saved before is unchanged",
            ) from None

    def _link_old(self) -> None:
        old = self.path.with_name(f"{FILE_NAME}.old")
        old.unlink(missing_ok=True)
        try:
            old.hardlink_to(self.path)
        except OSError:  # a file system without links
            _write(old, self.path.read_bytes())

    def _broken(self, why: str) -> OperationalError:
        return OperationalError(
            f"{self.path} is damaged: {why}",
            "restore it from a backup, or remove it and enrol again: cyphonic up --enrol FILE",
        )


def _write(file: Path, data: bytes) -> None:
    descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
    with os.fdopen(descriptor, "wb") as stream:
        os.fchmod(stream.fileno(), 0o600)  # also when it existed
        stream.write(data)
        stream.flush()
        os.fsync(stream.fileno())


def _sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
