"""The programs that the laboratory calls, and how it calls them."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence

from cyphonic.errors import OperationalError

PACKAGES = {"ip": "iproute2", "nft": "nftables", "conntrack": "conntrack"}
"""Program and the Debian package that brings it."""


class LabError(OperationalError):
    """The laboratory cannot be built, or something in it failed."""


def missing_packages() -> list[str]:
    """Debian packages whose programs are not on PATH (looked for in the sbin directories too)."""
    return [package for program, package in PACKAGES.items() if shutil.which(program, path=search_path()) is None]


def search_path() -> str:
    """PATH with the directories where Debian keeps ip, nft and conntrack, which su without - leaves out."""
    return os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"])


def require_tools() -> None:
    """Raise LabError, saying what to do, without root or with programs missing."""
    if os.geteuid() != 0:
        raise LabError("the laboratory makes network namespaces and needs root", "run it with sudo")
    if packages := missing_packages():
        names = " ".join(packages)
        raise LabError(f"missing programs of the Debian packages {names}", f"apt-get install {names}")


def run_tool(
    argv: Sequence[str],
    *,
    stdin: str = "",
    timeout: float = 30.0,
    check: bool = True,
    env: dict[str, str] | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run a program to its end; raise LabError with what it said when it fails or takes too long.

    It gets a session of its own: Ctrl-C reaches this process alone, and the clean-up can still call programs.
    """
    environment = {**(os.environ if env is None else env), "PATH": search_path()}
    try:
        result = subprocess.run(
            list(argv),
            input=stdin,
            capture_output=True,
            text=True,
            timeout=timeout,
            env=environment,
            start_new_session=True,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise LabError(f"{' '.join(argv)}: no end after {timeout:g} s") from error
    if check and result.returncode:
        said = (result.stderr or result.stdout).strip()
        raise LabError(f"{' '.join(argv)}: ended with {result.returncode}: {said}")
    return result
