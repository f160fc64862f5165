"""What every long-running process has in common: it stops when told, shows that it lives, and says when it is
ready.

Two listeners may want to know: the supervisor of this package, through a pipe whose descriptor is in
``CYPHONIC_TICK_FD`` (one byte a message: ``.`` alive, ``+`` ready, ``-`` no longer ready), and systemd, through the
datagram socket in ``NOTIFY_SOCKET`` (sd_notify(3)).
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
from collections.abc import Mapping
from types import FrameType, TracebackType

TICK_VARIABLE = "CYPHONIC_TICK_FD"
TICK_INTERVAL = 0.25
"""Seconds between ticks at most; a supervisor acts on 1.5 s of silence."""
ALIVE, READY, NOT_READY = b".", b"+", b"-"


def sd_notify(message: str, environ: Mapping[str, str]) -> bool:
    """Tell systemd; False when it is not there to hear."""
    address = environ.get("NOTIFY_SOCKET", "")
    if not address:
        return False
    if address.startswith("@"):
        address = "\0" + address[1:]
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notifier:
            notifier.connect(address)
            notifier.send(message.encode())
    except OSError:
        return False
    return True


class Lifeline:
    """This process as those see it who watch it.  Call ``tick`` from the loop that does the work, not beside it."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._environ = environ
        descriptor = environ.get(TICK_VARIABLE, "")
        self._descriptor = int(descriptor) if descriptor.isdigit() else None
        if self._descriptor is not None:
            with contextlib.suppress(OSError):
                os.set_blocking(self._descriptor, False)
                os.set_inheritable(self._descriptor, False)
        self._next_tick = 0.0
        self._ready: bool | None = None

    @property
    def ready(self) -> bool:
        """What was said last."""
        return bool(self._ready)

    def tick(self, now: float) -> None:
        """Alive.  Costs nothing when called more often than every 0.25 s."""
        if now >= self._next_tick:
            self._next_tick = now + TICK_INTERVAL
            self._write(ALIVE)
            if "WATCHDOG_USEC" in self._environ:
                sd_notify("WATCHDOG=1", self._environ)

    def set_ready(self, ready: bool, status: str = "") -> None:
        """Say whether this process can do its work; repeating it says nothing."""
        if ready == self._ready:
            return
        self._ready = ready
        self._write(READY if ready else NOT_READY)
        lines = ["READY=1"] if ready else []
        sd_notify("\n".join([*lines, f"STATUS={status or ('ready' if ready else 'not ready')}"]), self._environ)

    def stopping(self) -> None:
        """The drain begins."""
        self._write(NOT_READY)
        sd_notify("STOPPING=1", self._environ)

    def _write(self, message: bytes) -> None:
        if self._descriptor is not None:
            with contextlib.suppress(OSError):  # full or gone: the supervisor draws its own conclusion
                os.write(self._descriptor, message)


class StopSignal:
    """SIGTERM, SIGINT and SIGHUP as a flag and a readable descriptor, between ``with`` and its end.

    Main thread only.  SIGHUP stays ignored where it was (nohup).
    """

    def __init__(self) -> None:
        self.requested = False
        self._read, self._write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._previous: dict[signal.Signals, object] = {}

    def fileno(self) -> int:
        """Readable once stop was requested."""
        return self._read

    def request(self) -> None:
        """As if the signal had come."""
        self.requested = True
        with contextlib.suppress(OSError):
            os.write(self._write, b"!")

    def __enter__(self) -> StopSignal:
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            if signal.getsignal(number) != signal.SIG_IGN or number != signal.SIGHUP:
                self._previous[number] = signal.signal(number, self._handle)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)  # type: ignore[arg-type]  # what signal() itself returned
        os.close(self._read)
        os.close(self._write)

    def _handle(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002 - the handler's signature
        self.request()
