"""What every benchmark shares: repeated runs, medians, CPU time of processes, a table, a JSON file."""

from __future__ import annotations

import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console
from rich.table import Table

REPOSITORY = Path(__file__).resolve().parents[2]
RESULTS = REPOSITORY / "build" / "bench"
RUNS = 3
"""Medians of at least this many runs: shared machines jump."""
SCHEMA_VERSION = 1

_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass
class Figure:
    """One measured quantity over all runs."""

    name: str
    unit: str
    target: float | None = None
    """What it must reach; None: informative."""
    lower_is_better: bool = False
    digits: int = 0
    values: list[float] = field(default_factory=list)

    @property
    def median(self) -> float:
        """Of all runs."""
        return statistics.median(self.values)

    @property
    def met(self) -> bool:
        """Whether the target is reached; True without one."""
        if self.target is None:
            return True
        return self.median <= self.target if self.lower_is_better else self.median >= self.target


class Benchmark:
    """Collects figures by name, run after run."""

    def __init__(self, name: str, title: str) -> None:
        self.name = name
        self.title = title
        self.figures: dict[str, Figure] = {}
        self.notes: dict[str, str] = {}

    def add(
        self,
        name: str,
        unit: str,
        value: float,
        *,
        target: float | None = None,
        lower_is_better: bool = False,
        digits: int = 0,
    ) -> None:
        """One run's value of a figure."""
        figure = self.figures.setdefault(name, Figure(name, unit, target, lower_is_better, digits))
        figure.values.append(value)

    def finish(self) -> bool:
        """Print the table, write the file; whether every target is met."""
        print_figures(self.title, list(self.figures.values()))
        file = self.write()
        Console().print(f"written to {file.relative_to(REPOSITORY)}\n")
        return all(figure.met for figure in self.figures.values())

    def write(self, directory: Path = RESULTS) -> Path:
        """``<name>.json``: medians, all values, targets, and the machine."""
        directory.mkdir(parents=True, exist_ok=True)
        file = directory / f"{self.name}.json"
        document = {
            "schema_version": SCHEMA_VERSION,
            "benchmark": self.name,
            "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "machine": machine(),
            "notes": self.notes,
            "figures": {
                figure.name: {
                    "unit": figure.unit,
                    "median": figure.median,
                    "values": figure.values,
                    "target": figure.target,
                    "met": figure.met,
                }
                for figure in self.figures.values()
            },
        }
        file.write_text(json.dumps(document, indent=2) + "\n")
        return file


def print_figures(title: str, figures: Sequence[Figure]) -> None:
    """A table for people."""
    table = Table(title=title, title_justify="left")
    table.add_column("figure")
    for heading in ("median", "all runs", "unit", "target"):
        table.add_column(heading, justify="right" if heading != "unit" else "left")
    for figure in figures:
        target = ""
        if figure.target is not None:
            sign = "≤" if figure.lower_is_better else "≥"
            mark = "[green]met[/]" if figure.met else "[red]missed[/]"
            target = f"{sign} {figure.target:,.{figure.digits}f} {mark}"
        runs = "  ".join(f"{value:,.{figure.digits}f}" for value in figure.values)
        table.add_row(figure.name, f"{figure.median:,.{figure.digits}f}", runs, figure.unit, target)
    Console(width=None if os.isatty(1) else 140).print(table)


def machine() -> dict[str, object]:
    """Where the figures come from: they compare only within one machine."""
    return {
        "cpu": _cpu_model(),
        "cores": len(os.sched_getaffinity(0)),
        "kernel": platform.release(),
        "python": platform.python_version(),
    }


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.machine()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")


def cpu_seconds(pid: int) -> float:
    """CPU time that a process has used, user and system; 0 when it is gone."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / _TICKS


def descendants(pid: int) -> dict[int, list[str]]:
    """Every process below ``pid`` with its command line."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except OSError:
                continue
            children.setdefault(parent, []).append(int(entry.name))
    found: dict[int, list[str]] = {}
    waiting = list(children.get(pid, ()))
    while waiting:
        child = waiting.pop()
        try:
            found[child] = Path(f"/proc/{child}/cmdline").read_bytes().decode(errors="replace").split("\0")
        except OSError:
            continue
        waiting += children.get(child, ())
    return found


class CpuMeter:
    """CPU time by group of processes between two looks."""

    def __init__(self, groups: Mapping[str, Sequence[int]]) -> None:
        self._groups = groups
        self._start = self._read()

    def used(self) -> dict[str, float]:
        """Seconds by group since this meter was made."""
        now = self._read()
        return {group: now[group] - self._start[group] for group in self._groups}

    def _read(self) -> dict[str, float]:
        return {group: sum(map(cpu_seconds, pids)) for group, pids in self._groups.items()}


class ForeignLoad:
    """What share of the machine processes other than the measured ones took: above a few % a run means little."""

    def __init__(self) -> None:
        self._start = _machine_ticks()

    def percent(self, own_seconds: float) -> float:
        """Since this was made, of all cores; ``own_seconds`` of CPU time belong to the measurement."""
        busy, total = (now - then for now, then in zip(_machine_ticks(), self._start, strict=True))
        return max(0.0, 100 * (busy - own_seconds * _TICKS) / max(1, total))


def _machine_ticks() -> tuple[int, int]:
    """Busy and all ticks of all cores since boot."""
    fields = [int(field) for field in Path("/proc/stat").read_text().splitlines()[0].split()[1:9]]
    idle = fields[3] + fields[4]
    return sum(fields) - idle, sum(fields)


def wait_until(condition: Callable[[], bool], deadline: float, what: str) -> None:
    """Poll; raise TimeoutError naming ``what`` after ``deadline`` seconds."""
    end = time.monotonic() + deadline
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError(f"no {what} within {deadline:.0f} s")
        time.sleep(0.02)
