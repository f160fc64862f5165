"""``cyphonic lab``: build a topology, run commands in it, take it down."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table

from cyphonic.lab.build import Lab, Terminated, termination_raises
from cyphonic.lab.demo import demo_console, run_demo
from cyphonic.lab.deployment import Deployment
from cyphonic.lab.namespace import Namespace
from cyphonic.lab.record import LabRecord, records, sweep
from cyphonic.lab.tools import LabError, require_tools, search_path
from cyphonic.lab.topology import load_topology, packaged


@click.group()
def group() -> None:
    """Build networks, NATs and nodes in namespaces; everything here needs root."""


@group.command()
@click.argument("topology")
@click.option("--deploy", is_flag=True, help="Run a cloud and join every node, too.")
def up(topology: str, deploy: bool) -> None:
    """Build TOPOLOGY (a TOML file, or the name of a packaged one) and leave it standing."""
    lab = Lab(load_topology(topology), keep=True)
    deployment = Deployment(lab) if deploy else None
    with termination_raises():
        lab.start()
        if deployment is not None:
            _deploy(lab, deployment)
    click.echo(f"{lab.record.id}: {', '.join(lab.names())}")
    command = "cyphonic status" if deploy else "ip address"
    host = deployment.nodes[0] if deployment is not None and deployment.nodes else lab.names()[0]
    click.echo(f"try: cyphonic lab exec {host} {command}; then: cyphonic lab down")


def _deploy(lab: Lab, deployment: Deployment) -> None:
    """Start everything, or take the lab down again."""
    try:
        deployment.start_cloud()
        deployment.join(*deployment.nodes)
    except BaseException:
        lab.close()
        raise


@group.command()
@click.argument("lab_id", metavar="[LAB]", required=False)
def down(lab_id: str | None) -> None:
    """Take down LAB, or every lab whose process no longer runs and every one made by `lab up`."""
    require_tools()
    gone = sweep()
    for record in [_find(lab_id)] if lab_id else [record for record in records() if record.owner == 0]:
        record.demolish()
        gone.append(record.id)
    click.echo(f"removed {', '.join(gone)}" if gone else "there is no lab")


@group.command("list")
def list_labs() -> None:
    """Show the labs on this machine, and the packaged topologies."""
    table = Table("lab", "topology", "owner", "hosts and routers")
    for record in records():
        owner = f"process {record.owner}{', gone' if record.abandoned else ''}" if record.owner else "lab up"
        table.add_row(record.id, record.topology, owner, " ".join(record.namespaces))
    console = Console()
    if table.row_count:
        console.print(table)
    else:
        console.print("no lab is up")
    console.print(f"packaged topologies: {', '.join(packaged())}")


@group.command("exec", context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
@click.option("--lab", "lab_id", help="Which lab; needed when there are several.")
@click.argument("host")
@click.argument("command", nargs=-1, required=True)
def execute(lab_id: str | None, host: str, command: tuple[str, ...]) -> None:
    """Run COMMAND on HOST, in the place of this process."""
    require_tools()
    record = _find(lab_id)
    if host not in record.namespaces:
        raise LabError(f"there is no {host!r} in {record.id}", f"it has {', '.join(record.namespaces)}")
    argv = Namespace(record.namespaces[host]).argv(command)
    # The ``cyphonic`` of this interpreter first: a checkout's virtual environment is seldom on root's PATH.
    path = os.pathsep.join([os.path.dirname(sys.executable), search_path()])
    environment = {**os.environ, **record.environments.get(host, {}), "PATH": path}
    os.execvpe(argv[0], argv, environment)


@group.command()
@click.option("--topology", default="demo", show_default=True, help="A TOML file or a packaged name.")
@click.option("--markdown", type=click.Path(path_type=Path), help="A file for the settled paths as a matrix.")
def demo(topology: str, markdown: Path | None) -> None:
    """Run a cloud and nodes, measure every ordered pair from cold, and leave nothing behind."""
    try:
        good = run_demo(demo_console(), topology, markdown)
    except Terminated as signal:
        sys.exit(128 + signal.args[0])
    sys.exit(0 if good else 1)


def _find(lab_id: str | None) -> LabRecord:
    """The lab of that id, or the only one; raise LabError."""
    found = [record for record in records() if lab_id in (None, record.id)]
    if len(found) == 1:
        return found[0]
    if not found:
        raise LabError(f"there is no lab {lab_id}" if lab_id else "there is no lab", "cyphonic lab up TOPOLOGY")
    raise LabError("there are several labs", f"choose one with --lab: {', '.join(record.id for record in found)}")
