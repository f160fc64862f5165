"""``cyphonic worker``."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Mapping
from pathlib import Path

import click

from cyphonic.configuration import load
from cyphonic.lifecycle import Lifeline, StopSignal
from cyphonic.logs import LEVELS, pairs, set_up_logging
from cyphonic.site import Site, cloud_file, load_site
from cyphonic.supervisor import Child, Supervisor
from cyphonic.workers.config import WorkerSection
from cyphonic.workers.process import open_process, worker_children

_log = logging.getLogger(__name__)


@click.command("worker")
@click.option("--config", type=click.Path(path_type=Path), help="The site's file; else /etc/cyphonic/cloud.toml.")
@click.option("--service", metavar="as,nms", help="Which services to serve; default: both.")
@click.option("--processes", type=int, help="Processes; default: 2.")
@click.option("--threads", type=int, help="Threads of each process; default: 2.")
@click.option("--metrics", metavar="ADDRESS:PORT", help="Serve Prometheus metrics there.")
@click.option("--log-level", type=click.Choice(LEVELS), default="info", envvar="CYPHONIC_LOG_LEVEL")
def command(
    config: Path | None,
    service: str | None,
    processes: int | None,
    threads: int | None,
    metrics: str | None,
    log_level: str,
) -> None:
    """Run workers for the AS, the NMS or both: they do what frontends hand them, and keep nothing.

    Start as many as you like, here or elsewhere: any of them finishes what another began.  SIGTERM drains.
    """
    environ = os.environ
    set_up_logging("worker", log_level, journal="JOURNAL_STREAM" in environ)
    site = load_site(config, environ)
    file = cloud_file(config, environ)
    flags = {"service": service, "processes": processes, "threads": threads, "metrics": metrics}
    section = load(WorkerSection, section="worker", file=file, environ=environ, flags=flags)
    if section.processes == 1:
        _run_process(site, section, environ)
        return
    argv = [sys.executable, "-m", "cyphonic", "worker", "--config", str(file.absolute())]
    argv += ["--service", ",".join(section.service), "--threads", str(section.threads), "--log-level", log_level]
    with StopSignal() as stop:
        supervisor = Supervisor(worker_children(argv, section), notify=_log_event)
        code = supervisor.run(stop, Lifeline(environ))
    sys.exit(code)


def _run_process(site: Site, section: WorkerSection, environ: Mapping[str, str]) -> None:
    lifeline = Lifeline(environ)
    with open_process(site, section, os.urandom) as process, StopSignal() as stop:
        _log.info("worker starts", extra=pairs(services=",".join(section.service), threads=section.threads))
        process.run(stop, lifeline)
        _log.info("worker stopped", extra=pairs(**process.drops()))


def _log_event(event: str, child: Child) -> None:
    level = logging.WARNING if event in ("not-started", "stalled", "exited") else logging.INFO
    _log.log(level, f"{child.spec.name} {event}", extra=pairs(restarts=child.restarts))
