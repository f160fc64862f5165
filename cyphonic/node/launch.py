"""Starting the daemon behind ``cyphonic up`` as a process of its own, and learning why it did not start.

The child is the same command with ``--foreground``.  It gets the enrolment bundle through its standard input, never
through its arguments, writes its log to a file, and tells this process of a failure through a pipe.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec

from cyphonic.errors import OperationalError
from cyphonic.node.control import ControlClient, Failure

FAILURE_VARIABLE = "CYPHONIC_FAILURE_FD"
MAX_LOG = 8 * 1024 * 1024
"""Bytes; a longer log is kept as ``.1`` at the next start."""
POLL = 0.05
"""Seconds."""
START_PATIENCE = 20.0
"""Seconds until the control socket must answer: Python starting on a slow, busy machine."""


def report_failure(error: OperationalError, environ: Mapping[str, str]) -> None:
    """In the child: tell the process that has started us, if one listens."""
    descriptor = environ.get(FAILURE_VARIABLE, "")
    if descriptor.isdigit():
        with contextlib.suppress(OSError):
            os.write(int(descriptor), msgspec.json.encode(Failure.of(error)))


def leave_terminal(environ: Mapping[str, str]) -> None:
    """In the child: hold no directory, and no pipe in children of our own."""
    descriptor = environ.get(FAILURE_VARIABLE, "")
    if descriptor.isdigit():
        os.set_inheritable(int(descriptor), False)
        os.chdir("/")


class Launched:
    """A daemon that has been started and is not ours to wait for."""

    def __init__(self, process: subprocess.Popen[bytes], failure: int, log_file: Path) -> None:
        self._process = process
        self._failure = failure
        self._log_file = log_file

    def wait_until_listening(self, client: ControlClient) -> None:
        """Until the control socket answers.  Raise what the child failed with, or OperationalError."""
        deadline = time.monotonic() + START_PATIENCE
        while not client.running():
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise self.failure()
            time.sleep(POLL)

    def failure(self) -> OperationalError:
        """Why it ended, or does not get on."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(1.0)
        os.set_blocking(self._failure, False)
        try:
            said = os.read(self._failure, 65536)
        except BlockingIOError:
            said = b""
        if said:
            return msgspec.json.decode(said, type=Failure).error()
        code = self._process.returncode
        what = "does not get on" if code is None else f"ended with code {code}"
        return OperationalError(f"the daemon {what}", f"its log says why: {self._log_file}")


def launch(arguments: Sequence[str], bundle: str, log_file: Path, environ: Mapping[str, str]) -> Launched:
    """Start ``python -m cyphonic`` with ``arguments`` in a session of its own; ``bundle`` goes to its input."""
    log = _open_log_or_none(log_file)
    read, write = os.pipe()
    try:
        process = subprocess.Popen(
            [sys.executable, "-m", "cyphonic", *arguments],
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=log,
            start_new_session=True,
            pass_fds=(write,),
            env={**environ, FAILURE_VARIABLE: str(write)},
        )
    finally:
        os.close(log)
        os.close(write)
    assert process.stdin is not None
    with contextlib.suppress(BrokenPipeError), process.stdin as stdin:
        stdin.write(bundle.encode())
    return Launched(process, read, log_file)


def _open_log_or_none(file: Path) -> int:
    """A node without a log is better than none: a disk that has become read-only must not lock its owner out."""
    try:
        return _open_log(file)
    except OSError as error:
        print(f"cyphonic: {file} cannot be written ({error.strerror}): there will be no log", file=sys.stderr)  # noqa: T201
        return os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)


def _open_log(file: Path) -> int:
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    if file.exists() and file.stat().st_size > MAX_LOG:
        file.replace(file.with_name(f"{file.name}.1"))
    return os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
