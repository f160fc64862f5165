"""The TUN device: where packets of this machine leave for the overlay and come back.

Without ``IFF_VNET_HDR`` a read brings exactly one IP packet and a write takes one, without any header in front.
The device is not persistent: it ends with the process that opened it, however that ends.
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct

from cyphonic.errors import OperationalError

CLONE_DEVICE = "/dev/net/tun"

# linux/if_tun.h
_TUNSETIFF = 0x400454CA
_IFF_TUN = 0x0001
_IFF_NO_PI = 0x1000
_IFREQ = struct.Struct("16sH22x")

MAX_NAME = 15
"""Bytes of an interface name (IFNAMSIZ less the terminating zero)."""
MAX_PACKET = 65535

_GONE = (errno.EAGAIN, errno.EIO, errno.EBADFD, errno.EINVAL, errno.ENOBUFS)
"""What a write meets when the queue is full, the device is down or the bytes are no IP packet."""


class Tun:
    """An open TUN device with a non-blocking descriptor, for the loop and the data path."""

    def __init__(self, fd: int, name: str) -> None:
        self._fd = fd
        self.name = name

    @classmethod
    def open(cls, name: str) -> Tun:
        """Make the device.  Raise OperationalError that says what is missing and what to do about it."""
        if not 0 < len(name.encode()) <= MAX_NAME or "/" in name or name != name.strip():
            raise OperationalError(f"{name!r} is not an interface name", f"take 1 to {MAX_NAME} letters and digits")
        fd = _open_clone_device()
        try:
            answer = fcntl.ioctl(fd, _TUNSETIFF, _IFREQ.pack(name.encode(), _IFF_TUN | _IFF_NO_PI))
        except OSError as error:
            os.close(fd)
            raise _cannot_make(name, error) from None
        given: bytes = _IFREQ.unpack(answer)[0]
        return cls(fd, given.rstrip(b"\0").decode())

    def fileno(self) -> int:
        """The descriptor."""
        return self._fd

    def read(self) -> bytes | None:
        """The next packet of this machine, or None when there is none now (or the device is down)."""
        try:
            return os.read(self._fd, MAX_PACKET)
        except OSError as error:
            if error.errno in _GONE:
                return None
            raise

    def write(self, packet: bytes | bytearray | memoryview) -> bool:
        """Hand a packet to this machine; False when the kernel did not take it (queue full, down, no IP packet)."""
        try:
            os.write(self._fd, packet)
        except OSError as error:
            if error.errno in _GONE:
                return False
            raise
        return True

    def close(self) -> None:
        """End the device, its addresses and its routes with it.  May be called twice."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def _open_clone_device() -> int:
    try:
        return os.open(CLONE_DEVICE, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        raise OperationalError(
            f"{CLONE_DEVICE} does not exist",
            "load the module with 'sudo modprobe tun'; in a container, start it with '--device /dev/net/tun'",
        ) from None
    except PermissionError:
        raise OperationalError(
            f"no permission to open {CLONE_DEVICE}", "run as root: sudo cyphonic up (or with CAP_NET_ADMIN)"
        ) from None
    except OSError as error:
        if error.errno in (errno.ENODEV, errno.ENXIO):
            hint = "the kernel has no TUN driver: load it with 'sudo modprobe tun'"
            raise OperationalError(f"{CLONE_DEVICE} does not work: {error.strerror}", hint) from None
        raise OperationalError(f"{CLONE_DEVICE} cannot be opened: {error.strerror}") from None


def _cannot_make(name: str, error: OSError) -> OperationalError:
    if error.errno == errno.EPERM:
        return OperationalError(
            f"no permission to make the network device {name}",
            "run as root: sudo cyphonic up; in a container, start it with '--cap-add NET_ADMIN'",
        )
    if error.errno == errno.EBUSY:
        return OperationalError(
            f"the network device {name} is in use by another program",
            "is cyphonic up already?  Otherwise choose another name: [node] device in /etc/cyphonic/node.toml",
        )
    if error.errno == errno.EINVAL:
        return OperationalError(
            f"a network device {name} exists and is no TUN device",
            "choose another name: [node] device in /etc/cyphonic/node.toml",
        )
    return OperationalError(f"the network device {name} cannot be made: {error.strerror}")
