"""``cyphonic frontend``."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import click

from cyphonic.configuration import load
from cyphonic.frontend.config import FrontendSection
from cyphonic.frontend.process import open_frontend
from cyphonic.lifecycle import Lifeline, StopSignal
from cyphonic.logs import LEVELS, pairs, set_up_logging
from cyphonic.site import cloud_file, load_site

_log = logging.getLogger(__name__)


@click.command(name="frontend")
@click.option("--config", type=click.Path(path_type=Path), help="The site's file; else /etc/cyphonic/cloud.toml.")
@click.option("--as-listen", metavar="ADDRESS:PORT,…", help="Where the authentication service listens.")
@click.option("--nms-listen", metavar="ADDRESS:PORT,…", help="Where the node management service listens.")
@click.option(
    "--share-ports/--no-share-ports", default=None, help="With other frontends of this host; default: yes."
)
@click.option("--metrics", metavar="ADDRESS:PORT", help="Serve Prometheus metrics there.")
@click.option("--log-level", type=click.Choice(LEVELS), default="info", envvar="CYPHONIC_LOG_LEVEL")
def command(
    config: Path | None,
    as_listen: str | None,
    nms_listen: str | None,
    share_ports: bool | None,
    metrics: str | None,
    log_level: str,
) -> None:
    """Run a frontend: it takes datagrams from nodes, hands them to workers, and sends what they answer.

    Several may run on one host and share its ports.  SIGTERM ends it after what workers have in hand is answered.
    """
    environ = os.environ
    set_up_logging("frontend", log_level, journal="JOURNAL_STREAM" in environ)
    site = load_site(config, environ)
    section = load(
        FrontendSection,
        section="frontend",
        file=cloud_file(config, environ),
        environ=environ,
        flags={"as_listen": as_listen, "nms_listen": nms_listen, "share_ports": share_ports, "metrics": metrics},
    )
    lifeline = Lifeline(environ)
    with StopSignal() as stop, open_frontend(site, section, lifeline, os.urandom) as server:
        _log.info("frontend listens", extra=pairs(instance=server.instance, endpoints=server.endpoints))
        server.run(stop)
        _log.info("frontend stopped", extra=pairs(instance=server.instance, **server.all_drops()))
