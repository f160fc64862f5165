"""DNS of a node as a whole: its own server, and this machine's way to it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from cyphonic.node.config import NodeConfig
from cyphonic.node.dns_setup import DnsSetup
from cyphonic.node.loop import Loop, Timer
from cyphonic.node.resolvconf import ResolvConf
from cyphonic.node.resolver import Resolver
from cyphonic.node.status import DnsStatus
from cyphonic.node.zone import Zone
from cyphonic.protocol.overlay import LookedUp

REFRESH_INTERVAL = 2.0
"""Seconds between two looks at whether someone has replaced resolv.conf."""

Done = Callable[[LookedUp], None]
LookUpName = Callable[[str, Done], None]
LookUpAddress = Callable[[bytes, Done], None]


class Dns:
    """``start`` takes the port, ``serve`` makes this machine ask here, ``close`` undoes both."""

    def __init__(
        self, loop: Loop, config: NodeConfig, device: str, *, state_dir: Path, setup: DnsSetup | None = None
    ) -> None:
        self._loop = loop
        self._address = config.dns_address
        self._off = config.dns_mode == "off"
        self._setup = setup or DnsSetup(config.dns_mode, device, ResolvConf(state_dir))
        self._resolver = Resolver(loop, None, self._look_up)
        self._timer: Timer | None = None
        self._zone = ""
        self._look_up_name: LookUpName | None = None
        self._look_up_address: LookUpAddress | None = None

    def start(self) -> None:
        """Put right what a killed process has left, and take the port.  Raise OperationalError when it is taken."""
        self._setup.clean_up()
        if not self._off and self._resolver.address is None:
            self._resolver.start(self._address)

    def serve(
        self, zone: str, prefix: str, pool: str, look_up_name: LookUpName, look_up_address: LookUpAddress
    ) -> None:
        """Answer for ``zone`` and for the addresses in ``prefix`` and ``pool``.  The same again changes nothing.

        Raise OperationalError when the server was not started before and cannot be.
        """
        self._look_up_name, self._look_up_address = look_up_name, look_up_address
        served = Zone.of(zone, prefix, pool)
        if served == self._resolver.zone:
            return
        if self._resolver.address is None:
            self.start()
        self._setup.revert()
        self._resolver.zone, self._zone = served, zone
        self._resolver.upstreams = self._setup.upstreams(self._address)
        self._setup.apply(self._address, zone, served.reverse_domains())
        if self._timer is None:
            self._timer = self._loop.call_later(REFRESH_INTERVAL, self._refresh)

    def status(self) -> DnsStatus:
        """For ``cyphonic status``."""
        return DnsStatus(
            mode=self._setup.mode,
            address=str(self._resolver.address or ""),
            zone=self._zone,
            upstreams=[str(server) for server in self._resolver.upstreams],
        )

    def close(self) -> None:
        """This machine asks elsewhere again, then the server ends.  May be called twice."""
        if self._timer is not None:
            self._timer.cancel()
        self._setup.revert()
        self._resolver.close()

    def _refresh(self) -> None:
        self._setup.refresh()
        self._resolver.upstreams = self._setup.upstreams(self._address)
        self._timer = self._loop.call_later(REFRESH_INTERVAL, self._refresh)

    def _look_up(self, target: str | bytes, done: Done) -> None:
        if isinstance(target, str):
            assert self._look_up_name is not None
            self._look_up_name(target, done)
        else:
            assert self._look_up_address is not None
            self._look_up_address(target, done)
