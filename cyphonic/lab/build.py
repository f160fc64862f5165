"""A topology becomes a running laboratory, and nothing of it remains afterwards.

::

    with Lab(load_topology("demo")) as lab:
        lab.run("cone", ["ping", "-c1", lab.address("open")])

Order of building: record, namespaces with their ``/etc`` files, sysctls, veths, bridge ports, addresses and
routes, NAT rules.  Of taking down: processes, namespaces (with them every link and rule), files, record.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, Self

import msgspec

from cyphonic.lab import link
from cyphonic.lab.namespace import Namespace
from cyphonic.lab.nat import NatKind, forgetting_rules
from cyphonic.lab.quality import Quality
from cyphonic.lab.record import LabRecord, new_id, started, sweep
from cyphonic.lab.tools import LabError, require_tools, run_tool
from cyphonic.lab.topology import Attachment, Router, Topology
from cyphonic.lab.wiring import Wiring

BUILDERS = 4
"""Threads that wait for ``ip`` and ``nft`` at once."""
CARRIER_TIMEOUT = 10.0
CARRIER_POLL = 0.05
"""Seconds."""


class Lab:
    """A topology in namespaces; ``start`` builds it, ``close`` takes it down, ``with`` does both."""

    def __init__(self, topology: Topology, *, keep: bool = False) -> None:
        """With ``keep`` the lab outlives this process, until ``cyphonic lab down``."""
        names = [link.SWITCH, *link.owners(topology)]
        identity = new_id()
        self.record = LabRecord(
            id=identity,
            topology=topology.name,
            owner=0 if keep else os.getpid(),
            owner_started=started(os.getpid()) or 0,
            directory=str(Path(tempfile.gettempdir()) / f"{identity}-lab"),
            namespaces={name: f"{identity}-{name}" for name in names},
        )
        self.wiring = Wiring(topology, self.record.namespaces)
        """What can be changed while the lab stands."""

    @property
    def topology(self) -> Topology:
        """As it stands now."""
        return self.wiring.topology

    @property
    def directory(self) -> Path:
        """Files of this lab; removed with it."""
        return Path(self.record.directory)

    def start(self) -> None:
        """Build; raise LabError, with everything removed again, when that fails."""
        require_tools()
        sweep()
        self.record.save()
        self.directory.mkdir(mode=0o700)
        try:
            self._build()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Take everything down; may be repeated.  Ctrl-C and SIGTERM wait until it is done."""
        with signals_held():
            self.record.demolish()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def namespace(self, name: str) -> Namespace:
        """Of a host or router; raise LabError for an unknown name."""
        if name not in self.record.namespaces:
            raise LabError(f"there is no {name!r} in {self.topology.name}", f"it has {', '.join(self.names())}")
        return Namespace(self.record.namespaces[name])

    def names(self) -> list[str]:
        """Hosts and routers, in file order."""
        return link.owners(self.topology)

    def address(self, name: str, version: int = 4) -> str:
        """A host's underlay address of that IP version; raise LabError when it has none."""
        for address in self.topology.host(name).attachment.addresses:
            if address.version == version:
                return str(address.ip)
        raise LabError(f"{name} has no IPv{version} address")

    def run(self, name: str, command: Sequence[str], **options: Any) -> subprocess.CompletedProcess[str]:
        """As Namespace.run."""
        return self.namespace(name).run(command, **options)

    def popen(self, name: str, command: Sequence[str], **options: Any) -> subprocess.Popen[bytes]:
        """As Namespace.popen."""
        return self.namespace(name).popen(command, **options)

    def open_socket(
        self, name: str, family: socket.AddressFamily, kind: socket.SocketKind = socket.SOCK_DGRAM
    ) -> socket.socket:
        """As Namespace.open_socket."""
        return self.namespace(name).open_socket(family, kind)

    def flush_nats(self, *hosts: str) -> None:
        """Make every NAT before these hosts (default: every NAT) forget its mappings, as a reboot would."""
        if hosts:
            topology = self.topology
            nats = {nat.name: nat for host in hosts for nat in topology.nats_before(topology.host(host))}
        else:
            nats = {router.name: router for router in self.topology.routers if router.nat is not NatKind.NONE}
        for router in nats.values():
            self.flush_nat(router)

    def flush_nat(self, router: Router) -> None:
        """Make one NAT forget its mappings."""
        namespace = self.namespace(router.name)
        namespace.run(["conntrack", "-F"])
        if rules := forgetting_rules(router.nat):
            namespace.run(["nft", "-f", "-"], stdin=rules)

    def block(self, source: str, target: str) -> None:
        """Let nothing pass any more from one host to another; the way back stays open."""
        self.wiring.block(source, target)

    def unblock(self, source: str, target: str) -> None:
        """The opposite of ``block``."""
        self.wiring.unblock(source, target)

    def impair(self, name: str, **quality: Any) -> None:
        """Make a host's link, or a router's uplink, as good or bad as ``Quality(**quality)``; see there."""
        self.wiring.impair(name, Quality(**quality))

    def move(self, name: str, network: str, families: Sequence[str] | None = None) -> Attachment:
        """As Wiring.move."""
        return self.wiring.move(name, network, families)

    def renumber(self, name: str, families: Sequence[str] | None = None) -> Attachment:
        """As Wiring.renumber."""
        return self.wiring.renumber(name, families)

    def environment(self, name: str) -> dict[str, str]:
        """Variables for commands on a host: those of this process and what ``set_environments`` added."""
        return {**os.environ, **self.record.environments.get(name, {})}

    def set_environments(self, environments: dict[str, dict[str, str]]) -> None:
        """Note per host what a command needs to know of its deployment (``cyphonic lab exec`` uses it too)."""
        self.record = msgspec.structs.replace(self.record, environments=environments)
        self.record.save()

    def _build(self) -> None:
        namespaces = self.record.namespaces
        for name in link.owners(self.topology):
            self.namespace(name).write_etc()
        _batch([f"netns add {namespace}" for namespace in namespaces.values()])
        with ThreadPoolExecutor(BUILDERS) as threads:
            list(threads.map(self._set_sysctls, namespaces))
            _batch(link.veth_lines(self.topology, namespaces))
            _batch(link.switch_lines(self.topology), namespaces[link.SWITCH])
            lines = link.owner_lines(self.topology)
            list(threads.map(lambda owner: _batch(lines[owner], namespaces[owner]), lines))
            list(threads.map(self._wait_for_carrier, lines))
        self._set_rules()

    def _set_sysctls(self, owner: str) -> None:
        settings = link.sysctls(self.topology)[owner]
        script = "".join(f"echo {value} > /proc/sys/net/{path}\n" for path, value in settings.items())
        self.namespace(owner).run(["sh", "-e"], stdin=script)

    def _set_rules(self) -> None:
        self.wiring.set_rules()

    def _wait_for_carrier(self, owner: str) -> None:
        """The kernel announces carriers at most once a second; until then IPv6 addresses do not answer."""
        deadline = time.monotonic() + CARRIER_TIMEOUT
        while "state DOWN" in run_tool(["ip", "-n", self.record.namespaces[owner], "link", "show"]).stdout:
            if time.monotonic() > deadline:
                raise LabError(f"{owner}: an interface has no carrier after {CARRIER_TIMEOUT:g} s")
            time.sleep(CARRIER_POLL)


def _batch(lines: Sequence[str], namespace: str | None = None) -> None:
    inside = ["-n", namespace] if namespace else []
    run_tool(["ip", *inside, "-batch", "-"], stdin="\n".join(lines) + "\n")


class Terminated(BaseException):
    """SIGTERM or SIGHUP arrived; raised where the process was, so that every ``with`` ends in order."""


@contextmanager
def termination_raises() -> Iterator[None]:
    """Make SIGTERM and SIGHUP unwind the stack as Ctrl-C does; for the main thread."""

    def unwind(number: int, _frame: FrameType | None) -> None:
        raise Terminated(number)

    # What is ignored (nohup) stays ignored.
    heeded = [number for number in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(number) != signal.SIG_IGN]
    before = {number: signal.signal(number, unwind) for number in heeded}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def signals_held() -> Iterator[None]:
    """Hold SIGINT, SIGTERM and SIGHUP back until the block is done; then they arrive."""
    held = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP}
    before = signal.pthread_sigmask(signal.SIG_BLOCK, held)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
