from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from cyphonic.errors import OperationalError
from cyphonic.node.config import DnsMode, NodeConfig
from cyphonic.node.dns import Dns
from cyphonic.node.dns_setup import DnsSetup, is_private, run_command
from cyphonic.node.loop import Loop
from cyphonic.node.resolvconf import ResolvConf
from cyphonic.wire.endpoint import Endpoint

SERVER = Endpoint("127.53.53.53", 53)
ZONE = "home.cyphonic.internal"
PLAIN = "nameserver 192.0.2.53\n"
STUB = "nameserver 127.0.0.53\noptions edns0 trust-ad\n"


class Machine:
    """A resolv.conf of its own and a resolvectl that notes what it is told."""

    def __init__(self, directory: Path, text: str, *, resolvectl_works: bool = True) -> None:
        self.file = directory / "resolv.conf"
        self.file.write_text(text)
        self.commands: list[str] = []
        self._resolvectl_works = resolvectl_works
        self._state_dir = directory / "state"

    def setup(
        self, mode: DnsMode = "auto", *, isolated: bool = False, clock: Callable[[], float] = time.monotonic
    ) -> DnsSetup:
        resolv_conf = ResolvConf(self._state_dir, self.file)
        return DnsSetup(mode, "cyphonic0", resolv_conf, run=self._run, isolated=isolated, clock=clock)

    def _run(self, command: Sequence[str]) -> None:
        self.commands.append(" ".join(command))
        if not self._resolvectl_works:
            raise OperationalError("resolvectl: no such bus")


def test_systemd_resolved_is_preferred_and_resolv_conf_left_alone(tmp_path: Path) -> None:
    machine = Machine(tmp_path, STUB)
    setup = machine.setup()
    setup.apply(SERVER, ZONE, ["77.10.in-addr.arpa"])
    assert setup.mode == "systemd-resolved"
    assert machine.commands[:2] == [
        "resolvectl dns cyphonic0 127.53.53.53",
        f"resolvectl domain cyphonic0 {ZONE} ~77.10.in-addr.arpa",
    ]
    assert machine.file.read_text() == STUB
    setup.revert()
    assert machine.commands[-1] == "resolvectl revert cyphonic0"


def test_without_systemd_resolved_it_is_resolv_conf_and_back(tmp_path: Path) -> None:
    machine = Machine(tmp_path, PLAIN)
    setup = machine.setup()
    assert setup.upstreams(SERVER) == [Endpoint("192.0.2.53", 53)]
    setup.apply(SERVER, ZONE, [])
    assert setup.mode == "resolv.conf"
    assert "nameserver 127.53.53.53" in machine.file.read_text()
    assert setup.upstreams(SERVER) == [Endpoint("192.0.2.53", 53)]
    setup.revert()
    setup.revert()
    assert machine.file.read_text() == PLAIN
    assert not machine.commands


def test_a_systemd_resolved_that_fails_falls_back_to_resolv_conf(tmp_path: Path) -> None:
    machine = Machine(tmp_path, STUB, resolvectl_works=False)
    setup = machine.setup()
    setup.apply(SERVER, ZONE, [])
    assert setup.mode == "resolv.conf"


def test_a_missing_command_is_an_operational_error() -> None:
    with pytest.raises(OperationalError, match="no command"):
        run_command(["no-such-command-here"])
    with pytest.raises(OperationalError, match="false"):
        run_command(["false"])


@pytest.mark.parametrize(
    ("mode", "text", "reason"),
    [("off", PLAIN, "switched off"), ("systemd-resolved", PLAIN, "not in use")],
)
def test_status_says_why_there_is_no_dns(tmp_path: Path, mode: DnsMode, text: str, reason: str) -> None:
    machine = Machine(tmp_path, text)
    setup = machine.setup(mode)
    setup.apply(SERVER, ZONE, [])
    assert setup.mode.startswith("none: ")
    assert reason in setup.mode
    assert machine.file.read_text() == text


def test_resolv_conf_cannot_name_another_port(tmp_path: Path) -> None:
    setup = Machine(tmp_path, PLAIN).setup()
    setup.apply(Endpoint("127.53.53.53", 5353), ZONE, [])
    assert "5353" in setup.mode


def test_a_resolv_conf_replaced_by_a_dhcp_client_is_taken_over_again_with_its_servers(tmp_path: Path) -> None:
    machine = Machine(tmp_path, PLAIN)
    setup = machine.setup()
    setup.apply(SERVER, ZONE, [])
    setup.refresh()
    assert setup.upstreams(SERVER) == [Endpoint("192.0.2.53", 53)]
    machine.file.write_text("nameserver 198.51.100.53\n")
    setup.refresh()
    assert setup.upstreams(SERVER) == [Endpoint("198.51.100.53", 53)]
    assert "127.53.53.53" in machine.file.read_text()
    setup.revert()
    assert machine.file.read_text() == "nameserver 198.51.100.53\n"


def test_the_next_start_puts_right_what_a_killed_process_has_left(tmp_path: Path) -> None:
    machine = Machine(tmp_path, PLAIN)
    machine.setup().apply(SERVER, ZONE, [])
    later = machine.setup()
    assert later.clean_up()
    assert not later.clean_up()
    assert machine.file.read_text() == PLAIN


def test_a_damaged_backup_does_not_keep_a_node_from_starting(tmp_path: Path) -> None:
    machine = Machine(tmp_path, PLAIN)
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / "resolv.conf.backup").write_text("{")
    assert not machine.setup().clean_up()


def test_the_whole_serves_reports_and_leaves_no_trace(tmp_path: Path) -> None:
    machine = Machine(tmp_path, PLAIN)
    config = NodeConfig(dns_address=Endpoint("127.53.53.53", 0))
    with Loop() as loop:
        setup = machine.setup()
        dns = Dns(loop, config, "cyphonic0", state_dir=tmp_path / "state", setup=setup)
        dns.start()
        for _ in range(2):  # every login reports the same again
            dns.serve(
                ZONE, "fd77:1:2::/48", "10.77.0.0/16", lambda _name, _done: None, lambda _address, _done: None
            )
        status = dns.status()
        assert (status.zone, status.upstreams) == (ZONE, ["192.0.2.53:53"])
        assert status.address.startswith("127.53.53.53:")
        dns.close()
        dns.close()
    assert machine.file.read_text() == PLAIN
    assert dns.status().address == ""


def test_a_file_is_private_when_process_1_sees_another_one_or_none(tmp_path: Path) -> None:
    inside = tmp_path / "resolv.conf"
    inside.write_text(PLAIN)
    outside = tmp_path / "root"
    twin = outside / inside.relative_to("/")
    twin.parent.mkdir(parents=True)
    assert is_private(inside, outside)
    twin.hardlink_to(inside)
    assert not is_private(inside, outside)
    twin.unlink()
    twin.write_text(PLAIN)
    assert is_private(inside, outside)
    assert not is_private(inside, tmp_path / "hidden")
    assert not is_private(tmp_path / "missing", outside)


class Clock:
    """Stands still until it is told."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_a_program_that_replaces_resolv_conf_again_and_again_is_left_alone_for_a_while(tmp_path: Path) -> None:
    machine = Machine(tmp_path, PLAIN)
    clock = Clock()
    setup = machine.setup(clock=clock)
    setup.apply(SERVER, ZONE, [])
    written = 0
    for _ in range(120):  # ten minutes
        machine.file.write_text("nameserver 10.8.0.1\n")
        setup.refresh()
        written += "127.53.53.53" in machine.file.read_text()
        clock.now += 5
    assert written == 3
    assert "another program keeps replacing" in setup.mode
    assert machine.file.read_text() == "nameserver 10.8.0.1\n"
    clock.now += 60  # the truce is over, and so is the other
    setup.refresh()
    assert setup.mode == "resolv.conf"
    setup.revert()
    assert machine.file.read_text() == "nameserver 10.8.0.1\n"


def test_a_resolv_conf_that_is_replaced_once_a_day_is_always_taken_over_again(tmp_path: Path) -> None:
    machine = Machine(tmp_path, PLAIN)
    clock = Clock()
    setup = machine.setup(clock=clock)
    setup.apply(SERVER, ZONE, [])
    for day in range(1, 10):
        machine.file.write_text(f"nameserver 198.51.100.{day}\n")
        setup.refresh()
        assert setup.mode == "resolv.conf"
        assert setup.upstreams(SERVER) == [Endpoint(f"198.51.100.{day}", 53)]
        clock.now += 86400


def test_a_resolv_conf_that_cannot_be_written_is_tried_again_and_said_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    machine = Machine(tmp_path, PLAIN)
    machine.file.unlink()
    machine.file.mkdir()
    clock = Clock()
    setup = machine.setup(clock=clock)
    setup.apply(SERVER, ZONE, [])
    for _ in range(24):
        clock.now += 5
        setup.refresh()
    assert "cannot be written" in setup.mode
    assert len(caplog.records) == 1
    machine.file.rmdir()
    machine.file.write_text(PLAIN)
    clock.now += 60
    setup.refresh()
    assert setup.mode == "resolv.conf"


def test_a_damaged_backup_while_running_ends_nothing_and_keeps_the_servers(tmp_path: Path) -> None:
    machine = Machine(tmp_path, PLAIN)
    setup = machine.setup()
    assert setup.upstreams(SERVER) == [Endpoint("192.0.2.53", 53)]
    setup.apply(SERVER, ZONE, [])
    (tmp_path / "state" / "resolv.conf.backup").write_text("{")
    setup.refresh()
    assert setup.upstreams(SERVER) == [Endpoint("192.0.2.53", 53)]
