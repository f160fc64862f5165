"""A cluster, put together: which children, in what order, and that there is only one.

Redis starts first and is a gate.  They stop the other way round: frontends let workers finish what they have in
hand, workers need Redis until then.
"""

from __future__ import annotations

import fcntl
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cyphonic.cluster.config import ClusterSection
from cyphonic.cluster.embedded_redis import find_server, redis_child, wait_until_gone
from cyphonic.errors import OperationalError
from cyphonic.site import Site
from cyphonic.supervisor import ChildSpec

REDIS_DIRECTORY = "redis"


def cluster_children(site: Site, section: ClusterSection, config: Path, log_level: str) -> list[ChildSpec]:
    """Everything to run, in the order in which it starts.  Raise OperationalError when there is no Redis to run."""

    def tier(name: str, command: str, *options: str) -> ChildSpec:
        argv = [sys.executable, "-m", "cyphonic", command, "--config", str(config.absolute())]
        return ChildSpec(name=name, argv=[*argv, "--log-level", log_level, *options])

    children = []
    if site.uses_embedded_redis:
        wait_until_gone(site.embedded_redis_socket)
        children.append(redis_child(site.state_dir / REDIS_DIRECTORY, site.embedded_redis_socket, find_server()))
    children.append(tier("worker", "worker"))
    if section.relay:
        children.append(tier("relay", "relay"))
    if section.frontends == 1:
        children.append(tier("frontend", "frontend", "--no-share-ports"))
    else:
        children.extend(tier(f"frontend-{index}", "frontend") for index in range(1, section.frontends + 1))
    return children


@contextmanager
def only_one(run_dir: Path) -> Iterator[None]:
    """Hold the lock of this run directory; raise OperationalError when another cluster holds it."""
    file = run_dir / "cluster.lock"
    try:
        run_dir.mkdir(mode=0o755, parents=True, exist_ok=True)
        descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise OperationalError(
            f"{file}: {error.strerror}", "run as root, or choose a [site] run_dir that this user may write"
        ) from None
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(descriptor, 32, 0).decode(errors="replace").strip()
            raise OperationalError(
                f"a cluster runs here already (pid {holder})", "stop it, or give this one its own run_dir"
            ) from None
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        yield
    finally:
        os.close(descriptor)
