"""What this machine knows of the overlay: addresses, MTU and routes of the TUN device, set through netlink.

All of it hangs on the device, which is not persistent: after a kill -9 the kernel removes device, addresses and
routes together, and nothing is left to clean up at the next start.
"""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import logging
import socket
from collections.abc import Iterator
from pathlib import Path

from pyroute2 import IPRoute  # type: ignore[import-untyped]  # the package ships no types
from pyroute2.netlink.exceptions import NetlinkError  # type: ignore[import-untyped]

from cyphonic.errors import OperationalError
from cyphonic.logs import pairs
from cyphonic.node.netlink import open_netlink

_log = logging.getLogger(__name__)

Network = ipaddress.IPv4Network | ipaddress.IPv6Network

IFA_F_NODAD = 0x02
"""Nobody else on a TUN could have the address: it is usable at once."""
RT_TABLE_MAIN = 254


class Interface:
    """Configures the network device called ``name``, which exists."""

    def __init__(self, name: str) -> None:
        self.name = name

    def configure(self, *, ipv6: bytes | None, ipv4: bytes | None, prefix: str, pool: str, mtu: int) -> None:
        """Give the device its virtual addresses, routes and MTU, and set it up.

        Addresses are raw bytes; None or empty: none of that family.
        ``prefix`` and ``pool`` are the overlay's networks, routed into the device for the families that have an
        address.  May be called again with other addresses: those that are no longer named go away.
        Raise OperationalError.
        """
        wanted = {
            ipaddress.ip_address(packed): ipaddress.ip_network(network)
            for packed, network in ((ipv6, prefix), (ipv4, pool))
            if packed
        }
        self._prepare_ipv6(enabled=bool(ipv6))
        with _netlink(f"cannot configure {self.name}") as route:
            index = self._index(route)
            route.link("set", index=index, mtu=mtu, state="up")
            self._remove_addresses(route, index, keep={str(address) for address in wanted})
            for address in wanted:
                self._add_address(route, index, address)
            for address, network in wanted.items():
                self._add_route(route, index, network, str(address))

    def remove(self) -> None:
        """Take addresses and routes away, for a device that someone else has made and that stays.  Never fails."""
        try:
            with _netlink("") as route:
                index = self._index(route)
                self._remove_addresses(route, index, keep=set())
                route.link("set", index=index, state="down")  # routes go with it
        except OperationalError as error:
            _log.debug("nothing to remove", extra=pairs(device=self.name, error=error.message))

    def _index(self, route: IPRoute) -> int:
        found = route.link_lookup(ifname=self.name)
        if not found:
            raise OperationalError(f"the network device {self.name} has gone", "cyphonic down, then cyphonic up")
        index: int = found[0]
        return index

    def _remove_addresses(self, route: IPRoute, index: int, keep: set[str]) -> None:
        for entry in route.get_addr(index=index):
            address = entry.get_attr("IFA_LOCAL") or entry.get_attr("IFA_ADDRESS")
            if address not in keep:
                route.addr("del", index=index, address=address, prefixlen=entry["prefixlen"])

    def _add_address(
        self, route: IPRoute, index: int, address: ipaddress.IPv4Address | ipaddress.IPv6Address
    ) -> None:
        flags = {"flags": IFA_F_NODAD} if address.version == 6 else {}
        with _existing_is_fine():
            route.addr("add", index=index, address=str(address), prefixlen=address.max_prefixlen, **flags)

    def _add_route(self, route: IPRoute, index: int, network: Network, source: str) -> None:
        family = socket.AF_INET6 if network.version == 6 else socket.AF_INET
        for other in route.get_routes(family=family, table=RT_TABLE_MAIN):
            if other.get_attr("RTA_OIF") != index and _destination(other) == network:
                raise OperationalError(
                    f"this machine already routes {network}, the overlay's network, elsewhere",
                    "remove that route, or let the cloud's operator choose another pool_ipv4",
                )
        with _existing_is_fine():
            route.route("add", family=family, dst=str(network), oif=index, prefsrc=source)

    def _prepare_ipv6(self, *, enabled: bool) -> None:
        """IPv6 on even where it is off, and no link-local address: that would bring router solicitations along."""
        base = Path("/proc/sys/net/ipv6/conf") / self.name
        if not base.is_dir():
            if enabled:
                _log.warning(
                    "no IPv6 in this kernel: only the IPv4 virtual address works", extra=pairs(device=self.name)
                )
            return
        for key, value in (("disable_ipv6", "0" if enabled else "1"), ("addr_gen_mode", "1"), ("accept_ra", "0")):
            try:
                (base / key).write_text(value)
            except OSError as error:  # /proc/sys is read-only in many containers
                _log.debug("a sysctl was not set", extra=pairs(device=self.name, key=key, error=error))


def _destination(route: object) -> Network | None:
    destination = route.get_attr("RTA_DST")  # type: ignore[attr-defined]
    return ipaddress.ip_network((destination, route["dst_len"])) if destination else None  # type: ignore[index]


@contextlib.contextmanager
def _netlink(what: str) -> Iterator[IPRoute]:
    try:
        with open_netlink() as route:
            yield route
    except NetlinkError as error:
        hint = "run as root: sudo cyphonic up" if error.code in (errno.EPERM, errno.EACCES) else ""
        raise OperationalError(f"{what}: {error}", hint) from None
    except OSError as error:
        raise OperationalError(f"{what}: {error.strerror}") from None


@contextlib.contextmanager
def _existing_is_fine() -> Iterator[None]:
    try:
        yield
    except NetlinkError as error:
        if error.code != errno.EEXIST:
            raise
