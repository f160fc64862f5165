"""A gateway's port mapping service for the lab: answers PCP or NAT-PMP and really forwards, with nft.

Run on a router: ``python port_mapper.py pcp|natpmp OUTSIDE_ADDRESS``; it prints ``ready`` and serves until ended.
"""

from __future__ import annotations

import socket
import struct
import subprocess
import sys

from cyphonic.errors import MalformedError
from cyphonic.node.portmap import natpmp, pcp
from cyphonic.node.portmap.speaker import GATEWAY_PORT
from cyphonic.wire.endpoint import Endpoint

LIFETIME = 120
"""Seconds: the most that is granted."""
FIRST_PORT = 50000

RULES = """
table ip portmap {
  map mappings {
    type inet_service : ipv4_addr . inet_service
  }
  chain arrive {
    type nat hook prerouting priority dstnat - 5
    iifname "wan" meta l4proto udp dnat ip to udp dport map @mappings
  }
}
"""


class Gateway:
    """The mappings: outside port by inside endpoint."""

    def __init__(self, outside: str) -> None:
        self.outside = outside
        self.mapped: dict[Endpoint, int] = {}
        nft(RULES)

    def map(self, inside: Endpoint, lifetime: int) -> int:
        """The outside port; a lifetime of 0 takes it away."""
        if not lifetime:
            port = self.mapped.pop(inside, 0)
            if port:
                nft(f"delete element ip portmap mappings {{ {port} }}\n")
            return 0
        if inside not in self.mapped:
            self.mapped[inside] = FIRST_PORT + inside.port % 1000
            nft(f"add element ip portmap mappings {{ {self.mapped[inside]} : {inside.host} . {inside.port} }}\n")
        return self.mapped[inside]

    def answer(self, protocol: str, datagram: bytes, host: str) -> bytes | None:
        """As a gateway of that protocol."""
        if protocol == "pcp" and datagram[:2] == bytes((pcp.VERSION, 0)):  # ANNOUNCE
            return struct.pack(">BBBBII12x", pcp.VERSION, pcp.RESPONSE, 0, 0, 0, 1)
        if protocol == "pcp" and datagram[0] == pcp.VERSION:
            request = pcp.MapRequest.decode(datagram)
            lifetime = min(request.lifetime, LIFETIME)
            external = Endpoint(self.outside, self.map(Endpoint(host, request.internal_port), lifetime))
            return pcp.MapResponse(0, lifetime, 1, request.nonce, request.internal_port, external).encode()
        if protocol == "natpmp" and datagram[0] != natpmp.VERSION:
            return struct.pack(">BBHI", 0, natpmp.RESPONSE, 1, 1)
        if protocol == "natpmp" and datagram == bytes(2):
            return natpmp.AddressResponse(0, 1, self.outside).encode()
        if protocol == "natpmp":
            wanted = natpmp.PortRequest.decode(datagram)
            lifetime = min(wanted.lifetime, LIFETIME)
            port = self.map(Endpoint(host, wanted.internal_port), lifetime)
            return natpmp.PortResponse(0, 1, wanted.internal_port, port, lifetime).encode()
        return None


def nft(rules: str) -> None:
    """Load them."""
    subprocess.run(["nft", "-f", "-"], input=rules, text=True, check=True)


def main() -> None:
    """Serve."""
    protocol, outside = sys.argv[1:]
    gateway = Gateway(outside)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
        udp.bind(("0.0.0.0", GATEWAY_PORT))
        print("ready", flush=True)
        while True:
            datagram, (host, port) = udp.recvfrom(2048)
            try:
                answer = gateway.answer(protocol, datagram, host)
            except (MalformedError, IndexError):
                continue
            if answer is not None:
                udp.sendto(answer, (host, port))


if __name__ == "__main__":
    main()
