"""A node on a machine where things go wrong: it says what, leaves nothing half-written, and goes on if it can."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cyphonic.lab.build import Lab
from cyphonic.lab.topology import load_topology
from tests.netns.machine import Machine, resident, until
from tests.netns.site import Site

pytestmark = pytest.mark.root

DAY = 86400
WRONG_CLOCK = str(Path(__file__).parent / "wrong_clock")
ORIGINAL = "# from DHCP\nnameserver 203.0.113.53\noptions timeout:1 attempts:1\n"
VPN = "# from another VPN\nnameserver 203.0.113.54\n"
MANY = int(os.environ.get("CYPHONIC_TEST_PACKETS", "30000"))
"""Packets through the tunnel; a tenth as many DNS questions."""
NAP = float(os.environ.get("CYPHONIC_TEST_NAP", "6"))
"""Seconds for which a node is stopped."""
OURS = "nameserver 127.53.53.53"


@pytest.fixture(scope="module")
def site(laboratory_ground: None) -> Iterator[Site]:
    with Lab(load_topology("two-nodes")) as lab:
        site = Site(lab)
        site.deployment.join("bob")
        yield site
        site.deployment.stop_cluster()


@pytest.fixture
def alice(site: Site) -> Iterator[Machine]:
    with Machine(site, "alice") as machine:
        machine.resolv_conf.write_text(ORIGINAL)
        yield machine


# A disk that is full, read-only, or has lost what was on it.


def test_a_disk_that_is_full_at_the_first_start_is_said_and_leaves_nothing(alice: Machine) -> None:
    enrol = alice.enrolment("small")
    with alice.mounted_state("size=16k"):
        alice.shell(f"cat /dev/zero > {alice.state}/ballast")
        result = alice.cyphonic("up", *enrol)
        assert result.returncode == 1
        assert "node.json cannot be written: No space left on device" in result.stderr
        assert "make room" in result.stderr
        assert alice.shell(f"ls -A {alice.state}").split() == ["ballast", "node.log"]
        alice.assert_clean(ORIGINAL)
        alice.shell(f"rm {alice.state}/ballast")
        assert alice.cyphonic("up", *enrol).returncode == 0, "the enrolment key is not spent"


def test_a_disk_that_fills_up_later_costs_no_tunnel_and_is_said_until_there_is_room(alice: Machine) -> None:
    enrol = alice.enrolment("full")
    with alice.mounted_state("size=64k"):
        alice.up(*enrol)
        alice.kill()
        alice.shell(f"cat /dev/zero > {alice.state}/ballast")
        alice.up()
        assert alice.reaches("bob")
        assert "No space left on device" in alice.status()["troubles"][0]
        assert "No space left on device" in alice.cyphonic("status").stdout
        alice.shell(f"rm {alice.state}/ballast")
        until(lambda: not alice.status()["troubles"])
        stamp = json.loads(alice.shell(f"cat {alice.state}/node.json"))["stamp"]
        assert stamp > time.time_ns() - 300 * 10**9, "what could not be saved then is saved now"


def test_a_disk_that_is_read_only_keeps_nobody_out(alice: Machine) -> None:
    alice.up()
    assert alice.cyphonic("down").returncode == 0
    alice.shell(f"mount --bind {alice.state} {alice.state} && mount -o remount,ro,bind {alice.state}")
    result = alice.up()
    assert "there will be no log" in result.stderr
    assert alice.reaches("bob")
    assert "Read-only file system" in alice.status()["troubles"][0]
    assert alice.cyphonic("down").returncode == 0
    alice.shell(f"umount {alice.state}")
    alice.assert_clean(ORIGINAL)


def test_a_damaged_state_file_is_named_and_not_touched(alice: Machine) -> None:
    alice.up()
    assert alice.cyphonic("down").returncode == 0
    file = alice.state / "node.json"
    whole = file.read_bytes()
    file.write_bytes(whole[:40])
    result = alice.cyphonic("up")
    assert result.returncode == 1
    assert "node.json is damaged" in result.stderr
    assert "cyphonic up --enrol" in result.stderr
    assert file.read_bytes() == whole[:40]
    alice.assert_clean(ORIGINAL)
    file.write_bytes(whole)
    alice.up()


# No descriptors.


def test_a_daemon_out_of_descriptors_keeps_its_tunnels_and_recovers(alice: Machine) -> None:
    alice.up()
    assert alice.reaches("bob")
    address = alice.site.deployment.ask("bob", "ip")["ipv6"]
    pid = alice.pid
    used = len(os.listdir(f"/proc/{pid}/fd"))
    alice.run("prlimit", f"--pid={pid}", f"--nofile={used + 4}:4096")
    asking = [dial(alice) for _ in range(40)]
    until(lambda: "no connection can be taken now" in (alice.state / "node.log").read_text())
    assert alice.run("ping", "-6", "-c3", "-i0.2", "-W2", address).returncode == 0
    alice.site.lab.renumber("alice")  # it cannot even ask the kernel what has changed
    for connection in asking:
        connection.close()
    alice.run("prlimit", f"--pid={pid}", "--nofile=1024:4096")
    assert until(lambda: alice.cyphonic("status").returncode == 0)
    until(lambda: alice.reaches("bob"))
    assert alice.pid == pid
    log = (alice.state / "node.log").read_text()
    assert "Traceback" not in log
    assert log.count("no connection can be taken now") <= 3, "said, and not again and again"


def dial(machine: Machine) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX)
    connection.setblocking(False)
    connection.connect(str(machine.directory / "run" / "node.sock"))
    return connection


# kill -9, stops, doubles, and tidy people.


@pytest.mark.parametrize(
    "moment",
    [
        "test -e {directory}/run/node.lock",
        "test -S {directory}/run/node.sock",
        "ip link show cyphonic0",
        "grep -q 'logged in' {directory}/log",
        "ip route show dev cyphonic0 | grep -q 10.77",
        "grep -q 127.53.53.53 /etc/resolv.conf",
        "grep -q event=registered {directory}/log",
    ],
)
def test_a_kill_9_at_any_moment_leaves_nothing_that_down_does_not_take_away(alice: Machine, moment: str) -> None:
    if not (alice.state / "node.json").exists():
        alice.up()
        assert alice.cyphonic("down").returncode == 0
    log = alice.directory / "log"
    with log.open("wb") as stream:
        daemon = subprocess.Popen(
            alice.argv(*alice.site.deployment.argv("up", "--foreground")),
            env=alice.site.lab.environment("alice"),
            stdin=subprocess.DEVNULL,
            stderr=stream,
        )
        condition = moment.format(directory=alice.directory)
        alice.shell(f"while ! {{ {condition}; }} >/dev/null 2>&1; do :; done")
        daemon.kill()
        daemon.wait()
    assert alice.cyphonic("status").returncode == 1
    assert alice.cyphonic("down").returncode == 0
    alice.assert_clean(ORIGINAL)


def test_after_a_kill_9_the_next_up_starts_from_the_right_resolv_conf(alice: Machine) -> None:
    alice.up()
    alice.kill()
    assert OURS in alice.resolv_conf.read_text()
    alice.up()
    assert alice.status()["dns"]["upstreams"] == ["203.0.113.53:53"]
    assert alice.cyphonic("down").returncode == 0
    alice.assert_clean(ORIGINAL)


def test_two_daemons_at_once_are_one_and_a_clear_no(alice: Machine) -> None:
    alice.up()
    before = (alice.state / "node.json").read_bytes()
    other = alice.directory / "other.toml"
    text = alice.site.bundle("alice").read_text()
    other.write_text(re.sub(r'as_key = ".*"', 'as_key = "' + "A" * 43 + '="', text))
    for words in ((), ("--enrol", str(other))):
        result = alice.cyphonic("up", "--foreground", *words)
        assert result.returncode == 1
        assert "already up" in result.stderr
    assert "already up" in alice.cyphonic("up").stdout
    assert (alice.state / "node.json").read_bytes() == before
    assert alice.reaches("bob")


def test_a_run_directory_that_somebody_has_removed_comes_back(alice: Machine) -> None:
    alice.up()
    pid = alice.pid
    shutil.rmtree(alice.directory / "run")
    assert alice.cyphonic("wait", "--timeout", "20").returncode == 0
    assert alice.pid == pid


def test_a_node_that_was_stopped_works_again_within_seconds(alice: Machine) -> None:
    alice.up()
    assert alice.reaches("bob")
    pid = alice.pid
    os.kill(pid, signal.SIGSTOP)
    alice.run("ping", "-6", "-i1", "-w", f"{NAP:.0f}", alice.site.deployment.ask("bob", "ip")["ipv6"])
    os.kill(pid, signal.SIGCONT)
    started = time.monotonic()
    until(lambda: alice.reaches("bob"))
    print(f"back {time.monotonic() - started:.1f} s after {NAP:.0f} s")
    until(lambda: alice.status()["state"] == "joined")
    print(f"joined {time.monotonic() - started:.1f} s after {NAP:.0f} s")


# Other programs that think that resolv.conf is theirs.


def by_rename(machine: Machine, text: str) -> None:
    draft = machine.etc / "resolv.conf.vpn"
    draft.write_text(text)
    draft.replace(machine.resolv_conf)


def by_link(machine: Machine, text: str) -> None:
    (machine.etc / "vpn-resolv.conf").write_text(text)
    machine.resolv_conf.unlink()
    machine.resolv_conf.symlink_to("vpn-resolv.conf")


@pytest.mark.parametrize("replace", [by_rename, by_link])
def test_another_vpn_that_comes_and_goes_is_followed_and_gets_its_file_back(
    alice: Machine, replace: Callable[[Machine, str], None]
) -> None:
    alice.up()
    ours = alice.resolv_conf.read_text()
    replace(alice, VPN)
    until(lambda: alice.status()["dns"]["upstreams"] == ["203.0.113.54:53"])
    assert OURS in alice.resolv_conf.read_text()
    by_rename(alice, ours)  # it ends, and puts back what it had found
    until(lambda: alice.status()["dns"]["upstreams"] == ["203.0.113.53:53"])
    assert alice.cyphonic("down").returncode == 0
    alice.assert_clean(ORIGINAL)


def test_another_vpn_that_stays_gets_its_own_file_back_and_ours_never_again(alice: Machine) -> None:
    alice.up()
    ours = alice.resolv_conf.read_text()
    by_link(alice, VPN)
    until(lambda: alice.status()["dns"]["upstreams"] == ["203.0.113.54:53"])
    assert alice.cyphonic("down").returncode == 0
    assert alice.resolv_conf.readlink() == Path("vpn-resolv.conf")
    alice.assert_clean(VPN)
    by_rename(alice, ours)  # it ends after us
    assert "put /etc/resolv.conf back" in alice.cyphonic("down").stdout
    alice.assert_clean(ORIGINAL)


def test_a_program_that_insists_on_its_resolv_conf_is_left_alone_and_named_in_status(alice: Machine) -> None:
    alice.up()
    insisting = subprocess.Popen(
        alice.argv("sh", "-c", f'while sleep 0.2; do printf "{VPN}" > /etc/resolv.conf; done'.replace("\n", "\\n")),
        stdin=subprocess.DEVNULL,
        process_group=0,
    )
    try:
        until(lambda: "another program keeps replacing /etc/resolv.conf" in alice.status()["dns"]["mode"], 40)
        assert "another program keeps replacing" in alice.cyphonic("status").stdout
        assert alice.resolv_conf.read_text() == VPN
        assert alice.reaches("bob"), "cyphonic itself knows names all the same"
    finally:
        os.killpg(insisting.pid, signal.SIGKILL)
        insisting.wait()
    assert alice.cyphonic("down").returncode == 0
    alice.assert_clean(VPN)


def test_a_resolv_conf_that_cannot_be_written_is_said_and_left_alone(alice: Machine) -> None:
    alice.shell("touch /etc/locked; mount --bind /etc/resolv.conf /etc/resolv.conf")
    alice.shell("mount -o remount,ro,bind /etc/resolv.conf")
    result = alice.up()
    assert "names do not resolve here" in result.stdout
    assert "/etc/resolv.conf cannot be written: Read-only file system" in result.stdout
    assert alice.reaches("bob")
    assert alice.cyphonic("down").returncode == 0
    alice.assert_clean(ORIGINAL)


def test_a_resolv_conf_that_is_locked_meanwhile_is_said_by_down_with_the_way_out(alice: Machine) -> None:
    alice.up()
    alice.shell("mount --bind /etc/resolv.conf /etc/resolv.conf; mount -o remount,ro,bind /etc/resolv.conf")
    result = alice.cyphonic("down")
    assert result.returncode == 1
    assert "cannot be put back as it was: Read-only file system" in result.stderr
    assert "resolv.conf.backup" in result.stderr
    alice.shell("umount /etc/resolv.conf")
    assert "put /etc/resolv.conf back" in alice.cyphonic("down").stdout
    alice.assert_clean(ORIGINAL)


# The wrong time.


@pytest.mark.parametrize("off", [DAY, -DAY])
def test_a_clock_that_is_wrong_by_a_day_keeps_no_node_from_joining_and_working(alice: Machine, off: int) -> None:
    alice.up(PYTHONPATH=WRONG_CLOCK, CYPHONIC_TEST_CLOCK=str(off))
    log = (alice.state / "node.log").read_text().splitlines()
    shown = time.strftime("%Y-%m-%d", time.gmtime(time.time() + off))
    assert f"time={shown}" in log[-1], "its clock is wrong indeed"
    assert alice.reaches("bob")
    assert alice.site.cyphonic("bob", "ping", "alice", "-c", "1").returncode == 0


# A long time.


def test_memory_stays_flat_over_many_packets_and_questions(alice: Machine) -> None:
    alice.up()
    address = alice.site.deployment.ask("bob", "ip")["ipv6"]
    packets, questions = MANY // 5, MANY // 50
    flood = ["ping", "-6", "-q", "-f", "-c", str(packets), "-s", "64", address]
    ask = ["python3", "-c", QUESTIONS, str(questions)]
    assert alice.reaches("bob")
    for command in (flood, ask):  # caches fill
        assert alice.run(*command).returncode == 0
    before = resident(alice.pid)
    for _ in range(4):
        for command in (flood, ask):
            assert alice.run(*command).returncode == 0
    grown = resident(alice.pid) - before
    print(f"grown by {grown / 1024:.0f} KiB from {before / 2**20:.1f} MiB over {MANY} packets")
    assert alice.status()["peers"][0]["tx_packets"] >= 4 * packets
    assert grown < 2**20


QUESTIONS = r"""
import socket, struct, sys
def question(number):
    name = ("bob", "nobody-%d" % (number % 50), "host-%d" % number)[number % 3]
    zone = ("lab.cyphonic.internal", "lab.cyphonic.internal", "example.invalid")[number % 3]
    labels = b"".join(bytes([len(part)]) + part.encode() for part in (name + "." + zone).split("."))
    return struct.pack("!6H", number & 0xFFFF, 0x100, 1, 0, 0, 0) + labels + b"\0" + struct.pack("!2H", 28, 1)
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asker:
    asker.connect(("127.53.53.53", 53))
    asker.settimeout(0.05)
    for number in range(int(sys.argv[1])):
        asker.send(question(number))
        if number % 3 == 0:
            try:
                asker.recv(4096)
            except OSError:
                pass
"""
