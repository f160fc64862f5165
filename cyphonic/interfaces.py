"""The addresses that this machine has, from the kernel."""

from __future__ import annotations

import array
import fcntl
import ipaddress
import socket
import struct
from pathlib import Path

_SIOCGIFCONF = 0x8912
_IFREQ = 40
_ROOM = 512
_LINK_LOCAL_SCOPE = 0x20
_TENTATIVE = 0x40


def local_addresses(*, loopback: bool = False) -> list[str]:
    """Every unicast IPv4 and IPv6 address of an interface, without link-local ones.

    They come in the kernel's order, IPv4 first; loopback addresses only when asked for.
    """
    addresses = dict.fromkeys(_ipv4() + _ipv6())
    return [address for address in addresses if loopback or not ipaddress.ip_address(address).is_loopback]


def expand_wildcard(host: str, *, loopback: bool = False) -> list[str]:
    """``host`` itself, or for ``0.0.0.0`` and ``::`` the local addresses of that family."""
    if host not in ("0.0.0.0", "::"):
        return [host]
    return [address for address in local_addresses(loopback=loopback) if (":" in address) == (host == "::")]


def _ipv4() -> list[str]:
    """SIOCGIFCONF lists secondary addresses too, each under its label (netdevice(7))."""
    room = array.array("B", bytes(_IFREQ * _ROOM))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        answer = fcntl.ioctl(probe, _SIOCGIFCONF, struct.pack("iL", len(room), room.buffer_info()[0]))
    used = struct.unpack("iL", answer)[0]
    data = room.tobytes()[:used]
    found = [socket.inet_ntoa(data[at + 20 : at + 24]) for at in range(0, used, _IFREQ)]
    return [address for address in found if not ipaddress.IPv4Address(address).is_link_local]


def _ipv6() -> list[str]:
    try:
        lines = Path("/proc/net/if_inet6").read_text().splitlines()
    except OSError:  # the kernel has IPv6 switched off
        return []
    addresses = []
    for packed, _, _, scope, flags, _ in (line.split() for line in lines):
        if int(scope, 16) != _LINK_LOCAL_SCOPE and not int(flags, 16) & _TENTATIVE:
            addresses.append(str(ipaddress.IPv6Address(bytes.fromhex(packed))))
    return addresses
