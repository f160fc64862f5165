from __future__ import annotations

import errno
import os
import resource

import pytest

from cyphonic.node.netlink import open_netlink


def test_without_descriptors_it_fails_at_once_and_leaves_none_open() -> None:
    used = len(os.listdir("/proc/self/fd"))
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest_free = os.dup(0)
    os.close(lowest_free)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest_free + 3, hard))
    try:
        with pytest.raises(OSError, match="Too many open files") as caught, open_netlink():
            pytest.fail("not reached")
        assert caught.value.errno == errno.EMFILE
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert len(os.listdir("/proc/self/fd")) == used


def test_it_asks_the_kernel_and_closes_everything() -> None:
    used = len(os.listdir("/proc/self/fd"))
    with open_netlink() as route:
        assert route.link_lookup(ifname="lo")
    assert len(os.listdir("/proc/self/fd")) == used
