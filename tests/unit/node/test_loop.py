from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Iterator

import pytest

from cyphonic.node.loop import LONGEST_SLEEP, Loop


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def loop(clock: Clock) -> Iterator[Loop]:
    with Loop(clock) as loop:
        yield loop


def turn(loop: Loop) -> None:
    loop.turn(longest=0.0)


def test_a_readable_descriptor_calls_back_until_it_is_removed(loop: Loop) -> None:
    left, right = socket.socketpair()
    heard: list[bytes] = []
    with left, right:
        loop.add_reader(left.fileno(), lambda: heard.append(left.recv(100)))
        turn(loop)
        right.send(b"one")
        turn(loop)
        loop.remove_reader(left.fileno())
        right.send(b"two")
        turn(loop)
    assert heard == [b"one"]


def test_reading_and_writing_are_watched_side_by_side(loop: Loop) -> None:
    left, right = socket.socketpair()
    events: list[str] = []

    def writable() -> None:
        events.append("write")
        loop.remove_writer(left.fileno())

    with left, right:
        loop.add_reader(left.fileno(), lambda: events.append("read " + left.recv(100).decode()))
        loop.add_writer(left.fileno(), writable)
        right.send(b"x")
        turn(loop)
        turn(loop)
        loop.remove(left.fileno())
    assert events == ["read x", "write"]


def test_a_descriptor_number_may_be_used_again_after_its_close(loop: Loop) -> None:
    heard: list[str] = []
    for round_number in ("first", "second"):
        left, right = socket.socketpair()
        loop.add_reader(left.fileno(), lambda name=round_number: heard.append(name))  # type: ignore[misc]
        right.send(b"x")
        turn(loop)
        left.close()
        right.close()
    assert heard == ["first", "second"]


def test_a_callback_may_remove_another_ready_descriptor(loop: Loop) -> None:
    pairs = [socket.socketpair() for _ in range(2)]
    heard: list[int] = []

    def ready(index: int) -> None:
        heard.append(index)
        loop.remove(pairs[1 - index][0].fileno())

    for index, (left, right) in enumerate(pairs):
        loop.add_reader(left.fileno(), lambda index=index: ready(index))  # type: ignore[misc]
        right.send(b"x")
    turn(loop)
    assert len(heard) == 1
    for left, right in pairs:
        left.close()
        right.close()


def test_timers_fire_once_in_the_order_of_their_deadlines(loop: Loop, clock: Clock) -> None:
    fired: list[str] = []
    loop.call_later(2.0, lambda: fired.append("late"))
    loop.call_later(1.0, lambda: fired.append("early"))
    loop.call_later(1.0, lambda: fired.append("cancelled")).cancel()
    turn(loop)
    assert fired == []
    clock.now += 1.0
    turn(loop)
    assert fired == ["early"]
    clock.now += 5.0
    turn(loop)
    turn(loop)
    assert fired == ["early", "late"]


def test_call_soon_from_a_timer_waits_for_the_next_turn(loop: Loop) -> None:
    calls: list[int] = []

    def again() -> None:
        calls.append(len(calls))
        loop.call_soon(again)

    loop.call_soon(again)
    turn(loop)
    assert calls == [0]
    turn(loop)
    assert calls == [0, 1]


def test_the_core_is_told_when_its_deadline_has_passed(loop: Loop, clock: Clock) -> None:
    told: list[float] = []
    loop.turn(lambda: 101.0, told.append, longest=0.0)
    clock.now = 101.0
    loop.turn(lambda: 101.0, told.append, longest=0.0)
    loop.turn(lambda: None, told.append, longest=0.0)
    loop.turn(lambda: float("inf"), told.append, longest=0.0)
    assert told == [101.0]


def test_a_signal_wakes_the_loop_and_is_handled_inside_it() -> None:
    with Loop() as loop, loop.signals({signal.SIGUSR1: loop.stop}):
        loop.call_soon(lambda: os.kill(os.getpid(), signal.SIGUSR1))
        loop.run()
    assert signal.getsignal(signal.SIGUSR1) is signal.SIG_DFL


def test_run_returns_once_stopped_and_can_run_again(loop: Loop) -> None:
    for _ in range(2):
        loop.call_soon(loop.stop)
        loop.run()


def test_deadlines_are_of_a_clock_that_goes_on_while_the_machine_is_suspended() -> None:
    with Loop() as loop:
        before = time.clock_gettime(time.CLOCK_BOOTTIME)
        now = loop.clock()
        assert before <= now <= time.clock_gettime(time.CLOCK_BOOTTIME)
    assert LONGEST_SLEEP <= 5  # epoll's time stands still meanwhile
