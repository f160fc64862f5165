"""Bytes between the TUN device, the underlay sockets and the overlay's core, in batches.

Each wake-up drains what is there, up to ``BATCH``, hands it to the core one by one and then performs what the core
decided.  The clock is read once a batch.  A datagram or packet that the kernel does not take is a counted drop:
waiting for one peer would hold up all others.
"""

from __future__ import annotations

import errno
import socket
from collections import Counter
from collections.abc import Callable
from socket import AddressFamily

from cyphonic.errors import OperationalError
from cyphonic.node.loop import Loop
from cyphonic.node.tun import Tun
from cyphonic.protocol.overlay import Overlay
from cyphonic.wire.endpoint import Endpoint

BATCH = 64
"""Datagrams or packets of one turn: shares the costs of a turn, and keeps it under 2 ms."""
MAX_DATAGRAM = 65535
SOCKET_BUFFER = 4 * 1024 * 1024
"""Bytes, each way: 40 ms of 100,000 datagrams a second."""
_SO_SNDBUFFORCE, _SO_RCVBUFFORCE = 32, 33  # <asm-generic/socket.h>; need CAP_NET_ADMIN

_SEND_FAILURES = {
    errno.EAGAIN: "underlay_buffer_full",
    errno.ENOBUFS: "underlay_buffer_full",
    errno.EMSGSIZE: "underlay_too_long",
    errno.ENETUNREACH: "underlay_unreachable",
    errno.EHOSTUNREACH: "underlay_unreachable",
    errno.ENETDOWN: "underlay_unreachable",
    errno.ECONNREFUSED: "underlay_refused",
    errno.EPERM: "underlay_filtered",
}


def open_underlay(port: int) -> dict[AddressFamily, socket.socket]:
    """One socket a family on ``port`` (0: any), for as many families as the kernel has.

    Raise OperationalError when the port is taken, or there is no family at all.
    """
    sockets: dict[AddressFamily, socket.socket] = {}
    for family, host in ((socket.AF_INET, "0.0.0.0"), (socket.AF_INET6, "::")):
        try:
            udp = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        except OSError:
            continue  # a kernel without this family
        if family is socket.AF_INET6:
            udp.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        _widen(udp)
        try:
            udp.bind((host, port))
        except OSError as error:
            udp.close()
            if error.errno == errno.EADDRINUSE:
                for opened in sockets.values():
                    opened.close()
                raise OperationalError(
                    f"UDP port {port} is taken",
                    "choose another, or 0 for any: [node] listen_port in /etc/cyphonic/node.toml",
                ) from None
            continue
        sockets[family] = udp
    if not sockets:
        raise OperationalError("this machine has neither IPv4 nor IPv6", "cyphonic needs UDP over one of them")
    return sockets


def _widen(udp: socket.socket) -> None:
    for forced, option in ((_SO_SNDBUFFORCE, socket.SO_SNDBUF), (_SO_RCVBUFFORCE, socket.SO_RCVBUF)):
        try:
            udp.setsockopt(socket.SOL_SOCKET, forced, SOCKET_BUFFER)
        except PermissionError:
            udp.setsockopt(socket.SOL_SOCKET, option, SOCKET_BUFFER)


class Datapath:
    """The driver of one ``Overlay``.  ``clock`` is monotonic, ``wall`` Unix time, both in seconds.

    ``on_events`` is called after a batch that made the core report something.
    """

    name = "python"

    def __init__(
        self,
        overlay: Overlay,
        tun: Tun,
        sockets: dict[AddressFamily, socket.socket],
        clock: Callable[[], float],
        wall: Callable[[], float],
        on_events: Callable[[], None],
    ) -> None:
        self.drops: Counter[str] = Counter()
        self._overlay = overlay
        self._tun = tun
        self._sockets = sockets
        self._clock = clock
        self._wall = wall
        self._on_events = on_events

    def start(self, loop: Loop) -> None:
        """From now on the loop calls this when there is something to move."""
        loop.add_reader(self._tun.fileno(), self._tun_readable)
        for udp in self._sockets.values():
            loop.add_reader(udp.fileno(), lambda udp=udp: self._socket_readable(udp))  # type: ignore[misc]

    def stop(self, loop: Loop) -> None:
        """No longer call; to be done before the descriptors are closed."""
        loop.remove(self._tun.fileno())
        for udp in self._sockets.values():
            loop.remove(udp.fileno())

    def flush(self) -> None:
        """Perform what the core has decided."""
        outbox = self._overlay.outbox
        if outbox.datagrams:
            datagrams, outbox.datagrams = outbox.datagrams, []
            self._send(datagrams)
        if outbox.packets:
            packets, outbox.packets = outbox.packets, []
            write = self._tun.write
            for packet in packets:
                if not write(packet):
                    self.drops["tun_full"] += 1

    def _send(self, datagrams: list[tuple[bytes, Endpoint]]) -> None:
        four, six = self._sockets.get(socket.AF_INET), self._sockets.get(socket.AF_INET6)
        for datagram, endpoint in datagrams:
            udp = six if ":" in endpoint[0] else four
            if udp is None:
                self.drops["no_socket"] += 1
                continue
            try:
                udp.sendto(datagram, endpoint)
            except OSError as error:
                self.drops[_SEND_FAILURES.get(error.errno or 0, "underlay_error")] += 1

    def _tun_readable(self) -> None:
        now = self._clock()
        read, receive = self._tun.read, self._overlay.receive_packet
        for _ in range(BATCH):
            packet = read()
            if packet is None:
                break
            receive(packet, now)
        self.flush()

    def _socket_readable(self, udp: socket.socket) -> None:
        now, wall = self._clock(), self._wall()
        receive = self._overlay.receive_datagram
        try:
            for _ in range(BATCH):
                datagram, source = udp.recvfrom(MAX_DATAGRAM)
                receive(datagram, Endpoint(source[0], source[1]), now, wall)
        except BlockingIOError:
            pass
        except OSError as error:  # an ICMP answer to something sent before; the next read goes on
            self.drops[_SEND_FAILURES.get(error.errno or 0, "underlay_error")] += 1
        self.flush()
        if self._overlay.has_events:
            self._on_events()
