"""A relay's UDP socket: whole bursts in, whole bursts out.

The kernel coalesces datagrams of one source and size (UDP GRO) into one read; the relay looks at every header in
it, takes each run of equal ones through the table with a single lookup, and hands the run back to the kernel to
cut again (UDP GSO).  Kernels without either get the same datagrams one by one.
"""

from __future__ import annotations

import errno
import socket
import struct
from collections import Counter
from collections.abc import Iterator

from cyphonic.relay.bindings import Way
from cyphonic.udp import BUFFER, explain_bind_error
from cyphonic.wire.endpoint import Endpoint
from cyphonic.wire.header import RELAYED_HEADER_LENGTH

UDP_SEGMENT = 103
"""linux/udp.h; the socket module does not name them."""
UDP_GRO = 104
SO_SNDBUFFORCE = 32
SO_RCVBUFFORCE = 33
IP_PKTINFO = 8
IPV6_RECVPKTINFO = 49
IPV6_PKTINFO = 50
MAX_DATAGRAM = 65535
MAX_LOCALS = 1024
"""Addresses of this host that are remembered; a /64 may be local as a whole."""
ANCILLARY_SPACE = 256
WILDCARDS = frozenset({"0.0.0.0", "::"})

_INTEGER = struct.Struct("=i")
_SEGMENT = struct.Struct("=H")

Ancillary = list[tuple[int, int, bytes]]


class RelaySocket:
    """One non-blocking UDP socket at ``endpoint``; raise OperationalError when the port is not to be had.

    At a wildcard address it remembers by which of the host's addresses a datagram came, so that an answer
    leaves by the same one.
    """

    def __init__(self, endpoint: Endpoint, drops: Counter[str]) -> None:
        self.family = endpoint.family
        self.drops = drops
        self._wildcard = endpoint.host in WILDCARDS
        self._level = socket.IPPROTO_IPV6 if self.family == socket.AF_INET6 else socket.IPPROTO_IP
        self._info = IPV6_PKTINFO if self.family == socket.AF_INET6 else IP_PKTINFO
        self._socket = socket.socket(self.family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        try:
            self._set_up()
            self._socket.bind(endpoint)
        except OSError as error:
            self._socket.close()
            raise explain_bind_error(error, endpoint) from None
        self.endpoint = Endpoint(*self._socket.getsockname()[:2])
        self._buffer = bytearray(MAX_DATAGRAM)
        self._view = memoryview(self._buffer)
        self._ancillaries: dict[str, Ancillary] = {}

    def _set_up(self) -> None:
        if self.family == socket.AF_INET6:
            self._socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        for option, forced in ((socket.SO_RCVBUF, SO_RCVBUFFORCE), (socket.SO_SNDBUF, SO_SNDBUFFORCE)):
            try:
                self._socket.setsockopt(socket.SOL_SOCKET, forced, BUFFER)
            except PermissionError:
                self._socket.setsockopt(socket.SOL_SOCKET, option, BUFFER)
        if self._wildcard:
            option = IPV6_RECVPKTINFO if self.family == socket.AF_INET6 else IP_PKTINFO
            self._socket.setsockopt(self._level, option, 1)
        self.coalesces = self._try_option(UDP_GRO, 1)
        self.segments = self._try_option(UDP_SEGMENT, 0)

    def _try_option(self, option: int, value: int) -> bool:
        try:
            self._socket.setsockopt(socket.IPPROTO_UDP, option, value)
        except OSError:
            return False
        return True

    def fileno(self) -> int:
        """For epoll."""
        return self._socket.fileno()

    def close(self) -> None:
        """Give the port back."""
        self._socket.close()

    def receive(self) -> tuple[memoryview, int, str, tuple[str, int]] | None:
        """What the kernel has: datagrams of one source, bytes of each, local address, source; None when empty.

        The view is valid until the next call.  All datagrams but the last have the given size.
        """
        try:
            length, ancillary, _, source = self._socket.recvmsg_into([self._buffer], ANCILLARY_SPACE)
        except BlockingIOError:
            return None
        size, local = length, ""
        for level, kind, value in ancillary:
            if kind == UDP_GRO and level == socket.IPPROTO_UDP:
                size = _INTEGER.unpack_from(value)[0]
            elif kind == self._info and level == self._level:
                local = self._read_local(value)
        return self._view[:length], size, local, source[:2]

    def _read_local(self, info: bytes) -> str:
        # in_pktinfo: index, specific destination, header destination; in6_pktinfo: address, index.
        return socket.inet_ntop(self.family, info[:16] if self.family == socket.AF_INET6 else info[4:8])

    def _ancillary(self, local: str) -> Ancillary:
        """What makes a datagram leave from ``local``, one of this host's addresses."""
        ancillary = self._ancillaries.get(local)
        if ancillary is None:
            if len(self._ancillaries) >= MAX_LOCALS:
                self._ancillaries.clear()
            ancillary = self._ancillaries[local] = self._make_ancillary(local)
        return ancillary

    def _make_ancillary(self, local: str) -> Ancillary:
        if not local:
            return []
        packed = socket.inet_pton(self.family, local)
        if self.family == socket.AF_INET6:
            return [(self._level, self._info, packed + bytes(4))]
        return [(self._level, self._info, bytes(4) + packed + bytes(4))]

    def send(self, datagrams: memoryview | bytes, size: int, way: Way) -> None:
        """Send a run of datagrams of ``size`` bytes each, the last one perhaps shorter.  Losses are counted."""
        ancillary = self._ancillary(way.local)
        if len(datagrams) > size:
            if self.segments and self._send_segments(datagrams, size, way, ancillary):
                return
            view = memoryview(datagrams)
            for start in range(0, len(view), size):
                self._send_one(view[start : start + size], way, ancillary)
        else:
            self._send_one(datagrams, way, ancillary)

    def _send_segments(self, datagrams: memoryview | bytes, size: int, way: Way, ancillary: Ancillary) -> bool:
        segment = (socket.IPPROTO_UDP, UDP_SEGMENT, _SEGMENT.pack(size))
        try:
            self._socket.sendmsg([datagrams], [*ancillary, segment], 0, way.remote)
        except BlockingIOError:
            self.drops["send_buffer_full"] += -(-len(datagrams) // size)
        except OSError as error:
            if error.errno in (errno.EMSGSIZE, errno.EINVAL):  # a narrower route, or more segments than it takes
                return False
            if error.errno == errno.EIO:  # the device computes no checksums: never again
                self.segments = False
                return False
            self.drops["send_failed"] += -(-len(datagrams) // size)
        return True

    def _send_one(self, datagram: memoryview | bytes, way: Way, ancillary: Ancillary) -> None:
        try:
            if ancillary:
                self._socket.sendmsg([datagram], ancillary, 0, way.remote)
            else:
                self._socket.sendto(datagram, way.remote)
        except BlockingIOError:
            self.drops["send_buffer_full"] += 1
        except OSError:
            self.drops["send_failed"] += 1


def runs(datagrams: memoryview, size: int) -> Iterator[tuple[bytes, int, int]]:
    """Split a coalesced read where the 8-byte header changes: (header, start, end) of each run.

    The kernel coalesces by source, so datagrams of several paths may stand in one read.
    """
    length = len(datagrams)
    start = 0
    header = bytes(datagrams[:RELAYED_HEADER_LENGTH])
    for position in range(size, length, size):
        other = datagrams[position : position + RELAYED_HEADER_LENGTH]
        if other != header:
            yield header, start, position
            start, header = position, bytes(other)
    yield header, start, length
