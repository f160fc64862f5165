"""Whatever a person does wrong is answered by a sentence, the way out and an exit code; nothing stays half done."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from cyphonic.lab.build import Lab
from cyphonic.lab.deployment import RefusedError
from cyphonic.lab.topology import load_topology
from tests.netns.site import Site

pytestmark = pytest.mark.root

CLOUD = "cloud"
PATIENCE = 20.0
"""Seconds; real processes on a machine that others use as well."""
WRONG_KEY = "AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE="


class Clumsy:
    """Types at a site and checks how each mistake is answered."""

    def __init__(self, site: Site) -> None:
        self.site = site
        self.state = site.deployment.directory("alice") / "state"

    def refused(
        self,
        code: int,
        message: str,
        *words: str,
        host: str = "alice",
        stdin: str = "",
        wrapper: Sequence[str] = (),
        environ: dict[str, str] | None = None,
    ) -> str:
        """``cyphonic WORDS`` ends with this code and a sentence that matches; return what it said."""
        result = self.site.lab.run(
            host,
            [*wrapper, *self.site.deployment.argv(*words)],
            env=self.site.lab.environment(host) | (environ or {}),
            stdin=stdin,
            check=False,
        )
        said = result.stdout + result.stderr
        assert result.returncode == code, said
        assert re.search(message, said), said
        assert "Traceback" not in said
        return said

    def unjoined(self, code: int, message: str, *words: str, stdin: str = "", wrapper: Sequence[str] = ()) -> None:
        """As ``refused``, and alice is as if nothing had been tried: no identity, device, route, socket."""
        before = self.identity()
        self.refused(code, message, *words, stdin=stdin, wrapper=wrapper)
        self.refused(1, "this node is not up", "status")
        assert self.identity() == before
        self.site.assert_clean("alice")

    def identity(self) -> bytes | None:
        file = self.state / "node.json"
        return file.read_bytes() if file.exists() else None

    def key(self, *options: str) -> str:
        """The text of a new bundle."""
        return self.site.deployment.command(CLOUD, "admin", "key", "create", *options)

    def last_key(self) -> tuple[str, str]:
        """ID and state of the newest enrolment key."""
        row = self.site.deployment.command(CLOUD, "admin", "key", "list").splitlines()[-1].split()
        return row[0], row[2]

    @contextmanager
    def configured(self, host: str, name: str, text: str) -> Iterator[Path]:
        """Another text in a configuration file of a host."""
        file = self.site.deployment.directory(host) / name
        before = file.read_text()
        file.write_text(text)
        yield file
        file.write_text(before)

    @contextmanager
    def taken(self, host: str, address: str, port: int) -> Iterator[None]:
        """A UDP port that somebody else has."""
        with self.site.lab.open_socket(host, socket.AF_INET) as holder:
            holder.bind((address, port))
            yield


@pytest.fixture(scope="module")
def site(laboratory_ground: None) -> Iterator[Site]:
    with Lab(load_topology("two-nodes")) as lab:
        site = Site(lab)
        yield site
        assert site.deployment.stop_cluster() == 0
        assert "Traceback" not in "".join(log.read_text() for log in lab.directory.rglob("*.log"))


@pytest.fixture(scope="module")
def clumsy(site: Site) -> Clumsy:
    return Clumsy(site)


@pytest.fixture(scope="module")
def bundle(clumsy: Clumsy) -> str:
    """One that is good until somebody spoils it."""
    return clumsy.key("--name", "alice")


@pytest.fixture
def joined(clumsy: Clumsy, bundle: str) -> Iterator[Clumsy]:
    """Alice is up."""
    result = clumsy.site.cyphonic("alice", "up", "--enrol", "-", stdin=bundle)
    assert result.returncode == 0, result.stderr
    yield clumsy
    clumsy.site.cyphonic("alice", "down")


# Before alice has ever joined.


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda text: "", "standard input: the enrolment bundle is empty"),
        (lambda text: "hello", "the enrolment bundle is damaged"),
        (lambda text: text[:200], "the enrolment bundle is damaged: Unterminated string"),
        (lambda text: text.replace("as_key", "as_kex"), "as_kex"),
        (lambda text: re.sub('as_key = ".*"', 'as_key = "abc"', text), "as_key: a key is 44 characters of base64"),
        (lambda text: text.replace("version = 1", "version = 9"), "version: 9 is not 1"),
        (lambda text: re.sub('name = ".*"', 'name = "No Name"', text), "name: 'No Name' is not a DNS name"),
        (lambda text: re.sub(r"as_endpoints = .*", 'as_endpoints = ["cloud:7701"]', text), "as_endpoints: 'cloud'"),
    ],
)  # fmt: skip
def test_a_broken_bundle(clumsy: Clumsy, bundle: str, spoil: Callable[[str], str], message: str) -> None:
    clumsy.unjoined(2, message, "up", "--enrol", "-", stdin=spoil(bundle))


def test_a_bundle_that_is_no_file(clumsy: Clumsy, tmp_path: Path) -> None:
    clumsy.unjoined(2, "there is no such enrolment bundle", "up", "--enrol", str(tmp_path / "absent"))
    clumsy.unjoined(2, "cannot be read: Is a directory", "up", "--enrol", str(tmp_path))


def test_a_bundle_for_another_cloud_key(clumsy: Clumsy, bundle: str) -> None:
    spoilt = re.sub('as_key = ".*"', f'as_key = "{WRONG_KEY}"', bundle)
    with clumsy.site.stranger("alice"):
        clumsy.refused(4, "not joined in time", "up", "--enrol", "-", "--timeout", "1", stdin=spoilt)
        clumsy.refused(1, "this node is not up", "status")
        clumsy.site.assert_clean("alice")


def test_no_bundle(clumsy: Clumsy) -> None:
    with clumsy.site.stranger("alice"):
        clumsy.unjoined(3, "has not joined an overlay yet\n.*--enrol FILE", "up")


def test_an_expired_key(clumsy: Clumsy) -> None:
    text = clumsy.key("--expires", "1s")
    deadline = time.monotonic() + PATIENCE
    while clumsy.last_key()[1] != "expired":
        assert time.monotonic() < deadline
    with clumsy.site.stranger("alice"):
        clumsy.refused(3, "the enrolment key has expired\n.*new bundle", "up", "--enrol", "-", stdin=text)
        clumsy.site.assert_clean("alice")


def test_a_revoked_key(clumsy: Clumsy) -> None:
    text = clumsy.key("--name", "never")
    clumsy.site.deployment.command(CLOUD, "admin", "key", "revoke", clumsy.last_key()[0])
    with clumsy.site.stranger("alice"):
        clumsy.refused(3, "the enrolment key has been revoked", "up", "--enrol", "-", stdin=text)
        clumsy.site.assert_clean("alice")


def test_a_used_key(joined: Clumsy, bundle: str) -> None:
    with joined.site.stranger("bob"):
        joined.refused(3, "has been used by another node", "up", "--enrol", "-", host="bob", stdin=bundle)
        joined.site.assert_clean("bob")


def test_no_privilege(joined: Clumsy) -> None:
    joined.site.cyphonic("alice", "down")
    joined.unjoined(1, "run as root", "up", wrapper=("setpriv", "--bounding-set=-net_admin"))


def test_no_tun_device(joined: Clumsy) -> None:
    joined.site.cyphonic("alice", "down")
    hide = ("unshare", "-m", "sh", "-c", 'mount -t tmpfs none /dev/net && exec "$@"', "sh")
    joined.unjoined(1, "/dev/net/tun does not exist\n.*modprobe tun", "up", wrapper=hide)


def test_ports_of_a_node_that_are_taken(joined: Clumsy) -> None:
    joined.site.cyphonic("alice", "down")
    text = (joined.site.deployment.directory("alice") / "node.toml").read_text()
    with joined.configured("alice", "node.toml", text + "listen_port = 7777\n"), joined.taken("alice", "", 7777):
        joined.unjoined(1, r"UDP port 7777 is taken\n.*\[node\] listen_port", "up")
    with joined.taken("alice", "127.53.53.53", 53):
        joined.unjoined(1, r"127.53.53.53:53: Address already in use\n.*\[node\] dns_address", "up")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[node\n", "not valid TOML"),
        ("[nod]\n", r"\[nod\] is not a known section\n.*did you mean 'node'"),
        ("[node]\nmtuu = 1400\n", r"\[node\] has no key 'mtuu'\n.*did you mean 'mtu'"),
        ('[node]\nmtu = "big"\n', r"\[node\] mtu: Expected `int`, got `str`"),
        ("[node]\nmtu = 10\n", r"\[node\] mtu: 10 is not between 1280 and 65535"),
        ("[node]\nlisten_port = 70000\n", r"\[node\] listen_port: 70000 is not a port"),
        ('[node]\ndevice = "much too long a name"\n', r"\[node\] device: .* is not an interface name"),
    ],
)  # fmt: skip
def test_a_broken_configuration_of_a_node(clumsy: Clumsy, text: str, message: str) -> None:
    with clumsy.configured("alice", "node.toml", text) as file:
        for command in ("up", "status", "down"):
            clumsy.refused(2, f"{re.escape(str(file))}: {message}", command)
    clumsy.site.assert_clean("alice")


def test_commands_in_the_wrong_order(joined: Clumsy, bundle: str) -> None:
    joined.refused(0, "already up: alice.lab.cyphonic.internal", "up")
    joined.refused(1, "already up on this machine\n.*cyphonic down", "up", "--enrol", "-", stdin=bundle)
    joined.refused(0, "has left the overlay", "down")
    joined.refused(0, "was not up", "down")
    for words in (("status",), ("ip",), ("wait",), ("ping", "bob")):
        joined.refused(1, "this node is not up\n.*sudo cyphonic up", *words)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("upp",), "No such command 'upp'"),
        (("up", "--bogus"), "No such option '?--bogus"),
        (("ping",), "Missing argument 'NAME'"),
        (("ping", "bob", "-c", "0"), "0 is not in the range"),
        (("up", "--name", "Not A Name"), "Not A Name"),
        (("admin", "key", "create", "--expires", "soon"), "'soon' is none of 90s, 10m, 1h, 7d and never"),
        (("admin", "key", "create", "--endpoint", "here"), "'here' is not ADDRESS:PORT"),
        (("frontend", "--bogus"), "No such option '?--bogus"),
    ],
)
def test_wrong_usage(clumsy: Clumsy, words: tuple[str, ...], message: str) -> None:
    clumsy.refused(2, message, *words)


def test_names_that_nobody_has(joined: Clumsy) -> None:
    for words in (("ping", "nobody"), ("ip", "nobody"), ("ping", "bad..name")):
        joined.refused(5, "there is no node", *words)
    joined.refused(1, "is this node itself", "ping", "alice")
    joined.refused(1, "nobody: no such node", "admin", "node", "show", "nobody", host=CLOUD)
    joined.refused(1, "no enrolment key has this ID", "admin", "key", "revoke", "nobody", host=CLOUD)


# The cloud.


@pytest.mark.parametrize(
    "command", [("cluster",), ("frontend",), ("worker",), ("relay",), ("admin", "key", "list")]
)
def test_a_broken_configuration_of_the_cloud(clumsy: Clumsy, command: tuple[str, ...], tmp_path: Path) -> None:
    good = (clumsy.site.deployment.directory(CLOUD) / "cloud.toml").read_text()
    file = tmp_path / "cloud.toml"
    for text, message in (
        (good.replace("[site]", "[site"), "not valid TOML"),
        (good.replace("[site]", "[sight]"), r"\[sight\] is not a known section"),
        (good.replace("region =", "regoin ="), r"\[site\] has no key 'regoin'\n.*did you mean 'region'"),
        (re.sub("prefix_ipv6 = .*", 'prefix_ipv6 = "fd00"', good), r"\[site\] prefix_ipv6: "),
    ):
        file.write_text(text)
        clumsy.refused(2, f"{re.escape(str(file))}: {message}", *command, "--config", str(file), host=CLOUD)


@pytest.mark.parametrize(
    ("command", "port"), [(("frontend", "--no-share-ports"), 7701), (("relay", "--listen", "0.0.0.0:7703"), 7703)]
)
def test_a_port_of_the_cloud_that_is_taken(clumsy: Clumsy, command: tuple[str, ...], port: int) -> None:
    clumsy.refused(1, rf"(UDP port .*:{port} is taken|{port}: Address already in use)", *command, host=CLOUD)


@pytest.mark.parametrize("command", [("frontend",), ("worker",), ("relay",), ("admin", "node", "list")])
def test_redis_away_at_the_start(clumsy: Clumsy, command: tuple[str, ...], tmp_path: Path) -> None:
    site = str(clumsy.site.deployment.directory(CLOUD) / "cloud.toml")
    # On bob's machine, where the ports are free.
    clumsy.refused(
        4,
        r"absent.sock cannot be used.*\n.*check that Redis runs",
        *command,
        "--config",
        site,
        host="bob",
        environ={"CYPHONIC_REDIS_URL": f"unix://{tmp_path}/absent.sock"},
    )


def test_redis_that_hangs_in_between_is_said_and_afterwards_everything_goes_on(joined: Clumsy) -> None:
    socket_file = joined.site.deployment.directory(CLOUD) / "run" / "redis.sock"
    redis = int(joined.site.shell(CLOUD, f"pgrep -f 'redis-server.*{socket_file}'").split()[0])
    os.kill(redis, signal.SIGSTOP)
    try:
        asking = joined.site.popen("alice", *joined.site.deployment.argv("ip", "nobody"))
        joined.refused(4, "Redis at .* cannot be used: Timeout", "admin", "node", "list", host=CLOUD)
    finally:
        os.kill(redis, signal.SIGCONT)
    asking.communicate(timeout=PATIENCE)
    deadline = time.monotonic() + PATIENCE
    while True:
        with suppress(subprocess.SubprocessError):
            try:
                joined.site.deployment.ask("alice", "ip", name="nobody")
            except RefusedError as error:
                if "there is no node" in error.message:
                    break
        assert time.monotonic() < deadline
    joined.site.deployment.command(CLOUD, "admin", "node", "list")
