"""The underlay as this machine sees it: which address families work, and which addresses could reach it.

A netlink socket in the loop only says that something changed; what holds now is then read anew and compared.
Reading again costs 4 ms and cannot get out of step, which a running account of netlink messages can (it loses them
when its buffer is full).
"""

from __future__ import annotations

import ipaddress
import logging
import socket
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from pyroute2.netlink.exceptions import NetlinkError  # type: ignore[import-untyped]  # the package ships no types

from cyphonic.errors import OperationalError
from cyphonic.logs import pairs
from cyphonic.node.loop import Loop, Timer
from cyphonic.node.netlink import open_netlink
from cyphonic.wire.endpoint import Endpoint
from cyphonic.wire.registration import MAX_CANDIDATES

DEBOUNCE = 0.05
"""Seconds from the first netlink message to the reading: a new address comes with several messages."""

RETRY = 0.5
"""Seconds after a reading that the kernel broke off."""

_log = logging.getLogger(__name__)

_FAMILIES = (socket.AF_INET, socket.AF_INET6)
_RT_TABLE_MAIN = 254
_RTN_UNICAST = 1
_IFF_UP, _IFF_RUNNING = 0x1, 0x40
_IFA_F_DADFAILED, _IFA_F_DEPRECATED, _IFA_F_TENTATIVE = 0x08, 0x20, 0x40
_LOOPBACK = "lo"

# linux/rtnetlink.h: RTMGRP_LINK, _IPV4_IFADDR, _IPV4_ROUTE, _IPV6_IFADDR, _IPV6_ROUTE
_GROUPS = 0x1 | 0x10 | 0x40 | 0x100 | 0x400


class DefaultRoute(NamedTuple):
    """One way out of this machine."""

    family: socket.AddressFamily
    device: int
    gateway: str


class Underlay(NamedTuple):
    """What holds at one moment.  Equal values: nothing that matters has changed."""

    families: frozenset[socket.AddressFamily]
    """Address families with an address of more than link scope and a route."""
    hosts: tuple[str, ...]
    """Own addresses that a peer could try, at most 8; those of the default route's device first."""
    default_routes: tuple[DefaultRoute, ...]

    def candidates(self, ports: Mapping[socket.AddressFamily, int]) -> list[Endpoint]:
        """``hosts`` with the port of the socket of their family; families without a socket are left out."""
        endpoints = [Endpoint(host, 0) for host in self.hosts]
        return [Endpoint(e.host, ports[e.family]) for e in endpoints if e.family in ports]


def read_underlay(own_device: str, *, allow_loopback: bool = False) -> Underlay:
    """Ask the kernel.  ``own_device`` is the overlay's and does not count; loopback counts only where allowed."""
    with open_netlink() as route:
        links = {
            link["index"]
            for link in route.get_links()
            if link["flags"] & _IFF_UP and _counts(link.get_attr("IFLA_IFNAME"), own_device, allow_loopback)
        }
        routes = [entry for entry in route.get_routes(table=_RT_TABLE_MAIN) if entry.get_attr("RTA_OIF") in links]
        addresses = [entry for entry in route.get_addr() if entry["index"] in links]
    defaults = tuple(sorted({_default_route(entry) for entry in routes if _is_default(entry)}))
    default_devices = {(default.family, default.device) for default in defaults}
    hosts: dict[str, bool] = {}
    for entry in addresses:
        host = entry.get_attr("IFA_LOCAL") or entry.get_attr("IFA_ADDRESS")
        if _usable(host, _flags(entry), allow_loopback):
            hosts[host] = (entry["family"], entry["index"]) in default_devices
    routed = {entry["family"] for entry in routes} | ({*_FAMILIES} if allow_loopback else set())
    families = {_family(host) for host in hosts} & routed
    ordered = sorted(hosts, key=lambda host: (not hosts[host], ipaddress.ip_address(host).is_loopback))
    return Underlay(frozenset(families), tuple(ordered[:MAX_CANDIDATES]), defaults)


class UnderlayMonitor:
    """Calls ``on_change(underlay)`` from the loop whenever what ``read_underlay`` says has changed.

    ``current`` holds the newest reading; the first is made by ``start``.
    """

    def __init__(
        self,
        loop: Loop,
        own_device: str,
        on_change: Callable[[Underlay], None],
        *,
        allow_loopback: bool = False,
        read: Callable[..., Underlay] = read_underlay,
    ) -> None:
        self._loop = loop
        self._own_device = own_device
        self._on_change = on_change
        self._allow_loopback = allow_loopback
        self._read = read
        self._socket: socket.socket | None = None
        self._timer: Timer | None = None
        self.current = Underlay(frozenset(), (), ())

    def start(self) -> Underlay:
        """Listen, then read once; the reading is returned, ``on_change`` is not called for it.

        Raise OperationalError when the kernel cannot be asked.
        """
        try:
            self._socket = socket.socket(
                socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK, socket.NETLINK_ROUTE
            )
            self._socket.bind((0, _GROUPS))
            self.current = self._read_now()
        except OSError as error:
            self.close()
            raise OperationalError(
                f"the kernel cannot be asked for this machine's addresses: {error.strerror}"
            ) from None
        self._loop.add_reader(self._socket.fileno(), self._arrived)
        return self.current

    def close(self) -> None:
        """Listen no more.  May be called twice, or before ``start``."""
        if self._timer is not None:
            self._timer.cancel()
        if self._socket is not None:
            self._loop.remove(self._socket.fileno())
            self._socket.close()
            self._socket = None

    def _arrived(self) -> None:
        assert self._socket is not None
        try:
            while self._socket.recv(65536):
                pass
        except OSError:  # drained (EAGAIN), or messages were lost (ENOBUFS): read anew in both cases
            pass
        if self._timer is None or not self._timer.pending:
            self._timer = self._loop.call_later(DEBOUNCE, self._reread)

    def _reread(self) -> None:
        try:
            underlay = self._read_now()
        except (NetlinkError, OSError) as error:  # changed while it was read, or no memory: soon again
            _log.debug("the underlay cannot be read now", extra=pairs(error=error))
            self._timer = self._loop.call_later(RETRY, self._reread)
            return
        if underlay != self.current:
            self.current = underlay
            self._on_change(underlay)

    def _read_now(self) -> Underlay:
        return self._read(self._own_device, allow_loopback=self._allow_loopback)


def _counts(name: str, own_device: str, allow_loopback: bool) -> bool:
    return name != own_device and (allow_loopback or name != _LOOPBACK)


def _is_default(entry: Any) -> bool:
    return (entry["dst_len"], entry["type"]) == (0, _RTN_UNICAST)


def _default_route(entry: Any) -> DefaultRoute:
    family = socket.AddressFamily(entry["family"])
    return DefaultRoute(family, entry.get_attr("RTA_OIF"), entry.get_attr("RTA_GATEWAY") or "")


def _family(host: str) -> socket.AddressFamily:
    return Endpoint(host, 0).family


def _flags(entry: Any) -> int:
    """The 32-bit flags, where the kernel sends them; the header has 8 of them."""
    extended: int | None = entry.get_attr("IFA_FLAGS")
    plain: int = entry["flags"]
    return plain if extended is None else extended


def _usable(host: str, flags: int, allow_loopback: bool) -> bool:
    if flags & (_IFA_F_DADFAILED | _IFA_F_TENTATIVE | _IFA_F_DEPRECATED):
        return False
    address = ipaddress.ip_address(host)
    if address.is_loopback:
        return allow_loopback
    return not (address.is_link_local or address.is_multicast or address.is_unspecified)
