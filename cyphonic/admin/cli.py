"""``cyphonic admin``."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import click
from rich.console import Console
from rich.table import Table

from cyphonic.admin import enrolment, fleet, nodes
from cyphonic.admin.init import NewSite, complete_site, create_site, next_steps
from cyphonic.admin.revocation import Drive
from cyphonic.errors import OperationalError
from cyphonic.site import CLOUD_FILE, Site, load_site
from cyphonic.state.store import Store, StoreConfig, StoreUnavailableError
from cyphonic.wire.endpoint import Endpoint

SCHEMA_VERSION = 1
"""Of every --json document: fields are added, never renamed or removed, under one version."""

Function = TypeVar("Function", bound=Callable[..., Any])


def _config_option(function: Function) -> Function:
    return click.option("--config", type=click.Path(path_type=Path), help="cloud.toml of the site.")(function)


def _json_option(function: Function) -> Function:
    return click.option("--json", "as_json", is_flag=True, help="For programs.")(function)


def _yes_option(function: Function) -> Function:
    return click.option("--yes", "-y", is_flag=True, help="Do not ask.")(function)


@contextmanager
def _open(config: Path | None) -> Iterator[tuple[Site, Store]]:
    site = load_site(config, os.environ)
    try:
        store = Store.connect(StoreConfig(site.redis_url, site.redis_password()))
    except StoreUnavailableError as error:
        raise _explained(error, site) from None
    with store:
        yield site, store


def _explained(error: StoreUnavailableError, site: Site) -> StoreUnavailableError:
    """What it means where the cluster brings its Redis along."""
    redis = site.embedded_redis_socket
    if site.uses_embedded_redis and not redis.exists():
        return StoreUnavailableError("the cluster of this site does not run", "start it: cyphonic cluster")
    if site.uses_embedded_redis and not os.access(redis, os.W_OK):
        return StoreUnavailableError(f"this user may not open {redis}", "run as root (sudo)")
    return error


def _print_json(**document: object) -> None:
    click.echo(json.dumps({"schema_version": SCHEMA_VERSION, **document}, indent=2))


def _print_table(columns: Sequence[str], rows: Sequence[Sequence[str]], nothing: str) -> None:
    if not rows:
        click.echo(nothing)
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*row)
    # A pipe has no width: nothing is folded there.
    console = Console(width=None if sys.stdout.isatty() else 200, highlight=False, markup=False)
    console.print(table)


@click.group("admin")
def group() -> None:
    """Set up a site; manage enrolment keys and nodes.

    These commands run where the site's cloud.toml and keys are, and talk to its Redis.
    """


# The site.


@group.command("init")
@click.option("--region", default="main", show_default=True, help="One label: nodes are NAME.REGION.DOMAIN.")
@click.option("--domain", default="cyphonic.internal", show_default=True, help="Any domain; nothing is delegated.")
@click.option("--pool-ipv4", default="10.77.0.0/16", show_default=True, help="Overlay addresses, not your LAN's.")
@click.option(
    "--endpoint",
    "hosts",
    multiple=True,
    metavar="ADDRESS",
    help="Where nodes reach this site; repeatable (IPv4, IPv6).  None: the addresses of the machine.",
)
@click.option("--allow-loopback", is_flag=True, help="Nodes on this very machine may join by 127.0.0.1.")
@click.option("--config", type=click.Path(path_type=Path), default=CLOUD_FILE, show_default=True)
def _init(
    region: str, domain: str, pool_ipv4: str, hosts: tuple[str, ...], allow_loopback: bool, config: Path
) -> None:
    """Make a new site: cloud.toml and its key files.  Overwrites nothing.

    For a site of an older version: make the key files that it lacks.
    """
    if added := complete_site(config, os.urandom):
        click.echo(f"{config} stays as it is; made {', '.join(map(str, added))}, which this version needs")
        return
    new = NewSite(config, region, domain, pool_ipv4, hosts, allow_loopback)
    keys = create_site(new, os.urandom)
    click.echo(
        f"made {config}, which you may edit,\n and {keys}: these files are the site.  Back them up, show nobody.\n"
    )
    click.echo(next_steps(new))


@group.command("site")
@_json_option
@_config_option
def _site(as_json: bool, config: Path | None) -> None:
    """Show the site as it is configured: cloud.toml, variables and defaults together."""
    site = load_site(config, os.environ)
    fields = {name: getattr(site, name) for name in site.__struct_fields__}
    plain = {name: str(value) if isinstance(value, Path) else value for name, value in fields.items()}
    if as_json:
        _print_json(site=plain)
    else:
        for name, value in plain.items():
            click.echo(f"{name:<20} {value}")


@group.command("fleet")
@_json_option
@_config_option
def _fleet(as_json: bool, config: Path | None) -> None:
    """Show what of the site runs now, on all hosts."""
    with _open(config) as (_, store):
        running = fleet.running(store)
    if as_json:
        _print_json(**fleet.as_json(running))
    else:
        _print_table(["tier", "instance", "endpoints", ""], fleet.as_rows(running), "nothing runs")


# Enrolment keys.


@group.group("key")
def _key() -> None:
    """Enrolment keys: the right to join."""


def _duration(_context: click.Context, _parameter: click.Parameter, value: str) -> float | None:
    try:
        return enrolment.duration(value)
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


def _endpoints(_context: click.Context, _parameter: click.Parameter, values: Sequence[str]) -> tuple[Endpoint, ...]:
    try:
        return tuple(Endpoint.parse(value) for value in values)
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


@_key.command("create")
@click.option("--name", default="", help="Fix the node's name; else the node chooses.")
@click.option("--reusable", is_flag=True, help="For any number of nodes instead of one.")
@click.option(
    "--expires", "lifetime", default="24h", show_default=True, metavar="TIME", callback=_duration,
    help="90s, 10m, 1h, 7d or never.",
)  # fmt: skip
@click.option(
    "--endpoint", "endpoints", multiple=True, metavar="ADDRESS:PORT", callback=_endpoints,
    help="Of the AS; repeatable.  None: those of the running frontends.",
)  # fmt: skip
@click.option("-o", "--output", default="-", metavar="FILE|-", help="Where the bundle goes.  [default: stdout]")
@_config_option
def _key_create(
    name: str,
    reusable: bool,
    lifetime: float | None,
    endpoints: tuple[Endpoint, ...],
    output: str,
    config: Path | None,
) -> None:
    """Make an enrolment bundle: all that one new node needs."""
    if output != "-" and Path(output).exists():
        raise OperationalError(f"{output} exists and is not overwritten", "choose another name for -o")
    with _open(config) as (site, store):
        bundle = enrolment.make_bundle(
            site, store, name=name, reusable=reusable, lifetime=lifetime, endpoints=endpoints, wall=time.time()
        )
    if output == "-":
        click.echo(bundle.dump(), nl=False)
    else:
        bundle.write(Path(output))
        click.echo(f"made {output}.  On the node:  sudo cyphonic up --enrol {output}", err=True)


@_key.command("list")
@_json_option
@_config_option
def _key_list(as_json: bool, config: Path | None) -> None:
    """List all enrolment keys; the secrets themselves are stored nowhere."""
    with _open(config) as (_, store):
        keys, wall = enrolment.all_keys(store), time.time()
    if as_json:
        _print_json(keys=[enrolment.as_json(key, wall) for key in keys])
    else:
        rows = [enrolment.as_row(key, wall) for key in keys]
        _print_table(["ID", "name", "state", "used", "created", "expires"], rows, "no enrolment keys")


@_key.command("revoke")
@click.argument("key_id", metavar="ID")
@_json_option
@_config_option
def _key_revoke(key_id: str, as_json: bool, config: Path | None) -> None:
    """End an enrolment key.  Nodes that it has enrolled stay."""
    with _open(config) as (_, store):
        key = enrolment.revoke_key(store, key_id)
    if as_json:
        _print_json(key=enrolment.as_json(key, time.time()))
    else:
        click.echo(f"revoked {key.id}; it enrolled {key.used} node(s), which stay")


# Nodes.


@group.group("node")
def _node() -> None:
    """Nodes: who is here, and who has to go."""


@_node.command("list")
@_json_option
@_config_option
def _node_list(as_json: bool, config: Path | None) -> None:
    """List all enrolled nodes."""
    with _open(config) as (_, store):
        found = nodes.all_nodes(store)
    if as_json:
        _print_json(nodes=[nodes.as_json(node) for node in found])
    else:
        rows = [nodes.as_row(node) for node in found]
        _print_table(["name", "state", "IPv6", "IPv4", "from"], rows, "no nodes")


@_node.command("show")
@click.argument("node", metavar="NODE")
@_json_option
@_config_option
def _node_show(node: str, as_json: bool, config: Path | None) -> None:
    """Show one node, by name, FQDN, node ID or virtual address."""
    with _open(config) as (_, store):
        found = nodes.find(store, node)
    if as_json:
        _print_json(node=nodes.as_json(found))
    else:
        for title, text in nodes.as_lines(found):
            click.echo(f"{title:<18} {text}")


@_node.command("revoke")
@click.argument("node", metavar="NODE")
@_yes_option
@_json_option
@_config_option
def _node_revoke(node: str, yes: bool, as_json: bool, config: Path | None) -> None:
    """Put a node out, for good: at once in the cloud, within seconds at its peers."""
    with _open(config) as (site, store):
        found = nodes.find(store, node)
        _confirm(f"Put {found.name} out for good?", yes or found.revoked)
        outcome = nodes.revoke(site, store, found, time.time())
        _report(found.name, "revoked", outcome, nodes.names(store), as_json)


@_node.command("delete")
@click.argument("node", metavar="NODE")
@_yes_option
@_json_option
@_config_option
def _node_delete(node: str, yes: bool, as_json: bool, config: Path | None) -> None:
    """Put a node out and forget it.  Its name is free at once, its addresses after a day."""
    with _open(config) as (site, store):
        found = nodes.find(store, node)
        _confirm(f"Put {found.name} out and forget it?", yes)
        known = nodes.names(store)
        outcome = nodes.delete(site, store, found, time.time())
        _report(found.name, "deleted", outcome, known, as_json)


def _confirm(question: str, yes: bool) -> None:
    if not yes:
        click.confirm(question, abort=True, err=True)


def _report(name: str, done: str, outcome: Drive | None, known: dict[bytes, str], as_json: bool) -> None:
    """Say who has heard of it.  Ends with exit code 1 when a peer that is up has not."""

    def named(node_ids: frozenset[bytes]) -> list[str]:
        return sorted(known.get(node_id, node_id.hex()) for node_id in node_ids)

    lists = {key: named(getattr(outcome, key)) if outcome else [] for key in Drive._fields}
    if as_json:
        _print_json(node=name, done=done, told=outcome is not None, **lists)
    else:
        click.echo(f"{name}: {done}")
        if outcome is None:
            click.echo("  no frontend runs: its peers learn it when the cloud is up again", err=True)
        for title, key in (("dropped by", "acknowledged"), ("no answer from", "silent"), ("offline", "offline")):
            if lists[key]:
                click.echo(f"  {title}: {', '.join(lists[key])}")
    if [peer for peer in lists["silent"] if peer != name]:
        raise OperationalError(
            "not every peer has acknowledged within 10 s",
            "the cloud goes on telling them; see their cyphonic status",
        )
