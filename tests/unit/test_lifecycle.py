import os
import signal
import socket
from pathlib import Path

import pytest

from cyphonic.lifecycle import Lifeline, StopSignal, sd_notify


@pytest.fixture
def systemd(tmp_path: Path) -> tuple[socket.socket, dict[str, str]]:
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    listener.bind(str(tmp_path / "notify"))
    listener.settimeout(5)
    return listener, {"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "5000000"}


def test_systemd_hears_of_readiness_once_and_of_every_tick(systemd: tuple[socket.socket, dict[str, str]]) -> None:
    listener, environ = systemd
    lifeline = Lifeline(environ)
    lifeline.set_ready(True)
    lifeline.set_ready(True)
    lifeline.tick(1.0)
    lifeline.tick(1.1)
    lifeline.stopping()
    assert [listener.recv(100) for _ in range(3)] == [b"READY=1\nSTATUS=ready", b"WATCHDOG=1", b"STOPPING=1"]
    listener.close()


def test_without_systemd_nothing_happens() -> None:
    assert not sd_notify("READY=1", {})
    assert not sd_notify("READY=1", {"NOTIFY_SOCKET": "/nonexistent/socket"})


def test_a_supervisor_hears_through_its_pipe_and_a_broken_pipe_does_no_harm() -> None:
    read, write = os.pipe()
    lifeline = Lifeline({"CYPHONIC_TICK_FD": str(write)})
    lifeline.tick(0.0)
    lifeline.set_ready(True)
    lifeline.tick(0.1)
    lifeline.tick(0.3)
    lifeline.set_ready(False)
    assert os.read(read, 100) == b".+.-"
    os.close(read)
    previous = signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    lifeline.tick(1.0)
    signal.signal(signal.SIGPIPE, previous)
    os.close(write)


def test_sigterm_sigint_and_sighup_ask_for_a_stop_and_are_given_back_afterwards() -> None:
    before = signal.getsignal(signal.SIGTERM)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        with StopSignal() as stop:
            assert not stop.requested
            os.kill(os.getpid(), number)
            assert stop.requested
            assert os.read(stop.fileno(), 1) == b"!"
    assert signal.getsignal(signal.SIGTERM) == before
