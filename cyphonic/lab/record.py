"""What a lab leaves in ``/run`` while it stands, so that whatever outlives its process is found and removed.

The record is written before the first namespace is made: a lab that is killed half-way built is found as well.
"""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import msgspec

from cyphonic.lab.namespace import Namespace, delete_namespaces, make_file

RECORDS = Path("/run/cyphonic-lab")


class LabRecord(msgspec.Struct, frozen=True):
    """One lab: ``namespaces`` maps a host's or router's name to its namespace."""

    id: str
    topology: str
    owner: int
    """Process ID; 0: it stands until someone takes it down."""
    owner_started: int
    """Clock ticks since boot, which tells a reused process ID."""
    directory: str
    namespaces: dict[str, str]
    environments: dict[str, dict[str, str]] = {}
    """By host: what a command run there needs to know of its deployment."""

    @property
    def file(self) -> Path:
        """Where this record is kept."""
        return RECORDS / f"{self.id}.json"

    def save(self) -> None:
        """Write atomically."""
        make_file(self.file, msgspec.json.encode(self))

    @property
    def abandoned(self) -> bool:
        """Whether the process that owns it is gone."""
        return self.owner != 0 and started(self.owner) != self.owner_started

    def demolish(self) -> None:
        """End its processes, delete its namespaces, files and the record; may be repeated."""
        delete_namespaces([Namespace(name) for name in self.namespaces.values()])
        shutil.rmtree(self.directory, ignore_errors=True)
        self.file.unlink(missing_ok=True)
        with suppress(OSError):  # other labs stand, or another process was faster
            RECORDS.rmdir()


def records() -> Iterator[LabRecord]:
    """Every lab on this machine, by id."""
    for file in sorted(RECORDS.glob("*.json")):
        with suppress(FileNotFoundError):  # taken down at this moment
            yield msgspec.json.decode(file.read_bytes(), type=LabRecord)


def sweep() -> list[str]:
    """Demolish the labs of dead processes; return their ids."""
    gone = [record for record in records() if record.abandoned]
    for record in gone:
        record.demolish()
    return [record.id for record in gone]


def started(pid: int) -> int | None:
    """When a process started, in clock ticks since boot; None when there is none."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return int(stat.rpartition(")")[2].split()[19])


def new_id() -> str:
    """An id for a lab of this process, such as ``cy4711.c0de``: the prefix of all its namespaces."""
    return f"cy{os.getpid()}.{secrets.token_hex(2)}"
