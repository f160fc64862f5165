"""Child processes: spawn, watch, restart, drain.  One supervisor serves ``cluster`` and every tier with children.

A child that has ticked once (``cyphonic/lifecycle.py``) and is then silent for 1.5 s is killed: datagrams that the
kernel hashed to a stopped process's SO_REUSEPORT socket are lost for as long as it lives, however often they are
sent again.  A child that ends is started again, with a delay that doubles up to 10 s.  Only a child that ends by
itself before it was ever ready is not: what is wrong with its configuration or its port will not heal, so the
supervisor stops the others and ends with that child's exit code.  When the machine cannot start one now (no
descriptor, no memory, too many processes), the others go on and it is tried again in the same way.

Children start in order, a *gate* before the next; they stop in the opposite order, one after the other, because the
later ones need the earlier (workers need Redis to finish, frontends need workers).  They are in process groups of
their own, so that Ctrl-C reaches the supervisor alone, and the kernel ends them should it die (PR_SET_PDEATHSIG).
"""

from __future__ import annotations

import ctypes
import errno
import os
import selectors
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from cyphonic.lifecycle import NOT_READY, READY, TICK_VARIABLE, Lifeline, StopSignal

STALL = 1.5
"""Seconds without a tick after which a child is killed."""
FIRST_TICK = 30.0
"""Seconds within which a child that ticks must have begun to."""
BACKOFF_FIRST = 0.1
BACKOFF_MAX = 10.0
PULSE = 0.1
"""Seconds: the longest pause between two looks at the children."""
_PR_SET_PDEATHSIG = 1
_SHORTAGES = (errno.EMFILE, errno.ENFILE, errno.EAGAIN, errno.ENOMEM)


@dataclass(frozen=True)
class ChildSpec:
    """How to run one child."""

    name: str
    argv: Sequence[str]
    environ: Mapping[str, str] = field(default_factory=dict)
    """Added to the supervisor's own."""
    ticks: bool = True
    """False for a program that is not ours."""
    check: Callable[[], bool] | None = None
    """Is it ready?  For a program that does not say so by itself."""
    gate: bool = False
    """The next children start only when this one is ready."""
    drain: float = 5.0
    """Seconds between SIGTERM and SIGKILL."""
    death_signal: signal.Signals = signal.SIGKILL
    """What the kernel sends it when the supervisor dies."""


@dataclass
class Child:
    """One child as it is now."""

    spec: ChildSpec
    process: subprocess.Popen[bytes] | None = None
    tick_fd: int = -1
    started: float = 0.0
    last_tick: float | None = None
    ready: bool = False
    was_ready: bool = False
    restarts: int = 0
    backoff: float = BACKOFF_FIRST
    restart_at: float = 0.0

    @property
    def state(self) -> str:
        """In one word."""
        if self.process is None:
            return "restarting" if self.restarts else "waiting"
        return "ready" if self.ready else "starting"


Notify = Callable[[str, Child], None]
"""Called with what happened: started, not-started, ready, not-ready, stalled, exited."""


class Supervisor:
    """Run children until stopped.  Use it from the main thread, which must live as long as they."""

    def __init__(
        self,
        specs: Sequence[ChildSpec],
        *,
        notify: Notify | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.children = [Child(spec) for spec in specs]
        self.notify: Notify = notify or _ignore
        self._clock = clock
        self._selector = selectors.DefaultSelector()
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._last_pulse = clock()
        self._failure: int | None = None

    @property
    def ready(self) -> bool:
        """Are all children?"""
        return all(child.ready for child in self.children)

    def run(self, stop: StopSignal, lifeline: Lifeline | None = None) -> int:
        """Until ``stop`` is requested (0) or a child fails for good (its exit code); then drain and return that."""
        self._selector.register(stop, selectors.EVENT_READ, None)
        try:
            while not stop.requested and self._failure is None:
                self._pulse()
                if lifeline is not None:
                    lifeline.tick(self._clock())
                    lifeline.set_ready(self.ready)
            if lifeline is not None:
                lifeline.stopping()
        finally:
            self._selector.unregister(stop)
            self._stop_all(lifeline)
            self._selector.close()
        return self._failure or 0

    def _pulse(self) -> None:
        now = self._clock()
        if now - self._last_pulse > STALL / 2:  # we were stopped ourselves: the children's silence is ours
            for child in self.children:
                child.last_tick = now if child.last_tick is not None else None
        self._last_pulse = now
        self._start_due(now)
        for key, _ in self._selector.select(PULSE):
            if isinstance(key.data, Child):
                self._read_ticks(key.data)
        now = self._clock()
        for child in self.children:
            self._watch(child, now)

    def _start_due(self, now: float) -> None:
        for child in self.children:
            if child.process is None and now >= child.restart_at:
                self._try_to_spawn(child, now)
            if child.spec.gate and not child.ready:
                return

    def _try_to_spawn(self, child: Child, now: float) -> None:
        try:
            self._spawn(child, now)
        except OSError as error:
            if error.errno not in _SHORTAGES:
                raise
            self.notify("not-started", child)
            self._delay(child, now)

    def _spawn(self, child: Child, now: float) -> None:
        environ = {**os.environ, **child.spec.environ}
        environ.pop("NOTIFY_SOCKET", None)  # the unit's readiness is the supervisor's to tell
        environ.pop("WATCHDOG_USEC", None)
        environ.pop(TICK_VARIABLE, None)
        read, write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        if child.spec.ticks:
            environ[TICK_VARIABLE] = str(write)
        parent, number = os.getpid(), child.spec.death_signal

        def die_with_parent() -> None:
            self._libc.prctl(_PR_SET_PDEATHSIG, int(number))
            if os.getppid() != parent:
                os._exit(1)

        try:
            process = subprocess.Popen(
                list(child.spec.argv),
                env=environ,
                stdin=subprocess.DEVNULL,
                pass_fds=[write] if child.spec.ticks else [],
                process_group=0,
                preexec_fn=die_with_parent,  # safe: the supervisor has one thread
            )
        except OSError:
            os.close(read)
            raise
        finally:
            os.close(write)
        child.process, child.tick_fd = process, read
        child.started, child.last_tick, child.ready = now, None, False
        self._selector.register(read, selectors.EVENT_READ, child)
        self.notify("started", child)

    def _read_ticks(self, child: Child) -> None:
        try:
            data = os.read(child.tick_fd, 4096)
        except BlockingIOError:
            return
        if not data:  # the child closed it, most likely by ending
            self._selector.unregister(child.tick_fd)
            os.close(child.tick_fd)
            child.tick_fd = -1
            return
        child.last_tick = self._clock()
        last = max(data.rfind(READY), data.rfind(NOT_READY))
        if last >= 0:
            self._set_ready(child, data[last : last + 1] == READY)

    def _set_ready(self, child: Child, ready: bool) -> None:
        if ready != child.ready:
            child.ready = ready
            child.was_ready = child.was_ready or ready
            self.notify("ready" if ready else "not-ready", child)

    def _watch(self, child: Child, now: float) -> None:
        if child.process is None:
            return
        if child.process.poll() is not None:
            self._bury(child, now)
            return
        if child.spec.check is not None:
            self._set_ready(child, child.spec.check())
        if child.spec.ticks:
            silent = now - (child.last_tick if child.last_tick is not None else child.started)
            if silent > (STALL if child.last_tick is not None else FIRST_TICK):
                self.notify("stalled", child)
                child.process.kill()
                child.last_tick = now  # said once; its end comes with the next look

    def _bury(self, child: Child, now: float) -> None:
        assert child.process is not None
        code = child.process.returncode
        self.notify("exited", child)
        self._let_go(child)
        if code > 0 and not child.was_ready:
            self._failure = code
            return
        if now - child.started > BACKOFF_MAX:
            child.backoff = BACKOFF_FIRST
        self._delay(child, now)

    def _delay(self, child: Child, now: float) -> None:
        child.restart_at = now + child.backoff
        child.backoff = min(child.backoff * 2, BACKOFF_MAX)
        child.restarts += 1

    def _let_go(self, child: Child) -> None:
        child.process, child.ready = None, False
        if child.tick_fd >= 0:
            self._selector.unregister(child.tick_fd)
            os.close(child.tick_fd)
            child.tick_fd = -1

    def _stop_all(self, lifeline: Lifeline | None) -> None:
        for child in reversed(self.children):
            if child.process is None:
                continue
            child.process.terminate()
            deadline = self._clock() + child.spec.drain
            while child.process.poll() is None and self._clock() < deadline:
                self._wait_briefly(child)
                if lifeline is not None:
                    lifeline.tick(self._clock())
            if child.process.poll() is None:
                child.process.kill()
            child.process.wait()
            self.notify("exited", child)
            self._let_go(child)

    def _wait_briefly(self, child: Child) -> None:
        assert child.process is not None
        try:
            child.process.wait(PULSE / 2)
        except subprocess.TimeoutExpired:
            return


def _ignore(event: str, child: Child) -> None:
    del event, child
