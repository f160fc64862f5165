"""The commands against a control server that plays the daemon."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from cyphonic.cli import main
from cyphonic.errors import PeerUnreachableError
from cyphonic.node.control import ControlServer, Reply
from cyphonic.node.loop import Loop
from cyphonic.node.status import Addresses, PingSummary, Pong, Progress, Status

JOINED = Status(state="joined", name="alice", fqdn="alice.home.x", ipv6="fd77::5", ipv4="10.77.0.5")


class Daemon:
    """Answers like one."""

    def __init__(self, run_dir: Path) -> None:
        self.loop = Loop()
        self.answers = True
        self.joins = True
        self.crashes: threading.Event | None = None
        """At the first wait, when this is set."""
        self.server = ControlServer(
            self.loop,
            run_dir,
            {
                "status": lambda _, reply: reply.done(JOINED),
                "ping": self._ping,
                "ip": self._ip,
                "wait": self._wait,
                "down": self._down,
            },
        )
        self.server.start()
        self.thread = threading.Thread(target=self._run)
        self.thread.start()

    def stop(self) -> None:
        if self.thread.is_alive():
            self.loop.stop()
            # It may have woken, and ended, by itself.
            with socket.socket(socket.AF_UNIX) as poke, suppress(FileNotFoundError, ConnectionRefusedError):
                poke.connect(str(self.server.path))
        self.thread.join(10)
        self.loop.close()

    def _run(self) -> None:
        self.loop.run()
        self.server.close()

    def _ping(self, arguments: dict[str, Any], reply: Reply) -> None:
        for number in range(1, arguments["count"] + 1):
            rtt = 0.001 * number if self.answers else None
            reply.line(Pong(number, arguments["name"], "fd77::9", rtt, "direct", "192.0.2.2:7700"))
        reply.done(PingSummary(arguments["name"], arguments["count"], arguments["count"] if self.answers else 0))

    def _ip(self, arguments: dict[str, Any], reply: Reply) -> None:
        if arguments["name"] == "eve":
            raise PeerUnreachableError("there is no node eve")
        reply.done(Addresses(arguments["name"] or "alice", "fd77::5", ""))

    def _wait(self, _: dict[str, Any], reply: Reply) -> None:
        reply.line(Progress("logging-in"))
        if self.crashes:
            self.crashes.wait(10)
            self.loop.stop()
            return
        if not self.joins:
            return
        reply.done(Progress("joined"))

    def _down(self, _: dict[str, Any], reply: Reply) -> None:
        reply.done()
        self.loop.call_soon(self.loop.stop)


@pytest.fixture(autouse=True)
def _directories(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CYPHONIC_NODE_RUN_DIR", str(tmp_path / "run"))
    monkeypatch.setenv("CYPHONIC_NODE_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.setattr("cyphonic.node.config.NODE_FILE", tmp_path / "absent.toml")
    monkeypatch.setattr("cyphonic.node.cli._require_privilege", lambda: None)


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    daemon = Daemon(tmp_path / "run")
    yield daemon
    daemon.stop()


def run(*arguments: str) -> Result:
    return CliRunner().invoke(main, arguments)


def test_status_is_a_table_for_people_and_json_with_a_version_for_programs(daemon: Daemon) -> None:
    assert "alice.home.x" in run("status").stdout
    document = json.loads(run("status", "--json").stdout)
    assert (document["schema_version"], document["state"]) == (1, "joined")


def test_ping_shows_every_answer_and_a_summary(daemon: Daemon) -> None:
    result = run("ping", "bob", "-c", "2")
    assert result.exit_code == 0
    assert result.stdout.count("direct through 192.0.2.2:7700") == 2
    assert "2 sent, 2 answered, 0 % lost" in result.stdout
    lines = [json.loads(line) for line in run("ping", "bob", "-c", "2", "--json").stdout.splitlines()]
    assert [line.get("sequence") for line in lines] == [1, 2, None]
    assert lines[2]["received"] == 2


def test_a_ping_without_an_answer_ends_with_5(daemon: Daemon) -> None:
    daemon.answers = False
    assert run("ping", "bob").exit_code == 5


def test_ip_prints_one_address_a_line(daemon: Daemon) -> None:
    assert run("ip").stdout == "fd77::5\n"
    assert run("ip", "bob", "-6").stdout == "fd77::5\n"
    assert run("ip", "bob", "-4").exit_code == 1
    assert json.loads(run("ip", "bob", "--json").stdout)["name"] == "bob"
    assert run("ip", "eve").exit_code == 5


def test_wait_returns_once_joined(daemon: Daemon) -> None:
    assert run("wait", "--timeout", "10").exit_code == 0
    assert json.loads(run("wait", "--json").stdout)["state"] == "joined"


def test_wait_outlives_a_daemon_that_ends_and_comes_back(tmp_path: Path) -> None:
    first = Daemon(tmp_path / "run")
    first.crashes = threading.Event()
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(run, "wait", "--timeout", "20")
        first.crashes.set()
        first.thread.join(10)
        first.loop.close()
        second = Daemon(tmp_path / "run")
        try:
            assert waiting.result(20).exit_code == 0
        finally:
            second.stop()


def test_wait_ends_with_4_when_the_node_is_not_joined_in_time(daemon: Daemon) -> None:
    daemon.joins = False
    result = run("wait", "--timeout", "0")
    assert result.exit_code == 4
    assert "not joined in time" in result.stderr


def test_up_says_when_it_is_up_already(daemon: Daemon, tmp_path: Path) -> None:
    result = run("up")
    assert (result.exit_code, result.stdout) == (0, "already up: alice.home.x, registered\n")
    assert run("up", "--enrol", str(tmp_path / "bundle")).exit_code == 1


def test_down_ends_the_daemon_and_a_second_one_says_that_there_was_none(daemon: Daemon) -> None:
    assert run("down").stdout == "this node has left the overlay\n"
    again = run("down")
    assert (again.exit_code, again.stdout) == (0, "this node was not up\n")


@pytest.mark.parametrize("command", [("status",), ("ping", "bob"), ("ip",), ("wait",), ("wait", "--timeout", "0")])
def test_without_a_daemon_every_command_says_how_to_start_one(command: tuple[str, ...]) -> None:
    result = run(*command)
    assert result.exit_code == 1
    assert "this node is not up" in result.stderr
    assert "cyphonic up" in result.stderr


@pytest.mark.parametrize("flags", [(), ("--foreground",)])
def test_up_without_a_bundle_on_a_new_machine_ends_with_3(flags: tuple[str, ...]) -> None:
    result = run("up", *flags)
    assert result.exit_code == 3
    assert "--enrol FILE" in result.stderr


def test_up_with_a_broken_or_missing_bundle_or_name_ends_with_2(tmp_path: Path) -> None:
    broken = tmp_path / "bundle.toml"
    broken.write_text("nonsense")
    assert run("up", "--enrol", str(broken)).exit_code == 2
    assert run("up", "--enrol", str(tmp_path / "absent")).exit_code == 2
    assert CliRunner().invoke(main, ["up", "--enrol", "-"], input="").exit_code == 2
    assert run("up", "--name", "Not A Name").exit_code == 2


def test_a_broken_configuration_file_ends_with_2_and_names_the_key(tmp_path: Path) -> None:
    file = tmp_path / "node.toml"
    file.write_text("[node]\nmtu = 3\n")
    result = run("status", "--config", str(file))
    assert result.exit_code == 2
    assert "mtu" in result.stderr


def test_up_without_privilege_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    monkeypatch.setattr("cyphonic.node.cli._CAP_NET_ADMIN", 63)  # a capability that nobody has
    result = run("up")
    assert result.exit_code == 1
    assert "run as root" in result.stderr
