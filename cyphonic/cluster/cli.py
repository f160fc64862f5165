"""``cyphonic cluster``."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table

from cyphonic.cluster.config import ClusterSection
from cyphonic.cluster.embedded_redis import last_words
from cyphonic.cluster.process import REDIS_DIRECTORY, cluster_children, only_one
from cyphonic.configuration import load
from cyphonic.lifecycle import Lifeline, StopSignal
from cyphonic.logs import LEVELS
from cyphonic.site import Site, cloud_file, load_site
from cyphonic.supervisor import Child, Supervisor


@click.command(name="cluster")
@click.option("--config", type=click.Path(path_type=Path), help="The site's file; else /etc/cyphonic/cloud.toml.")
@click.option("--ready-file", type=click.Path(path_type=Path), help="Exists while everything is ready.")
@click.option(
    "--log-level",
    type=click.Choice(LEVELS),
    envvar="CYPHONIC_LOG_LEVEL",
    help="Of every part; else info, and warning on a terminal.",
)
def command(config: Path | None, ready_file: Path | None, log_level: str | None) -> None:
    """Run the whole cloud on this machine: Redis, frontend, workers and relay.

    Ready means: a worker has granted credit to a frontend, and the relay is bound.  Ctrl-C or SIGTERM lets what is
    under way finish and leaves nothing behind.  A part that dies is started again.
    """
    environ = os.environ
    site = load_site(config, environ)
    file = cloud_file(config, environ)
    section = load(ClusterSection, section="cluster", file=file, environ=environ)
    default_level = "warning" if sys.stderr.isatty() else "info"
    with StopSignal() as stop, only_one(site.run_dir):
        supervisor = Supervisor(cluster_children(site, section, file, log_level or default_level))
        board = _Board(site, supervisor, ready_file)
        supervisor.notify = board.show
        try:
            code = supervisor.run(stop, Lifeline(environ))
        finally:
            board.close()
    sys.exit(code)


class _Board:
    """Tells what happens, one line an event, and a table whenever everything has become ready."""

    def __init__(self, site: Site, supervisor: Supervisor, ready_file: Path | None) -> None:
        self._site = site
        self._supervisor = supervisor
        self._ready_file = ready_file
        self._ready = False
        self._console = Console(highlight=False)
        self.close()

    def show(self, event: str, child: Child) -> None:
        """An event of the supervisor."""
        self._console.print(_line(event, child), markup=False)
        if event == "exited" and child.spec.name == "redis" and not child.was_ready:
            self._console.print(last_words(self._site.state_dir / REDIS_DIRECTORY), markup=False)
        if self._supervisor.ready != self._ready:
            self._ready = self._supervisor.ready
            self._tell_ready()

    def close(self) -> None:
        """No longer ready."""
        if self._ready_file is not None:
            self._ready_file.unlink(missing_ok=True)

    def _tell_ready(self) -> None:
        if not self._ready:
            self.close()
            return
        zone = f"{self._site.region}.{self._site.domain}"
        table = Table(title=f"cyphonic cluster {zone}: ready", title_justify="left")
        for heading in ("part", "pid", "state", "restarts"):
            table.add_column(heading)
        for child in self._supervisor.children:
            pid = child.process.pid if child.process else "-"
            table.add_row(child.spec.name, str(pid), child.state, str(child.restarts))
        self._console.print(table)
        if self._ready_file is not None:
            self._ready_file.write_text("ready\n")


def _line(event: str, child: Child) -> str:
    detail = ""
    if event == "started" and child.process is not None:
        detail = f" (pid {child.process.pid})"
    if event == "exited" and child.process is not None:
        code = child.process.returncode
        detail = f" by signal {-code}" if code < 0 else f" with {code}"
    if event == "not-started":
        detail = f": out of descriptors, memory or processes; again in {child.backoff:g} s"
    if event == "stalled":
        detail = ": no sign of life, killed"
    return f"{child.spec.name}: {event}{detail}"
