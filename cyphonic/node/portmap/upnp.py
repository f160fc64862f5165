"""UPnP IGD, for gateways that speak neither PCP nor NAT-PMP: by the package ``miniupnpc`` where it is installed.

The package blocks, for seconds, so it works in a thread of its own; the loop hears of results by an eventfd.
"""

from __future__ import annotations

import contextlib
import importlib
import ipaddress
import logging
import os
import threading
from collections.abc import Callable
from types import ModuleType
from typing import Any

from cyphonic.logs import pairs
from cyphonic.node.loop import Loop
from cyphonic.wire.endpoint import Endpoint

_log = logging.getLogger(__name__)

LEASE = 3600
"""Seconds."""
RENEWAL = LEASE / 2
DISCOVERY = 1000
"""Milliseconds to wait for gateways to answer the multicast question."""
FAREWELL = 1.0
"""Seconds that giving the mapping back may hold up the end of the process."""
PORTS_TRIED = 4
DESCRIPTION = "cyphonic"


def find_miniupnpc() -> ModuleType | None:
    """The package, or None where it is not installed (``pip install cyphonic[upnp]``)."""
    try:
        return importlib.import_module("miniupnpc")
    except ImportError:
        return None


class UpnpMapping:
    """One mapping of one UDP port, asked for and kept in a thread; ``on_change`` is called from the loop."""

    def __init__(self, loop: Loop, package: ModuleType, port: int, on_change: Callable[[], None]) -> None:
        self.external: Endpoint | None = None
        self.refusal = ""
        self._package: Any = package
        self._port = port
        self._on_change = on_change
        self._loop = loop
        self._stop = threading.Event()
        self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        loop.add_reader(self._wake, self._woken)
        self._thread = threading.Thread(target=self._work, name="upnp", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Give the mapping back; waits for that a second at most."""
        self._stop.set()
        self._thread.join(FAREWELL)
        self._loop.remove(self._wake)
        if not self._thread.is_alive():
            os.close(self._wake)

    def _woken(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self._wake)
        self._on_change()

    def _work(self) -> None:
        """In the thread.  The package raises a bare Exception for everything."""
        gateway = None
        while not self._stop.is_set():
            before = self.external
            try:
                gateway = gateway or self._discover()
                self.external = self._map(gateway, before)
            except Exception as error:  # noqa: BLE001 - see above
                self.refusal, self.external, gateway = f"UPnP: {error}", None, None
                _log.debug("no mapping by UPnP", extra=pairs(error=error))
            if self.external != before and not self._stop.is_set():
                os.eventfd_write(self._wake, 1)
            self._stop.wait(RENEWAL)
        if gateway is not None and self.external is not None:
            with contextlib.suppress(Exception):
                gateway.deleteportmapping(self.external.port, "UDP")

    def _discover(self) -> Any:
        gateway = self._package.UPnP()
        gateway.discoverdelay = DISCOVERY
        if not gateway.discover():
            raise LookupError("no gateway")
        gateway.selectigd()
        return gateway

    def _map(self, gateway: Any, before: Endpoint | None) -> Endpoint:
        host = str(ipaddress.IPv4Address(gateway.externalipaddress()))
        first = before.port if before is not None else self._port
        for port in range(first, min(first + PORTS_TRIED, 65536)):
            with contextlib.suppress(Exception):
                gateway.addportmapping(port, "UDP", gateway.lanaddr, self._port, DESCRIPTION, "", LEASE)
                return Endpoint(host, port)
        raise LookupError("the gateway gives no port")
