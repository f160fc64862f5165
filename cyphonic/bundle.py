"""The enrolment bundle: everything that a new node needs to know of its cloud, in one small TOML file.

An operator makes it with ``cyphonic admin key create`` and gives it to whoever sets up the node, who feeds it to
``cyphonic up --enrol FILE`` or ``--enrol -``.  It holds a secret, the
enrolment key: hence mode 0600, and never argv.
"""

from __future__ import annotations

import os
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import msgspec

from cyphonic.errors import ConfigurationError
from cyphonic.protocol.keys import decode_key, encode_key
from cyphonic.wire.endpoint import Endpoint

BUNDLE_VERSION = 1
MAX_BUNDLE = 16 * 1024
"""Bytes; a real one has some 600."""

NEW_BUNDLE = "ask the operator for a new one: cyphonic admin key create -o FILE"

ValueT = TypeVar("ValueT")


class Bundle(msgspec.Struct, frozen=True):
    """What a node must know before its first login."""

    region: str
    domain: str
    as_endpoints: tuple[Endpoint, ...]
    as_key: bytes
    """X25519 public key of the AS: the node knows whom it logs in to."""
    as_verify_key: bytes
    """Ed25519 public key of the AS: the node knows whose certificates count."""
    enrolment_key: bytes
    """Secret, 32 bytes."""
    name: str = ""
    """The name that the operator has fixed for this node; empty: the node chooses."""

    def __repr__(self) -> str:
        """Without the secret."""
        return f"Bundle({self.region}.{self.domain}, {', '.join(map(str, self.as_endpoints))}, name={self.name!r})"

    @classmethod
    def load(cls, source: str | Path) -> Bundle:
        """From a file, or from standard input for ``-``.  Raise ConfigurationError with what to do about it."""
        if str(source) == "-":
            return cls.parse(sys.stdin.buffer.read(MAX_BUNDLE + 1), "standard input")
        try:
            with Path(source).open("rb") as stream:
                data = stream.read(MAX_BUNDLE + 1)
        except FileNotFoundError:
            raise ConfigurationError(f"{source}: there is no such enrolment bundle", NEW_BUNDLE) from None
        except OSError as error:
            hint = "run as root (sudo)" if isinstance(error, PermissionError) else NEW_BUNDLE
            raise ConfigurationError(f"{source}: cannot be read: {error.strerror}", hint) from None
        return cls.parse(data, str(source))

    @classmethod
    def parse(cls, data: bytes, where: str) -> Bundle:
        """From the bytes of a bundle; ``where`` they came from is for messages.  Raise ConfigurationError."""
        return _Reader(where, _table(data, where)).bundle()

    def dump(self) -> str:
        """The TOML text."""
        endpoints = ", ".join(f'"{endpoint}"' for endpoint in self.as_endpoints)
        lines = [
            "# cyphonic enrolment bundle.  Keep it secret: who has it can join.",
            "# On the new node:  sudo cyphonic up --enrol FILE",
            f"version = {BUNDLE_VERSION}",
            f'region = "{self.region}"',
            f'domain = "{self.domain}"',
            f"as_endpoints = [{endpoints}]",
            f'as_key = "{encode_key(self.as_key)}"',
            f'as_verify_key = "{encode_key(self.as_verify_key)}"',
            f'enrolment_key = "{encode_key(self.enrolment_key)}"',
        ]
        if self.name:
            lines.append(f'name = "{self.name}"')
        return "\n".join(lines) + "\n"

    def write(self, file: Path) -> None:
        """Into a new file, mode 0600.  Raise ConfigurationError when it exists or cannot be made."""
        try:
            descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        except FileExistsError:
            raise ConfigurationError(
                f"{file} exists and is not overwritten", "choose another name for -o"
            ) from None
        except OSError as error:
            raise ConfigurationError(f"{file}: {error.strerror}", "choose another place for -o") from None
        with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
            stream.write(self.dump())


def _table(data: bytes, where: str) -> dict[str, Any]:
    if not data.strip():
        raise ConfigurationError(f"{where}: the enrolment bundle is empty", NEW_BUNDLE)
    if len(data) > MAX_BUNDLE:
        raise ConfigurationError(f"{where}: too long for an enrolment bundle", NEW_BUNDLE)
    try:
        return tomllib.loads(data.decode("utf-8"))
    except UnicodeDecodeError:
        raise ConfigurationError(f"{where}: not text, so no enrolment bundle", NEW_BUNDLE) from None
    except tomllib.TOMLDecodeError as error:
        raise ConfigurationError(f"{where}: the enrolment bundle is damaged: {error}", NEW_BUNDLE) from None


class _Reader:
    """Takes the values out of a table, and says which key is wrong and why."""

    def __init__(self, where: str, table: dict[str, Any]) -> None:
        self._where = where
        self._table = table

    def bundle(self) -> Bundle:
        version = self._take("version", int)
        if version != BUNDLE_VERSION:
            self._fail("version", f"{version} is not {BUNDLE_VERSION}, the one this cyphonic reads")
        known = {"version", *Bundle.__struct_fields__}
        if unknown := sorted(self._table.keys() - known):
            self._fail(unknown[0], "no key that an enrolment bundle has")
        return Bundle(
            region=self._name("region"),
            domain=self._name("domain"),
            as_endpoints=self._endpoints("as_endpoints"),
            as_key=self._key("as_key"),
            as_verify_key=self._key("as_verify_key"),
            enrolment_key=self._key("enrolment_key"),
            name=self._name("name") if "name" in self._table else "",
        )

    def _take(self, key: str, wanted: type[ValueT], default: ValueT | None = None) -> ValueT:
        value = self._table.get(key, default)
        if value is None:
            self._fail(key, "missing")
        if not isinstance(value, wanted) or isinstance(value, bool):
            self._fail(key, f"expected {_NAMES[wanted]}, got {value!r}")
        return value

    def _name(self, key: str) -> str:
        text = self._take(key, str)
        if not text or not text.isascii() or not text.replace("-", "a").replace(".", "a").isalnum():
            self._fail(key, f"{text!r} is not a DNS name")
        return text

    def _key(self, key: str) -> bytes:
        return self._read(key, decode_key, self._take(key, str))

    def _endpoints(self, key: str) -> tuple[Endpoint, ...]:
        texts = self._take(key, list)
        if not texts:
            self._fail(key, "empty; a node needs at least one AS endpoint")
        return tuple(self._read(key, Endpoint.parse, str(text)) for text in texts)

    def _read(self, key: str, reader: Callable[[str], ValueT], text: str) -> ValueT:
        try:
            return reader(text)
        except ValueError as error:
            self._fail(key, str(error))

    def _fail(self, key: str, reason: str) -> NoReturn:
        raise ConfigurationError(f"{self._where}: {key}: {reason}", NEW_BUNDLE)


_NAMES = {int: "a number", str: "text", list: "a list"}
