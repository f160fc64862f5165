"""Asking the kernel through pyroute2, which breaks untidily when it gets no descriptor: that is seen to before."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

from pyroute2 import IPRoute  # type: ignore[import-untyped]  # the package ships no types

DESCRIPTORS = 16
"""More than one IPRoute opens: its socket, and an event loop with a pair of sockets."""


@contextlib.contextmanager
def open_netlink() -> Iterator[IPRoute]:
    """An IPRoute.  Raise OSError when this process cannot open as much, before anything is half made."""
    with contextlib.ExitStack() as stack:
        for _ in range(DESCRIPTORS):
            stack.callback(os.close, os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC))
    with IPRoute() as route:
        yield route
