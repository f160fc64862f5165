"""Laboratories for tests.  Without root they are skipped; in CI a missing program is a failure, not a skip."""

from __future__ import annotations

import os
import socket
import tempfile
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from cyphonic.lab.build import Lab
from cyphonic.lab.deployment import Deployment
from cyphonic.lab.namespace import ETC_DIRECTORY, NETNS_DIRECTORY
from cyphonic.lab.record import RECORDS
from cyphonic.lab.tools import missing_packages
from cyphonic.lab.topology import load_topology, parse_topology
from tests.netns.captures import CapturedLabs

LabMaker = Callable[[str], Lab]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = os.path.dirname(__file__)
    for item in items:
        if str(item.path).startswith(here):
            item.add_marker(pytest.mark.root)


CAPTURED = pytest.StashKey[CapturedLabs]()


def pytest_configure(config: pytest.Config) -> None:
    config.stash[CAPTURED] = CapturedLabs()


def pytest_runtest_setup(item: pytest.Item) -> None:
    item.config.stash[CAPTURED].begin(item.nodeid)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.failed:
        item.config.stash[CAPTURED].failed(item.nodeid)
    return report


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    for directory in config.stash[CAPTURED].kept:
        terminalreporter.write_line(f"packet captures and logs: {directory}")


@pytest.fixture(scope="session", autouse=True)
def captured_labs(pytestconfig: pytest.Config) -> Iterator[None]:
    """What a failing test's labs saw is kept below build/captures."""
    with pytestconfig.stash[CAPTURED].watching():
        yield


@pytest.fixture(scope="session")
def laboratory_ground() -> None:
    """Root, /dev/net/tun and the programs of the lab."""
    if os.geteuid() != 0:
        pytest.skip("network namespaces need root: run with sudo")
    wanting = [f"the Debian package {package}" for package in missing_packages()]
    if not os.path.exists("/dev/net/tun"):
        wanting.append("/dev/net/tun")
    if wanting and os.environ.get("CI"):
        pytest.fail(f"missing: {', '.join(wanting)}")
    if wanting:
        pytest.skip(f"missing: {', '.join(wanting)}")


@pytest.fixture
def make_lab(laboratory_ground: None) -> Iterator[LabMaker]:
    """Build a lab from the name of a packaged topology or from TOML text; it is gone after the test."""
    with ExitStack() as stack:

        def make(source: str) -> Lab:
            topology = parse_topology(source, "test") if "\n" in source else load_topology(source)
            return stack.enter_context(Lab(topology))

        yield make


@pytest.fixture
def deploy(make_lab: LabMaker) -> Callable[[str], Deployment]:
    """As ``make_lab``, with the cloud running and every node joined."""

    def make(source: str) -> Deployment:
        deployment = Deployment(make_lab(source))
        deployment.start_cloud()
        deployment.join(*deployment.nodes)
        return deployment

    return make


@pytest.fixture(scope="module")
def nats_lab(laboratory_ground: None) -> Iterator[Lab]:
    """One host behind each kind of NAT (two behind some); shared by the tests of a module, mappings and all."""
    with Lab(load_topology("nats")) as lab:
        yield lab


@pytest.fixture
def remains() -> Callable[[str], list[Path]]:
    """What is still there of a lab: namespaces, files, and processes whose command line names its directory."""

    def find(lab_id: str) -> list[Path]:
        folders = [NETNS_DIRECTORY, ETC_DIRECTORY, RECORDS, Path(tempfile.gettempdir())]
        files = [entry for folder in folders if folder.is_dir() for entry in folder.glob(f"{lab_id}*")]
        return files + [process for process in Path("/proc").glob("[0-9]*") if names(process, f"/{lab_id}-lab")]

    return find


def names(process: Path, text: str) -> bool:
    try:
        return text in (process / "cmdline").read_text(errors="replace")
    except OSError:  # it has ended meanwhile
        return False


class UdpProbe:
    """A UDP socket in a host of the lab: what NAT tests look through, without DNS or cyphonic."""

    def __init__(self, lab: Lab, host: str, port: int = 0, address: str = "0.0.0.0") -> None:
        self.socket = lab.open_socket(host, socket.AF_INET)
        self.socket.bind((address, port))
        self.socket.settimeout(0.3)

    @property
    def port(self) -> int:
        return int(self.socket.getsockname()[1])

    def send(self, data: bytes, host: str, port: int) -> None:
        self.socket.sendto(data, (host, port))

    def receive(self) -> tuple[bytes, tuple[str, int]] | None:
        """What came and from where; None after 0.3 s of silence."""
        try:
            data, source = self.socket.recvfrom(2048)
        except TimeoutError:
            return None
        return data, (source[0], source[1])


@pytest.fixture
def probe() -> Iterator[Callable[..., UdpProbe]]:
    """Open UdpProbe(lab, host, port=0); closed after the test."""
    with ExitStack() as stack:

        def make(lab: Lab, host: str, port: int = 0) -> UdpProbe:
            made = UdpProbe(lab, host, port)
            stack.callback(made.socket.close)
            return made

        yield make
