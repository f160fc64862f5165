from __future__ import annotations

import json
import os
import shutil
import socket
import stat
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cyphonic.errors import ConfigurationError, OperationalError, PeerUnreachableError
from cyphonic.node.control import MAX_CONNECTIONS, MAX_LINE, ControlClient, ControlServer, NotUpError, Reply
from cyphonic.node.loop import Loop


class Daemon:
    """A control server whose loop runs in a thread of its own: the blocking client is tested for real."""

    def __init__(self, run_dir: Path) -> None:
        self.loop = Loop()
        self.replies: list[Reply] = []
        self.gone = threading.Event()
        self.server = ControlServer(
            self.loop,
            run_dir,
            {
                "echo": lambda arguments, reply: reply.done(arguments),
                "count": self._count,
                "hold": self._hold,
                "refuse": self._refuse,
                "break": lambda arguments, _reply: arguments["missing"],
                "flood": self._flood,
            },
        )
        self.server.start()
        self._thread = threading.Thread(target=self.loop.run)
        self._thread.start()

    def stop(self) -> None:
        # the loop has no thread-safe call: a datagram through a socket pair is how a test stops it
        self.loop.stop()
        with socket.socket(socket.AF_UNIX) as poke:
            poke.connect(str(self.server.path))
        self._thread.join(10)
        assert not self._thread.is_alive()
        self.server.close()
        self.loop.close()

    def _count(self, arguments: dict[str, Any], reply: Reply) -> None:
        left = list(range(arguments["to"]))

        def tell() -> None:
            if left:
                reply.line(left.pop(0))
                self.loop.call_soon(tell)
            else:
                reply.done("end")

        tell()

    def _flood(self, _arguments: dict[str, Any], reply: Reply) -> None:
        for _ in range(200):
            reply.line("x" * 60_000)

    def _hold(self, _arguments: dict[str, Any], reply: Reply) -> None:
        reply.on_close(self.gone.set)
        self.replies.append(reply)
        reply.line("held")

    def _refuse(self, _arguments: dict[str, Any], _reply: Reply) -> None:
        raise PeerUnreachableError("bob is offline", "wait for bob")


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    return tmp_path / "run"


@pytest.fixture
def daemon(run_dir: Path) -> Iterator[Daemon]:
    daemon = Daemon(run_dir)
    yield daemon
    daemon.stop()


@pytest.fixture
def client(run_dir: Path) -> ControlClient:
    return ControlClient(run_dir)


def raw(daemon: Daemon) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX)
    connection.connect(str(daemon.server.path))
    connection.settimeout(10)
    return connection


def until_closed(connection: socket.socket) -> bytes:
    received = b""
    while chunk := connection.recv(65536):
        received += chunk
    return received


def test_an_answer_comes_back(daemon: Daemon, client: ControlClient) -> None:
    assert client.call("echo", name="bob", count=3) == {"name": "bob", "count": 3}


def test_lines_stream_one_by_one_and_the_last_is_marked(daemon: Daemon, client: ControlClient) -> None:
    assert list(client.stream("count", 10, to=3)) == [0, 1, 2, "end"]


def test_an_operational_error_reaches_the_client_with_its_family_and_hint(
    daemon: Daemon, client: ControlClient
) -> None:
    with pytest.raises(PeerUnreachableError, match="bob is offline") as caught:
        client.call("refuse")
    assert caught.value.hint == "wait for bob"


def test_a_defect_in_a_handler_and_an_unknown_request_cost_the_daemon_nothing(
    daemon: Daemon, client: ControlClient
) -> None:
    for request in ("break", "no-such-request"):
        with pytest.raises(OperationalError):
            client.call(request)
    assert client.call("echo") == {}


@pytest.mark.parametrize(
    "garbage",
    [
        b"\n",
        b"not json\n",
        b"[]\n",
        b'{"request": 5}\n',
        b'{"request": "echo", "arguments": []}\n',
        b"\xff\xfe\x00\n",
        b"[" * 60_000 + b"\n",
        b"x" * (MAX_LINE + 1),
    ],
)
def test_garbage_is_answered_with_an_error_and_a_closed_connection(daemon: Daemon, garbage: bytes) -> None:
    with raw(daemon) as connection:
        connection.sendall(garbage)
        answer = json.loads(until_closed(connection).splitlines()[-1])
    assert answer["final"]
    assert answer["error"]["message"]


def test_requests_may_follow_each_other_on_one_connection(daemon: Daemon) -> None:
    line = b'{"request": "echo", "arguments": {"n": 1}}\n'
    with raw(daemon) as connection:
        connection.sendall(line + line)
        connection.shutdown(socket.SHUT_WR)
        assert until_closed(connection).count(b'"n":1') >= 1


def test_a_client_that_leaves_ends_the_work_for_it(daemon: Daemon) -> None:
    with raw(daemon) as connection:
        connection.sendall(b'{"request": "hold"}\n')
        assert b"held" in connection.recv(1000)
    assert daemon.gone.wait(10)
    assert daemon.replies[0].closed
    daemon.replies[0].done("nobody listens")


def test_a_client_that_does_not_read_is_cut_off_and_the_rest_served(daemon: Daemon, client: ControlClient) -> None:
    with raw(daemon) as connection:
        connection.sendall(b'{"request": "flood"}\n')
        assert client.call("echo", n=1) == {"n": 1}
        assert len(until_closed(connection)) < 200 * 60_000


def test_only_so_many_clients_are_served_at_once(daemon: Daemon, client: ControlClient) -> None:
    held = [raw(daemon) for _ in range(MAX_CONNECTIONS)]
    assert client.running()  # everyone before it has been accepted: the kernel keeps the order
    with pytest.raises(OperationalError):
        client.call("echo")
    for connection in held:
        connection.close()
    while True:  # the daemon notices in its own time
        try:
            assert client.call("echo") == {}
        except OperationalError:
            continue
        break


def test_only_the_owner_and_the_group_can_open_the_socket(daemon: Daemon) -> None:
    assert stat.S_IMODE(daemon.server.path.stat().st_mode) == 0o660


def test_a_second_daemon_is_refused_while_the_first_lives(daemon: Daemon, run_dir: Path) -> None:
    with Loop() as loop, pytest.raises(OperationalError, match="already up"):
        ControlServer(loop, run_dir, {}).start()


def test_a_socket_left_behind_is_replaced(run_dir: Path, client: ControlClient) -> None:
    run_dir.mkdir()
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(run_dir / "node.sock"))
    assert not client.running()
    daemon = Daemon(run_dir)
    try:
        assert client.call("echo") == {}
    finally:
        daemon.stop()


def test_leftovers_are_removed_but_never_those_of_a_living_daemon(run_dir: Path, client: ControlClient) -> None:
    client.remove_leftovers()
    assert not run_dir.exists()
    daemon = Daemon(run_dir)
    client.remove_leftovers()
    assert client.call("echo") == {}
    daemon.stop()
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(client.path))
    client.remove_leftovers()
    assert not client.path.exists()


def test_without_a_daemon_the_client_says_how_to_start_one(client: ControlClient) -> None:
    assert not client.running()
    with pytest.raises(NotUpError, match="not up") as caught:
        client.call("status")
    assert "cyphonic up" in caught.value.hint


def test_an_unknown_group_is_a_configuration_error(run_dir: Path) -> None:
    with Loop() as loop:
        server = ControlServer(loop, run_dir, {}, group="no-such-group-here")
        with pytest.raises(ConfigurationError, match="no-such-group-here"):
            server.start()
        server.close()


def test_one_client_too_many_is_told_so(daemon: Daemon, client: ControlClient) -> None:
    held = [raw(daemon) for _ in range(MAX_CONNECTIONS)]
    assert client.running()
    with pytest.raises(OperationalError, match="too many commands"):
        client.call("echo")
    for connection in held:
        connection.close()


def test_a_client_that_asks_nothing_does_not_keep_its_place(
    run_dir: Path, client: ControlClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cyphonic.node.control.IDLE", 0.05)
    daemon = Daemon(run_dir)
    try:
        with raw(daemon) as idle, raw(daemon) as asking:
            asking.sendall(b'{"request": "hold"}\n')
            assert until_closed(idle) == b""
            assert client.running()
            assert len(daemon.server._connections) >= 1  # who waits for an answer stays
    finally:
        daemon.stop()


@pytest.mark.parametrize("whole", [False, True])
def test_a_socket_that_somebody_has_removed_comes_back(
    run_dir: Path, client: ControlClient, monkeypatch: pytest.MonkeyPatch, whole: bool
) -> None:
    monkeypatch.setattr("cyphonic.node.control.CHECK_INTERVAL", 0.05)
    daemon = Daemon(run_dir)
    try:
        shutil.rmtree(run_dir) if whole else daemon.server.path.unlink()
        deadline = time.monotonic() + 10
        while not client.running():
            assert time.monotonic() < deadline
        assert client.call("echo", n=1) == {"n": 1}
    finally:
        daemon.stop()


def test_a_daemon_that_ends_leaves_the_socket_of_another_one(run_dir: Path) -> None:
    with Loop() as loop:
        server = ControlServer(loop, run_dir, {})
        server.start()
        server.path.unlink()
        server.path.touch()
        server.close()
    assert server.path.exists()


def test_a_daemon_that_is_stuck_is_named_with_the_way_to_end_it(run_dir: Path, client: ControlClient) -> None:
    run_dir.mkdir(exist_ok=True)
    with socket.socket(socket.AF_UNIX) as stuck:
        stuck.bind(str(client.path))
        stuck.listen()
        with pytest.raises(OperationalError, match=rf"process {os.getpid()}\) does not answer") as caught:
            client.call("down", timeout=0.05)
    assert f"kill -9 {os.getpid()}" in caught.value.hint
