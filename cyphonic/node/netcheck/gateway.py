"""Which port mapping protocols the default gateway speaks; nothing is mapped for it."""

from __future__ import annotations

import select
import socket
import struct
import time
from typing import NamedTuple

from cyphonic.node.portmap.speaker import GATEWAY_PORT
from cyphonic.node.portmap.upnp import DISCOVERY, find_miniupnpc
from cyphonic.node.underlay import Underlay

PATIENCE = 1.0
_PCP_VERSION, _ANNOUNCE, _RESPONSE = 2, 0, 0x80
_NAT_PMP_ADDRESS = bytes(2)


class GatewayCheck(NamedTuple):
    """What the gateway speaks."""

    gateway: str
    protocols: list[str]
    why: str = ""


def check_gateway(underlay: Underlay) -> GatewayCheck:
    """Takes a second, two with UPnP."""
    gateways = [route.gateway for route in underlay.default_routes if route.family == socket.AF_INET]
    gateway = next(filter(None, gateways), "")
    if not gateway:
        return GatewayCheck("", [], "there is no IPv4 gateway")
    protocols = _ask_gateway(gateway)
    if _speaks_upnp():
        protocols.append("UPnP")
    return GatewayCheck(gateway, protocols, "" if protocols else "the gateway speaks none of them")


def _ask_gateway(gateway: str) -> list[str]:
    found: set[str] = set()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
        try:
            udp.connect((gateway, GATEWAY_PORT))
            own = socket.inet_pton(socket.AF_INET, udp.getsockname()[0])
        except OSError:
            return []
        announce = struct.pack(">BBHI12s4s", _PCP_VERSION, _ANNOUNCE, 0, 0, bytes(10) + b"\xff\xff", own)
        for _ in range(2):
            deadline = time.monotonic() + PATIENCE / 2
            for request in (announce, _NAT_PMP_ADDRESS):
                _send(udp, request)
            while len(found) < 2 and (left := deadline - time.monotonic()) > 0:
                if select.select([udp], [], [], left)[0]:
                    found |= _spoken_in(udp)
    return [name for name in ("PCP", "NAT-PMP") if name in found]


def _send(udp: socket.socket, request: bytes) -> None:
    try:
        udp.send(request)
    except OSError:  # the ICMP answer to the one before
        return


def _spoken_in(udp: socket.socket) -> set[str]:
    try:
        answer = udp.recv(2048)
    except OSError:
        return set()
    if len(answer) < 4 or not answer[1] & _RESPONSE:
        return set()
    if answer[0] == _PCP_VERSION and answer[3] != 1:
        return {"PCP"}
    # A NAT-PMP gateway says so of PCP, too: in version 0, that it does not know version 2.
    return {"NAT-PMP"} if answer[0] == 0 else set()


def _speaks_upnp() -> bool:
    package = find_miniupnpc()
    if package is None:
        return False
    try:
        client = package.UPnP()
        client.discoverdelay = DISCOVERY
        client.discover()
        return bool(client.selectigd())
    except Exception:  # noqa: BLE001 - the package raises nothing narrower
        return False
