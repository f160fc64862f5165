from __future__ import annotations

import errno
import logging
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from cyphonic.node.listener import REST, Listener
from cyphonic.node.loop import Loop


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class StarvedSocket(socket.socket):
    """Takes no connection while ``reason`` is an errno."""

    reason = 0

    def accept(self) -> tuple[socket.socket, object]:
        if self.reason:
            raise OSError(self.reason, os.strerror(self.reason))
        return super().accept()


class Door:
    """A listener in a loop of its own clock, and whom it has let in."""

    def __init__(self, directory: Path) -> None:
        self.clock = Clock()
        self.loop = Loop(self.clock)
        self.path = str(directory / "door")
        self.socket = StarvedSocket(socket.AF_UNIX)
        self.socket.bind(self.path)
        self.socket.listen()
        self.socket.setblocking(False)
        self.guests: list[socket.socket] = []
        self.calls = 0
        self.listener = Listener(self.loop, self.socket, self.guests.append, "door")

    def knock(self) -> socket.socket:
        guest = socket.socket(socket.AF_UNIX)
        guest.connect(self.path)
        return guest

    def turns(self, count: int) -> None:
        for _ in range(count):
            self.loop.turn(longest=0.0)


@pytest.fixture
def door(tmp_path: Path) -> Iterator[Door]:
    door = Door(tmp_path)
    yield door
    door.listener.close()
    door.listener.close()
    for guest in door.guests:
        guest.close()
    door.loop.close()


def test_a_listener_without_a_descriptor_rests_says_so_once_and_takes_who_has_waited(
    door: Door, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    door.socket.reason = errno.EMFILE
    with door.knock():
        for _ in range(5):
            door.turns(20)
            door.clock.now += REST
        assert [record.message for record in caplog.records] == ["no connection can be taken now"]
        door.socket.reason = 0
        door.turns(2)
        assert len(door.guests) == 1
        assert not door.guests[0].getblocking()
    assert caplog.records[-1].message == "connections are taken again"


def test_while_it_rests_it_does_not_spin(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    tried = []

    def accept(_: socket.socket) -> tuple[socket.socket, object]:
        tried.append(1)
        raise OSError(errno.EMFILE, "none left")

    monkeypatch.setattr(StarvedSocket, "accept", accept)
    with door.knock():
        door.turns(50)
    assert len(tried) == 1


def test_closing_while_it_rests_leaves_no_timer_behind(door: Door) -> None:
    door.socket.reason = errno.ENFILE
    with door.knock():
        door.turns(2)
        door.listener.close()
        door.clock.now += 10 * REST
        door.turns(2)
    assert not door.guests
