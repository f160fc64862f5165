"""Redis as a round trip: a list of commands in, the list of their results out, one write and one read.

A worker that loses its answer cannot know whether Redis carried out the commands, so ``round_trip`` sends them
again: every write of this package may be repeated.  A Redis that was restarted has forgotten its scripts
(NOSCRIPT); those calls alone are sent again with the script's text.

The connection is redis-py's (addresses, authentication, TLS); packing is hiredis' own, because redis-py's
pipeline costs four times as much per command.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any, NamedTuple

import hiredis
from redis import exceptions
from redis.connection import AbstractConnection, Connection, parse_url

from cyphonic.errors import CloudUnreachableError

Argument = bytes | str | int
Command = tuple[Argument, ...]

ATTEMPTS = 2
"""A connection may have died since it was last used; a fresh one that fails means that Redis is away."""
_HINT = "check that Redis runs there and that [redis] url and password_file are right"


class StoreUnavailableError(CloudUnreachableError):
    """Redis does not answer, or not to us.  Nothing may be sent that should have been saved before."""


class Script:
    """A Lua script of ``state/scripts``; each file documents its KEYS, ARGV and result."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.text = resources.files("cyphonic.state").joinpath("scripts", f"{name}.lua").read_bytes()
        self.sha1 = hashlib.sha1(self.text, usedforsecurity=False).hexdigest()

    def call(self, keys: Sequence[Argument], arguments: Sequence[Argument] = ()) -> ScriptCall:
        """A call for ``Store.round_trip``."""
        return ScriptCall(self, (len(keys), *keys, *arguments))


class ScriptCall(NamedTuple):
    """One EVALSHA."""

    script: Script
    arguments: Command

    def by_digest(self) -> Command:
        """For a Redis that knows the script."""
        return ("EVALSHA", self.script.sha1, *self.arguments)

    def by_text(self) -> Command:
        """For one that does not; from then on it does."""
        return ("EVAL", self.script.text, *self.arguments)


@dataclass(frozen=True, slots=True)
class StoreConfig:
    """Where Redis is."""

    url: str
    """``unix:///path/to/socket``, ``redis://host:port/db`` or ``rediss://…``."""
    password: str | None = None
    timeout: float = 2.0
    """Seconds for connecting and for each answer."""


class Store:
    """One connection to Redis; belongs to one thread at a time.  ``with`` closes it."""

    def __init__(self, config: StoreConfig) -> None:
        self._config = config
        self._connection: AbstractConnection | None = None

    @classmethod
    def connect(cls, config: StoreConfig) -> Store:
        """A store that has been seen to answer; raise StoreUnavailableError."""
        store = cls(config)
        store.round_trip([("PING",)])
        return store

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection; a later round trip opens another."""
        if self._connection is not None:
            self._connection.disconnect()  # type: ignore[no-untyped-call]  # redis-py's
            self._connection = None

    def round_trip(self, commands: Sequence[Command | ScriptCall]) -> list[Any]:
        """The result of each command, in order; bytes stay bytes.

        What Redis refuses stands in the list as ``redis.exceptions.ResponseError``: it spoils no other command.
        Raise StoreUnavailableError when Redis cannot be reached or still loads its data.
        """
        if not commands:
            return []
        packed = [command.by_digest() if isinstance(command, ScriptCall) else command for command in commands]
        results = self._exchange(packed)
        forgotten = [index for index, result in enumerate(results) if isinstance(result, exceptions.NoScriptError)]
        if forgotten:
            calls = [command for index in forgotten if isinstance(command := commands[index], ScriptCall)]
            for index, result in zip(forgotten, self._exchange([call.by_text() for call in calls]), strict=True):
                results[index] = result
        return results

    def run(self, command: Command | ScriptCall) -> Any:
        """The result of one command.  Raise StoreUnavailableError, also for what Redis refuses."""
        result = self.round_trip([command])[0]
        if isinstance(result, exceptions.ResponseError):
            raise StoreUnavailableError(f"Redis at {self._config.url} refuses a command: {result}", _HINT)
        return result

    def _exchange(self, commands: Sequence[Command]) -> list[Any]:
        # Its stub says a tuple of one; it takes any.
        packed = b"".join([hiredis.pack_command(command) for command in commands])  # type: ignore[arg-type]
        for attempt in range(1, ATTEMPTS + 1):
            try:
                results = self._attempt(packed, len(commands))
            except (exceptions.RedisError, OSError) as error:
                self.close()
                if attempt == ATTEMPTS:
                    raise StoreUnavailableError(
                        f"Redis at {self._config.url} cannot be used: {error}", _HINT
                    ) from None
            else:
                return results
        raise AssertionError("the last attempt returns or raises")

    def _attempt(self, packed: bytes, count: int) -> list[Any]:
        connection = self._connection
        if connection is None:
            connection = self._connection = self._open()
        connection.send_packed_command([packed], check_health=False)  # type: ignore[no-untyped-call]  # redis-py's
        results: list[Any] = []
        while len(results) < count:
            try:
                results.append(connection.read_response(disconnect_on_error=False))
            except exceptions.ResponseError as error:
                results.append(error)
        return results

    def _open(self) -> AbstractConnection:
        settings = dict(parse_url(self._config.url))  # type: ignore[no-untyped-call]  # redis-py's
        kind = settings.pop("connection_class", Connection)
        if self._config.password is not None:
            settings["password"] = self._config.password
        # RESP2: no HELLO, no push messages between the answers.
        connection: AbstractConnection = kind(
            **settings,
            protocol=2,
            socket_timeout=self._config.timeout,
            socket_connect_timeout=self._config.timeout,
        )
        connection.connect()  # type: ignore[no-untyped-call]  # redis-py's
        return connection
