"""A port of the gateway for this node: asked for, renewed, and given back, from the daemon's loop.

Only a machine with a private IPv4 address asks, and only its default gateway.
"""

from __future__ import annotations

import errno
import logging
import os
import socket
from collections.abc import Callable
from types import ModuleType

from cyphonic.errors import MalformedError
from cyphonic.logs import pairs
from cyphonic.node.loop import Loop, Timer
from cyphonic.node.portmap.mapper import MapperState, PortMapper
from cyphonic.node.portmap.speaker import GATEWAY_PORT
from cyphonic.node.portmap.upnp import UpnpMapping, find_miniupnpc
from cyphonic.node.underlay import Underlay
from cyphonic.protocol.chance import Chance
from cyphonic.wire.endpoint import Endpoint

_log = logging.getLogger(__name__)

MAX_ANSWER = 2048


class PortMapping:
    """Follows the default gateway; ``on_change()`` is called when ``external`` has become another."""

    def __init__(
        self,
        loop: Loop,
        on_change: Callable[[], None],
        *,
        chance: Chance = os.urandom,
        find_upnp: Callable[[], ModuleType | None] = find_miniupnpc,
        gateway_port: int = GATEWAY_PORT,
    ) -> None:
        self._loop = loop
        self._on_change = on_change
        self._mapper = PortMapper(chance)
        self._find_upnp = find_upnp
        self._gateway_port = gateway_port
        self._upnp: UpnpMapping | None = None
        self._socket: socket.socket | None = None
        self._followed: tuple[str, str, int] | None = None
        self._timer: Timer | None = None
        self._known: Endpoint | None = None

    @property
    def external(self) -> Endpoint | None:
        """The endpoint outside that leads to this node."""
        if self._mapper.external is not None:
            return self._mapper.external
        return self._upnp.external if self._upnp is not None else None

    @property
    def text(self) -> str:
        """For ``status``: which protocol gave what, or why there is nothing; empty: nothing was asked."""
        if self._mapper.external is not None:
            return f"{self._mapper.protocol} {self._mapper.external}"
        if self._upnp is not None and self._upnp.external is not None:
            return f"UPnP {self._upnp.external}"
        if self._followed is None:
            return ""
        if self._mapper.state is MapperState.ASKING:
            return "asking"
        refusal = self._mapper.refusal or (self._upnp.refusal if self._upnp is not None else "")
        return f"none: {refusal or 'the gateway does not answer'}"

    def follow(self, underlay: Underlay, port: int) -> None:
        """Ask the gateway of this underlay for UDP port ``port``.  The same as before changes nothing."""
        gateways = [route.gateway for route in underlay.default_routes if route.family == socket.AF_INET]
        gateway = next(filter(None, gateways), "")
        host = self._own_address(gateway)
        wanted = (gateway, host, port) if host else None
        if wanted == self._followed:
            return
        self.close()
        self._followed = wanted
        if wanted is not None:
            self._open(gateway)
            self._mapper.begin(host, port, self._loop.clock())
            self._after()

    def close(self) -> None:
        """Give the mapping back and stop.  May be called twice."""
        self._mapper.end()
        self._flush()
        if self._timer is not None:
            self._timer.cancel()
        if self._upnp is not None:
            self._upnp.close()
            self._upnp = None
        if self._socket is not None:
            self._loop.remove(self._socket.fileno())
            self._socket.close()
            self._socket = None
        self._followed = self._known = None

    def _own_address(self, gateway: str) -> str:
        """Towards the gateway; empty where there is none, or where it is a public one that needs no mapping."""
        if not gateway:
            return ""
        try:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
                probe.connect((gateway, self._gateway_port))
                host = str(probe.getsockname()[0])
        except OSError:
            return ""
        return host if Endpoint(host, 1).is_private else ""

    def _open(self, gateway: str) -> None:
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        try:
            self._socket.connect((gateway, self._gateway_port))
        except OSError as error:
            _log.debug("the gateway cannot be asked", extra=pairs(gateway=gateway, error=error))
        self._loop.add_reader(self._socket.fileno(), self._readable)

    def _readable(self) -> None:
        assert self._socket is not None
        now = self._loop.clock()
        try:
            self._mapper.receive(self._socket.recv(MAX_ANSWER), now)
        except BlockingIOError:
            return
        except MalformedError as drop:
            _log.debug("the gateway answered strangely", extra=pairs(reason=drop.reason))
        except OSError as error:
            if error.errno == errno.ECONNREFUSED:
                self._mapper.unreachable(now)
        self._after()

    def _refused(self) -> None:
        if self._socket is not None:
            self._mapper.unreachable(self._loop.clock())
            self._after()

    def _timeout(self) -> None:
        self._mapper.handle_timeout(self._loop.clock())
        self._after()

    def _after(self) -> None:
        self._flush()
        if self._timer is not None:
            self._timer.cancel()
        deadline = self._mapper.next_deadline()
        self._timer = self._loop.call_at(deadline, self._timeout)
        if self._mapper.state is MapperState.REFUSED and self._upnp is None and self._followed is not None:
            package = self._find_upnp()
            if package is not None:
                self._upnp = UpnpMapping(self._loop, package, self._followed[2], self._tell)
        self._tell()

    def _tell(self) -> None:
        if self.external == self._known:
            return
        self._known = self.external
        _log.info("port mapping", extra=pairs(mapped=self.text))
        self._on_change()

    def _flush(self) -> None:
        for datagram in self._mapper.datagrams_to_send():
            if self._socket is None:
                return
            try:
                self._socket.send(datagram)
            except OSError as error:
                _log.debug("the gateway cannot be asked", extra=pairs(error=error))
                if error.errno == errno.ECONNREFUSED:  # the ICMP answer to the datagram before
                    self._loop.call_soon(self._refused)
                return
