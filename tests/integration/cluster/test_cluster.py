"""``cyphonic cluster`` as an operator runs it: real processes, ready, broken, stopped."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cyphonic.site import create_keys

PATIENCE = 30.0
PARTS = ("redis", "worker", "relay", "frontend")


def free_ports(count: int) -> list[int]:
    probes = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(count)]
    for probe in probes:
        probe.bind(("127.0.0.1", 0))
    ports = [probe.getsockname()[1] for probe in probes]
    for probe in probes:
        probe.close()
    return ports


def until(done: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not done():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.02)


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


class Cluster:
    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.config = directory / "cloud.toml"
        self.ready_file = directory / "ready"
        self.output = directory / "output"
        self.ports = free_ports(3)
        create_keys(directory / "keys", os.urandom)
        self.configure()

    def configure(self, extra: str = "") -> None:
        one, two, three = self.ports
        self.config.write_text(
            '[site]\nprefix_ipv6 = "fd00:1:2::/48"\nkeys_dir = "keys"\nrun_dir = "run"\nstate_dir = "state"\n'
            "allow_loopback = true\n"
            f'[frontend]\nas_listen = ["127.0.0.1:{one}"]\nnms_listen = ["127.0.0.1:{two}"]\n{extra}'
            f'[relay]\nlisten = ["127.0.0.1:{three}"]\n'
        )

    def start(self) -> subprocess.Popen[bytes]:
        argv = [sys.executable, "-m", "cyphonic", "cluster", "--config", str(self.config)]
        with self.output.open("wb") as output:
            return subprocess.Popen(
                [*argv, "--ready-file", str(self.ready_file)], stdout=output, stderr=subprocess.STDOUT
            )

    def pid(self, part: str) -> int:
        return int(re.findall(rf"^{part}: started \(pid (\d+)\)", self.output.read_text(), re.MULTILINE)[-1])

    def descendants(self) -> list[int]:
        """Everything that carries this test's directory in its command line."""
        found = []
        for process in Path("/proc").iterdir():
            if process.name.isdigit() and alive(int(process.name)):
                try:
                    command = (process / "cmdline").read_bytes()
                except OSError:
                    continue
                if os.fsencode(self.directory) in command:
                    found.append(int(process.name))
        return found


@pytest.fixture
def cluster(tmp_path: Path) -> Cluster:
    return Cluster(tmp_path)


@pytest.fixture
def running(cluster: Cluster) -> Iterator[subprocess.Popen[bytes]]:
    process = cluster.start()
    until(lambda: cluster.ready_file.exists() or process.poll() is not None)
    assert process.poll() is None, cluster.output.read_text()
    yield process
    process.kill()
    process.wait()


def test_it_becomes_ready_and_sigterm_leaves_nothing_behind(
    cluster: Cluster, running: subprocess.Popen[bytes]
) -> None:
    assert all(alive(cluster.pid(part)) for part in PARTS)
    running.terminate()
    assert running.wait(PATIENCE) == 0, cluster.output.read_text()
    assert cluster.descendants() == []
    assert not cluster.ready_file.exists()
    assert not list((cluster.directory / "run").rglob("*.sock"))
    assert not list((cluster.directory / "run" / "pipeline").iterdir())


def test_ctrl_c_ends_it_as_well(cluster: Cluster, running: subprocess.Popen[bytes]) -> None:
    running.send_signal(signal.SIGINT)
    assert running.wait(PATIENCE) == 0
    assert cluster.descendants() == []


@pytest.mark.parametrize("part", PARTS)
def test_a_part_that_is_killed_comes_back(cluster: Cluster, running: subprocess.Popen[bytes], part: str) -> None:
    before = cluster.pid(part)
    os.kill(before, signal.SIGKILL)
    until(lambda: cluster.pid(part) != before)
    until(cluster.ready_file.exists)
    assert running.poll() is None


def test_its_children_do_not_outlive_it(cluster: Cluster, running: subprocess.Popen[bytes]) -> None:
    running.kill()
    running.wait()
    until(lambda: not cluster.descendants())


def test_a_second_one_is_refused(cluster: Cluster, running: subprocess.Popen[bytes]) -> None:
    second = subprocess.run(
        [sys.executable, "-m", "cyphonic", "cluster", "--config", cluster.config], capture_output=True, text=True
    )
    assert second.returncode == 1
    assert f"a cluster runs here already (pid {running.pid})" in second.stderr


def test_a_taken_port_is_named_and_ends_it(cluster: Cluster) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as holder:
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        holder.bind(("127.0.0.1", cluster.ports[1]))
        assert cluster.start().wait(PATIENCE) == 1
    assert f"UDP port 127.0.0.1:{cluster.ports[1]} is taken by" in cluster.output.read_text()
    assert cluster.descendants() == []


def test_a_broken_section_of_a_tier_ends_it_with_2(cluster: Cluster) -> None:
    cluster.configure(extra="queues = 5\n")
    assert cluster.start().wait(PATIENCE) == 2
    assert "[frontend] has no key 'queues'" in cluster.output.read_text()
    assert cluster.descendants() == []


def test_a_missing_key_file_says_what_makes_it(cluster: Cluster) -> None:
    (cluster.directory / "keys" / "nms.pub").unlink()
    assert cluster.start().wait(PATIENCE) == 2
    assert "cyphonic admin init" in cluster.output.read_text()


def test_a_redis_of_ones_own_that_cannot_be_reached_ends_it_with_4(cluster: Cluster) -> None:
    with cluster.config.open("a") as file:
        file.write(f'[redis]\nurl = "unix://{cluster.directory}/absent.sock"\n')
    assert cluster.start().wait(PATIENCE) == 4
    assert "absent.sock cannot be used" in cluster.output.read_text()
    assert "check that Redis runs there" in cluster.output.read_text()


def test_without_configuration_it_says_how_to_make_one(tmp_path: Path) -> None:
    argv = [sys.executable, "-m", "cyphonic", "cluster", "--config", str(tmp_path / "none.toml")]
    result = subprocess.run(argv, capture_output=True, text=True)
    assert result.returncode == 2
    assert "cyphonic admin init" in result.stderr
