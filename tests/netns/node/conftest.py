"""A namespace of one's own, without a name and so without anything to clean up: it ends with its thread."""

from __future__ import annotations

import ctypes
import os
import subprocess
import threading
from collections.abc import Callable
from typing import TypeVar

import pytest

ResultT = TypeVar("ResultT")
Isolated = Callable[[Callable[[], ResultT]], ResultT]

CLONE_NEWNS = 0x00020000
CLONE_NEWNET = 0x40000000
MS_REC_PRIVATE = 0x4000 | 0x40000


def _unshare() -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(CLONE_NEWNET | CLONE_NEWNS) or libc.mount(b"none", b"/", None, MS_REC_PRIVATE, None):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)


def run_isolated(body: Callable[[], ResultT]) -> ResultT:
    """Run ``body`` in a thread with a network and a mount namespace of its own; its result or its exception."""
    results: list[ResultT] = []
    errors: list[BaseException] = []

    def thread() -> None:
        try:
            _unshare()
            results.append(body())
        except BaseException as error:  # noqa: BLE001 - raised again in the test's thread
            errors.append(error)

    worker = threading.Thread(target=thread)
    worker.start()
    worker.join()
    if errors:
        raise errors[0]
    return results[0]


@pytest.fixture
def isolated() -> Callable[[Callable[[], None]], None]:
    return run_isolated
