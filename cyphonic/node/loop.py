"""The event loop of a node: one thread, epoll, timers, signals.

Each turn: wait until a file descriptor is ready, a timer or the core's own deadline is due, or a signal arrives;
run the callbacks of ready descriptors; run due timers; tell the core when its deadline has passed.  An exception
from a callback ends ``run`` and is the caller's: only the callback knows what it can survive.
"""

from __future__ import annotations

import contextlib
import heapq
import itertools
import math
import select
import signal
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

Callback = Callable[[], None]

LONGEST_SLEEP = 5.0
"""Seconds: epoll does not count the time for which the machine is suspended, deadlines do."""


def uptime() -> float:
    """Monotonic seconds that go on while the machine is suspended: leases, keys and sessions age meanwhile, too."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


@dataclass(slots=True, order=True)
class Timer:
    """One call at a time to come.  Fires once."""

    deadline: float
    _order: int
    _callback: Callback | None = field(compare=False)

    def cancel(self) -> None:
        """Never fire; harmless after it has fired."""
        self._callback = None

    @property
    def pending(self) -> bool:
        """Whether it will still fire."""
        return self._callback is not None

    def fire(self) -> None:
        """Call once, unless cancelled."""
        callback, self._callback = self._callback, None
        if callback is not None:
            callback()


class Loop:
    """Calls back when descriptors are readable or writable, at deadlines, and on signals.

    ``clock`` is monotonic seconds; deadlines are of this clock.
    """

    def __init__(self, clock: Callable[[], float] = uptime) -> None:
        self.clock = clock
        self._epoll = select.epoll()
        self._readers: dict[int, Callback] = {}
        self._writers: dict[int, Callback] = {}
        self._timers: list[Timer] = []
        self._order = itertools.count()
        self._stopping = False

    def __enter__(self) -> Loop:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def add_reader(self, fd: int, callback: Callback) -> None:
        """Call whenever ``fd`` is readable (or broken); replaces an earlier callback."""
        self._readers[fd] = callback
        self._watch(fd)

    def remove_reader(self, fd: int) -> None:
        """No longer call; harmless for an unknown ``fd``.  To be called before ``fd`` is closed."""
        if self._readers.pop(fd, None) is not None:
            self._watch(fd)

    def add_writer(self, fd: int, callback: Callback) -> None:
        """Call whenever ``fd`` takes bytes (or is broken); replaces an earlier callback."""
        self._writers[fd] = callback
        self._watch(fd)

    def remove_writer(self, fd: int) -> None:
        """No longer call; harmless for an unknown ``fd``.  To be called before ``fd`` is closed."""
        if self._writers.pop(fd, None) is not None:
            self._watch(fd)

    def remove(self, fd: int) -> None:
        """Neither read nor written any more; harmless for an unknown ``fd``."""
        self.remove_reader(fd)
        self.remove_writer(fd)

    def call_at(self, deadline: float, callback: Callback) -> Timer:
        """Call once, when the clock has reached ``deadline``."""
        timer = Timer(deadline, next(self._order), callback)
        heapq.heappush(self._timers, timer)
        return timer

    def call_later(self, delay: float, callback: Callback) -> Timer:
        """Call once, ``delay`` seconds from now."""
        return self.call_at(self.clock() + delay, callback)

    def call_soon(self, callback: Callback) -> Timer:
        """Call once, in the next turn."""
        return self.call_at(-math.inf, callback)

    @contextlib.contextmanager
    def signals(self, handlers: dict[signal.Signals, Callback]) -> Iterator[None]:
        """Inside the ``with``, call back from the loop (not from the signal's context).  Main thread only."""
        reader, writer = socket.socketpair()
        reader.setblocking(False)
        writer.setblocking(False)
        before = {number: signal.signal(number, lambda *_: None) for number in handlers}
        wakeup = signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)

        def arrived() -> None:
            for number in reader.recv(4096):
                if number in handlers:
                    handlers[signal.Signals(number)]()

        self.add_reader(reader.fileno(), arrived)
        try:
            yield
        finally:
            self.remove_reader(reader.fileno())
            signal.set_wakeup_fd(wakeup)
            for number, handler in before.items():
                signal.signal(number, handler)
            reader.close()
            writer.close()

    def stop(self) -> None:
        """End ``run`` after this turn."""
        self._stopping = True

    def run(
        self,
        next_deadline: Callable[[], float | None] = lambda: None,
        on_timeout: Callable[[float], None] = lambda _now: None,
    ) -> None:
        """Turn until ``stop``.  ``next_deadline`` is asked before a sleep, ``on_timeout(now)`` called when due."""
        self._stopping = False
        while not self._stopping:
            self.turn(next_deadline, on_timeout)

    def turn(
        self,
        next_deadline: Callable[[], float | None] = lambda: None,
        on_timeout: Callable[[float], None] = lambda _now: None,
        *,
        longest: float = LONGEST_SLEEP,
    ) -> None:
        """Sleep once, at most ``longest`` seconds, then do all that is due."""
        deadline = next_deadline()
        for fd, events in self._epoll.poll(self._sleep(deadline, longest)):
            self._ready(fd, events)
        now = self.clock()
        self._fire_timers(now)
        deadline = next_deadline()
        if deadline is not None and deadline <= now:
            on_timeout(now)

    def close(self) -> None:
        """Give the epoll descriptor back.  What was registered stays open: its owner closes it."""
        self._epoll.close()

    def _sleep(self, deadline: float | None, longest: float) -> float:
        wake = math.inf if deadline is None else deadline
        while self._timers and not self._timers[0].pending:
            heapq.heappop(self._timers)
        if self._timers:
            wake = min(wake, self._timers[0].deadline)
        return max(0.0, min(wake - self.clock(), longest))

    def _ready(self, fd: int, events: int) -> None:
        broken = events & (select.EPOLLERR | select.EPOLLHUP)
        if (events & select.EPOLLIN or broken) and (reader := self._readers.get(fd)):
            reader()
        if (events & select.EPOLLOUT or broken) and (writer := self._writers.get(fd)):
            writer()

    def _fire_timers(self, now: float) -> None:
        due = []
        while self._timers and self._timers[0].deadline <= now:
            due.append(heapq.heappop(self._timers))
        for timer in due:  # collected first, so that call_soon from a timer waits for the next turn
            timer.fire()

    def _watch(self, fd: int) -> None:
        events = (select.EPOLLIN if fd in self._readers else 0) | (select.EPOLLOUT if fd in self._writers else 0)
        if not events:
            with contextlib.suppress(OSError):
                self._epoll.unregister(fd)
            return
        try:
            self._epoll.modify(fd, events)
        except FileNotFoundError:
            self._epoll.register(fd, events)
