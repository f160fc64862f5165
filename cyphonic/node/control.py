"""The control socket: the command line asks the daemon.

A unix stream socket that only root, or a configured group, can open.  Each side writes JSON objects, one a line::

    {"schema_version": 1, "request": "ping", "arguments": {"name": "bob", "count": 3}}
    {"final": false, "result": {...}}              any number of these
    {"final": true, "result": {...}}               or {"final": true, "error": {"message", "hint", "exit_code"}}

A connection carries one request at a time; the client closes it to lose interest.  Whatever a client sends, or
fails to send or read, costs it its own connection and nothing else.
"""

from __future__ import annotations

import contextlib
import fcntl
import grp
import logging
import os
import socket
import struct
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec

from cyphonic.errors import (
    CloudUnreachableError,
    ConfigurationError,
    NotEnrolledError,
    OperationalError,
    PeerUnreachableError,
    PolicyDeniedError,
)
from cyphonic.logs import pairs
from cyphonic.node.listener import Listener
from cyphonic.node.loop import Callback, Loop, Timer

_log = logging.getLogger(__name__)

SOCKET_NAME = "node.sock"
LOCK_NAME = "node.lock"
SCHEMA_VERSION = 1
MAX_LINE = 64 * 1024
"""Bytes of a request."""
MAX_UNREAD = 4 * 1024 * 1024
"""Bytes that a client may leave unread; more, and it is cut off."""
MAX_CONNECTIONS = 32
BACKLOG = 128
IDLE = 10.0
"""Seconds for which a connection may ask nothing: those who ask must get a place."""
CHECK_INTERVAL = 5.0
"""Seconds between two looks at whether the socket file is still there."""

_ERRORS: tuple[type[OperationalError], ...] = (
    ConfigurationError,
    NotEnrolledError,
    CloudUnreachableError,
    PeerUnreachableError,
    PolicyDeniedError,
)


class Request(msgspec.Struct, frozen=True):
    """One line from a client."""

    request: str
    arguments: dict[str, Any] = {}
    schema_version: int = SCHEMA_VERSION


class Failure(msgspec.Struct, frozen=True):
    """An OperationalError on its way to the command line."""

    message: str
    hint: str = ""
    exit_code: int = 1

    @classmethod
    def of(cls, error: OperationalError) -> Failure:
        """What a person should read."""
        return cls(error.message, error.hint, error.exit_code)

    def error(self) -> OperationalError:
        """The exception with the same exit code."""
        for kind in _ERRORS:
            if kind.exit_code == self.exit_code:
                return kind(self.message, self.hint)
        return OperationalError(self.message, self.hint)


_TOO_MANY = Failure(
    "too many commands ask the daemon at once", f"it serves {MAX_CONNECTIONS}: try again in some seconds"
)


class Response(msgspec.Struct, frozen=True, omit_defaults=True):
    """One line from the daemon."""

    final: bool
    result: Any = None
    error: Failure | None = None
    schema_version: int = SCHEMA_VERSION


class Reply:
    """Where a handler puts its answer, at once or later.  After the last line, or once the client is gone, deaf."""

    def __init__(self, connection: _Connection) -> None:
        self._connection: _Connection | None = connection
        self._on_close: list[Callback] = []

    @property
    def closed(self) -> bool:
        """Whether nobody listens any more."""
        return self._connection is None

    def on_close(self, callback: Callback) -> None:
        """Call when the client has gone before the last line: nobody waits for the work any more."""
        self._on_close.append(callback)

    def line(self, result: object) -> None:
        """One of several results (anything that msgspec can encode)."""
        if self._connection is not None:
            self._connection.send(Response(final=False, result=result))

    def done(self, result: object = None) -> None:
        """The last result."""
        self._end(Response(final=True, result=result))

    def fail(self, error: OperationalError) -> None:
        """The last line: the client ends with the error's exit code."""
        self._end(Response(final=True, error=Failure.of(error)))

    def abandon(self) -> None:
        """The client has gone."""
        if self._connection is not None:
            self._connection = None
            for callback in self._on_close:
                callback()

    def _end(self, response: Response) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.answered(response)


Handler = Callable[[dict[str, Any], Reply], None]
"""Takes the arguments as the client sent them (any JSON), answers now or later; may raise OperationalError."""


class ControlServer:
    """The daemon's side, driven by the loop.  ``handlers`` by request name."""

    def __init__(self, loop: Loop, run_dir: Path, handlers: Mapping[str, Handler], *, group: str = "") -> None:
        self.path = run_dir / SOCKET_NAME
        self.handlers = handlers
        self._loop = loop
        self._group = group
        self._lock = -1
        self._listener: Listener | None = None
        self._identity = (0, 0)
        self._check_timer: Timer | None = None
        self._connections: set[_Connection] = set()

    def start(self) -> None:
        """Take the lock and listen.  Raise OperationalError when another daemon has them, or the place is no good.

        The lock, not the socket file, says that a daemon lives: the kernel drops it with the process.
        """
        self._open()
        self._check_timer = self._loop.call_later(CHECK_INTERVAL, self._check)

    def close(self) -> None:
        """Cut everyone off, remove the socket, free the lock.  May be called twice, or before ``start``."""
        if self._check_timer is not None:
            self._check_timer.cancel()
        for connection in tuple(self._connections):
            connection.close()
        self._close()

    def handle(self, request: Request, reply: Reply) -> None:
        """Let the handler answer; whatever it raises becomes an answer too."""
        handler = self.handlers.get(request.request)
        if handler is None:
            reply.fail(
                OperationalError(f"the daemon knows no request {request.request!r}", "is it of this release?")
            )
            return
        try:
            handler(request.arguments, reply)
        except OperationalError as error:
            reply.fail(error)
        except Exception:  # noqa: BLE001 - a defect behind one request must not end every tunnel
            _log.exception("a request failed", extra=pairs(request=request.request))
            reply.fail(OperationalError("the daemon failed at this request", "its log says why"))

    def forget(self, connection: _Connection) -> None:
        """A connection has closed."""
        self._connections.discard(connection)

    def _open(self) -> None:
        try:
            self.path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
            self._lock = _take_lock(self.path.with_name(LOCK_NAME))
            self.path.unlink(missing_ok=True)
            self._listener = Listener(self._loop, self._listen(), self._take, "control socket")
            self._identity = _identity(self.path)
        except OSError as error:
            raise OperationalError(
                f"{self.path}: the control socket cannot be made: {error.strerror}",
                "run as root (sudo), or set [node] run_dir to a directory that can be written",
            ) from None

    def _close(self) -> None:
        if self._listener is not None:
            self._listener.close()
            self._listener = None
            if _identity(self.path) == self._identity:  # else it is another daemon's
                self.path.unlink(missing_ok=True)
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def _check(self) -> None:
        """Somebody has tidied up in the run directory: without the file nobody could ask us, or stop us."""
        if _identity(self.path) != self._identity:
            self._close()
            try:
                self._open()
            except OperationalError as error:
                _log.warning(error.message, extra=pairs(hint=error.hint))
            else:
                _log.info("the control socket was gone, made again", extra=pairs(path=self.path))
        self._check_timer = self._loop.call_later(CHECK_INTERVAL, self._check)

    def _listen(self) -> socket.socket:
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        before = os.umask(0o177)
        try:
            listener.bind(str(self.path))
        finally:
            os.umask(before)
        if self._group:
            os.chown(self.path, -1, _group_id(self._group))
        self.path.chmod(0o660)
        listener.listen(BACKLOG)
        return listener

    def _take(self, accepted: socket.socket) -> None:
        if len(self._connections) >= MAX_CONNECTIONS:
            with contextlib.suppress(OSError):
                accepted.send(msgspec.json.encode(Response(final=True, error=_TOO_MANY)) + b"\n")
            accepted.close()
            return
        self._connections.add(_Connection(self._loop, accepted, self))


class _Connection:
    """One client."""

    def __init__(self, loop: Loop, client: socket.socket, server: ControlServer) -> None:
        self._loop = loop
        self._client = client
        self._server = server
        self._received = bytearray()
        self._unsent = bytearray()
        self._reply: Reply | None = None
        self._closing = False
        self._idle = loop.call_later(IDLE, self.close)
        loop.add_reader(client.fileno(), self._readable)

    def send(self, response: Response) -> None:
        """Queue a line and write what the socket takes."""
        if self._client.fileno() < 0:
            return
        self._unsent += msgspec.json.encode(response) + b"\n"
        self._flush()
        if len(self._unsent) > MAX_UNREAD:
            self.close()

    def answered(self, response: Response) -> None:
        """The last line of an answer; then the next request, if one waits."""
        self._reply = None
        self._idle.cancel()
        self._idle = self._loop.call_later(IDLE, self.close)
        self.send(response)
        self._loop.call_soon(self._next_request)

    def close(self) -> None:
        """Cut off.  May be called twice."""
        if self._client.fileno() < 0:
            return
        self._idle.cancel()
        self._loop.remove(self._client.fileno())
        self._client.close()
        self._server.forget(self)
        if self._reply is not None:
            reply, self._reply = self._reply, None
            reply.abandon()

    def _readable(self) -> None:
        try:
            data = self._client.recv(MAX_LINE)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self.close()
            return
        self._received += data
        if len(self._received) > MAX_LINE:
            self._refuse("the request is too long")
        else:
            self._next_request()

    def _next_request(self) -> None:
        if self._reply is not None or self._closing or self._client.fileno() < 0:
            return
        line, newline, rest = self._received.partition(b"\n")
        if not newline:
            return
        self._received = rest
        try:
            request = msgspec.json.decode(bytes(line), type=Request)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            self._refuse("this is no request")
            return
        self._idle.cancel()
        self._reply = reply = Reply(self)
        self._server.handle(request, reply)

    def _refuse(self, why: str) -> None:
        """Say so, and hang up: what follows cannot be made out."""
        self._closing = True
        self.send(Response(final=True, error=Failure(why)))
        self.close()

    def _flush(self) -> None:
        try:
            sent = self._client.send(self._unsent)
        except BlockingIOError:
            sent = 0
        except OSError:
            self.close()
            return
        del self._unsent[:sent]
        if self._unsent:
            self._loop.add_writer(self._client.fileno(), self._flush)
        else:
            self._loop.remove_writer(self._client.fileno())


class ControlClient:
    """The command line's side: blocking, one connection per request."""

    def __init__(self, run_dir: Path) -> None:
        self.path = run_dir / SOCKET_NAME

    def running(self) -> bool:
        """Whether a daemon listens.  Raise OperationalError without permission to see."""
        try:
            self._connect(1.0).close()
        except NotUpError:
            return False
        return True

    def remove_leftovers(self) -> None:
        """Remove the socket file of a daemon that was killed; one that lives, or starts now, keeps its own."""
        try:
            lock = _take_lock(self.path.with_name(LOCK_NAME))
        except (OSError, OperationalError):
            return
        try:
            self.path.unlink(missing_ok=True)
        finally:
            os.close(lock)

    def stream(self, request: str, timeout: float | None = None, **arguments: Any) -> Iterator[Any]:
        """Every result, the last one too.  ``timeout`` is seconds between two lines.

        Raise OperationalError: no daemon, no permission, no answer in time, or what the daemon answered with.
        """
        with self._connect(timeout) as connection:
            pid = _peer_pid(connection)
            with contextlib.suppress(BrokenPipeError):  # it has hung up, and perhaps said why
                self._send(connection, msgspec.json.encode(Request(request, arguments)) + b"\n")
            with connection.makefile("rb") as lines:
                while True:
                    response = self._read(lines.readline, pid)
                    if response.error is not None:
                        raise response.error.error()
                    yield response.result
                    if response.final:
                        return

    def call(self, request: str, timeout: float | None = 10.0, **arguments: Any) -> Any:
        """The last result."""
        result = None
        for result in self.stream(request, timeout, **arguments):  # noqa: B007 - the last one is wanted
            pass
        return result

    def _send(self, connection: socket.socket, line: bytes) -> None:
        try:
            connection.sendall(line)
        except BrokenPipeError:
            raise
        except OSError as error:
            raise OperationalError(
                f"the daemon hung up: {error.strerror or 'no time'}", "it may be busy: try again"
            ) from None

    def _read(self, readline: Callable[[], bytes], pid: int) -> Response:
        try:
            line = readline()
        except TimeoutError:
            raise OperationalError(
                f"the daemon (process {pid}) does not answer",
                f"it is stopped or stuck: look at its log; to end it, sudo kill -9 {pid}, then sudo cyphonic down",
            ) from None
        except OSError as error:
            raise OperationalError(f"the connection to the daemon broke: {error.strerror}") from None
        if not line:
            raise WentAwayError("the daemon went away before it answered", "look at its log")
        return msgspec.json.decode(line, type=Response)

    def _connect(self, timeout: float | None) -> socket.socket:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        connection.settimeout(timeout)
        try:
            connection.connect(str(self.path))
        except (FileNotFoundError, ConnectionRefusedError):
            connection.close()
            raise NotUpError("this node is not up", "start it with: sudo cyphonic up") from None
        except PermissionError:
            connection.close()
            raise _no_permission() from None
        except (BlockingIOError, TimeoutError):
            connection.close()
            raise OperationalError("the daemon is too busy to listen", "try again; look at its log") from None
        except OSError as error:
            connection.close()
            raise OperationalError(f"{self.path}: {error.strerror}") from None
        return connection


class NotUpError(OperationalError):
    """No daemon runs here."""


def _peer_pid(connection: socket.socket) -> int:
    """Whose socket it is (SO_PEERCRED, unix(7))."""
    credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    pid: int = struct.unpack("3i", credentials)[0]
    return pid


def _identity(path: Path) -> tuple[int, int]:
    """Of a file, as long as it exists; (0, 0): there is none."""
    try:
        status = path.lstat()
    except OSError:
        return (0, 0)
    return status.st_dev, status.st_ino


class WentAwayError(OperationalError):
    """The daemon has ended meanwhile."""


def _no_permission() -> OperationalError:
    return OperationalError(
        "no permission to ask the daemon", "use sudo, or join the group that [node] group names in node.toml"
    )


def _take_lock(path: Path) -> int:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise OperationalError("cyphonic is already up on this machine", "see: cyphonic status") from None
    return descriptor


def _group_id(group: str) -> int:
    try:
        return grp.getgrnam(group).gr_gid
    except KeyError:
        raise ConfigurationError(
            f"[node] group: there is no group {group!r} on this machine", f"make it: sudo groupadd {group}"
        ) from None
