"""``[worker]`` in cloud.toml."""

from __future__ import annotations

from typing import Annotated

import msgspec

from cyphonic.wire.endpoint import Endpoint
from cyphonic.wire.job import Service


class WorkerSection(msgspec.Struct, frozen=True):
    """One ``cyphonic worker``: processes use cores, threads overlap the waits for Redis."""

    service: tuple[str, ...] = ("as", "nms")
    """Which services to serve; each process reads the secret keys of these only."""
    processes: Annotated[int, msgspec.Meta(ge=1, le=64)] = 2
    threads: Annotated[int, msgspec.Meta(ge=1, le=16)] = 2
    """Of each process."""
    batches: Annotated[int, msgspec.Meta(ge=1, le=16)] = 2
    """That may be under way to or in one thread: one to work on, one that waits."""
    drain: float = 2.0
    """Seconds after SIGTERM for the batches under way."""
    metrics: Endpoint | None = None
    """Where to serve Prometheus metrics; with several processes each takes the next port.  Absent: nowhere."""

    def __post_init__(self) -> None:
        unknown = [name for name in self.service if name.upper() not in Service.__members__]
        if unknown or not self.service:
            raise ValueError(f"service: {','.join(unknown) or 'empty'}; known are as and nms")
        if not (1 <= self.processes <= 64 and 1 <= self.threads <= 16 and 1 <= self.batches <= 16):
            raise ValueError("processes is 1 to 64, threads and batches are 1 to 16")
        if not 0 <= self.drain <= 60:
            raise ValueError("drain is 0 to 60 seconds")

    @property
    def services(self) -> frozenset[Service]:
        """As values."""
        return frozenset(Service[name.upper()] for name in self.service)
