"""The one UDP socket: datagrams in and out in batches, answers from the address that was asked.

A socket on a wildcard address learns from IP_PKTINFO (RFC 3542 for IPv6) where each datagram was sent to, and can
send from that address again; one on a single address needs neither and is cheaper.  An IPv6 socket is IPv6 only.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import struct
from collections import Counter
from pathlib import Path
from typing import NamedTuple

from cyphonic.errors import OperationalError
from cyphonic.wire.endpoint import Endpoint

DRAIN = 256
"""Datagrams of one ``receive``: enough to empty a burst, short enough to keep other sockets waiting < 2 ms."""
BUFFER = 8 * 1024 * 1024
"""Bytes of kernel buffer in each direction: 0.2 s of 1,200-byte datagrams at 35,000/s."""
MAX_DATAGRAM = 2048
"""Bytes; a longer datagram is cut to this, which is longer than any that we accept."""

_IP_PKTINFO = 8  # <linux/in.h>; in Python's socket module only from 3.12 on
_PACKET_INFO_4 = struct.Struct("=I4s4s")  # interface, local address, destination in the header
_PACKET_INFO_6 = struct.Struct("=16sI")
_ANCILLARY_4 = socket.CMSG_SPACE(_PACKET_INFO_4.size)
_ANCILLARY_6 = socket.CMSG_SPACE(_PACKET_INFO_6.size)
_DISCARD = 9
"""RFC 863: nobody sends from there."""
_WILDCARDS = ("0.0.0.0", "::")


class Arrival(NamedTuple):
    """A datagram, where it came from, and the local address it was sent to."""

    datagram: bytes
    host: str
    port: int
    local_host: str


class UdpSocket:
    """Non-blocking.  Raise OperationalError when the endpoint cannot be bound; the message says which and why."""

    def __init__(self, endpoint: Endpoint, *, reuse_port: bool = False, device: str = "") -> None:
        self._socket = socket.socket(endpoint.family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        self._six = endpoint.family == socket.AF_INET6
        self._wildcard = endpoint.host in _WILDCARDS
        self._locals: dict[bytes, str] = {}
        self._information: dict[str, list[tuple[int, int, bytes]]] = {}
        self.drops: Counter[str] = Counter()
        try:
            self._configure(reuse_port, device)
            self._socket.bind(endpoint)
        except OSError as error:
            self._socket.close()
            raise explain_bind_error(error, endpoint) from None
        self.endpoint = Endpoint(*self._socket.getsockname()[:2])

    def fileno(self) -> int:
        """For epoll."""
        return self._socket.fileno()

    def receive(self, limit: int = DRAIN) -> list[Arrival]:
        """Up to ``limit`` datagrams that are there now."""
        return self._receive_any(limit) if self._wildcard else self._receive_one_address(limit)

    def send(self, datagram: bytes, host: str, port: int, local_host: str = "") -> bool:
        """Send one datagram, from ``local_host`` where that is open; False (and counted) when it cannot be sent."""
        try:
            if local_host and self._wildcard:
                information = self._information.get(local_host) or self._packet_information(local_host)
                self._socket.sendmsg((datagram,), information, 0, (host, port))
            else:
                self._socket.sendto(datagram, (host, port))
        except OSError as error:
            self.drops[_send_reason(error)] += 1
            return False
        return True

    def cork(self) -> None:
        """Receive nothing new, for good, but send as before: datagrams go to the other sockets that share the port.

        The kernel gives a connected UDP socket what comes from its peer alone, and this one's peer is the discard
        port of its own host.  A datagram that nobody else takes is refused (ICMP).
        """
        loopback = "::1" if self._six else "127.0.0.1"
        with contextlib.suppress(OSError):  # then it receives as before
            self._socket.connect((loopback if self._wildcard else self.endpoint.host, _DISCARD))

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()

    def _configure(self, reuse_port: bool, device: str) -> None:
        for option, forced in ((socket.SO_RCVBUF, 33), (socket.SO_SNDBUF, 32)):  # SO_RCVBUFFORCE, SO_SNDBUFFORCE
            try:
                self._socket.setsockopt(socket.SOL_SOCKET, forced, BUFFER)
            except PermissionError:
                self._socket.setsockopt(socket.SOL_SOCKET, option, BUFFER)
        if reuse_port:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if device:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, device.encode())
        if self._six:
            self._socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        if self._wildcard and self._six:
            self._socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, 1)
        elif self._wildcard:
            self._socket.setsockopt(socket.IPPROTO_IP, _IP_PKTINFO, 1)

    def _receive_one_address(self, limit: int) -> list[Arrival]:
        receive, local, arrivals = self._socket.recvfrom, self.endpoint.host, []
        try:
            for _ in range(limit):
                datagram, source = receive(MAX_DATAGRAM)
                arrivals.append(Arrival(datagram, source[0], source[1], local))
        except BlockingIOError:
            pass
        except OSError as error:  # an ICMP error of an earlier datagram; the next call goes on
            self.drops[_send_reason(error)] += 1
        return arrivals

    def _receive_any(self, limit: int) -> list[Arrival]:
        receive, known, arrivals = self._socket.recvmsg, self._locals, []
        size, start, end = (_ANCILLARY_6, 0, 16) if self._six else (_ANCILLARY_4, 8, 12)
        try:
            for _ in range(limit):
                datagram, ancillary, _, source = receive(MAX_DATAGRAM, size)
                if not ancillary:
                    self.drops["no_packet_info"] += 1
                    continue
                packed = ancillary[0][2][start:end]
                local = known.get(packed) or self._learn_local(packed)
                arrivals.append(Arrival(datagram, source[0], source[1], local))
        except BlockingIOError:
            pass
        except OSError as error:
            self.drops[_send_reason(error)] += 1
        return arrivals

    def _learn_local(self, packed: bytes) -> str:
        if len(self._locals) > 4096:  # only local addresses come here, but a /64 may be local as a whole
            self._locals.clear()
        local = socket.inet_ntop(socket.AF_INET6 if self._six else socket.AF_INET, packed)
        self._locals[packed] = local
        return local

    def _packet_information(self, local_host: str) -> list[tuple[int, int, bytes]]:
        if len(self._information) > 4096:
            self._information.clear()
        if self._six:
            packed = _PACKET_INFO_6.pack(socket.inet_pton(socket.AF_INET6, local_host), 0)
            made = [(int(socket.IPPROTO_IPV6), int(socket.IPV6_PKTINFO), packed)]
        else:
            packed = _PACKET_INFO_4.pack(0, socket.inet_pton(socket.AF_INET, local_host), bytes(4))
            made = [(int(socket.IPPROTO_IP), _IP_PKTINFO, packed)]
        self._information[local_host] = made
        return made


def _send_reason(error: OSError) -> str:
    return f"socket_{errno.errorcode.get(error.errno or 0, 'error').lower()}"


def explain_bind_error(error: OSError, endpoint: Endpoint) -> OperationalError:
    """What to tell a person whose endpoint cannot be bound."""
    if error.errno == errno.EADDRINUSE:
        holder = holder_of(endpoint)
        return OperationalError(
            f"UDP port {endpoint} is taken" + (f" by {holder}" if holder else ""),
            "stop that process, or configure another port"
            if holder
            else f"find out by whom: ss -lunp 'sport = :{endpoint.port}'",
        )
    if error.errno == errno.EADDRNOTAVAIL:
        return OperationalError(f"cannot listen on {endpoint}: {endpoint.host} is not an address of this machine")
    if error.errno == errno.EACCES:
        return OperationalError(
            f"cannot listen on {endpoint}: no permission", "ports below 1024 need root or CAP_NET_BIND_SERVICE"
        )
    return OperationalError(f"cannot listen on {endpoint}: {error.strerror}")


def check_free(endpoint: Endpoint) -> None:
    """Raise OperationalError when somebody listens there, one that shares its port (SO_REUSEPORT) too."""
    with socket.socket(endpoint.family, socket.SOCK_DGRAM) as probe:
        if endpoint.family == socket.AF_INET6:
            probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        try:
            probe.bind(endpoint)
        except OSError as error:
            raise explain_bind_error(error, endpoint) from None


def holder_of(endpoint: Endpoint) -> str:
    """``command (pid 123)`` of the process that has this UDP port open; empty where that cannot be seen."""
    inodes = _inodes_of_port(endpoint.port)
    for process in Path("/proc").iterdir():
        if process.name.isdigit() and int(process.name) != os.getpid() and inodes & _socket_inodes(process):
            return f"{_command(process)} (pid {process.name})"
    return ""


def _command(process: Path) -> str:
    try:
        words = (process / "cmdline").read_bytes().decode(errors="replace").split("\0")
    except OSError:
        return "a process"
    return " ".join([Path(words[0]).name, *words[1:]]).strip()[:80]


def _inodes_of_port(port: int) -> set[str]:
    inodes = set()
    for table in ("/proc/net/udp", "/proc/net/udp6"):
        try:
            lines = Path(table).read_text().splitlines()[1:]
        except OSError:
            continue
        for fields in (line.split() for line in lines):
            if int(fields[1].rpartition(":")[2], 16) == port:
                inodes.add(f"socket:[{fields[9]}]")
    return inodes


def _socket_inodes(process: Path) -> set[str]:
    try:
        return {os.readlink(descriptor) for descriptor in (process / "fd").iterdir()}
    except OSError:
        return set()
