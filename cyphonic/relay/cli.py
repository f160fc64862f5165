"""``cyphonic relay``."""

from __future__ import annotations

import os
from pathlib import Path

import click

from cyphonic.configuration import load
from cyphonic.logs import LEVELS, set_up_logging
from cyphonic.relay.config import RelaySection
from cyphonic.relay.process import run_relay
from cyphonic.site import cloud_file, load_site


@click.command("relay")
@click.option(
    "--config", type=click.Path(path_type=Path), help="The site's file; default /etc/cyphonic/cloud.toml."
)
@click.option("--listen", metavar="ADDRESS:PORT,…", help="Where it relays: one endpoint of each address family.")
@click.option("--advertise", metavar="ADDRESS:PORT,…", help="What nodes are told instead of this host's addresses.")
@click.option("--metrics", metavar="ADDRESS:PORT", help="Serve Prometheus metrics there.")
@click.option("--log-level", type=click.Choice(LEVELS), default="info", show_default=True)
def command(
    config: Path | None, listen: str | None, advertise: str | None, metrics: str | None, log_level: str
) -> None:
    """Run a relay: it joins the two ends of a path, IPv4 to IPv6 too, and never decrypts.

    SIGTERM drains it.
    """
    set_up_logging("relay", log_level, journal="JOURNAL_STREAM" in os.environ)
    site = load_site(config, os.environ)
    flags = {"listen": listen, "advertise": advertise, "metrics": metrics}
    file = cloud_file(config, os.environ)
    section = load(RelaySection, section="relay", file=file, environ=os.environ, flags=flags)
    run_relay(site, section, os.environ)
