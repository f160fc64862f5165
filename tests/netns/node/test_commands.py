"""The node's commands on a real cloud: what a person sees, and what is left behind."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from cyphonic.lab.build import Lab
from cyphonic.lab.topology import load_topology
from tests.netns.site import Site

pytestmark = pytest.mark.root


@pytest.fixture(scope="module")
def site(laboratory_ground: None) -> Iterator[Site]:
    with Lab(load_topology("two-nodes")) as lab:
        site = Site(lab)
        yield site
        site.deployment.stop_cluster()


@pytest.fixture
def joined(site: Site) -> Iterator[Site]:
    """Both nodes up, the first time with a bundle."""
    for host in ("alice", "bob"):
        enrolled = (site.deployment.directory(host) / "state" / "node.json").exists()
        words = () if enrolled else ("--enrol", str(site.bundle(host)))
        result = site.cyphonic(host, "up", *words)
        assert result.returncode == 0, result.stderr + site.deployment.logs(host)
    yield site
    for host in ("alice", "bob"):
        assert site.cyphonic(host, "down").returncode == 0


def test_a_bundle_from_standard_input_joins_and_leaves_no_secret_in_the_arguments(site: Site) -> None:
    text = site.bundle("alice").read_text()
    result = site.cyphonic("alice", "up", "--enrol", "-", stdin=text)
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith("alice.lab.cyphonic.internal is up: fd")
    arguments = Path(f"/proc/{site.deployment.status('alice')['pid']}/cmdline").read_bytes()
    assert b"--enrol\0-\0" in arguments
    secret = next(line for line in text.splitlines() if line.startswith("enrolment_key")).split('"')[1]
    assert secret.encode() not in arguments
    assert secret not in (site.deployment.directory("alice") / "state" / "node.json").read_text()
    assert "already up" in site.cyphonic("alice", "up").stdout
    assert site.cyphonic("alice", "down").returncode == 0
    site.assert_clean("alice")


def test_names_resolve_both_ways_and_by_the_short_name(joined: Site) -> None:
    ipv6, ipv4 = joined.cyphonic("bob", "ip").stdout.split()
    assert joined.cyphonic("alice", "ip", "bob").stdout.split() == [ipv6, ipv4]
    assert ipv6 in joined.shell("alice", "getent ahostsv6 bob")
    assert ipv4 in joined.shell("alice", "getent ahostsv4 bob.lab.cyphonic.internal")
    assert "bob.lab.cyphonic.internal" in joined.shell("alice", f"getent hosts {ipv6}")
    assert "bob.lab.cyphonic.internal" in joined.shell("alice", f"getent hosts {ipv4}")
    assert joined.shell("alice", "getent hosts eve") == ""
    status = json.loads(joined.cyphonic("alice", "status", "--json").stdout)
    assert status["dns"]["mode"] == "resolv.conf"


def test_ping_says_direct_and_through_what_and_an_unknown_name_is_5(joined: Site) -> None:
    result = joined.cyphonic("alice", "ping", "bob", "-c", "1")
    assert result.returncode == 0
    assert "direct through " in result.stdout
    assert joined.cyphonic("alice", "ping", "eve").returncode == 5


def test_after_a_kill_9_up_rejoins_without_a_bundle_and_down_leaves_nothing(joined: Site) -> None:
    before = joined.cyphonic("alice", "ip").stdout
    joined.kill("alice")
    assert "127.53.53.53" in joined.resolv_conf("alice")
    result = joined.cyphonic("alice", "up")
    assert result.returncode == 0, result.stderr + joined.deployment.logs("alice")
    assert joined.cyphonic("alice", "ip").stdout == before
    assert joined.cyphonic("alice", "ping", "bob", "-c", "1").returncode == 0
    assert joined.cyphonic("alice", "down").returncode == 0
    joined.assert_clean("alice")


def test_after_a_kill_9_down_alone_puts_everything_back(joined: Site) -> None:
    joined.kill("alice")
    result = joined.cyphonic("alice", "down")
    assert "put /etc/resolv.conf back" in result.stdout
    joined.assert_clean("alice")


def test_a_service_unit_that_is_told_to_stop_ends_with_0_and_leaves_nothing(joined: Site) -> None:
    assert joined.cyphonic("alice", "down").returncode == 0
    process = joined.lab.popen(
        "alice",
        joined.deployment.argv("up", "--foreground"),
        env=joined.lab.environment("alice"),
        stdin=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    assert joined.cyphonic("alice", "wait", "--timeout", "20").returncode == 0
    process.terminate()
    assert process.wait(20) == 0
    joined.assert_clean("alice")


def test_a_device_that_is_taken_is_said_by_up_with_its_way_out(site: Site) -> None:
    holder = site.lab.popen(
        "alice",
        ["python3", "-c", HOLD_DEVICE],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == b"held\n"
    bundle = site.bundle("alice")
    with site.stranger("alice"):
        result = site.cyphonic("alice", "up", "--enrol", str(bundle))
    holder.communicate()
    assert result.returncode == 1
    assert "cyphonic0 is in use" in result.stderr
    assert "device" in result.stderr
    site.assert_clean("alice")


def test_a_one_time_key_that_was_used_is_refused_with_3_and_no_daemon_stays(site: Site, tmp_path: Path) -> None:
    bundle = tmp_path / "bundle.toml"
    site.deployment.command(site.deployment.cloud.name, "admin", "key", "create", "--output", str(bundle))
    with site.stranger("bob"):
        first = site.cyphonic("bob", "up", "--enrol", str(bundle), "--name", "carol")
        assert first.returncode == 0, first.stderr
        assert site.cyphonic("bob", "down").returncode == 0
    with site.stranger("bob"):
        second = site.cyphonic("bob", "up", "--enrol", str(bundle), "--name", "dave")
        assert second.returncode == 3
        assert "has been used by another node" in second.stderr
        assert site.cyphonic("bob", "status").returncode == 1
        site.assert_clean("bob")


def test_a_cloud_that_does_not_answer_is_4_and_a_new_node_does_not_linger(site: Site, tmp_path: Path) -> None:
    text = site.bundle("bob").read_text()
    bundle = tmp_path / "bundle.toml"
    bundle.write_text(re.sub(r"as_endpoints = .*", 'as_endpoints = ["203.0.113.250:7701"]', text))
    with site.stranger("bob"):
        result = site.cyphonic("bob", "up", "--enrol", str(bundle), "--timeout", "2")
        assert result.returncode == 4, result.stderr
        assert site.cyphonic("bob", "status").returncode == 1
        site.assert_clean("bob")


HOLD_DEVICE = """
import fcntl, struct, sys
tun = open("/dev/net/tun", "r+b", buffering=0)
fcntl.ioctl(tun, 0x400454CA, struct.pack("16sH22x", b"cyphonic0", 0x1001))
print("held", flush=True)
sys.stdin.read()
"""
